//! Fleets whose services are down, slow, or busy, and whose clocks are wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kcl_core::clock::Rng;
use kcl_core::lease_store::{LeaseStore as _, StoreErrorKind, WorkerChange};
use kcl_core::processor::FencingToken;
use kcl_core::settings::Settings;
use kcl_core::source::SourceErrorKind;
use kcl_core::status::HealthIssue;
use kcl_core::types::LeaseKey;
use kcl_testkit::clock::Skew;
use kcl_testkit::faults::{Fault, FaultRates, Link, Operation, ScanCapacity, StoreFaults};
use kcl_testkit::faulty_stream::{StreamCall, StreamFault, StreamFaultRule};
use kcl_testkit::fleet::{Fleet, Member, Simulation};
use kcl_testkit::simulate_fleet;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const MEMBERS: [&str; 3] = ["a", "b", "c"];
const OPERATIONS: [Operation; 7] = [
    Operation::Scan,
    Operation::Read,
    Operation::OwnedBy,
    Operation::Change,
    Operation::ChangeWorker,
    Operation::ReadLock,
    Operation::ChangeLock,
];

async fn balanced(fleet: &Fleet) {
    fleet
        .wait_until("the workers share evenly", 120 * SECOND, |view| {
            let held: Vec<usize> = MEMBERS.iter().map(|name| view.held(name).len()).collect();
            held.iter().sum::<usize>() == 4 && held.iter().all(|held| *held > 0)
        })
        .await;
}

async fn three_workers(fleet: &Fleet) {
    for name in MEMBERS {
        fleet.start_worker(name, fleet.settings());
    }
    balanced(fleet).await;
}

fn tokens(fleet: &Fleet) -> BTreeMap<&'static str, BTreeMap<LeaseKey, FencingToken>> {
    MEMBERS
        .into_iter()
        .map(|name| (name, fleet.view().tokens(name)))
        .collect()
}

fn each_store(fleet: &Fleet, spoil: impl Fn(&StoreFaults)) {
    MEMBERS.iter().for_each(|name| spoil(&fleet.store_faults(name)));
}

/// Lets something happen to every worker's store for so long, and asserts that no lease has moved when it is over.
fn moves_no_lease(what: &str, lasts: Duration, spoil: impl Fn(&Fleet), heal: impl Fn(&Fleet)) {
    simulate_fleet(lasts.as_secs(), async |fleet| {
        three_workers(&fleet).await;
        fleet.produce(SECOND, 10);
        fleet.sleep(2 * SECOND).await;
        let before = tokens(&fleet);
        spoil(&fleet);
        fleet.sleep(lasts).await;
        heal(&fleet);
        fleet.sleep(10 * SECOND).await;
        fleet.stop_producing();
        fleet.settle().await;
        assert_eq!(tokens(&fleet), before, "{what} for {lasts:?}");
        assert_eq!(fleet.view().tally().redelivered, 0, "{what} for {lasts:?}");
    });
}

#[test]
fn throttling_of_every_call_moves_no_lease() {
    for lasts in [SECOND, 5 * SECOND, 60 * SECOND, HOUR] {
        let throttle = |faults: &StoreFaults| {
            OPERATIONS
                .iter()
                .for_each(|call| faults.always(*call, Fault::Fail(StoreErrorKind::Throttled)));
        };
        moves_no_lease(
            "throttled",
            lasts,
            |fleet| each_store(fleet, throttle),
            |fleet| each_store(fleet, StoreFaults::clear),
        );
    }
}

#[test]
fn an_outage_of_hours_moves_no_lease() {
    for link in [Link::Refusing, Link::RequestsLost] {
        let cut = |fleet: &Fleet| each_store(fleet, |faults| faults.set_link(link));
        let mend = |fleet: &Fleet| each_store(fleet, |faults| faults.set_link(Link::Up));
        moves_no_lease(&format!("{link:?}"), 3 * HOUR, cut, mend);
    }
}

#[test]
fn throttling_of_every_other_call_moves_no_lease() {
    let busy = |fleet: &Fleet| {
        each_store(fleet, |faults| {
            let rates = FaultRates {
                throttled_one_in: 2,
                ..FaultRates::default()
            };
            faults.at_random(Rng::from_seed(7), rates);
        });
    };
    moves_no_lease("throttled every other time", 600 * SECOND, busy, |fleet| {
        each_store(fleet, StoreFaults::clear)
    });
}

/// How often each member scans within a minute.
async fn scans_a_minute(fleet: &Fleet) -> BTreeMap<&'static str, u64> {
    let count = |name: &str| fleet.store_faults(name).counts().of(Operation::Scan);
    let before = MEMBERS.map(|name| (name, count(name)));
    fleet.sleep(60 * SECOND).await;
    let scanned = before
        .into_iter()
        .map(|(name, before)| (name, count(name) - before));
    scanned.collect()
}

