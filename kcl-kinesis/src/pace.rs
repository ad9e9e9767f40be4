//! How fast a shard is polled: settings, a pure function, and the part of the limits that other applications leave.

use std::time::Duration;

use kcl_core::clock::Moment;

use crate::adaptive_rate::{AdaptiveRate, FULL_RATE};

/// How a shard is polled. Plain data; values out of range are replaced by the nearest in range.
///
/// The limits are those of [Kinesis Data Streams](https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html) for one shard,
/// shared by all applications that poll it. They need not be divided by hand: a read that Kinesis refuses because of the others halves the
/// pace of the shard, down to a tenth of these limits, and the pace then grows again by a fiftieth of them each second.
///
/// ```
/// use std::time::Duration;
/// use kcl_kinesis::PollingSettings;
///
/// let relaxed = PollingSettings { idle_interval: Duration::from_secs(1), ..PollingSettings::default() };
/// assert_eq!(relaxed.reads_per_second, 5);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollingSettings {
    /// How long from one read to the next while there is nothing new. At least 200 ms. 300 ms by default: a new record waits 150 ms
    /// on average, and a third of the reads that Kinesis allows is left to others.
    pub idle_interval: Duration,
    /// How long from one read to the next of a shard that has been quiet for long. At least `idle_interval`, which makes all idle shards
    /// alike. 1 s by default (the Java KCL reads every idle shard each 1.5 s): most of what an idle worker costs is such reads.
    ///
    /// The time between two reads grows from the one to the other as a thirtieth of the time for which nothing came: with the defaults
    /// from 9 s of quiet on, up to 30 s. The first record ends it.
    pub quiet_interval: Duration,
    /// How long one call may go unanswered, and how long nothing may come of an answer that has started. At least 100 ms. 10 s by default: a dead
    /// connection is given up well before a consumer counts as stalled. A slow one delivers: at 0.5 MiB/s a full answer of 10 MiB takes 20 s,
    /// and at most four minutes are allowed. After an answer that stopped, fewer records are asked for, down to one.
    pub request_deadline: Duration,
    /// The most reads of a shard per second. At least 1. 5 by default, the limit of Kinesis.
    pub reads_per_second: u32,
    /// The most bytes read from a shard per second, on average. At least 1. 2 MiB by default, the limit of Kinesis.
    pub bytes_per_second: u64,
    /// How old records may grow before they are read. At most an hour. `None` by default: they are read as soon as the limits allow.
    ///
    /// With a target, a shard that is up to date is read in fewer and larger portions: the next read begins after half of the time that
    /// is left until the target. A shard that lags behind the target is read as fast as without one.
    pub lag_target: Option<Duration>,
    /// In what form records are asked for. CBOR by default.
    pub format: RecordFormat,
}

/// In what form the service is asked for records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RecordFormat {
    /// CBOR, in which the payloads are handed on where they arrived; what that saves is measured by
    /// `cargo run --release -p kcl-tests --bin figures -- reading` in the repository. Kinesis speaks it, as do LocalStack and kinesis-mock; where a
    /// server refuses it, reading goes on in JSON, and the log says so once.
    ///
    /// All records of an answer share its memory: [detach](kcl_core::types::Record::detached) a record that is kept for long.
    #[default]
    Cbor,
    /// JSON, which every server of the protocol speaks. Here, too, all records of an answer share their memory.
    Json,
}

impl Default for PollingSettings {
    fn default() -> Self {
        Self {
            idle_interval: Duration::from_millis(300),
            quiet_interval: Duration::from_secs(1),
            request_deadline: Duration::from_secs(10),
            reads_per_second: 5,
            bytes_per_second: 2 * 1024 * 1024,
            lag_target: None,
            format: RecordFormat::default(),
        }
    }
}

