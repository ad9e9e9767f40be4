//! The alert rules of Prometheus: the alarms of docs/operations.md.

use std::fmt::Write as _;

use kcl_core::metrics::{
    FRESHNESS_SECONDS, GAPS, INVARIANT_VIOLATIONS, LEASES_HELD, LEASES_UNPLACED, SHARDS_GONE,
    SHARDS_OF_CONCERN, STANDSTILLS, TASK_PANICS,
};

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alert {
    /// The name.
    pub name: &'static str,
    /// The condition, in which `METRIC` stands for the metric.
    condition: &'static str,
    metric: &'static str,
    /// How long the condition lasts before somebody is woken.
    pub lasts: &'static str,
    /// `critical` where records are late or lost, and else `warning`.
    pub severity: &'static str,
    /// The meaning, in one line.
    pub summary: &'static str,
    /// The section of docs/operations.md that says what to do.
    pub section: &'static str,
}

impl Alert {
    /// The condition in the language of Prometheus.
    pub fn expression(&self) -> String {
        self.condition.replace("METRIC", self.metric)
    }
}

/// Every rule, in the order of the document.
pub const ALERTS: &[Alert] = &[
    Alert {
        name: "KinesisRecordsOld",
        condition: "max by (job, worker) (METRIC) > 300",
        metric: FRESHNESS_SECONDS,
        lasts: "1m",
        severity: "critical",
        summary: "The oldest record that is not finished is older than five minutes.",
        section: "lag-grows",
    },
    Alert {
        name: "KinesisNoWorker",
        condition: "absent(METRIC) or (max by (job) (max_over_time(METRIC[1d])) unless max by (job) (METRIC))",
        metric: LEASES_HELD,
        lasts: "5m",
        severity: "critical",
        summary: "No worker{{ with $labels.job }} of {{ . }}{{ end }} is scraped, so nothing says how old the records are.",
        section: "the-worker-does-not-start-or-stops-by-itself",
    },
    Alert {
        name: "KinesisShardOfConcern",
        condition: "max by (job, worker, concern) (METRIC) > 0",
        metric: SHARDS_OF_CONCERN,
        lasts: "5m",
        severity: "warning",
        summary: "Something is wrong with a shard: {{ $labels.concern }}.",
        section: "a-shard-is-stuck",
    },
    Alert {
        name: "KinesisRecordsMissing",
        condition: "(increase(METRIC[1h]) > 0) or (METRIC > 0 unless METRIC offset 1h)",
        metric: GAPS,
        lasts: "0m",
        severity: "critical",
        summary: "Retention took the place at which a shard was to go on, and perhaps records.",
        section: "lag-grows",
    },
    Alert {
        name: "KinesisShardsGone",
        condition: "(increase(METRIC[1h]) > 0) or (METRIC > 0 unless METRIC offset 1h)",
        metric: SHARDS_GONE,
        lasts: "0m",
        severity: "critical",
        summary: "Retention took a shard before it was read to its end.",
        section: "lag-grows",
    },
    Alert {
        name: "KinesisRuntimeStandsStill",
        condition: "(increase(METRIC[5m]) > 0) or (METRIC > 0 unless METRIC offset 5m)",
        metric: STANDSTILLS,
        lasts: "0m",
        severity: "warning",
        summary: "Code blocks the threads of a runtime: {{ $labels.runtime }}.",
        section: "alarm",
    },
    Alert {
        name: "KinesisTaskPanicked",
        condition: "(increase(METRIC[5m]) > 0) or (METRIC > 0 unless METRIC offset 5m)",
        metric: TASK_PANICS,
        lasts: "0m",
        severity: "warning",
        summary: "A task of the worker panicked and was started again: {{ $labels.task }}.",
        section: "alarm",
    },
    Alert {
        name: "KinesisShardsWithoutWorker",
        condition: "max by (job, worker) (METRIC) > 0",
        metric: LEASES_UNPLACED,
        lasts: "10m",
        severity: "warning",
        summary: "Shards have no worker, and a limit keeps the leader from placing them.",
        section: "alarm",
    },
    Alert {
        name: "KinesisInvariantBroken",
        condition: "(increase(METRIC[1h]) > 0) or (METRIC > 0 unless METRIC offset 1h)",
        metric: INVARIANT_VIOLATIONS,
        lasts: "0m",
        severity: "critical",
        summary: "The worker saw an invariant broken, {{ $labels.invariant }}: a bug.",
        section: "alarm",
    },
];

/// The file with all rules.
pub(super) fn rules() -> String {
    let mut yaml = String::from(
        "# Made from the list of metrics by `cargo run -p kcl-tests --bin deploy-files`.\n\
         groups:\n\
         \x20 - name: kinesis-client\n\
         \x20   rules:\n",
    );
    for alert in ALERTS {
        let fields = [
            ("- alert", alert.name.to_owned()),
            ("  expr", quoted(&alert.expression())),
            ("  for", alert.lasts.to_owned()),
            ("  labels", String::new()),
            ("    severity", alert.severity.to_owned()),
            ("  annotations", String::new()),
            ("    summary", quoted(alert.summary)),
            (
                "    runbook",
                quoted(&format!("docs/operations.md#{}", alert.section)),
            ),
        ];
        for (name, value) in fields {
            let line = format!("      {name}: {value}");
            // Writing into a text does not fail.
            let _ = writeln!(yaml, "{}", line.trim_end());
        }
    }
    yaml
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
