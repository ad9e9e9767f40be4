//! Fleets of processes in real time. The machine is their subject: they start a dozen processes and measure seconds, so they are a
//! program of their own, beside which `cargo test` runs nothing.

#![allow(clippy::expect_used, reason = "helpers of tests: a panic is how they report")]

mod chaos;
mod exactly_once;
mod fleet_on_emulators;
mod operations;

/// The emulators carry one fleet at a time.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
