//! Every deliberate bug is found, by name, within a thousand scenarios.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kcl_core::internals::Failpoint;
use kcl_mutants::{Entry, MOST_SEEDS, found_by_tests, hunt, table};
use kcl_testkit::invariant::Invariant;
use kcl_testkit::simulation::{FailedScenario, Scenario, outcome_of};

#[test]
fn every_bug_stands_in_the_table_once() {
    let by_tests = found_by_tests().into_iter().map(|(bug, _)| bug);
    let listed: Vec<Failpoint> = table()
        .into_iter()
        .map(|entry| entry.mutant)
        .chain(by_tests)
        .collect();
    assert_eq!(listed, Failpoint::ALL);
    let different: BTreeSet<Failpoint> = listed.iter().copied().collect();
    assert_eq!(listed.len(), different.len());
}

#[test]
fn every_bug_is_found_by_its_invariant() {
    let (table, next, found) = (table(), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(entry) = table.get(place) else { return };
            let kill = Kill {
                place,
                entry: *entry,
                by: hunt(entry),
            };
            found.lock().unwrap().push(kill);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(work);
        }
    });
    let mut kills = found.into_inner().unwrap();
    kills.sort_by_key(|kill| kill.place);
    let right = kills.iter().filter(|kill| kill.is_right()).count();
    println!("{right} of {} deliberate bugs are found:", kills.len());
    kills.iter().for_each(|kill| println!("{kill}"));

    let wrong: Vec<String> = kills
        .iter()
        .filter(|kill| !kill.is_right())
        .map(|kill| format!("{kill}: {:?}", kill.by))
        .collect();
    assert!(
        wrong.is_empty(),
        "not found, or not by what they break: {wrong:#?}"
    );
    // Rows with attributes of others are not in a simulation: `kcl-lease-dynamo` changes rows that Java wrote.
    let all = BTreeSet::from(Invariant::ALL);
    let broken: BTreeSet<Invariant> = kills.iter().filter_map(Kill::invariant).collect();
    assert_eq!(
        all.difference(&broken).collect::<Vec<_>>(),
        [&Invariant::Compatible],
        "no bug breaks them"
    );
}

/// The scenarios themselves are innocent.
#[test]
fn without_a_bug_the_same_scenarios_end_well() {
    for scenario in [Scenario::of, Scenario::with_failing_records] {
        for seed in 0..5 {
            let outcome = outcome_of(&scenario(seed), 0, |_| {});
            assert!(outcome.is_ok(), "{:?}", outcome.err());
        }
    }
}

/// The outcome for one bug.
struct Kill {
    place: usize,
    entry: Entry,
    by: Option<FailedScenario>,
}

impl Kill {
    fn invariant(&self) -> Option<Invariant> {
        self.by.as_ref()?.invariant
    }

    fn is_right(&self) -> bool {
        self.invariant().is_some_and(|by| self.entry.breaks.contains(&by))
    }
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bug, harm) = (format!("{:?}", self.entry.mutant), self.entry.harm);
        let by = self.invariant().map_or("nothing", Invariant::id);
        match &self.by {
            Some(failure) => write!(f, "{bug:<28} {by:<4} at seed {:<3} {harm}", failure.seed),
            None => write!(f, "{bug:<28} not found in {MOST_SEEDS} seeds: {harm}"),
        }
    }
}
