//! Pauses between tries, which double.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};

use crate::runtime::rng::Rng;

/// The pauses after failures in a row: each is twice the one before it, up to the longest.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Returns the pauses from `first` to `longest`, before any failure.
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// Counts a failure and returns the pause that follows.
    pub(crate) fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.after(self.failures)
    }

    /// Counts a failure and returns a random time around the pause that follows, so that many who failed together do not come back together.
    pub(crate) fn failed_jittered(&mut self, rng: &mut Rng) -> Duration {
        rng.jittered(self.failed())
    }

    /// Returns the pause after so many failures, of which the caller keeps count. After none it is the first pause.
    pub(crate) fn after(&self, failures: u32) -> Duration {
        // Past 64 doublings every pause is the longest, so endless failures cost no more than a few.
        let doublings = failures.saturating_sub(1).min(64) as usize;
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(self.first)
            .with_max_delay(self.longest)
            .without_max_times()
            .build();
        pauses.nth(doublings).unwrap_or(self.longest)
    }

    /// Begins again with the first pause, after a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_longest_and_begin_again() {
        let mut backoff = Backoff::new(SECOND, 5 * SECOND);
        let pauses = [(); 5].map(|()| backoff.failed().as_secs());
        assert_eq!(pauses, [1, 2, 4, 5, 5]);
        assert_eq!(backoff.failures, 5);
        backoff.reset();
        assert_eq!(backoff.failed(), SECOND);
    }

    #[test]
    fn endless_failures_overflow_nothing() {
        let mut backoff = Backoff::new(SECOND, Duration::MAX);
        backoff.failures = u32::MAX;
        assert!(backoff.failed() > 1_000_000_000 * SECOND);
    }

    #[test]
    fn jittered_pause_stays_around_pause() {
        let mut rng = Rng::from_seed(1);
        let mut backoff = Backoff::new(SECOND, SECOND);
        for _ in 0..100 {
            let pause = backoff.failed_jittered(&mut rng);
            assert!((SECOND / 2..=SECOND * 3 / 2).contains(&pause), "{pause:?}");
        }
    }
}
