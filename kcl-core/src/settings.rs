//! Settings, as plain data: every default explained, every violation reported at once.

mod assignment;
mod checkpoints;
mod durations;
mod leases;
mod memory;
mod metrics;
mod processing;
mod reading;
mod rules;
pub(crate) mod scan_cadence;
mod shutdown;
mod sizes;
mod start;
pub(crate) mod timing;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use assignment::{AssignmentSettings, Strategy};
pub use bytesize::ByteSize;
pub use checkpoints::{CheckpointMode, CheckpointSettings};
pub use leases::LeaseSettings;
pub use memory::MemorySettings;
pub use metrics::MetricsSettings;
pub use processing::{Batching, ProcessingSettings};
pub use reading::{Aggregation, ReadingSettings, RetentionGap};
pub use shutdown::ShutdownSettings;
pub use start::StartSettings;

use crate::settings::timing::Timing;

/// How a worker behaves, in groups by what one wants to change. Plain data: it can be read from a file, with every field optional.
///
/// A file writes a duration as a number with its unit: `"3s"`, `"250ms"`, `"1m 30s"`, `"2h"`, `"7d"`; and a size likewise: `"256MiB"`.
/// Components (stores, sources, clocks, policies) are not settings; they go on the builder.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use std::time::Duration;
/// use kinesis_client::settings::Settings;
///
/// let mut settings = Settings::default();
/// settings.leases.failover_time = Duration::from_secs(3);
/// assert!(settings.validate().is_ok());
///
/// settings.memory.prefetch_batches = 0;
/// settings.reading.stall_tries = 0;
/// assert_eq!(settings.validate().unwrap_err().violations().len(), 2);
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How soon a dead worker is missed, how leases move, and how long their rows are kept.
    pub leases: LeaseSettings,
    /// Where and how much is read at a time, and what follows when reading stands still.
    pub reading: ReadingSettings,
    /// How much memory fetched records may take.
    pub memory: MemorySettings,
    /// The party that checkpoints, and the pace.
    pub checkpoints: CheckpointSettings,
    /// The calls without records, and the time after which a call is warned of.
    pub processing: ProcessingSettings,
    /// Which worker has which lease.
    pub assignment: AssignmentSettings,
    /// The start of a worker: its time limit, and what it takes over.
    pub start: StartSettings,
    /// How long a shutdown may take.
    pub shutdown: ShutdownSettings,
    /// How the worker's metrics are labelled.
    pub metrics: MetricsSettings,
}

impl Settings {
    /// Checks every rule there is for the settings and between them.
    ///
    /// # Errors
    ///
    /// All violations at once, each with what to change.
    pub fn validate(&self) -> Result<(), InvalidSettings> {
        let failover = self.leases.failover_time;
        let groups = [
            ("leases", self.leases.violations()),
            ("reading", self.reading.violations(failover)),
            ("memory", self.memory.violations()),
            ("checkpoints", self.checkpoints.violations()),
            ("processing", self.processing.violations(self.memory.budget)),
            ("assignment", self.assignment.violations(failover)),
            ("start", self.start.violations()),
            ("shutdown", self.shutdown.violations()),
            ("metrics", self.metrics.violations()),
        ];
        // Each begins with the setting's name: with its group, it is found in a file.
        let violations = groups.into_iter().flat_map(|(group, violations)| {
            let of_group = violations.into_iter();
            of_group.map(move |violation| format!("{group}.{violation}"))
        });
        let violations: Vec<_> = violations.collect();
        if violations.is_empty() {
            Ok(())
        } else {
            Err(InvalidSettings { violations })
        }
    }

    /// The part of the drain timeout that is kept for giving up the leases of callbacks that did not return.
    pub(crate) fn drain_grace(&self) -> Duration {
        Timing::of(self.leases.failover_time)
            .drain_grace
            .min(self.shutdown.drain_timeout / 4)
    }
}

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
mod tests;
