//! When a shard may be subscribed to again.

use std::time::Duration;

use kcl_core::rng::Rng;
use kcl_core::time::Moment;

use crate::fan_out::SHORTEST_RENEWAL;

/// How long to wait after an error, before jitter.
const PAUSE: Duration = Duration::from_secs(1);

/// Why there is no subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was old, or nobody read it, or the service ended it in good order.
    InOrder,
    /// The service, or the way to it, failed.
    Failed,
    /// Somebody else, perhaps a former owner of the lease or an earlier attempt of ours, has a subscription that is too young to be replaced.
    InUse,
}

/// The earliest time of the next try: never within five seconds of the last success, which the service would refuse; at least one second,
/// and up to two, after an error; at least five, and up to six, after a refusal.
pub(crate) fn next_try(ended: Ended, now: Moment, last_success: Option<Moment>, rng: &mut Rng) -> Moment {
    let mut jitter = || Duration::from_millis(rng.below(1000));
    let pause = match ended {
        Ended::InOrder => Duration::ZERO,
        Ended::Failed => PAUSE + jitter(),
        Ended::InUse => SHORTEST_RENEWAL + jitter(),
    };
    let paused = now + pause;
    last_success.map_or(paused, |success| paused.max(success + SHORTEST_RENEWAL))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(millis))
    }

    #[test]
    fn an_old_subscription_is_replaced_at_once() {
        let next = next_try(
            Ended::InOrder,
            at(270_000),
            Some(at(0)),
            &mut kcl_core::rng::Rng::from_seed(1),
        );
        assert_eq!(next, at(270_000));
    }

    proptest! {
        #[test]
        fn no_try_comes_too_early(
            seed in any::<u64>(), success in proptest::option::of(0_u64..10_000), later in 0_u64..10_000,
            ended in prop_oneof![Just(Ended::InOrder), Just(Ended::Failed), Just(Ended::InUse)],
        ) {
            let now = at(success.unwrap_or(0) + later);
            let next = next_try(ended, now, success.map(at), &mut kcl_core::rng::Rng::from_seed(seed));
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
