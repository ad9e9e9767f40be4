//! A worker is asked to stop at every single point of its life: before each poll of each of its tasks, one after the other.
//!
//! By default every third point is tried; `KCL_TEST_EVERY_POLL=1` tries them all.

use std::collections::BTreeSet;
use std::time::Duration;

use kcl_core::status::ConsumerEnd;
use kcl_core::types::{LeaseKey, ShardId, WorkerId};
use kcl_testkit::fleet::Fleet;
use kcl_testkit::simulate_fleet;

const SECOND: Duration = Duration::from_secs(1);

/// The part of a worker's life in which it is asked to stop.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// It joins a fleet of one and gets its share by handoffs.
    Joins,
    /// It is the first of its fleet: it creates the table and the leases, and assigns them.
    Founds,
    /// It holds its share and nothing happens but records.
    Steady,
    /// Its leases are handed to a third worker.
    HandsOver,
    /// One of its shards is split, and two are merged.
    Reshards,
}

const PHASES: [Phase; 5] = [
    Phase::Joins,
    Phase::Founds,
    Phase::Steady,
    Phase::HandsOver,
    Phase::Reshards,
];

/// How long each phase lasts: long enough for everything that it is named after.
const LENGTH: Duration = Duration::from_secs(6);

async fn held_by(fleet: &Fleet, name: &str, leases: usize) {
    fleet
        .wait_until("the worker holds its share", 60 * SECOND, |view| {
            view.held(name).len() == leases
        })
        .await;
}

async fn begin(fleet: &Fleet, phase: Phase) {
    fleet.produce(SECOND / 5, 8);
    match phase {
        Phase::Founds => fleet.start_worker("b", fleet.settings()),
        Phase::Joins => {
            fleet.start_worker("a", fleet.settings());
            held_by(fleet, "a", 4).await;
            fleet.start_worker("b", fleet.settings());
        }
        Phase::Steady | Phase::HandsOver | Phase::Reshards => {
            fleet.start_worker("b", fleet.settings());
            held_by(fleet, "b", 4).await;
            fleet.start_worker("a", fleet.settings());
            held_by(fleet, "a", 2).await;
        }
    }
    let mine: Vec<LeaseKey> = fleet.view().held("b").into_iter().collect();
    match phase {
        Phase::HandsOver => {
            fleet.start_worker("c", fleet.settings());
            fleet.start_worker("d", fleet.settings());
        }
        Phase::Reshards => {
            fleet.split(&ShardId::new(mine[0].as_str()).unwrap()).unwrap();
            let others: Vec<_> = fleet.open_shards().into_iter().take(2).collect();
            fleet.merge(&others[0], &others[1]).unwrap();
        }
        Phase::Founds | Phase::Joins | Phase::Steady => {}
    }
}

/// How many polls the phase lasts.
fn polls_of(phase: Phase) -> u64 {
    simulate_fleet(1, async |fleet| {
        begin(&fleet, phase).await;
        let before = fleet.polls("b");
        fleet.sleep(LENGTH).await;
        fleet.polls("b") - before
    })
}

fn stop_after(phase: Phase, polls: u64) {
    simulate_fleet(1, async |fleet| {
        let what = format!("{phase:?} after {polls} polls");
        begin(&fleet, phase).await;
        fleet.drain_after_polls("b", polls);
        fleet.sleep(LENGTH + SECOND).await;
        let begun = fleet.now();
        let report = fleet.stopped("b").await.unwrap();
        assert!(
            report.took <= fleet.settings().shutdown.drain_timeout
                && fleet.now().saturating_since(begun) < 3 * SECOND,
            "{what}: {report:?}"
        );
        assert!(report.is_clean(), "{what}: {report:?}");
        assert_eq!(fleet.tasks("b"), Vec::<String>::new(), "{what}");

        let me = WorkerId::new("b").unwrap();
        let view = fleet.view();
        let named: Vec<_> = view
            .leases()
            .into_iter()
            .filter(|lease| lease.owner.as_ref() == Some(&me))
            .collect();
        assert_eq!(named, [], "{what}: nothing is left to expire");
        let unknown: BTreeSet<_> = report
            .leases
            .iter()
            .filter(|(key, end)| {
                let row = view.leases().into_iter().find(|lease| lease.key == **key);
                row.is_none_or(|row| row.is_ended() != (**end == ConsumerEnd::ShardEnded))
            })
            .collect();
        assert_eq!(
            unknown,
            BTreeSet::new(),
            "{what}: the report says what became of each lease"
        );

        if fleet.view().status("a").is_none() {
            fleet.start_worker("a", fleet.settings());
        }
        let took = fleet
            .wait_until("others hold everything", 60 * SECOND, |view| {
                view.owners().values().all(Option::is_some)
                    && view.owners().len() == fleet.open_shards().len()
            })
            .await;
        assert!(took < 2 * SECOND, "{what}: {took:?}");
        fleet.stop_producing();
        fleet.settle().await;
        assert_eq!(fleet.view().tally().redelivered, 0, "{what}");
    });
}

#[test]
fn worker_stopped_at_any_point_ends_in_time() {
    let stride = match std::env::var("KCL_TEST_EVERY_POLL") {
        Ok(_) => 1,
        Err(_) => 3,
    };
    for phase in PHASES {
        let polls = polls_of(phase);
        assert!(polls > 100, "{phase:?} lasts only {polls} polls");
        let mut tried = 0;
        for point in (0..polls).step_by(stride) {
            stop_after(phase, point);
            tried += 1;
        }
        println!("{phase:?}: stopped at {tried} of {polls} points");
    }
}
