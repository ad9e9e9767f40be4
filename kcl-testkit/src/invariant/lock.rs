//! The holder of the leader lock: I14 at every moment.

use std::sync::Arc;
use std::time::Duration;

use kcl_core::clock::Moment;
use kcl_core::invariant::{Invariant, Violation};
use kcl_core::lease_store::{LeaderLock, LockChange, LockExpect};

use super::observation::Process;

/// The lock as the accepted changes made it; `None` until one was seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lock {
    seen: Option<SeenLock>,
}

#[derive(Debug, Clone)]
struct SeenLock {
    /// Nothing when it was given up.
    row: Option<LeaderLock>,
    /// The process that wrote it last.
    process: Process,
    /// When, by the true time.
    at: Moment,
}

impl Lock {
    pub(crate) fn row(&self) -> Option<&LeaderLock> {
        self.seen.as_ref()?.row.as_ref()
    }

    /// Observes a change that the store accepted, and returns `true` if the lock went to another process.
    pub(crate) fn written(
        &mut self,
        process: &Process,
        expect: &LockExpect,
        change: &LockChange,
        at: Moment,
    ) -> Result<bool, Violation> {
        let mut changes_hands = false;
        if let Some(seen) = &self.seen {
            seen.check_base(process, expect)?;
            changes_hands = seen.process != *process;
            if changes_hands {
                seen.check_patience(process, at)?;
            }
        }
        let row = match change {
            LockChange::Hold(row) if !row.released => Some(row.clone()),
            LockChange::Hold(_) | LockChange::Release => None,
        };
        self.seen = Some(SeenLock {
            row,
            process: Arc::clone(process),
            at,
        });
        Ok(changes_hands)
    }
}

impl SeenLock {
    /// Every version has one holder: whoever writes the next one must have seen the last.
    fn check_base(&self, process: &Process, expect: &LockExpect) -> Result<(), Violation> {
        let holds = match (expect, &self.row) {
            (LockExpect::Version { version, owner }, Some(row)) => {
                *version == row.version && *owner == row.owner
            }
            (LockExpect::Absent, Some(_)) => false,
            // Some stores delete a lock that is given up, and some mark it.
            (LockExpect::Absent | LockExpect::Version { .. }, None) => true,
        };
        Invariant::LeaderHarmless.check(holds, || {
            let row = &self.row;
            format!("{process} wrote the leader lock expecting {expect:?}, but it is {row:?}")
        })
    }

    /// A holder that keeps the lock is not overthrown: the lock stood still for its whole duration by the clock of the process that takes it, which may
    /// run 5 % too fast.
    fn check_patience(&self, process: &Process, at: Moment) -> Result<(), Violation> {
        let duration = self.row.as_ref().map_or(Duration::ZERO, |row| row.duration);
        let stood_still = at.saturating_since(self.at);
        Invariant::LeaderHarmless.check(stood_still >= duration - duration / 20, || {
            format!(
                "{process} took the leader lock from {}, which kept it {stood_still:?} ago for {duration:?}",
                self.process
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_secs(10);

    fn row(owner: &str, version: &str) -> LeaderLock {
        LeaderLock {
            owner: owner.parse().unwrap(),
            duration: DURATION,
            version: version.to_owned(),
            released: false,
            standby: None,
        }
    }

    fn seen(owner: &str, version: &str) -> LockExpect {
        LockExpect::Version {
            version: version.to_owned(),
            owner: owner.parse().unwrap(),
        }
    }

    fn hold(owner: &str, version: &str) -> LockChange {
        LockChange::Hold(row(owner, version))
    }

    /// Applies each change in turn: by whom, when, expecting what, and which.
    fn scenario(changes: &[(&str, u64, LockExpect, LockChange)]) -> Vec<Result<bool, Invariant>> {
        let mut lock = Lock::default();
        let outcome = |(process, second, expect, change): &(&str, u64, LockExpect, LockChange)| {
            let at = Moment::from_origin(Duration::from_secs(*second));
            lock.written(&Process::from(*process), expect, change, at)
                .map_err(|violation| violation.invariant)
        };
        changes.iter().map(outcome).collect()
    }

    #[test]
    fn expired_or_released_lock_may_be_taken() {
        let taken = scenario(&[
            ("a", 0, LockExpect::Absent, hold("a", "1")),
            ("a", 2, seen("a", "1"), hold("a", "2")),
            ("b", 12, seen("a", "2"), hold("b", "3")),
            ("b", 13, seen("b", "3"), LockChange::Release),
            ("a", 13, LockExpect::Absent, hold("a", "4")),
        ]);
        assert_eq!(taken, [Ok(false), Ok(false), Ok(true), Ok(false), Ok(true)]);
    }

    #[test]
    fn lock_is_refused_to_writer_without_its_version() {
        let blind = [LockExpect::Absent, seen("a", "0"), seen("b", "1")];
        for expect in blind {
            let taken = scenario(&[
                ("a", 0, LockExpect::Absent, hold("a", "1")),
                ("b", 60, expect, hold("b", "2")),
            ]);
            assert_eq!(taken[1], Err(Invariant::LeaderHarmless));
        }
    }

    #[test]
    fn lock_is_refused_while_its_holder_keeps_it() {
        let taken = scenario(&[
            ("a", 0, LockExpect::Absent, hold("a", "1")),
            ("b", 9, seen("a", "1"), hold("b", "2")),
        ]);
        assert_eq!(taken[1], Err(Invariant::LeaderHarmless));
    }
}
