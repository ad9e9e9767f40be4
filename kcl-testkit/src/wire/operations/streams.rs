//! Making, describing and listing streams.

use std::sync::Arc;

use kcl_core::source::StreamSource as _;
use kcl_core::time::Moment;

use super::Answer;
use super::listing::shard_map;
use crate::memory_stream::MemoryStream;
use crate::wire::error::ServiceError;
use crate::wire::server::Shared;
use crate::wire::streams::{Entry, Status};
use crate::wire::value::{Map, Value};

/// How many shards a stream in on-demand mode begins with.
const ON_DEMAND_SHARDS: i64 = 4;

pub(super) fn create(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let name = request.needed_text("StreamName")?;
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
    if name.is_empty() || name.len() > 128 || !name.chars().all(allowed) {
        return Err(ServiceError::validation(format!(
            "{name:?} is not the name of a stream"
        )));
    }
    let mode = match request.map("StreamModeDetails")? {
        Some(details) => details.text("StreamMode")?,
        None => None,
    };
    let on_demand = mode == Some("ON_DEMAND");
    let given = request.int_within("ShardCount", 1, 10_000)?;
    let shards = match (given, on_demand) {
        (Some(count), false) => count,
        (None, true) => ON_DEMAND_SHARDS,
        (None, false) => return Err(ServiceError::validation("ShardCount is missing")),
        (Some(_), true) => {
            return Err(ServiceError::validation(
                "ShardCount is not for streams in on-demand mode",
            ));
        }
    };
    let mut streams = shared.streams();
    if streams.named(name).is_ok() {
        return Err(ServiceError::in_use(format!(
            "Stream {name} under account 000000000000 already exists."
        )));
    }
    let stream = MemoryStream::new(
        name,
        u32::try_from(shards).unwrap_or(1),
        Arc::clone(&shared.clock),
    );
    let mut entry = Entry::new(stream, on_demand);
    entry.begin(Status::Creating, now, shared.options.stream_transition);
    streams.add(name.to_owned(), entry);
    Ok(Map::new())
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

/// What both descriptions of a stream show.
fn common(entry: &Entry, now: Moment) -> Answer {
    let identity = entry.identity()?;
    let mode = if entry.on_demand {
        "ON_DEMAND"
    } else {
        "PROVISIONED"
    };
    Ok(Map::new()
        .with("StreamName", identity.name)
        .with("StreamARN", identity.arn)
        .with("StreamStatus", entry.status(now).name())
        .with("StreamModeDetails", Map::new().with("StreamMode", mode))
        .with("RetentionPeriodHours", 24_i64)
        .with("StreamCreationTimestamp", identity.created)
        .with("EncryptionType", "NONE")
        .with(
            "EnhancedMonitoring",
            vec![Map::new().with("ShardLevelMetrics", Value::List(Vec::new()))],
        ))
}

pub(super) fn describe(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let mut streams = shared.streams();
    let entry = streams.of(request)?;
    let most = request.int_within("Limit", 1, 10_000)?.unwrap_or(100);
    let after = request.text("ExclusiveStartShardId")?;
    let mut listed = Vec::new();
    if entry.status(now) != Status::Creating {
        let shards = entry.stream.shards_snapshot();
        listed = shards
            .iter()
            .filter(|shard| !shard.forgotten && after.is_none_or(|after| shard.shard.id.as_str() > after))
            .map(shard_map)
            .collect();
    }
    let more = listed.len() > usize::try_from(most).unwrap_or(usize::MAX);
    listed.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    let description = common(entry, now)?
        .with("Shards", listed)
        .with("HasMoreShards", more);
    Ok(Map::new().with("StreamDescription", description))
}

pub(super) fn summary(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let mut streams = shared.streams();
    let entry = streams.of(request)?;
    let shards = entry.stream.shards_snapshot();
    let open = shards.iter().filter(|shard| !shard.shard.closed).count();
    let summary = common(entry, now)?
        .with("OpenShardCount", open)
        .with("ConsumerCount", entry.consumers.len());
    Ok(Map::new().with("StreamDescriptionSummary", summary))
}

pub(super) fn list(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let most = request.int_within("Limit", 1, 10_000)?.unwrap_or(100);
    let after = match request.text("NextToken")? {
        Some(token) => Some(token),
        None => request.text("ExclusiveStartStreamName")?,
    };
    let streams = shared.streams();
    let mut rest = streams
        .iter()
        .filter(|(name, _)| after.is_none_or(|after| name.as_str() > after))
        .map(|(_, entry)| entry);
    let page: Vec<&Entry> = rest
        .by_ref()
        .take(usize::try_from(most).unwrap_or(usize::MAX))
        .collect();
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
    let last = names.last().filter(|_| more).map(|last| (*last).to_owned());
    Ok(Map::new()
        .with("StreamNames", names)
        .with("HasMoreStreams", more)
        .with_some("NextToken", last)
        .with("StreamSummaries", summaries))
}
