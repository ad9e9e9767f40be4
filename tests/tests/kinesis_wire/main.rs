//! The Kinesis source, by polling and by enhanced fan-out, through the real SDK against the wire server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is how they report"
)]

mod black_holes;
mod ends;
mod pauses;
mod runtimes;
mod served;
mod sharing;
mod subscribing;
mod suite;
mod tls;
mod worker;
