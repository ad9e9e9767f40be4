//! The metrics of a worker. Every name is a constant here, and [`ALL`] has the kind, the unit, the labels and the help text of each.
//!
//! The handles are registered and described once per worker with the recorder given to the builder, the global one of the
//! [`metrics`](https://docs.rs/metrics) crate by default. A Prometheus exporter therefore prints the help texts.
//!
//! The series of a worker are few: those that every worker has from the beginning, and each other one when it first happens. Metrics of the
//! level [`Detailed`](MetricsLevel::Detailed) are kept only where [`MetricsSettings::level`](crate::settings::MetricsSettings::level) asks
//! for them.
//!
//! Every metric has the label `worker`: by default the worker's id if your code gave it one, and else the name of the application, because
//! an id that is new at each start would make new series at each start. See
//! [`MetricsSettings::worker_label`](crate::settings::MetricsSettings::worker_label).

mod catalogue;
mod registry;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Recorder};

pub use catalogue::*;
use registry::{OnDemand, Registry};

/// The verbs that a lease change can be counted under.
const VERBS: [&str; 13] = [
    "create",
    "renew",
    "assign",
    "begin_handoff",
    "complete_handoff",
    "cancel_handoff",
    "release",
    "checkpoint",
    "prepare_checkpoint",
    "discard_prepared",
    "end",
    "describe",
    "delete",
];

/// The reasons for which shards can be counted as waiting, in the order of [`WaitReason::ALL`](crate::status::WaitReason::ALL).
const WAITS: [&str; 13] = [
    "parents",
    "initialize",
    "callback",
    "tick",
    "hold",
    "rate_limit",
    "paused",
    "byte_budget",
    "draining",
    "suspended",
    "checkpoints",
    "dead_letter",
    "gap",
];

/// The concerns that shards can be counted under, in the order of [`HealthIssue::ALL`](crate::status::HealthIssue::ALL).
const CONCERNS: [&str; 12] = [
    "suspended",
    "stalled",
    "slow_callback",
    "expiring",
    "unreadable",
    "failing",
    "held_at_gap",
    "unreachable",
    "starved",
    "end_in_doubt",
    "end_not_stored",
    "not_checkpointed",
];

/// The ids of the invariants, in the order of [`Invariant::ALL`](crate::invariant::Invariant::ALL).
const INVARIANTS: [&str; 17] = [
    "I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I10", "I11", "I12", "I13", "I14", "I15", "I16",
    "I17",
];

/// The kinds of tasks whose panics are counted. A task is named by its kind, and by its lease where it has one.
const TASKS: [&str; 14] = [
    "worker",
    "membership",
    "discovery",
    "streams",
    "coordinator",
    "health",
    "grant",
    "renewer",
    "consumer",
    "fetcher",
    "store",
    "ending",
    "leaving",
    "pulse",
];

/// The registered handles of one worker. Clones share them.
#[derive(Clone)]
pub(crate) struct Metrics {
    handles: Arc<Handles>,
}

struct Handles {
    registry: Registry,
    lease_changes: Vec<[OnDemand<Counter>; 3]>,
    leases_held: Gauge,
    leases_lost: Counter,
    leases_suspended: OnDemand<Counter>,
    records: Counter,
    bytes: Counter,
    process_seconds: Histogram,
    batch_errors: OnDemand<Counter>,
    batch_panics: OnDemand<Counter>,
    on_hold: OnDemand<Gauge>,
    dead_letters: OnDemand<Counter>,
    skipped: OnDemand<Counter>,
    left_out: OnDemand<Counter>,
    dead_letter_failures: OnDemand<Counter>,
    fetches: [OnDemand<Counter>; 4],
    behind: Gauge,
    freshness: Gauge,
    unfinished: Gauge,
    /// How many shards wait, and the longest wait.
    waits: [(OnDemand<Gauge>, OnDemand<Gauge>); WAITS.len()],
    concerns: [OnDemand<Gauge>; CONCERNS.len()],
    panics: [OnDemand<Counter>; TASKS.len()],
    outside: [OnDemand<Counter>; 2],
    invalid_hash_keys: OnDemand<Counter>,
    gaps: OnDemand<Counter>,
    end_claims: OnDemand<Counter>,
    bytes_held: Gauge,
    starved: OnDemand<Counter>,
    stalls: OnDemand<Counter>,
    standstills: [OnDemand<Counter>; 2],
    leader: Gauge,
    assignments: Counter,
    unplaced: Gauge,
    deleted: OnDemand<Counter>,
    gone: OnDemand<Counter>,
    holes: Gauge,
    violations: [OnDemand<Counter>; INVARIANTS.len()],
    store_calls: [OnDemand<Counter>; StoreOutcome::ALL.len()],
    store_seconds: [OnDemand<Histogram>; StoreOperation::ALL.len()],
    store_pages: OnDemand<Counter>,
}

