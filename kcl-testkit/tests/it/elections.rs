//! Leader and standby: whoever dies, hangs or fails, and whatever failover time each worker lives by.

use std::collections::BTreeSet;
use std::time::Duration;

use kcl_core::lease_store::{LeaseStore as _, StoreErrorKind};
use kcl_core::settings::Settings;
use kcl_core::types::LeaseKey;
use kcl_testkit::faults::{Fault, Link, Operation};
use kcl_testkit::fleet::{Fleet, Simulation};
use kcl_testkit::simulate_fleet;

const SECOND: Duration = Duration::from_secs(1);
const MEMBERS: [&str; 4] = ["a", "b", "c", "d"];

async fn four_workers(fleet: &Fleet) {
    for name in MEMBERS {
        fleet.start_worker(name, fleet.settings());
    }
    fleet
        .wait_until("everybody holds a shard", 60 * SECOND, |view| {
            MEMBERS.iter().all(|name| view.held(name).len() == 1)
        })
        .await;
    fleet.put(100);
    fleet.settle().await;
    led(fleet).await;
}

fn leader(fleet: &Fleet) -> String {
    fleet.view().leader().expect("a leader")
}

/// Waits until somebody leads who has had the time to name a standby that lives.
async fn led(fleet: &Fleet) {
    fleet
        .wait_until("somebody leads", 60 * SECOND, |view| view.leader().is_some())
        .await;
    fleet.sleep(2 * SECOND).await;
}

async fn standby(fleet: &Fleet) -> String {
    let lock = fleet
        .store()
        .read_lock()
        .await
        .unwrap()
        .expect("the lock is held");
    lock.standby.expect("the leader names a deputy").to_string()
}

/// Puts records into every shard, and returns how long it takes until others than these work on theirs.
async fn taken_over(fleet: &Fleet, dead: &[String], shards: &BTreeSet<LeaseKey>) -> Duration {
    fleet.put(200);
    fleet
        .wait_until("others work on the shards", 120 * SECOND, |view| {
            shards
                .iter()
                .all(|shard| view.busy_with(shard).is_some_and(|busy| !dead.contains(&busy)))
        })
        .await
}

/// Kills these workers after the fleet was at rest for a while, and returns how long their shards go unread.
async fn kill_and_wait(fleet: &Fleet, victims: &[String], seed: u64) -> Duration {
    let shards = victims.iter().flat_map(|name| fleet.view().held(name)).collect();
    fleet.sleep(Duration::from_millis(171 * seed)).await;
    victims.iter().for_each(|name| fleet.kill(name));
    let took = taken_over(fleet, victims, &shards).await;
    fleet.settle().await;
    took
}

#[test]
fn crash_of_standby_is_failed_over_in_time() {
    for seed in 0..10 {
        simulate_fleet(seed, async |fleet| {
            four_workers(&fleet).await;
            let victims = [standby(&fleet).await];
            let took = kill_and_wait(&fleet, &victims, seed).await;
            assert!(
                took <= fleet.settings().leases.failover_time + 2 * SECOND,
                "seed {seed}: {took:?}"
            );
        });
    }
}

#[test]
fn leader_and_standby_dying_together_cost_two_failovers() {
    for seed in 0..10 {
        simulate_fleet(seed, async |fleet| {
            four_workers(&fleet).await;
            let victims = [leader(&fleet), standby(&fleet).await];
            let took = kill_and_wait(&fleet, &victims, seed).await;
            let failover = fleet.settings().leases.failover_time;
            assert!(
                took <= 2 * failover + failover / 8 + 4 * SECOND,
                "seed {seed}: {took:?}"
            );
        });
    }
}

#[test]
fn leader_then_standby_dying_cost_one_failover_each() {
    for seed in 0..5 {
        simulate_fleet(seed, async |fleet| {
            four_workers(&fleet).await;
            for _ in 0..2 {
                led(&fleet).await;
                let victims = [leader(&fleet)];
                let took = kill_and_wait(&fleet, &victims, seed).await;
                assert!(
                    took <= fleet.settings().leases.failover_time + 2 * SECOND,
                    "seed {seed}: {took:?}"
                );
            }
        });
    }
}

