//! The order in which a worker stops, as data.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::lifecycle::ConsumerEnd;
use crate::types::LeaseKey;

/// One step of a shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ShutdownStep {
    /// Take no more leases and give up the election: own worker row deleted, leader lock released.
    Leave,
    /// Let every consumer finish its batch, call `shutdown_requested`, checkpoint, and give its lease up.
    Drain,
    /// The time is up: drop the callbacks that still run and give up their leases.
    Abort,
    /// Stop renewing and end every task that is left.
    StopRenewing,
    /// Nothing is left to do.
    Done,
}

/// The parts that still run when the next step of a shutdown is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    /// Whether the worker may still be given leases or lead.
    pub is_candidate: bool,
    /// How many consumers are not done.
    pub consumers: usize,
    /// Whether the time for callbacks is up.
    pub time_is_up: bool,
    /// Whether the callbacks that ran on were dropped already, and had their time to give the lease up.
    pub aborted: bool,
    /// Whether other tasks of the worker run.
    pub tasks: bool,
}

/// The next step of a shutdown, by what is still running.
///
/// A lease is renewed until it is given up, so renewing stops after the last consumer is done.
pub(crate) fn next_step(remaining: Remaining) -> ShutdownStep {
    match remaining {
        Remaining {
            is_candidate: true, ..
        } => ShutdownStep::Leave,
        // Also of a worker that holds nothing: it may have been given something meanwhile.
        Remaining {
            time_is_up: false, ..
        } => ShutdownStep::Drain,
        Remaining {
            consumers: 1..,
            aborted: false,
            ..
        } => ShutdownStep::Abort,
        Remaining { tasks: true, .. } => ShutdownStep::StopRenewing,
        Remaining { .. } => ShutdownStep::Done,
    }
}

/// How a worker stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutdownReport {
    /// How each lease that the worker held at the beginning of the shutdown ended.
    pub leases: BTreeMap<LeaseKey, ConsumerEnd>,
    /// The leases whose callbacks had to be dropped because they did not return in time.
    pub aborted: Vec<LeaseKey>,
    /// How many records were given to the processor and not finished, for each lease with such records: their batch failed or was dropped
    /// or, with [manual checkpoints](crate::settings::CheckpointMode::Manual), your code did not checkpoint them. They are delivered again.
    pub unfinished: BTreeMap<LeaseKey, u64>,
    /// How long the shutdown took.
    pub took: Duration,
}

impl ShutdownReport {
    /// The report of a worker that held nothing.
    pub(crate) fn nothing_held() -> Self {
        Self {
            leases: BTreeMap::new(),
            aborted: Vec::new(),
            unfinished: BTreeMap::new(),
            took: Duration::ZERO,
        }
    }

    /// Returns `true` if every callback returned in time, every record that was given to a processor is finished, and every lease was
    /// given up by this worker itself, so that nothing waits for a failover and nothing is delivered again, not even because another
    /// worker took the lease first.
    pub fn is_clean(&self) -> bool {
        let is_given_up = |end: &ConsumerEnd| !matches!(end, ConsumerEnd::Expires | ConsumerEnd::Lost);
        self.aborted.is_empty() && self.unfinished.is_empty() && self.leases.values().all(is_given_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Remaining = Remaining {
        is_candidate: true,
        consumers: 3,
        time_is_up: false,
        aborted: false,
        tasks: true,
    };

    #[test]
    fn shutdown_that_lost_a_lease_is_not_clean() {
        let ended = |end| ShutdownReport {
            leases: [(LeaseKey::new("shard").unwrap(), end)].into(),
            ..ShutdownReport::nothing_held()
        };
        use ConsumerEnd::{Expires, HandedOver, Lost, Released, ShardEnded};
        for end in [ShardEnded, HandedOver, Released] {
            assert!(ended(end).is_clean(), "{end}");
        }
        for end in [Lost, Expires] {
            assert!(!ended(end).is_clean(), "{end}");
        }
    }

    #[test]
    fn the_steps_come_in_their_order() {
        let draining = Remaining {
            is_candidate: false,
            ..ALL
        };
        let late = Remaining {
            time_is_up: true,
            consumers: 2,
            ..draining
        };
        let stuck = Remaining {
            aborted: true,
            ..late
        };
        let gone = Remaining {
            consumers: 0,
            tasks: false,
            ..stuck
        };
        use ShutdownStep::{Abort, Done, Drain, Leave, StopRenewing};
        assert_eq!(
            [ALL, draining, late, stuck, gone].map(next_step),
            [Leave, Drain, Abort, StopRenewing, Done]
        );
    }

    #[test]
    fn renewing_goes_on_while_consumer_has_time_left() {
        for consumers in 1..4 {
            for is_candidate in [false, true] {
                assert!(
                    next_step(Remaining {
                        is_candidate,
                        consumers,
                        ..ALL
                    }) < ShutdownStep::StopRenewing
                );
            }
        }
    }
}
