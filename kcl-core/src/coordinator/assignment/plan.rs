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
//! `state` gives them away, `balance` finds the moves.
//!
//! A plan may be stale when it is performed; the condition on each write, not this module, keeps that safe.

use std::collections::BTreeSet;

use crate::coordinator::assignment::placement::Planner;
use crate::lease::change::{Expect, LeaseChange};
use crate::lease::row::Version;
use crate::runtime::clock::Moment;
use crate::settings::Strategy;
use crate::types::{LeaseKey, WorkerId};

/// Everything a plan is made from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// The leases, in any order.
    pub leases: Vec<LeaseView>,
    /// The workers that may get leases, in any order.
    pub workers: Vec<Candidate>,
    /// How many moves for balance may be under way at a time. A third of the moves that are needed may be in any case,
    /// so that a large fleet is balanced in a few rounds.
    pub max_moves: usize,
    /// The quantity that is spread evenly.
    pub strategy: Strategy,
}

/// One lease, as the planner sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseView {
    /// The key of the row.
    pub key: LeaseKey,
    /// The version of the row: what a change is conditioned on.
    pub version: Version,
    /// Whether somebody holds it.
    pub hold: Hold,
    /// Whether the shard is processed to its end: such a lease needs no owner.
    pub ended: bool,
    /// Whether every parent of the shard is finished. Only readable shards are work;
    /// the others are spread evenly among themselves and never moved for balance.
    pub readable: bool,
    /// Since when the row has named its owner, as far as the observer has seen. Of leases as heavy as each other balancing moves the
    /// newest first: in a rolling deploy the replacement is then given what the worker before it had, and the rest stays where it is.
    pub named_since: Option<Moment>,
    /// The throughput of the shard in KiB/s, where one was measured. Anything that is no sensible number counts as none.
    pub throughput: Option<f64>,
    /// Whether the worker named in the row has not taken the lease up yet. It is not moved again before it has, nor is
    /// anything else taken from that worker for balance: it would be parted from what it had, and not from what is coming.
    pub arriving: bool,
    /// Whether balancing leaves the lease where it is, as after its owner's veto.
    /// A lease in a handoff is left alone anyway, and one that expired never is.
    pub left_alone: bool,
    /// Workers that failed on this lease lately and shall not get it back.
    pub barred: BTreeSet<WorkerId>,
}

impl LeaseView {
    /// The worker that processes the shard: during a handoff the one that hands it over.
    pub(crate) fn actual_owner(&self) -> Option<&WorkerId> {
        self.version
            .checkpoint_owner
            .as_ref()
            .or(self.version.owner.as_ref())
    }

    /// How many workers are kept from the lease.
    pub(crate) fn refusals(&self) -> usize {
        self.barred.len() + usize::from(self.hold == Hold::Expired)
    }
}

/// Whether somebody holds a lease, as far as the observer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The row names nobody.
    Unowned,
    /// The row names a worker that has not renewed it for a whole failover time, or that is dead and never took the lease up.
    Expired,
    /// The row names a worker that renews it, or may yet.
    Held,
}

/// A worker that may get leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The worker.
    pub id: WorkerId,
    /// The most readable leases the worker wants; `None` for no limit. Leases that wait for a parent only fill what is left
    /// of that limit, so that they never keep out the parent they wait for. A worker above its limit gets nothing more and keeps
    /// what it has.
    pub max_leases: Option<u32>,
    /// The most throughput the worker wants, in KiB/s; `None` for no limit. A worker that has reached it gets nothing more and
    /// keeps what it has.
    pub max_throughput: Option<u32>,
    /// Whether the worker is shutting down: it gets nothing, and what it holds is handed to others.
    pub leaving: bool,
    /// Whether the observer has seen the worker live, and not just an old row. Wins ties; and balancing gives live leases to
    /// no other, since what goes well where it is must not be handed to a worker that may be dead.
    pub proven: bool,
}

/// The change to make.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AssignmentPlan {
    /// The changes, the most urgent first.
    pub moves: Vec<Move>,
    /// The available leases that nobody can take, and why; in the order of their keys.
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
    /// Its owner is shutting down.
    Leaving,
}

impl Reason {
    /// The reason in one word, for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unowned => "unowned",
            Self::Expired => "expired",
            Self::Balance => "balance",
            Self::Leaving => "leaving",
        }
    }
}

/// Why nobody gets a lease.
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
        if !planner.balance(snapshot.max_moves) {
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
