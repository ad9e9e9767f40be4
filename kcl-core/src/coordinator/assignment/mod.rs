//! Decides which worker should hold which lease.

pub(crate) mod balance;
pub(crate) mod load;
pub(crate) mod moves;
pub(crate) mod placement;
pub(crate) mod plan;
pub(crate) mod snapshot;
