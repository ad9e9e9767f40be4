//! Decides how a worker looks for the leases that name it: by the owner index, or by scans while the index cannot be asked.
//!
//! An index that answers with an error is no better than none: a worker that waited for it would hold leases that it does not know of,
//! and their shards would be read by no worker. A scan costs far more, so its pace follows from the size of the table and of the fleet:
//! all workers together read no more than one that leads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::runtime::backoff::Backoff;
use crate::runtime::clock::Moment;
use crate::runtime::rng::Rng;
use crate::settings::Settings;
use crate::settings::timing::Timing;
use crate::types::LeaseKey;

/// When a worker may ask the index, and when it may scan.
#[derive(Debug)]
pub(crate) struct Discovery {
    interval: Duration,
    timing: Timing,
    pages_per_second: u32,
    index: RetryPace,
    scan: RetryPace,
    rng: Rng,
}

/// How often something failed in a row, and before when it is not asked again.
#[derive(Debug, Default)]
struct RetryPace {
    failures: u32,
    not_before: Option<Moment>,
}

impl RetryPace {
    fn may(&self, now: Moment) -> bool {
        self.not_before.is_none_or(|not_before| not_before <= now)
    }

    /// Counts a failure. The next try comes after the pause.
    fn failed(&mut self, now: Moment, pause: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + pause);
    }
}

impl Discovery {
    pub(crate) fn new(settings: &Settings, rng: Rng) -> Self {
        Self {
            interval: settings.leases.discovery_interval,
            timing: Timing::of(settings.leases.failover_time),
            pages_per_second: settings.assignment.scan_pages_per_second,
            index: RetryPace::default(),
            scan: RetryPace::default(),
            rng,
        }
    }

    /// Whether the index may be asked now.
    pub(crate) fn may_ask_index(&self, now: Moment) -> bool {
        self.index.may(now)
    }

    /// How long an answer of the index may take. One that hangs keeps the worker from a scan meanwhile, and is waited for less long.
    pub(crate) fn index_limit(&self) -> Duration {
        match self.index.failures {
            0 => self.timing.index_answer,
            _ => self.timing.failing_index_answer,
        }
    }

    /// The index answered.
    pub(crate) fn index_answered(&mut self) {
        self.index = RetryPace::default();
    }

    /// The index answered with an error, or not in time. It is asked again ever later, and once in a failover time at least.
    pub(crate) fn index_failed(&mut self, now: Moment) {
        let tries = self.index.failures.saturating_add(1);
        let pause = Backoff::new(self.interval, self.timing.index_retry).after(tries);
        self.index.failed(now, self.rng.jittered(pause));
    }

    /// Whether the table may be scanned now.
    pub(crate) fn may_scan(&self, now: Moment) -> bool {
        self.scan.may(now)
    }

    /// A scan read so many pages, and saw so many workers. The next comes when all of them together stay within the budget of one.
    pub(crate) fn scanned(&mut self, now: Moment, pages: u32, workers: usize) {
        let pages = u64::from(pages.max(1)) * u64::try_from(workers.max(1)).unwrap_or(u64::MAX);
        let nanos = pages.saturating_mul(1_000_000_000);
        let affordable = Duration::from_nanos(nanos.div_ceil(u64::from(self.pages_per_second.max(1))));
        // No table is scanned less often than four times per failover time, whatever the budget says; the same holds for a leader.
        let pause = affordable.min(self.timing.discovery_scan).max(self.interval);
        self.scan = RetryPace {
            failures: 0,
            // Workers that lost the index at the same moment must not scan at the same moment. On average it is a little more than the pause.
            not_before: (pause > self.interval).then(|| now + self.rng.jittered(pause * 3 / 2)),
        };
    }

    /// A scan failed. The next comes later, ever more so.
    pub(crate) fn scan_failed(&mut self, now: Moment) {
        let tries = self.scan.failures.saturating_add(1);
        let longest = self.timing.discovery_scan_retry.max(self.interval);
        let pause = Backoff::new(self.interval, longest).after(tries);
        self.scan.failed(now, self.rng.jittered(pause));
    }
}

/// Rows that name this worker and were found to give it nothing to do, or could not be taken up: they are looked at again, but not each time
/// that they are found.
#[derive(Debug, Default)]
pub(crate) struct RestingRows(BTreeMap<LeaseKey, RetryPace>);

