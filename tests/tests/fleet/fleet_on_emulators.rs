//! Fleets of processes on real endpoints: reshards, deaths, farewells, newcomers, and nothing lost.

use std::fmt;
use std::time::Duration;

use kcl_core::clock::{Clock as _, TokioClock};
use kcl_tests::figures::measure::first_record_elsewhere;
use kcl_tests::fleet::drive::{Fleet, Programs, ReadMode, SOON, Shape, lineage};
use kcl_tests::fleet::evidence::{Lineage, held};
use kcl_tests::fleet::leases::leader;
use kcl_tests::fleet::pulse::Pulse;
use kcl_tests::fleet::timing::{begun_elsewhere, children_after_parents, let_go};
use kcl_tests::testbed::Testbed;
use kcl_tests::testbed_or_skip;
use kcl_tests::wait::eventually;

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

#[tokio::test]
async fn fleet_loses_nothing_through_reshard_and_death() {
    let _alone = crate::ONE_AT_A_TIME.lock().await;
    let testbed = testbed_or_skip!();
    let programs = Programs::build();
    for round in 1..=rounds() {
        let summary = reshard_and_death(&testbed, &programs).await;
        println!("round {round} of {}: {summary}", rounds());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fleet_fails_over_and_reshards_in_time() {
    let _alone = crate::ONE_AT_A_TIME.lock().await;
    let testbed = testbed_or_skip!();
    let programs = Programs::build();
    for round in 1..=rounds() {
        let summary = deaths_and_a_farewell(&testbed, &programs).await;
        println!("round {round} of {}: {summary}", rounds());
    }
}

fn rounds() -> u32 {
    std::env::var(ROUNDS).map_or(1, |text| text.parse().expect("KCL_TEST_ROUNDS is a number"))
}

/// Four workers share twelve shards. The leader is killed, another is killed, one is asked to leave, a shard splits. Each step waits for
/// the state that it leads to; the time it took, less what the machine gave to no worker meanwhile, is within the promise.
async fn deaths_and_a_farewell(testbed: &Testbed, programs: &Programs) -> String {
    let mut fleet = Fleet::start(testbed, programs, TWELVE).await;
    let limit = TWELVE.failover.as_secs_f64() + 2.0;

    let first_leader = settled(testbed, &mut fleet).await;
    let pulse = Pulse::start(testbed.dynamo_config(), fleet.application.clone());
    let leader_died = failover(&mut fleet, &pulse, &first_leader).await;
    let lead = settled(testbed, &mut fleet).await;
    let victim = fleet.busiest(&[&lead]).expect("everybody holds shards");
    let other_died = failover(&mut fleet, &pulse, &victim).await;
    let killed = [first_leader, victim];
    let lead = settled(testbed, &mut fleet).await;
    let leaver = fleet.busiest(&[&lead]).expect("everybody holds shards");
    let handed_over = farewell(&mut fleet, &pulse, &leaver).await;

    let shards = testbed.open_shards(&fleet.stream).await;
    let split = now();
    testbed.split(&fleet.stream, &shards[0]).await;
    fleet
        .every_open_shard_is_consumed("the children of a split start")
        .await;
    let split_lost = pulse.lost(split, now());
    fleet.stop_producer().await;
    fleet.everything_is_seen().await;
    fleet.drain().await;

    let evidence = fleet.evidence(lineage(&testbed.shards(&fleet.stream).await));
    let logs = fleet.scene().folder().display();
    let children = children_after_parents(&evidence);
    let waited = children.iter().map(|(_, waited)| *waited).fold(0.0, f64::max);
    let summary = format!(
        "the death of the leader {leader_died}, of another {other_died}, a farewell {handed_over}, \
         children {waited:.2} s after their parent (the machine lost {split_lost:.2} s)"
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
    let in_time = leader_died.within(limit) && other_died.within(limit) && handed_over.within(1.0);
    assert!(in_time && waited < 2.0 + split_lost, "{summary}, logs in {logs}");
    fleet.remove().await;
    summary
}

/// Starts workers until there are four, waits until they share the shards and one of them leads, and says which.
async fn settled(testbed: &Testbed, fleet: &mut Fleet) -> String {
    while fleet.live().count() < 4 {
        fleet.start_worker();
    }
    fleet.balanced(3, 3).await;
    fleet.every_open_shard_is_consumed("four workers share").await;
    let config = testbed.dynamo_config();
    eventually(SOON, async || {
        let leader = leader(&config, &fleet.application).await?.ok_or("nobody leads")?;
        let lives = fleet.live().any(|worker| worker.name() == leader);
        lives
            .then(|| leader.clone())
            .ok_or(format!("{leader} is gone and leads"))
    })
    .await
}

/// From the kill to the first record of its last shard to go on.
async fn failover(fleet: &mut Fleet, pulse: &Pulse, victim: &str) -> Took {
    let shards = shards_of(fleet, victim);
    let killed = now();
    fleet.kill(victim);
    fleet.every_open_shard_is_consumed("after a death").await;
    let evidence = fleet.evidence(Lineage::new());
    let resumed = |shard: &String| first_record_elsewhere(&evidence, shard, victim, killed);
    longest(pulse, shards.iter().map(|shard| Some((killed, resumed(shard)?))))
}

/// The longest time in which a shard was nobody's, after SIGTERM of its worker.
async fn farewell(fleet: &mut Fleet, pulse: &Pulse, leaver: &str) -> Took {
    let shards = shards_of(fleet, leaver);
    fleet.terminate(leaver).await;
    fleet.every_open_shard_is_consumed("after a farewell").await;
    let evidence = fleet.evidence(Lineage::new());
    let spans = shards.iter().map(|shard| {
        let last = let_go(&evidence, shard, leaver)?;
        Some((last, begun_elsewhere(&evidence, shard, leaver, last)?))
    });
    longest(pulse, spans)
}

/// How long something took, and how much of that the machine gave to no worker, in seconds.
struct Took {
    seconds: f64,
    lost: f64,
}

impl Took {
    fn within(&self, limit: f64) -> bool {
        self.seconds <= limit + self.lost
    }
}

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} s (the machine lost {:.2} s)", self.seconds, self.lost)
    }
}

