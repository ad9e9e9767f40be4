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
pub(crate) enum Ended {
    /// It was old, or nobody read it, or the service ended it in good order.
    InOrder,
    /// The service, or the way to it, failed.
    Failed,
    /// Another client, perhaps a former owner of the lease or an earlier attempt of ours, has a subscription that is too young to be replaced.
    InUse,
}

/// The earliest time of the next try: never within the spacing of the last success, which the service would refuse; at least one second,
/// and up to two, after an error; at least the spacing, and up to a second more, after a refusal.
fn next_try(
    ended: Ended,
    now: Moment,
    last_success: Option<Moment>,
    spacing: Duration,
    rng: &mut Rng,
) -> Moment {
    let mut jitter = || Duration::from_millis(rng.below(1000));
    let pause = match ended {
        Ended::InOrder => Duration::ZERO,
        Ended::Failed => PAUSE + jitter(),
        Ended::InUse => spacing + jitter(),
    };
    let paused = now + pause;
    last_success.map_or(paused, |success| paused.max(success + spacing))
}

/// When each shard may be subscribed to again, whoever in this process had the subscription before.
#[derive(Debug)]
pub(crate) struct Turns {
    spacing: Duration,
    shards: Mutex<BTreeMap<ShardId, Turn>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    last_success: Option<Moment>,
    next: Option<Moment>,
}

impl Turns {
    pub(crate) fn new(spacing: Duration) -> Self {
        Self {
            spacing,
            shards: Mutex::default(),
        }
    }

    /// The earliest time of the next try.
    pub(crate) fn next(&self, shard: &ShardId) -> Moment {
        let turn = self.lock().get(shard).copied().unwrap_or_default();
        turn.next.unwrap_or(Moment::ZERO)
    }

    /// A subscription was opened.
    pub(crate) fn opened(&self, shard: &ShardId, now: Moment) {
        let mut shards = self.lock();
        // What is past means nothing any more.
        shards.retain(|_, turn| turn.next.is_some_and(|next| now < next));
        let turn = Turn {
            last_success: Some(now),
            next: Some(now + self.spacing),
        };
        shards.insert(shard.clone(), turn);
    }

    /// There is no subscription, or none came about.
    pub(crate) fn ended(&self, shard: &ShardId, ended: Ended, now: Moment, rng: &mut Rng) {
        let mut shards = self.lock();
        let turn = shards.entry(shard.clone()).or_default();
        turn.next = Some(next_try(ended, now, turn.last_success, self.spacing, rng));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, Turn>> {
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
        let next = next_try(
            Ended::InOrder,
            at(270_000),
            Some(at(0)),
            SPACING,
            &mut kcl_core::clock::Rng::from_seed(1),
        );
        assert_eq!(next, at(270_000));
    }

    #[test]
    fn a_shard_that_is_opened_again_waits_its_turn() {
        let turns = Turns::new(SPACING);
        let shard = |n: u32| ShardId::new(format!("shardId-{n:012}")).unwrap();
        assert_eq!(turns.next(&shard(0)), Moment::ZERO);
        turns.opened(&shard(0), at(1000));
        assert_eq!(turns.next(&shard(0)), at(6000));
        // Another shard's turn leaves it alone until it is past.
        turns.opened(&shard(1), at(2000));
        assert_eq!(turns.next(&shard(0)), at(6000));
        turns.ended(
            &shard(0),
            Ended::InOrder,
            at(100_000),
            &mut kcl_core::clock::Rng::from_seed(1),
        );
        turns.opened(&shard(1), at(200_000));
        assert_eq!(turns.lock().len(), 1);
    }

    proptest! {
        #[test]
        fn no_try_comes_too_early(
            seed in any::<u64>(), success in proptest::option::of(0_u64..10_000), later in 0_u64..10_000,
            ended in prop_oneof![Just(Ended::InOrder), Just(Ended::Failed), Just(Ended::InUse)],
        ) {
            let now = at(success.unwrap_or(0) + later);
            let next = next_try(ended, now, success.map(at), SPACING, &mut kcl_core::clock::Rng::from_seed(seed));
            let pause = match ended {
                Ended::InOrder => 0,
                Ended::Failed => 1000,
                Ended::InUse => 5000,
            };
            prop_assert!(next >= now + Duration::from_millis(pause));
            prop_assert!(success.is_none_or(|success| next >= at(success + 5000)));
            prop_assert!(next <= now + Duration::from_millis(pause.max(5000) + 1000));
        }
    }
}
