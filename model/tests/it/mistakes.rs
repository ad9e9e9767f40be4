//! The test of the test: every deliberate mistake is found, and as what it is.

use kcl_model::broken::Broken;
use kcl_model::check::{Report, check};
use kcl_model::elections::{Elections, ElectionsConfig};
use kcl_model::fleet::{Config, Fleet};
use kcl_model::scopes;
use kcl_testkit::invariant::Invariant;

const TWICE: &str = "nothing is delivered twice unless somebody crashed, stood still or was cut off";
const COVERED: &str = "unfinished leases cover every hash key";

fn broken_fleet(scope: &str, mistake: Broken) -> Report {
    let scopes = scopes::small().into_iter().chain(scopes::large());
    let config = scopes.into_iter().find(|config| config.name == scope);
    let config = Config {
        broken: Some(mistake),
        ..config.expect("there is such a scope")
    };
    check(format!("{mistake:?}"), Fleet::new(config))
}

#[test]
fn every_mistake_in_the_fleet_is_found() {
    let (pause, late) = ("a pause", "a process starts again while a write of its own hangs");
    let (crash, handoff) = ("a crash", "a handoff");
    let (split, merge) = ("a split, and a crash", "a merge, and a lost reply");
    let cut_off = "an owner is cut off";
    let table = [
        (
            Broken::UnconditionalCheckpoint,
            pause,
            Invariant::SingleWriter.statement(),
        ),
        (
            Broken::UnknownTakenForDone,
            late,
            Invariant::TokenRises.statement(),
        ),
        (Broken::AdoptsAnyRow, pause, Invariant::SingleWriter.statement()),
        (
            Broken::BeliefStampedAtReply,
            "a pause and a late write",
            Invariant::NoStartAfterDeadline.statement(),
        ),
        (
            Broken::NoDeadline,
            cut_off,
            Invariant::NoStartAfterDeadline.statement(),
        ),
        (Broken::ExpiryWithoutObservation, crash, TWICE),
        (
            Broken::StartsBeforeItsRenewal,
            crash,
            Invariant::TokenRises.statement(),
        ),
        (
            Broken::NextOwnerDoesNotWait,
            handoff,
            Invariant::SingleWriter.statement(),
        ),
        (Broken::HandsOverWithoutCheckpoint, handoff, TWICE),
        (
            Broken::CheckpointBeforeFinish,
            crash,
            Invariant::CheckpointNotAhead.statement(),
        ),
        (
            Broken::StartsPastTheCheckpoint,
            pause,
            Invariant::InOrder.statement(),
        ),
        (Broken::NoParentWait, split, Invariant::ParentsFirst.statement()),
        (Broken::EndBeforeChildren, split, COVERED),
        (Broken::DeletesWhatIsUnowned, merge, COVERED),
    ];
    for (mistake, scope, property) in table {
        let report = broken_fleet(scope, mistake);
        println!("{report}");
        let found: Vec<_> = report.broken.keys().copied().collect();
        assert!(
            found.contains(&property),
            "{mistake:?} in {scope:?} broke {found:?}"
        );
    }
}

#[test]
fn every_mistake_in_the_elections_is_found() {
    let one_leader = "of those who run, one at most believes to lead";
    let bound = "no lease is without a live owner for longer than the bound, whoever is gone";
    let table = [
        (
            Broken::LeadsForEver,
            "elections of two, one stands still",
            one_leader,
        ),
        (
            Broken::TakesTheLockAtOnce,
            "elections of two, one dies",
            one_leader,
        ),
        (Broken::NoStandby, "elections of two, one dies", bound),
    ];
    for (mistake, scope, property) in table {
        let scopes = scopes::small_elections();
        let config = scopes.into_iter().find(|config| config.name == scope);
        let config = ElectionsConfig {
            broken: Some(mistake),
            ..config.expect("there is such a scope")
        };
        let report = check(format!("{mistake:?}"), Elections::new(config));
        println!("{report}");
        let found: Vec<_> = report.broken.keys().copied().collect();
        assert!(
            found.contains(&property),
            "{mistake:?} in {scope:?} broke {found:?}"
        );
    }
}
