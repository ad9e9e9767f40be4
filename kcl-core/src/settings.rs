//! Settings, as plain data: every default explained, every violation reported at once.

mod assignment;
mod durations;
mod metrics;
pub(crate) mod scan_cadence;
pub(crate) mod timing;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use assignment::{AssignmentSettings, Strategy};
pub use metrics::MetricsSettings;

use crate::lease::row::Lease;
use crate::settings::timing::Timing;
use crate::types::InitialPosition;

/// The shortest time after which the leases of a stream may be deleted that is read no more.
const SHORTEST_MEMORY: Duration = Duration::from_secs(600);

/// How a worker behaves. Plain data: it can be read from a file, with every field optional.
///
/// A file writes a duration as a number with its unit: `"3s"`, `"250ms"`, `"1m 30s"`, `"2h"`, `"7d"`.
/// Components (stores, sources, clocks, policies) are not settings; they go on the builder.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use std::time::Duration;
/// use kinesis_client::settings::Settings;
///
/// let settings = Settings { failover_time: Duration::from_secs(3), ..Settings::default() };
/// assert!(settings.validate().is_ok());
/// let broken = Settings { prefetch_batches: 0, stall_tries: 0, ..Settings::default() };
/// assert_eq!(broken.validate().unwrap_err().violations().len(), 2);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How long a worker must be silent before its leases are given to others. At least 200 ms. 10 s by default, as in the
    /// Java KCL. Shorter finds dead workers sooner and costs more renewals: each lease is renewed every third of that time.
    #[serde(with = "durations")]
    pub failover_time: Duration,
    /// Where a stream is read from when the application has no leases for it yet. The oldest record by default, because
    /// that skips nothing. (The Java KCL starts at the newest.)
    pub initial_position: InitialPosition,
    /// The most leases this worker wants. No limit by default.
    pub max_leases: Option<u32>,
    /// The most throughput this worker wants, in KiB/s over all its shards. No limit by default. A worker that has reached it
    /// gets no further leases and keeps those it has. Unlike with the Java KCL it is each worker's own limit, not the leader's for all.
    pub max_throughput: Option<u32>,
    /// Whether batches are checkpointed by the worker once `process_records` returns `Ok`, or only by the user's code.
    pub checkpointing: Checkpointing,
    /// The shortest time between two automatic checkpoints of one shard. 1 s by default: what a failover repeats at most,
    /// beyond the batch under way. Longer costs fewer writes, up to a third of the failover time: then the lease must be
    /// renewed anyway, and a renewal carries what is finished.
    #[serde(with = "durations")]
    pub checkpoint_interval: Duration,
    /// The treatment of aggregated records, as the Kinesis Producer Library writes them. They are unpacked by default.
    pub aggregation: Aggregation,
    /// The most Kinesis records in one fetch, 1 to 10,000. 10,000 by default, the most that Kinesis gives. An aggregated record counts
    /// as one, and may be unpacked to many; these come in batches that fit the memory budget, which may end inside of an aggregate.
    pub max_batch_records: u32,
    /// How many batches of a shard are fetched ahead of the processor, 1 to 16. 2 by default: one is processed while
    /// the next is on its way.
    pub prefetch_batches: u32,
    /// The most memory for records that were fetched and are not finished, in MiB over all shards of the worker; at least 32, 256 by default.
    /// Half is assured to the shards in parts of up to 256 KiB, the other half is lent to those that have much to read. Records that your
    /// code keeps beyond their batch, and what a request brings until it is known to be more than there is room for, come on top.
    pub memory_budget: u32,
    /// How long a consumer that waits for nothing it could name may make no step before it is torn down and opened again.
    /// At least the failover time. 60 s by default, longer than the slowest answer of a healthy service.
    #[serde(with = "durations")]
    pub stall_timeout: Duration,
    /// How often a consumer is opened again without a step in between before its lease is released. At least 1; 3 by default.
    pub stall_tries: u32,
    /// After how long without another call the processor is called because time has passed, by
    /// [`tick`](crate::processor::RecordProcessor::tick). Above zero; 1 s by default.
    #[serde(with = "durations")]
    pub tick_interval: Duration,
    /// How long a call of your code may take before the worker warns: in the log, ever less often while the call goes on, in the
    /// status as a [concern](crate::status::HealthIssue::SlowCallback), and in the metrics. 60 s by default. The lease is kept however long it takes.
    #[serde(with = "durations")]
    pub slow_callback: Duration,
    /// With [manual checkpoints](Checkpointing::Manual), how long records that `process_records` returned from may stay without a checkpoint
    /// before the worker warns: in the log, ever less often while it lasts, in the status as a
    /// [concern](crate::status::HealthIssue::NotCheckpointed), and in the metrics. 5 minutes by default. Set it above the longest time for
    /// which your code collects records. The lease is kept however long it takes.
    #[serde(with = "durations")]
    pub slow_checkpoint: Duration,
    /// How often a child shard looks whether its parents are finished. 500 ms by default.
    #[serde(with = "durations")]
    pub parent_poll_interval: Duration,
    /// How often a worker looks for leases that were assigned to it, at most the failover time. 500 ms by default. It bounds how
    /// long a lease that was given to this worker waits for it, and is a part of the time in which a fleet answers to a crash: what is
    /// longer than the default comes on top of the failover time and two seconds, as the
    /// [status](crate::status::WorkerStatus::failover_bound) says.
    #[serde(with = "durations")]
    pub discovery_interval: Duration,
    /// How long an owner may take to hand a lease over before it keeps it. 30 s by default, as in the Java KCL.
    #[serde(with = "durations")]
    pub handoff_timeout: Duration,
    /// How long the shutdown may take, the user's callbacks included. 25 s by default, so that it fits into the 30 s that
    /// Kubernetes gives a pod. The last quarter, or a third of the failover time if that is less, is kept for giving up
    /// the leases of callbacks that did not return. Batches are offered in parts that the processor is likely to finish in about a fifth of
    /// it, by how long its calls have taken; what is left of a batch is offered next.
    #[serde(with = "durations")]
    pub drain_timeout: Duration,
    /// How long a start may go on trying while a service does not answer. 60 s by default.
    #[serde(with = "durations")]
    pub start_timeout: Duration,
    /// Whether the leader deletes the leases of finished shards once nothing needs them: when all that a shard became is being
    /// processed, or when the shard is listed no more. On by default, as in the Java KCL; off keeps them as a record.
    pub cleanup: bool,
    /// How long the leases of a stream that the application reads no more are kept, checkpoints and all. For ever by default,
    /// as in the Java KCL; only where the application reads [many streams](crate::worker::builder::WorkerBuilder::streams). The time
    /// counts while no worker holds a lease of the stream, and begins again with a new leader; it stands still while the tracker does not
    /// answer, and while a stream that it lists cannot be opened. At least ten minutes: a tracker that loses a stream for a while must not
    /// cost its checkpoints.
    #[serde(with = "durations::optional")]
    pub forget_streams_after: Option<Duration>,
    /// How the leader assigns leases.
    pub assignment: AssignmentSettings,
    /// How the worker's metrics are labelled.
    pub metrics: MetricsSettings,
    /// Takes over the table of a Java application, all of whose workers are stopped. Off by default, so that a table that Java workers may
    /// be using is refused. The table remembers the answer: it is needed for one start. A table that a live Java worker uses is refused
    /// all the time, because a Java worker and this library do not share a fleet.
    pub take_over_java: bool,
}

