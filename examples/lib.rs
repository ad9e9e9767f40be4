//! Shared by the examples: the trucks that send their positions, the judge of what became of them, and an HTTP API to call.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod ledger;
pub mod local_api;
pub mod trucks;
