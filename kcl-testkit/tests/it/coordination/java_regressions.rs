//! The defects that the Java KCL 3.x had to fix, each as a test of this library.
//!
//! Two of the ten are not here. The reader of many streams that stumbled over rows which are no leases (#1792) is a matter of
//! the table's items: `kcl-lease-dynamo` distinguishes rows by their `entityType`, and its conformance suite puts foreign rows
//! into the table. The subscription that was opened again at the end of its shard (#1744) can come back only with
//! enhanced fan-out, which this library does not have yet; polling ends with the shard's children in the answer.

use std::time::Duration;

use kcl_core::lease_store::{Expect, Lease, LeaseChange, LeaseStore as _, PendingCheckpoint, StoreErrorKind};
use kcl_core::settings::Settings;
use kcl_core::types::Position;
use kcl_testkit::faults::{Fault, Happened, Operation, StoreCall};
use kcl_testkit::fleet::Simulation;
use kcl_testkit::simulate_fleet;

use crate::coordination::support::{
    MILLISECOND, SECOND, Written, balanced, each_store, keep_writes, leader, start,
};

#[test]
fn prepared_checkpoint_of_java_is_processed_and_cleared() {
    // Java #1718: after a restart such a lease was stuck.
    simulate_fleet(1, async |fleet| {
        fleet.put(100);
        for shard in fleet.open_shards() {
            let mut lease = Lease::unowned(shard, Position::TrimHorizon);
            lease.pending = Some(PendingCheckpoint {
                position: Position::TrimHorizon,
                state: Some("prepared".into()),
            });
            let (key, create) = (lease.key.clone(), LeaseChange::Create(Box::new(lease)));
            assert!(fleet.change_lease(&key, Expect::Absent, create).await.unwrap());
        }
        start(&fleet, &["a", "b"]).await;
        fleet.settle().await;
        assert!(fleet.view().leases().iter().all(|lease| lease.pending.is_none()));
        fleet.kill("a");
        fleet.start_worker("a", fleet.settings());
        fleet.put(100);
        fleet.settle().await;
    });
}

#[test]
fn handoff_whose_owners_died_goes_elsewhere_in_time() {
    // Java #1765: a lease in handoff was never taken for expired.
    for seed in 0..10 {
        Simulation::new(seed).shards(4).run(async |fleet| {
            start(&fleet, &["a", "c"]).await;
            fleet.put(100);
            fleet.settle().await;
            // By hand, from a live worker to one that never was.
            let held = fleet.view().held("a");
            let lease = held.first().expect("a holds leases").clone();
            let row = fleet.store().read(&lease).await.unwrap().expect("the row");
            let expect = Expect::Owners {
                owner: row.owner.clone(),
                checkpoint_owner: None,
            };
            let to = "nobody-ever".parse().unwrap();
            fleet.kill("a");
            let killed = fleet.now();
            let begin = LeaseChange::BeginHandoff { to };
            assert!(fleet.change_lease(&lease, expect, begin).await.unwrap());
            fleet
                .wait_until("c has it", 60 * SECOND, |view| view.held("c").contains(&lease))
                .await;
            let took = fleet.now().saturating_since(killed);
            println!("seed {seed}: {took:?}");
            assert!(
                took <= fleet.settings().leases.failover_time + 2 * SECOND,
                "seed {seed}: {took:?}"
            );
            fleet.put(100);
            fleet.settle().await;
        });
    }
}

#[test]
fn a_leader_whose_assignments_fail_steps_down() {
    // Java #1669: the assignment threw, the lock was renewed nevertheless, and no other worker could lead.
    for seed in 0..10_u32 {
        Simulation::new(u64::from(seed)).shards(6).run(async |fleet| {
            start(&fleet, &["a", "b", "c", "d"]).await;
            fleet.produce(SECOND / 10, 12);
            fleet.sleep(2 * SECOND + 137 * MILLISECOND * seed).await;
            let old = leader(&fleet);
            // With its standby dead as well it would cost two failover times.
            let lock = fleet.store().read_lock().await.unwrap().unwrap();
            let standby = lock.standby.unwrap().to_string();
            let mut others = ["a", "b", "c", "d"].into_iter();
            let victim = others.find(|name| *name != old && *name != standby).unwrap();
            // It reads everything and keeps the lock, and can change no lease.
            fleet
                .store_faults(&old)
                .always(Operation::Change, Fault::Fail(StoreErrorKind::Unavailable));
            let orphans = fleet.view().held(victim);
            fleet.kill(victim);
            let took = fleet
                .wait_until("the shards go on", 60 * SECOND, |view| {
                    let busy = |shard| view.busy_with(shard);
                    orphans
                        .iter()
                        .all(|shard| busy(shard).is_some_and(|busy| busy != victim && busy != old))
                })
                .await;
            println!("seed {seed}: {took:?}");
            assert!(
                took <= fleet.settings().leases.failover_time + 2 * SECOND,
                "seed {seed}: {took:?}"
            );
            fleet.store_faults(&old).clear();
            fleet.stop_producing();
            fleet.settle().await;
        });
    }
}

