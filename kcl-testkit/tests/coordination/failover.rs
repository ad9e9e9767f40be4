//! A worker dies without a word. From then to the first record at the next owner.

use std::collections::BTreeSet;
use std::time::Duration;

use kcl_testkit::fleet::{Fleet, Simulation};

use crate::support::{MILLISECOND, SECOND, deputy, follower, leader, start, taken_over};

const MEMBERS: [&str; 4] = ["a", "b", "c", "d"];

/// Kills the victims, at some moment between two renewals, and returns how long their last shard stood still.
async fn crash(fleet: &Fleet, seed: u32, victims: &[&str]) -> Duration {
    fleet.sleep(137 * MILLISECOND * seed).await;
    let orphans: BTreeSet<_> = victims.iter().flat_map(|name| fleet.view().held(name)).collect();
    let killed = fleet.now();
    victims.iter().for_each(|name| fleet.kill(name));
    taken_over(fleet, victims, &orphans, killed).await
}

/// Runs a crash in fleets of four workers with eight shards under load, with this much time beyond the failover time allowed.
fn failed_over_within(limit: impl Fn(Duration) -> Duration, victims: impl AsyncFn(&Fleet) -> Vec<String>) {
    let mut slowest = Duration::ZERO;
    for seed in 0..12 {
        Simulation::new(u64::from(seed)).shards(8).run(async |fleet| {
            start(&fleet, &MEMBERS).await;
            fleet.produce(SECOND / 20, 20);
            fleet.sleep(2 * SECOND).await;
            let victims = victims(&fleet).await;
            let victims: Vec<&str> = victims.iter().map(String::as_str).collect();
            let took = crash(&fleet, seed, &victims).await;
            fleet.stop_producing();
            fleet.settle().await;
            let limit = limit(fleet.settings().failover_time);
            assert!(took <= limit, "seed {seed}: {victims:?} after {took:?}");
            slowest = slowest.max(took);
        });
    }
    println!("the slowest of twelve: {slowest:?}");
}

#[test]
fn the_crash_of_a_worker_without_an_office_is_failed_over_within_two_seconds_beyond_the_failover_time() {
    failed_over_within(
        |failover| failover + 2 * SECOND,
        async |fleet| vec![follower(fleet, &MEMBERS).await.to_owned()],
    );
}

#[test]
fn the_crash_of_the_leader_is_failed_over_as_fast() {
    failed_over_within(
        |failover| failover + 2 * SECOND,
        async |fleet| {
            deputy(fleet).await;
            vec![leader(fleet)]
        },
    );
}

#[test]
fn the_crash_of_the_deputy_is_failed_over_as_fast() {
    failed_over_within(
        |failover| failover + 2 * SECOND,
        async |fleet| vec![deputy(fleet).await],
    );
}

#[test]
fn the_crash_of_leader_and_deputy_together_costs_two_failover_times() {
    failed_over_within(
        |failover| 2 * failover + 2 * SECOND,
        async |fleet| vec![deputy(fleet).await, leader(fleet)],
    );
}

#[test]
fn the_crash_of_all_workers_but_one_loses_nothing() {
    failed_over_within(
        |failover| 2 * failover + 2 * SECOND,
        async |fleet| {
            let last = follower(fleet, &MEMBERS).await;
            let dead = MEMBERS.iter().filter(|name| **name != last);
            dead.map(|name| (*name).to_owned()).collect()
        },
    );
}
