//! Decides who leads: what to do about the leader lock, and when the standby stands in.
//!
//! The lock is the item of the Java KCL's lock client: the holder writes a fresh random version with each heartbeat, and a challenger
//! takes the lock once it has itself watched one version stand still for longer than the duration that the holder stored.
//! The holder stops leading a tenth of the duration before anybody may take the lock, counted from the *sending* of its last
//! successful heartbeat, which covers clocks that run 5 % too fast or too slow.
//!
//! Leading is a convenience, never a licence: every write of a leader carries its own condition, so that two leaders do no harm.

use std::collections::VecDeque;
use std::time::Duration;

use crate::coordinator::assignment::snapshot::Candidate;
use crate::lease::expiry_watch::ExpiryWatch;
use crate::lease::row::Lease;
use crate::lease::worker_row::{LeaderLock, LockChange, LockExpect};
use crate::runtime::clock::Moment;
use crate::runtime::failpoint::failpoint;
use crate::runtime::rng::Rng;
use crate::settings::timing::Timing;
use crate::types::WorkerId;

/// How many heartbeats whose outcome is unknown are remembered. An older one can no longer land: each expects the version before it.
const MAX_ATTEMPTS: usize = 8;

/// The next action on the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElectionAction {
    /// The lock is held and needs nothing.
    Lead,
    /// The lock is held, and its next heartbeat is due.
    Heartbeat {
        /// The lock as it was written last.
        expect: LockExpect,
        /// The lock as it is to be.
        row: LeaderLock,
    },
    /// The lock is free: try to lead.
    Take {
        /// The lock as it was read.
        expect: LockExpect,
        /// The lock as it is to be.
        row: LeaderLock,
    },
    /// Another worker leads.
    Follow,
    /// The lock was lost: stop leading.
    StepDown,
}

/// One worker's view of the leader lock.
///
/// Feed it what is read ([`look`](Self::look)) and what became of each write, ask it for the next [`step`](Self::step).
#[derive(Debug, Clone)]
pub struct LeaderElection {
    me: WorkerId,
    failover: Duration,
    poll: Duration,
    lock: Option<LeaderLock>,
    watch: ExpiryWatch<(), Option<(WorkerId, String)>>,
    /// Whom the last lock that this worker saw named.
    standby: Option<WorkerId>,
    has_looked: bool,
    term: Option<Term>,
    attempts: VecDeque<Term>,
    not_before: Moment,
}

/// A version of the lock that this worker wrote, and when it sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    version: String,
    sent: Moment,
    ends: Moment,
}

impl Term {
    fn of(row: &LeaderLock, sent: Moment) -> Self {
        Self {
            version: row.version.clone(),
            sent,
            ends: sent + Timing::of(row.duration).validity,
        }
    }
}

/// How long the lock must stand still. One of a broken row must not keep the fleet from having a leader for ever.
fn lasts(lock: &LeaderLock) -> Duration {
    lock.duration.min(Lease::LONGEST_FAILOVER)
}

impl LeaderElection {
    /// The view of a worker that has not looked yet. `poll` is how often it means to read the lock.
    pub fn new(me: WorkerId, failover: Duration, poll: Duration) -> Self {
        Self {
            me,
            failover,
            poll,
            lock: None,
            watch: ExpiryWatch::new(poll),
            standby: None,
            has_looked: false,
            term: None,
            attempts: VecDeque::new(),
            not_before: Moment::ZERO,
        }
    }

    /// Notes what a strong read of the lock showed at `now`.
    pub fn look(&mut self, now: Moment, lock: Option<LeaderLock>) {
        let mark = lock
            .as_ref()
            .map(|lock| (lock.owner.clone(), lock.version.clone()));
        self.watch.look(now, [((), mark)]);
        self.has_looked = true;
        if let Some(lock) = &lock {
            self.standby.clone_from(&lock.standby);
        }
        if let Some(lock) = lock.as_ref().filter(|lock| lock.owner == self.me) {
            // A heartbeat whose reply was lost shows itself here.
            if let Some(landed) = self
                .attempts
                .iter()
                .position(|attempt| attempt.version == lock.version)
            {
                self.term = self.attempts.drain(..=landed).next_back();
            }
        }
        self.lock = lock;
    }

    /// Returns the next action at `now`. `standby` is the worker that the lock should name; the randomness makes the next version.
    pub fn step(&self, now: Moment, standby: Option<&WorkerId>, rng: &mut Rng) -> ElectionAction {
        if !self.has_looked {
            return ElectionAction::Follow;
        }
        let row = LeaderLock {
            owner: self.me.clone(),
            duration: self.failover,
            version: uuid::Builder::from_random_bytes(rng.bytes())
                .into_uuid()
                .to_string(),
            released: false,
            standby: standby.cloned(),
        };
        let may_take = now >= self.not_before;
        let patience = self.patience();
        match &self.lock {
            Some(lock) if self.is_mine(lock) => {
                let expect = expect(lock);
                let is_due = self.term.as_ref().is_none_or(|term| {
                    now.saturating_since(term.sent) >= Timing::of(self.failover).lock_heartbeat
                });
                if is_due || lock.standby != row.standby || lock.duration != row.duration {
                    ElectionAction::Heartbeat { expect, row }
                } else {
                    ElectionAction::Lead
                }
            }
            _ if self.term.is_some() => ElectionAction::StepDown,
            None if may_take && self.still_for() >= patience => ElectionAction::Take {
                expect: LockExpect::Absent,
                row,
            },
            Some(lock) if may_take && self.is_free(lock, patience) => ElectionAction::Take {
                expect: expect(lock),
                row,
            },
            None | Some(_) => ElectionAction::Follow,
        }
    }

