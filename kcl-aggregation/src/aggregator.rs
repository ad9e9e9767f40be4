//! Packing user records, for generators and tests.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use crate::envelope::{OVERHEAD, pack};
use crate::hash_key::hash_key_of;
use crate::wire::{bytes_field_len, field, put_bytes_field, put_length, put_varint_field, varint_len};

/// The most bytes of one Kinesis record, data and partition key together, that every stream takes.
///
/// [PutRecord](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecord.html) allows 1 MiB unless the stream is set
/// to take more.
const DEFAULT_LIMIT: usize = 1 << 20;

/// The most characters of a partition key, as in the Kinesis API.
const LONGEST_KEY: usize = 256;

/// Packs user records into aggregated records, with each key written once.
///
/// One user record is packed too, as the `aws-kinesis-agg` libraries do; the Kinesis Producer Library would send it plain.
///
/// ```
/// use kcl_aggregation::Aggregator;
///
/// let mut aggregator = Aggregator::with_limit(1_000);
/// let mut packed = Vec::new();
/// for number in 0..20 {
///     // What is full comes out when a record comes that does not fit any more.
///     packed.extend(aggregator.add(&format!("truck-{number}"), None, &[0; 90])?);
/// }
/// packed.extend(aggregator.finish());
/// assert_eq!(packed.len(), 3);
/// assert!(packed.iter().all(|record| record.data.len() <= 1_000));
/// # Ok::<(), kcl_aggregation::InvalidUserRecord>(())
/// ```
pub struct Aggregator {
    limit: usize,
    open: Open,
}

/// An aggregated record to be put into a stream.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Packed {
    /// The partition key to put it with: that of the first user record.
    pub partition_key: String,
    /// The explicit hash key to put it with: that of the first user record.
    pub explicit_hash_key: Option<u128>,
    /// The data.
    pub data: Bytes,
    /// How many user records are in it, at least one.
    pub records: usize,
}

impl Packed {
    /// The hash key by which it reaches a shard: that of the first user record.
    pub fn hash_key(&self) -> u128 {
        self.explicit_hash_key
            .unwrap_or_else(|| hash_key_of(&self.partition_key))
    }
}

/// Shows sizes, never contents: it may end up in a log.
impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packed")
            .field("records", &self.records)
            .field("bytes", &self.data.len())
            .finish_non_exhaustive()
    }
}

/// The user record cannot be put into an aggregated record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidUserRecord {
    /// The partition key is empty or longer than Kinesis takes.
    #[error("a partition key has 1 to 256 characters, and this one {0}")]
    PartitionKey(usize),
    /// Alone in an aggregated record it would be over the limit.
    #[error("packed alone, the user record makes {0} bytes, more than the limit of {1}")]
    TooLarge(usize, usize),
}

impl Aggregator {
    /// Packs up to 1 MiB of data and partition key, which every stream takes.
    pub fn new() -> Self {
        Self::with_limit(DEFAULT_LIMIT)
    }

    /// Packs up to this many bytes of data and partition key.
    pub fn with_limit(bytes: usize) -> Self {
        Self {
            limit: bytes,
            open: Open::default(),
        }
    }

    /// Adds a user record. When it does not fit any more, what was there before is packed and returned.
    ///
    /// # Errors
    ///
    /// When the partition key does not have 1 to 256 characters, or the record alone is over the limit. Then nothing has changed.
    pub fn add(
        &mut self,
        partition_key: &str,
        explicit_hash_key: Option<u128>,
        data: &[u8],
    ) -> Result<Option<Packed>, InvalidUserRecord> {
        let characters = partition_key.chars().count();
        if !(1..=LONGEST_KEY).contains(&characters) {
            return Err(InvalidUserRecord::PartitionKey(characters));
        }
        let mut full = None;
        if self.open.size_with(partition_key, explicit_hash_key, data) > self.limit {
            let alone = Open::default().size_with(partition_key, explicit_hash_key, data);
            if alone > self.limit {
                return Err(InvalidUserRecord::TooLarge(alone, self.limit));
            }
            full = self.finish();
        }
        self.open.push(partition_key, explicit_hash_key, data);
        Ok(full)
    }

