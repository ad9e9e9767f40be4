//! The user records of an aggregate, one after the other.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;

use crate::aggregate::{Aggregate, field};
use crate::hash_key::{hash_key_of, parse_hash_key};
use crate::shard::Admission;
use crate::wire::{CorruptAggregate, Fields, Span, Value};

/// One user record of an aggregated record.
///
/// Data and partition key share the memory of the Kinesis record and keep the whole record alive.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserRecord {
    /// The index in the aggregated record, from 0. Records that were filtered or could not be read have one too.
    pub sub_sequence_number: u64,
    /// The partition key. Bytes that are not UTF-8 are replaced by U+FFFD, as in the Java KCL.
    pub partition_key: ByteString,
    /// The hash key that the producer gave explicitly. Many aggregators always write one.
    pub explicit_hash_key: Option<u128>,
    /// Whether the producer gave an explicit hash key that is no number from 0 to 2¹²⁸ − 1. It is read as absent.
    pub has_invalid_hash_key: bool,
    /// The payload.
    pub data: Bytes,
}

impl UserRecord {
    /// The hash key by which the record belongs to a shard: the explicit one, else that of the partition key.
    pub fn hash_key(&self) -> u128 {
        self.explicit_hash_key
            .unwrap_or_else(|| hash_key_of(&self.partition_key))
    }
}

/// Shows the size of the payload, never the payload nor the key: a record may end up in a log.
impl fmt::Debug for UserRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserRecord")
            .field("sub_sequence_number", &self.sub_sequence_number)
            .field("bytes", &self.data.len())
            .finish_non_exhaustive()
    }
}

/// A single user record of an aggregate cannot be read. Its neighbours can.
///
/// The Java KCL drops such a user record and all that follow it in the aggregate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("corrupt user record at index {sub_sequence_number} of an aggregated record: {problem}")]
#[non_exhaustive]
pub struct CorruptRecord {
    /// The index of the user record in the aggregated record, from 0.
    pub sub_sequence_number: u64,
    problem: Problem,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("partition key {index} is not in the table of {keys}")]
    PartitionKeyIndex { index: u64, keys: usize },
    #[error("explicit hash key {index} is not in the table of {keys}")]
    HashKeyIndex { index: u64, keys: usize },
}

/// A user record as it stands in the message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    partition_key: u64,
    hash_key: Option<u64>,
    data: Span,
}

/// Where the keys of a user record stand in the tables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keys {
    pub(crate) partition_key: usize,
    pub(crate) hash_key: Option<usize>,
}

impl Stored {
    const PARTITION_KEY_INDEX: u32 = 1;
    const HASH_KEY_INDEX: u32 = 2;
    const DATA: u32 = 3;
    const TAG: u32 = 4;
    const KEY_OF_TAG: u32 = 1;

    #[inline]
    pub(crate) fn parse(data: &[u8], record: Span) -> Result<Self, CorruptAggregate> {
        let (mut partition_key, mut hash_key, mut payload) = (None, None, None);
        let mut fields = Fields::new(data, record);
        while let Some(field) = fields.next()? {
            match field {
                (Self::PARTITION_KEY_INDEX, Value::Varint(index)) => partition_key = Some(index),
                (Self::HASH_KEY_INDEX, Value::Varint(index)) => hash_key = Some(index),
                (Self::DATA, Value::Bytes(span)) => payload = Some(span),
                (Self::TAG, Value::Bytes(tag)) => Self::check_tag(data, tag)?,
                _ => {}
            }
        }
        let missing = |problem| CorruptAggregate::new(problem, record.range().start);
        Ok(Self {
            partition_key: partition_key.ok_or(missing("a user record has no partition key index"))?,
            hash_key,
            data: payload.ok_or(missing("a user record has no data"))?,
        })
    }

    /// No producer uses tags, but a message with a tag that has no key does not parse.
    #[cold]
    fn check_tag(data: &[u8], tag: Span) -> Result<(), CorruptAggregate> {
        let mut fields = Fields::new(data, tag);
        let mut has_key = false;
        while let Some(field) = fields.next()? {
            has_key |= matches!(field, (Self::KEY_OF_TAG, Value::Bytes(_)));
        }
        let missing = CorruptAggregate::new("a tag has no key", tag.range().start);
        has_key.then_some(()).ok_or(missing)
    }

    #[inline]
    pub(crate) fn keys(&self, aggregate: &Aggregate) -> Result<Keys, Problem> {
        let find = |index: u64, table: &[Span]| java_index(index).filter(|at| *at < table.len());
        let keys = aggregate.partition_keys();
        let partition_key = find(self.partition_key, keys).ok_or(Problem::PartitionKeyIndex {
            index: self.partition_key,
            keys: keys.len(),
        })?;
        let keys = aggregate.hash_keys();
        let in_table = |index| {
            find(index, keys).ok_or(Problem::HashKeyIndex {
                index,
                keys: keys.len(),
            })
        };
        Ok(Keys {
            partition_key,
            hash_key: self.hash_key.map(in_table).transpose()?,
        })
    }
}

