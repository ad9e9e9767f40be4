use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::settings::durations;
use crate::settings::rules::{YEAR, too_long, violated};

/// The start of a worker: its time limit, and what it takes over.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::settings::{Settings, StartSettings};
///
/// let start = StartSettings { take_over_java: true, ..StartSettings::default() };
/// assert!(Settings { start, ..Settings::default() }.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StartSettings {
    /// How long a start may go on trying while a service does not answer. Above zero, at most a year; 60 s by default (the Java KCL counts
    /// tries, `maxInitializationAttempts`).
    #[serde(with = "durations")]
    pub timeout: Duration,
    /// Takes over the table of a Java application, all of whose workers are stopped. Off by default, so that a table that Java workers may
    /// be using is refused. The table remembers the answer: it is needed for one start. A table that a live Java worker uses is refused
    /// all the time, because a Java worker and this library do not share a fleet.
    pub take_over_java: bool,
}

impl Default for StartSettings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            take_over_java: false,
        }
    }
}

impl StartSettings {
    pub(crate) fn violations(&self) -> Vec<String> {
        let rules = violated([(
            self.timeout.is_zero(),
            "timeout must be above zero: no service could answer in time",
        )]);
        let limits = too_long([(
            "timeout",
            self.timeout,
            YEAR,
            "a start that cannot succeed is not reported before",
        )]);
        [rules, limits].concat()
    }
}
