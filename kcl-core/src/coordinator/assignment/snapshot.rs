//! The knowledge of a planner: the leases and the workers, as one worker sees them.

use std::collections::BTreeSet;

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
    /// Whether a worker holds it.
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
    /// The worker that an operator wants the lease to be with: it gets the lease whatever its load, and balancing leaves it there. It counts
    /// as not given while that worker is no candidate or [gets nothing](Candidate::max_leases).
    pub pinned: Option<WorkerId>,
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

/// Whether a worker holds a lease, as far as the observer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The row names no worker.
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
