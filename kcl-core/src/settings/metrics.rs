use serde::{Deserialize, Serialize};

use crate::metrics::MetricsLevel;
use crate::settings::rules::violated;

/// The longest label of a worker. It stands on every series.
const LONGEST_LABEL: usize = 200;
/// More series for single shards than this are no help to a reader.
const MOST_SHARDS: u32 = 1000;

/// How a worker's [metrics](crate::metrics) are labelled.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::settings::{MetricsSettings, Settings};
///
/// let metrics = MetricsSettings { worker_label: Some("blue".to_owned()), top_shards: 0, ..MetricsSettings::default() };
/// assert!(Settings { metrics, ..Settings::default() }.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// The value of the label `worker`, of 1 to 200 bytes. By default the worker's id, if your code set one, and else the name of the
    /// application: an id that differs at each start would make new series at each start. Workers that record into the same recorder
    /// need labels, or ids, of their own, or they overwrite each other's gauges. Those of different processes do not: what collects the
    /// metrics distinguishes processes, as the label `instance` of Prometheus does.
    pub worker_label: Option<String>,
    /// How much the worker measures, [`Essential`](MetricsLevel::Essential) by default. A worker that is well has about as many series
    /// then as one of the Java KCL has without its shards, for which Java has twelve each.
    pub level: MetricsLevel,
    /// For how many shards at a time [`kcl_shard_freshness_seconds`](crate::metrics::SHARD_FRESHNESS_SECONDS) says how far behind they
    /// are, under the label `lease`; 0 to 1000, where 0 is off. 10 by default.
    ///
    /// They are the shards that are furthest behind, from ten seconds on. A shard stays among them until another is further behind by more
    /// than a quarter. One that no longer is among them shows 0, also when its lease goes to another worker. A recorder keeps every series
    /// that it has seen, so a worker names at most ten times as many shards in its life: those that come later share the label `other`,
    /// which shows the one that is furthest behind, and the [status](crate::status::WorkerStatus) names them all.
    pub top_shards: u32,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self {
            worker_label: None,
            level: MetricsLevel::default(),
            top_shards: 10,
        }
    }
}

impl MetricsSettings {
    /// Everything that is wrong with the settings.
    pub(crate) fn violations(&self) -> Vec<String> {
        let label = self.worker_label.as_deref();
        let is_wrong =
            |label: &str| !(1..=LONGEST_LABEL).contains(&label.len()) || label.chars().any(char::is_control);
        violated([
            (
                label.is_some_and(is_wrong),
                "worker_label must have 1 to 200 bytes and no control character: it stands on every series",
            ),
            (
                self.top_shards > MOST_SHARDS,
                "top_shards must be at most 1000: each is a series of its own; the status names every shard",
            ),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    #[test]
    fn labels_and_series_out_of_range_are_refused() {
        for (label, top_shards, wrong) in [
            (None, 0, 0),
            (Some("blue"), 1000, 0),
            (Some(""), 1001, 2),
            (Some("a\nb"), 10, 1),
            (Some(&*"x".repeat(201)), 10, 1),
        ] {
            let metrics = MetricsSettings {
                worker_label: label.map(str::to_owned),
                top_shards,
                ..MetricsSettings::default()
            };
            assert_eq!(metrics.violations().len(), wrong, "{metrics:?}");
            let settings = Settings {
                metrics,
                ..Settings::default()
            };
            assert_eq!(settings.validate().is_err(), wrong > 0);
        }
    }

    #[test]
    fn metrics_settings_are_read_from_files() {
        let settings: Settings =
            serde_json::from_str(r#"{"metrics": {"worker_label": "blue", "level": "detailed"}}"#).unwrap();
        assert_eq!(settings.metrics.worker_label.as_deref(), Some("blue"));
        assert_eq!(settings.metrics.level, MetricsLevel::Detailed);
        assert_eq!(MetricsSettings::default().level, MetricsLevel::Essential);
        assert_eq!(settings.metrics.top_shards, 10);
        assert!(serde_json::from_str::<Settings>(r#"{"metrics": {"top": 1}}"#).is_err());
    }
}
