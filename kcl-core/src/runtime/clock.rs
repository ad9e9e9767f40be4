//! Time, as an injected service: a monotonic clock for decisions, and wall time for people.
//!
//! [`Moment`] and [`Timestamp`] are different types so that they cannot be compared: nothing in this crate decides anything
//! by the wall clock of a host, its own or another's.

use std::fmt;
use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::time::Duration;

use crate::types::Timestamp;

/// A point on one process's monotonic clock. It means nothing to another process and is never stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// The origin of the clock.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// The moment this long after the clock's origin.
    pub const fn from_origin(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// How long after the clock's origin this is.
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// The time since `earlier`, or zero when `earlier` is later.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, after: Duration) -> Self {
        Self(self.0.saturating_add(after))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, before: Duration) -> Self {
        Self(self.0.saturating_sub(before))
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{:?}", self.0)
    }
}

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The only source of time.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The monotonic time. It counts the time that the machine was suspended, where the system counts it.
    fn now(&self) -> Moment;

    /// The wall time of this host, for rows and reports that people read.
    fn wall(&self) -> Timestamp;

    /// Returns once [`now`](Clock::now) has reached `deadline`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    fn sleep_until(&self, deadline: Moment) -> BoxFuture<'static, ()>;

    /// Returns `true` if the clock follows real time, so that the runtimes of several threads agree on it.
    ///
    /// A worker coordinates on a thread of its own if the clock says so, and on the runtime that started it otherwise. The default is
    /// `false`, which is right for every clock: a test that moves the time by hand has one runtime only.
    fn follows_real_time(&self) -> bool {
        false
    }
}

/// Methods that are built on a [`Clock`].
pub trait ClockExt: Clock {
    /// Returns once `duration` has passed.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.now() + duration)
    }

    /// Runs the future until it is ready or the time is up; drops it in the latter case.
    ///
    /// # Errors
    ///
    /// [`Elapsed`] when the time was up first.
    fn timeout<F: Future + Send>(
        &self,
        limit: Duration,
        future: F,
    ) -> impl Future<Output = Result<F::Output, Elapsed>> + Send {
        let sleep = self.sleep(limit);
        async move {
            tokio::select! {
                biased;
                output = future => Ok(output),
                () = sleep => Err(Elapsed(limit)),
            }
        }
    }
}

impl<C: Clock + ?Sized> ClockExt for C {}

/// The time was up before the work was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {0:?}")]
pub struct Elapsed(pub Duration);

/// The clock of the runtime: follows tokio's time, and so `tokio::time::pause` and `advance`.
///
/// This is the clock to use. On Linux its monotonic time stands still while the machine is suspended;
/// a worker that wakes up finds out from its refused renewals.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    origin: tokio::time::Instant,
}

impl TokioClock {
    /// A clock whose origin is now.
    ///
    /// # Panics
    ///
    /// Never; but with tokio's time paused it must be created inside the runtime that it is used in.
    #[expect(
        clippy::disallowed_methods,
        reason = "the clock is the one place that may ask the runtime for the time"
    )]
    pub fn new() -> Self {
        Self {
            origin: tokio::time::Instant::now(),
        }
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the clock is the one place that may ask for the time"
)]
impl Clock for TokioClock {
    fn now(&self) -> Moment {
        Moment(self.origin.elapsed())
    }

    fn wall(&self) -> Timestamp {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn sleep_until(&self, deadline: Moment) -> BoxFuture<'static, ()> {
        match self.origin.checked_add(deadline.0) {
            Some(deadline) => Box::pin(tokio::time::sleep_until(deadline)),
            // Later than any instant of this system.
            None => Box::pin(std::future::pending()),
        }
    }

    /// `false` on a runtime whose time is paused now, or was: its time is not that of another runtime any more.
    fn follows_real_time(&self) -> bool {
        // Tokio does not expose that its time is paused. One step of the real clock distinguishes it from a clock that stands still.
        let begun = std::time::Instant::now();
        let mut before = begun;
        while before == begun {
            before = std::time::Instant::now();
        }
        let tokios = tokio::time::Instant::now().into_std();
        before <= tokios && tokios <= std::time::Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timeout_says_what_the_limit_was() {
        let clock = TokioClock::new();
        let outcome = clock
            .timeout(Duration::from_secs(3), std::future::pending::<()>())
            .await;
        assert_eq!(outcome, Err(Elapsed(Duration::from_secs(3))));
        assert_eq!(clock.now(), Moment::from_origin(Duration::from_secs(3)));
        assert_eq!(clock.timeout(Duration::from_secs(3), async { 7 }).await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_without_end_never_returns() {
        let clock = TokioClock::new();
        let slept = clock
            .timeout(Duration::from_secs(3600), clock.sleep(Duration::MAX))
            .await;
        assert!(slept.is_err());
    }

    #[test]
    fn a_timestamp_reads_as_a_date() {
        let shown =
            [0, 1_700_000_000_123, -1, i64::MAX].map(|millis| Timestamp::from_millis(millis).to_string());
        let expected = [
            "1970-01-01T00:00:00.000Z",
            "2023-11-14T22:13:20.123Z",
            "-1 ms after 1970",
            "9223372036854775807 ms after 1970",
        ];
        assert_eq!(shown, expected);
    }

    #[tokio::test]
    async fn paused_time_is_told_from_real_time() {
        assert!(TokioClock::new().follows_real_time());
        tokio::time::pause();
        assert!(!TokioClock::new().follows_real_time());
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(!TokioClock::new().follows_real_time(), "it is ahead");
        tokio::time::resume();
        assert!(!TokioClock::new().follows_real_time(), "it is ahead for good");
    }

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(Moment::ZERO - Duration::from_secs(1), Moment::ZERO);
        assert_eq!(
            Moment::ZERO.saturating_since(Moment::ZERO + Duration::from_secs(1)),
            Duration::ZERO
        );
        assert_eq!(Timestamp::from_millis(-1).as_secs(), -1);
    }
}
