use std::any::Any;
use std::fmt;

use kcl_testkit::invariant::{Invariant, Violation};

/// A scenario that did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// The invariant that was broken. `None` when something else went wrong, or the harness did.
    pub invariant: Option<Invariant>,
    /// The violation, or the message of the panic.
    pub message: String,
}

impl Failure {
    pub(super) fn of_violation(seed: u64, violation: &Violation) -> Self {
        Self {
            seed,
            invariant: Some(violation.invariant),
            message: violation.to_string(),
        }
    }

    /// A condition that does not come in time says in brackets which invariant asks for it.
    pub(super) fn of_panic(seed: u64, panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let message = text.unwrap_or("a panic without words").to_owned();
        let named = |invariant: &Invariant| message.contains(&format!("({})", invariant.id()));
        Self {
            seed,
            invariant: Invariant::ALL.into_iter().find(named),
            message,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {seed}: {message}\nreplay it: cargo run --release -p kcl-tests --bin simulate -- --seed {seed} --trace",
            seed = self.seed,
            message = self.message
        )
    }
}
