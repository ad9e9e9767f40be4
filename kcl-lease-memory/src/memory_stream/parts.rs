//! Where a stream is, how fast it is read, and what it shows of a shard.

use std::time::Duration;

use kcl_core::source::Shard;
use kcl_core::types::{SequenceNumber, ShardId, Timestamp};

/// Where a stream is said to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Home {
    pub(super) region: String,
    pub(super) account: String,
}

impl Default for Home {
    fn default() -> Self {
        Self {
            region: "us-east-1".to_owned(),
            account: "000000000000".to_owned(),
        }
    }
}

/// How the names of regions begin that are not in the partition `aws`, and their partitions.
const PARTITIONS: [(&str, &str); 7] = [
    ("cn-", "aws-cn"),
    ("us-gov-", "aws-us-gov"),
    ("us-iso-", "aws-iso"),
    ("us-isob-", "aws-iso-b"),
    ("eu-isoe-", "aws-iso-e"),
    ("us-isof-", "aws-iso-f"),
    ("eusc-", "aws-eusc"),
];

impl Home {
    pub(super) fn arn(&self, stream: &str) -> String {
        let mut partitions = PARTITIONS.into_iter();
        let partition = partitions.find(|(begin, _)| self.region.starts_with(begin));
        let partition = partition.map_or("aws", |(_, partition)| partition);
        let Self { region, account } = self;
        format!("arn:{partition}:kinesis:{region}:{account}:stream/{stream}")
    }
}

/// How long the stream asks a reader to wait between two fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// While there are unread records. Default: none.
    pub behind: Duration,
    /// Once the reader has caught up. Default: 200 ms, the shortest interval that the Java KCL allows.
    pub idle: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            behind: Duration::ZERO,
            idle: Duration::from_millis(200),
        }
    }
}

/// A shard as tests see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardSnapshot {
    /// The shard as a listing shows it.
    pub shard: Shard,
    /// The children of the shard.
    pub children: Vec<ShardId>,
    /// The last sequence number that it can hold, once it is closed.
    pub ending_sequence: Option<SequenceNumber>,
    /// When it began to take records, in the service's time.
    pub opened_at: Timestamp,
    /// When it stopped.
    pub closed_at: Option<Timestamp>,
    /// How many records retention has left.
    pub records_kept: usize,
    /// Whether it dropped out of the listing.
    pub forgotten: bool,
}
