//! User records that do not belong to the shard they were read from.

use std::ops::RangeInclusive;

use crate::admission::{Admission, Places};
use crate::aggregate::Aggregate;
use crate::record::{CorruptRecord, Cursor, UserRecord, UserRecords};
use crate::wire::Span;

/// Decides about an aggregated record with user records whose hash keys lie outside the shard.
///
/// The Kinesis Producer Library packs by the shards that it knows. When one of them was split meanwhile, the aggregated record
/// reaches one child, and the library sends the user records again that belong to the other. Other aggregators never send again.
/// So filtering avoids duplicates of the one kind of producer and loses records of the other; [`FilterRecords`](Self::FilterRecords)
/// loses none of the library's.
///
/// A user record that cannot be read lies nowhere: it is an error under each policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OutsideShard {
    /// Delivers none of the aggregate's user records, as the Java KCL does.
    ///
    /// Versions of the Kinesis Producer Library since August 2024 send only those again that lie outside, so the others are lost.
    FilterAggregate,
    /// Delivers the user records that lie inside and leaves out those outside.
    FilterRecords,
    /// Delivers all user records, which loses none of them whoever packed them, and repeats those that are sent again. The default.
    #[default]
    Deliver,
    /// Delivers nothing and reports an error.
    Fail,
}

impl Aggregate {
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
}

/// The user records of an aggregate that a shard delivers under a policy.
#[derive(Debug, Clone)]
pub struct Admitted<'a> {
    aggregate: &'a Aggregate,
    admission: Admission,
    outside: usize,
}

impl<'a> Admitted<'a> {
    pub(crate) fn new(
        aggregate: &'a Aggregate,
        shard: RangeInclusive<u128>,
        policy: OutsideShard,
    ) -> Result<Self, MisplacedRecords> {
        let mut places = Places::new(aggregate, shard);
        let outside = aggregate
            .stored()
            .filter(|stored| places.is_outside(stored))
            .count();
        let admission = match policy {
            _ if outside == 0 => Admission::All,
            OutsideShard::Deliver => Admission::All,
            OutsideShard::FilterAggregate => Admission::Nothing,
            OutsideShard::FilterRecords => Admission::Inside {
                partition_keys: places.partition_keys,
                hash_keys: places.hash_keys,
            },
            OutsideShard::Fail => {
                return Err(MisplacedRecords {
                    outside,
                    records: aggregate.len(),
                });
            }
        };
        Ok(Self {
            aggregate,
            admission,
            outside,
        })
    }

    /// How many user records lie outside the shard, under whatever policy.
    pub fn outside(&self) -> usize {
        self.outside
    }

    /// How many user records are withheld because of the policy. One that cannot be read never is.
    pub fn withheld(&self) -> usize {
        match self.admission {
            Admission::All => 0,
            Admission::Nothing => self.aggregate.records().filter(Result::is_ok).count(),
            Admission::Inside { .. } => self.outside,
        }
    }

    /// The user records to deliver, in their order. An item is an error where a single user record cannot be read.
    pub fn records(&self) -> UserRecords<'_> {
        self.aggregate.records().admitted(&self.admission)
    }

    /// Those of them after the one with this sub-sequence number: how a consumer goes on whose checkpoint is inside the aggregate.
    ///
    /// ```
    /// use kcl_aggregation::{Aggregator, OutsideShard, unpack};
    ///
    /// let mut aggregator = Aggregator::new();
    /// for data in ["one", "two", "three"] {
    ///     aggregator.add("truck-1", None, data.as_bytes())?;
    /// }
    /// let packed = aggregator.finish().expect("three records were added");
    /// let aggregate = unpack(&packed.data)?.expect("it is an aggregated record");
    ///
    /// let admitted = aggregate.admit(0..=u128::MAX, OutsideShard::FilterAggregate)?;
    /// let rest = admitted.records_after(0).collect::<Result<Vec<_>, _>>()?;
    /// assert_eq!(rest.iter().map(|record| record.sub_sequence_number).collect::<Vec<_>>(), [1, 2]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn records_after(&self, sub_sequence_number: u64) -> UserRecords<'_> {
        self.aggregate
            .records_after(sub_sequence_number)
            .admitted(&self.admission)
    }
}

