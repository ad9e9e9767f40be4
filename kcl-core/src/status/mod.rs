//! The status of a worker, as a snapshot that tests, health checks and people read alike.

mod behind;
mod format;
pub(crate) mod issues;
mod wait_reason;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

pub use behind::Behind;
pub use issues::HealthIssue;
pub use wait_reason::WaitReason;

pub use crate::lifecycle::{ConsumerEnd, ConsumerState};
pub use crate::source::EndDoubt;

use crate::processor::FencingToken;
use crate::runtime::change_signal::{ChangeSignal, ChangeWatcher};
use crate::runtime::clock::{Clock, Moment};
use crate::runtime::lock::Locked;
use crate::source::SourceErrorKind;
use crate::types::{Gap, LeaseKey, Position, RecordPosition, WorkerId};

/// A snapshot of a worker.
///
/// # As JSON
///
/// It serializes, through serde, to plain JSON for a health endpoint or a dashboard: [`Moment`]s become ages at the moment of the snapshot,
/// in seconds with fractions; ids, positions and sequence numbers are texts; the names of what a worker does, waits for or is worried about
/// are in `snake_case`, and those of [`WaitReason`] and [`HealthIssue`] are the labels of the [metrics](crate::metrics). A fact that does not apply is `null`.
/// Fields may be added later; those that are here keep their names and units.
///
/// | Field | What it is |
/// |---|---|
/// | `worker` | the worker's id |
/// | `phase` | [`Phase`]: `starting`, `running`, `draining` or `stopped` |
/// | `is_healthy`, `is_leader` | true or false |
/// | `failover_bound_seconds` | [`failover_bound`](Self::failover_bound) |
/// | `unplaced` | a number of leases |
/// | `standstill_seconds` | for how long the runtime of the processors has run nothing |
/// | `leases` | by the key of the lease, an object of these fields: |
/// | `state` | [`ConsumerState`], such as `running`; how a consumer ended is a state of its own, such as `shard_ended` |
/// | `waiting_for`, `waiting_seconds` | [`WaitReason`], and for how long |
/// | `token` | the [fencing token](LeaseStatus::token), a number |
/// | `suspended_seconds` | for how long the lease could not be renewed |
/// | `checkpoint` | `AT_TIMESTAMP`, `TRIM_HORIZON`, `LATEST`, `SHARD_END`, or a sequence number and, inside an aggregate, a slash and the number in it: `495/2` |
/// | `processed` | the last record processed, as in `checkpoint` |
/// | `records`, `unfinished` | numbers of records |
/// | `unfinished_seconds` | for how long records have waited for a checkpoint of your code |
/// | `behind_seconds`, `freshness_seconds` | how far reading and processing are behind |
/// | `trouble` | [`SourceErrorKind`], such as `denied` |
/// | `failures`, `stalls` | how often in a row |
/// | `unreadable` | the record that cannot be read, as in `checkpoint` |
/// | `end_in_doubt` | [`EndDoubt`], such as `listed_open` |
/// | `expires_in_seconds` | how soon retention takes the oldest record that the held shard has not finished |
/// | `gap` | an object of `after` and `first`, two sequence numbers, of which `first` may be `null` |
/// | `concern` | [`HealthIssue`], such as `slow_callback` |
///
/// A [`LeaseStatus`] alone does not serialize: its moments mean nothing without that of the snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerStatus {
    /// The worker.
    pub worker: WorkerId,
    /// When the snapshot was taken, by the worker's clock: what the ages in it are counted to.
    pub at: Moment,
    /// The phase of the worker as a whole.
    pub phase: Phase,
    /// Whether it is the leader.
    pub is_leader: bool,
    /// The leases it holds.
    pub leases: BTreeMap<LeaseKey, LeaseStatus>,
    /// How long the fleet may take to notice that a worker died and to go on in its place, as far as this worker knows:
    /// known to the leader once it has read the lease table.
    pub failover_bound: Option<Duration>,
    /// As leader: the leases that no worker has, and why is in the log.
    pub unplaced: usize,
    /// Since when the runtime that the processors run on runs nothing, if it does not: code blocks its threads, and no shard is read. Which
    /// callback it is shows in the log.
    pub standstill: Option<Moment>,
}

