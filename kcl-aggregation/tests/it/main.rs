//! The format, from outside: vectors of the Java KCL, properties of all records, messages made by hand.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is how they report"
)]

mod messages;
mod properties;
mod vectors;
