use std::sync::{Arc, PoisonError};

use super::*;
use crate::runtime::clock::BoxFuture;
use crate::runtime::watched::explored::{
    Mutex, Notify, explore_all, explore_some, fails, give_up_at_once, run_all,
};

/// A number that is waited for: the monitor, or one of its mistaken likes.
trait Number: Default + Send + Sync + 'static {
    fn add(&self, more: u32);

    fn at_least(&self, least: u32) -> impl Future<Output = ()> + Send;
}

impl Number for Watched<u32> {
    fn add(&self, more: u32) {
        self.modify(|value| *value += more);
    }

    async fn at_least(&self, least: u32) {
        self.wait_for(|value| (*value >= least).then_some(())).await;
    }
}

/// A waiter looks first, and takes a place among the waiters then.
#[derive(Default)]
struct LooksFirst(Watched<u32>);

impl Number for LooksFirst {
    fn add(&self, more: u32) {
        self.0.add(more);
    }

    async fn at_least(&self, least: u32) {
        while self.0.read(|value| *value < least) {
            self.0.changed().await;
        }
    }
}

#[derive(Default)]
struct Parts {
    value: Mutex<u32>,
    changed: Notify,
}

impl Parts {
    fn add(&self, more: u32) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) += more;
    }

    async fn at_least(&self, least: u32) {
        loop {
            let changed = self.changed.notified();
            if *self.value.lock().unwrap_or_else(PoisonError::into_inner) >= least {
                return;
            }
            changed.await;
        }
    }
}

/// A writer wakes the waiters first.
#[derive(Default)]
struct WakesFirst(Parts);

impl Number for WakesFirst {
    fn add(&self, more: u32) {
        self.0.changed.notify_waiters();
        self.0.add(more);
    }

    async fn at_least(&self, least: u32) {
        self.0.at_least(least).await;
    }
}

/// A writer wakes one of the waiters.
#[derive(Default)]
struct WakesOne(Parts);

impl Number for WakesOne {
    fn add(&self, more: u32) {
        self.0.add(more);
        self.0.changed.notify_one();
    }

    async fn at_least(&self, least: u32) {
        self.0.at_least(least).await;
    }
}

/// One who adds twice, and one who waits for that.
fn one_waits<N: Number>() {
    let number = Arc::new(N::default());
    let (adds, waits) = (number.clone(), number);
    run_all(vec![
        Box::pin(async move { waits.at_least(2).await }),
        Box::pin(async move { (0..2).for_each(|_| adds.add(1)) }),
    ]);
}

/// Two who add, and one who waits for both.
fn two_add<N: Number>() {
    let number = Arc::new(N::default());
    let (first, second, waits) = (number.clone(), number.clone(), number);
    run_all(vec![
        Box::pin(async move { waits.at_least(2).await }),
        Box::pin(async move { first.add(1) }),
        Box::pin(async move { second.add(1) }),
    ]);
}

/// One who adds, and two who wait for different things.
fn two_wait<N: Number>() {
    let number = Arc::new(N::default());
    let (adds, sooner, later) = (number.clone(), number.clone(), number);
    run_all(vec![
        Box::pin(async move { later.at_least(2).await }),
        Box::pin(async move { sooner.at_least(1).await }),
        Box::pin(async move { (0..2).for_each(|_| adds.add(1)) }),
    ]);
}

/// One who adds, one who waits and gives up, and one who waits on.
fn one_gives_up<N: Number>() {
    let number = Arc::new(N::default());
    let (adds, gives_up, waits) = (number.clone(), number.clone(), number);
    run_all(vec![
        Box::pin(async move { _ = give_up_at_once(gives_up.at_least(1)).await }),
        Box::pin(async move { waits.at_least(1).await }),
        Box::pin(async move { adds.add(1) }),
    ]);
}

#[test]
fn no_order_of_steps_leaves_a_waiter_waiting() {
    let orders = explore_all(one_waits::<Watched<u32>>);
    assert!(orders > 100, "only {orders} orders were tried");
    for scenario in [
        two_add::<Watched<u32>>,
        two_wait::<Watched<u32>>,
        one_gives_up::<Watched<u32>>,
    ] {
        explore_some(5000, scenario);
    }
}

#[test]
fn looking_before_taking_place_is_found_to_hang() {
    assert!(fails("deadlock", one_waits::<LooksFirst>));
}

#[test]
fn waking_before_changing_is_found_to_hang_waiter() {
    assert!(fails("deadlock", one_waits::<WakesFirst>));
}

#[test]
fn waking_only_one_is_found_to_hang_another() {
    assert!(fails("deadlock", two_wait::<WakesOne>));
}

/// Each takes the only one there is, keeps it for a while, and puts it back; one of them gives up if it is not there at once.
#[test]
fn taker_has_it_alone_and_everybody_a_turn() {
    explore_some(5000, || {
        let (free, turns) = (Arc::new(Watched::new(1_u32)), Arc::new(Watched::new(0_u32)));
        let take = |gives_up: bool| -> BoxFuture<'static, ()> {
            let (free, turns) = (free.clone(), turns.clone());
            Box::pin(async move {
                let attempt = |free: &mut u32| free.checked_sub(1).map(|rest| *free = rest);
                if gives_up {
                    if give_up_at_once(free.wait_until(attempt)).await.is_none() {
                        return;
                    }
                } else {
                    free.wait_until(attempt).await;
                }
                assert_eq!(free.read(|free| *free), 0);
                turns.modify(|turns| *turns += 1);
                free.modify(|free| *free += 1);
            })
        };
        run_all(vec![take(false), take(true), take(false)]);
        assert_eq!(free.read(|free| *free), 1);
        assert!(turns.read(|turns| (2..=3).contains(turns)));
    });
}
