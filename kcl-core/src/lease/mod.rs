//! The lease table: which worker owns which shard, and how far it has come.
//!
//! Flow: [`LeaseStore::scan`](store::LeaseStore::scan) → [`expiry`] (who is expired) → a plan →
//! [`LeaseStore::change`](store::LeaseStore::change).
//! [`change::apply`] is the specification of every change; a store expresses it and adds nothing.

pub(crate) mod change;
pub(crate) mod client;
pub(crate) mod expiry_watch;
pub(crate) mod finished_ahead;
pub(crate) mod key_scheme;
pub(crate) mod orders;
pub(crate) mod report;
pub(crate) mod resolve;
pub(crate) mod row;
pub(crate) mod scan_deadline;
pub(crate) mod scanner;
pub(crate) mod shard_end_plan;
pub(crate) mod start_policy;
pub(crate) mod store;
pub(crate) mod stream_check;
pub(crate) mod worker_row;
