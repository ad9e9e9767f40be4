//! Splitting and merging shards.

use kcl_core::time::Moment;

use super::Answer;
use crate::memory_stream::ReshardError;
use crate::wire::error::ServiceError;
use crate::wire::server::Shared;
use crate::wire::streams::Status;
use crate::wire::value::Map;

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
    let entry = streams.active(request, now)?;
    let key = request
        .hash_key("NewStartingHashKey")?
        .ok_or_else(|| ServiceError::validation("NewStartingHashKey is missing"))?;
    entry.stream.split_at(&request.shard("ShardToSplit")?, key)?;
    entry.begin(Status::Updating, now, shared.options.stream_transition);
    Ok(Map::new())
}

pub(super) fn merge(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let mut streams = shared.streams();
    let entry = streams.active(request, now)?;
    let (a, b) = (
        request.shard("ShardToMerge")?,
        request.shard("AdjacentShardToMerge")?,
    );
    entry.stream.merge(&a, &b)?;
    entry.begin(Status::Updating, now, shared.options.stream_transition);
    Ok(Map::new())
}
