use std::fmt;

/// An operation of Kinesis that the server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Adds tags to a stream, or changes them.
    AddTagsToStream,
    /// Makes a stream.
    CreateStream,
    /// Shortens the retention of a stream.
    DecreaseStreamRetentionPeriod,
    /// Takes the policy of a stream or consumer away.
    DeleteResourcePolicy,
    /// Takes a stream away.
    DeleteStream,
    /// Ends the registration of a consumer.
    DeregisterStreamConsumer,
    /// Reports the account's commitment to a minimum throughput.
    DescribeAccountSettings,
    /// Says how many shards the account has and may have.
    DescribeLimits,
    /// Describes a stream with its shards.
    DescribeStream,
    /// Describes a consumer.
    DescribeStreamConsumer,
    /// Describes a stream without its shards.
    DescribeStreamSummary,
    /// Switches metrics of single shards off.
    DisableEnhancedMonitoring,
    /// Switches metrics of single shards on.
    EnableEnhancedMonitoring,
    /// Reads a shard at an iterator.
    GetRecords,
    /// Gets the policy of a stream or consumer.
    GetResourcePolicy,
    /// Gets an iterator.
    GetShardIterator,
    /// Lengthens the retention of a stream.
    IncreaseStreamRetentionPeriod,
    /// Lists the shards of a stream.
    ListShards,
    /// Lists the consumers of a stream.
    ListStreamConsumers,
    /// Lists the streams.
    ListStreams,
    /// Lists the tags of a stream or consumer.
    ListTagsForResource,
    /// Lists the tags of a stream.
    ListTagsForStream,
    /// Merges two adjacent shards.
    MergeShards,
    /// Puts one record.
    PutRecord,
    /// Puts up to 500 records.
    PutRecords,
    /// Stores a policy for a stream or consumer.
    PutResourcePolicy,
    /// Registers a consumer for enhanced fan-out.
    RegisterStreamConsumer,
    /// Takes tags from a stream.
    RemoveTagsFromStream,
    /// Splits a shard.
    SplitShard,
    /// Switches encryption on.
    StartStreamEncryption,
    /// Switches encryption off.
    StopStreamEncryption,
    /// Opens a subscription of a consumer to a shard.
    SubscribeToShard,
    /// Adds tags to a stream or consumer, or changes them.
    TagResource,
    /// Takes tags from a stream or consumer.
    UntagResource,
    /// Begins or ends a commitment to a minimum throughput.
    UpdateAccountSettings,
    /// Changes the largest record that a stream takes.
    UpdateMaxRecordSize,
    /// Splits and merges shards until there are so many of equal size.
    UpdateShardCount,
    /// Changes who decides about the shards of a stream.
    UpdateStreamMode,
    /// Changes how records are assigned to shards.
    UpdateStreamRecordDistributionStrategy,
    /// Changes the throughput for which an on-demand stream is prepared.
    UpdateStreamWarmThroughput,
}

const ALL: &[Operation] = &[
    Operation::AddTagsToStream,
    Operation::CreateStream,
    Operation::DecreaseStreamRetentionPeriod,
    Operation::DeleteResourcePolicy,
    Operation::DeleteStream,
    Operation::DeregisterStreamConsumer,
    Operation::DescribeAccountSettings,
    Operation::DescribeLimits,
    Operation::DescribeStream,
    Operation::DescribeStreamConsumer,
    Operation::DescribeStreamSummary,
    Operation::DisableEnhancedMonitoring,
    Operation::EnableEnhancedMonitoring,
    Operation::GetRecords,
    Operation::GetResourcePolicy,
    Operation::GetShardIterator,
    Operation::IncreaseStreamRetentionPeriod,
    Operation::ListShards,
    Operation::ListStreamConsumers,
    Operation::ListStreams,
    Operation::ListTagsForResource,
    Operation::ListTagsForStream,
    Operation::MergeShards,
    Operation::PutRecord,
    Operation::PutRecords,
    Operation::PutResourcePolicy,
    Operation::RegisterStreamConsumer,
    Operation::RemoveTagsFromStream,
    Operation::SplitShard,
    Operation::StartStreamEncryption,
    Operation::StopStreamEncryption,
    Operation::SubscribeToShard,
    Operation::TagResource,
    Operation::UntagResource,
    Operation::UpdateAccountSettings,
    Operation::UpdateMaxRecordSize,
    Operation::UpdateShardCount,
    Operation::UpdateStreamMode,
    Operation::UpdateStreamRecordDistributionStrategy,
    Operation::UpdateStreamWarmThroughput,
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
            Self::DecreaseStreamRetentionPeriod
                | Self::DeregisterStreamConsumer
                | Self::DescribeStreamConsumer
                | Self::DisableEnhancedMonitoring
                | Self::EnableEnhancedMonitoring
                | Self::IncreaseStreamRetentionPeriod
                | Self::ListShards
                | Self::ListStreamConsumers
                | Self::UpdateShardCount
        )
    }

    /// Whether it changes nothing that is kept.
    pub(super) fn is_a_question(self) -> bool {
        let name = self.to_string();
        ["Describe", "Get", "List", "Subscribe"]
            .iter()
            .any(|verb| name.starts_with(verb))
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
