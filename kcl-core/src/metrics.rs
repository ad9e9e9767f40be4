//! What a worker measures. Every name is a constant here.
//!
//! The handles are registered once per worker with the recorder given to the builder, the global one of the
//! [`metrics`](https://docs.rs/metrics) crate by default.

mod registry;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Recorder};

use registry::Registry;

/// Changes of lease rows, by `verb` and `outcome` (`applied`, `refused`, `failed`). Counter.
pub const LEASE_CHANGES: &str = "kcl_lease_changes_total";
/// Leases that this worker holds. Gauge.
pub const LEASES_HELD: &str = "kcl_leases_held";
/// Leases that were lost to another worker. Counter.
pub const LEASES_LOST: &str = "kcl_leases_lost_total";
/// Holders that passed their own deadline and waited for a renewal. Counter.
pub const LEASES_SUSPENDED: &str = "kcl_leases_suspended_total";
/// Records handed to the processor with success. Counter.
pub const RECORDS_PROCESSED: &str = "kcl_records_processed_total";
/// Payload bytes handed to the processor with success. Counter.
pub const BYTES_PROCESSED: &str = "kcl_bytes_processed_total";
/// Time in `process_records`. Histogram, seconds.
pub const PROCESS_SECONDS: &str = "kcl_process_seconds";
/// Batches that the processor failed on, by `kind` (`error`, `panic`). Counter.
pub const BATCH_FAILURES: &str = "kcl_batch_failures_total";
/// Shards held at a batch that fails. Gauge.
pub const SHARDS_ON_HOLD: &str = "kcl_shards_on_hold";
/// Fetches, by `outcome` (`records`, `empty`, `throttled`, `failed`). Counter.
pub const FETCHES: &str = "kcl_fetches_total";
/// How far the reading is behind the newest record, of the shard that is furthest behind. It grows while a shard cannot be read, and stays
/// near zero where there is nothing new. Gauge, seconds.
pub const BEHIND_SECONDS: &str = "kcl_behind_latest_seconds";
/// How old the oldest record may be that is not finished, of all shards of the worker: with manual checkpoints, that your code has not
/// checkpointed. It grows while a shard is stuck or paused, and stays near zero where everything is finished. Gauge, seconds.
pub const FRESHNESS_SECONDS: &str = "kcl_freshness_seconds";
/// Records that were given to the processor and are not finished, over all shards of the worker. Gauge.
pub const RECORDS_UNFINISHED: &str = "kcl_records_unfinished";
/// Shards that wait, by `reason`, which is a [`WaitReason`](crate::lifecycle::WaitReason). Gauge.
pub const SHARDS_WAITING: &str = "kcl_shards_waiting";
/// How long a shard has waited, of those that wait for this `reason` now: the longest wait, zero where none waits. Gauge, seconds.
pub const WAIT_SECONDS: &str = "kcl_wait_seconds";
/// Shards with which something is wrong, by `concern`, which is a [`Concern`](crate::status::Concern). Gauge.
pub const SHARDS_OF_CONCERN: &str = "kcl_shards_of_concern";
/// Panics of the worker's tasks, by `task`: in your components, or in this library. What follows each is in
/// [`TaskPolicy`](crate::task::TaskPolicy). Panics of a processor are not among them, but in [`BATCH_FAILURES`]. Counter.
pub const TASK_PANICS: &str = "kcl_task_panics_total";
/// User records in aggregates that do not belong to the shard, by what became of them (`delivered`, `withheld`). Counter.
pub const OUTSIDE_SHARD: &str = "kcl_records_outside_shard_total";
/// User records whose explicit hash key is no number from 0 to 2¹²⁸ − 1, and was read as absent. Counter.
pub const INVALID_HASH_KEYS: &str = "kcl_invalid_hash_keys_total";
/// Places where retention took the record at which reading was to go on, and perhaps others: see [`Gap`](crate::model::Gap). Counter.
pub const GAPS: &str = "kcl_retention_gaps_total";
/// Answers that claimed the end of a shard and did not show its children, or children that do not fit: each was checked. Counter.
pub const END_CLAIMS: &str = "kcl_end_claims_total";
/// Bytes of the worker's budget that fetched records take. Gauge.
pub const BYTES_HELD: &str = "kcl_bytes_held";
/// Shards that waited longer than the stall timeout for a part of the worker's budget of bytes. Counter.
pub const STARVED: &str = "kcl_shards_starved_total";
/// Consumers torn down because they made no progress. Counter.
pub const STALLS: &str = "kcl_stalls_total";
/// Times in which a `runtime` ran nothing although something was due: the one that the processors run on (`processing`), because code blocked
/// its threads, or that of the worker's own thread (`coordination`), because the process had no CPU or was stopped. Counter.
pub const STANDSTILLS: &str = "kcl_runtime_standstills_total";
/// Whether this worker is the leader, 0 or 1. Gauge.
pub const LEADER: &str = "kcl_leader";
/// Leases that this worker assigned as leader or deputy. Counter.
pub const ASSIGNMENTS: &str = "kcl_assignments_total";
/// Leases that nobody owns, as the planner sees it. Gauge.
pub const LEASES_UNPLACED: &str = "kcl_leases_unplaced";
/// Leases that this worker deleted as leader because nobody needs them any more. Counter.
pub const LEASES_DELETED: &str = "kcl_leases_deleted_total";
/// Shards that retention took away before they were read to their end: records are lost to the application. Counter.
pub const SHARDS_GONE: &str = "kcl_shards_gone_total";
/// Ranges of hash keys that no lease covers, as the leader has seen more than once. Gauge.
pub const HASH_KEY_HOLES: &str = "kcl_hash_key_holes";
/// Moments at which the worker itself saw one of the [invariants](crate::invariant::Invariant) broken, by `invariant`, its id. Any is a bug:
/// of this library, of the lease store, or of whoever else writes to the table. Counter.
pub const INVARIANT_VIOLATIONS: &str = "kcl_invariant_violations_total";

