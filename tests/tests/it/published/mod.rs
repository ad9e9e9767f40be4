//! Metrics as a worker publishes them, and the files that read them: dashboards, alarms and manifests.

mod cloudwatch;
mod exposed;
mod files;
