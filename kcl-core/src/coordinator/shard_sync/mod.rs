//! Makes the lease table follow the stream's shards.
//!
//! Flow: a scan of the leases, then a listing of the shards → [`ShardGraph`](crate::source::shard_graph::ShardGraph) →
//! [`plan::plan_sync`] → [`sync`] creates what is missing.
//! At the end of a shard the worker that read it creates the children itself:
//! [`plan_children`](crate::lease::shard_end_plan::plan_children).
//! Later the leader deletes leases that are no longer needed: [`cleanup::plan_cleanup`]. A shard that retention took before it was read is ended, loudly.
//!
//! Nothing here decides who reads a shard.

use std::time::Duration;

pub(crate) mod cleanup;
pub(crate) mod coverage;
pub(crate) mod former_streams;
pub(crate) mod plan;
pub(crate) mod request;
pub(crate) mod sync;
pub(crate) mod unfiltered;
pub(crate) mod upkeep;

/// How often the leader compares the lease table with the stream's shards. Children come from the end of their parents, so
/// this finds only what went wrong, or a shard whose lease somebody deleted.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(30);
