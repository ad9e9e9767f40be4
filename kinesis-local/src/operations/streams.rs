//! Making, describing and listing streams.

use std::sync::Arc;
use std::time::Duration;

use kcl_core::clock::Moment;
use kcl_core::source::StreamSource as _;
use kcl_lease_memory::memory_stream::{MemoryStream, RecordDistribution, StreamMode};

use super::resharding::check_shards;
use super::settings;
use crate::error::ServiceError;
use crate::shapes::shard_map;
use crate::shared::Shared;
use crate::streams::{Entry, Status, Streams};
use crate::token::NextToken;
use crate::value::{Answer, Map};

/// How many shards a stream in on-demand mode begins with.
const ON_DEMAND_SHARDS: i64 = 4;
/// The retention that a stream begins with.
const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// The length and the characters of the name of a stream or of a consumer.
pub(super) fn is_name(name: &str) -> bool {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
    (1..=128).contains(&name.len()) && name.chars().all(allowed)
}

pub(super) fn create(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let name = request.needed_text("StreamName")?;
    if !is_name(name) {
        return Err(ServiceError::validation(format!(
            "{name:?} is not the name of a stream"
        )));
    }
    let mode = settings::mode(request)?.unwrap_or_default();
    let given = request.int_within("ShardCount", 1, 10_000)?;
    let shards = match (given, mode) {
        (Some(count), StreamMode::Provisioned) => count,
        (None, StreamMode::OnDemand) => ON_DEMAND_SHARDS,
        (None, StreamMode::Provisioned) => return Err(ServiceError::validation("ShardCount is missing")),
        (Some(_), StreamMode::OnDemand) => {
            return Err(ServiceError::validation(
                "ShardCount is not for streams in on-demand mode",
            ));
        }
    };
    let shards = u32::try_from(shards).unwrap_or(1);
    let max_record_kib = settings::max_record_kib(request)?;
    let distribution = settings::distribution(request, mode)?.unwrap_or_default();
    let mut streams = shared.streams();
    if streams.named(name).is_ok() {
        return Err(ServiceError::in_use(format!(
            "Stream {name} under account {} already exists.",
            streams.account()
        )));
    }
    check_limits(shared, &streams, shards, mode, now)?;
    let stream = MemoryStream::new(name, shards, Arc::clone(&shared.clock));
    stream.configure(|settings| {
        settings.retention = Some(RETENTION);
        settings.mode = mode;
        settings.max_record_kib = max_record_kib;
        settings.distribution = distribution;
    });
    let mut entry = Entry::new(stream);
    entry.attributes.tags.add(request)?;
    settings::warm_up(shared, &mut entry, request, now)?;
    entry.begin(Status::Creating, now, shared.options.stream_transition);
    streams.add(entry);
    Ok(Map::new())
}

/// Checks that the account may have this stream too.
fn check_limits(
    shared: &Shared,
    streams: &Streams,
    shards: u32,
    mode: StreamMode,
    now: Moment,
) -> Result<(), ServiceError> {
    let limits = &shared.options.limits;
    let creating = streams
        .iter()
        .filter(|(_, entry)| entry.status(now) == Status::Creating);
    if let Some(most) = limits.streams_creating
        && creating.count() >= most as usize
    {
        return Err(ServiceError::limit(format!(
            "{most} streams are CREATING, which is the limit."
        )));
    }
    if mode == StreamMode::OnDemand {
        let on_demand = streams.iter().filter(|(_, entry)| entry.is_on_demand()).count();
        settings::check_on_demand(on_demand, limits.on_demand_streams)?;
    }
    let open = streams.iter().map(|(_, entry)| entry.open_shards()).sum();
    check_shards(open, shards, limits.shards)
}

pub(super) fn delete(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let mut streams = shared.streams();
    let entry = streams.of(request)?;
    if entry.consumers.len() > 0 && !request.flag("EnforceConsumerDeletion")? {
        return Err(ServiceError::in_use(
            "the stream has consumers; deregister them, or set EnforceConsumerDeletion",
        ));
    }
    entry.begin(Status::Deleting, now, shared.options.stream_transition);
    streams.settle(now);
    Ok(Map::new())
}