/// Below this an idle shard would be read more often than Kinesis allows.
const MIN_IDLE_INTERVAL: Duration = Duration::from_millis(200);
/// The part of the time without records that passes until the next read.
const QUIET_FRACTION: u32 = 30;
/// Below this the deadline would cut off healthy calls.
const MIN_DEADLINE: Duration = Duration::from_millis(100);
/// Above this a shard would rather be read by a job that runs once in a while.
const MAX_LAG_TARGET: Duration = Duration::from_secs(60 * 60);

impl PollingSettings {
    /// The settings with every value in its range.
    pub(crate) fn in_range(self) -> Self {
        let idle_interval = self.idle_interval.max(MIN_IDLE_INTERVAL);
        Self {
            idle_interval,
            quiet_interval: self.quiet_interval.max(idle_interval),
            request_deadline: self.request_deadline.max(MIN_DEADLINE),
            reads_per_second: self.reads_per_second.max(1),
            bytes_per_second: self.bytes_per_second.max(1),
            lag_target: self.lag_target.map(|target| target.min(MAX_LAG_TARGET)),
            format: self.format,
        }
    }
}

/// The result of one read, as far as the pace is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadResult {
    pub(crate) records: usize,
    pub(crate) bytes: u64,
    pub(crate) behind: Option<Duration>,
}

impl ReadResult {
    /// Nothing came, and the service knows of nothing more. A service without that figure is believed.
    fn caught_up(&self) -> bool {
        self.records == 0 && self.behind.is_none_or(|behind| behind.is_zero())
    }
}

/// The pace of one shard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    settings: PollingSettings,
    rate: AdaptiveRate,
    /// Since when nothing has come.
    quiet_since: Option<Moment>,
}

impl Pace {
    /// The pace of a reader that begins at this rate.
    pub(crate) fn new(settings: PollingSettings, rate: AdaptiveRate) -> Self {
        Self {
            settings: settings.in_range(),
            rate,
            quiet_since: None,
        }
    }

    /// How long from the start of this read to the start of the next.
    pub(crate) fn wait_after(&mut self, read: ReadResult, now: Moment) -> Duration {
        let since = read.caught_up().then(|| self.quiet_since.unwrap_or(now));
        self.quiet_since = since;
        let quiet = since.map_or(Duration::ZERO, |since| now.saturating_since(since));
        wait_after(read, quiet, &self.settings, self.rate.at(now))
    }

    /// The service refused a read, since it was one too many for the shard. Returns the new rate.
    pub(crate) fn throttled(&mut self, now: Moment) -> AdaptiveRate {
        self.rate = self.rate.halved(now);
        self.rate
    }

    /// How long while nothing is there to read.
    pub(crate) fn idle(&self) -> Duration {
        self.settings.idle_interval
    }
}

/// How long from the start of a read to the start of the next, for a reader with this part of the limits, in thousandths, for whom
/// nothing has come for so long.
///
/// Never faster than either limit: a read of 10 MiB is paid for with five seconds, in which Kinesis would refuse anyway.
fn wait_after(read: ReadResult, quiet: Duration, settings: &PollingSettings, rate: u32) -> Duration {
    let per_read = Duration::from_secs(1) / settings.reads_per_second;
    let pace = per_read.max(time_for(read.bytes, settings.bytes_per_second));
    let pace = pace.saturating_mul(FULL_RATE) / rate.clamp(1, FULL_RATE);
    let idle = if read.caught_up() {
        (quiet / QUIET_FRACTION).clamp(settings.idle_interval, settings.quiet_interval)
    } else {
        Duration::ZERO
    };
    pace.max(idle).max(time_to_lag_target(read, settings) / 2)
}

/// How much time is left until the oldest record that was not read is as old as it may grow.
fn time_to_lag_target(read: ReadResult, settings: &PollingSettings) -> Duration {
    let behind = match read.behind {
        Some(behind) => behind,
        None if read.caught_up() => Duration::ZERO,
        // The service gives no figure, and there was something.
        None => return Duration::ZERO,
    };
    let target = settings.lag_target.unwrap_or_default();
    target.saturating_sub(behind)
}

fn time_for(bytes: u64, per_second: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(per_second);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
