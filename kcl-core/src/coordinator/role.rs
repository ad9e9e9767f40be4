//! The role of a worker in the coordination of its fleet, and what it knows of that.

use crate::runtime::clock::Moment;
use crate::settings::scan_cadence::ScanCadence;
use crate::types::WorkerId;

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
    /// The time for which this worker leads, if it does.
    pub(crate) term: LeadershipTerm,
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

impl CoordinatorStatus {
    /// The status of a worker that has not looked yet.
    pub(crate) fn unknown(cadence: ScanCadence) -> Self {
        Self {
            role: Role::Follower,
            term: LeadershipTerm::default(),
            leader: None,
            standby: None,
            last_scan: None,
            leases: 0,
            candidates: 0,
            unplaced: 0,
            cadence,
        }
    }
}

/// A time in which this worker leads without a break, if it does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LeadershipTerm {
    /// Distinguishes it from those before.
    pub(crate) number: u64,
    /// Until when the worker believes to lead.
    pub(crate) until: Option<Moment>,
}

impl LeadershipTerm {
    /// Notes until when the worker leads, as it is known at `now`.
    pub(crate) fn extend(&mut self, now: Moment, until: Option<Moment>) {
        let is_unbroken = self.until.is_some_and(|until| now < until);
        if until.is_some() && !is_unbroken {
            self.number += 1;
        }
        self.until = until;
    }

    /// Until when the worker leads, if it does at `now`.
    pub(crate) fn valid_at(&self, now: Moment) -> Option<Moment> {
        self.until.filter(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Moment {
        Moment::from_origin(std::time::Duration::from_secs(second))
    }

    #[test]
    fn term_not_extended_in_time_is_another() {
        let mut term = LeadershipTerm::default();
        term.extend(at(0), None);
        assert_eq!(term.number, 0);
        for second in [0, 2, 4] {
            term.extend(at(second), Some(at(second + 4)));
            assert_eq!(term.number, 1);
        }
        term.extend(at(8), Some(at(12)));
        assert_eq!(term.number, 2, "it was over at that moment");
        term.extend(at(9), None);
        term.extend(at(10), Some(at(14)));
        assert_eq!(term.number, 3, "it was given up in between");
        assert_eq!(
            (term.valid_at(at(13)), term.valid_at(at(14))),
            (Some(at(14)), None)
        );
    }
}
