//! Runs a scenario from its first event to the end of its fleet.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use kcl_lease_memory::memory_stream::Pace;

use super::driver::Driver;
use super::failed_scenario::FailedScenario;
use super::given_processor::GivenProcessor;
use super::recovery::recover;
use super::report::Report;
use super::script::Scenario;
use crate::fleet::{Fleet, Simulation};

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
pub fn outcome(seed: u64) -> Result<Report, FailedScenario> {
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
) -> Result<Report, FailedScenario> {
    let simulation = Simulation::new(scenario.seed).trace_lines(trace_lines);
    run(scenario, simulation, None, then)
}

/// As [`outcome_of`], with a processor that is given.
pub(super) fn run(
    scenario: &Scenario,
    simulation: Simulation,
    given: Option<&GivenProcessor>,
    then: impl FnOnce(&Fleet),
) -> Result<Report, FailedScenario> {
    let simulation = simulation
        .settings(scenario.settings.clone())
        .shards(scenario.shards)
        .pace(PACE);
    let run = || {
        simulation.attempt(async |fleet| {
            let mut driver = Driver::new(fleet.clone(), scenario, given.cloned());
            driver.begin();
            for step in &scenario.script {
                driver.perform(*step).await;
            }
            driver.end_orders().await;
            let (mut report, newcomer) = driver.heal();
            recover(&fleet, scenario, newcomer, &mut report).await;
            report.close(&fleet);
            if let Some(failing) = &scenario.failing {
                failing.check_set_aside(&fleet, scenario.packed.is_some());
            }
            then(&fleet);
            report
        })
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(violation)) => Err(FailedScenario::of_violation(scenario, &violation)),
        Err(panic) => Err(FailedScenario::of_panic(scenario, panic.as_ref())),
    }
}
