//! Makes the lease table follow the stream's shards.
//!
//! Flow: a scan of the leases, then a listing of the shards → [`ShardGraph`] → [`plan_sync`] → the task creates what is missing.
//! At the end of a shard the worker that read it creates the children itself: [`plan_children`].
//! Later the leader deletes what nobody needs any more: [`plan_cleanup`]. What retention took before it was read it ends, loudly.
//!
//! Nothing here decides who reads a shard.

use std::time::Duration;

/// How often the leader compares the lease table with the stream's shards. Children come from the end of their parents, so
/// this finds only what went wrong, or a shard whose lease somebody deleted.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(30);

mod audit;
mod cleanup;
mod graph;
mod identity;
mod plan;
mod shard_end;
mod task;
#[cfg(test)]
mod testing;
mod unfiltered;
mod upkeep;

pub use audit::{Audit, Verdict};
pub use cleanup::{DeleteReason, Deletion, Witness, plan_cleanup};
pub use graph::{Cover, ShardGraph, cover, uncovered};
pub(crate) use identity::check_keyed_by_stream;
pub use identity::{Mismatch, check_identity};
pub(crate) use plan::PIN_MARGIN;
pub use plan::{
    Anomaly, CreateReason, Creation, InitialPosition, Keying, Start, SyncPlan, lease_cover, plan_sync,
};
pub use shard_end::{ChildPlan, Family, InvalidShardEnd, children_from_listing, plan_children};
pub(crate) use shard_end::{check_end, is_replaced};
pub(crate) use task::{SyncError, SyncReport, SyncRequest, Tools, sync_once};
pub(crate) use upkeep::{UpkeepReport, keep_up, needs_upkeep};
