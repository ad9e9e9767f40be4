//! The user records of an aggregate, one after the other.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;

use crate::admission::Admission;
use crate::aggregate::Aggregate;
use crate::hash_key::hash_key_of;
use crate::stored::{Problem, Stored, StoredRecords};

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

impl Aggregate {
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

    #[inline]
    fn user_record(&self, stored: Stored, sub_sequence_number: u64) -> Result<UserRecord, Problem> {
        let keys = self.keys_of(&stored)?;
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

    #[inline]
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
