use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;

use crate::types::{RecordPosition, SequenceNumber, Timestamp};

/// One record of a shard.
///
/// The payload and the partition key may share the memory of the response they came in.
/// A record that is kept long after its batch should be [detached](Record::detached).
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    position: RecordPosition,
    partition_key: Option<ByteString>,
    explicit_hash_key: Option<u128>,
    data: Bytes,
    arrived: Option<Timestamp>,
}

impl Record {
    /// A plain record without partition key, hash key or arrival time.
    #[inline]
    pub fn new(sequence: SequenceNumber, data: impl Into<Bytes>) -> Self {
        Self {
            position: RecordPosition::plain(sequence),
            partition_key: None,
            explicit_hash_key: None,
            data: data.into(),
            arrived: None,
        }
    }

    /// The record with this partition key.
    #[must_use]
    #[inline]
    pub fn with_partition_key(mut self, key: impl Into<ByteString>) -> Self {
        self.partition_key = Some(key.into());
        self
    }

    /// The record with this explicit hash key.
    #[must_use]
    pub fn with_explicit_hash_key(mut self, key: u128) -> Self {
        self.explicit_hash_key = Some(key);
        self
    }

    /// The record as part of an aggregated record, at this index.
    #[must_use]
    pub fn with_sub_sequence(mut self, sub_sequence: u64) -> Self {
        self.position.sub_sequence = sub_sequence;
        self
    }

    /// The record with the time at which the service received it.
    #[must_use]
    #[inline]
    pub fn with_arrival(mut self, arrived: Timestamp) -> Self {
        self.arrived = Some(arrived);
        self
    }

    /// The place of the record in its shard.
    pub fn position(&self) -> &RecordPosition {
        &self.position
    }

    /// The sequence number of the Kinesis record.
    pub fn sequence_number(&self) -> &SequenceNumber {
        &self.position.sequence
    }

    /// The index inside an aggregated Kinesis record; 0 for a plain one.
    pub fn sub_sequence_number(&self) -> u64 {
        self.position.sub_sequence
    }

    /// The partition key. Streams in on-demand mode with automatic distribution may carry records without one.
    pub fn partition_key(&self) -> Option<&str> {
        self.partition_key.as_deref()
    }

    /// The hash key that the producer gave explicitly, where the source shows it.
    pub fn explicit_hash_key(&self) -> Option<u128> {
        self.explicit_hash_key
    }

    /// The payload.
    #[inline]
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The bytes of payload and partition key, which is what Kinesis counts against its
    /// [limits](https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html).
    #[inline]
    pub fn size(&self) -> usize {
        self.data.len() + self.partition_key.as_ref().map_or(0, |key| key.len())
    }

    /// When the service received the record, by the service's clock and only approximately.
    pub fn approximate_arrival(&self) -> Option<Timestamp> {
        self.arrived
    }

    /// A copy that shares no memory with the response it came in.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self {
            position: self.position.detached(),
            partition_key: self.partition_key().map(ByteString::from),
            explicit_hash_key: self.explicit_hash_key,
            data: Bytes::copy_from_slice(&self.data),
            arrived: self.arrived,
        }
    }
}

/// Shows the size of the payload, never the payload: a record may end up in a log.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("position", &self.position)
            .field("bytes", &self.data.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_payload_nor_key_is_shown_by_debug() {
        let record = Record::new(SequenceNumber::from(1), "secret").with_partition_key("alice");
        let shown = format!("{record:?}");
        assert!(!shown.contains("secret") && !shown.contains("alice"), "{shown}");
    }

    #[test]
    fn a_detached_record_is_equal_and_shares_nothing() {
        let body = Bytes::from_static(b"0123456789");
        let record = Record::new(SequenceNumber::from(1), body.slice(2..4)).with_partition_key("k");
        let copy = record.detached();
        assert_eq!(copy, record);
        assert_ne!(copy.data().as_ptr(), record.data().as_ptr());
    }
}