impl WorkerStatus {
    /// Whether nothing needs anybody's attention: the worker has not stopped, its runtime runs, and nothing is wrong with any of its shards.
    ///
    /// For dashboards and alarms. It is no reason to restart the worker: what it waits for is as slow after a restart.
    pub fn is_healthy(&self) -> bool {
        self.phase != Phase::Stopped
            && self.standstill.is_none()
            && self.leases.values().all(|lease| lease.concern.is_none())
    }
}

/// The phase of a worker as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Looks whether stream and store are there.
    Starting,
    /// Consumes.
    Running,
    /// Gives its leases up.
    Draining,
    /// Has stopped.
    Stopped,
}

/// A snapshot of one lease that a worker holds.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseStatus {
    /// The state of its consumer.
    pub state: ConsumerState,
    /// The reason for which the consumer waits, and since when by the worker's clock.
    pub waiting: Option<(WaitReason, Moment)>,
    /// The token of this ownership.
    pub token: FencingToken,
    /// Since when the lease could not be renewed in time, if it could not: no batch starts until it is renewed.
    pub suspended: Option<Moment>,
    /// The stored checkpoint.
    pub checkpoint: Position,
    /// The last record whose batch the processor has returned `Ok` for.
    pub processed: Option<RecordPosition>,
    /// How many records the processor has returned `Ok` for in this ownership.
    pub records: u64,
    /// How many records were given to the processor and are not finished: it has not returned `Ok` for them or, with
    /// [manual checkpoints](crate::settings::CheckpointMode::Manual), your code has not checkpointed them.
    pub unfinished: u64,
    /// With manual checkpoints, since when by the worker's clock the processor has returned from records that your code has not
    /// checkpointed; `None` where there are none.
    pub unfinished_since: Option<Moment>,
    /// How far behind the newest record of the shard the reading is. Where a source does not report it, each answer counts as all there was.
    pub behind: Behind,
    /// How old the oldest record may be that is not finished: the freshness of its data. With manual checkpoints a record is finished once
    /// your code has checkpointed it. No clocks of two hosts are compared
    /// for it: a record counts as old as the answer of the source before the one that brought it. Where everything is finished it is as old as
    /// the last answer.
    pub freshness: Behind,
    /// Why the shard could not be read the last time it was tried; `None` when it could.
    pub trouble: Option<SourceErrorKind>,
    /// How often the processor has failed in a row.
    pub failures: u32,
    /// The record that cannot be read, if the shard is held at one.
    pub unreadable: Option<RecordPosition>,
    /// The record that the processor fails on, where that is known.
    pub failing: Option<RecordPosition>,
    /// How many records have failed and are not finished, where a handler goes on with others: [`failing`](Self::failing) is the oldest of them.
    pub parked: u64,
    /// How many records were sent to the dead-letter sink in this ownership.
    pub dead_letters: u64,
    /// How many records were skipped in this ownership, as the error policy said.
    pub skipped: u64,
    /// How often in a row the shard was opened again because its consumer made no progress.
    pub stalls: u32,
    /// Why it is not known whether the shard has ended, if that is asked and cannot be answered.
    pub end_in_doubt: Option<EndDoubt>,
    /// Where reading last went on behind a place that retention had removed in this ownership: records may be missing there.
    pub gap: Option<Gap>,
    /// When by the worker's clock retention takes the oldest record that the shard has not finished. Known while a shard is held by a failure,
    /// from the [warning](HealthIssue::Expiring) on.
    pub expires: Option<Moment>,
    /// The issue of the shard, if it has one.
    pub concern: Option<HealthIssue>,
}

