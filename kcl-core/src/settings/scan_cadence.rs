//! Decides how often the lease table is scanned, and what follows for failover.

use std::time::Duration;

use crate::runtime::backoff::Backoff;
use crate::settings::timing::Timing;

/// The best promise beyond the failover time: with the defaults, while the table fits one page.
pub(crate) const QUICKEST_REACTION: Duration = Duration::from_secs(2);

/// The time that reading a page of the table, giving the lease away and taking it may need together.
const CALLS: Duration = Duration::from_millis(500);

/// How often to scan, and how long a crash can go unanswered with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScanCadence {
    /// The time from one scan to the next.
    pub scan: Duration,
    /// From the crash of a worker to the first record at the next owner of its leases, at most.
    pub failover_bound: Duration,
    /// Whether the read budget is enough. If not, the table is scanned faster than the budget says:
    /// a worker that found crashes too late would be no use.
    pub within_budget: bool,
}

/// Fits the scans to the size of the table.
///
/// `pages` is how many pages the last scan took, `pages_per_second` the read budget of one scanning worker
/// (at most two scan at a time: the leader and its standby), and `discovery` how often a worker asks which leases name it.
///
/// The cadence is [`Timing::usual_scan`] while a scan is one page, slower for a larger table, and never above [`Timing::slowest_scan`].
/// A crash is noticed in time even so, since a scan also comes exactly when the first lease can expire.
///
/// The bound adds to the failover time the time of every step in turn: the last renewal is seen one scan late, the lease is
/// found by its next owner one discovery late, and reading and writing take half a second, or a second where there are pages to follow.
/// It is never said to be less than [`QUICKEST_REACTION`].
#[must_use]
pub(crate) fn fit(pages: u32, pages_per_second: u32, timing: &Timing, discovery: Duration) -> ScanCadence {
    let nanos = u64::from(pages.max(1)) * 1_000_000_000;
    let affordable = Duration::from_nanos(nanos.div_ceil(u64::from(pages_per_second.max(1))));
    let scan = affordable.max(timing.usual_scan).min(timing.slowest_scan);
    let calls = if pages <= 1 { CALLS } else { CALLS * 2 };
    let reaction = (scan + discovery + calls).max(QUICKEST_REACTION);
    ScanCadence {
        scan,
        failover_bound: timing.failover + reaction,
        within_budget: pages.max(1) <= pages_within(scan, pages_per_second),
    }
}

/// How long to wait for the next scan after so many in a row that failed: twice as long each time, up to [`Timing::slowest_scan`],
/// so that a table whose capacity is used up gets the time to regain some.
#[must_use]
pub(crate) fn after_failures(scan: Duration, timing: &Timing, failures: u32) -> Duration {
    let longest = timing.slowest_scan.max(scan);
    Backoff::new(scan.saturating_mul(2), longest).after(failures)
}

/// How often an observer means to look that just could again, after so many scans in a row that failed: where most scans are refused, as by
/// a table whose capacity is used up, the usual cadence would count so little time that a dead worker is not noticed for minutes.
#[must_use]
pub(crate) fn watched(scan: Duration, timing: &Timing, failures: u32) -> Duration {
    match failures {
        0 => scan,
        _ => scan.max(timing.look_after_failures),
    }
}

/// The largest table, in pages, that this budget scans often enough. For `validate()`: 0 means that not even one page is.
#[must_use]
pub(crate) fn largest_table(pages_per_second: u32, timing: &Timing) -> u32 {
    pages_within(timing.slowest_scan, pages_per_second)
}

fn pages_within(time: Duration, pages_per_second: u32) -> u32 {
    let pages = u128::from(pages_per_second) * time.as_nanos() / 1_000_000_000;
    u32::try_from(pages).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DISCOVERY: Duration = Duration::from_secs(1);

    #[test]
    fn cadence_of_usual_tables_is_known() {
        let (timing, discovery) = (Timing::of(Duration::from_secs(10)), Duration::from_millis(500));
        let small = fit(1, 4, &timing, discovery);
        assert_eq!(
            (small.scan.as_millis(), small.failover_bound.as_secs()),
            (1000, 12)
        );
        let large = fit(8, 4, &timing, discovery);
        assert_eq!((large.scan.as_secs(), large.failover_bound.as_secs()), (2, 13));
        let found_late = fit(1, 4, &timing, Duration::from_secs(5));
        assert_eq!(found_late.failover_bound.as_millis(), 16_500);
    }

    #[test]
    fn pauses_after_failed_scans_double_up_to_limit() {
        let (second, timing) = (Duration::from_secs(1), Timing::of(Duration::from_secs(30)));
        let pauses = [1, 2, 3, 4, 99].map(|failures| after_failures(second, &timing, failures).as_millis());
        assert_eq!(pauses, [2000, 4000, 7500, 7500, 7500]);
    }

    #[test]
    fn largest_table_follows_from_budget_and_failover() {
        assert_eq!(largest_table(4, &Timing::of(Duration::from_secs(10))), 10);
        assert_eq!(largest_table(1, &Timing::of(Duration::from_secs(2))), 0);
    }

    proptest! {
        #[test]
        fn each_failover_time_has_at_least_four_scans(
            pages in 0_u32..5000, budget in 0_u32..100, failover_ms in 100_u64..100_000, discovery_ms in 1_u64..100_000,
        ) {
            let (failover, discovery) = (Duration::from_millis(failover_ms), Duration::from_millis(discovery_ms));
            let cadence = fit(pages, budget, &Timing::of(failover), discovery);
            prop_assert!(cadence.scan <= failover / 4);
            prop_assert!(cadence.failover_bound > failover + cadence.scan + discovery);
        }

        #[test]
        fn largest_table_is_last_within_the_budget(
            budget in 1_u32..100, failover_ms in 2000_u64..100_000,
        ) {
            let timing = Timing::of(Duration::from_millis(failover_ms));
            let largest = largest_table(budget, &timing);
            prop_assume!(largest > 0);
            prop_assert!(fit(largest, budget, &timing, DISCOVERY).within_budget);
            prop_assert!(!fit(largest + 1, budget, &timing, DISCOVERY).within_budget);
        }
    }

    #[test]
    fn late_discovery_makes_bound_longer_for_one_page() {
        let failover = Duration::from_secs(10);
        let bound = |millis| fit(1, 4, &Timing::of(failover), Duration::from_millis(millis)).failover_bound;
        assert_eq!(bound(100), failover + QUICKEST_REACTION);
        assert_eq!(bound(500), failover + QUICKEST_REACTION, "the default");
        assert_eq!(bound(5_000), failover + Duration::from_millis(6_500));
    }

    #[test]
    fn short_failover_time_makes_scans_faster_than_usual() {
        assert_eq!(
            fit(1, 10, &Timing::of(Duration::from_secs(1)), DISCOVERY).scan,
            Duration::from_millis(250)
        );
    }
}