/// Between two looks at a row in which there was nothing to do. Java ends a lease and leaves its owner there; such a row stays as it is.
const SHORTEST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(300);

impl RestingRows {
    /// Whether the row may be looked at again.
    pub(crate) fn is_over(&self, key: &LeaseKey, now: Moment) -> bool {
        self.0.get(key).is_none_or(|rest| rest.may(now))
    }

    /// There was nothing to do in this row.
    pub(crate) fn nothing_to_do(&mut self, key: &LeaseKey, now: Moment) {
        self.pause(key, now, SHORTEST_REST, LONGEST_REST);
    }

    /// The row could not be read or taken up.
    pub(crate) fn failed(&mut self, key: &LeaseKey, now: Moment, settings: &Settings) {
        let first = settings.leases.discovery_interval;
        let longest = Timing::of(settings.leases.failover_time).take_retry.max(first);
        self.pause(key, now, first, longest);
    }

    /// The lease was taken up, or is not this worker's any more.
    pub(crate) fn forget(&mut self, key: &LeaseKey) {
        self.0.remove(key);
    }

    /// Forgets all that are not among the rows that name this worker now.
    pub(crate) fn keep(&mut self, found: &[LeaseKey]) {
        if !self.0.is_empty() {
            let found: BTreeSet<&LeaseKey> = found.iter().collect();
            self.0.retain(|key, _| found.contains(key));
        }
    }

    fn pause(&mut self, key: &LeaseKey, now: Moment, first: Duration, longest: Duration) {
        let rest = self.0.entry(key.clone()).or_default();
        let tries = rest.failures.saturating_add(1);
        rest.failed(now, Backoff::new(first, longest).after(tries));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(millis))
    }

    fn discovery() -> Discovery {
        Discovery::new(&Settings::default(), Rng::from_seed(1))
    }

    /// When, counted from 0 in steps of 100 ms, something may happen again.
    fn next(may: impl Fn(Moment) -> bool) -> u64 {
        (0..).map(|n| n * 100).find(|millis| may(at(*millis))).unwrap()
    }

    #[test]
    fn failing_index_is_asked_ever_later() {
        let mut discovery = discovery();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            discovery.index_failed(at(0));
            pauses.push(next(|now| discovery.may_ask_index(now)));
        }
        assert!(pauses[0] <= 1_000, "{pauses:?}");
        assert!(pauses[11] > 3_000 && pauses[11] <= 15_000, "{pauses:?}");
        assert!(discovery.index_limit() < discovery.timing.index_answer);
        discovery.index_answered();
        assert!(discovery.may_ask_index(at(0)));
    }

    #[test]
    fn fleet_scans_within_the_budget_of_one() {
        let mut discovery = discovery();
        discovery.scanned(at(0), 1, 2);
        assert_eq!(
            next(|now| discovery.may_scan(now)),
            0,
            "that is what the interval allows"
        );
        // 5 pages at 4 a second, for each of 2 workers: 2.5 s, which a failover time of 10 s allows.
        discovery.scanned(at(0), 5, 2);
        let pause = next(|now| discovery.may_scan(now));
        assert!((1_800..=3_800).contains(&pause), "{pause}");
        discovery.scanned(at(0), 1_000, 50);
        let pause = next(|now| discovery.may_scan(now));
        assert!(pause <= 3_800, "a table of any size is scanned in time: {pause}");
    }

    #[test]
    fn row_without_work_is_read_ever_less_often() {
        let (mut rests, key) = (RestingRows::default(), LeaseKey::new("ended").unwrap());
        let mut reads = 0;
        for second in 0..3600 {
            if rests.is_over(&key, at(second * 1000)) {
                reads += 1;
                rests.nothing_to_do(&key, at(second * 1000));
            }
        }
        assert!((12..=22).contains(&reads), "{reads} reads an hour");
        rests.keep(std::slice::from_ref(&key));
        assert!(!rests.is_over(&key, at(3_600_000)));
        rests.keep(&[]);
        assert!(
            rests.is_over(&key, at(3_600_000)),
            "it may be another lease by now"
        );
    }

    #[test]
    fn failing_scans_are_made_ever_later() {
        let mut discovery = discovery();
        (0..20).for_each(|_| discovery.scan_failed(at(0)));
        let pause = next(|now| discovery.may_scan(now));
        assert!((2_000..=7_500).contains(&pause), "{pause}");
    }
}