/// Calls of the lease store, by `operation` (`prepare`, `scan`, `read`, `owned_by`, `change`, `change_worker`, `read_lock`,
/// `change_lock`) and `outcome`: `done`; `refused`, where the expectation did not hold; `throttled`; `failed`, where it did
/// certainly not happen; `unknown`, where it may have happened; `abandoned`, where the worker did not wait for the answer. Counter.
pub const STORE_CALLS: &str = "kcl_store_calls_total";
/// Time until the lease store answered or the worker stopped waiting, by `operation`. Histogram, seconds.
pub const STORE_SECONDS: &str = "kcl_store_call_seconds";
/// Pages that scans of the lease store read, as [`Scan::pages`](crate::lease::Scan::pages) counts them. Counter.
pub const STORE_PAGES: &str = "kcl_store_scan_pages_total";

/// Every metric name with its kind and meaning, for dashboards and for the test of the documentation.
pub const ALL: [(&str, &str); 35] = [
    (LEASE_CHANGES, "counter"),
    (LEASES_HELD, "gauge"),
    (LEASES_LOST, "counter"),
    (LEASES_SUSPENDED, "counter"),
    (RECORDS_PROCESSED, "counter"),
    (BYTES_PROCESSED, "counter"),
    (PROCESS_SECONDS, "histogram"),
    (BATCH_FAILURES, "counter"),
    (SHARDS_ON_HOLD, "gauge"),
    (FETCHES, "counter"),
    (BEHIND_SECONDS, "gauge"),
    (FRESHNESS_SECONDS, "gauge"),
    (RECORDS_UNFINISHED, "gauge"),
    (SHARDS_WAITING, "gauge"),
    (WAIT_SECONDS, "gauge"),
    (SHARDS_OF_CONCERN, "gauge"),
    (TASK_PANICS, "counter"),
    (OUTSIDE_SHARD, "counter"),
    (INVALID_HASH_KEYS, "counter"),
    (GAPS, "counter"),
    (END_CLAIMS, "counter"),
    (BYTES_HELD, "gauge"),
    (STARVED, "counter"),
    (STALLS, "counter"),
    (STANDSTILLS, "counter"),
    (LEADER, "gauge"),
    (ASSIGNMENTS, "counter"),
    (LEASES_UNPLACED, "gauge"),
    (LEASES_DELETED, "counter"),
    (SHARDS_GONE, "counter"),
    (HASH_KEY_HOLES, "gauge"),
    (INVARIANT_VIOLATIONS, "counter"),
    (STORE_CALLS, "counter"),
    (STORE_SECONDS, "histogram"),
    (STORE_PAGES, "counter"),
];