#[test]
fn leader_leaving_during_heartbeat_leaves_no_lock() {
    // Java #1673: the heartbeat and the release of the lock raced in the shutdown.
    for seed in 0..20_u32 {
        Simulation::new(u64::from(seed)).run(async |fleet| {
            start(&fleet, &["a", "b"]).await;
            let old = leader(&fleet);
            let late = Fault::DelayRequest(SECOND / 2);
            fleet.store_faults(&old).always(Operation::ChangeLock, late);
            fleet.sleep(SECOND + 97 * MILLISECOND * seed).await;
            let report = fleet.drain(&old).await.unwrap();
            assert!(report.is_clean(), "{report:?}");
            let took = fleet
                .wait_until("the other one leads", 30 * SECOND, |view| {
                    view.leader().is_some_and(|leader| leader != old)
                })
                .await;
            assert!(took <= 2 * SECOND, "seed {seed}: {took:?}");
            fleet.sleep(5 * SECOND).await;
            let lock = fleet.store().read_lock().await.unwrap().expect("a lock");
            assert_ne!(lock.owner.as_str(), old, "seed {seed}");
        });
    }
}

#[test]
fn worker_renews_no_lease_it_handed_over() {
    // Java #1729: the heartbeat of a lease went on after its handoff.
    for seed in 0..10 {
        Simulation::new(seed).shards(8).run(async |fleet| {
            start(&fleet, &["a"]).await;
            fleet.produce(SECOND / 20, 16);
            fleet.sleep(SECOND).await;
            let writes = keep_writes(&fleet);
            fleet.start_worker("b", fleet.settings());
            balanced(&fleet, &["a", "b"]).await;
            fleet.sleep(10 * SECOND).await;
            let writes = writes.lock().unwrap().clone();
            let completed = |write: &&Written| write.applied && write.change == LeaseChange::CompleteHandoff;
            let handed_over: Vec<_> = writes.iter().filter(completed).collect();
            assert_eq!(handed_over.len(), 4, "seed {seed}");
            for handoff in handed_over {
                let after = writes
                    .iter()
                    .filter(|write| write.at > handoff.at && write.key == handoff.key);
                let own: Vec<_> = after.filter(|write| write.process == handoff.process).collect();
                assert!(own.is_empty(), "seed {seed}: {own:?}");
            }
            fleet.stop_producing();
            fleet.settle().await;
        });
    }
}

#[test]
fn prefetch_of_nothing_is_refused_before_anything_starts() {
    // Java #1708: with `maxPendingProcessRecordsInput = 0` a consumer waited for ever.
    let mut none = Settings::default();
    none.memory.prefetch_batches = 0;
    let violations = none.validate().unwrap_err();
    assert!(violations.violations()[0].contains("prefetch_batches"));
}

#[test]
fn first_leader_and_successor_create_leases_at_once() {
    // Java #1731: a new leader synced the shards only after a tick.
    for seed in 0..10 {
        Simulation::new(seed).shards(8).run(async |fleet| {
            let doomed = fleet.clone();
            fleet.on_store_event(move |process, event| {
                let led = matches!(event.call, StoreCall::ChangeLock { .. });
                if process == "a" && led && event.happened == Happened::Applied(None) {
                    doomed.kill("a");
                }
            });
            fleet.start_worker("a", fleet.settings());
            fleet.sleep(2 * SECOND).await;
            let lock = fleet.store().read_lock().await.unwrap();
            assert_eq!(lock.map(|lock| lock.owner.to_string()), Some("a".to_owned()));
            assert_eq!(fleet.view().leases().len(), 0, "seed {seed}: it died before");
            fleet.start_worker("b", fleet.settings());
            fleet
                .wait_until("b leads", 20 * SECOND, |view| view.leader().is_some())
                .await;
            let took = fleet
                .wait_until("b creates the leases", 10 * SECOND, |view| {
                    view.leases().len() == 8
                })
                .await;
            assert!(took <= SECOND / 2, "seed {seed}: {took:?}");
            fleet.put(100);
            fleet.settle().await;
        });
    }
}

#[test]
fn failed_change_leaves_known_lease_as_it_was() {
    // Java #1788: the lease in memory was changed although the write had failed, and the next write was refused.
    for fault in [
        Fault::Fail(StoreErrorKind::Unavailable),
        Fault::Fail(StoreErrorKind::Throttled),
        Fault::LoseReply,
        Fault::DelayReply(Duration::from_millis(700)),
    ] {
        for seed in 0..5 {
            simulate_fleet(seed, async |fleet| {
                start(&fleet, &["a", "b"]).await;
                fleet.produce(SECOND / 10, 10);
                let tokens = || ["a", "b"].map(|name| fleet.view().tokens(name));
                let before = tokens();
                let writes = keep_writes(&fleet);
                for _ in 0..40 {
                    each_store(&fleet, &["a", "b"], |faults| {
                        faults.once(Operation::Change, fault)
                    });
                    fleet.sleep(SECOND / 4).await;
                }
                fleet.sleep(5 * SECOND).await;
                fleet.stop_producing();
                fleet.settle().await;
                assert_eq!(tokens(), before, "{fault:?}");
                assert_eq!(fleet.view().tally().redelivered, 0, "{fault:?}");
                assert!(writes.lock().unwrap().len() > 40);
            });
        }
    }
}
