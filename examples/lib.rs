//! Shared by the examples: the trucks that send their positions, and the judge of what became of them.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod ledger;
pub mod trucks;
