//! Splitting and merging shards, one by one or to a number.

use kcl_core::clock::Moment;
use kcl_lease_memory::memory_stream::ReshardError;

use crate::attributes::Change;
use crate::error::ServiceError;
use crate::shared::Shared;
use crate::streams::Status;
use crate::value::{Answer, Map};

impl From<ReshardError> for ServiceError {
    fn from(error: ReshardError) -> Self {
        match error {
            ReshardError::NoSuchShard(_) => Self::not_found(error.to_string()),
            ReshardError::Closed(_) | ReshardError::NotAdjacent(..) | ReshardError::HashKeyOutside(_) => {
                Self::invalid(error.to_string())
            }
        }
    }
}

pub(super) fn split(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let mut streams = shared.streams();
    let of_account: usize = streams.iter().map(|(_, entry)| entry.open_shards()).sum();
    let entry = streams.provisioned(request, now)?;
    check_shards(of_account, 1, shared.options.limits.shards)?;
    let key = request
        .hash_key("NewStartingHashKey")?
        .ok_or_else(|| ServiceError::validation("NewStartingHashKey is missing"))?;
    entry.stream.split_at(&request.shard("ShardToSplit")?, key)?;
    entry.begin(Status::Updating, now, shared.options.stream_transition);
    Ok(Map::new())
}

pub(super) fn merge(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let mut streams = shared.streams();
    let entry = streams.provisioned(request, now)?;
    let (a, b) = (
        request.shard("ShardToMerge")?,
        request.shard("AdjacentShardToMerge")?,
    );
    entry.stream.merge(&a, &b)?;
    entry.begin(Status::Updating, now, shared.options.stream_transition);
    Ok(Map::new())
}

/// The most shards that a stream may have.
const MOST_SHARDS: i64 = 10_000;

pub(super) fn update_shard_count(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let scaling = request.needed_text("ScalingType")?;
    if scaling != "UNIFORM_SCALING" {
        return Err(ServiceError::validation(format!(
            "{scaling:?} is not a type of scaling: UNIFORM_SCALING"
        )));
    }
    let target = request
        .int("TargetShardCount")?
        .ok_or_else(|| ServiceError::validation("TargetShardCount is missing"))?;
    if target < 1 {
        return Err(ServiceError::validation("TargetShardCount must be at least 1"));
    }
    let mut streams = shared.streams();
    let of_account: usize = streams.iter().map(|(_, entry)| entry.open_shards()).sum();
    let entry = streams.provisioned(request, now)?;
    let open = entry.open_shards();
    let limits = &shared.options.limits;
    check_target(open, target, limits.shard_count_updates_per_day.is_some())?;
    let target = u32::try_from(target).unwrap_or(u32::MAX);
    check_shards(of_account - open, target, limits.shards)?;
    let most = limits.shard_count_updates_per_day;
    entry.attributes.may_change(Change::ShardCount, most, now)?;
    entry.stream.reshard_to(target)?;
    entry.attributes.note(Change::ShardCount, now);
    entry.begin(Status::Updating, now, shared.options.stream_transition);
    let identity = entry.identity()?;
    Ok(Map::new()
        .with("StreamName", identity.name)
        .with("StreamARN", identity.arn)
        .with("CurrentShardCount", open)
        .with("TargetShardCount", i64::from(target)))
}

/// Checks how far one call may go.
fn check_target(open: usize, target: i64, limited: bool) -> Result<(), ServiceError> {
    let open = i64::try_from(open).unwrap_or(i64::MAX);
    let counts = format!("Current open shard count: {open} Target shard count: {target}");
    let message = if target > MOST_SHARDS {
        format!("UpdateShardCount cannot scale to more than {MOST_SHARDS} shards. {counts}")
    } else if limited && target > open.saturating_mul(2) {
        format!("UpdateShardCount cannot scale up over double your current open shard count. {counts}")
    } else if limited && target.saturating_mul(2) < open {
        format!("UpdateShardCount cannot scale down below half your current open shard count. {counts}")
    } else {
        return Ok(());
    };
    Err(ServiceError::limit(message))
}

/// Checks that the account may have `more` open shards beside the `others` that it has.
pub(super) fn check_shards(others: usize, more: u32, most: Option<u32>) -> Result<(), ServiceError> {
    let wanted = others.saturating_add(more as usize);
    match most {
        Some(most) if wanted > most as usize => Err(ServiceError::limit(format!(
            "This request would exceed the shard limit for the account: {wanted} shards; the limit is {most}."
        ))),
        _ => Ok(()),
    }
}
