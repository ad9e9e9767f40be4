//! A worker dies, or hangs, at every single point of its life: before each poll of each of its tasks, one after the other.
//!
//! Each crash falls between two awaits of the worker, so that every write of a handoff, of a reshard and of a start-up is
//! once the last thing that the worker did. By default every fifth point is tried; `KCL_TEST_EVERY_POLL=1` tries them all.

use std::time::Duration;

use kcl_core::types::{LeaseKey, ShardId};
use kcl_testkit::fleet::{Fleet, Member};
use kcl_testkit::simulate_fleet;

const SECOND: Duration = Duration::from_secs(1);

/// The situation in which it happens.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The victim starts alone: table, leases, first assignments.
    Founds,
    /// Leases are handed to the victim, which joins.
    IsHandedTo,
    /// Leases are handed by the victim to others that join.
    HandsOver,
    /// Shards of the victim are split and merged.
    Reshards,
    /// The victim is asked to stop and hands over what it has.
    Leaves,
}

const PHASES: [Phase; 5] = [
    Phase::Founds,
    Phase::IsHandedTo,
    Phase::HandsOver,
    Phase::Reshards,
    Phase::Leaves,
];

/// The fate of the victim.
#[derive(Debug, Clone, Copy)]
enum Blow {
    /// It vanishes.
    Dies,
    /// It vanishes, and comes back half a second later under its id.
    IsRestarted,
    /// It hangs for twice the failover time, and goes on.
    Hangs,
}

const LENGTH: Duration = Duration::from_secs(4);

async fn held_by(fleet: &Fleet, name: &str, leases: usize) {
    fleet
        .wait_until("the worker holds its share", 60 * SECOND, |view| {
            view.held(name).len() == leases
        })
        .await;
}

/// Brings the fleet to where the phase begins. The victim is `v`.
async fn begin(fleet: &Fleet, phase: Phase) {
    fleet.produce(SECOND / 5, 8);
    match phase {
        Phase::Founds => return fleet.start_worker("v", fleet.settings()),
        Phase::IsHandedTo => {
            fleet.start_worker("a", fleet.settings());
            held_by(fleet, "a", 4).await;
            return fleet.start_worker("v", fleet.settings());
        }
        Phase::HandsOver | Phase::Reshards | Phase::Leaves => {}
    }
    fleet.start_worker("v", fleet.settings());
    held_by(fleet, "v", 4).await;
    fleet.start_worker("a", fleet.settings());
    if matches!(phase, Phase::HandsOver) {
        return;
    }
    held_by(fleet, "a", 2).await;
}

fn act(fleet: &Fleet, phase: Phase) {
    match phase {
        Phase::Founds | Phase::IsHandedTo | Phase::HandsOver => {}
        Phase::Reshards => {
            let mine: Vec<LeaseKey> = fleet.view().held("v").into_iter().collect();
            fleet.split(&ShardId::new(mine[0].as_str()).unwrap()).unwrap();
            let others: Vec<_> = fleet.open_shards().into_iter().take(2).collect();
            fleet.merge(&others[0], &others[1]).unwrap();
        }
        Phase::Leaves => fleet.drain_after_polls("v", 0),
    }
}

/// How many polls the phase lasts.
fn polls_of(phase: Phase) -> u64 {
    simulate_fleet(1, async |fleet| {
        begin(&fleet, phase).await;
        let before = fleet.polls("v");
        act(&fleet, phase);
        fleet.sleep(LENGTH).await;
        fleet.polls("v") - before
    })
}

fn strike(phase: Phase, blow: Blow, polls: u64) {
    simulate_fleet(1, async |fleet| {
        let what = format!("{blow:?} while it {phase:?} after {polls} polls");
        begin(&fleet, phase).await;
        act(&fleet, phase);
        if matches!(phase, Phase::Leaves) {
            // The stop is asked for with the first poll; the blow comes after it.
            fleet.sleep(Duration::from_millis(1)).await;
        }
        match blow {
            Blow::Dies | Blow::IsRestarted => fleet.kill_after_polls("v", polls),
            Blow::Hangs => fleet.freeze_after_polls("v", polls),
        }
        fleet.sleep(LENGTH).await;
        match blow {
            Blow::Dies => {}
            Blow::IsRestarted => {
                fleet.sleep(SECOND / 2).await;
                fleet.start(Member::named("again").worker_id("v"));
            }
            Blow::Hangs => {
                fleet.sleep(2 * fleet.settings().leases.failover_time).await;
                fleet.thaw("v");
            }
        }
        if fleet.view().status("a").is_none() {
            fleet.start_worker("a", fleet.settings());
        }
        let limit = fleet.settings().leases.failover_time + 3 * SECOND;
        let took = fleet
            .wait_until("every shard is worked on", 120 * SECOND, |view| {
                let open = fleet.open_shards();
                let owners = view.owners();
                open.iter().all(|shard| {
                    owners.get(shard).is_some_and(|owner| {
                        owner.as_ref().is_some_and(|owner| {
                            let names = ["a", "v", "again"];
                            names.iter().any(|name| {
                                view.status(name).is_some_and(|status| {
                                    status.worker == *owner
                                        && view.held(name).contains(&LeaseKey::single_stream(shard))
                                })
                            })
                        })
                    })
                })
            })
            .await;
        assert!(took <= limit, "{what}: {took:?}");
        fleet.stop_producing();
        fleet.settle().await;
        let tally = fleet.view().tally();
        assert_eq!(tally.finished, tally.put, "{what}");
    });
}

fn everywhere(blow: Blow) {
    let stride = match std::env::var("KCL_TEST_EVERY_POLL") {
        Ok(_) => 1,
        Err(_) => 5,
    };
    for phase in PHASES {
        let polls = polls_of(phase);
        assert!(polls > 50, "{phase:?} lasts only {polls} polls");
        let points: Vec<_> = (0..polls).step_by(stride).collect();
        println!("{blow:?} while it {phase:?}: {} of {polls} points", points.len());
        points.into_iter().for_each(|point| strike(phase, blow, point));
    }
}

#[test]
fn death_at_any_point_loses_no_record() {
    everywhere(Blow::Dies);
}

#[test]
fn restart_at_any_point_loses_no_record() {
    everywhere(Blow::IsRestarted);
}

#[test]
fn hang_at_any_point_loses_no_record() {
    everywhere(Blow::Hangs);
}

#[test]
fn restarted_worker_reads_before_failover_time() {
    simulate_fleet(1, async |fleet| {
        fleet.start_worker("v", fleet.settings());
        held_by(&fleet, "v", 4).await;
        fleet.settle().await;
        fleet.kill("v");
        fleet.put(100);
        fleet.start(Member::named("again").worker_id("v"));
        let took = fleet
            .wait_until("the restarted worker has read", 60 * SECOND, |view| {
                view.held("again").len() == 4 && view.tally().finished == 100
            })
            .await;
        assert!(took < fleet.settings().leases.failover_time, "{took:?}");
    });
}