/// A call of the lease store, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreOperation {
    Prepare,
    Scan,
    Read,
    OwnedBy,
    Change,
    ChangeWorker,
    ReadLock,
    ChangeLock,
}

impl StoreOperation {
    /// Every operation with its label, in the order of the variants.
    const ALL: [&'static str; 8] = [
        "prepare",
        "scan",
        "read",
        "owned_by",
        "change",
        "change_worker",
        "read_lock",
        "change_lock",
    ];
}

/// How a call of the lease store ended, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreOutcome {
    Done,
    Refused,
    Throttled,
    Failed,
    Unknown,
    Abandoned,
}

impl StoreOutcome {
    /// Every outcome with its label, in the order of the variants.
    const ALL: [&'static str; 6] = ["done", "refused", "throttled", "failed", "unknown", "abandoned"];
}

/// How a change of a lease row ended, for counting.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ChangeOutcome {
    Applied,
    Refused,
    Failed,
}

/// How a fetch ended, for counting.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FetchOutcome {
    Records,
    Empty,
    Throttled,
    Failed,
}

impl Metrics {
    /// Describes the metrics of this level, and registers the handles of a worker under this label: with the given recorder, or with the
    /// global one.
    pub(crate) fn register(
        recorder: Option<Arc<dyn Recorder + Send + Sync>>,
        worker: &str,
        level: MetricsLevel,
    ) -> Self {
        let registry = Registry::new(recorder, worker, level);
        registry.describe_all();
        let changes = |verb| {
            ["applied", "refused", "failed"]
                .map(|outcome| OnDemand::new(LEASE_CHANGES, &[("verb", verb), ("outcome", outcome)]))
        };
        let handles = Handles {
            lease_changes: VERBS.into_iter().map(changes).collect(),
            leases_held: registry.gauge(LEASES_HELD, &[]),
            leases_lost: registry.counter(LEASES_LOST, &[]),
            leases_suspended: OnDemand::new(LEASES_SUSPENDED, &[]),
            records: registry.counter(RECORDS_PROCESSED, &[]),
            bytes: registry.counter(BYTES_PROCESSED, &[]),
            process_seconds: registry.histogram(PROCESS_SECONDS, &[]),
            batch_errors: OnDemand::new(BATCH_FAILURES, &[("kind", "error")]),
            batch_panics: OnDemand::new(BATCH_FAILURES, &[("kind", "panic")]),
            on_hold: OnDemand::new(SHARDS_ON_HOLD, &[]),
            dead_letters: OnDemand::new(RECORDS_SET_ASIDE, &[("outcome", "dead_letter")]),
            left_out: OnDemand::new(RECORDS_LEFT_OUT, &[]),
            skipped: OnDemand::new(RECORDS_SET_ASIDE, &[("outcome", "skipped")]),
            dead_letter_failures: OnDemand::new(DEAD_LETTER_FAILURES, &[]),
            fetches: ["records", "empty", "throttled", "failed"]
                .map(|outcome| OnDemand::new(FETCHES, &[("outcome", outcome)])),
            behind: registry.gauge(BEHIND_SECONDS, &[]),
            freshness: registry.gauge(FRESHNESS_SECONDS, &[]),
            unfinished: registry.gauge(RECORDS_UNFINISHED, &[]),
            waits: WAITS.map(|reason| {
                let labels = [("reason", reason)];
                (
                    OnDemand::new(SHARDS_WAITING, &labels),
                    OnDemand::new(WAIT_SECONDS, &labels),
                )
            }),
            concerns: CONCERNS.map(|concern| OnDemand::new(SHARDS_OF_CONCERN, &[("concern", concern)])),
            panics: TASKS.map(|task| OnDemand::new(TASK_PANICS, &[("task", task)])),
            outside: ["delivered", "withheld"]
                .map(|outcome| OnDemand::new(OUTSIDE_SHARD, &[("outcome", outcome)])),
            invalid_hash_keys: OnDemand::new(INVALID_HASH_KEYS, &[]),
            gaps: OnDemand::new(GAPS, &[]),
            end_claims: OnDemand::new(END_CLAIMS, &[]),
            bytes_held: registry.gauge(BYTES_HELD, &[]),
            starved: OnDemand::new(STARVED, &[]),
            stalls: OnDemand::new(STALLS, &[]),
            standstills: ["processing", "coordination"]
                .map(|runtime| OnDemand::new(STANDSTILLS, &[("runtime", runtime)])),
            leader: registry.gauge(LEADER, &[]),
            assignments: registry.counter(ASSIGNMENTS, &[]),
            unplaced: registry.gauge(LEASES_UNPLACED, &[]),
            deleted: OnDemand::new(LEASES_DELETED, &[]),
            gone: OnDemand::new(SHARDS_GONE, &[]),
            holes: registry.gauge(HASH_KEY_HOLES, &[]),
            violations: INVARIANTS.map(|id| OnDemand::new(INVARIANT_VIOLATIONS, &[("invariant", id)])),
            store_calls: StoreOutcome::ALL.map(|outcome| OnDemand::new(STORE_CALLS, &[("outcome", outcome)])),
            store_seconds: StoreOperation::ALL
                .map(|operation| OnDemand::new(STORE_SECONDS, &[("operation", operation)])),
            store_pages: OnDemand::new(STORE_PAGES, &[]),
            registry,
        };
        Self {
            handles: Arc::new(handles),
        }
    }

