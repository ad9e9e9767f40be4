//! The lease protocols in every possible order.
//!
//! Tests and simulations try some of the orders in which things can happen; a model checker tries all of them, in a scope small
//! enough. The scopes are here: [`fleet`] (leases, handoffs, parents and children) and [`elections`] (leader, standby, failover).
//! They contain no protocol of their own. The effect of a conditional write, the fate of one without an answer, until when a
//! holder goes on, what is expired, who leads, who gets what: each is a call of the function that the worker itself calls, and a
//! write goes through the memory store.
//!
//! The checker is [stateright](https://docs.rs/stateright). `cargo test -p kcl-model` checks the small scopes, and that every
//! [deliberate mistake](broken::Broken) is found; `cargo run --release -p kcl-model --bin check` checks the large ones.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a model reports that it makes no sense"
)]
#![allow(clippy::wildcard_enum_match_arm, reason = "a model names what it models")]

pub mod broken;
pub mod check;
pub mod elections;
pub mod fixtures;
pub mod fleet;
pub mod scopes;
mod store;