/// The user records of an aggregate that are delivered, as an iterator that owns the aggregate: one that can be put aside between two
/// user records, which costs no memory for those to come.
///
/// ```
/// use kcl_aggregation::{Aggregator, OutsideShard, unpack};
///
/// let mut aggregator = Aggregator::new();
/// for data in ["one", "two", "three"] {
///     aggregator.add("truck-1", None, data.as_bytes())?;
/// }
/// let packed = aggregator.finish().expect("three records were added");
/// let aggregate = unpack(&packed.data)?.expect("it is an aggregated record");
///
/// let mut records = aggregate.into_records(None, OutsideShard::Deliver)?.after(0);
/// assert_eq!(records.next().unwrap()?.data, "two");
/// assert_eq!(records.left(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct OwnedRecords {
    aggregate: Aggregate,
    admission: Admission,
    cursor: Cursor,
    outside: usize,
    withheld: usize,
}

impl OwnedRecords {
    pub(crate) fn new(
        aggregate: Aggregate,
        shard: Option<RangeInclusive<u128>>,
        policy: OutsideShard,
    ) -> Result<Self, MisplacedRecords> {
        let (admission, outside, withheld) = match shard {
            Some(shard) => {
                let admitted = aggregate.admit(shard, policy)?;
                let withheld = admitted.withheld();
                (admitted.admission, admitted.outside, withheld)
            }
            None => (Admission::All, 0, 0),
        };
        Ok(Self {
            cursor: aggregate.records().cursor(),
            aggregate,
            admission,
            outside,
            withheld,
        })
    }

    /// Leaves out what is not behind the user record with this sub-sequence number, unless that is passed already.
    #[must_use]
    pub fn after(mut self, sub_sequence_number: u64) -> Self {
        let mut records = UserRecords::resumed(&self.aggregate, &self.admission, self.cursor);
        records.skip_through(sub_sequence_number);
        self.cursor = records.cursor();
        self
    }

    /// How many user records the aggregate has, readable or not.
    pub fn total(&self) -> usize {
        self.aggregate.len()
    }

    /// How many user records are left at most: those among them that are withheld are counted, too.
    pub fn left(&self) -> usize {
        let passed = usize::try_from(self.cursor.next).unwrap_or(usize::MAX);
        self.aggregate.len().saturating_sub(passed)
    }

    /// How many user records of the aggregate lie outside the shard; 0 where the shard is not known.
    pub fn outside(&self) -> usize {
        self.outside
    }

    /// How many user records of the aggregate are withheld because of the policy.
    pub fn withheld(&self) -> usize {
        self.withheld
    }

    /// How many bytes of memory this takes beside the Kinesis record.
    pub fn overhead(&self) -> usize {
        let keys = self.aggregate.partition_keys().len() + self.aggregate.hash_keys().len();
        let places = match &self.admission {
            Admission::All | Admission::Nothing => 0,
            Admission::Inside { .. } => keys,
        };
        keys * size_of::<Span>() + places
    }
}

impl Iterator for OwnedRecords {
    type Item = Result<UserRecord, CorruptRecord>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let mut records = UserRecords::resumed(&self.aggregate, &self.admission, self.cursor);
        let record = records.next();
        self.cursor = records.cursor();
        record
    }
}

/// An aggregated record has user records that lie outside the shard, and the policy is to fail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{outside} of the {records} user records of an aggregated record have hash keys outside the shard they were read from"
)]
#[non_exhaustive]
pub struct MisplacedRecords {
    /// How many user records lie outside.
    pub outside: usize,
    /// How many the aggregated record has.
    pub records: usize,
}
