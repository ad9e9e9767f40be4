//! Sees everything that happens in a simulated fleet, and checks it at once.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::invariant::{Checker, Invariant, Observation, Process, Violation, Written};
use kcl_core::clock::{Clock, Moment};
use kcl_core::lease_store::LeaseChange;
use kcl_core::processor::ShardContext;
use kcl_core::settings::{CheckpointMode, RetentionGap};
use kcl_core::types::{Gap, LeaseKey, RecordPosition, SequenceNumber, WorkerId};
use tokio::sync::Notify;

use super::history::History;
use super::trace::Trace;
use crate::clock::SkewedClock;
use crate::faults::{Happened, StoreCall, StoreEvent};

/// A listener to the calls of the lease store: by which process, and with which effect.
pub(super) type Listener = Arc<dyn Fn(&str, &StoreEvent) + Send + Sync>;

/// Shared by everything that has something to report.
#[derive(Clone)]
pub(super) struct Oracle {
    shared: Arc<OracleShared>,
}

struct OracleShared {
    clock: SkewedClock,
    state: Mutex<OracleState>,
    changed: Notify,
}

struct OracleState {
    checker: Checker,
    trace: Trace,
    violation: Option<Violation>,
    history: History,
    listener: Option<Listener>,
}

impl Oracle {
    pub(super) fn new(clock: SkewedClock, trace_lines: usize) -> Self {
        let state = OracleState {
            checker: Checker::default(),
            trace: Trace::new(trace_lines),
            violation: None,
            history: History::default(),
            listener: None,
        };
        Self {
            shared: Arc::new(OracleShared {
                clock,
                state: Mutex::new(state),
                changed: Notify::new(),
            }),
        }
    }

    /// Observes an event. The first violation stays: those after it mean nothing.
    pub(super) fn observe(&self, observation: &Observation) {
        let mut state = self.lock();
        if state.violation.is_none() {
            state.violation = state.checker.observe(observation).err();
        }
        let now = self.now();
        state.history.observe(observation, now);
        drop(state);
        self.shared.changed.notify_waiters();
    }

    /// Takes this violation for the first one, unless there was one before.
    pub(super) fn break_off(&self, violation: Violation) {
        self.lock().violation.get_or_insert(violation);
        self.shared.changed.notify_waiters();
    }

    /// Adds a line to the trace.
    pub(super) fn note(&self, event: &dyn fmt::Display) {
        let at = self.now();
        self.lock().trace.line(at, event);
    }

    pub(super) fn now(&self) -> Moment {
        self.shared.clock.now()
    }

    /// Asks the checker, and the trace.
    pub(super) fn ask<T>(&self, question: impl FnOnce(&Checker) -> T) -> T {
        question(&self.lock().checker)
    }

    /// Asks what has become of the leases and their shards.
    pub(super) fn recall<T>(&self, question: impl FnOnce(&History) -> T) -> T {
        question(&self.lock().history)
    }

    /// Calls the listener after every call of the lease store from now on, once the oracle has observed it.
    pub(super) fn listen(&self, listener: Option<Listener>) {
        self.lock().listener = listener;
    }

    /// Outside of the lock: the listener may do something to the fleet.
    fn tell(&self, process: &Process, event: &StoreEvent) {
        let listener = self.lock().listener.clone();
        if let Some(listener) = listener {
            listener(process, event);
        }
    }

    pub(super) fn trace(&self) -> Vec<String> {
        self.lock().trace.lines()
    }

    pub(super) fn trace_hash(&self) -> u64 {
        self.lock().trace.hash()
    }

    pub(super) fn violation(&self) -> Option<Violation> {
        self.lock().violation.clone()
    }

    /// Ready when something has happened since the call.
    pub(super) fn changed(&self) -> impl Future<Output = ()> {
        self.shared.changed.notified()
    }