/// The party that declares a record done for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checkpointing {
    /// The worker, for the whole batch, once `process_records` has returned `Ok`.
    #[default]
    Automatic,
    /// The user's code, through [`RecordBatch::checkpoint_through`](crate::processor::RecordBatch::checkpoint_through).
    /// The worker stores the end of a shard once `shard_ended` has returned `Ok` and your code has checkpointed the last record, unless
    /// [`end_of_shard`](crate::processor::RecordProcessor::end_of_shard) says otherwise.
    Manual,
}

/// The treatment of aggregated records, and of those user records in them that do not belong to the shard.
///
/// A producer packs by the shards that it knows. If one of them was split meanwhile, its aggregate reaches one of the children whole. The
/// Kinesis Producer Library notices and sends records again: since August 2024 those that do not belong to that child, before that all of
/// the aggregate. Other aggregators send nothing again.
///
/// # Producers that resend
///
/// With a producer that sends again, [`Deliver`](Self::Deliver) brings every copy: one of a KPL's design that lives through a split may send
/// a record many times, until it learns of the new shards. Where all producers send again what lies outside of the shard,
/// [`Filter`](Self::Filter) or [`FilterRecords`](Self::FilterRecords) delivers each record once; where one of them does not, they lose
/// records, so they are not the default. How many records lie outside is counted under every setting, in
/// [`kcl_records_outside_shard_total`](crate::metrics::OUTSIDE_SHARD), and said once for each shard at WARN. An alert on
/// `rate(kcl_records_outside_shard_total[5m]) > 0` shows it; with the default it means records that may come twice, with a filter
/// records that were left out.
///
/// # Changing it
///
/// A change takes effect at the checkpoint of each shard. From the others to [`Raw`](Self::Raw), an aggregate of which only a part is finished
/// is delivered again, whole: its checkpoint is not moved back, and stays where it is until the next record is finished. As the position of a
/// raw record is that of its first user record, a worker under [`Raw`](Self::Raw) that begins at the stored checkpoint of such a record
/// delivers this one record again. From [`Raw`](Self::Raw) to the others, the user records behind the first of the last finished aggregate
/// are delivered again. Nothing is dropped in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// All user records are delivered. Those that the producer sends again come twice; none is lost.
    #[default]
    Deliver,
    /// An aggregate with any user record outside is left out, as by the Java KCL. With the Kinesis Producer Library since August 2024, and
    /// with other aggregators, this loses records.
    Filter,
    /// The user records outside are left out. With aggregators other than the Kinesis Producer Library this loses records.
    FilterRecords,
    /// An aggregate with any user record outside is a failure, about which the error policy decides.
    Fail,
    /// Nothing is unpacked: an aggregated record is delivered as it came.
    Raw,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failover_time: Duration::from_secs(10),
            initial_position: InitialPosition::TrimHorizon,
            max_leases: None,
            max_throughput: None,
            checkpointing: Checkpointing::Automatic,
            checkpoint_interval: Duration::from_secs(1),
            aggregation: Aggregation::Deliver,
            max_batch_records: 10_000,
            prefetch_batches: 2,
            memory_budget: 256,
            stall_timeout: Duration::from_secs(60),
            stall_tries: 3,
            tick_interval: Duration::from_secs(1),
            slow_callback: Duration::from_secs(60),
            slow_checkpoint: Duration::from_secs(300),
            parent_poll_interval: Duration::from_millis(500),
            discovery_interval: Duration::from_millis(500),
            handoff_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(25),
            start_timeout: Duration::from_secs(60),
            cleanup: true,
            forget_streams_after: None,
            assignment: AssignmentSettings::default(),
            metrics: MetricsSettings::default(),
            take_over_java: false,
        }
    }
}

