#![doc = include_str!("../README.md")]
#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod accept;
mod exporter;
mod health;
mod limits;
mod routes;
mod server;

pub use exporter::{PROCESS_BUCKETS, STORE_BUCKETS, prometheus_builder};
pub use metrics_exporter_prometheus;
pub use routes::{LIVENESS_PATH, METRICS_PATH, READINESS_PATH, STATUS_PATH};
pub use server::{DEFAULT_PORT, HttpServer, RunningServer};

/// For the dashboard of `kcl` only: parts that are no interface for users. They change without notice.
#[doc(hidden)]
pub mod internals {
    pub use crate::accept::serve_connections;
    pub use crate::limits::ServerLimits;
}
