//! Whole fleets under everything that can go wrong, in virtual time: the same seed gives the same run, event by event.
//!
//! A [`Scenario`] says what happens and when, and follows from the seed alone. [`outcome`] lets it happen to a fleet of real workers, whose
//! every step is checked against the [invariants](kcl_testkit::invariant), then heals everything and asks that the fleet is whole again
//! in bounded time. [`Report`] is what was seen meanwhile, and adds up over seeds.

mod conditions;
mod driver;
mod failure;
mod processor_behavior;
mod recovery;
mod report;
mod scenario;
mod seeds;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use kcl_lease_memory::memory_stream::Pace;
use kcl_testkit::fleet::{Fleet, Simulation};

pub use failure::Failure;
pub use report::{Report, Spread};
pub use scenario::{Fault, Scenario, Step};
pub use seeds::run_seeds;

/// A reader that has read everything asks again after a second, as the Java KCL does.
const PACE: Pace = Pace {
    behind: Duration::ZERO,
    idle: Duration::from_secs(1),
};

/// Runs the scenario of this seed on the calling thread, and returns what was seen. It prints nothing but what a panic does.
///
/// # Errors
///
/// When an invariant is broken, or the fleet is not whole again in time.
pub fn outcome(seed: u64) -> Result<Report, Failure> {
    outcome_of(&Scenario::of(seed), 0, |_| {})
}

/// As [`outcome`], for any scenario. One that fails prints its last `trace_lines` events, and what is left of the fleet; one that
/// ends well goes on with `then`.
///
/// # Errors
///
/// As [`outcome`].
pub fn outcome_of(
    scenario: &Scenario,
    trace_lines: usize,
    then: impl FnOnce(&Fleet),
) -> Result<Report, Failure> {
    let run = || {
        Simulation::new(scenario.seed)
            .settings(scenario.settings.clone())
            .shards(scenario.shards)
            .pace(PACE)
            .trace_lines(trace_lines)
            .attempt(async |fleet| {
                let mut driver = driver::Driver::new(fleet.clone(), scenario);
                driver.begin();
                for step in &scenario.script {
                    driver.perform(*step).await;
                }
                let (mut report, newcomer) = driver.heal();
                recovery::recover(&fleet, scenario, newcomer, &mut report).await;
                report.close(&fleet);
                then(&fleet);
                report
            })
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(violation)) => Err(Failure::of_violation(scenario.seed, &violation)),
        Err(panic) => Err(Failure::of_panic(scenario.seed, panic.as_ref())),
    }
}