impl Settings {
    /// The part of the drain timeout that is kept for giving up the leases of callbacks that did not return.
    pub(crate) fn drain_grace(&self) -> Duration {
        Timing::of(self.failover_time)
            .drain_grace
            .min(self.drain_timeout / 4)
    }

    /// Checks every rule there is between the settings.
    ///
    /// # Errors
    ///
    /// All violations at once, each with what to change.
    pub fn validate(&self) -> Result<(), InvalidSettings> {
        let failover = self.failover_time;
        let rules = [
            (
                failover < Duration::from_millis(200),
                "failover_time must be at least 200 ms: a lease is renewed every third of it",
            ),
            (
                failover > Lease::LONGEST_FAILOVER,
                "failover_time must be at most an hour: the leases of a dead worker wait that long",
            ),
            (
                self.max_leases == Some(0),
                "max_leases must be at least 1: a worker without leases does nothing",
            ),
            (
                self.max_throughput == Some(0),
                "max_throughput must be at least 1 KiB/s: a worker without leases does nothing",
            ),
            (
                !(1..=10_000).contains(&self.max_batch_records),
                "max_batch_records must be 1 to 10,000, as Kinesis allows",
            ),
            (
                !(1..=16).contains(&self.prefetch_batches),
                "prefetch_batches must be 1 to 16: each holds up to 10 MiB",
            ),
            (
                self.memory_budget < 32,
                "memory_budget must be at least 32 MiB: a single answer of Kinesis takes up to 10",
            ),
            (
                self.stall_timeout < failover,
                "stall_timeout must be at least failover_time: a consumer is given time to reopen before its lease goes",
            ),
            (
                !(1..=1000).contains(&self.stall_tries),
                "stall_tries must be 1 to 1000: the lease of a shard that cannot be read is released after so many",
            ),
            (
                self.slow_callback.is_zero(),
                "slow_callback must be above zero: every call takes some time",
            ),
            (
                self.tick_interval.is_zero(),
                "tick_interval must be above zero: a tick is a call of the processor",
            ),
            (
                self.slow_checkpoint.is_zero(),
                "slow_checkpoint must be above zero: a checkpoint takes a write to the lease table",
            ),
            (
                self.parent_poll_interval.is_zero(),
                "parent_poll_interval must be above zero: it is a read of the lease table",
            ),
            (
                self.discovery_interval.is_zero(),
                "discovery_interval must be above zero: it is a query of the lease table",
            ),
            (
                self.discovery_interval > failover,
                "discovery_interval must be at most failover_time: a lease given to this worker would expire before it is found",
            ),
            (
                self.handoff_timeout < Duration::from_millis(100),
                "handoff_timeout must be at least 100 ms: an owner needs time to finish its batch and to store it",
            ),
            (
                self.drain_timeout.is_zero(),
                "drain_timeout must be above zero: no callback could return in time",
            ),
            (
                self.forget_streams_after
                    .is_some_and(|after| after < SHORTEST_MEMORY),
                "forget_streams_after must be at least 10 minutes: what a tracker loses for a while is not gone; leave it out to keep the leases for ever",
            ),
            (
                self.start_timeout.is_zero(),
                "start_timeout must be above zero: no service could answer in time",
            ),
        ];
        let violated = rules
            .into_iter()
            .filter(|(violated, _)| *violated)
            .map(|(_, rule)| rule.to_owned());
        let violations: Vec<_> = violated
            .chain(self.too_long())
            .chain(self.assignment.violations(failover))
            .chain(self.metrics.violations())
            .collect();
        if violations.is_empty() {
            Ok(())
        } else {
            Err(InvalidSettings { violations })
        }
    }
}

