//! The lease table: which worker owns which shard, and how far it has come.
//!
//! Flow: [`LeaseStore::scan`] → [`observe`] (who is expired) → a plan → [`LeaseStore::change`].
//! [`change::apply`] is the specification of every change; a store expresses it and adds nothing.

pub mod change;
mod counted;
pub mod hold;
mod lane;
pub mod observe;
pub mod resolve;
mod row;
mod store;
mod worker_row;
mod writer;

#[cfg(test)]
mod change_tests;

pub use change::{Expect, LeaseChange, apply};
pub(crate) use counted::Counted;
pub(crate) use lane::{LaneLimits, Lanes};
pub use row::{Lease, PendingCheckpoint, RowFacts, Version, WriteStamp};
pub use store::{
    Capabilities, Certainty, LeaseStore, Outcome, Preparation, Scan, StoreError, StoreErrorKind, Undecodable,
    check_counter,
};
pub use worker_row::{
    LeaderLock, LockChange, LockExpect, LockOutcome, WorkerChange, WorkerOutcome, WorkerRow,
};
pub(crate) use writer::LeaseWriter;
