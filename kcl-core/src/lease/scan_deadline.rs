//! Decides how long a scan of the lease table may take.

use std::time::Duration;

/// How long a scan may take before it is given up.
///
/// A large table takes longer than a small one, whatever the failover time, and how large it is only a scan shows: the limit doubles
/// until it is enough, and leaves twice the time of one scan to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScanDeadline {
    least: Duration,
    most: Duration,
    current: Duration,
}

impl ScanDeadline {
    /// Returns a deadline that starts at the first of these and is never longer than the second.
    pub(crate) fn between((least, most): (Duration, Duration)) -> Self {
        Self {
            least,
            most,
            current: least,
        }
    }

    pub(crate) fn get(&self) -> Duration {
        self.current
    }

    /// A scan took this long.
    pub(crate) fn took(&mut self, time: Duration) {
        self.current = time.saturating_mul(2).clamp(self.least, self.most);
    }

    /// A scan was given up.
    pub(crate) fn was_not_enough(&mut self) {
        self.current = self.current.saturating_mul(2).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scan_gets_the_time_that_its_table_needs() {
        let longest = Duration::from_secs(60);
        let mut limit = ScanDeadline::between((Duration::from_millis(500), longest));
        for millis in [500, 1000, 2000, 4000] {
            assert_eq!(limit.current.as_millis(), millis);
            limit.was_not_enough();
        }
        limit.took(Duration::from_secs(5));
        assert_eq!(limit.current.as_secs(), 10, "the next one may take longer");
        (0..9).for_each(|_| limit.was_not_enough());
        assert_eq!(limit.current, longest);
        limit.took(Duration::from_millis(3));
        assert_eq!(limit.current.as_millis(), 500);
    }

    #[test]
    fn scan_takes_no_longer_than_the_failover_time() {
        let second = Duration::from_secs(1);
        let mut limit = ScanDeadline::between((second * 5 / 2, second * 10));
        let mut limits = vec![limit.current.as_millis()];
        for _ in 0..3 {
            limit.was_not_enough();
            limits.push(limit.current.as_millis());
        }
        assert_eq!(limits, [2_500, 5_000, 10_000, 10_000]);
        for (took, expected) in [(9, 10_000), (3, 6_000), (1, 2_500), (0, 2_500)] {
            limit.took(second * took);
            assert_eq!(limit.current.as_millis(), expected, "after {took} s");
        }
    }
}