/// The fields that both descriptions of a stream show.
fn common(entry: &Entry, now: Moment) -> Answer {
    let identity = entry.identity()?;
    let mode = if entry.is_on_demand() {
        "ON_DEMAND"
    } else {
        "PROVISIONED"
    };
    let hours = i64::try_from(entry.retention_hours()).unwrap_or(i64::MAX);
    let attributes = &entry.attributes;
    Ok(Map::new()
        .with("StreamName", identity.name)
        .with("StreamARN", identity.arn)
        .with("StreamStatus", entry.status(now).name())
        .with("StreamModeDetails", Map::new().with("StreamMode", mode))
        .with("RetentionPeriodHours", hours)
        .with("StreamCreationTimestamp", identity.created)
        .with("EncryptionType", attributes.encryption())
        .with_some("KeyId", attributes.key.as_deref())
        .with(
            "EnhancedMonitoring",
            vec![Map::new().with("ShardLevelMetrics", attributes.metrics.list())],
        ))
}

pub(super) fn describe(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let mut streams = shared.streams();
    let entry = streams.of(request)?;
    let most = request.page_size("Limit", 100)?;
    let after = request.text("ExclusiveStartShardId")?;
    let style = shared.options.end_style;
    let mut listed = Vec::new();
    if entry.status(now) != Status::Creating {
        let shards = entry.stream.shards_snapshot();
        listed = shards
            .iter()
            .filter(|shard| style.knows(shard) && after.is_none_or(|after| shard.shard.id.as_str() > after))
            .map(shard_map)
            .collect();
    }
    let more = listed.len() > most;
    listed.truncate(most);
    let description = common(entry, now)?
        .with("Shards", listed)
        .with("HasMoreShards", more);
    Ok(Map::new().with("StreamDescription", description))
}

pub(super) fn summary(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let mut streams = shared.streams();
    let entry = streams.of(request)?;
    let distribution = match entry.stream.settings().distribution {
        RecordDistribution::ByPartitionKey => "USER_PARTITION_KEY",
        RecordDistribution::Automatic => "AUTO",
    };
    let distribution = entry.is_on_demand().then_some(distribution);
    let summary = common(entry, now)?
        .with("OpenShardCount", entry.open_shards())
        .with("ConsumerCount", entry.consumers.len())
        .with("MaxRecordSizeInKiB", i64::from(entry.max_record_kib()))
        .with_some("WarmThroughput", settings::warm_throughput(entry))
        .with_some("RecordDistributionStrategy", distribution);
    Ok(Map::new().with("StreamDescriptionSummary", summary))
}

pub(super) fn list(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let most = request.page_size("Limit", 100)?;
    let token = shared.page_token(request, "streams", now)?;
    let after = match &token {
        Some(token) => Some(token.last.as_str()),
        None => request.text("ExclusiveStartStreamName")?,
    };
    let streams = shared.streams();
    let mut rest = streams
        .iter()
        .filter(|(name, _)| after.is_none_or(|after| name.as_str() > after))
        .map(|(_, entry)| entry);
    let page: Vec<&Entry> = rest.by_ref().take(most).collect();
    let more = rest.next().is_some();
    let names: Vec<&str> = page.iter().map(|entry| entry.stream.name()).collect();
    let mut summaries = Vec::new();
    for entry in &page {
        let all = common(entry, now)?;
        let shown = [
            "StreamName",
            "StreamARN",
            "StreamStatus",
            "StreamModeDetails",
            "StreamCreationTimestamp",
        ];
        let members = all.0.into_iter().filter(|(name, _)| shown.contains(&&**name));
        summaries.push(Map(members.collect()));
    }
    let next = names.last().filter(|_| more).map(|last| {
        let token = NextToken {
            stream: String::new(),
            filter: "streams".to_owned(),
            last: (*last).to_owned(),
            minted: now,
        };
        token.encode()
    });
    Ok(Map::new()
        .with("StreamNames", names)
        .with("HasMoreStreams", more)
        .with_some("NextToken", next)
        .with("StreamSummaries", summaries))
}
