//! Tests of several crates together: on emulators, on the local server, and with the repository itself.
//!
//! `fleet` and `simulation` take all of the machine; they are programs of their own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is how they report"
)]

mod aggregation_interop;
mod bad_input;
mod house_rules;
mod kcl_command;
mod kinesis_polling;
mod kinesis_wire;
mod lease_conformance;
mod many_streams;
mod published;
mod testbed;
mod wire_server;
