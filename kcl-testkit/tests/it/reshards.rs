//! A stream that is resharded under a fleet: lineage, the end of shards, what retention takes, and what is cleaned up.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kcl_core::lease_store::{Expect, Lease, LeaseChange, LeaseStore as _, Outcome, StoreErrorKind};
use kcl_core::settings::Settings;
use kcl_core::source::SourceErrorKind;
use kcl_core::types::{Incarnation, LeaseKey, ShardId};
use kcl_lease_memory::memory_stream::Trim;
use kcl_testkit::faults::{Fault, Happened, Operation, StoreCall};
use kcl_testkit::faulty_stream::{StreamCall, StreamFault, StreamFaultRule};
use kcl_testkit::fleet::{Fleet, Simulation};
use kcl_testkit::simulate_fleet;

const SECOND: Duration = Duration::from_secs(1);
const MEMBERS: [&str; 3] = ["a", "b", "c"];

async fn three_workers(fleet: &Fleet) {
    for name in MEMBERS {
        fleet.start_worker(name, fleet.settings());
    }
    all_held(fleet).await;
}

/// Waits until every open shard is held by a living worker, and every closed one is ended. Returns how long that took.
async fn all_held(fleet: &Fleet) -> Duration {
    fleet
        .wait_until("every open shard is held", 120 * SECOND, |view| {
            let held: BTreeSet<LeaseKey> = MEMBERS.iter().flat_map(|name| view.held(name)).collect();
            let open: BTreeSet<LeaseKey> = fleet.open_shards().iter().map(LeaseKey::single_stream).collect();
            held == open
        })
        .await
}

fn keys(fleet: &Fleet, which: impl Fn(&Lease) -> bool) -> BTreeSet<LeaseKey> {
    let leases = fleet.view().leases().into_iter();
    leases
        .filter(|lease| which(lease))
        .map(|lease| lease.key)
        .collect()
}

fn open(fleet: &Fleet) -> BTreeSet<LeaseKey> {
    fleet.open_shards().iter().map(LeaseKey::single_stream).collect()
}

/// The workers that process the shard.
fn owner(fleet: &Fleet, shard: &ShardId) -> String {
    fleet.view().owners()[shard]
        .as_ref()
        .expect("it has an owner")
        .to_string()
}

#[test]
fn children_start_within_a_second_anywhere() {
    let mut took = Vec::new();
    for seed in 0..10 {
        simulate_fleet(seed, async |fleet| {
            three_workers(&fleet).await;
            fleet.produce(SECOND / 20, 20);
            fleet.sleep(2 * SECOND).await;
            let shards = fleet.open_shards();
            fleet.split(&shards[0]).unwrap();
            // Parents on different workers: the child waits for the other one.
            let pair = shards[1..]
                .windows(2)
                .find(|two| owner(&fleet, &two[0]) != owner(&fleet, &two[1]));
            let child = pair.map(|two| fleet.merge(&two[0], &two[1]).unwrap());
            fleet
                .wait_until("the parents are ended", 20 * SECOND, |view| {
                    let ended = view.leases().iter().filter(|lease| lease.is_ended()).count();
                    ended == 1 + 2 * usize::from(child.is_some())
                })
                .await;
            let children = open(&fleet);
            took.push(
                fleet
                    .wait_until("the children are read", 20 * SECOND, |view| {
                        children.iter().all(|child| view.busy_with(child).is_some())
                    })
                    .await,
            );
            fleet.stop_producing();
            fleet.settle().await;
            assert_eq!(fleet.view().tally().redelivered, 0, "seed {seed}");
        });
    }
    println!("from the parents' end to the first records of their children: {took:?}");
    assert!(took.iter().all(|took| *took <= SECOND), "{took:?}");
}

