//! Leases are spread evenly at once, and then stay where they are.

use std::time::Duration;

use kcl_core::lease::LeaseChange;
use kcl_core::settings::Settings;
use kcl_testkit::fleet::{Fleet, Simulation};

use crate::support::{SECOND, Written, balanced, keep_writes, start};

/// A hundred rounds of a leader whose table is one page.
const HUNDRED_ROUNDS: Duration = Duration::from_secs(50);
/// Moves of one round are asked for at once; a round follows half a second later, or when something has happened.
const SAME_ROUND: Duration = Duration::from_millis(250);

/// In how many rounds moves were begun.
fn rounds(writes: &[Written]) -> usize {
    let begun = writes
        .iter()
        .filter(|write| matches!(write.change, LeaseChange::BeginHandoff { .. }));
    let times: Vec<_> = begun.map(|write| write.at).collect();
    let pauses = times
        .windows(2)
        .filter(|pair| pair[1].saturating_since(pair[0]) > SAME_ROUND);
    usize::from(!times.is_empty()) + pauses.count()
}

async fn stands_still(fleet: &Fleet, seed: u64) {
    let before = fleet.view().moves();
    fleet.sleep(HUNDRED_ROUNDS).await;
    assert_eq!(fleet.view().moves(), before, "seed {seed}");
}

fn simulation(seed: u64, shards: u32) -> Simulation {
    let settings = Settings {
        failover_time: 10 * SECOND,
        ..Settings::default()
    };
    Simulation::new(seed).shards(shards).settings(settings)
}

#[test]
fn three_workers_that_join_one_have_their_shares_in_three_rounds_and_nothing_moves_for_a_hundred_more() {
    for seed in 0..10 {
        simulation(seed, 40).run(async |fleet| {
            start(&fleet, &["a"]).await;
            fleet.produce(SECOND / 10, 40);
            fleet.sleep(2 * SECOND).await;
            let writes = keep_writes(&fleet);
            for name in ["b", "c", "d"] {
                fleet.start_worker(name, fleet.settings());
            }
            balanced(&fleet, &["a", "b", "c", "d"]).await;
            let rounds = rounds(&writes.lock().unwrap());
            assert!((1..=3).contains(&rounds), "seed {seed}: {rounds}");
            assert_eq!(fleet.view().moves().len(), 30, "seed {seed}: no more than are needed");
            stands_still(&fleet, seed).await;
            fleet.stop_producing();
            fleet.settle().await;
            assert_eq!(fleet.view().tally().redelivered, 0);
        });
    }
}

#[test]
fn a_fleet_that_starts_together_is_even_when_three_rounds_are_over_and_nothing_moves_for_a_hundred_more() {
    for seed in 0..10 {
        simulation(seed, 41).run(async |fleet| {
            let writes = keep_writes(&fleet);
            let names = ["a", "b", "c", "d", "e"];
            start(&fleet, &names).await;
            let rounds = rounds(&writes.lock().unwrap());
            assert!(rounds <= 3, "seed {seed}: {rounds}");
            stands_still(&fleet, seed).await;
        });
    }
}

#[test]
fn one_more_worker_moves_no_more_leases_than_its_share() {
    for seed in 0..10 {
        let names = ["a", "b", "c", "d", "e", "f"];
        simulation(seed, 50).run(async |fleet| {
            start(&fleet, &names[..1]).await;
            for workers in 2..=names.len() {
                let before = fleet.view().moves().len();
                fleet.start_worker(names[workers - 1], fleet.settings());
                balanced(&fleet, &names[..workers]).await;
                let moved = fleet.view().moves().len() - before;
                assert!(moved <= 50_usize.div_ceil(workers), "seed {seed}: {moved} for worker {workers}");
            }
            stands_still(&fleet, seed).await;
        });
    }
}