    /// Notes that this row is about to be sent, at `now`. Call it *before* sending: a slow reply shortens the term.
    pub fn sending(&mut self, now: Moment, row: &LeaderLock) {
        if self.attempts.len() == MAX_ATTEMPTS {
            self.attempts.pop_front();
        }
        self.attempts.push_back(Term::of(row, now));
    }

    /// Notes that the row was written: this worker leads.
    ///
    /// If the outcome is unknown call nothing; the next [`look`](Self::look) shows whether the write landed.
    pub fn written(&mut self, row: LeaderLock) {
        if let Some(landed) = self
            .attempts
            .iter()
            .position(|attempt| attempt.version == row.version)
        {
            self.term = self.attempts.drain(..=landed).next_back();
        }
        self.lock = Some(row);
    }

    /// Notes that the write of this version was refused, or did not happen: it will not land later.
    pub fn refused(&mut self, version: &str) {
        self.attempts.retain(|attempt| attempt.version != version);
    }

    /// Notes that the worker stops leading, because it lost the lock or gives it up, and shall not try again before then.
    /// Returns the change that gives the lock up, if it is held.
    pub fn step_down(&mut self, not_before: Moment) -> Option<(LockExpect, LockChange)> {
        let held = self.lock.as_ref().filter(|lock| self.is_mine(lock)).map(expect);
        self.term = None;
        self.attempts.clear();
        self.not_before = not_before;
        Some((held?, LockChange::Release))
    }

    /// Whether this worker leads at `now`.
    pub fn leads(&self, now: Moment) -> bool {
        self.term.as_ref().is_some_and(|term| now < term.ends)
    }

    /// Until when this worker may believe to lead, if it holds the lock.
    pub fn leads_until(&self) -> Option<Moment> {
        self.term.as_ref().map(|term| term.ends)
    }

    /// Whether this worker watches the table as the leader does: the leader named it its standby, or no worker.
    ///
    /// A leader that was alone names no standby, and one that dies before it knows of others never will. A worker that comes then
    /// watches from the beginning; with a living leader it takes one scan until there is one standby. When a leader
    /// steps down its standby stays what it was until a worker leads: it is about to, and must not forget what it has seen.
    pub fn is_standby(&self) -> bool {
        match self.lock.as_ref().filter(|lock| !lock.released) {
            Some(lock) if lock.owner == self.me => false,
            Some(lock) => lock.standby.as_ref().is_none_or(|standby| *standby == self.me),
            None => self.standby.as_ref() == Some(&self.me),
        }
    }

    /// Whether this worker gives away leases in the silent leader's place: it is the standby, and the lock has stood still for half its duration.
    pub fn stands_in(&self) -> bool {
        let duration = self.lock.as_ref().map_or(Duration::MAX, lasts);
        self.is_standby() && self.still_for() >= Timing::of(duration).stand_in
    }

    /// The lock as it was last read or written.
    pub fn lock(&self) -> Option<&LeaderLock> {
        self.lock.as_ref()
    }

    fn is_free(&self, lock: &LeaderLock, patience: Duration) -> bool {
        if failpoint!(ImpatientChallenger) {
            return true;
        }
        if lock.released {
            return self.still_for() >= patience;
        }
        // A challenger whose clock is 5 % fast does not come before a standby whose clock is 5 % slow.
        let drift = match patience.is_zero() {
            true => Duration::ZERO,
            false => Timing::of(lasts(lock)).lock_drift,
        };
        self.still_for() > lasts(lock) + drift + patience
    }

    /// How much longer than the standby anybody else waits before it takes the lock.
    ///
    /// The standby has watched the leases all along. Another leader would watch each of them for a whole failover time first,
    /// and those of the dead leader would go without an owner for that long.
    fn patience(&self) -> Duration {
        match &self.standby {
            Some(standby) if *standby != self.me => self.poll.max(self.pace()) * 3,
            Some(_) | None => Duration::ZERO,
        }
    }

    /// How often to read the lock: as often as the failover time of its holder asks for, where that is shorter than this worker's own. A
    /// standby that looked less often would come after a challenger with a shorter failover time, who has not watched the leases.
    pub(crate) fn poll(&self) -> Duration {
        self.poll.min(self.pace())
    }

    /// How often a worker reads the lock that lives by the failover time of its holder.
    fn pace(&self) -> Duration {
        let lock = self.lock.as_ref();
        lock.map_or(self.poll, |lock| Timing::of(lasts(lock)).lock_poll)
    }

    fn still_for(&self) -> Duration {
        self.watch.still_for(&()).unwrap_or_default()
    }

    /// Whether the lock shows a version of this run of this process. Our worker id alone is another process, or an earlier one.
    fn is_mine(&self, lock: &LeaderLock) -> bool {
        let term = self.term.as_ref();
        lock.owner == self.me && !lock.released && term.is_some_and(|term| term.version == lock.version)
    }
}

fn expect(lock: &LeaderLock) -> LockExpect {
    LockExpect::Version {
        version: lock.version.clone(),
        owner: lock.owner.clone(),
    }
}

/// The worker that should stand in for the leader `me`: the current standby as long as it lives,
/// else a worker seen to live, else any; the first by name.
#[must_use]
pub fn pick_standby(candidates: &[Candidate], me: &WorkerId, current: Option<&WorkerId>) -> Option<WorkerId> {
    let fit = candidates
        .iter()
        .filter(|worker| !worker.leaving && worker.id != *me);
    fit.min_by_key(|worker| (Some(&worker.id) != current, !worker.proven, &worker.id))
        .map(|worker| worker.id.clone())
}

#[cfg(test)]
mod tests;
