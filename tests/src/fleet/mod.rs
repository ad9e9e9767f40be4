//! Fleets of processes: how to start them, what they log, and what the logs must show.

pub mod desk;
pub mod drive;
pub mod evidence;
pub mod leases;
pub mod log;
pub mod ownership;
pub mod processes;
pub mod pulse;
pub mod timing;
pub mod walk;