#[test]
fn frozen_leader_delays_no_failover_and_harms_nothing() {
    for seed in 0..10 {
        simulate_fleet(seed, async |fleet| {
            four_workers(&fleet).await;
            let frozen = leader(&fleet);
            let standby = standby(&fleet).await;
            let victim = MEMBERS
                .iter()
                .find(|name| **name != frozen && **name != standby)
                .unwrap();
            let shards: BTreeSet<_> = [frozen.as_str(), victim]
                .iter()
                .flat_map(|name| fleet.view().held(name))
                .collect();
            fleet.sleep(Duration::from_millis(171 * seed)).await;
            fleet.freeze(&frozen);
            fleet.kill(victim);
            let gone = [frozen.clone(), (*victim).to_owned()];
            let took = taken_over(&fleet, &gone, &shards).await;
            assert!(
                took <= fleet.settings().leases.failover_time + 2 * SECOND,
                "seed {seed}: {took:?}"
            );
            // It wakes up in the belief that it leads, and goes on with the plan that it was making.
            fleet.thaw(&frozen);
            fleet.produce(SECOND / 10, 10);
            fleet.sleep(10 * SECOND).await;
            fleet.stop_producing();
            fleet.settle().await;
            assert_eq!(fleet.view().tally().longest_overlap, Duration::ZERO);
        });
    }
}

#[test]
fn leader_without_lock_is_replaced_harmlessly() {
    for seed in 0..10 {
        simulate_fleet(seed, async |fleet| {
            four_workers(&fleet).await;
            fleet.produce(SECOND / 10, 10);
            let old = leader(&fleet);
            // It reads and writes leases, and takes the silence of the lock for a passing fault, until its tenure is over.
            let faults = fleet.store_faults(&old);
            for operation in [Operation::ReadLock, Operation::ChangeLock] {
                faults.always(operation, Fault::Fail(StoreErrorKind::Unavailable));
            }
            fleet.sleep(Duration::from_millis(171 * seed)).await;
            let standby = standby(&fleet).await;
            let victim = MEMBERS
                .iter()
                .find(|name| **name != old && **name != standby)
                .unwrap();
            let shards = fleet.view().held(victim);
            fleet.kill(victim);
            let took = taken_over(&fleet, &[(*victim).to_owned()], &shards).await;
            assert!(
                took <= fleet.settings().leases.failover_time + 2 * SECOND,
                "seed {seed}: {took:?}"
            );
            fleet.sleep(2 * fleet.settings().leases.failover_time).await;
            assert_ne!(leader(&fleet), old);
            fleet.stop_producing();
            fleet.settle().await;
            assert_eq!(
                fleet.view().tally().longest_overlap,
                Duration::ZERO,
                "seed {seed}"
            );
        });
    }
}

#[test]
fn leader_that_cannot_scan_steps_down_at_once() {
    simulate_fleet(3, async |fleet| {
        four_workers(&fleet).await;
        let old = leader(&fleet);
        let fails = Fault::Fail(StoreErrorKind::Unavailable);
        fleet.store_faults(&old).always(Operation::Scan, fails);
        let took = fleet
            .wait_until("another one leads", 20 * SECOND, |view| {
                view.leader().is_some_and(|leader| leader != old)
            })
            .await;
        // Each of its three tries comes later than the one before.
        assert!(took < 5 * SECOND, "{took:?}");
    });
}

