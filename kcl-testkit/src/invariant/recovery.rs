//! The recovery of a fleet once nothing goes wrong any more: I12, I13 and I14 for that time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kcl_core::invariant::{Invariant, Violation};
use kcl_core::lease_store::{LeaderLock, Lease};
use kcl_core::settings::Settings;
use kcl_core::types::{LeaseKey, WorkerId};

/// The leases that each living worker holds by its own account.
pub type Held = BTreeMap<WorkerId, BTreeSet<LeaseKey>>;

/// How long calls may take, and how far apart looks may be, when a store has just come back.
const SLACK: Duration = Duration::from_secs(10);

/// How long after the last fault every lease must have a living owner: three failover times and ten seconds.
///
/// The leader and its standby may both be gone. Then one failover time passes until somebody leads, and a second until that leader has itself
/// seen the leases of the dead stand still. Those that every living worker has just failed on are given to none of them for three.
pub fn owned_within(settings: &Settings) -> Duration {
    settings.leases.failover_time * 3 + SLACK
}

/// How long after the last fault somebody living must hold the leader lock: the lease of the leader, one heartbeat, and the few looks that
/// a challenger leaves to the standby before it takes the lock itself.
pub fn led_within(settings: &Settings) -> Duration {
    let heartbeat = settings.leases.failover_time / 5;
    let look = heartbeat.min(Duration::from_secs(1));
    settings.leases.failover_time + heartbeat + look * 4
}

/// Checks that each lease which is not ended is held by the living worker that its row names: what I12 says of a fleet that has been left
/// alone for [`owned_within`].
///
/// # Errors
///
/// [`Invariant::EveryLeaseOwned`], with the first lease that is not.
pub fn check_owned<'a>(leases: impl IntoIterator<Item = &'a Lease>, living: &Held) -> Result<(), Violation> {
    for lease in leases.into_iter().filter(|lease| !lease.is_ended()) {
        let owner = lease.actual_owner();
        let held = owner.and_then(|owner| living.get(owner));
        let is_held = held.is_some_and(|held| held.contains(&lease.key));
        Invariant::EveryLeaseOwned.check(is_held, || match owner {
            None => format!("nobody owns {}", lease.key),
            Some(owner) => format!(
                "{} is said to be owned by {owner}, which does not hold it",
                lease.key
            ),
        })?;
    }
    Ok(())
}

/// Checks that somebody living holds the leader lock: what I14 says of a fleet that has been left alone for [`led_within`].
///
/// # Errors
///
/// [`Invariant::LeaderHarmless`].
pub fn check_led(lock: Option<&LeaderLock>, living: &BTreeSet<WorkerId>) -> Result<(), Violation> {
    let holder = lock.filter(|lock| !lock.released).map(|lock| &lock.owner);
    Invariant::LeaderHarmless.check(holder.is_some_and(|holder| living.contains(holder)), || {
        format!("nobody living leads: the lock is held by {holder:?}")
    })
}

/// How many leases must move at least until no worker has two more than another. `counts` is how many each living worker has.
///
/// ```
/// use kcl_testkit::invariant::least_moves;
///
/// assert_eq!(least_moves(&[3, 3, 2]), 0);
/// assert_eq!(least_moves(&[6, 1, 0]), 3);
/// ```
pub fn least_moves(counts: &[usize]) -> usize {
    let mut counts = counts.to_vec();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let all: usize = counts.iter().sum();
    let (share, more) = (all / counts.len().max(1), all % counts.len().max(1));
    let wanted = |place| share + usize::from(place < more);
    let counts = counts.iter().enumerate();
    counts
        .map(|(place, count)| count.saturating_sub(wanted(place)))
        .sum()
}

/// Checks that no worker has two leases more than another: balance by [lease count](kcl_core::settings::Strategy::LeaseCount).
///
/// # Errors
///
/// [`Invariant::BalanceSettles`].
pub fn check_balance(counts: &[usize]) -> Result<(), Violation> {
    Invariant::BalanceSettles.check(least_moves(counts) == 0, || {
        format!("the workers have {counts:?} leases")
    })
}

/// Checks balance by [throughput](kcl_core::settings::Strategy::Throughput): every worker is within the band around the average load, or
/// else no lease of the most loaded worker would make things better at the least loaded one. `loads` is what each lease of each living
/// worker weighs.
///
/// # Errors
///
/// [`Invariant::BalanceSettles`].
pub fn check_band(loads: &[Vec<u64>], band_percent: u32) -> Result<(), Violation> {
    let sum = |leases: &Vec<u64>| leases.iter().map(|load| u128::from(*load)).sum::<u128>();
    let (Some(most), Some(least)) = (loads.iter().max_by_key(|l| sum(l)), loads.iter().map(sum).min()) else {
        return Ok(());
    };
    let share = loads.iter().map(sum).sum::<u128>() / loads.len() as u128;
    let band = share * u128::from(band_percent) / 100;
    let is_within = sum(most) <= share + band && least + band >= share;
    // As much better as a move must make things for the planner to make it: a quarter of the band.
    let helps = |load: &&u64| least + u128::from(**load) + band / 4 < sum(most);
    let better = most.iter().find(helps);
    Invariant::BalanceSettles.check(is_within || better.is_none(), || {
        format!(
            "a lease of {better:?} should move from a worker with {} to one with {least}, where the share is {share}",
            sum(most)
        )
    })
}

