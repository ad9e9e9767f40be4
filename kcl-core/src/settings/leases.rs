use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::lease::row::Lease;
use crate::settings::durations;
use crate::settings::rules::{DAY, HOUR, YEAR, too_long, violated};

/// The shortest time after which the leases of a stream may be deleted that is read no more.
const SHORTEST_MEMORY: Duration = Duration::from_secs(600);

/// How soon a dead worker is missed, how leases move, and how long their rows are kept.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use std::time::Duration;
/// use kinesis_client::settings::{LeaseSettings, Settings};
///
/// let leases = LeaseSettings { failover_time: Duration::from_secs(3), ..LeaseSettings::default() };
/// assert!(Settings { leases, ..Settings::default() }.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeaseSettings {
    /// How long a worker must be silent before its leases are given to others. 200 ms to an hour; 10 s by default, as in the
    /// Java KCL (`failoverTimeMillis`). Shorter finds dead workers sooner and costs more renewals: each lease is renewed every third of
    /// that time.
    #[serde(with = "durations")]
    pub failover_time: Duration,
    /// How often a worker looks for leases that were assigned to it, at most the failover time. 500 ms by default. It bounds how
    /// long a lease that was given to this worker waits for it, and is a part of the time in which a fleet answers to a crash: what is
    /// longer than the default comes on top of the failover time and two seconds, as the
    /// [status](crate::status::WorkerStatus::failover_bound) says.
    #[serde(with = "durations")]
    pub discovery_interval: Duration,
    /// How often a child shard looks whether its parents are finished. Above zero, at most an hour; 500 ms by default (the Java KCL's
    /// `parentShardPollIntervalMillis`, there 10 s).
    #[serde(with = "durations")]
    pub parent_poll_interval: Duration,
    /// How long an owner may take to hand a lease over before it keeps it. 100 ms to a day; 30 s by default, as in the Java KCL
    /// (`gracefulLeaseHandoffTimeoutMillis`).
    #[serde(with = "durations")]
    pub handoff_timeout: Duration,
    /// Whether the leader deletes the leases of finished shards once nothing needs them: when all that a shard became is being
    /// processed, or when the shard is listed no more. On by default, as in the Java KCL (`cleanupLeasesUponShardCompletion`); off keeps
    /// them as a record.
    pub cleanup: bool,
    /// How long the leases of a stream that the application reads no more are kept, checkpoints and all: 10 minutes to 10 years. For ever
    /// by default, as in the Java KCL (`FormerStreamsLeasesDeletionStrategy`); only where the application reads
    /// [many streams](crate::worker::builder::WorkerBuilder::streams). The time counts while no worker holds a lease of the stream, and
    /// begins again with a new leader; it stands still while the tracker does not answer, and while a stream that it lists cannot be opened.
    /// The lower limit is there because a tracker that loses a stream for a while must not cost its checkpoints.
    #[serde(with = "durations::optional")]
    pub forget_streams_after: Option<Duration>,
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self {
            failover_time: Duration::from_secs(10),
            discovery_interval: Duration::from_millis(500),
            parent_poll_interval: Duration::from_millis(500),
            handoff_timeout: Duration::from_secs(30),
            cleanup: true,
            forget_streams_after: None,
        }
    }
}

impl LeaseSettings {
    pub(crate) fn violations(&self) -> Vec<String> {
        let failover = self.failover_time;
        let rules = violated([
            (
                failover < Duration::from_millis(200),
                "failover_time must be at least 200 ms: a lease is renewed every third of it",
            ),
            (
                failover > Lease::LONGEST_FAILOVER,
                "failover_time must be at most an hour: the leases of a dead worker wait that long",
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
                self.forget_streams_after
                    .is_some_and(|after| after < SHORTEST_MEMORY),
                "forget_streams_after must be at least 10 minutes: what a tracker loses for a while is not gone; leave it out to keep the leases for ever",
            ),
        ]);
        let limits = too_long([
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
                "forget_streams_after",
                self.forget_streams_after.unwrap_or_default(),
                10 * YEAR,
                "leave it out to keep the leases for ever",
            ),
        ]);
        [rules, limits].concat()
    }
}
