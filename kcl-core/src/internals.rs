//! For the test kit, the model and the mutation tests only: decisions and parts that are no interface for users. They change without notice.

#![allow(missing_docs)]

pub use crate::coordinator::assignment::assignment_plan::{AssignmentPlan, Move, Obstacle, Reason};
pub use crate::coordinator::assignment::plan::{
    plan_assignment, plan_departure, plan_overdue, plan_placement,
};
pub use crate::coordinator::assignment::snapshot::{Candidate, Hold, LeaseView, Snapshot};
pub use crate::coordinator::election::{ElectionAction, LeaderElection, pick_standby};
pub use crate::coordinator::shard_sync::SYNC_INTERVAL;
pub use crate::coordinator::shard_sync::cleanup::plan_cleanup;
pub use crate::coordinator::shard_sync::plan::lease_cover;
pub use crate::coordinator::table_view::TableView;
pub use crate::lease::expiry_watch::ExpiryWatch;
pub use crate::lease::resolve::{Refusal, Resolution, judge_refusal, resolve};
pub use crate::lease::shard_end_plan::{ChildPlan, ShardFamily, plan_children};
pub use crate::lifecycle::{ConsumerEvent, transition};
pub use crate::ownership::checkpoint_tracker::CheckpointTracker;
pub use crate::ownership::progress::{Activity, ProofOfLife, proof_of_life};
pub use crate::ownership::validity::{LeaseValidity, Validity, judge_validity};
pub use crate::runtime::failpoint::{self, Failpoint};
pub use crate::runtime::lock::locks_taken;
pub use crate::runtime::task_scope::{TaskPolicy, TaskScope};
pub use crate::settings::timing::Timing;
pub use crate::source::shard_graph::{Cover, ShardGraph, cover};
