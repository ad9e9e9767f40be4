//! Measures what the report of a shard says of its pace.

use std::fmt;
use std::time::Duration;

use crate::lease::report::ShardReport;
use crate::runtime::clock::Moment;
use crate::status::LeaseStatus;
use crate::types::Timestamp;

/// The pace of a shard over the last sample, at least a `window` long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) read_per_minute: u64,
    pub(crate) processed_per_minute: u64,
    /// By how many milliseconds the reading falls behind per second.
    pub(crate) trend: i32,
}

/// Counts the records of a shard between two samples.
#[derive(Debug, Clone)]
pub(crate) struct ReportMeter {
    window: Duration,
    begun: Moment,
    read: u64,
    /// How many records were processed when the sample began.
    processed: u64,
    /// How far the reading was behind when the sample began; unknown at first.
    behind: Option<Duration>,
    pace: Pace,
}

impl ReportMeter {
    pub(crate) fn new(window: Duration, now: Moment) -> Self {
        Self {
            window,
            begun: now,
            read: 0,
            processed: 0,
            behind: None,
            pace: Pace::default(),
        }
    }

    /// Notes that so many records were read.
    pub(crate) fn read(&mut self, records: usize) {
        self.read = self.read.saturating_add(records as u64);
    }

    /// The pace at `now`, given how many records were processed in all and how far the reading is behind. Takes a sample if one is due;
    /// asking again, as for a repeated write, changes nothing.
    pub(crate) fn pace(&mut self, now: Moment, processed: u64, behind: Duration) -> Pace {
        let elapsed = now.saturating_since(self.begun);
        if elapsed < self.window || elapsed.is_zero() {
            return self.pace;
        }
        let done = processed.saturating_sub(self.processed);
        self.pace = Pace {
            read_per_minute: per_minute(self.read, elapsed),
            processed_per_minute: per_minute(done, elapsed),
            trend: self.behind.map_or(0, |before| trend(before, behind, elapsed)),
        };
        (self.begun, self.read, self.processed, self.behind) = (now, 0, processed, Some(behind));
        self.pace
    }
}

/// The report of a shard in this state at `now`, which is `at` by the owner's wall clock.
pub(crate) fn report(
    status: &LeaseStatus,
    at: Timestamp,
    now: Moment,
    last_progress: Duration,
    pace: Pace,
) -> ShardReport {
    let name = |shown: &dyn fmt::Display| shown.to_string().replace(' ', "_");
    let mut report = ShardReport::new(at);
    report.behind = status.behind.at(now);
    report.freshness = status.freshness.at(now);
    report.last_progress = last_progress;
    report.waiting_for = status.waiting.map(|(reason, _)| name(&reason));
    report.attempts = status.failures;
    report.concern = status.concern.map(|concern| name(&concern));
    report.read_per_minute = pace.read_per_minute;
    report.processed_per_minute = pace.processed_per_minute;
    report.trend = pace.trend;
    let failing = status.failing.as_ref().or(status.unreadable.as_ref());
    report.failing = failing.cloned();
    report
}

fn per_minute(records: u64, elapsed: Duration) -> u64 {
    let per_minute = u128::from(records) * 60_000 / elapsed.as_millis().max(1);
    u64::try_from(per_minute).unwrap_or(u64::MAX)
}

fn trend(before: Duration, now: Duration, elapsed: Duration) -> i32 {
    let millis = |age: Duration| i128::try_from(age.as_millis()).unwrap_or(i128::MAX);
    let change = millis(now).saturating_sub(millis(before)).saturating_mul(1000);
    let per_second = change / millis(elapsed).max(1);
    i32::try_from(per_second).unwrap_or(if per_second < 0 { i32::MIN } else { i32::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(3);

    fn at(secs: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(secs))
    }

    #[test]
    fn names_in_reports_are_those_of_json() {
        for reason in crate::status::WaitReason::ALL {
            let name = reason.to_string().replace(' ', "_");
            assert_eq!(serde_json::to_value(reason).unwrap(), name);
        }
        for concern in crate::status::HealthIssue::ALL {
            let name = concern.to_string().replace(' ', "_");
            assert_eq!(serde_json::to_value(concern).unwrap(), name);
        }
    }

    #[test]
    fn pace_is_that_of_last_whole_sample() {
        let mut meter = ReportMeter::new(WINDOW, at(0));
        meter.read(90);
        assert_eq!(meter.pace(at(2), 40, Duration::ZERO), Pace::default());
        let pace = meter.pace(at(3), 60, Duration::from_secs(10));
        assert_eq!(
            (pace.read_per_minute, pace.processed_per_minute, pace.trend),
            (1800, 1200, 0)
        );
        assert_eq!(meter.pace(at(4), 90, Duration::from_secs(9)), pace, "not due");
        let pace = meter.pace(at(8), 160, Duration::from_secs(5));
        assert_eq!((pace.read_per_minute, pace.processed_per_minute), (0, 1200));
        assert_eq!(pace.trend, -1000, "five seconds in five seconds");
    }
}
