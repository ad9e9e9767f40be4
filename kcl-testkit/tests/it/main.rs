//! Workers and fleets in one process, on virtual time, and the test kit itself.
//!
//! The subject of `blocking` and of `log_lines` is the process: its threads and its log. They are programs of their own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is how they report"
)]

mod aggregated;
mod allocations;
mod altered;
mod balance;
mod batching;
mod coordination;
mod crash_anywhere;
mod elections;
mod ends;
mod expiring;
mod failed_calls;
mod faulty_lease_store;
mod faulty_stream;
mod finished_ahead;
mod fleet;
mod flow;
mod handlers;
mod handoffs;
mod locks;
mod manual_checkpoints;
mod memory;
mod memory_lease_store;
mod memory_stream;
mod newest;
mod odd_streams;
mod orders;
mod outages;
mod processor_simulation;
mod redrive;
mod replays;
mod reshards;
mod rolling_deploy;
mod runtime_edges;
mod set_aside;
mod set_aside_once;
mod shutdown_anywhere;
mod sink_positions;
mod slow_processors;
mod stalls;
mod store_calls;
mod store_failures;
mod streams;
mod two_phase;
mod unreadable_records;
mod windows;
mod workers;
