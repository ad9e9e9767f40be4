//! Decides which worker should hold which lease, and who decides.
//!
//! Flow: a scan of the lease table → [`observer`] (what is expired, which [`candidates`] live) → [`plan`] (who gets what) → conditional writes.
//! [`office`] says who plans: the holder of the leader lock, or its deputy while the leader is silent.
//! [`cadence`] says how often the table is scanned. All of these are pure; `task` gathers, calls them, performs and sleeps.

pub mod cadence;
pub mod candidates;
pub mod observer;
pub mod office;
pub mod plan;

mod calls;
mod faults;
mod java;
mod perform;
mod role;
mod settings;
mod task;
mod unplaced;

pub(crate) use perform::at_most;
pub(crate) use plan::Reason;
pub(crate) use role::{CoordinatorStatus, Notices, Role};
pub use settings::{AssignmentSettings, Strategy};
pub(crate) use task::{CoordinatorContext, coordinate};