#[test]
fn children_start_in_time_after_retried_end() {
    let mut settings = Settings::default();
    settings.leases.failover_time = 10 * SECOND;
    settings.leases.discovery_interval = 10 * SECOND;
    let simulation = Simulation::new(8).shards(1).settings(settings);
    simulation.run(async |fleet| {
        fleet.start_worker("a", fleet.settings());
        fleet
            .wait_until("the shard is held", 60 * SECOND, |view| view.held("a").len() == 1)
            .await;
        let (faults, created) = (fleet.store_faults("a"), AtomicUsize::new(0));
        let ends: Arc<Mutex<Vec<Happened>>> = Arc::default();
        let seen = Arc::clone(&ends);
        fleet.on_store_event(move |_, event| {
            let StoreCall::Change { change, .. } = &event.call else {
                return;
            };
            if let LeaseChange::End { .. } = change {
                seen.lock().unwrap().push(event.happened.clone());
            }
            let is_created = matches!(
                (change, &event.happened),
                (LeaseChange::Create(_), Happened::Applied(_))
            );
            if is_created && created.fetch_add(1, Ordering::Relaxed) == 1 {
                // Both children are there: what is written next is the end.
                faults.once(Operation::Change, Fault::Fail(StoreErrorKind::Unavailable));
            }
        });
        fleet.split(&fleet.open_shards()[0]).unwrap();
        fleet
            .wait_until("the parent is ended", 20 * SECOND, |view| {
                view.leases().iter().any(Lease::is_ended)
            })
            .await;
        let took = fleet
            .wait_until("the children are held", 20 * SECOND, |view| {
                view.held("a").is_superset(&open(&fleet))
            })
            .await;
        assert!(took <= SECOND, "{took:?}");
        let ends = ends.lock().unwrap();
        assert!(
            matches!(ends[..], [Happened::Nothing, Happened::Applied(_)]),
            "{ends:?}"
        );
    });
}

#[test]
fn split_of_merge_and_two_reshards_lose_nothing() {
    for seed in 0..10 {
        simulate_fleet(seed, async |fleet| {
            three_workers(&fleet).await;
            fleet.produce(SECOND / 20, 20);
            fleet.sleep(SECOND).await;
            let shards = fleet.open_shards();
            let merged = fleet.merge(&shards[0], &shards[1]).unwrap();
            // At once: the workers have not noticed the merge, and its child is gone again.
            let [left, _] = fleet.split(&merged).unwrap();
            fleet.split(&left).unwrap();
            fleet.put(100);
            let [other, _] = fleet.split(&shards[2]).unwrap();
            fleet.sleep(SECOND / 3).await;
            fleet.merge(&other, &shards[2].clone()).unwrap_err();
            fleet.split(&other).unwrap();
            fleet.kill(if seed % 2 == 0 { "a" } else { "b" });
            fleet.sleep(10 * SECOND).await;
            fleet.stop_producing();
            fleet.settle().await;
            let tally = fleet.view().tally();
            assert_eq!(tally.finished, tally.put);
        });
    }
}

#[test]
fn empty_closed_shard_ends_and_children_are_read() {
    simulate_fleet(2, async |fleet| {
        let shards = fleet.open_shards();
        fleet.split(&shards[0]).unwrap();
        fleet.put(100);
        three_workers(&fleet).await;
        fleet.settle().await;
        assert_eq!(fleet.view().tally().finished, 100);
    });
}

#[test]
fn stream_of_thousand_shards_starts_in_seconds() {
    let mut settings = Settings::default();
    settings.leases.failover_time = 10 * SECOND;
    Simulation::new(3)
        .shards(1100)
        .settings(settings)
        .run(async |fleet| {
            for name in MEMBERS {
                fleet.start_worker(name, fleet.settings());
            }
            let took = all_held(&fleet).await;
            println!("1100 shards are held after {took:?}");
            assert!(took < 10 * SECOND, "{took:?}");
            let shards = fleet.open_shards();
            fleet.split(&shards[500]).unwrap();
            fleet.merge(&shards[700], &shards[701]).unwrap();
            let took = all_held(&fleet).await;
            assert!(took < 5 * SECOND, "{took:?}");
        });
}

