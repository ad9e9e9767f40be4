//! Every metric, once: from one line come its constant, its documentation, its entry in [`ALL`] and its description for a recorder.

use metrics::Unit;
use serde::{Deserialize, Serialize};

/// The kind of number that a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum MetricKind {
    /// Rises only.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Many values, of which their spread is kept.
    Histogram,
}

/// How much a worker measures: each level has all of those before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MetricsLevel {
    /// For alarms and everyday dashboards: no more series for a worker than the Java KCL sends, and none for a shard that keeps up.
    #[default]
    Essential,
    /// Beside it what each operation of the lease store takes, and how leases change: a series for each operation and for each verb.
    Detailed,
}

/// The description of a metric.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::metrics::{ALL, FRESHNESS_SECONDS, MetricKind};
///
/// let freshness = ALL.iter().find(|metric| metric.name == FRESHNESS_SECONDS).expect("it is listed");
/// assert_eq!(freshness.kind, MetricKind::Gauge);
/// assert!(freshness.help.ends_with('.') && freshness.labels.is_empty());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name, as the constants of this module say it.
    pub name: &'static str,
    /// The kind of number that it is.
    pub kind: MetricKind,
    /// The unit of the number.
    pub unit: Unit,
    /// The names of its labels, beside `worker`, which every metric has.
    pub labels: &'static [&'static str],
    /// The level from which on it is kept.
    pub level: MetricsLevel,
    /// Its meaning, in one line: the `# HELP` of a Prometheus exporter.
    pub help: &'static str,
}

macro_rules! level {
    () => {
        MetricsLevel::Essential
    };
    ($level:ident) => {
        MetricsLevel::$level
    };
}

