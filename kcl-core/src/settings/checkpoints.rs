use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::settings::durations;
use crate::settings::rules::{HOUR, YEAR, too_long, violated};

/// The party that checkpoints, and the pace.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::settings::{CheckpointMode, CheckpointSettings, Settings};
///
/// let checkpoints = CheckpointSettings { mode: CheckpointMode::Manual, ..CheckpointSettings::default() };
/// assert!(Settings { checkpoints, ..Settings::default() }.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointSettings {
    /// Whether batches are checkpointed by the worker once `process_records` returns `Ok`, as by default, or only by your code, as in the
    /// Java KCL. A [factory of processors](crate::processor::RecordProcessorFactory::checkpoint_mode) that needs one of the two gets it,
    /// whatever is set here.
    pub mode: CheckpointMode,
    /// The shortest time between two automatic checkpoints of one shard, at most an hour. 1 s by default: what a failover repeats at most,
    /// beyond the batch under way. Longer costs fewer writes, up to a third of the failover time: then the lease must be
    /// renewed anyway, and a renewal carries what is finished. The Java KCL has no such setting: its users checkpoint.
    #[serde(with = "durations")]
    pub interval: Duration,
    /// With [manual checkpoints](CheckpointMode::Manual), how long records that `process_records` returned from may stay without a
    /// checkpoint before the worker warns: in the log, ever less often while it lasts, in the status as an
    /// [issue](crate::status::HealthIssue::NotCheckpointed), and in the metrics. Above zero, at most a year; 5 minutes by default. Set it
    /// above the longest time for which your code collects records. The lease is kept however long it takes.
    #[serde(with = "durations")]
    pub slow_after: Duration,
}

/// The party that declares a record done for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointMode {
    /// The worker, for the whole batch, once `process_records` has returned `Ok`.
    #[default]
    Automatic,
    /// The user's code, through [`RecordBatch::checkpoint_through`](crate::processor::RecordBatch::checkpoint_through).
    /// The worker stores the end of a shard once `shard_ended` has returned `Ok` and your code has checkpointed the last record, unless
    /// [`end_of_shard`](crate::processor::RecordProcessor::end_of_shard) says otherwise.
    Manual,
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self {
            mode: CheckpointMode::Automatic,
            interval: Duration::from_secs(1),
            slow_after: Duration::from_secs(300),
        }
    }
}

impl CheckpointSettings {
    pub(crate) fn violations(&self) -> Vec<String> {
        let rules = violated([(
            self.slow_after.is_zero(),
            "slow_after must be above zero: a checkpoint takes a write to the lease table",
        )]);
        let limits = too_long([
            (
                "interval",
                self.interval,
                HOUR,
                "a crash repeats all that was finished meanwhile",
            ),
            ("slow_after", self.slow_after, YEAR, "no warning comes before"),
        ]);
        [rules, limits].concat()
    }
}