/// The verbs that a lease change can be counted under.
const VERBS: [&str; 11] = [
    "create",
    "renew",
    "assign",
    "begin_handoff",
    "complete_handoff",
    "cancel_handoff",
    "release",
    "checkpoint",
    "end",
    "describe",
    "delete",
];

/// What shards can be counted as waiting for, in the order of [`WaitReason::ALL`](crate::lifecycle::WaitReason::ALL).
const WAITS: [&str; 11] = [
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
];

/// The concerns that shards can be counted under, in the order of [`Concern::ALL`](crate::status::Concern::ALL).
const CONCERNS: [&str; 10] = [
    "suspended",
    "stalled",
    "slow_callback",
    "unreadable",
    "failing",
    "unreachable",
    "starved",
    "end_in_doubt",
    "end_not_stored",
    "not_checkpointed",
];

/// The ids of the invariants, in the order of [`Invariant::ALL`](crate::invariant::Invariant::ALL).
const INVARIANTS: [&str; 15] = [
    "I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I10", "I11", "I12", "I13", "I14", "I15",
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
    "keeper",
    "consumer",
    "fetcher",
    "lane",
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
    lease_changes: Vec<[Counter; 3]>,
    leases_held: Gauge,
    leases_lost: Counter,
    leases_suspended: Counter,
    records: Counter,
    bytes: Counter,
    process_seconds: Histogram,
    batch_errors: Counter,
    batch_panics: Counter,
    on_hold: Gauge,
    fetches: [Counter; 4],
    behind: Gauge,
    freshness: Gauge,
    unfinished: Gauge,
    /// How many shards wait, and the longest wait.
    waits: [(Gauge, Gauge); WAITS.len()],
    concerns: [Gauge; CONCERNS.len()],
    panics: [Counter; TASKS.len()],
    outside: [Counter; 2],
    invalid_hash_keys: Counter,
    gaps: Counter,
    end_claims: Counter,
    bytes_held: Gauge,
    starved: Counter,
    stalls: Counter,
    standstills: [Counter; 2],
    leader: Gauge,
    assignments: Counter,
    unplaced: Gauge,
    deleted: Counter,
    gone: Counter,
    holes: Gauge,
    violations: [Counter; INVARIANTS.len()],
    store: [StoreHandles; StoreOperation::ALL.len()],
    store_pages: Counter,
}

