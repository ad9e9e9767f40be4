//! Whole fleets under everything that can go wrong, in virtual time: the same seed gives the same run, event by event.
//!
//! A [`Scenario`] says what happens and when, and follows from the seed alone. [`outcome`] lets it happen to a fleet of real workers, whose
//! every step is checked against the [invariants](crate::invariant), then heals everything and asks that the fleet is whole again
//! in bounded time. [`Report`] is what was seen meanwhile, and adds up over seeds.
//!
//! [`simulate`] does the same to your own processor.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a simulation fails as tests do"
)]

mod conditions;
mod driver;
mod failed_scenario;
mod failing_records;
mod given_processor;
mod handler_behavior;
mod operators;
mod processor_behavior;
mod processor_simulation;
mod recovery;
mod report;
mod run;
mod script;
mod seeds;

pub use failed_scenario::FailedScenario;
pub use failing_records::FailingRecords;
pub use operators::OperatorAct;
pub use processor_simulation::{ProcessorSimulation, SimulationEnd, simulate};
pub use report::{Report, Spread};
pub use run::{outcome, outcome_of};
pub use script::{FleetEvent, Scenario, Step};
pub use seeds::run_seeds;
