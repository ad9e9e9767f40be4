use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::settings::rules::{DAY, HOUR, YEAR, too_long, violated};
use crate::settings::{durations, sizes};

/// The calls without records, and the time after which a call is warned of.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use std::time::Duration;
/// use kinesis_client::settings::{ProcessingSettings, Settings};
///
/// let processing = ProcessingSettings { tick_interval: Duration::from_millis(200), ..ProcessingSettings::default() };
/// assert!(Settings { processing, ..Settings::default() }.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessingSettings {
    /// After how long without another call the processor is called because time has passed, by
    /// [`tick`](crate::processor::RecordProcessor::tick). Above zero, at most a day; 1 s by default. The Java KCL calls `processRecords`
    /// with an empty list instead (`callProcessRecordsEvenForEmptyRecordList`).
    #[serde(with = "durations")]
    pub tick_interval: Duration,
    /// How long a call of your code may take before the worker warns: in the log, ever less often while the call goes on, in the
    /// status as an [issue](crate::status::HealthIssue::SlowCallback), and in the metrics. Above zero, at most a year; 60 s by default (the
    /// Java KCL's `logWarningForTaskAfterMillis`, there off). The lease is kept however long it takes.
    #[serde(with = "durations")]
    pub slow_callback: Duration,
    /// How the records of several fetches are gathered into one batch; `None`, the default, offers what each fetch brings. The Java KCL has no
    /// counterpart.
    pub batching: Option<Batching>,
}

/// How records are gathered into batches, across fetches: a batch is offered when the first of these bounds is reached.
///
/// A batch also ends before a [gap](crate::processor::RecordBatch::gap), before a record that cannot be read, and at the end of the shard. When
/// the shard is paused, and before the lease is given up, what was gathered is offered as it is. So it is when the fetcher waits for room in
/// the [budget](crate::settings::MemorySettings::budget), which the gathered records hold.
///
/// A batch of this size is offered whole, however slow your processor has been: a call must fit into
/// [`drain_timeout`](crate::settings::ShutdownSettings::drain_timeout), or a shutdown drops it and its records are delivered again. After a failure smaller
/// parts are offered, if the error policy says so.
///
/// It has no effect on a [record handler](crate::processor::RecordHandler) that is called for many records at once.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use std::time::Duration;
/// use kinesis_client::settings::{Batching, ByteSize, ProcessingSettings, Settings};
///
/// let batching = Batching { max_records: 500, max_bytes: ByteSize::mib(1), max_wait: Duration::from_secs(5) };
/// let processing = ProcessingSettings { batching: Some(batching), ..ProcessingSettings::default() };
/// assert!(Settings { processing, ..Settings::default() }.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Batching {
    /// The most records of a batch, 1 to 1,000,000; 1,000 by default.
    pub max_records: u32,
    /// The most bytes of a batch, by payload and partition key; above zero and at most half of the [budget](crate::settings::MemorySettings::budget); 4 MiB by
    /// default. A batch of a single record may have more.
    #[serde(with = "sizes")]
    pub max_bytes: ByteSize,
    /// How long the first record of a batch waits for others, from when the consumer received it. Above zero, at most an hour; 1 s by
    /// default. A crash repeats what waits.
    #[serde(with = "durations")]
    pub max_wait: Duration,
}

impl Default for Batching {
    fn default() -> Self {
        Self {
            max_records: 1000,
            max_bytes: ByteSize::mib(4),
            max_wait: Duration::from_secs(1),
        }
    }
}

impl Batching {
    /// The violations, for a worker with this budget.
    pub(crate) fn violations(&self, budget: ByteSize) -> Vec<String> {
        let rules = violated([
            (
                !(1..=1_000_000).contains(&self.max_records),
                "batching.max_records must be 1 to 1,000,000: every record of a batch is in memory",
            ),
            (
                self.max_bytes.as_u64() == 0,
                "batching.max_bytes must be above zero: a record has a size",
            ),
            (
                self.max_bytes.as_u64() > budget.as_u64() / 2,
                "batching.max_bytes must be at most half of memory.budget: the records of a batch hold their part of it",
            ),
            (
                self.max_wait.is_zero(),
                "batching.max_wait must be above zero: to offer what each fetch brings, leave batching out",
            ),
        ]);
        let limits = too_long([(
            "batching.max_wait",
            self.max_wait,
            HOUR,
            "a crash repeats all that waits",
        )]);
        [rules, limits].concat()
    }
}

impl Default for ProcessingSettings {
    fn default() -> Self {
        Self {
            tick_interval: Duration::from_secs(1),
            slow_callback: Duration::from_secs(60),
            batching: None,
        }
    }
}

impl ProcessingSettings {
    pub(crate) fn violations(&self, budget: ByteSize) -> Vec<String> {
        let batching = self.batching.as_ref();
        let batching = batching.map_or_else(Vec::new, |batching| batching.violations(budget));
        let rules = violated([
            (
                self.slow_callback.is_zero(),
                "slow_callback must be above zero: every call takes some time",
            ),
            (
                self.tick_interval.is_zero(),
                "tick_interval must be above zero: a tick is a call of the processor",
            ),
        ]);
        let limits = too_long([
            (
                "slow_callback",
                self.slow_callback,
                YEAR,
                "no warning comes before",
            ),
            (
                "tick_interval",
                self.tick_interval,
                DAY,
                "a processor that collects records is not told before that time has passed",
            ),
        ]);
        [rules, limits, batching].concat()
    }
}
