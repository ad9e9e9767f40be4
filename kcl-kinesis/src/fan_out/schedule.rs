//! When a shard may be subscribed to again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kcl_core::clock::{Moment, Rng};
use kcl_core::types::ShardId;

/// How long to wait after an error, before jitter.
const PAUSE: Duration = Duration::from_secs(1);

/// Why there is no subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// It was old, or nobody read it, or the service ended it in good order.
    Closed,
    /// The service, or the way to it, failed.
    Failed,
    /// Another client, perhaps a former owner of the lease or an earlier attempt of ours, has a subscription that is too young to be replaced.
    InUse,
}

/// The earliest time of the next try: never within the spacing of the last success, which the service would refuse; at least one second,
/// and up to two, after an error; at least the spacing, and up to a second more, after a refusal.
fn next_attempt(
    ended: EndReason,
    now: Moment,
    last_success: Option<Moment>,
    spacing: Duration,
    rng: &mut Rng,
) -> Moment {
    let mut jitter = || Duration::from_millis(rng.below(1000));
    let pause = match ended {
        EndReason::Closed => Duration::ZERO,
        EndReason::Failed => PAUSE + jitter(),
        EndReason::InUse => spacing + jitter(),
    };
    let paused = now + pause;
    last_success.map_or(paused, |success| paused.max(success + spacing))
}

/// When each shard may be subscribed to again, whoever in this process had the subscription before.
#[derive(Debug)]
pub(crate) struct SubscriptionSchedule {
    spacing: Duration,
    shards: Mutex<BTreeMap<ShardId, ShardSchedule>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct ShardSchedule {
    last_success: Option<Moment>,
    next: Option<Moment>,
}

impl SubscriptionSchedule {
    pub(crate) fn new(spacing: Duration) -> Self {
        Self {
            spacing,
            shards: Mutex::default(),
        }
    }

    /// The earliest time of the next try.
    pub(crate) fn next(&self, shard: &ShardId) -> Moment {
        let shard_schedule = self.lock().get(shard).copied().unwrap_or_default();
        shard_schedule.next.unwrap_or(Moment::ZERO)
    }

    /// A subscription was opened.
    pub(crate) fn opened(&self, shard: &ShardId, now: Moment) {
        let mut shards = self.lock();
        // What is past means nothing any more.
        shards.retain(|_, shard_schedule| shard_schedule.next.is_some_and(|next| now < next));
        let shard_schedule = ShardSchedule {
            last_success: Some(now),
            next: Some(now + self.spacing),
        };
        shards.insert(shard.clone(), shard_schedule);
    }

    /// There is no subscription, or none came about.
    pub(crate) fn ended(&self, shard: &ShardId, ended: EndReason, now: Moment, rng: &mut Rng) {
        let mut shards = self.lock();
        let shard_schedule = shards.entry(shard.clone()).or_default();
        shard_schedule.next = Some(next_attempt(
            ended,
            now,
            shard_schedule.last_success,
            self.spacing,
            rng,
        ));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, ShardSchedule>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPACING: Duration = Duration::from_secs(5);

    fn at(millis: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(millis))
    }

    #[test]
    fn an_old_subscription_is_replaced_at_once() {
        let next = next_attempt(
            EndReason::Closed,
            at(270_000),
            Some(at(0)),
            SPACING,
            &mut kcl_core::clock::Rng::from_seed(1),
        );
        assert_eq!(next, at(270_000));
    }

    #[test]
    fn shard_opened_again_waits_its_turn() {
        let schedule = SubscriptionSchedule::new(SPACING);
        let shard = |n: u32| ShardId::new(format!("shardId-{n:012}")).unwrap();
        assert_eq!(schedule.next(&shard(0)), Moment::ZERO);
        schedule.opened(&shard(0), at(1000));
        assert_eq!(schedule.next(&shard(0)), at(6000));
        // Another shard's turn leaves it alone until it is past.
        schedule.opened(&shard(1), at(2000));
        assert_eq!(schedule.next(&shard(0)), at(6000));
        schedule.ended(
            &shard(0),
            EndReason::Closed,
            at(100_000),
            &mut kcl_core::clock::Rng::from_seed(1),
        );
        schedule.opened(&shard(1), at(200_000));
        assert_eq!(schedule.lock().len(), 1);
    }

    proptest! {
        #[test]
        fn no_try_comes_too_early(
            seed in any::<u64>(), success in proptest::option::of(0_u64..10_000), later in 0_u64..10_000,
            ended in prop_oneof![Just(EndReason::Closed), Just(EndReason::Failed), Just(EndReason::InUse)],
        ) {
            let now = at(success.unwrap_or(0) + later);
            let next = next_attempt(ended, now, success.map(at), SPACING, &mut kcl_core::clock::Rng::from_seed(seed));
            let pause = match ended {
                EndReason::Closed => 0,
                EndReason::Failed => 1000,
                EndReason::InUse => 5000,
            };
            prop_assert!(next >= now + Duration::from_millis(pause));
            prop_assert!(success.is_none_or(|success| next >= at(success + 5000)));
            prop_assert!(next <= now + Duration::from_millis(pause.max(5000) + 1000));
        }
    }
}
