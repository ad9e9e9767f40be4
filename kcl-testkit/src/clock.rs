//! Clocks for tests: one that is wrong in a chosen way, and one that is moved by hand.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kcl_core::clock::{BoxFuture, Clock, Moment, TokioClock};
use kcl_core::types::Timestamp;

/// 2026-01-01T00:00:00Z, where the time of a simulation begins unless a test says otherwise.
pub const SIMULATION_START: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// In what way a host's clock is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Skew {
    /// How far its wall time is ahead, in milliseconds; negative when it is behind. Tests go to ±24 h.
    pub wall_offset_millis: i64,
    /// How much too fast it runs, in millionths; negative when it is too slow. Tests go to ±50,000, which is 5 %.
    /// A clock never runs slower than a millionth of the true time.
    pub rate_ppm: i32,
    /// The monotonic time that it shows at the beginning, as a host that was started earlier would.
    pub uptime: Duration,
}

/// The clock of one simulated host: follows tokio's time, wrong by its [`Skew`].
///
/// Its wall time begins at a fixed date and moves with its monotonic time, so that nothing depends on when a test runs.
/// Without skew it is an honest clock for a simulation, and the one to give to the service.
///
/// ```
/// use std::time::Duration;
/// use kcl_core::clock::{Clock, ClockExt};
/// use kcl_testkit::clock::{Skew, SkewedClock};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let honest = SkewedClock::new(Skew::default());
/// let fast = SkewedClock::new(Skew { rate_ppm: 50_000, ..Skew::default() });
/// honest.sleep(Duration::from_secs(100)).await;
/// assert_eq!(honest.now().since_origin(), Duration::from_secs(100));
/// assert_eq!(fast.now().since_origin(), Duration::from_secs(105));
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct SkewedClock {
    truth: TokioClock,
    skew: Skew,
    wall_start: Timestamp,
}

const MILLION: u128 = 1_000_000;

impl SkewedClock {
    /// A clock with this skew whose true time begins now, at [`SIMULATION_START`].
    ///
    /// With tokio's time paused it must be created inside the runtime that it is used in.
    #[must_use]
    pub fn new(skew: Skew) -> Self {
        Self::starting_at(SIMULATION_START, skew)
    }

    /// A clock with this skew, and this true wall time now.
    #[must_use]
    pub fn starting_at(wall: Timestamp, skew: Skew) -> Self {
        Self {
            truth: TokioClock::new(),
            skew,
            wall_start: wall,
        }
    }

    /// A clock of another host: the same true time, wrong in another way.
    #[must_use]
    pub fn with_skew(self, skew: Skew) -> Self {
        Self { skew, ..self }
    }

    /// How many millionths of a second pass here in a true second; at least 1.
    fn rate(&self) -> u128 {
        let rate = 1_000_000_i64 + i64::from(self.skew.rate_ppm);
        u128::from(rate.max(1).unsigned_abs())
    }

    /// The time that passes here in this much true time, rounded down.
    fn elapsed_here(&self, truly: Duration) -> Duration {
        nanos(truly.as_nanos() * self.rate() / MILLION)
    }

    /// The shortest true time in which this much passes here.
    fn true_time_for(&self, here: Duration) -> Duration {
        nanos((here.as_nanos() * MILLION).div_ceil(self.rate()))
    }
}

fn nanos(count: u128) -> Duration {
    Duration::from_nanos(u64::try_from(count).unwrap_or(u64::MAX))
}

impl Clock for SkewedClock {
    fn now(&self) -> Moment {
        let here = self.elapsed_here(self.truth.now().since_origin());
        Moment::from_origin(self.skew.uptime.saturating_add(here))
    }

    fn wall(&self) -> Timestamp {
        let here = self.elapsed_here(self.truth.now().since_origin());
        let start = self
            .wall_start
            .as_millis()
            .saturating_add(self.skew.wall_offset_millis);
        Timestamp::from_millis(start).plus(here)
    }

    fn sleep_until(&self, deadline: Moment) -> BoxFuture<'static, ()> {
        let here = deadline.since_origin().saturating_sub(self.skew.uptime);
        self.truth
            .sleep_until(Moment::from_origin(self.true_time_for(here)))
    }
}

/// A clock that stands still until a test moves it. Clones share the time. It needs no runtime.
///
/// ```
/// use std::time::Duration;
/// use kcl_core::clock::Clock;
/// use kcl_testkit::clock::ManualClock;
///
/// let clock = ManualClock::new();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(3));
/// assert_eq!(clock.now().saturating_since(before), Duration::from_secs(3));
/// ```
#[derive(Debug, Clone, Default)]
pub struct ManualClock {
    shared: Arc<Mutex<Manual>>,
}

#[derive(Debug, Default)]
struct Manual {
    elapsed: Duration,
    next_sleeper: u64,
    sleepers: BTreeMap<u64, (Moment, Waker)>,
}

