//! Structures that several answers show: a shard, its hash range, what it became.

use std::time::Duration;

use kcl_core::source::{ChildShard, ShardEnd};
use kcl_core::types::HashKeyRange;
use kcl_lease_memory::memory_stream::ShardSnapshot;

use super::value::Map;

/// A shard as listings and descriptions show it.
pub(super) fn shard_map(snapshot: &ShardSnapshot) -> Map {
    let shard = &snapshot.shard;
    let mut parents = shard.parents.iter().map(ToString::to_string);
    let numbers = Map::new()
        .with("StartingSequenceNumber", shard.starting_sequence.as_str())
        .with_some(
            "EndingSequenceNumber",
            snapshot.ending_sequence.as_ref().map(|number| number.as_str()),
        );
    Map::new()
        .with("ShardId", shard.id.as_str())
        .with_some("ParentShardId", parents.next())
        .with_some("AdjacentParentShardId", parents.next())
        .with("HashKeyRange", hash_range_map(&shard.hash_range))
        .with("SequenceNumberRange", numbers)
}

fn hash_range_map(range: &HashKeyRange) -> Map {
    Map::new()
        .with("StartingHashKey", range.start().to_string())
        .with("EndingHashKey", range.end().to_string())
}

pub(super) fn millis(behind: Duration) -> i64 {
    i64::try_from(behind.as_millis()).unwrap_or(i64::MAX)
}

/// The children of a shard, as its end shows them.
pub(super) fn children(end: &ShardEnd) -> Vec<Map> {
    let child = |child: &ChildShard| {
        let parents: Vec<String> = child.parents.iter().map(ToString::to_string).collect();
        Map::new()
            .with("ShardId", child.id.as_str())
            .with("ParentShards", parents)
            .with("HashKeyRange", hash_range_map(&child.hash_range))
    };
    end.children.iter().map(child).collect()
}
