//! The answers of the service, in the words of the core. Nothing is copied that can be taken over.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::types::{self, RecordDistributionStrategy, StreamMode};
use bytes::Bytes;
use kcl_core::source::{
    CapacityMode, ChildShard, RecordPlacement, Shard, SourceError, SourceErrorKind, StreamDescription,
};
use kcl_core::types::{HashKeyRange, Record, SequenceNumber, ShardId, StreamIdentity, Timestamp};

type Result<T> = std::result::Result<T, SourceError>;

/// The answer makes no sense.
pub(crate) fn invalid_answer(what: &str) -> SourceError {
    SourceError::new(SourceErrorKind::Invalid, format!("Kinesis answered with {what}"))
}

pub(crate) fn undecodable(
    what: &str,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> SourceError {
    invalid_answer(what).with_source(error)
}

/// The answer of GetRecords.
#[derive(Debug, Default)]
pub(crate) struct RecordPage {
    pub(crate) records: Vec<Record>,
    /// Whether there is a list of records, empty or not: [Kinesis](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetRecords.html)
    /// always sends one.
    pub(crate) lists_records: bool,
    /// The iterator to go on with; none after the last record of a closed shard.
    pub(crate) next: Option<String>,
    pub(crate) behind_millis: Option<i64>,
    pub(crate) children: Vec<ChildShard>,
    /// The memory that the records keep: that of the whole answer where they are slices.
    pub(crate) body_bytes: usize,
}

impl RecordPage {
    /// Whether it has no place to go on and shows no children: an end, or an answer of which something is missing.
    pub(crate) fn is_unconfirmed_end(&self) -> bool {
        self.next.is_none() && self.children.is_empty()
    }

    pub(crate) fn behind(&self) -> Option<Duration> {
        let millis = self.behind_millis?;
        Some(Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
    }
}

/// An event of a subscription, and where to go on after it, which at the end of a shard is nowhere.
pub(crate) fn event(event: types::SubscribeToShardEvent) -> Result<(RecordPage, Option<SequenceNumber>)> {
    let records = event.records.into_iter().map(record);
    let records = records.collect::<Result<Vec<_>>>()?;
    let children = event.child_shards.into_iter().flatten().map(child);
    let answer = RecordPage {
        lists_records: true,
        next: None,
        behind_millis: Some(event.millis_behind_latest),
        children: children.collect::<Result<_>>()?,
        body_bytes: records.iter().map(Record::size).sum(),
        records,
    };
    // The SDK shows what is missing as an empty text.
    let continuation = Some(event.continuation_sequence_number).filter(|text| !text.is_empty());
    Ok((answer, continuation.map(sequence).transpose()?))
}

pub(crate) fn record(record: types::Record) -> Result<Record> {
    let sequence = sequence(record.sequence_number)?;
    let mut taken = Record::new(sequence, Bytes::from(record.data.into_inner()));
    if let Some(key) = record.partition_key {
        taken = taken.with_partition_key(key);
    }
    if let Some(time) = record.approximate_arrival_timestamp {
        taken = taken.with_arrival(timestamp(&time));
    }
    Ok(taken)
}

/// The time in milliseconds, rounded to the nearest.
///
/// The SDK reads a time in JSON as seconds with a fraction and holds it a few nanoseconds low, and its own `to_millis` cuts: that is a
/// millisecond early for about half of all fractions.
pub(crate) fn timestamp(time: &DateTime) -> Timestamp {
    let millis = (i64::from(time.subsec_nanos()) + 500_000) / 1_000_000;
    Timestamp::from_millis(time.secs().saturating_mul(1000).saturating_add(millis))
}

pub(crate) fn shard(shard: types::Shard) -> Result<Shard> {
    let hash_range = hash_range(shard.hash_key_range)?;
    let numbers = shard
        .sequence_number_range
        .ok_or_else(|| invalid_answer("a shard without sequence numbers"))?;
    let parents = [shard.parent_shard_id, shard.adjacent_parent_shard_id];
    Ok(Shard {
        id: shard_id(&shard.shard_id)?,
        parents: parents
            .iter()
            .flatten()
            .map(|parent| shard_id(parent))
            .collect::<Result<BTreeSet<_>>>()?,
        hash_range,
        closed: numbers.ending_sequence_number.is_some(),
        starting_sequence: sequence(numbers.starting_sequence_number)?,
    })
}

pub(crate) fn child(child: types::ChildShard) -> Result<ChildShard> {
    Ok(ChildShard {
        id: shard_id(&child.shard_id)?,
        parents: child
            .parent_shards
            .iter()
            .map(|parent| shard_id(parent))
            .collect::<Result<_>>()?,
        hash_range: hash_range(child.hash_key_range)?,
    })
}

pub(crate) fn identity(summary: types::StreamDescriptionSummary) -> Result<StreamIdentity> {
    let created = timestamp(&summary.stream_creation_timestamp);
    Ok(StreamIdentity {
        name: summary.stream_name,
        arn: summary.stream_arn,
        created,
    })
}

/// The facts of the summary beside the identity. It counts no queues: the SDK has no field for them.
pub(crate) fn description(summary: &types::StreamDescriptionSummary) -> StreamDescription {
    let count = |count: Option<i32>| count.and_then(|count| u32::try_from(count).ok());
    let mode = summary
        .stream_mode_details
        .as_ref()
        .map(|details| &details.stream_mode);
    let capacity = match mode {
        Some(StreamMode::OnDemand) => Some(CapacityMode::OnDemand),
        Some(StreamMode::Provisioned) => Some(CapacityMode::Provisioned),
        Some(_) | None => None,
    };
    let placement = match summary.record_distribution_strategy {
        Some(RecordDistributionStrategy::Auto) => Some(RecordPlacement::ByService),
        Some(RecordDistributionStrategy::UserPartitionKey) => Some(RecordPlacement::ByPartitionKey),
        // The service says it of on-demand streams alone.
        None if capacity == Some(CapacityMode::Provisioned) => Some(RecordPlacement::ByPartitionKey),
        Some(_) | None => None,
    };
    let mut description = StreamDescription::default();
    description.capacity = capacity;
    description.retention = count(Some(summary.retention_period_hours))
        .filter(|hours| *hours > 0)
        .map(|hours| Duration::from_secs(u64::from(hours) * 3600));
    description.largest_record = count(summary.max_record_size_in_kib).map(|kib| u64::from(kib) * 1024);
    description.placement = placement;
    description.open_shards = count(Some(summary.open_shard_count));
    description.consumers = count(summary.consumer_count);
    description.channels = count(summary.channel_count);
    description
}

fn shard_id(id: &str) -> Result<ShardId> {
    ShardId::new(id).map_err(|error| undecodable("a shard id that is none", error))
}

fn sequence(digits: String) -> Result<SequenceNumber> {
    SequenceNumber::new(digits).map_err(|error| undecodable("a sequence number that is none", error))
}

fn hash_range(range: Option<types::HashKeyRange>) -> Result<HashKeyRange> {
    let range = range.ok_or_else(|| invalid_answer("a shard without hash keys"))?;
    HashKeyRange::parse(&range.starting_hash_key, &range.ending_hash_key)
        .map_err(|error| undecodable("hash keys that are none", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_kinesis::primitives::Blob;

    fn sdk_record() -> aws_sdk_kinesis::types::builders::RecordBuilder {
        types::Record::builder()
            .sequence_number("42")
            .data(Blob::new("payload"))
    }

    #[test]
    fn record_takes_over_memory_of_the_answer() {
        let data = b"payload".to_vec();
        let memory = data.as_ptr();
        let built = sdk_record().data(Blob::new(data)).build().unwrap();
        assert_eq!(record(built).unwrap().data().as_ptr(), memory);
    }

    #[test]
    fn a_record_may_lack_key_and_arrival_time() {
        let bare = record(sdk_record().build().unwrap()).unwrap();
        assert_eq!((bare.partition_key(), bare.approximate_arrival()), (None, None));
        let full = sdk_record()
            .partition_key("truck-7")
            .approximate_arrival_timestamp(DateTime::from_millis(1_700_000_000_123))
            .build();
        let full = record(full.unwrap()).unwrap();
        assert_eq!(full.partition_key(), Some("truck-7"));
        assert_eq!(
            full.approximate_arrival(),
            Some(Timestamp::from_millis(1_700_000_000_123))
        );
        assert_eq!(full.size(), 14);
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_invalid() {
        let built = sdk_record().sequence_number("SHARD_END").build().unwrap();
        assert_eq!(record(built).unwrap_err().kind(), SourceErrorKind::Invalid);
        let built = types::Shard::builder().shard_id("shardId-0").build().unwrap();
        assert_eq!(shard(built).unwrap_err().kind(), SourceErrorKind::Invalid);
    }

    #[test]
    fn a_time_is_the_same_from_every_format() {
        for millis in 1_700_000_000_000..1_700_000_001_000 {
            #[expect(clippy::cast_precision_loss, reason = "as JSON has it")]
            let in_json = millis as f64 / 1000.0;
            let read = DateTime::from_secs_f64(in_json);
            assert_eq!(timestamp(&read), Timestamp::from_millis(millis));
            assert_eq!(
                timestamp(&DateTime::from_millis(millis)),
                Timestamp::from_millis(millis)
            );
        }
        assert_eq!(timestamp(&DateTime::from_millis(-1)), Timestamp::from_millis(-1));
    }
}