    /// Counts what happened; what did not happen has no series.
    fn count(&self, counter: &OnDemand<Counter>, times: u64) {
        if times > 0 {
            counter.counter(&self.handles.registry).increment(times);
        }
    }

    pub(crate) fn lease_change(&self, verb: &str, outcome: ChangeOutcome) {
        let column = match outcome {
            ChangeOutcome::Applied => 0,
            ChangeOutcome::Refused => 1,
            ChangeOutcome::Failed => 2,
        };
        let row = VERBS
            .iter()
            .position(|known| *known == verb)
            .and_then(|row| self.handles.lease_changes.get(row));
        if let Some(changes) = row.and_then(|row| row.get(column)) {
            self.count(changes, 1);
        }
    }

    pub(crate) fn lease_held(&self) {
        self.handles.leases_held.increment(1);
    }

    pub(crate) fn lease_left(&self) {
        self.handles.leases_held.decrement(1);
    }

    pub(crate) fn lease_lost(&self) {
        self.handles.leases_lost.increment(1);
    }

    pub(crate) fn lease_suspended(&self) {
        self.count(&self.handles.leases_suspended, 1);
    }

    pub(crate) fn batch_processed(&self, records: u64, bytes: u64, took: Duration) {
        self.handles.records.increment(records);
        self.handles.bytes.increment(bytes);
        self.handles.process_seconds.record(took.as_secs_f64());
    }

    pub(crate) fn batch_failed(&self, panicked: bool) {
        match panicked {
            true => self.count(&self.handles.batch_panics, 1),
            false => self.count(&self.handles.batch_errors, 1),
        }
    }

    /// Records that were finished before they were delivered.
    pub(crate) fn left_out(&self, records: u64) {
        self.count(&self.handles.left_out, records);
    }

    /// A policy set a record aside.
    pub(crate) fn set_aside(&self, is_skipped: bool) {
        match is_skipped {
            true => self.count(&self.handles.skipped, 1),
            false => self.count(&self.handles.dead_letters, 1),
        }
    }

    pub(crate) fn dead_letter_failed(&self) {
        self.count(&self.handles.dead_letter_failures, 1);
    }

    pub(crate) fn hold_begins(&self) {
        self.handles.on_hold.gauge(&self.handles.registry).increment(1);
    }

    pub(crate) fn hold_ends(&self) {
        self.handles.on_hold.gauge(&self.handles.registry).decrement(1);
    }

    pub(crate) fn fetched(&self, outcome: FetchOutcome) {
        let [records, empty, throttled, failed] = &self.handles.fetches;
        let counter = match outcome {
            FetchOutcome::Records => records,
            FetchOutcome::Empty => empty,
            FetchOutcome::Throttled => throttled,
            FetchOutcome::Failed => failed,
        };
        self.count(counter, 1);
    }

    /// Of the shard that is furthest behind, in reading and in processing.
    pub(crate) fn lateness(&self, behind: Duration, freshness: Duration) {
        self.handles.behind.set(behind.as_secs_f64());
        self.handles.freshness.set(freshness.as_secs_f64());
    }

    /// The freshness of one shard. Asked for by name each time, because a recorder may drop a series that was idle.
    pub(crate) fn shard_freshness(&self, lease: &str, freshness: Duration) {
        let registry = &self.handles.registry;
        let gauge = registry.labelled_gauge(SHARD_FRESHNESS_SECONDS, "lease", lease);
        gauge.set(freshness.as_secs_f64());
    }

