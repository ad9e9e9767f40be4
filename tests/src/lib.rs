//! What the cross-crate suites share: a [test bed](bed) of Kinesis and DynamoDB servers, [fleets](fleet) of processes, [chaos] for them, and [waiting](wait) for conditions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this is test code: a panic is how it reports"
)]

pub mod bed;
pub mod chaos;
pub mod figures;
pub mod fleet;
pub mod foreign;
pub mod judge;
pub mod simulation;
pub mod wait;

/// The README's example, compiled: no published crate has all that it uses.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// The examples of the guide to testing, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../docs/testing.md")]
pub struct TestingGuide;
