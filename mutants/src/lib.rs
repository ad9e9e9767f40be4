//! The test of the tests: deliberate bugs, each made at the one decision that it breaks, and the invariants that find it.
//!
//! [`hunt`] lets whole fleets with a bug live through [scenarios](kcl_testkit::simulation) until something is found broken. A bug that is
//! not found by one of the invariants named in the [`table`] is a hole in what checks them.

mod table;

use kcl_core::internals::{Failpoint, failpoint};
use kcl_core::invariant::Invariant;
use kcl_testkit::simulation::{FailedScenario, Scenario, outcome_of};

pub use table::{found_by_tests, table};

/// The number of scenarios after which a bug counts as not found.
pub const MOST_SEEDS: u64 = 1000;

/// A bug, and the invariants that it should break.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The bug.
    pub mutant: Failpoint,
    /// Any of these may be the first to be seen.
    pub breaks: &'static [Invariant],
    /// Its effect on an application.
    pub harm: &'static str,
    /// The scenarios that show it: where it needs records that fail, only those with such records do.
    pub scenario: fn(u64) -> Scenario,
}

/// The first scenario in which something is found, of those before [`MOST_SEEDS`]. It runs on the calling thread.
pub fn hunt(entry: &Entry) -> Option<FailedScenario> {
    let outcome = |seed| outcome_of(&(entry.scenario)(seed), 0, |_| {});
    (0..MOST_SEEDS).find_map(|seed| failpoint::with(entry.mutant, || outcome(seed)).err())
}
