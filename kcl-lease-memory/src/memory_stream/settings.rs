//! The settings of a stream, independent of its records.

use std::time::Duration;

/// The owner of the number of shards: the user or the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StreamMode {
    /// The user does.
    #[default]
    Provisioned,
    /// Kinesis does. [`MemoryStream`](super::MemoryStream) changes nothing by itself.
    OnDemand,
}

/// How records are assigned to shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecordDistribution {
    /// By the explicit hash key, or the MD5 of the partition key.
    #[default]
    ByPartitionKey,
    /// The open shards take turns, whatever the keys of the record. A key may be absent.
    Automatic,
}

/// The settings of a stream. They stay when the stream is [created again](super::MemoryStream::recreate).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StreamSettings {
    /// After how long a record is removed, and a closed shard with its last record. Default: `None`, only
    /// [`trim`](super::MemoryStream::trim) removes records. Kinesis allows 24 hours to 365 days.
    pub retention: Option<Duration>,
    /// Default: provisioned.
    pub mode: StreamMode,
    /// Default: by partition key.
    pub distribution: RecordDistribution,
    /// The largest record in KiB, its partition key included. Default: `None`, which the wire server takes for the 1024 of
    /// Kinesis. A stream in memory takes any record; the server checks what clients put.
    pub max_record_kib: Option<u32>,
}
