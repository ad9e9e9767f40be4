//! Tests consumers that are built on `kcl-core`, on a laptop and without AWS.
//!
//! The stream and the lease store in memory are in `kcl-lease-memory`, and in `kinesis-client` with the feature `memory`.

#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod bench;
pub mod clock;
mod dead_letters;
pub mod faults;
pub mod faulty_stream;
pub mod fleet;
pub mod invariant;
pub mod lease_suite;
pub mod processors;
pub mod simulation;
pub mod source_suite;

pub use bench::{BenchBuilder, BenchCall, ProcessorBench};
pub use dead_letters::{MemoryDeadLetters, SinkFault, SinkFaultRates};
pub use faulty_stream::FaultyStream;
pub use fleet::simulate_fleet;
pub use simulation::{ProcessorSimulation, SimulationEnd, simulate};

/// The README, compiled against this crate alone.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
