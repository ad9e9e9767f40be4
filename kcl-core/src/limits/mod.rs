//! How much a worker reads at once, and how fast.

pub(crate) mod budget_allocator;
pub(crate) mod byte_budget;
pub(crate) mod fetch_sizer;
pub(crate) mod flow_control;
