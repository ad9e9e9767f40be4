//! Applies the meaning of a filter to the listing of a server that ignores filters: shards that ended before the start of the application are
//! left out.
//!
//! A listing does not say when a shard was closed. A closed shard without a record at or after the start needs no reading, whether it was
//! closed before the start or after it, so it is read to find out. Only closed shards are read that have no lease and have a child without one.
//! Otherwise their children would be read from the beginning, with what was put before the start.

use std::collections::BTreeSet;

use crate::coordinator::shard_sync::request::{SyncError, SyncRequest, SyncTools};
use crate::runtime::clock::ClockExt as _;
use crate::source::shard_graph::ShardGraph;
use crate::source::{FetchLimit, SourceError, StartPosition};
use crate::types::{ShardId, Timestamp};

/// How often a shard is read before it counts as one with records.
const MOST_FETCHES: u32 = 20;
/// How many readers in a row must show an end without children.
const CLAIMS: u32 = 3;

/// Leaves out the closed shards that hold nothing from `at` on, nor does what they came from.
pub(crate) async fn without_ended_before(
    tools: &SyncTools<'_>,
    request: &SyncRequest<'_>,
    graph: &ShardGraph,
    leased: &BTreeSet<&ShardId>,
    at: Timestamp,
) -> Result<ShardGraph, SyncError> {
    let mut left_out = BTreeSet::new();
    for shard in graph.in_lineage_order() {
        let is_candidate = shard.closed
            && !leased.contains(&shard.id)
            && graph
                .parents(&shard.id)
                .all(|parent| left_out.contains(&parent.id))
            && graph.children(&shard.id).any(|child| !leased.contains(&child.id));
        if is_candidate && holds_nothing(tools, request, &shard.id, at).await? {
            left_out.insert(shard.id.clone());
        }
    }
    if !left_out.is_empty() {
        tracing::info!(
            shards = left_out.len(),
            "the server ignores the filter of listings; leaving out shards that ended before the start"
        );
    }
    let kept = graph
        .in_lineage_order()
        .filter(|shard| !left_out.contains(&shard.id));
    Ok(ShardGraph::new(kept.cloned()))
}

/// Reads a closed shard from this time on. Returns `true` if it ends without a record.
///
/// An end without children may be an incomplete answer: a few readers in a row must show it.
async fn holds_nothing(
    tools: &SyncTools<'_>,
    request: &SyncRequest<'_>,
    shard: &ShardId,
    at: Timestamp,
) -> Result<bool, SyncError> {
    let read = async {
        let (mut reader, mut claims) = (None, 0);
        for _ in 0..MOST_FETCHES {
            let begun = tools.clock.now();
            let mut open = match reader.take() {
                Some(open) => open,
                None => {
                    let start = StartPosition::AtTimestamp(at);
                    tools.source.open_closed(shard, start).await?
                }
            };
            let fetch = open.next(FetchLimit { records: 1 }).await?;
            if !fetch.records.is_empty() {
                return Ok(false);
            }
            match &fetch.end {
                None => reader = Some(open),
                Some(end) if end.children.is_empty() && claims + 1 < CLAIMS => claims += 1,
                Some(_) => return Ok(true),
            }
            tools.clock.sleep_until(begun + fetch.wait).await;
        }
        Ok::<_, SourceError>(false)
    };
    let left = request.deadline.saturating_since(tools.clock.now());
    let answer = tools.clock.timeout(left, Box::pin(read)).await;
    answer
        .map_err(|_| SyncError::Deadline)?
        .map_err(SyncError::Source)
}
