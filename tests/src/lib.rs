//! What the cross-crate suites share: a [test bed](bed) of Kinesis and DynamoDB servers, [fleets](fleet) of processes, and [waiting](wait) for conditions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this is test code: a panic is how it reports"
)]

pub mod bed;
pub mod figures;
pub mod fleet;
pub mod wait;
