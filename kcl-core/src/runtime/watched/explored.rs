//! The parts of a [`Monitor`](super::Monitor) in tests, and how the orders are tried in which tasks can take their steps.
//!
//! In an ordinary test these are std's mutex and tokio's `Notify`. In a test that explores, shuttle decides before every operation
//! on them which task goes on. The mutex is shuttle's there. The `Notify` stays tokio's own: no other task runs in the middle of one
//! of its operations, because tokio shows with loom that they take effect at once.

use std::panic::UnwindSafe;
use std::sync::{LockResult, PoisonError};
use std::task::Poll;

use shuttle::scheduler::{DfsScheduler, PctScheduler, Scheduler};
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};
use tokio::sync::futures::Notified;

use crate::runtime::clock::BoxFuture;

#[derive(Default)]
pub(crate) struct Mutex<T> {
    turn: shuttle::sync::Mutex<()>,
    value: std::sync::Mutex<T>,
}

/// The value first, then the turn: so they are dropped.
pub(crate) struct MutexGuard<'a, T> {
    value: std::sync::MutexGuard<'a, T>,
    _turn: Option<shuttle::sync::MutexGuard<'a, ()>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            turn: shuttle::sync::Mutex::new(()),
            value: std::sync::Mutex::new(value),
        }
    }

    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        let turn = is_exploring().then(|| self.turn.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(MutexGuard {
            value: self.value.lock().unwrap_or_else(PoisonError::into_inner),
            _turn: turn,
        })
    }
}

impl<T> std::ops::Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> std::ops::DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

#[derive(Default)]
pub(crate) struct Notify {
    real: tokio::sync::Notify,
    crossroads: Crossroads,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        self.crossroads.pass();
        self.real.notified()
    }

    pub(crate) fn notify_waiters(&self) {
        self.crossroads.pass();
        self.real.notify_waiters();
    }

    /// The part that a [`Monitor`](super::Monitor) must not use: for a planted mistake.
    pub(crate) fn notify_one(&self) {
        self.crossroads.pass();
        self.real.notify_one();
    }
}

/// A place where any other task may go on first. Unlike a task that yields, one that is here asks for nothing.
#[derive(Default)]
pub(crate) struct Crossroads(AtomicBool);

impl Crossroads {
    pub(crate) fn pass(&self) {
        if is_exploring() {
            self.0.load(Ordering::SeqCst);
        }
    }
}

fn is_exploring() -> bool {
    shuttle::current::try_get_current_task().is_some()
}

/// Tries every order of the steps of a small scenario, and says how many there are. Fails if one of them panics, or leaves a task
/// waiting for what nobody will do; also when there are too many.
pub(crate) fn explore_all(scenario: impl Fn() + Send + Sync + 'static) -> usize {
    let too_many = 200_000;
    let orders = run(DfsScheduler::new(Some(too_many), false), scenario);
    assert!(orders < too_many, "not all orders were tried");
    orders
}

/// Tries as many orders of the steps of a scenario that is too large for all of them: those that differ from a fixed order of
/// precedence in at most three places, where most mistakes show. The same ones each time.
pub(crate) fn explore_some(orders: usize, scenario: impl Fn() + Send + Sync + 'static) -> usize {
    run(PctScheduler::new_from_seed(5, 3, orders), scenario)
}

fn run(scheduler: impl Scheduler + 'static, scenario: impl Fn() + Send + Sync + 'static) -> usize {
    let mut config = Config::new();
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(10_000);
    Runner::new(scheduler, config).run(scenario)
}

/// Whether the exploration of a scenario fails, and says so in these words.
pub(crate) fn fails(says: &str, scenario: impl Fn() + Send + Sync + UnwindSafe + 'static) -> bool {
    let outcome = std::panic::catch_unwind(|| explore_some(5000, scenario));
    outcome.is_err_and(|payload| {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        text.is_some_and(|text| text.contains(says))
    })
}

/// Runs these futures as tasks, in any order, until all have ended.
pub(crate) fn run_all(mut tasks: Vec<BoxFuture<'static, ()>>) {
    let last = tasks.pop().unwrap();
    let handles: Vec<_> = tasks.into_iter().map(shuttle::future::spawn).collect();
    shuttle::future::block_on(last);
    for handle in handles {
        shuttle::future::block_on(handle).unwrap();
    }
}

/// Polls the future once, lets others go on, and drops it unless it was ready.
pub(crate) async fn give_up_at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let polled = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
    if let Poll::Ready(output) = polled {
        return Some(output);
    }
    Crossroads::default().pass();
    None
}
