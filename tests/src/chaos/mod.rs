//! Fleets of real processes under faults that follow from a seed: a [plan], a [proxy] between every worker and every
//! service, and checks of [what the workers logged](crate::fleet::evidence) and of [what the lease table was made to be](table).

pub mod answers;
mod drive;
pub mod fault;
pub mod fleet;
pub mod plan;
pub mod proxy;
pub mod report;
pub mod round;
pub mod table;