/// Kills this member, and asserts that the others have all its leases in time.
async fn lose(fleet: &Fleet, victim: &str, limit: Duration) {
    let had = fleet.view().held(victim);
    assert!(!had.is_empty());
    fleet.kill(victim);
    let others: Vec<_> = MEMBERS.into_iter().filter(|name| *name != victim).collect();
    let took = fleet
        .wait_until("the others have what the dead one had", limit, |view| {
            let held = others
                .iter()
                .flat_map(|name| view.held(name))
                .collect::<BTreeSet<_>>();
            had.is_subset(&held)
        })
        .await;
    println!("{victim}: {took:?}");
}

/// A fleet with the failover time that most have.
fn at_ten_seconds(seed: u64) -> Simulation {
    Simulation::new(seed).settings({
        let mut settings = Settings::default();
        settings.leases.failover_time = 10 * SECOND;
        settings
    })
}

#[test]
fn failing_owner_index_delays_no_failover() {
    for kind in [StoreErrorKind::Throttled, StoreErrorKind::Unavailable] {
        at_ten_seconds(8).run(async |fleet| {
            three_workers(&fleet).await;
            fleet.produce(SECOND, 10);
            each_store(&fleet, |faults| {
                faults.always(Operation::OwnedBy, Fault::Fail(kind))
            });
            fleet.sleep(120 * SECOND).await;
            let scanned = scans_a_minute(&fleet).await;
            // The leader and its standby, once a second each, and the budget of one more for all who look for their leases.
            let most = 2 * 60 + 4 * 60 + 20;
            assert!(
                scanned.values().sum::<u64>() <= most,
                "{scanned:?} scans a minute"
            );
            let follower = MEMBERS
                .into_iter()
                .find(|name| fleet.view().leader().as_deref() != Some(name));
            lose(&fleet, follower.unwrap(), 15 * SECOND).await;
            fleet.start_worker("d", fleet.settings());
            fleet
                .store_faults("d")
                .always(Operation::OwnedBy, Fault::Fail(kind));
            fleet
                .wait_until("a worker that joins gets its share", 30 * SECOND, |view| {
                    !view.held("d").is_empty()
                })
                .await;
            fleet.stop_producing();
            fleet.settle().await;
        });
    }
}

#[test]
fn hanging_owner_index_delays_failover_little() {
    at_ten_seconds(9).run(async |fleet| {
        three_workers(&fleet).await;
        let hangs = Fault::DelayRequest(HOUR);
        each_store(&fleet, |faults| faults.always(Operation::OwnedBy, hangs));
        fleet.sleep(60 * SECOND).await;
        let follower = MEMBERS
            .into_iter()
            .find(|name| fleet.view().leader().as_deref() != Some(name));
        lose(&fleet, follower.unwrap(), 18 * SECOND).await;
        fleet.settle().await;
    });
}

#[test]
fn throttled_scans_back_off_and_fail_over() {
    for victim in MEMBERS {
        for index_fails in [false, true] {
            at_ten_seconds(10).run(async |fleet| {
                three_workers(&fleet).await;
                fleet.produce(SECOND, 10);
                let capacity = ScanCapacity::one_per(3 * SECOND);
                each_store(&fleet, |faults| {
                    faults.limit_scans(&capacity);
                    if index_fails {
                        faults.always(Operation::OwnedBy, Fault::Fail(StoreErrorKind::Throttled));
                    }
                });
                fleet.sleep(300 * SECOND).await;
                let tried = scans_a_minute(&fleet).await;
                // Two who assign, and where the index fails three who look for their leases.
                let most = if index_fails { 200 } else { 120 };
                assert!(
                    tried.values().sum::<u64>() <= most,
                    "{tried:?} tries a minute, of which 20 can be answered"
                );
                lose(&fleet, victim, 90 * SECOND).await;
                fleet.stop_producing();
                fleet.settle().await;
            });
        }
    }
}