fn shards_of(fleet: &Fleet, worker: &str) -> Vec<String> {
    let entries = fleet.worker(worker).entries();
    held(&entries).into_iter().map(str::to_owned).collect()
}

/// The longest of these spans, each from one second since 1970 to another.
fn longest(pulse: &Pulse, spans: impl Iterator<Item = Option<(f64, f64)>>) -> Took {
    let spans = spans.map(|span| span.expect("every shard went on elsewhere"));
    let longest = spans.max_by(|one, other| (one.1 - one.0).total_cmp(&(other.1 - other.0)));
    let (from, to) = longest.expect("a busy worker has shards");
    Took {
        seconds: to - from,
        lost: pulse.lost(from, to),
    }
}

/// Seconds since the start of 1970, as in the logs.
fn now() -> f64 {
    TokioClock::new().wall().as_millis() as f64 / 1000.0
}

/// Three workers and two standbys consume four shards; one splits, two merge, a worker dies, another comes.
async fn reshard_and_death(testbed: &Testbed, programs: &Programs) -> String {
    let mut fleet = Fleet::start(testbed, programs, SHAPE).await;
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

    let shards = testbed.open_shards(&fleet.stream).await;
    testbed.split(&fleet.stream, &shards[0]).await;
    fleet
        .every_open_shard_is_consumed("the children of a split start")
        .await;
    testbed.merge(&fleet.stream, &shards[2], &shards[3]).await;
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

    let evidence = fleet.evidence(lineage(&testbed.shards(&fleet.stream).await));
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
