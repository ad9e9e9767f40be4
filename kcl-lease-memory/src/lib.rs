//! Leases in memory: a real store for tests and laptops, and the reference for every other one.
//!
//! [`MemoryLeaseStore`] executes the specification of the lease table literally: [`Expect::holds`](kcl_core::lease_store::Expect::holds)
//! decides, [`apply`](kcl_core::lease_store::apply) changes. Clones of a store are handles on the same storage, as two clients of one table are.
//! Nothing outlives the process.

#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod storage;
mod store;

pub use store::MemoryLeaseStore;

/// The README, compiled against this crate alone.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
