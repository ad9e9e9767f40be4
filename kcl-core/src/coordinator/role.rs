//! The role of a worker in the coordination of its fleet, and its listeners.

use crate::coordinator::assignment::moves::Reason;
use crate::runtime::clock::Moment;
use crate::settings::scan_cadence::ScanCadence;
use crate::types::WorkerId;

/// Listens to the coordinator: for status and metrics. Called often; must not block.
pub(crate) trait CoordinatorListener: Send + Sync {
    /// How things stand, after each look at the lock and each scan.
    fn coordinating(&self, status: &CoordinatorStatus);
    /// A lease was assigned, or its handoff started.
    fn moved(&self, reason: Reason);
}

/// The role of a worker in the coordination of its fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Assigns and balances.
    Leader,
    /// Watches the table, ready to stand in.
    Standby,
    /// Gives away what the silent leader does not.
    StandIn,
    /// Leaves it to others.
    Follower,
}

impl Role {
    pub(crate) fn scans(self) -> bool {
        self != Self::Follower
    }
}

/// How things stand with the coordination of the fleet, as far as this worker knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CoordinatorStatus {
    pub(crate) role: Role,
    /// Until when this worker may believe to lead, if it does.
    pub(crate) leads_until: Option<Moment>,
    pub(crate) leader: Option<WorkerId>,
    pub(crate) standby: Option<WorkerId>,
    /// When this worker last scanned the table; of the rest, what that scan showed.
    pub(crate) last_scan: Option<Moment>,
    pub(crate) leases: usize,
    pub(crate) candidates: usize,
    /// Available leases that nobody can take.
    pub(crate) unplaced: usize,
    pub(crate) cadence: ScanCadence,
}
