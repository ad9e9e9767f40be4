//! The test of the test: every deliberate mistake is found, and as what it is.

use kcl_core::invariant::Invariant;
use kcl_model::broken::Broken;
use kcl_model::check::{Report, check};
use kcl_model::fleet::{Config, Fleet};
use kcl_model::worlds;

const TWICE: &str = "nothing is delivered twice unless somebody crashed, stood still or was cut off";
const COVERED: &str = "unfinished leases cover every hash key";

fn broken_fleet(world: &str, mistake: Broken) -> Report {
    let worlds = worlds::small().into_iter().chain(worlds::large());
    let config = worlds.into_iter().find(|config| config.name == world);
    let config = Config { broken: Some(mistake), ..config.expect("there is such a world") };
    check(format!("{mistake:?}"), Fleet::new(config))
}

#[test]
fn every_mistake_in_the_fleet_is_found() {
    let (pause, late) = ("a pause", "a process starts again while a write of its own hangs");
    let (crash, handoff) = ("a crash", "a handoff");
    let (split, leaves) = ("a split, and a crash", "a worker leaves, and a reply is lost");
    let table = [
        (Broken::UnconditionalCheckpoint, pause, Invariant::SingleWriter.statement()),
        (Broken::UnknownTakenForDone, late, Invariant::TokenRises.statement()),
        (Broken::AdoptsAnyRow, pause, Invariant::SingleWriter.statement()),
        (Broken::BeliefStampedAtReply, late, Invariant::NoStartAfterDeadline.statement()),
        (Broken::NoDeadline, late, Invariant::NoStartAfterDeadline.statement()),
        (Broken::ExpiryWithoutObservation, crash, Invariant::NoOverlap.statement()),
        (Broken::StartsBeforeItsRenewal, crash, Invariant::TokenRises.statement()),
        (Broken::NextOwnerDoesNotWait, handoff, Invariant::SingleWriter.statement()),
        (Broken::HandsOverWithoutCheckpoint, handoff, TWICE),
        (Broken::CheckpointBeforeFinish, crash, Invariant::CheckpointNotAhead.statement()),
        (Broken::StartsPastTheCheckpoint, crash, Invariant::InOrder.statement()),
        (Broken::NoParentWait, split, Invariant::ParentsFirst.statement()),
        (Broken::EndBeforeChildren, split, COVERED),
        (Broken::DeletesWhatIsUnowned, leaves, COVERED),
    ];
    for (mistake, world, property) in table {
        let report = broken_fleet(world, mistake);
        println!("{report}");
        let found: Vec<_> = report.broken.keys().copied().collect();
        assert!(found.contains(&property), "{mistake:?} in {world:?} broke {found:?}");
    }
}
