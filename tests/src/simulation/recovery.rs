//! What must become of a fleet once nothing goes wrong any more: I10, I12 and I13.

use std::collections::BTreeMap;
use std::time::Duration;

use kcl_core::assignment::Strategy;
use kcl_core::lease::Lease;
use kcl_core::model::WorkerId;
use kcl_core::shard_sync::cover;
use kcl_testkit::fleet::{Fleet, View};

use super::account::Account;
use super::story::Story;

/// How long nothing may move once there is balance.
const QUIET: Duration = Duration::from_secs(25);
/// How long a fleet may take until it is in balance.
const BALANCE: Duration = Duration::from_secs(120);

/// Waits until the fleet is whole again, and checks that it stays so, also when a worker joins.
///
/// # Panics
///
/// When it is not in time, leases do not cover the stream, or the balance does not settle.
pub(super) async fn recover(fleet: &Fleet, story: &Story, join: impl FnOnce(), account: &mut Account) {
    let settings = fleet.settings();
    // Whoever has to be missed, then a leader to be missed, then one that looks and gives away.
    let bound = settings.failover_time * 3 + Duration::from_secs(10);
    let owned = fleet
        .wait_until("every lease has a living owner (I12)", bound, all_are_held)
        .await;
    account.recovered(owned);
    fleet.sleep(Duration::from_secs(5)).await;
    fleet.stop_producing();
    fleet.settle().await;
    let by_count = story.settings.assignment.strategy == Strategy::LeaseCount;
    balance(fleet, by_count).await;
    let before = fleet.view().moves().len();
    join();
    let least = least_moves(&fleet.view());
    let moves = balance(fleet, by_count).await - before;
    if by_count {
        assert!(moves <= least, "{moves} moves where {least} were needed (I13)");
        account.balanced(moves, least);
    }
    account.failed_over(
        lose_one(fleet, story.seed, by_count).await,
        settings.failover_time,
    );
    check_lineage(&fleet.view());
    let tally = fleet.view().tally();
    assert_eq!(tally.finished + tally.trimmed_unfinished, tally.put, "(I1)");
}

/// Kills one worker, the leader as likely as any, while nothing else is wrong; tells how long its leases were without an owner.
async fn lose_one(fleet: &Fleet, seed: u64, by_count: bool) -> Duration {
    let names: Vec<_> = fleet.view().living().into_keys().collect();
    let settings = fleet.settings();
    fleet.kill(&names[usize::try_from(seed).unwrap_or(0) % names.len()]);
    fleet.put(60);
    // A clock may be five percent slow. What discovery takes beyond its default comes on top.
    let discovery = settings
        .discovery_interval
        .saturating_sub(Duration::from_millis(500));
    let missed = settings.failover_time * 106 / 100;
    let mut bound = missed + Duration::from_secs(2) + discovery;
    // Loads that have shifted may send a lease to the one that died before anybody can know that it did: then the new owner must be missed
    // once more, from the handover on. By count nothing is on its way, since there was balance.
    if !by_count {
        bound += missed + settings.handoff_timeout;
    }
    let took = fleet
        .wait_until("what a worker had has another owner (I12)", bound, all_are_held)
        .await;
    fleet.settle().await;
    took
}

/// Waits until there is balance and nothing moves, and tells how many moves there were until then.
async fn balance(fleet: &Fleet, by_count: bool) -> usize {
    let is_even = |view: &View<'_>| {
        (!by_count || least_moves(view) == 0) && !view.leases().iter().any(Lease::is_in_handoff)
    };
    let begun = fleet.now();
    loop {
        fleet
            .wait_until("the balance settles (I13)", BALANCE, is_even)
            .await;
        let moves = fleet.view().moves().len();
        fleet.sleep(QUIET).await;
        let after = fleet.view().moves().len();
        if after == moves {
            return moves;
        }
        // What is even by count is so at once; loads are measured, and seen to be other than they were thought.
        assert!(
            !by_count,
            "{} moves after the balance was there (I13)",
            after - moves
        );
        let took = fleet.now().saturating_since(begun);
        assert!(took < 2 * BALANCE, "moves without an end (I13)");
    }
}

/// Whether each lease that is not ended is held by the living member that its row names.
fn all_are_held(view: &View<'_>) -> bool {
    let living: BTreeMap<WorkerId, _> = view
        .living()
        .into_values()
        .map(|status| (status.worker, status.leases))
        .collect();
    let is_held = |lease: &Lease| {
        let owner = lease.actual_owner().and_then(|owner| living.get(owner));
        owner.is_some_and(|held| held.contains_key(&lease.key))
    };
    view.leases()
        .iter()
        .filter(|lease| !lease.is_ended())
        .all(is_held)
}

/// Every open shard has a lease that is not ended, and these cover all hash keys once (I10).
fn check_lineage(view: &View<'_>) {
    let leases = view.leases();
    let open = leases.iter().filter(|lease| !lease.is_ended());
    let cover = cover(open.filter_map(|lease| lease.hash_range));
    assert!(
        cover.is_whole(),
        "the leases do not cover the stream: {cover:?} (I10)"
    );
}

/// How many leases must move at least until no living worker has two more than another.
fn least_moves(view: &View<'_>) -> usize {
    let living = view.living().into_values();
    let mut counts: Vec<usize> = living.map(|status| status.leases.len()).collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let all: usize = counts.iter().sum();
    let (share, more) = (all / counts.len(), all % counts.len());
    let target = |place| if place < more { share + 1 } else { share };
    let too_many = counts.iter().enumerate();
    too_many
        .map(|(place, count)| count.saturating_sub(target(place)))
        .sum()
}