    /// Returns once an invariant is broken.
    pub(super) async fn violated(&self) -> Violation {
        loop {
            let changed = self.changed();
            if let Some(violation) = self.violation() {
                return violation;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, OracleState> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a process may go on behind a gap. Clones share what was accepted.
#[derive(Debug, Clone)]
pub(super) struct GapRule {
    setting: RetentionGap,
    accepted: Arc<Mutex<BTreeSet<(LeaseKey, SequenceNumber)>>>,
}

impl GapRule {
    pub(super) fn new(setting: RetentionGap) -> Self {
        Self {
            setting,
            accepted: Arc::default(),
        }
    }

    /// An operator accepts the gap of this shard.
    pub(super) fn accept(&self, lease: LeaseKey, gap: &Gap) {
        self.lock().insert((lease, gap.after.clone()));
    }

    pub(super) fn check(&self, process: &Process, lease: &LeaseKey, gap: &Gap) -> Result<(), Violation> {
        let is_held = self.setting == RetentionGap::Hold;
        let may_go_on = !is_held || self.lock().contains(&(lease.clone(), gap.after.clone()));
        Invariant::NoRecordLost.check(may_go_on, || {
            format!("{process} goes on in {lease} {gap}, which no operator has accepted")
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(LeaseKey, SequenceNumber)>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One process, as the oracle sees it.
#[derive(Clone)]
pub(super) struct Witness {
    pub(super) oracle: Oracle,
    pub(super) process: Process,
    pub(super) worker: WorkerId,
    pub(super) failover: Duration,
    pub(super) checkpointing: CheckpointMode,
    pub(super) gaps: GapRule,
    pub(super) clock: SkewedClock,
}

impl Witness {
    /// Observes the effect of one call of the process on the lease store, and passes it on.
    pub(super) fn store_event(&self, event: &StoreEvent) {
        self.take_in(event);
        self.oracle.tell(&self.process, event);
    }

    /// As [`store_event`](Self::store_event), for somebody who is no worker and keeps no rules.
    pub(super) fn foreign_event(&self, event: &StoreEvent) {
        match (&event.call, &event.happened) {
            (
                StoreCall::Change {
                    key,
                    change: LeaseChange::Delete,
                    ..
                },
                Happened::Applied(_),
            ) => {
                self.oracle
                    .note(&format_args!("{:<8} removes the row of {key}", self.process));
                let key = key.clone();
                self.oracle.observe(&Observation::Removed { key });
                self.oracle.tell(&self.process, event);
            }
            _ => self.store_event(event),
        }
    }

    /// Observes that every record up to this one is finished, as the user's code says.
    pub(super) fn checkpointed(&self, shard: &ShardContext, through: &RecordPosition) {
        let (process, lease) = (&self.process, shard.lease());
        self.oracle.note(&format_args!(
            "{process:<8} checkpoints {lease} through {}",
            Short(through)
        ));
        self.oracle.observe(&Observation::Checkpointed {
            process: Arc::clone(process),
            shard: lease.clone(),
            token: shard.fencing_token(),
            through: through.clone(),
        });
    }

    /// Observes that the user's code commits what was prepared.
    pub(super) fn committed(&self, shard: &ShardContext, through: RecordPosition) {
        let (process, lease) = (&self.process, shard.lease());
        self.oracle.note(&format_args!(
            "{process:<8} commits what is pending of {lease} through {}",
            Short(&through)
        ));
        self.oracle.observe(&Observation::PendingCommitted {
            process: Arc::clone(process),
            shard: lease.clone(),
            token: shard.fencing_token(),
            through,
        });
    }

    fn take_in(&self, event: &StoreEvent) {
        let process = &self.process;
        if let (StoreCall::ChangeLock { expect, change }, Happened::Applied(_)) =
            (&event.call, &event.happened)
        {
            self.oracle.observe(&Observation::LockWritten {
                process: Arc::clone(process),
                expect: expect.clone(),
                change: change.clone(),
                at: event.at,
            });
        }
        let StoreCall::Change {
            key,
            expect,
            change,
            incarnation,
        } = &event.call
        else {
            let kind = event.call.operation() as u8;
            self.oracle.lock().trace.mark(event.at, process, kind);
            return;
        };
        let verb = change.verb();
        let Happened::Applied(Some(row)) = &event.happened else {
            let happened = match &event.happened {
                Happened::Refused => "refused",
                Happened::Nothing | Happened::Answered | Happened::Applied(_) | Happened::Failed { .. } => {
                    "did not happen"
                }
            };
            return self
                .oracle
                .note(&format_args!("{process:<8} {verb} {key}: {happened}"));
        };
        let lost = if event.reply_lost { " (reply lost)" } else { "" };
        self.oracle.note(&format_args!(
            "{process:<8} {verb} {key}: counter {} owner {} checkpoint {}{lost}",
            row.counter,
            Owners(row.owner.as_ref(), row.checkpoint_owner.as_ref()),
            Short(&row.checkpoint)
        ));
        self.oracle.observe(&Observation::Written(Box::new(Written {
            process: Arc::clone(process),
            worker: self.worker.clone(),
            failover: self.failover,
            key: key.clone(),
            expect: expect.clone(),
            change: change.clone(),
            incarnation: *incarnation,
            after: (**row).clone(),
            now: self.clock.now(),
        })));
    }
}

/// The last digits of a position: those before them are the same for every record of a simulation.
pub(super) struct Short<T>(pub(super) T);

impl<T: fmt::Display> fmt::Display for Short<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let is_number = text.starts_with(|first: char| first.is_ascii_digit());
        let skip = if is_number {
            text.len().saturating_sub(20)
        } else {
            0
        };
        f.write_str(text.get(skip..).unwrap_or(&text))
    }
}

struct Owners<'a>(Option<&'a WorkerId>, Option<&'a WorkerId>);

impl fmt::Display for Owners<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (None, _) => f.write_str("nobody"),
            (Some(owner), None) => write!(f, "{owner}"),
            (Some(next), Some(owner)) => write!(f, "{owner} (then {next})"),
        }
    }
}
