//! The end of a shard where answers are incomplete, implausible or missing, and gaps that retention makes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is how they report"
)]

mod bench;
mod busy;
mod claims;
mod gaps;
mod naming;
mod silence;
