use std::any::Any;
use std::fmt;

use super::script::Scenario;
use crate::invariant::{Invariant, Violation};

/// A scenario that did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedScenario {
    /// Its seed.
    pub seed: u64,
    /// The invariant that was broken. `None` when something else went wrong, or the harness did.
    pub invariant: Option<Invariant>,
    /// The violation, or the message of the panic.
    pub message: String,
    /// The command that runs it again.
    pub replay: String,
}

impl FailedScenario {
    pub(super) fn of_violation(scenario: &Scenario, violation: &Violation) -> Self {
        Self {
            seed: scenario.seed,
            invariant: Some(violation.invariant),
            message: violation.to_string(),
            replay: replay(scenario),
        }
    }

    /// A condition that does not come in time says in brackets which invariant asks for it.
    pub(super) fn of_panic(scenario: &Scenario, panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let message = text.unwrap_or("a panic without words").to_owned();
        let named = |invariant: &Invariant| message.contains(&format!("({})", invariant.id()));
        Self {
            seed: scenario.seed,
            invariant: Invariant::ALL.into_iter().find(named),
            message,
            replay: replay(scenario),
        }
    }
}

fn replay(scenario: &Scenario) -> String {
    let kind = match (&scenario.concurrency, &scenario.failing) {
        (Some(_), _) => " --handlers",
        (None, Some(_)) => " --failing-records",
        (None, None) => "",
    };
    let seed = scenario.seed;
    format!("cargo run --release -p kcl-tests --bin simulate -- --seed {seed}{kind} --trace")
}

impl fmt::Display for FailedScenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            message,
            replay,
            ..
        } = self;
        write!(f, "seed {seed}: {message}\nreplay it: {replay}")
    }
}
