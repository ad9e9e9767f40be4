//! A fleet at one moment, as its fields.

use std::collections::BTreeMap;

use kcl_core::lease_store::GivenOrder;
use serde::Serialize;

use crate::state::{ShardState, Thresholds};

/// Where a lag comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LagSource {
    /// The owner wrote it into the row.
    Row,
    /// It was asked from the stream, at the checkpoint.
    Stream,
}

/// A fleet at one moment.
///
/// As JSON it has the fields of the structs, with units in their names; `docs/kcl.md` documents each.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FleetView {
    /// The application.
    pub application: String,
    /// When the view was made, in milliseconds since 1970 by the clock of the viewer.
    pub time_ms: i64,
    /// The whole in a few numbers.
    pub summary: Summary,
    /// The shards, in the order of their lease keys.
    pub shards: Vec<ShardView>,
    /// The workers, in the order of their ids.
    pub workers: Vec<WorkerView>,
    /// Rows that look like the fleet's and cannot be read, as `key: problem`.
    pub unreadable_rows: Vec<String>,
    #[serde(skip)]
    pub(crate) thresholds: Thresholds,
}

/// One lease.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ShardView {
    /// The key of the lease.
    pub lease: String,
    /// The stream, where the row names it.
    pub stream: Option<String>,
    /// The shard.
    pub shard: String,
    /// The state in one word.
    pub state: ShardState,
    /// The worker that processes the shard.
    pub owner: Option<String>,
    /// The worker that has the lease next, during a handoff.
    pub next_owner: Option<String>,
    /// The checkpoint: a sequence number or a sentinel.
    pub checkpoint: String,
    /// The sub-sequence number of the checkpoint.
    pub sub_sequence: u64,
    /// Whether a checkpoint is prepared and not committed.
    pub has_pending_checkpoint: bool,
    /// How far reading is behind the newest record, in milliseconds.
    pub lag_ms: Option<u64>,
    /// Where the lag comes from.
    pub lag_source: Option<LagSource>,
    /// The age of the oldest record that is not finished, in milliseconds.
    pub freshness_ms: Option<u64>,
    /// The moving average of what was finished, in KiB per second.
    pub rate_kib_per_s: Option<f64>,
    /// Records read per second.
    pub read_records_per_s: Option<f64>,
    /// Records finished per second.
    pub finished_records_per_s: Option<f64>,
    /// How long until the shard has caught up at its pace, in seconds; `null` where that is not known, or never.
    pub catch_up_s: Option<u64>,
    /// How often the failing call was made; 0 where nothing fails.
    pub attempts: u32,
    /// The age of the last progress, in milliseconds.
    pub last_progress_ms: Option<u64>,
    /// The reason for which the owner waits, by the names of the metrics.
    pub waiting: Option<String>,
    /// The thing that is wrong with the shard, by the names of the metrics.
    pub concern: Option<String>,
    /// The position of the first record that fails.
    pub failing_record: Option<String>,
    /// How long ago the owner wrote its report into the row, by the clock of the viewer, in milliseconds. The report is of that time.
    pub report_age_ms: Option<u64>,
    /// The orders of operators that hold, such as `paused` or `limit to 500 records/s`.
    pub orders: Vec<String>,
    /// The revision of the orders; 0 where none was ever given.
    pub orders_revision: u64,
    /// The revision that the owner answered.
    pub answered_revision: Option<u64>,
    /// Why the owner refused the newest order, if it did.
    pub refused: Option<String>,
    /// The last orders, the newest last.
    pub order_history: Vec<OrderView>,
    /// The shards that it came from.
    pub parents: Vec<String>,
    /// The parents that are in the table and not finished.
    pub unfinished_parents: Vec<String>,
    /// The shards that it became.
    pub children: Vec<String>,
    /// How many splits and merges are between it and its oldest ancestor in the table.
    pub generation: u32,
    /// The first hash key, as decimal digits.
    pub hash_start: Option<String>,
    /// The last hash key, as decimal digits.
    pub hash_end: Option<String>,
    /// The lease counter.
    pub counter: u64,
    /// How often the owner changed since the last checkpoint.
    pub owner_switches: u64,
    /// Whether the row was written last by a worker that is none of this library: a Java worker.
    pub is_java: bool,
    /// Why the owner counts as silent, in words.
    pub silent_owner: Option<String>,
}