/// Checks that balance took at most twice as many moves as [it had to](least_moves).
///
/// # Errors
///
/// [`Invariant::BalanceSettles`].
pub fn check_moves(moves: usize, least: usize) -> Result<(), Violation> {
    Invariant::BalanceSettles.check(moves <= 2 * least, || {
        format!("{moves} moves where {least} were needed")
    })
}

/// Checks that nothing moved while a balanced fleet was left alone for `time`.
///
/// # Errors
///
/// [`Invariant::BalanceSettles`].
pub fn check_rest(moves: usize, time: Duration) -> Result<(), Violation> {
    Invariant::BalanceSettles.check(moves == 0, || {
        format!("{moves} moves within {time:?} after the balance was there")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use kcl_core::types::{Position, ShardId};

    fn worker(name: &str) -> WorkerId {
        name.parse().unwrap()
    }

    fn lease(n: u8, owner: Option<&str>) -> Lease {
        let shard = ShardId::new(format!("shardId-{n}")).unwrap();
        Lease {
            owner: owner.map(worker),
            ..Lease::unowned(shard, Position::TrimHorizon)
        }
    }

    fn broken(outcome: Result<(), Violation>) -> Option<Invariant> {
        outcome.err().map(|violation| violation.invariant)
    }

    #[test]
    fn lease_is_owned_where_row_and_worker_agree() {
        let (mine, other) = (lease(1, Some("a")), lease(2, Some("b")));
        let living = Held::from([(worker("a"), BTreeSet::from([mine.key.clone()]))]);
        assert_eq!(check_owned([&mine], &living), Ok(()));
        let mut ended = lease(3, None);
        ended.checkpoint = Position::ShardEnd;
        assert_eq!(check_owned([&mine, &ended], &living), Ok(()));
        let unowned = lease(4, None);
        let not_taken_up = lease(5, Some("a"));
        for orphan in [&other, &unowned, &not_taken_up] {
            assert_eq!(
                broken(check_owned([&mine, orphan], &living)),
                Some(Invariant::EveryLeaseOwned)
            );
        }
    }

    #[test]
    fn lease_in_handoff_is_owned_by_former_owner() {
        let mut handing = lease(1, Some("next"));
        handing.checkpoint_owner = Some(worker("a"));
        let living = Held::from([(worker("a"), BTreeSet::from([handing.key.clone()]))]);
        assert_eq!(check_owned([&handing], &living), Ok(()));
    }

    #[test]
    fn fleet_is_led_by_living_holder_of_lock() {
        let lock = LeaderLock {
            owner: worker("a"),
            duration: Duration::from_secs(10),
            version: "1".to_owned(),
            released: false,
            standby: None,
        };
        let released = LeaderLock {
            released: true,
            ..lock.clone()
        };
        let (a, b) = (BTreeSet::from([worker("a")]), BTreeSet::from([worker("b")]));
        assert_eq!(check_led(Some(&lock), &a), Ok(()));
        for (lock, living) in [(Some(&lock), &b), (Some(&released), &a), (None, &a)] {
            assert_eq!(broken(check_led(lock, living)), Some(Invariant::LeaderHarmless));
        }
    }

    #[test]
    fn the_bounds_follow_from_the_failover_time() {
        let mut settings = Settings::default();
        settings.leases.failover_time = Duration::from_secs(4);
        assert_eq!(owned_within(&settings), Duration::from_secs(22));
        assert_eq!(led_within(&settings), Duration::from_secs(8));
    }

    #[test]
    fn imbalance_and_twice_the_moves_are_too_many() {
        assert_eq!(check_balance(&[3, 2, 3]), Ok(()));
        assert_eq!(broken(check_balance(&[4, 2])), Some(Invariant::BalanceSettles));
        assert_eq!(check_balance(&[]), Ok(()));
        assert_eq!(check_moves(6, 3), Ok(()));
        assert_eq!(broken(check_moves(7, 3)), Some(Invariant::BalanceSettles));
        assert_eq!(check_rest(0, Duration::from_secs(9)), Ok(()));
        assert_eq!(
            broken(check_rest(1, Duration::from_secs(9))),
            Some(Invariant::BalanceSettles)
        );
    }

    #[test]
    fn load_settles_where_no_move_helps() {
        assert_eq!(check_band(&[vec![50, 55], vec![95]], 10), Ok(()));
        assert_eq!(
            check_band(&[vec![900], vec![10, 10]], 10),
            Ok(()),
            "one hot shard"
        );
        assert_eq!(check_band(&[], 10), Ok(()));
        let uneven = [vec![50, 50, 50], vec![50]];
        assert_eq!(broken(check_band(&uneven, 10)), Some(Invariant::BalanceSettles));
        assert_eq!(check_band(&uneven, 50), Ok(()));
    }

    proptest! {
        /// Moving one lease from the fullest to the emptiest worker brings the fleet one move nearer.
        #[test]
        fn the_least_moves_are_what_it_takes(mut counts in prop::collection::vec(0_usize..20, 1..8)) {
            for left in (0..least_moves(&counts)).rev() {
                counts.sort_unstable();
                let last = counts.len() - 1;
                counts[0] += 1;
                counts[last] -= 1;
                prop_assert_eq!(least_moves(&counts), left);
            }
            let (most, least) = (counts.iter().max().unwrap(), counts.iter().min().unwrap());
            prop_assert!(most - least <= 1);
        }
    }
}