impl LeaseStatus {
    /// The status of a lease of which nothing is to be said but its state and checkpoint.
    #[cfg(test)]
    pub(crate) fn unremarkable(state: ConsumerState, checkpoint: Position, at: Moment) -> Self {
        Self {
            state,
            waiting: None,
            token: FencingToken::new(1),
            suspended: None,
            checkpoint,
            processed: None,
            records: 0,
            unfinished: 0,
            unfinished_since: None,
            behind: Behind::new(Duration::ZERO, at),
            freshness: Behind::new(Duration::ZERO, at),
            trouble: None,
            failures: 0,
            unreadable: None,
            failing: None,
            parked: 0,
            dead_letters: 0,
            skipped: 0,
            stalls: 0,
            end_in_doubt: None,
            gap: None,
            expires: None,
            concern: None,
        }
    }

    /// Whether the shard is held by a failure of user code or of a dead-letter sink, or at a gap: what it has not finished grows old.
    pub(crate) fn is_held(&self) -> bool {
        let waits = self.waiting.map(|(reason, _)| reason);
        let is_held_by = matches!(waits, Some(WaitReason::DeadLetter | WaitReason::Gap));
        self.failures > 0 || self.unreadable.is_some() || is_held_by
    }

    /// How long the consumer has waited for what it waits for now, given the [moment of the snapshot](WorkerStatus::at).
    pub fn waited(&self, at: Moment) -> Option<(WaitReason, Duration)> {
        let (reason, since) = self.waiting?;
        Some((reason, at.saturating_since(since)))
    }
}

/// The state of a worker as a whole, and the tasks that wait for a change of its status. The leases answer for themselves.
#[derive(Debug)]
pub(crate) struct WorkerState {
    worker: WorkerId,
    clock: Arc<dyn Clock>,
    whole: Locked<WholeState>,
    changes: ChangeSignal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct WholeState {
    phase: Phase,
    is_leader: bool,
    failover_bound: Option<Duration>,
    unplaced: usize,
    standstill: Option<Moment>,
}

impl WorkerState {
    pub(crate) fn new(worker: WorkerId, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            worker,
            clock,
            whole: Locked::new(WholeState {
                phase: Phase::Starting,
                is_leader: false,
                failover_bound: None,
                unplaced: 0,
                standstill: None,
            }),
            changes: ChangeSignal::default(),
        })
    }

    /// Sets the phase of the worker.
    pub(crate) fn update_phase(&self, phase: Phase) {
        self.update(|whole| whole.phase = phase);
    }

    /// Sets since when the runtime of the consumers stands still.
    pub(crate) fn update_standstill(&self, since: Option<Moment>) {
        self.update(|whole| whole.standstill = since);
    }

    /// Sets the role that the coordinator reports.
    pub(crate) fn update_leadership(&self, leads: bool, bound: Option<Duration>, unplaced: usize) {
        self.update(|whole| {
            (whole.is_leader, whole.failover_bound, whole.unplaced) = (leads, bound, unplaced);
        });
    }

    /// Watchers are woken only by a change.
    fn update(&self, change: impl FnOnce(&mut WholeState)) {
        let is_new = {
            let mut whole = self.whole.lock();
            let before = *whole;
            change(&mut whole);
            *whole != before
        };
        if is_new {
            self.changed();
        }
    }

    /// Wakes the tasks that wait for a change of the status. Called after the change.
    pub(crate) fn changed(&self) {
        self.changes.notify();
    }

    /// Becomes a watcher of the status.
    pub(crate) fn watch(&self) -> ChangeWatcher<'_> {
        self.changes.watch()
    }

    /// The status of the worker now, with what `leases` answers for this moment.
    pub(crate) fn snapshot(
        &self,
        leases: impl FnOnce(Moment) -> BTreeMap<LeaseKey, LeaseStatus>,
    ) -> WorkerStatus {
        let whole = *self.whole.lock();
        let at = self.clock.now();
        WorkerStatus {
            worker: self.worker.clone(),
            at,
            phase: whole.phase,
            is_leader: whole.is_leader,
            leases: leases(at),
            failover_bound: whole.failover_bound,
            unplaced: whole.unplaced,
            standstill: whole.standstill,
        }
    }
}
