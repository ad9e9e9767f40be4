//! A worker: everything wired together, started, watched and stopped.

mod builder;
mod departure;
mod discovery;
mod fatal;
mod following;
mod grants;
mod handle;
mod health;
mod holdings;
mod late_shards;
mod leadership;
mod membership;
mod run;
mod scan_limit;
mod shutdown;
#[cfg(feature = "signal")]
mod signal;
mod standstill;
mod start;

pub use builder::{Coordination, Worker, WorkerBuilder};
pub use handle::{StatusReader, Stopper, WorkerHandle};
pub use shutdown::{Remaining, ShutdownReport, ShutdownStep, next_step};