#[test]
fn throttled_leader_keeps_lock_until_standby_takes_it() {
    simulate_fleet(3, async |fleet| {
        four_workers(&fleet).await;
        let old = leader(&fleet);
        // A capacity that is used up is used up for every worker: no other would have more luck.
        let throttled = Fault::Fail(StoreErrorKind::Throttled);
        fleet.store_faults(&old).always(Operation::Scan, throttled);
        fleet.sleep(60 * SECOND).await;
        assert_eq!(leader(&fleet), old);
        let standby = fleet
            .view()
            .lock()
            .and_then(|lock| lock.standby)
            .map(|id| id.to_string());
        let mut living = fleet.view().living().into_keys();
        let victim = living.find(|name| *name != old && Some(name) != standby.as_ref());
        let victim = victim.expect("four workers are more than two");
        let shards = fleet.view().held(&victim);
        fleet.produce(SECOND / 10, 10);
        fleet.kill(&victim);
        let took = taken_over(&fleet, std::slice::from_ref(&victim), &shards).await;
        assert!(
            took <= fleet.settings().leases.failover_time + 4 * SECOND,
            "{took:?}"
        );
    });
}

#[test]
fn worker_cut_off_from_store_loses_its_shards() {
    for link in [Link::Refusing, Link::RequestsLost, Link::RepliesLost] {
        simulate_fleet(4, async |fleet| {
            four_workers(&fleet).await;
            let old = leader(&fleet);
            let shards = fleet.view().held(&old);
            fleet.produce(SECOND / 10, 10);
            fleet.store_faults(&old).set_link(link);
            let took = taken_over(&fleet, std::slice::from_ref(&old), &shards).await;
            // The last renewal may have been sent just before.
            let limit = fleet.settings().leases.failover_time + 3 * SECOND;
            assert!(took <= limit, "{link:?}: {took:?}");
            fleet.store_faults(&old).set_link(Link::Up);
            fleet.stop_producing();
            fleet.settle().await;
        });
    }
}

#[test]
fn changing_failover_time_worker_by_worker_is_safe() {
    for (seed, from, to) in [(1, 3, 10), (2, 10, 3), (3, 3, 10), (4, 10, 3)] {
        let living = |seconds: u32| {
            let mut settings = Settings::default();
            settings.leases.failover_time = seconds * SECOND;
            settings
        };
        let simulation = Simulation::new(seed).shards(8).settings(living(from));
        simulation.run(async |fleet| {
            for name in MEMBERS {
                fleet.start_worker(name, fleet.settings());
            }
            fleet.produce(SECOND / 10, 16);
            fleet.sleep(10 * SECOND).await;
            for (n, name) in MEMBERS.into_iter().enumerate() {
                assert!(fleet.drain(name).await.unwrap().is_clean());
                fleet.start_worker(&format!("new-{name}"), living(to));
                fleet.sleep(5 * SECOND).await;
                if n == 1 {
                    // Half of the fleet has the old setting, half the new one, and one of the new ones dies.
                    let shards = fleet.view().held("new-a");
                    fleet.kill("new-a");
                    let took = taken_over(&fleet, &["new-a".to_owned()], &shards).await;
                    let longer = from.max(to) * SECOND;
                    assert!(took <= longer + 2 * SECOND, "seed {seed}: {took:?}");
                }
            }
            fleet.stop_producing();
            fleet.settle().await;
            assert_eq!(fleet.view().tally().longest_overlap, Duration::ZERO);
        });
    }
}

async fn rows(fleet: &Fleet) -> Vec<String> {
    let scan = fleet.store().scan().await.unwrap();
    let mut names: Vec<_> = scan.workers.iter().map(|row| row.id.to_string()).collect();
    names.sort();
    names
}

#[test]
fn row_of_dead_worker_is_deleted_and_reannounced() {
    simulate_fleet(5, async |fleet| {
        four_workers(&fleet).await;
        fleet.kill("b");
        fleet.freeze("c");
        fleet.sleep(200 * SECOND).await;
        assert_eq!(rows(&fleet).await, ["a", "b", "c", "d"]);
        fleet.sleep(110 * SECOND).await;
        assert_eq!(rows(&fleet).await, ["a", "d"]);
        fleet.thaw("c");
        fleet.sleep(5 * SECOND).await;
        fleet
            .wait_until("the one that hung has its share again", 30 * SECOND, |view| {
                !view.held("c").is_empty()
            })
            .await;
        assert_eq!(rows(&fleet).await, ["a", "c", "d"]);
        fleet.settle().await;
    });
}