/// Java casts an index to 32 bits with a sign, so 2³² is 0.
fn java_index(index: u64) -> Option<usize> {
    usize::try_from(index as u32 as i32).ok()
}

impl Aggregate {
    pub(crate) fn stored(&self) -> StoredRecords<'_> {
        StoredRecords {
            data: self.data(),
            fields: self.fields(),
        }
    }

    /// The text of a partition key.
    fn partition_key(&self, index: usize) -> ByteString {
        let key = self.data().slice(self.partition_keys()[index].range());
        ByteString::try_from(key).unwrap_or_else(|_| {
            String::from_utf8_lossy(self.partition_key_bytes(index))
                .into_owned()
                .into()
        })
    }

    fn partition_key_bytes(&self, index: usize) -> &[u8] {
        &self.data()[self.partition_keys()[index].range()]
    }

    /// The hash key of a partition key in the table.
    pub(crate) fn hash_of_partition_key(&self, index: usize) -> u128 {
        hash_key_of(&String::from_utf8_lossy(self.partition_key_bytes(index)))
    }

    /// An explicit hash key of the table; `None` if it is no number that a hash key can be.
    pub(crate) fn explicit_hash_key(&self, index: usize) -> Option<u128> {
        parse_hash_key(&self.data()[self.hash_keys()[index].range()])
    }

    fn user_record(&self, stored: Stored, sub_sequence_number: u64) -> Result<UserRecord, Problem> {
        let keys = stored.keys(self)?;
        let explicit = keys.hash_key.map(|index| self.explicit_hash_key(index));
        Ok(UserRecord {
            sub_sequence_number,
            explicit_hash_key: explicit.flatten(),
            has_invalid_hash_key: explicit == Some(None),
            partition_key: self.partition_key(keys.partition_key),
            data: self.data().slice(stored.data.range()),
        })
    }
}

/// Walks over the records of a message that was parsed before.
#[derive(Debug, Clone)]
pub(crate) struct StoredRecords<'a> {
    data: &'a [u8],
    fields: Fields<'a>,
}

impl Iterator for StoredRecords<'_> {
    type Item = Stored;

    #[inline]
    fn next(&mut self) -> Option<Stored> {
        loop {
            // It has parsed once, so it parses.
            let (number, value) = self.fields.next().ok()??;
            match value {
                Value::Bytes(record) if number == field::RECORD.into() => {
                    return Stored::parse(self.data, record).ok();
                }
                Value::Bytes(_) | Value::Varint(_) | Value::Other => {}
            }
        }
    }
}

/// Where a walk over the records of an aggregate stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor {
    /// In the bytes of the Kinesis record.
    at: usize,
    /// The index of the next user record.
    pub(crate) next: u64,
}

/// The user records of an aggregate in their order; an error in the place of one that cannot be read.
#[derive(Clone)]
pub struct UserRecords<'a> {
    aggregate: &'a Aggregate,
    stored: StoredRecords<'a>,
    next: u64,
    after: Option<u64>,
    admission: Option<&'a Admission>,
}

impl<'a> UserRecords<'a> {
    pub(crate) fn new(aggregate: &'a Aggregate, after: Option<u64>) -> Self {
        Self {
            aggregate,
            stored: aggregate.stored(),
            next: 0,
            after,
            admission: None,
        }
    }

    pub(crate) fn admitted(self, admission: &'a Admission) -> Self {
        Self {
            admission: Some(admission),
            ..self
        }
    }

    /// Goes on where another walk over the same aggregate stopped.
    pub(crate) fn resumed(aggregate: &'a Aggregate, admission: &'a Admission, cursor: Cursor) -> Self {
        let mut fields = aggregate.fields();
        fields.seek(cursor.at);
        Self {
            aggregate,
            stored: StoredRecords {
                data: aggregate.data(),
                fields,
            },
            next: cursor.next,
            after: None,
            admission: Some(admission),
        }
    }

    /// Passes over the user records up to and including this one.
    pub(crate) fn skip_through(&mut self, sub_sequence_number: u64) {
        while self.next <= sub_sequence_number && self.stored.next().is_some() {
            self.next += 1;
        }
    }

    pub(crate) fn cursor(&self) -> Cursor {
        Cursor {
            at: self.stored.fields.at(),
            next: self.next,
        }
    }

    fn is_withheld(&self, stored: &Stored) -> bool {
        self.admission
            .is_some_and(|admission| admission.withholds(self.aggregate, stored))
    }
}

impl Iterator for UserRecords<'_> {
    type Item = Result<UserRecord, CorruptRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let stored = self.stored.next()?;
            let sub_sequence_number = self.next;
            self.next += 1;
            if self.after.is_some_and(|after| sub_sequence_number <= after) {
                continue;
            }
            match self.aggregate.user_record(stored, sub_sequence_number) {
                Ok(_) if self.is_withheld(&stored) => {}
                Ok(record) => return Some(Ok(record)),
                Err(problem) => {
                    return Some(Err(CorruptRecord {
                        sub_sequence_number,
                        problem,
                    }));
                }
            }
        }
    }
}

/// Shows how far it is, never contents.
impl fmt::Debug for UserRecords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserRecords")
            .field("aggregate", self.aggregate)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}
