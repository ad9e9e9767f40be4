//! The lease table: which worker owns which shard, and how far it has come.
//!
//! Flow: [`LeaseStore::scan`] → [`observe`] (who is expired) → a plan → [`LeaseStore::change`].
//! [`change::apply`] is the specification of every change; a store expresses it and adds nothing.

pub mod change;
pub mod observe;
pub mod resolve;
mod row;
mod store;
mod worker_row;

pub use change::{Expect, LeaseChange, apply};
pub use row::{Lease, PendingCheckpoint, Version, WriteStamp};
pub use store::{
    Capabilities, Certainty, LeaseStore, Outcome, Preparation, Scan, StoreError, StoreErrorKind, Undecodable,
};
pub use worker_row::{
    LeaderLock, LockChange, LockExpect, LockOutcome, WorkerChange, WorkerOutcome, WorkerRow,
};
