use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::settings::durations;
use crate::settings::rules::{DAY, too_long, violated};

/// How long a shutdown may take.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use std::time::Duration;
/// use kinesis_client::settings::Settings;
///
/// let mut settings = Settings::default();
/// settings.shutdown.drain_timeout = Duration::from_secs(90);
/// assert!(settings.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownSettings {
    /// How long the shutdown may take, your callbacks included. Above zero, at most a day; 25 s by default, so that it fits into the 30 s
    /// that Kubernetes gives a pod. The last quarter, or a third of the failover time if that is less, is kept for giving up
    /// the leases of callbacks that did not return. Batches are offered in parts that the processor is likely to finish in about a fifth of
    /// it, by how long its calls have taken; what is left of a batch is offered next. In the Java KCL the caller waits on
    /// `gracefulShutdown`.
    #[serde(with = "durations")]
    pub drain_timeout: Duration,
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        Self {
            drain_timeout: Duration::from_secs(25),
        }
    }
}

impl ShutdownSettings {
    pub(crate) fn violations(&self) -> Vec<String> {
        let rules = violated([(
            self.drain_timeout.is_zero(),
            "drain_timeout must be above zero: no callback could return in time",
        )]);
        let limits = too_long([(
            "drain_timeout",
            self.drain_timeout,
            DAY,
            "a worker whose callback hangs does not stop before",
        )]);
        [rules, limits].concat()
    }
}
