//! The recovery of a fleet once nothing goes wrong any more: I10, I12, I13 and what I14 says of that time.

use std::time::Duration;

use crate::fleet::{Fleet, View};
use crate::invariant::{
    Violation, check_cover, check_led, check_moves, check_owned, check_rest, least_moves, led_within,
    owned_within,
};
use kcl_core::lease_store::Lease;
use kcl_core::settings::{Settings, Strategy};

use super::report::Report;
use super::script::Scenario;

/// How long calls that were lost in bad times may yet be waited for.
const LAST_CALLS: Duration = Duration::from_secs(5);
/// How long nothing may move once there is balance.
const QUIET: Duration = Duration::from_secs(25);
/// How long a fleet may take until it is in balance, where no lease is left alone for longer.
const BALANCE: Duration = Duration::from_secs(120);

/// Waits until the fleet is whole again, and checks that it stays so, also when a worker joins.
///
/// # Panics
///
/// When it is not in time, leases do not cover the stream, or the balance does not settle.
pub(super) async fn recover(fleet: &Fleet, scenario: &Scenario, join: impl FnOnce(), report: &mut Report) {
    // Whatever is waited for, the slowest worker of the fleet may have to be.
    let mut settings = fleet.settings();
    settings.leases.failover_time = scenario.longest_failover();
    settings.reading.stall_timeout = scenario
        .settings
        .reading
        .stall_timeout
        .max(scenario.longest_failover());
    let led = fleet
        .wait_until(
            "somebody living leads (I14)",
            led_within(&settings) + LAST_CALLS,
            somebody_leads,
        )
        .await;
    let left = owned_within(&settings).saturating_sub(led);
    let owned = led
        + fleet
            .wait_until("every lease has a living owner (I12)", left, all_are_held)
            .await;
    report.recovered(owned);
    fleet.sleep(stalls_are_known(&settings)).await;
    fleet.stop_producing();
    fleet.settle().await;
    let by_count = scenario.settings.assignment.strategy == Strategy::LeaseCount;
    let within = balanced_within(&settings);
    balance(fleet, by_count, within).await;
    let before = fleet.view().moves().len();
    join();
    let least = needed_moves(&fleet.view());
    let moves = balance(fleet, by_count, within).await - before;
    if by_count {
        ask(fleet, check_moves(moves, least)).await;
        report.balanced(moves, least);
    }
    report.failed_over(
        lose_one(fleet, scenario, &settings, by_count).await,
        settings.leases.failover_time,
    );
    ask(fleet, check_cover(&fleet.view().leases())).await;
    let tally = fleet.view().tally();
    assert_eq!(tally.finished + tally.trimmed_unfinished, tally.put, "(I1)");
}

/// How long after bad times their last stall may be noticed: a call that hung in them hangs on, and its shard is reopened, or given up, at
/// the first look of a renewer after the stall timeout. A clock may be five percent slow.
fn stalls_are_known(settings: &Settings) -> Duration {
    (settings.reading.stall_timeout + settings.leases.failover_time / 3) * 106 / 100
}

/// A lease whose handoff was declined is left alone for ten failover times of the leader, whose clock may be five percent slow.
fn balanced_within(settings: &Settings) -> Duration {
    BALANCE.max(settings.leases.failover_time * 106 / 10 + BALANCE / 2)
}

/// Kills one worker, the leader as likely as any, while nothing else is wrong; returns how long its leases were without an owner.
async fn lose_one(fleet: &Fleet, scenario: &Scenario, settings: &Settings, by_count: bool) -> Duration {
    let names: Vec<_> = fleet.view().living().into_keys().collect();
    fleet.kill(&names[usize::try_from(scenario.seed).unwrap_or(0) % names.len()]);
    fleet.put(60);
    // A clock may be five percent slow. What discovery takes beyond its default comes on top.
    let discovery = settings
        .leases
        .discovery_interval
        .saturating_sub(Duration::from_millis(500));
    let missed = settings.leases.failover_time * 106 / 100;
    let mut bound = missed + Duration::from_secs(2) + discovery;
    // Without the index a lease is found by a scan, and those come once in a quarter of the failover time, and a little later.
    if scenario.index_stays_broken {
        bound += settings.leases.failover_time / 2;
    }
    // Loads that have shifted may send a lease to the one that died before anybody can know that it did, and it is free once it is handed
    // over. By count nothing is on its way, since there was balance.
    if !by_count {
        bound += settings.leases.handoff_timeout;
    }
    let took = fleet
        .wait_until("what a worker had has another owner (I12)", bound, all_are_held)
        .await;
    fleet.settle().await;
    took
}

/// Waits until there is balance and nothing moves, and returns how many moves there were until then.
async fn balance(fleet: &Fleet, by_count: bool, within: Duration) -> usize {
    // What was handed over and not taken up yet would count for nobody.
    let is_even = |view: &View<'_>| {
        all_are_held(view)
            && (!by_count || needed_moves(view) == 0)
            && !view.leases().iter().any(Lease::is_in_handoff)
    };
    let begun = fleet.now();
    loop {
        fleet
            .wait_until("the balance settles (I13)", within, is_even)
            .await;
        let moves = fleet.view().moves().len();
        fleet.sleep(QUIET).await;
        let after = fleet.view().moves().len();
        if after == moves {
            return moves;
        }
        // What is even by count is so at once; loads are measured, and seen to be other than they were thought.
        if by_count || fleet.now().saturating_since(begun) > 2 * within {
            ask(fleet, check_rest(after - moves, QUIET)).await;
        }
    }
}

/// Whether each lease that is not ended is held by the living member that its row names.
fn all_are_held(view: &View<'_>) -> bool {
    check_owned(&view.leases(), &view.holders()).is_ok()
}

/// Whether the leader lock is held by somebody who lives.
fn somebody_leads(view: &View<'_>) -> bool {
    let living = view.holders().into_keys().collect();
    check_led(view.lock().as_ref(), &living).is_ok()
}

/// How many leases must move at least.
fn needed_moves(view: &View<'_>) -> usize {
    let counts: Vec<_> = view.holders().into_values().map(|leases| leases.len()).collect();
    least_moves(&counts)
}

/// Goes on if that holds, and ends the simulation if not.
async fn ask(fleet: &Fleet, checked: Result<(), Violation>) {
    if let Err(violation) = checked {
        fleet.fail(violation).await;
    }
}
