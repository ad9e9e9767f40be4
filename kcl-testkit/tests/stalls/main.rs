//! Shards that get stuck, and what is seen of it; tasks that panic, and what comes after.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is how they report"
)]

mod bench;
mod callbacks;
mod lateness;
mod long_handler;
mod meters;
mod panics;
mod waits;
