//! A fleet of processes on real endpoints: a reshard, a death, a newcomer, and nothing lost.

#![allow(clippy::expect_used, reason = "helpers of tests: a panic is how they report")]

use std::time::Duration;

use kcl_tests::bed::TestBed;
use kcl_tests::bed_or_skip;
use kcl_tests::fleet::drive::{Fleet, Programs, Shape, lineage};

/// Set to a number, the scenario runs that often.
const ROUNDS: &str = "KCL_TEST_ROUNDS";
const SHAPE: Shape = Shape {
    shards: 4,
    rate: 100,
    failover: Duration::from_secs(3),
};

#[tokio::test]
async fn a_fleet_loses_nothing_through_a_reshard_and_a_death() {
    let bed = bed_or_skip!();
    let programs = Programs::build();
    let rounds = std::env::var(ROUNDS).map_or(1, |text| text.parse().expect("KCL_TEST_ROUNDS is a number"));
    for round in 1..=rounds {
        let summary = reshard_and_death(&bed, &programs).await;
        println!("round {round} of {rounds}: {summary}");
    }
}

/// Three workers and two standbys consume four shards; one splits, two merge, a worker dies, another comes.
async fn reshard_and_death(bed: &TestBed, programs: &Programs) -> String {
    let mut fleet = Fleet::start(bed, programs, SHAPE).await;
    for _ in 0..3 {
        fleet.start_worker();
    }
    fleet
        .every_open_shard_is_consumed("three workers share four shards")
        .await;
    for _ in 0..2 {
        fleet.start_worker();
    }
    fleet.balanced(0, 1).await;

    let shards = bed.open_shards(&fleet.stream).await;
    bed.split(&fleet.stream, &shards[0]).await;
    fleet
        .every_open_shard_is_consumed("the children of a split start")
        .await;
    bed.merge(&fleet.stream, &shards[2], &shards[3]).await;
    fleet
        .every_open_shard_is_consumed("the child of a merge starts")
        .await;

    let victim = fleet.busiest(&[]).expect("somebody holds a shard");
    fleet.kill(&victim);
    fleet.start_worker();
    fleet
        .every_open_shard_is_consumed("the dead worker's shards go on")
        .await;

    fleet.stop_producer().await;
    fleet.everything_is_seen().await;
    fleet.live_workers_own_every_lease().await;
    fleet.drain().await;

    let evidence = fleet.evidence(lineage(&bed.shards(&fleet.stream).await));
    let logs = fleet.scene().folder().display();
    assert_eq!(evidence.violations(), Vec::<String>::new(), "logs in {logs}");
    assert_eq!(
        evidence.lineage.len(),
        3,
        "two children of the split, one of the merge"
    );
    let tally = evidence.tally();
    assert!(
        tally.put > 100 && tally.put == tally.delivered,
        "{tally:?}, logs in {logs}"
    );
    let repeated = evidence.repeated();
    assert!(
        repeated.iter().all(|worker| *worker == victim),
        "{repeated:?} handed over with repetitions, logs in {logs}"
    );
    fleet.remove().await;
    format!(
        "{} records put, {} delivered, {} of them again",
        tally.put, tally.delivered, tally.redelivered
    )
}
