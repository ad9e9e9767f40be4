//! The base that every actor runs on: clocks, randomness, tasks, shared values. Nothing here knows a lease.

pub(crate) mod backoff;
pub(crate) mod change_signal;
pub(crate) mod clock;
pub mod failpoint;
pub(crate) mod lock;
pub(crate) mod log_once;
pub(crate) mod panic_message;
pub(crate) mod per_runtime;
pub(crate) mod rng;
pub(crate) mod stall_probe;
pub(crate) mod task_scope;
pub(crate) mod watched;
