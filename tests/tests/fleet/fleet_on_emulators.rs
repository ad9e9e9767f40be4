//! Fleets of processes on real endpoints: reshards, deaths, farewells, newcomers, and nothing lost.

use std::time::Duration;

use kcl_core::clock::{Clock as _, TokioClock};
use kcl_tests::bed::TestBed;
use kcl_tests::bed_or_skip;
use kcl_tests::figures::measure::first_record_elsewhere;
use kcl_tests::fleet::drive::{Fleet, Programs, ReadMode, SOON, Shape, lineage};
use kcl_tests::fleet::evidence::{Lineage, held};
use kcl_tests::fleet::leases::leader;
use kcl_tests::fleet::timing::{begun_elsewhere, children_after_parents, let_go};
use kcl_tests::wait::eventually;
use tokio::sync::Mutex;

/// Set to a number, each scenario runs that often.
const ROUNDS: &str = "KCL_TEST_ROUNDS";
const SHAPE: Shape = Shape {
    shards: 4,
    rate: 100,
    failover: Duration::from_secs(3),
    read: ReadMode::Polling,
};
/// As large as the emulators carry.
const TWELVE: Shape = Shape { shards: 12, ..SHAPE };
/// The emulators carry one fleet at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn a_fleet_loses_nothing_through_a_reshard_and_a_death() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let bed = bed_or_skip!();
    let programs = Programs::build();
    for round in 1..=rounds() {
        let summary = reshard_and_death(&bed, &programs).await;
        println!("round {round} of {}: {summary}", rounds());
    }
}

#[tokio::test]
async fn a_fleet_fails_over_hands_over_and_follows_a_reshard_in_time() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let bed = bed_or_skip!();
    let programs = Programs::build();
    for round in 1..=rounds() {
        let mut told = deaths_and_a_farewell(&bed, &programs).await;
        if let Err(late) = &told
            && rounds() == 1
        {
            // These are times of processes on a machine that may be busy with something else. Nothing but a time gets this far.
            println!("too late, once more: {late}");
            told = deaths_and_a_farewell(&bed, &programs).await;
        }
        println!("round {round} of {}: {}", rounds(), told.expect("in time"));
    }
}

fn rounds() -> u32 {
    std::env::var(ROUNDS).map_or(1, |text| text.parse().expect("KCL_TEST_ROUNDS is a number"))
}

/// Four workers share twelve shards. The leader is killed, another is killed, one is asked to leave, a shard splits. An error says what
/// took too long; whatever else is wrong fails the test at once.
async fn deaths_and_a_farewell(bed: &TestBed, programs: &Programs) -> Result<String, String> {
    let mut fleet = Fleet::start(bed, programs, TWELVE).await;
    let limit = TWELVE.failover.as_secs_f64() + 2.0;

    let first_leader = settled(bed, &mut fleet).await;
    let leader_died = failover(&mut fleet, &first_leader).await;
    let lead = settled(bed, &mut fleet).await;
    let victim = fleet.busiest(&[&lead]).expect("everybody holds shards");
    let other_died = failover(&mut fleet, &victim).await;
    let killed = [first_leader, victim];
    let lead = settled(bed, &mut fleet).await;
    let leaver = fleet.busiest(&[&lead]).expect("everybody holds shards");
    let handed_over = farewell(&mut fleet, &leaver).await;

    let shards = bed.open_shards(&fleet.stream).await;
    bed.split(&fleet.stream, &shards[0]).await;
    fleet
        .every_open_shard_is_consumed("the children of a split start")
        .await;
    fleet.stop_producer().await;
    fleet.everything_is_seen().await;
    fleet.drain().await;

    let evidence = fleet.evidence(lineage(&bed.shards(&fleet.stream).await));
    let logs = fleet.scene().folder().display();
    let children = children_after_parents(&evidence);
    let waited = children.iter().map(|(_, waited)| *waited).fold(0.0, f64::max);
    let summary = format!(
        "the death of the leader {leader_died:.2} s, of another {other_died:.2} s, a farewell {handed_over:.2} s, \
         children {waited:.2} s after their parent"
    );
    let tally = evidence.verdict();
    assert!(tally.is_ok(), "{tally:?}, logs in {logs}");
    let repeated = evidence.repeated();
    assert!(
        repeated
            .iter()
            .all(|worker| killed.iter().any(|killed| killed == worker)),
        "{repeated:?} handed over with repetitions, logs in {logs}"
    );
    assert_eq!(children.len(), 2, "{summary}, logs in {logs}");
    let in_time = leader_died <= limit && other_died <= limit && handed_over < 1.0 && waited < 2.0;
    if !in_time {
        return Err(format!("{summary}, logs in {logs}"));
    }
    fleet.remove().await;
    Ok(summary)
}

/// Starts workers until there are four, waits until they share the shards and one of them leads, and says which.
async fn settled(bed: &TestBed, fleet: &mut Fleet) -> String {
    while fleet.live().count() < 4 {
        fleet.start_worker();
    }
    fleet.balanced(3, 3).await;
    fleet.every_open_shard_is_consumed("four workers share").await;
    let config = bed.dynamo_config();
    eventually(SOON, async || {
        let leader = leader(&config, &fleet.application).await?.ok_or("nobody leads")?;
        let lives = fleet.live().any(|worker| worker.name() == leader);
        lives
            .then(|| leader.clone())
            .ok_or(format!("{leader} is gone and leads"))
    })
    .await
}

/// From the kill to the first record of its last shard to go on, in seconds.
async fn failover(fleet: &mut Fleet, victim: &str) -> f64 {
    let shards = shards_of(fleet, victim);
    let killed = now();
    fleet.kill(victim);
    fleet.every_open_shard_is_consumed("after a death").await;
    let evidence = fleet.evidence(Lineage::new());
    let resumed = |shard: &String| first_record_elsewhere(&evidence, shard, victim, killed);
    longest(shards.iter().map(|shard| resumed(shard).map(|at| at - killed)))
}

/// The longest time in which a shard was nobody's, after SIGTERM of its worker, in seconds.
async fn farewell(fleet: &mut Fleet, leaver: &str) -> f64 {
    let shards = shards_of(fleet, leaver);
    fleet.terminate(leaver).await;
    fleet.every_open_shard_is_consumed("after a farewell").await;
    let evidence = fleet.evidence(Lineage::new());
    longest(shards.iter().map(|shard| {
        let last = let_go(&evidence, shard, leaver)?;
        Some(begun_elsewhere(&evidence, shard, leaver, last)? - last)
    }))
}

fn shards_of(fleet: &Fleet, worker: &str) -> Vec<String> {
    let entries = fleet.worker(worker).entries();
    held(&entries).into_iter().map(str::to_owned).collect()
}

fn longest(times: impl Iterator<Item = Option<f64>>) -> f64 {
    let times = times.map(|time| time.expect("every shard went on elsewhere"));
    times.reduce(f64::max).expect("a busy worker has shards")
}

/// Seconds since the start of 1970, as in the logs.
fn now() -> f64 {
    TokioClock::new().wall().as_millis() as f64 / 1000.0
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
    let tally = evidence.verdict();
    assert!(tally.is_ok(), "{tally:?}, logs in {logs}");
    let tally = tally.expect("it is as it should be");
    assert_eq!(
        evidence.lineage.len(),
        3,
        "two children of the split, one of the merge"
    );
    assert!(
        tally.put > 100 && tally.put == tally.finished,
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