/// One order of an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OrderView {
    /// Its revision.
    pub revision: u64,
    /// When it was given, in milliseconds since 1970, by the clock of the operator's host.
    pub at_ms: i64,
    /// Its author.
    pub author: String,
    /// Why it was given, in the author's words.
    pub reason: Option<String>,
    /// The order.
    pub order: String,
    /// The checkpoint before it, where it moved the checkpoint.
    pub checkpoint_before: Option<String>,
}

impl OrderView {
    pub(crate) fn of(given: &GivenOrder) -> Self {
        let before = given.before.as_ref();
        Self {
            revision: given.revision,
            at_ms: given.at.as_millis(),
            author: given.author.clone(),
            reason: given.reason.clone(),
            order: given.order.clone(),
            checkpoint_before: before.map(ToString::to_string),
        }
    }
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WorkerView {
    /// The worker's id.
    pub worker: String,
    /// Whether its row was written lately, by the clock of the viewer: see [`Thresholds::silence`]. A worker of this library without a row
    /// counts as silent. `None` where one look cannot say: workers of the Java KCL 2.x have no rows, and only the counters of their leases
    /// move, which [`FleetView::compare`] sees.
    pub is_live: Option<bool>,
    /// Since when the counters of its leases were seen standing still, where it has no row; in milliseconds since 1970.
    #[serde(skip)]
    pub(crate) quiet_since_ms: Option<i64>,
    /// How many leases it owns that are not ended.
    pub leases: u32,
    /// How many of these are LAGGING, STALLED or HELD.
    pub leases_of_concern: u32,
    /// How many leases come to it by handoffs under way.
    pub incoming: u32,
    /// The payload that its shards finish together, in KiB per second.
    pub rate_kib_per_s: f64,
    /// The most leases that it wants.
    pub max_leases: Option<u32>,
    /// The failover time that it lives by, in milliseconds.
    pub failover_ms: Option<u64>,
    /// The age of its row by the clock of the viewer, in milliseconds; `null` where it has no row.
    pub row_age_ms: Option<u64>,
    /// The version of the library that it runs, where it says so.
    pub version: Option<String>,
    /// How long it has been running, in milliseconds, where it says so.
    pub uptime_ms: Option<u64>,
    /// Whether it is the leader.
    pub is_leader: bool,
    /// Whether it stands in for the leader.
    pub is_standby: bool,
    /// Whether it is a worker of the Java KCL.
    pub is_java: bool,
    /// The orders of operators that hold: `excluded`, or `drained`.
    pub orders: Vec<String>,
}

/// A fleet in a few numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// The gravest state of its shards, in the order UNOWNED, STALLED, HELD, LAGGING, PAUSED, UNKNOWN, OK.
    pub state: String,
    /// Live workers.
    pub live_workers: u32,
    /// Workers of which it is not known whether they live.
    pub unknown_workers: u32,
    /// Workers of the Java KCL among all.
    pub java_workers: u32,
    /// All leases.
    pub leases: u32,
    /// The leases that are not ended.
    pub open_leases: u32,
    /// The number of leases in each state that occurs.
    pub states: BTreeMap<String, u32>,
    /// The largest lag, in milliseconds, and none where no lag is known.
    pub max_lag_ms: Option<u64>,
    /// For how many leases that are not ended the lag is known.
    pub known_lags: u32,
    /// The longest time to catch up, in seconds.
    pub max_catch_up_s: Option<u64>,
    /// The payload that all shards finish together, in KiB per second.
    pub rate_kib_per_s: f64,
    /// The leader.
    pub leader: Option<String>,
    /// The streams that the rows name.
    pub streams: Vec<String>,
}
