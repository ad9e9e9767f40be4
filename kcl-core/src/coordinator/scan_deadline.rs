//! Decides how long a scan of the lease table may take.

use std::time::Duration;

/// A scan that takes longer than this does not come to its end.
const LONGEST: Duration = Duration::from_secs(60);

/// How long a scan may take before it is given up.
///
/// A large table takes longer than a small one, whatever the failover time, and only a scan can show its size: the
/// limit grows until it is enough, and follows from then on how long the scans take.
#[derive(Debug)]
pub(crate) struct ScanDeadline {
    least: Duration,
    current: Duration,
}

impl ScanDeadline {
    pub(crate) fn new(failover: Duration) -> Self {
        let least = failover / 2;
        Self {
            least,
            current: least,
        }
    }

    pub(crate) fn get(&self) -> Duration {
        self.current
    }

    /// A scan took this long.
    pub(crate) fn took(&mut self, time: Duration) {
        self.current = self.least.max(time * 2);
    }

    /// A scan was given up.
    pub(crate) fn was_not_enough(&mut self) {
        self.current = (self.current * 2).min(LONGEST.max(self.least));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_gets_the_time_that_the_table_needs() {
        let mut limit = ScanDeadline::new(Duration::from_secs(1));
        for millis in [500, 1000, 2000, 4000] {
            assert_eq!(limit.current.as_millis(), millis);
            limit.was_not_enough();
        }
        limit.took(Duration::from_secs(5));
        assert_eq!(limit.current.as_secs(), 10, "the next one may take longer");
        (0..9).for_each(|_| limit.was_not_enough());
        assert_eq!(limit.current, LONGEST);
        limit.took(Duration::from_millis(3));
        assert_eq!(limit.current.as_millis(), 500);
        let mut slow = ScanDeadline::new(Duration::from_secs(3600));
        slow.was_not_enough();
        assert_eq!(slow.current.as_secs(), 1800);
    }
}
