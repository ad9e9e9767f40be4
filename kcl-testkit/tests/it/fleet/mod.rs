//! Fleets whose workers come, go, die, hang and fail, and whose services do.
//!
//! Virtual time: minutes pass in milliseconds. The oracle checks the invariants I1 to I9 after every step of every scenario.

mod deaths;
mod failures;
mod oracle;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::ErrorKind;
use kcl_core::lease_store::{Expect, LeaseChange, LeaseStore as _, Outcome, RowFacts};
use kcl_core::processor::{FencingToken, ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::Settings;
use kcl_core::status::WaitReason;
use kcl_core::types::{InitialPosition, LeaseKey};
use kcl_testkit::clock::Skew;
use kcl_testkit::faults::{Fault, Link, Operation, StoreFaults};
use kcl_testkit::faulty_stream::{StreamCall, StreamFault, StreamFaultRule};
use kcl_testkit::fleet::{Fleet, Member, Simulation};
use kcl_testkit::invariant::Invariant;
use kcl_testkit::simulate_fleet;

const SECOND: Duration = Duration::from_secs(1);

const MEMBERS: [&str; 3] = ["a", "b", "c"];

/// Starts three workers and waits until they share the stream.
async fn three_workers(fleet: &Fleet) {
    for name in MEMBERS {
        fleet.start_worker(name, fleet.settings());
    }
    balanced(fleet, &MEMBERS).await;
}

/// Waits until these workers hold every open shard, and none two more than another.
async fn balanced(fleet: &Fleet, names: &[&str]) {
    let shards = fleet.open_shards().len();
    fleet
        .wait_until("the workers share evenly", 120 * SECOND, |view| {
            let held: Vec<usize> = names.iter().map(|name| view.held(name).len()).collect();
            let spread = held.iter().max().zip(held.iter().min());
            held.iter().sum::<usize>() == shards && spread.is_some_and(|(most, least)| most - least <= 1)
        })
        .await;
}

fn tokens(fleet: &Fleet) -> BTreeMap<&'static str, BTreeMap<LeaseKey, FencingToken>> {
    let tokens = |name| (name, fleet.view().tokens(name));
    MEMBERS.into_iter().map(tokens).collect()
}

fn each_store(fleet: &Fleet, spoil: impl Fn(&StoreFaults)) {
    for name in MEMBERS {
        spoil(&fleet.store_faults(name));
    }
}

/// Puts a record into every shard, and returns how long it takes until others than this member work on its shards.
async fn taken_over_from(fleet: &Fleet, name: &str, shards: &BTreeSet<LeaseKey>) -> Duration {
    assert!(!shards.is_empty());
    fleet.put(200);
    fleet
        .wait_until("others work on the shards", 120 * SECOND, |view| {
            shards
                .iter()
                .all(|shard| view.busy_with(shard).is_some_and(|busy| busy != name))
        })
        .await
}

fn leader(fleet: &Fleet) -> String {
    fleet.view().leader().expect("a leader")
}

fn follower(fleet: &Fleet) -> &'static str {
    let leader = leader(fleet);
    MEMBERS
        .into_iter()
        .find(|name| *name != leader)
        .expect("a follower")
}

#[test]
fn three_workers_share_a_stream_evenly() {
    simulate_fleet(1, async |fleet| {
        fleet.put(100);
        three_workers(&fleet).await;
        fleet.settle().await;
        assert_eq!(fleet.view().tally().finished, 100);
    });
}

#[test]
fn later_worker_gets_its_share_without_repetition() {
    Simulation::new(2).shards(6).run(async |fleet| {
        fleet.start_worker("a", fleet.settings());
        fleet.produce(SECOND / 20, 10);
        balanced(&fleet, &["a"]).await;
        fleet.start_worker("b", fleet.settings());
        balanced(&fleet, &["a", "b"]).await;
        fleet.start_worker("c", fleet.settings());
        balanced(&fleet, &MEMBERS).await;
        fleet.stop_producing();
        fleet.settle().await;
        assert_eq!(fleet.view().tally().redelivered, 0);
    });
}

#[test]
fn start_at_newest_record_loses_nothing_after_it() {
    let mut settings = Settings::default();
    settings.reading.initial_position = InitialPosition::Latest;
    settings.leases.failover_time = 4 * SECOND;
    Simulation::new(13).settings(settings).run(async |fleet| {
        fleet.put(100);
        fleet.sleep(60 * SECOND).await;
        fleet.start_worker("a", fleet.settings());
        fleet
            .wait_until("the leases are created", 10 * SECOND, |view| {
                view.leases().len() == 4
            })
            .await;
        fleet.put(100);
        fleet.kill("a");
        fleet.sleep(60 * SECOND).await;
        fleet.put(100);
        fleet.start_worker("b", fleet.settings());
        fleet.settle().await;
        let tally = fleet.view().tally();
        assert_eq!((tally.put, tally.finished, tally.delivered), (200, 200, 200));
    });
}

#[test]
fn records_taken_by_retention_are_counted_rest_processed() {
    simulate_fleet(15, async |fleet| {
        fleet.put(100);
        fleet.trim(&kcl_lease_memory::memory_stream::Trim::KeepLast(5));
        three_workers(&fleet).await;
        fleet.settle().await;
        let tally = fleet.view().tally();
        assert_eq!((tally.finished, tally.trimmed_unfinished), (20, 80));
    });
}