macro_rules! catalogue {
    ($(
        $constant:ident = $name:literal, $kind:ident of $unit:ident $(by $($label:ident),+)? $(from $level:ident)?:
        $help:literal
        $(#[doc = $more:literal])*
    )+) => {
        $(
            #[doc = $help]
            #[doc = concat!("\n", stringify!($kind), " (", stringify!($unit), ")" $($(, ", `", stringify!($label), "`")+)? $(, "; from [`", stringify!($level), "`](MetricsLevel::", stringify!($level), ") on")?, ".")]
            $(#[doc = $more])*
            pub const $constant: &str = $name;
        )+

        /// Every metric, for dashboards, for exporters and for the documentation.
        pub const ALL: &[Metric] = &[$(
            Metric {
                name: $name,
                kind: MetricKind::$kind,
                unit: Unit::$unit,
                labels: &[$($(stringify!($label)),+)?],
                level: level!($($level)?),
                help: $help,
            },
        )+];
    };
}

catalogue! {
    LEASE_CHANGES = "kcl_lease_changes_total", Counter of Count by verb, outcome from Detailed:
    "Changes of lease rows; the outcome is applied, refused or failed."

    LEASES_HELD = "kcl_leases_held", Gauge of Count:
    "Leases that the worker holds."

    LEASES_LOST = "kcl_leases_lost_total", Counter of Count:
    "Leases that were lost to another worker."

    LEASES_SUSPENDED = "kcl_leases_suspended_total", Counter of Count:
    "Leases that were not renewed in time, so that no batch started until they were."

    RECORDS_PROCESSED = "kcl_records_processed_total", Counter of Count:
    "Records for which the processor returned success."

    BYTES_PROCESSED = "kcl_processed_bytes_total", Counter of Bytes:
    "Payload for which the processor returned success."

    PROCESS_SECONDS = "kcl_process_seconds", Histogram of Seconds:
    "Time that a call of the processor took; of the calls of a handler that end together, the longest."

    BATCH_FAILURES = "kcl_batch_failures_total", Counter of Count by kind:
    "Batches that the processor failed on; the kind is error or panic."

    SHARDS_ON_HOLD = "kcl_shards_on_hold", Gauge of Count:
    "Shards that are held at a batch which fails."

    RECORDS_SET_ASIDE = "kcl_records_set_aside_total", Counter of Count by outcome:
    "Records that the error policy set aside; the outcome is dead_letter or skipped."

    RECORDS_LEFT_OUT = "kcl_records_left_out_total", Counter of Count:
    "Records that were not delivered again because they were finished ahead of the checkpoint."

    DEAD_LETTER_FAILURES = "kcl_dead_letter_failures_total", Counter of Count:
    "Dead letters that the sink did not acknowledge; they are sent again, and the shard is held."

    FETCHES = "kcl_fetches_total", Counter of Count by outcome:
    "Fetches; the outcome is records, empty, throttled or failed."

    BEHIND_SECONDS = "kcl_behind_latest_seconds", Gauge of Seconds:
    "How far the reading is behind the newest record, of the shard that is furthest behind. It grows while a shard cannot be read."

    FRESHNESS_SECONDS = "kcl_freshness_seconds", Gauge of Seconds:
    "How old the oldest record may be that is not finished, of all shards of the worker. It grows while a shard is stuck or paused."
    /// With manual checkpoints a record is finished once your code has checkpointed it. It stays near zero where everything is finished.

    SHARD_FRESHNESS_SECONDS = "kcl_shard_freshness_seconds", Gauge of Seconds by lease:
    "The freshness of the shards that are furthest behind, from ten seconds on; 0 for a shard that no longer is among them."
    /// How many shards have a series at a time is [`MetricsSettings::top_shards`](crate::settings::MetricsSettings::top_shards).

    RECORDS_UNFINISHED = "kcl_records_unfinished", Gauge of Count:
    "Records that were given to the processor and are not finished."

    SHARDS_WAITING = "kcl_shards_waiting", Gauge of Count by reason:
    "Shards that wait."
    /// The reason is a [`WaitReason`](crate::status::WaitReason).

    WAIT_SECONDS = "kcl_wait_seconds", Gauge of Seconds by reason:
    "The longest of the waits that last, and 0 where no shard waits for that."
    /// The reason is a [`WaitReason`](crate::status::WaitReason).

    SHARDS_OF_CONCERN = "kcl_shards_of_concern", Gauge of Count by concern:
    "Shards with which something is wrong."
    /// The concern is a [`HealthIssue`](crate::status::HealthIssue).

    TASK_PANICS = "kcl_task_panics_total", Counter of Count by task:
    "Panics of the worker's tasks: in components of yours, or in this library. Those of a processor are failures of batches."
    /// The reaction to each is in [`TaskPolicy`](crate::runtime::task_scope::TaskPolicy).

    OUTSIDE_SHARD = "kcl_records_outside_shard_total", Counter of Count by outcome:
    "User records in aggregates that do not belong to the shard; the outcome is delivered or withheld."

    INVALID_HASH_KEYS = "kcl_invalid_hash_keys_total", Counter of Count:
    "User records whose explicit hash key is no number of 128 bits, and was read as absent."

    GAPS = "kcl_retention_gaps_total", Counter of Count:
    "Places where retention took the record at which reading was to go on, and perhaps others."
    /// See [`Gap`](crate::types::Gap).

    END_CLAIMS = "kcl_end_claims_total", Counter of Count:
    "Answers that claimed the end of a shard without children, or with children that do not fit. Each was checked."

    BYTES_HELD = "kcl_held_bytes", Gauge of Bytes:
    "The part of the worker's budget of bytes that fetched records take."

    STARVED = "kcl_shards_starved_total", Counter of Count:
    "Shards that waited longer than the stall timeout for a part of the worker's budget of bytes."

    STALLS = "kcl_stalls_total", Counter of Count:
    "Consumers that were started again because they made no progress."

    STANDSTILLS = "kcl_runtime_standstills_total", Counter of Count by runtime:
    "Times in which a runtime ran nothing although something was due. The runtime is that of the processing or of the coordination."
    /// That of the `processing` stands still because code blocks its threads, that of the `coordination`, which is the worker's own thread,
    /// because the process had no CPU or was stopped.

    LEADER = "kcl_leader", Gauge of Count:
    "1 if the worker is the leader, else 0."

    ASSIGNMENTS = "kcl_assignments_total", Counter of Count:
    "Leases that the worker assigned as leader or standby."

    LEASES_UNPLACED = "kcl_leases_unplaced", Gauge of Count:
    "Leases without an owner, as the leader sees it."

    LEASES_DELETED = "kcl_leases_deleted_total", Counter of Count:
    "Leases that the worker deleted as leader because they are needed no more."

    SHARDS_GONE = "kcl_shards_gone_total", Counter of Count:
    "Shards that retention took before they were read to their end: the application has lost records."

    HASH_KEY_HOLES = "kcl_hash_key_holes", Gauge of Count:
    "Ranges of hash keys that no lease covers, as the leader has seen more than once."

    INVARIANT_VIOLATIONS = "kcl_invariant_violations_total", Counter of Count by invariant:
    "Moments at which the worker saw one of the invariants broken. Any is a bug."
    /// The label is the id of an [`Invariant`](crate::invariant::Invariant). The bug is one of this library, of the lease store, or of
    /// another writer to the table.

    STORE_CALLS = "kcl_store_calls_total", Counter of Count by outcome:
    "Calls of the lease store; the outcome is done, refused, throttled, failed, unknown or abandoned."
    /// `refused`: the expectation did not hold. `failed`: it did certainly not happen. `unknown`: it may have happened. `abandoned`: the
    /// worker did not wait for the answer.

    STORE_SECONDS = "kcl_store_call_seconds", Histogram of Seconds by operation from Detailed:
    "Time until the lease store answered or the worker stopped waiting."
    /// The operations are `prepare`, `scan`, `read`, `owned_by`, `change`, `change_worker`, `read_lock` and `change_lock`.

    STORE_PAGES = "kcl_store_scan_pages_total", Counter of Count from Detailed:
    "Pages that scans of the lease store read."
    /// See [`Scan::pages`](crate::lease::store::Scan::pages).
}
