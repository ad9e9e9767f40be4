//! Tests consumers that are built on `kcl-core`, on a laptop and without AWS.
//!
//! The feature `wire`, off by default, adds a server that speaks the protocol of Kinesis, and the command `kinesis-local`.

#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod clock;
pub mod faults;
pub mod faulty_stream;
pub mod fleet;
pub mod lease_suite;
pub mod memory_stream;
pub mod processors;
pub mod source_suite;
#[cfg(feature = "wire")]
pub mod wire;

pub use faulty_stream::FaultyStream;
pub use fleet::simulate;
pub use memory_stream::MemoryStream;

/// The README, compiled against this crate alone.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
