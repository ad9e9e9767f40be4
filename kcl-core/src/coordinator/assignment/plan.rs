//! Decides which worker should hold which lease.
//!
//! Flow: a [`Snapshot`] of leases and candidates → [`plan_assignment`] → an [`AssignmentPlan`], which a task performs.
//!
//! Its promises, checked by `tests/it/assignment_properties/`:
//! - Planning again on the planned state gives an empty plan.
//! - The order of the input does not matter; ties are broken by name.
//! - Every available lease is placed if anybody may take it; limits and bars are honoured.
//! - Balancing moves few leases, every move makes the worst of the two workers better off, and no more are under way than allowed.
//!
//! The balanced quantity is [load](Strategy): of live, readable shards only. By lease count, each weighs 1 and the workers end up within one
//! lease of each other, by the fewest moves. By throughput, they end up within a band. It is the same planner: `load` weighs the leases,
//! `planner` gives them away, `balance` finds the moves.
//!
//! A plan may be stale when it is performed; the condition on each write, not this module, keeps that safe.

use crate::coordinator::assignment::assignment_plan::AssignmentPlan;
use crate::coordinator::assignment::planner::Planner;
use crate::coordinator::assignment::snapshot::Snapshot;
use crate::types::{LeaseKey, WorkerId};

/// Plans one round: places every available lease, and moves live ones towards balance.
///
/// ```
/// use kcl_core::internals::{Candidate, Hold, LeaseView, Snapshot, plan_assignment};
/// use kcl_core::lease_store::Version;
/// use kcl_core::types::{LeaseKey, WorkerId};
///
/// let worker = WorkerId::new("worker-1")?;
/// let snapshot = Snapshot {
///     leases: vec![LeaseView {
///         key: LeaseKey::new("shardId-000000000000")?,
///         version: Version { counter: 0, owner: None, checkpoint_owner: None },
///         hold: Hold::Unowned,
///         ended: false,
///         readable: true,
///         named_since: None,
///         arriving: false,
///         throughput: None,
///         left_alone: false,
///         barred: Default::default(),
///         pinned: None,
///     }],
///     workers: vec![Candidate { id: worker.clone(), max_leases: None, max_throughput: None, leaving: false, proven: true }],
///     max_moves: 1,
///     ..Snapshot::default()
/// };
/// let plan = plan_assignment(&snapshot);
/// assert_eq!(plan.moves[0].to, worker);
/// # Ok::<(), kcl_core::types::InvalidName>(())
/// ```
#[must_use]
pub fn plan_assignment(snapshot: &Snapshot) -> AssignmentPlan {
    let mut planner = Planner::new(snapshot, None);
    // Each pass does what a fresh plan would do, and the last one found nothing to do: so neither will the next plan.
    loop {
        planner.place();
        planner.vacate();
        let is_moved = planner.obey_pins();
        if !planner.balance(snapshot.max_moves) && !is_moved {
            return planner.into_plan();
        }
    }
}

/// Plans one round without balancing: available leases only: the task of a standby while the leader is silent.
#[must_use]
pub fn plan_placement(snapshot: &Snapshot) -> AssignmentPlan {
    let mut planner = Planner::new(snapshot, None);
    planner.place();
    planner.into_plan()
}

/// Plans one round of a standby beside a leader that keeps its lock: nothing, unless the placement would give away a lease for which
/// `is_overdue` holds. Then the leader does not write, and everything available is placed.
///
/// A lease that the standby could not place either is no reason to step in, and to report it is up to the leader.
#[must_use]
pub fn plan_overdue(snapshot: &Snapshot, is_overdue: impl Fn(&LeaseKey) -> bool) -> AssignmentPlan {
    if !snapshot.leases.iter().any(|lease| is_overdue(&lease.key)) {
        return AssignmentPlan::default();
    }
    let moves = plan_placement(snapshot).moves;
    let is_called = moves.iter().any(|step| is_overdue(&step.key));
    AssignmentPlan {
        moves: if is_called { moves } else { Vec::new() },
        unplaced: Vec::new(),
    }
}

/// Plans how a worker that shuts down hands its leases to the others. Touches no lease of anybody else.
///
/// Leases that no worker can take are in [`AssignmentPlan::unplaced`]: the worker releases it.
#[must_use]
pub fn plan_departure(me: &WorkerId, snapshot: &Snapshot) -> AssignmentPlan {
    let mut planner = Planner::new(snapshot, Some(me));
    planner.keep_to_leases_of(me);
    planner.vacate();
    planner.into_plan()
}