#[test]
fn outage_of_stream_moves_no_lease() {
    for kind in [
        SourceErrorKind::Unavailable,
        SourceErrorKind::Throttled,
        SourceErrorKind::Denied,
    ] {
        simulate_fleet(5, async |fleet| {
            three_workers(&fleet).await;
            fleet.produce(SECOND, 10);
            fleet.sleep(2 * SECOND).await;
            let before = tokens(&fleet);
            for name in MEMBERS {
                let source = fleet.source_faults(name);
                for call in [
                    StreamCall::Next,
                    StreamCall::Open,
                    StreamCall::Shards,
                    StreamCall::Identity,
                ] {
                    source.add(StreamFaultRule::every(call, StreamFault::Fail(kind)));
                }
            }
            // Shorter than what makes a worker give a shard up that it cannot read.
            fleet.sleep(45 * SECOND).await;
            let trouble = |fleet: &Fleet| {
                let status = fleet.view().status("a").unwrap();
                status
                    .leases
                    .values()
                    .filter_map(|lease| lease.trouble)
                    .collect::<Vec<_>>()
            };
            assert!(trouble(&fleet).contains(&kind), "the status says so");
            MEMBERS.iter().for_each(|name| fleet.source_faults(name).clear());
            fleet.sleep(10 * SECOND).await;
            assert_eq!(trouble(&fleet), []);
            fleet.stop_producing();
            fleet.settle().await;
            assert_eq!(tokens(&fleet), before, "{kind:?}");
        });
    }
}

#[test]
fn wall_clocks_a_day_off_change_nothing() {
    let run = |offsets: [i64; 3]| {
        simulate_fleet(6, async |fleet| {
            for (name, hours) in MEMBERS.into_iter().zip(offsets) {
                let skew = Skew {
                    wall_offset_millis: hours * 3_600_000,
                    ..Skew::default()
                };
                fleet.start(Member::named(name).skew(skew));
            }
            balanced(&fleet).await;
            fleet.produce(SECOND / 10, 10);
            fleet.sleep(5 * SECOND).await;
            fleet.split(&fleet.open_shards()[0]).unwrap();
            fleet.sleep(5 * SECOND).await;
            fleet.kill("b");
            fleet.sleep(10 * SECOND).await;
            fleet.start_worker("d", fleet.settings());
            fleet.sleep(10 * SECOND).await;
            assert!(fleet.drain("a").await.unwrap().is_clean());
            fleet.stop_producing();
            fleet.settle().await;
            fleet.trace_hash()
        })
    };
    let right = run([0, 0, 0]);
    for wrong in [[24, 0, -24], [-24, -24, 24], [24, -24, 0]] {
        assert_eq!(
            run(wrong),
            right,
            "event for event the same run, with clocks wrong by {wrong:?} hours"
        );
    }
}

#[test]
fn own_late_return_supersedes_no_worker() {
    simulate_fleet(11, async |fleet| {
        fleet.start_worker("a", fleet.settings());
        fleet.settle().await;
        let row = fleet.store().scan().await.unwrap().workers.remove(0);
        let (touched, faults) = (row.touches, fleet.store_faults("a"));
        // Right after a touch, so that what follows comes in its order.
        loop {
            fleet.sleep(SECOND / 100).await;
            let row = fleet.store().scan().await.unwrap().workers.remove(0);
            if row.touches > touched {
                break;
            }
        }
        // The row is taken for that of a dead worker. The return lands late, just before the next one.
        let leave = WorkerChange::Leave {
            id: row.id.clone(),
            incarnation: row.incarnation.unwrap(),
        };
        fleet.store().change_worker(&leave).await.unwrap();
        let at_once = Fault::DelayRequest(Duration::ZERO);
        let late = Fault::DelayRequest(3 * SECOND / 2);
        let later = Fault::DelayRequest(SECOND / 2);
        for fault in [at_once, late, at_once, later] {
            faults.once(Operation::ChangeWorker, fault);
        }
        fleet.put(20);
        fleet.sleep(30 * SECOND).await;
        assert_eq!(fleet.view().held("a").len(), 4, "the worker goes on");
        fleet.settle().await;
    });
}

#[test]
fn shard_refused_for_long_stays_where_it_is() {
    for kind in [SourceErrorKind::Denied, SourceErrorKind::Invalid] {
        simulate_fleet(12, async |fleet| {
            three_workers(&fleet).await;
            fleet.sleep(2 * SECOND).await;
            let before = tokens(&fleet);
            for name in MEMBERS {
                let source = fleet.source_faults(name);
                for call in [StreamCall::Next, StreamCall::Open] {
                    source.add(StreamFaultRule::every(call, StreamFault::Fail(kind)));
                }
            }
            fleet.sleep(HOUR).await;
            assert_eq!(tokens(&fleet), before, "{kind:?}");
            let status = fleet.view().status("a").unwrap();
            let concerns: Vec<_> = status.leases.into_values().map(|lease| lease.concern).collect();
            assert!(
                concerns
                    .iter()
                    .all(|concern| *concern == Some(HealthIssue::Unreachable)),
                "{concerns:?}"
            );
            MEMBERS.iter().for_each(|name| fleet.source_faults(name).clear());
            fleet.put(20);
            fleet.settle().await;
            assert_eq!(tokens(&fleet), before, "{kind:?}");
        });
    }
}