impl Settings {
    /// The durations that are longer than they can be meant.
    fn too_long(&self) -> impl Iterator<Item = String> {
        let limits = [
            (
                "checkpoint_interval",
                self.checkpoint_interval,
                HOUR,
                "a crash repeats all that was finished meanwhile",
            ),
            (
                "stall_timeout",
                self.stall_timeout,
                DAY,
                "a reader that is stuck is not opened again before",
            ),
            (
                "slow_callback",
                self.slow_callback,
                YEAR,
                "no warning comes before",
            ),
            (
                "slow_checkpoint",
                self.slow_checkpoint,
                YEAR,
                "no warning comes before",
            ),
            (
                "tick_interval",
                self.tick_interval,
                DAY,
                "a processor that collects records is not told before that time has passed",
            ),
            (
                "parent_poll_interval",
                self.parent_poll_interval,
                HOUR,
                "a child shard waits that long after its parent",
            ),
            (
                "handoff_timeout",
                self.handoff_timeout,
                DAY,
                "a handoff that hangs is not ended before",
            ),
            (
                "drain_timeout",
                self.drain_timeout,
                DAY,
                "a worker whose callback hangs does not stop before",
            ),
            (
                "start_timeout",
                self.start_timeout,
                YEAR,
                "a start that cannot succeed is not reported before",
            ),
            (
                "forget_streams_after",
                self.forget_streams_after.unwrap_or_default(),
                10 * YEAR,
                "leave it out to keep the leases for ever",
            ),
        ];
        limits
            .into_iter()
            .filter(|(_, value, limit, _)| value > limit)
            .map(|(name, _, limit, why)| {
                let limit = humantime::format_duration(limit);
                format!("{name} must be at most {limit}: {why}")
            })
    }
}

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The settings contradict each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidSettings {
    violations: Vec<String>,
}