#[test]
fn table_slow_to_scan_is_synced_nevertheless() {
    let mut settings = Settings::default();
    settings.leases.failover_time = SECOND;
    let simulation = Simulation::new(11).settings(settings);
    simulation.run(async |fleet| {
        for name in MEMBERS {
            fleet.start_worker(name, fleet.settings());
            let slow = Fault::DelayReply(SECOND * 4 / 5);
            fleet.store_faults(name).always(Operation::Scan, slow);
        }
        let took = all_held(&fleet).await;
        println!("held after {took:?}");
        fleet.put(100);
        fleet.settle().await;
    });
}

#[test]
fn finished_leases_are_deleted_once_children_have_begun() {
    for cleanup in [true, false] {
        let mut settings = Settings::default();
        settings.leases.failover_time = 4 * SECOND;
        settings.leases.cleanup = cleanup;
        Simulation::new(4).settings(settings).run(async |fleet| {
            three_workers(&fleet).await;
            fleet.put(100);
            fleet.settle().await;
            let shards = fleet.open_shards();
            let [left, right] = fleet.split(&shards[0]).unwrap();
            all_held(&fleet).await;
            let parent = LeaseKey::single_stream(&shards[0]);
            // Nothing is read of the children yet: their parent's row is what says that they may be.
            fleet.sleep(120 * SECOND).await;
            assert!(keys(&fleet, Lease::is_ended).contains(&parent));
            fleet.put(400);
            fleet.settle().await;
            let begun = |shard: &ShardId| {
                fleet
                    .view()
                    .leases()
                    .iter()
                    .any(|lease| lease.shard == *shard && !lease.checkpoint.is_initial())
            };
            assert!(begun(&left) && begun(&right));
            fleet.sleep(60 * SECOND).await;
            assert_eq!(keys(&fleet, Lease::is_ended).contains(&parent), !cleanup);
            // Nobody reads it again.
            fleet.sleep(120 * SECOND).await;
            if cleanup {
                assert_eq!(keys(&fleet, |_| true), open(&fleet));
            }
            fleet.settle().await;
            assert_eq!(fleet.view().tally().redelivered, 0);
        });
    }
}

#[test]
fn unlistable_shards_are_asked_for_less_often() {
    simulate_fleet(9, async |fleet| {
        three_workers(&fleet).await;
        for name in MEMBERS {
            let denied = StreamFault::Fail(SourceErrorKind::Denied);
            let rule = StreamFaultRule::every(StreamCall::Shards, denied);
            fleet.source_faults(name).add(rule);
        }
        fleet.sleep(600 * SECOND).await;
        let struck = |name| fleet.source_faults(name).struck(StreamCall::Shards);
        let calls: u64 = MEMBERS.into_iter().map(struck).sum();
        // Beside the leader's syncs, each worker looks for its idle shards, ever less often as well.
        assert!((10..=50).contains(&calls), "{calls}");
    });
}

#[test]
fn failing_upkeep_costs_no_more_than_an_audit() {
    simulate_fleet(10, async |fleet| {
        three_workers(&fleet).await;
        let shards = fleet.open_shards();
        fleet.split(&shards[0]).unwrap();
        all_held(&fleet).await;
        fleet.sleep(5 * SECOND).await;
        // Nothing is deleted without a look at the rows of the children.
        for name in MEMBERS {
            let faults = fleet.store_faults(name);
            faults.always(Operation::Read, Fault::Fail(StoreErrorKind::Unavailable));
        }
        fleet.put(400);
        fleet.settle().await;
        let listings = || -> u64 {
            let calls = |name| fleet.source_faults(name).calls(StreamCall::Shards);
            MEMBERS.into_iter().map(calls).sum()
        };
        let before = listings();
        fleet.sleep(300 * SECOND).await;
        // Each audit lists the shards for the sync, and again for the upkeep. Each worker looks for its idle shards once in ten seconds.
        let calls = listings() - before;
        let idle = 31 * MEMBERS.len() as u64;
        assert!((10..=24 + idle).contains(&calls), "{calls}");
        let parent = LeaseKey::single_stream(&shards[0]);
        assert!(keys(&fleet, Lease::is_ended).contains(&parent));
        MEMBERS.iter().for_each(|name| fleet.store_faults(name).clear());
        fleet
            .wait_until("the parent's lease is deleted", 60 * SECOND, |view| {
                view.leases().iter().all(|lease| lease.key != parent)
            })
            .await;
    });
}

