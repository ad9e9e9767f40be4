//! The test of the tests: deliberate bugs, each made at the one decision that it breaks, and the invariants that find it.
//!
//! [`hunt`] lets whole fleets with a bug live through [scenarios](kcl_tests::simulation) until something is found broken. A bug that is
//! not found by one of the invariants named in the [`table`] is a hole in what checks them.

mod table;

use kcl_core::internals::{Failpoint, failpoint};
use kcl_core::invariant::Invariant;
use kcl_tests::simulation::{Failure, outcome};

pub use table::table;

/// The number of scenarios after which a bug counts as not found.
pub const MOST_SEEDS: u64 = 1000;

/// A bug, and the invariants that it should break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The bug.
    pub mutant: Failpoint,
    /// Any of these may be the first to be seen.
    pub breaks: &'static [Invariant],
    /// Its effect on an application.
    pub harm: &'static str,
}

/// The first scenario in which something is found, of those before [`MOST_SEEDS`]. It runs on the calling thread.
pub fn hunt(bug: Failpoint) -> Option<Failure> {
    (0..MOST_SEEDS).find_map(|seed| failpoint::with(bug, || outcome(seed)).err())
}
