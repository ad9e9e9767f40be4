//! Decides which worker should hold which lease.

pub(crate) mod assignment_plan;
pub(crate) mod balance;
pub(crate) mod load;
pub(crate) mod plan;
pub(crate) mod planner;
pub(crate) mod snapshot;
