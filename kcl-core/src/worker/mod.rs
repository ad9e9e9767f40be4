//! A worker: everything wired together, started, watched and stopped.

pub(crate) mod builder;
pub(crate) mod discovery;
pub(crate) mod handle;
pub(crate) mod handover;
pub(crate) mod health_watch;
pub(crate) mod heartbeat;
pub(crate) mod late_shards;
pub(crate) mod lease_taker;
pub(crate) mod replay;
pub(crate) mod retention_watch;
pub(crate) mod shutdown;
#[cfg(feature = "signal")]
pub(crate) mod signal;
pub(crate) mod stall_watch;
pub(crate) mod startup;
pub(crate) mod status_reader;
pub(crate) mod stop;
pub(crate) mod stream_watcher;
pub(crate) mod supervisor;