    /// How many records were given to processors and are not finished.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub(crate) fn unfinished(&self, records: u64) {
        self.handles.unfinished.set(records as f64);
    }

    /// For the reason at this place of their list, how many shards wait for it, and the longest wait.
    pub(crate) fn waiting(&self, reason: usize, shards: u32, longest: Duration) {
        if let Some((count, age)) = self.handles.waits.get(reason) {
            self.set(count, f64::from(shards));
            self.set(age, longest.as_secs_f64());
        }
    }

    /// For the concern at this place of their list, how many shards have it.
    pub(crate) fn of_concern(&self, concern: usize, shards: u32) {
        if let Some(count) = self.handles.concerns.get(concern) {
            self.set(count, f64::from(shards));
        }
    }

    /// Sets a gauge that is there, or that is no longer 0.
    fn set(&self, gauge: &OnDemand<Gauge>, value: f64) {
        if value > 0.0 || gauge.is_registered() {
            gauge.gauge(&self.handles.registry).set(value);
        }
    }

    /// A task of this name panicked.
    pub(crate) fn task_panicked(&self, name: &str) {
        let kind = name.split(' ').next();
        let index = TASKS.iter().position(|task| Some(*task) == kind);
        if let Some(counter) = index.and_then(|index| self.handles.panics.get(index)) {
            self.count(counter, 1);
        }
    }

    /// Of the user records outside the shard. With a whole aggregate its other records are withheld, too.
    pub(crate) fn outside_shard(&self, outside: usize, withheld: usize) {
        let [delivered, left_out] = &self.handles.outside;
        self.count(delivered, outside.saturating_sub(withheld) as u64);
        self.count(left_out, withheld as u64);
    }

    pub(crate) fn invalid_hash_keys(&self, records: usize) {
        self.count(&self.handles.invalid_hash_keys, records as u64);
    }

    pub(crate) fn gap(&self) {
        self.count(&self.handles.gaps, 1);
    }

    pub(crate) fn end_claimed(&self) {
        self.count(&self.handles.end_claims, 1);
    }

    pub(crate) fn bytes_held(&self) -> Gauge {
        self.handles.bytes_held.clone()
    }

    pub(crate) fn starved(&self) {
        self.count(&self.handles.starved, 1);
    }

    pub(crate) fn stalled(&self) {
        self.count(&self.handles.stalls, 1);
    }

    /// A runtime stood still: that of user code, or the worker's own.
    pub(crate) fn stood_still(&self, is_own: bool) {
        let [processing, coordination] = &self.handles.standstills;
        self.count(if is_own { coordination } else { processing }, 1);
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.handles.leader.set(f64::from(u8::from(leads)));
    }

    pub(crate) fn assigned(&self) {
        self.handles.assignments.increment(1);
    }

    pub(crate) fn unplaced(&self, count: usize) {
        self.handles
            .unplaced
            .set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    }

    pub(crate) fn leases_deleted(&self, count: usize) {
        self.count(&self.handles.deleted, count as u64);
    }

    pub(crate) fn shards_gone(&self, count: usize) {
        self.count(&self.handles.gone, count as u64);
    }

    pub(crate) fn holes(&self, count: usize) {
        self.handles
            .holes
            .set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    }

    /// The invariant at this place of their list was seen to be broken.
    pub(crate) fn invariant_broken(&self, invariant: usize) {
        if let Some(violations) = self.handles.violations.get(invariant) {
            self.count(violations, 1);
        }
    }

    pub(crate) fn store_call(&self, operation: StoreOperation, outcome: StoreOutcome, took: Duration) {
        if let Some(calls) = self.handles.store_calls.get(outcome as usize) {
            self.count(calls, 1);
        }
        if let Some(seconds) = self.handles.store_seconds.get(operation as usize) {
            seconds
                .histogram(&self.handles.registry)
                .record(took.as_secs_f64());
        }
    }

    pub(crate) fn store_pages(&self, pages: u32) {
        self.count(&self.handles.store_pages, u64::from(pages));
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod labels {
    use super::*;
    use crate::lease::change::LeaseChange;

    #[test]
    fn every_wait_concern_and_invariant_has_its_label() {
        let label = |name: String| name.replace(' ', "_");
        let waits = crate::status::WaitReason::ALL.map(|reason| label(reason.to_string()));
        assert_eq!(waits, WAITS);
        let concerns = crate::status::HealthIssue::ALL.map(|concern| label(concern.to_string()));
        assert_eq!(concerns, CONCERNS);
        assert_eq!(
            crate::invariant::Invariant::ALL.map(|invariant| invariant.id()),
            INVARIANTS
        );
    }

    #[test]
    fn every_verb_of_lease_change_can_be_counted() {
        assert!(VERBS.contains(&LeaseChange::Release.verb()));
        assert!(VERBS.contains(&LeaseChange::CompleteHandoff.verb()));
        let metrics = Metrics::register(None, "w", MetricsLevel::Detailed);
        metrics.lease_change("renew", ChangeOutcome::Refused);
    }
}
