//! The decisions of a planner: moves, each with its reason, and the leases that it could not place.

use crate::lease::change::{Expect, LeaseChange};
use crate::types::{LeaseKey, WorkerId};

/// The change to make.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AssignmentPlan {
    /// The changes, the most urgent first.
    pub moves: Vec<Move>,
    /// The available leases that no worker can take, each with its obstacle, in the order of their keys.
    pub unplaced: Vec<(LeaseKey, Obstacle)>,
}

/// One change of one lease.
#[derive(Debug, Clone, PartialEq)]
pub struct Move {
    /// The lease.
    pub key: LeaseKey,
    /// The condition on the row.
    pub expect: Expect,
    /// [`LeaseChange::Assign`] of an available lease, or [`LeaseChange::BeginHandoff`] of a live one.
    pub change: LeaseChange,
    /// The worker that processed the shard, if any.
    pub from: Option<WorkerId>,
    /// The worker that is to process it.
    pub to: WorkerId,
    /// Why.
    pub reason: Reason,
}

/// Why a lease is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It had no owner.
    Unowned,
    /// Its owner stopped renewing it.
    Expired,
    /// Its owner has more than its share.
    Balance,
    /// Its owner is shutting down, or an operator drains it.
    Leaving,
    /// An operator ordered it.
    Ordered,
}

impl Reason {
    /// The reason in one word, for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unowned => "unowned",
            Self::Expired => "expired",
            Self::Balance => "balance",
            Self::Leaving => "leaving",
            Self::Ordered => "ordered",
        }
    }
}

/// The obstacle for which no worker gets a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// There is no worker to give it to.
    NoCandidate,
    /// Every worker has as many leases as it wants.
    MaxLeases,
    /// Every worker that would take another lease has as much throughput as it wants.
    MaxThroughput,
    /// The workers that have room failed on it lately, or just now let it expire.
    Barred,
}
