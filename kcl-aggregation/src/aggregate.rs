//! The message of an aggregated record: two tables of keys, and user records that point into them.

use std::fmt;
use std::ops::RangeInclusive;

use bytes::Bytes;

use crate::record::{Stored, UserRecords};
use crate::shard::{Admitted, MisplacedRecords, OutsideShard, OwnedRecords};
use crate::wire::{CorruptAggregate, Fields, Span, Value};

/// The numbers of the fields of the message.
pub(crate) mod field {
    pub(crate) const PARTITION_KEY: u8 = 1;
    pub(crate) const EXPLICIT_HASH_KEY: u8 = 2;
    pub(crate) const RECORD: u8 = 3;
}

/// An aggregated record whose message was parsed.
///
/// It shares the memory of the Kinesis record. It allocates two tables of eight bytes per key, however many user records
/// there are.
#[derive(Clone)]
pub struct Aggregate {
    data: Bytes,
    message: Span,
    partition_keys: Vec<Span>,
    hash_keys: Vec<Span>,
    records: usize,
}

impl Aggregate {
    /// Reads a bare message: the inside of an aggregated record, without magic bytes and MD5.
    ///
    /// For whoever has checked the envelope elsewhere; [`unpack`](crate::unpack) is the usual way.
    ///
    /// # Errors
    ///
    /// When the message cannot be parsed.
    pub fn from_message(message: Bytes) -> Result<Self, CorruptAggregate> {
        let too_long = CorruptAggregate::new("the message is too long", 0);
        let span = Span::new(0..message.len()).ok_or(too_long)?;
        Self::parse(message, span)
    }

    /// Reads all of the message once: the tables may stand after the records, and what parses is decided for the whole.
    pub(crate) fn parse(data: Bytes, message: Span) -> Result<Self, CorruptAggregate> {
        let (mut partition_keys, mut hash_keys, mut records) = (Vec::new(), Vec::new(), 0);
        let mut fields = Fields::new(&data, message);
        while let Some((number, value)) = fields.next()? {
            let Value::Bytes(span) = value else { continue };
            match u8::try_from(number) {
                Ok(field::PARTITION_KEY) => partition_keys.push(span),
                Ok(field::EXPLICIT_HASH_KEY) => hash_keys.push(span),
                Ok(field::RECORD) => {
                    Stored::parse(&data, span)?;
                    records += 1;
                }
                _ => {}
            }
        }
        Ok(Self {
            data,
            message,
            partition_keys,
            hash_keys,
            records,
        })
    }

    /// How many user records there are, readable or not.
    pub fn len(&self) -> usize {
        self.records
    }

    /// Whether there are none, which is no error: such a record yields nothing.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// All user records in their order, whatever their hash keys.
    ///
    /// An item is an error where a single user record cannot be read.
    pub fn records(&self) -> UserRecords<'_> {
        UserRecords::new(self, None)
    }

    /// The user records after the one with this sub-sequence number: how a consumer goes on whose checkpoint is inside the aggregate.
    pub fn records_after(&self, sub_sequence_number: u64) -> UserRecords<'_> {
        UserRecords::new(self, Some(sub_sequence_number))
    }

    /// The user records that a shard may deliver under this policy, and how many lie outside the shard.
    ///
    /// `shard` are the first and last hash key of the shard, both included. Where they are not known, leave this out and take
    /// [`records`](Self::records): so does the Java KCL.
    ///
    /// # Errors
    ///
    /// Under [`OutsideShard::Fail`], when at least one user record lies outside the shard.
    ///
    /// ```
    /// use kcl_aggregation::{Aggregator, OutsideShard, unpack};
    ///
    /// let mut aggregator = Aggregator::new();
    /// aggregator.add("truck-1", Some(5), b"north")?;
    /// aggregator.add("truck-2", Some(25), b"south")?;
    /// let packed = aggregator.finish().expect("two records were added");
    /// let aggregate = unpack(&packed.data)?.expect("it is an aggregated record");
    ///
    /// let admitted = aggregate.admit(0..=9, OutsideShard::FilterRecords)?;
    /// assert_eq!(admitted.outside(), 1);
    /// let keys: Vec<_> = admitted.records().map(|record| record.unwrap().explicit_hash_key).collect();
    /// assert_eq!(keys, [Some(5)]);
    ///
    /// assert!(aggregate.admit(0..=9, OutsideShard::Fail).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn admit(
        &self,
        shard: RangeInclusive<u128>,
        policy: OutsideShard,
    ) -> Result<Admitted<'_>, MisplacedRecords> {
        Admitted::new(self, shard, policy)
    }

    /// The same as an iterator that owns the aggregate, to go on later. Without `shard` every user record is delivered.
    ///
    /// # Errors
    ///
    /// As [`admit`](Self::admit).
    pub fn into_records(
        self,
        shard: Option<RangeInclusive<u128>>,
        policy: OutsideShard,
    ) -> Result<OwnedRecords, MisplacedRecords> {
        OwnedRecords::new(self, shard, policy)
    }

    pub(crate) fn fields(&self) -> Fields<'_> {
        Fields::new(&self.data, self.message)
    }

    /// All of the Kinesis record, into which spans point.
    pub(crate) fn data(&self) -> &Bytes {
        &self.data
    }

    pub(crate) fn partition_keys(&self) -> &[Span] {
        &self.partition_keys
    }

    pub(crate) fn hash_keys(&self) -> &[Span] {
        &self.hash_keys
    }
}

/// Shows sizes, never contents: it may end up in a log.
impl fmt::Debug for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aggregate")
            .field("records", &self.records)
            .field("bytes", &self.message.range().len())
            .finish_non_exhaustive()
    }
}