impl ManualClock {
    /// A clock at [`SIMULATION_START`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the time on, and wakes whoever slept until then, the earliest first.
    pub fn advance(&self, by: Duration) {
        let wakers: Vec<Waker> = {
            let mut manual = self.lock();
            manual.elapsed += by;
            let now = Moment::from_origin(manual.elapsed);
            let mut due: Vec<(Moment, u64)> = manual
                .sleepers
                .iter()
                .filter(|(_, (deadline, _))| *deadline <= now)
                .map(|(id, (deadline, _))| (*deadline, *id))
                .collect();
            due.sort_unstable();
            due.iter()
                .filter_map(|(_, id)| manual.sleepers.remove(id))
                .map(|(_, waker)| waker)
                .collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Manual> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        Moment::from_origin(self.lock().elapsed)
    }

    fn wall(&self) -> Timestamp {
        SIMULATION_START.plus(self.lock().elapsed)
    }

    fn sleep_until(&self, deadline: Moment) -> BoxFuture<'static, ()> {
        Box::pin(ManualSleep {
            clock: self.clone(),
            deadline,
            id: None,
        })
    }
}

/// Ready once the clock has reached the deadline.
struct ManualSleep {
    clock: ManualClock,
    deadline: Moment,
    id: Option<u64>,
}

impl Future for ManualSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let clock = self.clock.clone();
        let mut manual = clock.lock();
        if Moment::from_origin(manual.elapsed) >= self.deadline {
            return Poll::Ready(());
        }
        let id = *self.id.get_or_insert_with(|| {
            manual.next_sleeper += 1;
            manual.next_sleeper
        });
        manual.sleepers.insert(id, (self.deadline, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for ManualSleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.clock.lock().sleepers.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use kcl_core::clock::ClockExt as _;
    use proptest::prelude::*;

    use super::*;

    const DAY_MILLIS: i64 = 24 * 60 * 60 * 1000;

    fn skewed(rate_ppm: i32) -> Skew {
        Skew {
            rate_ppm,
            ..Skew::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn clocks_of_one_truth_drift_by_their_rates() {
        let honest = SkewedClock::new(Skew::default());
        let (fast, slow) = (
            honest.with_skew(skewed(50_000)),
            honest.with_skew(skewed(-50_000)),
        );
        honest.sleep(Duration::from_secs(1000)).await;
        let shown = |clock: SkewedClock| clock.now().since_origin().as_secs();
        assert_eq!((shown(honest), shown(fast), shown(slow)), (1000, 1050, 950));
        let wall = |clock: SkewedClock| (clock.wall().as_millis() - SIMULATION_START.as_millis()) / 1000;
        assert_eq!((wall(honest), wall(fast), wall(slow)), (1000, 1050, 950));
    }

    #[tokio::test(start_paused = true)]
    async fn sleeper_on_slow_clock_wakes_truly_later() {
        let honest = SkewedClock::new(Skew::default());
        let slow = honest.with_skew(skewed(-50_000));
        slow.sleep(Duration::from_secs(19)).await;
        assert_eq!(honest.now().since_origin(), Duration::from_secs(20));
    }

    #[tokio::test(start_paused = true)]
    async fn wall_offset_and_uptime_change_no_duration() {
        let honest = SkewedClock::new(Skew::default());
        let odd = honest.with_skew(Skew {
            wall_offset_millis: -DAY_MILLIS,
            uptime: Duration::from_secs(86_400),
            rate_ppm: 0,
        });
        assert_eq!(odd.wall(), SIMULATION_START.minus(Duration::from_secs(86_400)));
        assert_eq!(odd.now(), Moment::from_origin(Duration::from_secs(86_400)));
        odd.sleep(Duration::from_secs(5)).await;
        assert_eq!(honest.now().since_origin(), Duration::from_secs(5));
        assert_eq!(
            odd.now().saturating_since(Moment::ZERO),
            Duration::from_secs(86_405)
        );
    }

    proptest! {
        #[test]
        fn sleeper_wakes_never_early_and_hardly_late(
            rate_ppm in -50_000_i32..=50_000, millis in 0_u64..100_000_000, uptime in 0_u64..1_000_000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let clock = SkewedClock::new(Skew { rate_ppm, uptime: Duration::from_millis(uptime), ..Skew::default() });
                let deadline = clock.now() + Duration::from_millis(millis);
                clock.sleep_until(deadline).await;
                let late = clock.now().saturating_since(deadline);
                // The runtime's timer counts in milliseconds.
                assert!(clock.now() >= deadline && late <= Duration::from_millis(2), "{late:?}");
            });
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn manual_clock_wakes_sleepers_whose_time_has_come() {
        let clock = ManualClock::new();
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        let mut soon = clock.sleep(Duration::from_secs(1));
        let mut late = clock.sleep(Duration::from_secs(3));
        assert!(soon.as_mut().poll(&mut cx).is_pending() && late.as_mut().poll(&mut cx).is_pending());
        clock.advance(Duration::from_secs(2));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert!(soon.as_mut().poll(&mut cx).is_ready() && late.as_mut().poll(&mut cx).is_pending());
        drop(late);
        clock.advance(Duration::from_secs(2));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert_eq!(clock.wall(), SIMULATION_START.plus(Duration::from_secs(4)));
    }
}