impl InvalidSettings {
    /// Every rule that is violated, each with what to change.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }
}

impl fmt::Display for InvalidSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.violations.join("; "))
    }
}

impl std::error::Error for InvalidSettings {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Settings::default().validate(), Ok(()));
    }

    #[test]
    fn every_violation_is_reported_at_once() {
        let settings = Settings {
            failover_time: Duration::from_millis(1),
            max_leases: Some(0),
            max_throughput: Some(0),
            max_batch_records: 0,
            prefetch_batches: 99,
            ..Settings::default()
        };
        let violations = settings.validate().unwrap_err();
        // Neither the discovery interval nor the scans fit such a failover time, which are violations of their own.
        assert_eq!(violations.violations().len(), 7, "{violations}");
    }

    #[test]
    fn every_duration_without_end_is_refused() {
        let without_end = Settings {
            failover_time: Duration::MAX,
            checkpoint_interval: Duration::MAX,
            stall_timeout: Duration::MAX,
            slow_callback: Duration::MAX,
            slow_checkpoint: Duration::MAX,
            tick_interval: Duration::MAX,
            parent_poll_interval: Duration::MAX,
            discovery_interval: Duration::MAX,
            handoff_timeout: Duration::MAX,
            drain_timeout: Duration::MAX,
            start_timeout: Duration::MAX,
            forget_streams_after: Some(Duration::MAX),
            ..Settings::default()
        };
        let violations = without_end.validate().unwrap_err();
        // The discovery interval is at most the failover time, which is refused itself.
        assert_eq!(violations.violations().len(), 11, "{violations}");
        let written = serde_json::to_string(&without_end).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&written).unwrap(), without_end);
    }

    #[test]
    fn durations_in_a_file_have_units() {
        let file = r#"{"failover_time": "3s", "checkpoint_interval": "250ms", "forget_streams_after": "7d"}"#;
        let settings: Settings = serde_json::from_str(file).unwrap();
        let expected = Settings {
            failover_time: Duration::from_secs(3),
            checkpoint_interval: Duration::from_millis(250),
            forget_streams_after: Some(7 * DAY),
            ..Settings::default()
        };
        assert_eq!(settings, expected);
        let written = serde_json::to_string(&settings).unwrap();
        assert!(
            written.contains(r#""failover_time":"3s""#) && !written.contains("secs"),
            "{written}"
        );
        assert_eq!(serde_json::from_str::<Settings>(&written).unwrap(), settings);
        for wrong in ["3", "\"3\"", "\"3 lightyears\"", "null"] {
            let file = format!(r#"{{"failover_time": {wrong}}}"#);
            let error = serde_json::from_str::<Settings>(&file).unwrap_err().to_string();
            assert!(error.contains("like \"3s\""), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_misspelt_assignment_setting_is_refused() {
        for file in [
            r#"{"assignment": {"max_move": 1}}"#,
            r#"{"assignment": {"strategy": {"throughput": {"band": 1, "damping_percent": 60, "band_percent": 10}}}}"#,
        ] {
            assert!(serde_json::from_str::<Settings>(file).is_err(), "{file}");
        }
    }

    #[test]
    fn a_handoff_timeout_of_zero_is_refused() {
        let settings = Settings {
            handoff_timeout: Duration::ZERO,
            ..Settings::default()
        };
        assert!(settings.validate().is_err());
    }

    #[test]
    fn settings_file_may_leave_out_but_not_misspell() {
        let settings: Settings = serde_json::from_str(r#"{"max_leases": 7}"#).unwrap();
        assert_eq!(
            settings,
            Settings {
                max_leases: Some(7),
                ..Settings::default()
            }
        );
        assert!(serde_json::from_str::<Settings>(r#"{"max_lease": 7}"#).is_err());
    }
}
