//! Leases and streams in memory, for tests and laptops.
//!
//! [`MemoryStream`] is a Kinesis stream, and [`MemoryLeaseStore`] a real lease store, the reference for every other one.
//!
//! The store executes the specification of the lease table literally: [`Expect::holds`](kcl_core::lease_store::Expect::holds)
//! decides, [`apply`](kcl_core::lease_store::apply) changes. Clones of a store are handles on the same storage, as two clients of one table are.
//! Nothing outlives the process.

#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod memory_stream;
mod storage;
mod store;

pub use memory_stream::MemoryStream;
pub use store::MemoryLeaseStore;

/// Places in a stream and the saved form of streams, for a server. No interface for users.
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod server {
    pub use crate::memory_stream::place::{Page, Place};
    pub use crate::memory_stream::state::saved::SavedStream;
}

/// The README, compiled against this crate alone.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