/// What is measured of one operation of the store.
struct StoreHandles {
    calls: [Counter; StoreOutcome::ALL.len()],
    seconds: Histogram,
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
    /// Registers every handle of a worker.
    pub(crate) fn register(recorder: &dyn Recorder, worker: &str) -> Self {
        let registry = Registry {
            recorder,
            worker: worker.to_owned(),
        };
        let changes = |verb| {
            ["applied", "refused", "failed"]
                .map(|outcome| registry.counter(LEASE_CHANGES, &[("verb", verb), ("outcome", outcome)]))
        };
        let handles = Handles {
            lease_changes: VERBS.into_iter().map(changes).collect(),
            leases_held: registry.gauge(LEASES_HELD, &[]),
            leases_lost: registry.counter(LEASES_LOST, &[]),
            leases_suspended: registry.counter(LEASES_SUSPENDED, &[]),
            records: registry.counter(RECORDS_PROCESSED, &[]),
            bytes: registry.counter(BYTES_PROCESSED, &[]),
            process_seconds: registry.histogram(PROCESS_SECONDS, &[]),
            batch_errors: registry.counter(BATCH_FAILURES, &[("kind", "error")]),
            batch_panics: registry.counter(BATCH_FAILURES, &[("kind", "panic")]),
            on_hold: registry.gauge(SHARDS_ON_HOLD, &[]),
            fetches: ["records", "empty", "throttled", "failed"]
                .map(|outcome| registry.counter(FETCHES, &[("outcome", outcome)])),
            behind: registry.gauge(BEHIND_SECONDS, &[]),
            freshness: registry.gauge(FRESHNESS_SECONDS, &[]),
            unfinished: registry.gauge(RECORDS_UNFINISHED, &[]),
            waits: WAITS.map(|reason| {
                let labels = [("reason", reason)];
                (
                    registry.gauge(SHARDS_WAITING, &labels),
                    registry.gauge(WAIT_SECONDS, &labels),
                )
            }),
            concerns: CONCERNS.map(|concern| registry.gauge(SHARDS_OF_CONCERN, &[("concern", concern)])),
            panics: TASKS.map(|task| registry.counter(TASK_PANICS, &[("task", task)])),
            outside: ["delivered", "withheld"]
                .map(|outcome| registry.counter(OUTSIDE_SHARD, &[("outcome", outcome)])),
            invalid_hash_keys: registry.counter(INVALID_HASH_KEYS, &[]),
            gaps: registry.counter(GAPS, &[]),
            end_claims: registry.counter(END_CLAIMS, &[]),
            bytes_held: registry.gauge(BYTES_HELD, &[]),
            starved: registry.counter(STARVED, &[]),
            stalls: registry.counter(STALLS, &[]),
            standstills: ["processing", "coordination"]
                .map(|runtime| registry.counter(STANDSTILLS, &[("runtime", runtime)])),
            leader: registry.gauge(LEADER, &[]),
            assignments: registry.counter(ASSIGNMENTS, &[]),
            unplaced: registry.gauge(LEASES_UNPLACED, &[]),
            deleted: registry.counter(LEASES_DELETED, &[]),
            gone: registry.counter(SHARDS_GONE, &[]),
            holes: registry.gauge(HASH_KEY_HOLES, &[]),
            violations: INVARIANTS.map(|id| registry.counter(INVARIANT_VIOLATIONS, &[("invariant", id)])),
            store: StoreOperation::ALL.map(|operation| StoreHandles {
                calls: StoreOutcome::ALL.map(|outcome| {
                    registry.counter(STORE_CALLS, &[("operation", operation), ("outcome", outcome)])
                }),
                seconds: registry.histogram(STORE_SECONDS, &[("operation", operation)]),
            }),
            store_pages: registry.counter(STORE_PAGES, &[]),
        };
        Self {
            handles: Arc::new(handles),
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
        if let Some(counter) = row.and_then(|row| row.get(column)) {
            counter.increment(1);
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
        self.handles.leases_suspended.increment(1);
    }

    pub(crate) fn batch_processed(&self, records: u64, bytes: u64, took: Duration) {
        self.handles.records.increment(records);
        self.handles.bytes.increment(bytes);
        self.handles.process_seconds.record(took.as_secs_f64());
    }

    pub(crate) fn batch_failed(&self, panicked: bool) {
        if panicked {
            &self.handles.batch_panics
        } else {
            &self.handles.batch_errors
        }
        .increment(1);
    }

    pub(crate) fn hold_begins(&self) {
        self.handles.on_hold.increment(1);
    }

    pub(crate) fn hold_ends(&self) {
        self.handles.on_hold.decrement(1);
    }

    pub(crate) fn fetched(&self, outcome: FetchOutcome) {
        let [records, empty, throttled, failed] = &self.handles.fetches;
        match outcome {
            FetchOutcome::Records => records,
            FetchOutcome::Empty => empty,
            FetchOutcome::Throttled => throttled,
            FetchOutcome::Failed => failed,
        }
        .increment(1);
    }

    /// Of the shard that is furthest behind, in reading and in processing.
    pub(crate) fn lateness(&self, behind: Duration, freshness: Duration) {
        self.handles.behind.set(behind.as_secs_f64());
        self.handles.freshness.set(freshness.as_secs_f64());
    }

    /// How many records were given to processors and are not finished.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub(crate) fn unfinished(&self, records: u64) {
        self.handles.unfinished.set(records as f64);
    }

    /// For the reason at this place of their list, how many shards wait for it, and the longest wait.
    pub(crate) fn waiting(&self, reason: usize, shards: u32, longest: Duration) {
        if let Some((count, age)) = self.handles.waits.get(reason) {
            count.set(f64::from(shards));
            age.set(longest.as_secs_f64());
        }
    }

    /// For the concern at this place of their list, how many shards have it.
    pub(crate) fn of_concern(&self, concern: usize, shards: u32) {
        if let Some(count) = self.handles.concerns.get(concern) {
            count.set(f64::from(shards));
        }
    }

    /// A task of this name panicked.
    pub(crate) fn task_panicked(&self, name: &str) {
        let kind = name.split(' ').next();
        let index = TASKS.iter().position(|task| Some(*task) == kind);
        if let Some(counter) = index.and_then(|index| self.handles.panics.get(index)) {
            counter.increment(1);
        }
    }

    /// Of the user records outside the shard. With a whole aggregate its other records are withheld, too.
    pub(crate) fn outside_shard(&self, outside: usize, withheld: usize) {
        let [delivered, left_out] = &self.handles.outside;
        delivered.increment(outside.saturating_sub(withheld) as u64);
        left_out.increment(withheld as u64);
    }

    pub(crate) fn invalid_hash_keys(&self, records: usize) {
        self.handles.invalid_hash_keys.increment(records as u64);
    }

    pub(crate) fn gap(&self) {
        self.handles.gaps.increment(1);
    }

    pub(crate) fn end_claimed(&self) {
        self.handles.end_claims.increment(1);
    }

    pub(crate) fn bytes_held(&self) -> Gauge {
        self.handles.bytes_held.clone()
    }

    pub(crate) fn starved(&self) {
        self.handles.starved.increment(1);
    }

    pub(crate) fn stalled(&self) {
        self.handles.stalls.increment(1);
    }

    /// A runtime stood still: that of the user's code, or the worker's own.
    pub(crate) fn stood_still(&self, is_own: bool) {
        let [processing, coordination] = &self.handles.standstills;
        if is_own { coordination } else { processing }.increment(1);
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
        self.handles.deleted.increment(count as u64);
    }

    pub(crate) fn shards_gone(&self, count: usize) {
        self.handles.gone.increment(count as u64);
    }

    pub(crate) fn holes(&self, count: usize) {
        self.handles
            .holes
            .set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    }

    /// The invariant at this place of their list was seen to be broken.
    pub(crate) fn invariant_broken(&self, invariant: usize) {
        if let Some(counter) = self.handles.violations.get(invariant) {
            counter.increment(1);
        }
    }

    pub(crate) fn store_call(&self, operation: StoreOperation, outcome: StoreOutcome, took: Duration) {
        let Some(handles) = self.handles.store.get(operation as usize) else {
            return;
        };
        if let Some(counter) = handles.calls.get(outcome as usize) {
            counter.increment(1);
        }
        handles.seconds.record(took.as_secs_f64());
    }

    pub(crate) fn store_pages(&self, pages: u32) {
        self.handles.store_pages.increment(u64::from(pages));
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::lease::LeaseChange;

    #[test]
    fn every_name_is_listed_once() {
        let names: BTreeSet<_> = ALL.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn every_wait_every_concern_and_every_invariant_has_its_label() {
        let label = |name: String| name.replace(' ', "_");
        let waits = crate::lifecycle::WaitReason::ALL.map(|reason| label(reason.to_string()));
        assert_eq!(waits, WAITS);
        let concerns = crate::status::Concern::ALL.map(|concern| label(concern.to_string()));
        assert_eq!(concerns, CONCERNS);
        assert_eq!(
            crate::invariant::Invariant::ALL.map(|invariant| invariant.id()),
            INVARIANTS
        );
    }

    #[test]
    fn every_verb_of_a_lease_change_can_be_counted() {
        assert!(VERBS.contains(&LeaseChange::Release.verb()));
        assert!(VERBS.contains(&LeaseChange::CompleteHandoff.verb()));
        let metrics = Metrics::register(&metrics::NoopRecorder, "w");
        metrics.lease_change("renew", ChangeOutcome::Refused);
    }
}
