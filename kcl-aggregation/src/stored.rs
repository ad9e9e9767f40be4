//! A user record as it stands in the message: the indices of its keys, and its data.

use crate::wire::{CorruptAggregate, Fields, Span, Value, field, short_varint};

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
    pub(crate) data: Span,
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

    #[inline(always)]
    pub(crate) fn parse(data: &[u8], record: Span) -> Result<Self, CorruptAggregate> {
        match Self::parse_usual(data, record) {
            Some(stored) => Ok(stored),
            None => Self::parse_any(data, record),
        }
    }

    /// Reads the layout that producers write: each field once, in the order of the numbers, and no tags. Returns `None` for any other.
    #[inline(always)]
    fn parse_usual(data: &[u8], record: Span) -> Option<Self> {
        let rest = data.get(record.range())?.strip_prefix(&[0x08])?;
        let (partition_key, size) = short_varint(rest)?;
        let mut rest = &rest[size..];
        let mut hash_key = None;
        if let Some(behind) = rest.strip_prefix(&[0x10]) {
            let (index, size) = short_varint(behind)?;
            hash_key = Some(u64::from(index));
            rest = &behind[size..];
        }
        let rest = rest.strip_prefix(&[0x1a])?;
        let (length, size) = short_varint(rest)?;
        if length as usize != rest.len() - size {
            return None;
        }
        let end = record.range().end;
        Some(Self {
            partition_key: partition_key.into(),
            hash_key,
            data: Span::new(end - length as usize..end)?,
        })
    }

    #[inline(never)]
    fn parse_any(data: &[u8], record: Span) -> Result<Self, CorruptAggregate> {
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
    pub(crate) fn keys(&self, partition_keys: &[Span], hash_keys: &[Span]) -> Result<Keys, Problem> {
        let find = |index: u64, table: &[Span]| java_index(index).filter(|at| *at < table.len());
        let partition_key = find(self.partition_key, partition_keys).ok_or(Problem::PartitionKeyIndex {
            index: self.partition_key,
            keys: partition_keys.len(),
        })?;
        let in_table = |index| {
            find(index, hash_keys).ok_or(Problem::HashKeyIndex {
                index,
                keys: hash_keys.len(),
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

/// Walks over the records of a message that was parsed before.
#[derive(Debug, Clone)]
pub(crate) struct StoredRecords<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) fields: Fields<'a>,
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
