use std::fmt;

/// An operation of Kinesis that the server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Makes a stream.
    CreateStream,
    /// Takes a stream away.
    DeleteStream,
    /// Ends the registration of a consumer.
    DeregisterStreamConsumer,
    /// Describes a stream with its shards.
    DescribeStream,
    /// Describes a consumer.
    DescribeStreamConsumer,
    /// Describes a stream without its shards.
    DescribeStreamSummary,
    /// Reads a shard at an iterator.
    GetRecords,
    /// Gets an iterator.
    GetShardIterator,
    /// Lists the shards of a stream.
    ListShards,
    /// Lists the consumers of a stream.
    ListStreamConsumers,
    /// Lists the streams.
    ListStreams,
    /// Merges two adjacent shards.
    MergeShards,
    /// Puts one record.
    PutRecord,
    /// Puts up to 500 records.
    PutRecords,
    /// Registers a consumer for enhanced fan-out.
    RegisterStreamConsumer,
    /// Splits a shard.
    SplitShard,
    /// Opens a subscription of a consumer to a shard.
    SubscribeToShard,
}

const ALL: &[Operation] = &[
    Operation::CreateStream,
    Operation::DeleteStream,
    Operation::DeregisterStreamConsumer,
    Operation::DescribeStream,
    Operation::DescribeStreamConsumer,
    Operation::DescribeStreamSummary,
    Operation::GetRecords,
    Operation::GetShardIterator,
    Operation::ListShards,
    Operation::ListStreamConsumers,
    Operation::ListStreams,
    Operation::MergeShards,
    Operation::PutRecord,
    Operation::PutRecords,
    Operation::RegisterStreamConsumer,
    Operation::SplitShard,
    Operation::SubscribeToShard,
];

impl Operation {
    /// The operation that the header `x-amz-target` names.
    pub(super) fn of_target(target: &str) -> Option<Self> {
        let name = target.strip_prefix("Kinesis_20131202.")?;
        ALL.iter()
            .copied()
            .find(|operation| operation.to_string() == name)
    }

    /// Whether its calls are counted for each stream, instead of for the account.
    pub(super) fn is_limited_per_stream(self) -> bool {
        matches!(
            self,
            Self::DescribeStreamConsumer | Self::ListShards | Self::ListStreamConsumers
        )
    }

    /// Whether the throughput of shards limits it, rather than a rate of calls.
    pub(super) fn moves_records(self) -> bool {
        matches!(
            self,
            Self::GetRecords | Self::GetShardIterator | Self::PutRecord | Self::PutRecords
        )
    }
}

/// The name that the API reference gives it.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
