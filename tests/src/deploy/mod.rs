//! The files in `deploy/` that are made from the list of metrics, so that they name no others.

mod alerts;
mod dashboard;
pub mod promql;

pub use alerts::{ALERTS, Alert};
pub use dashboard::queries;

/// A file that is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployFile {
    /// The path in the repository.
    pub path: &'static str,
    /// The content.
    pub content: String,
}

/// Makes every file.
pub fn files() -> Vec<DeployFile> {
    vec![
        DeployFile {
            path: "deploy/prometheus/alerts.yaml",
            content: alerts::rules(),
        },
        DeployFile {
            path: "deploy/grafana/kinesis-client.json",
            content: dashboard::dashboard(),
        },
    ]
}
