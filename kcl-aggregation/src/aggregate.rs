//! The message of an aggregated record: two tables of keys, and user records that point into them.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;

use crate::hash_key::{hash_key_of, parse_hash_key};
use crate::stored::{Keys, Problem, Stored, StoredRecords};
use crate::wire::{CorruptAggregate, Fields, Span, Value, field};

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

    pub(crate) fn stored(&self) -> StoredRecords<'_> {
        StoredRecords {
            data: &self.data,
            fields: Fields::new(&self.data, self.message),
        }
    }

    /// Where the keys of a user record stand in the tables.
    #[inline]
    pub(crate) fn keys_of(&self, stored: &Stored) -> Result<Keys, Problem> {
        stored.keys(&self.partition_keys, &self.hash_keys)
    }

    /// The text of a partition key.
    #[inline]
    pub(crate) fn partition_key(&self, index: usize) -> ByteString {
        let key = self.data.slice(self.partition_keys[index].range());
        ByteString::try_from(key).unwrap_or_else(|_| {
            String::from_utf8_lossy(self.partition_key_bytes(index))
                .into_owned()
                .into()
        })
    }

    fn partition_key_bytes(&self, index: usize) -> &[u8] {
        &self.data[self.partition_keys[index].range()]
    }

    /// The hash key of a partition key in the table.
    pub(crate) fn hash_of_partition_key(&self, index: usize) -> u128 {
        hash_key_of(&String::from_utf8_lossy(self.partition_key_bytes(index)))
    }

    /// An explicit hash key of the table; `None` if it is no number that a hash key can be.
    pub(crate) fn explicit_hash_key(&self, index: usize) -> Option<u128> {
        parse_hash_key(&self.data[self.hash_keys[index].range()])
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
