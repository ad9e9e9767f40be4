use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::settings::durations;
use crate::settings::rules::{DAY, YEAR, too_long, violated};

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
}

impl Default for ProcessingSettings {
    fn default() -> Self {
        Self {
            tick_interval: Duration::from_secs(1),
            slow_callback: Duration::from_secs(60),
        }
    }
}

impl ProcessingSettings {
    pub(crate) fn violations(&self) -> Vec<String> {
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
        [rules, limits].concat()
    }
}