#[test]
fn unread_shard_taken_by_retention_is_ended() {
    simulate_fleet(5, async |fleet| {
        fleet.put(100);
        three_workers(&fleet).await;
        fleet.settle().await;
        // Nothing of the first shard can be read from here on.
        let shards = fleet.open_shards();
        for name in MEMBERS {
            let deaf =
                StreamFaultRule::every(StreamCall::Next, StreamFault::Hang).on_shard(shards[0].clone());
            fleet.source_faults(name).add(deaf);
        }
        fleet.sleep(SECOND).await;
        fleet.put(200);
        fleet.split(&shards[0]).unwrap();
        fleet.put(200);
        // Retention passes: the records of the closed shard are gone, and the stream lists it no more.
        let last = fleet
            .stream()
            .records(&shards[0])
            .last()
            .unwrap()
            .position()
            .sequence
            .clone();
        fleet.trim(&Trim::Through(shards[0].clone(), last));
        assert_eq!(fleet.forget_closed_shards(), [shards[0].clone()]);
        MEMBERS.iter().for_each(|name| fleet.source_faults(name).clear());
        fleet
            .wait_until("the lease of the lost shard is ended", 200 * SECOND, |view| {
                let key = LeaseKey::single_stream(&shards[0]);
                view.leases()
                    .iter()
                    .all(|lease| lease.key != key || lease.is_ended())
            })
            .await;
        fleet.put(100);
        fleet.settle().await;
        let tally = fleet.view().tally();
        assert_eq!(tally.finished + tally.trimmed_unfinished, tally.put);
        assert!(tally.trimmed_unfinished > 0);
    });
}

#[test]
fn deleted_lease_is_created_again() {
    simulate_fleet(6, async |fleet| {
        // Before anything is processed: what somebody deletes with a checkpoint in it is gone.
        three_workers(&fleet).await;
        let lease = fleet.view().leases().remove(2);
        fleet.kill("a");
        fleet.kill("b");
        fleet.kill("c");
        let expect = Expect::Version(lease.version());
        let is_deleted = fleet.change_lease(&lease.key, expect, LeaseChange::Delete).await;
        assert!(is_deleted.unwrap());
        fleet.start_worker("d", fleet.settings());
        fleet
            .wait_until("the lease is there again", 60 * SECOND, |view| {
                view.leases().len() == 4
            })
            .await;
        fleet
            .wait_until("everything is held", 60 * SECOND, |view| {
                view.held("d").len() == 4
            })
            .await;
    });
}

#[test]
fn row_that_lacks_its_hash_keys_gets_them() {
    simulate_fleet(7, async |fleet| {
        // As the Java KCL may have left it.
        let shards = fleet.stream().shards_snapshot();
        for snapshot in &shards {
            let lease = Lease::unowned(snapshot.shard.id.clone(), kcl_core::types::Position::TrimHorizon);
            let create = LeaseChange::Create(Box::new(lease.clone()));
            let incarnation = Incarnation::from_random_bytes([9; 16]);
            let outcome = fleet
                .store()
                .change(&lease.key, &Expect::Absent, &create, incarnation)
                .await;
            assert!(matches!(outcome, Ok(Outcome::Applied(_))), "{outcome:?}");
        }
        three_workers(&fleet).await;
        fleet
            .wait_until("every row has its hash keys", 60 * SECOND, |view| {
                view.leases().iter().all(|lease| lease.hash_range.is_some())
            })
            .await;
        for (lease, snapshot) in fleet.view().leases().iter().zip(&shards) {
            assert_eq!(lease.hash_range, Some(snapshot.shard.hash_range));
        }
    });
}
