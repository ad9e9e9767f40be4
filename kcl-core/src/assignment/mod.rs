//! Decides which worker should hold which lease, and who decides.
//!
//! Flow: a scan of the lease table → [`candidates`] (who lives) → [`plan`] (who gets what) → conditional writes.
//! [`office`] says who plans: the holder of the leader lock, or its deputy while the leader is silent.
//! [`cadence`] says how often the table is scanned.

pub mod cadence;
pub mod candidates;
pub mod office;
pub mod plan;