    /// Packs what was added since the last one, if anything was.
    pub fn finish(&mut self) -> Option<Packed> {
        std::mem::take(&mut self.open).pack()
    }
}

impl Default for Aggregator {
    fn default() -> Self {
        Self::new()
    }
}

/// Shows sizes, never contents: it may end up in a log.
impl fmt::Debug for Aggregator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aggregator")
            .field("limit", &self.limit)
            .field("records", &self.open.count)
            .finish_non_exhaustive()
    }
}

/// An aggregated record that grows: the parts of its message as they will stand in it.
#[derive(Default)]
struct Open {
    first: Option<(String, Option<u128>)>,
    partition_keys: BTreeMap<String, u64>,
    hash_keys: BTreeMap<u128, u64>,
    partition_key_table: Vec<u8>,
    hash_key_table: Vec<u8>,
    records: Vec<u8>,
    count: usize,
}

impl Open {
    /// Data and partition key of the Kinesis record, if this user record were added.
    fn size_with(&self, partition_key: &str, hash_key: Option<u128>, data: &[u8]) -> usize {
        let first = self.first.as_ref().map_or(partition_key, |(key, _)| key);
        let so_far = self.partition_key_table.len() + self.hash_key_table.len() + self.records.len();
        let mut size = first.len() + OVERHEAD + so_far;
        if !self.partition_keys.contains_key(partition_key) {
            size += bytes_field_len(partition_key.len());
        }
        if let Some(key) = hash_key.filter(|key| !self.hash_keys.contains_key(key)) {
            size += bytes_field_len(key.to_string().len());
        }
        let (key_index, hash_index) = self.indices(partition_key, hash_key);
        size + bytes_field_len(record_len(key_index, hash_index, data))
    }

    /// The indices of the keys: those they have, or those they would get.
    fn indices(&self, partition_key: &str, hash_key: Option<u128>) -> (u64, Option<u64>) {
        let next = self.partition_keys.len() as u64;
        let key_index = self.partition_keys.get(partition_key).copied().unwrap_or(next);
        let next = self.hash_keys.len() as u64;
        let hash_index = hash_key.map(|key| self.hash_keys.get(&key).copied().unwrap_or(next));
        (key_index, hash_index)
    }

    fn push(&mut self, partition_key: &str, hash_key: Option<u128>, data: &[u8]) {
        let (key_index, hash_index) = self.indices(partition_key, hash_key);
        if !self.partition_keys.contains_key(partition_key) {
            self.partition_keys.insert(partition_key.to_owned(), key_index);
            put_bytes_field(
                &mut self.partition_key_table,
                field::PARTITION_KEY,
                partition_key.as_bytes(),
            );
        }
        if let (Some(key), Some(index)) = (hash_key, hash_index)
            && self.hash_keys.insert(key, index).is_none()
        {
            let text = key.to_string();
            put_bytes_field(
                &mut self.hash_key_table,
                field::EXPLICIT_HASH_KEY,
                text.as_bytes(),
            );
        }
        put_length(
            &mut self.records,
            field::RECORD,
            record_len(key_index, hash_index, data),
        );
        put_varint_field(&mut self.records, 1, key_index);
        if let Some(index) = hash_index {
            put_varint_field(&mut self.records, 2, index);
        }
        put_bytes_field(&mut self.records, 3, data);
        self.first
            .get_or_insert_with(|| (partition_key.to_owned(), hash_key));
        self.count += 1;
    }

    fn pack(self) -> Option<Packed> {
        let (partition_key, explicit_hash_key) = self.first?;
        Some(Packed {
            partition_key,
            explicit_hash_key,
            data: pack(&[&self.partition_key_table, &self.hash_key_table, &self.records]),
            records: self.count,
        })
    }
}

fn record_len(key_index: u64, hash_index: Option<u64>, data: &[u8]) -> usize {
    let index_len = |index| 1 + varint_len(index);
    index_len(key_index) + hash_index.map_or(0, index_len) + bytes_field_len(data.len())
}
