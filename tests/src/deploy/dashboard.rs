//! The dashboard for Grafana: every metric is on it.

use kcl_core::metrics::*;
use serde_json::{Value, json};

/// The columns of Grafana's grid.
const WIDTH: u64 = 24;
/// The workers that the viewer chose.
const CHOSEN: &str = "{worker=~\"$worker\"}";

/// One panel: its title, its unit, and its queries with their legends.
struct Panel {
    title: &'static str,
    unit: &'static str,
    is_number: bool,
    queries: Vec<(String, &'static str)>,
}

/// A row of the dashboard.
struct PanelRow {
    title: &'static str,
    panels: Vec<Panel>,
}

fn number(title: &'static str, unit: &'static str, query: String) -> Panel {
    Panel {
        title,
        unit,
        is_number: true,
        queries: vec![(query, "")],
    }
}

fn graph(
    title: &'static str,
    unit: &'static str,
    queries: impl IntoIterator<Item = (String, &'static str)>,
) -> Panel {
    Panel {
        title,
        unit,
        is_number: false,
        queries: queries.into_iter().collect(),
    }
}

fn all(function: &str, metric: &str) -> String {
    format!("{function}({metric}{CHOSEN})")
}

fn by(function: &str, labels: &str, metric: &str) -> String {
    format!("{function} by ({labels}) ({metric}{CHOSEN})")
}

/// The rate of a counter.
fn rate(metric: &str) -> String {
    format!("sum(rate({metric}{CHOSEN}[$__rate_interval]))")
}

fn rate_by(labels: &str, metric: &str) -> String {
    format!("sum by ({labels}) (rate({metric}{CHOSEN}[$__rate_interval]))")
}

/// The events of a counter in the interval of a point.
fn events(metric: &str) -> String {
    format!("sum(increase({metric}{CHOSEN}[$__rate_interval]))")
}

fn events_by(labels: &str, metric: &str) -> String {
    format!("sum by ({labels}) (increase({metric}{CHOSEN}[$__rate_interval]))")
}

/// A quantile of a histogram, over all workers.
fn quantile(quantile: &str, labels: &str, metric: &str) -> String {
    format!(
        "histogram_quantile({quantile}, sum by ({labels}) (rate({metric}_bucket{CHOSEN}[$__rate_interval])))"
    )
}

fn rows() -> Vec<PanelRow> {
    vec![
        PanelRow {
            title: "Now",
            panels: vec![
                number("Oldest unfinished record", "s", all("max", FRESHNESS_SECONDS)),
                number("Reading behind", "s", all("max", BEHIND_SECONDS)),
                number("Shards held by a worker", "short", all("sum", LEASES_HELD)),
                number("Shards without a worker", "short", all("max", LEASES_UNPLACED)),
                number("Shards of concern", "short", all("sum", SHARDS_OF_CONCERN)),
                number("Shards on hold", "short", all("sum", SHARDS_ON_HOLD)),
            ],
        },
        PanelRow {
            title: "Lag",
            panels: vec![
                graph(
                    "Processing and reading",
                    "s",
                    [
                        (
                            by("max", "worker", FRESHNESS_SECONDS),
                            "{{worker}} oldest unfinished",
                        ),
                        (by("max", "worker", BEHIND_SECONDS), "{{worker}} reading behind"),
                    ],
                ),
                graph(
                    "Shards that are furthest behind",
                    "s",
                    [(
                        format!("topk(10, {})", by("max", "lease", SHARD_FRESHNESS_SECONDS)),
                        "{{lease}}",
                    )],
                ),
                graph(
                    "Longest wait",
                    "s",
                    [(by("max", "reason", WAIT_SECONDS), "{{reason}}")],
                ),
            ],
        },
        PanelRow {
            title: "Work",
            panels: vec![
                graph(
                    "Records",
                    "cps",
                    [(rate_by("worker", RECORDS_PROCESSED), "{{worker}}")],
                ),
                graph(
                    "Bytes",
                    "Bps",
                    [(rate_by("worker", BYTES_PROCESSED), "{{worker}}")],
                ),
                graph(
                    "Time of a call",
                    "s",
                    [
                        (quantile("0.5", "le", PROCESS_SECONDS), "half of the calls"),
                        (quantile("0.99", "le", PROCESS_SECONDS), "99 of 100 calls"),
                    ],
                ),
                graph("Fetches", "cps", [(rate_by("outcome", FETCHES), "{{outcome}}")]),
                graph(
                    "Unfinished records",
                    "short",
                    [(by("sum", "instance", RECORDS_UNFINISHED), "{{instance}}")],
                ),
                graph(
                    "Fetched bytes",
                    "bytes",
                    [(by("sum", "instance", BYTES_HELD), "{{instance}}")],
                ),
            ],
        },
        PanelRow {
            title: "Trouble",
            panels: vec![
                graph(
                    "Shards of concern",
                    "short",
                    [(by("sum", "concern", SHARDS_OF_CONCERN), "{{concern}}")],
                ),
                graph(
                    "Waiting shards",
                    "short",
                    [(by("sum", "reason", SHARDS_WAITING), "{{reason}}")],
                ),
                graph(
                    "Failed batches",
                    "short",
                    [(events_by("kind", BATCH_FAILURES), "{{kind}}")],
                ),
                graph(
                    "Records set aside",
                    "short",
                    [
                        (events_by("outcome", RECORDS_SET_ASIDE), "{{outcome}}"),
                        (events(DEAD_LETTER_FAILURES), "not acknowledged"),
                    ],
                ),
                graph(
                    "Taken by retention",
                    "short",
                    [(events(GAPS), "gaps"), (events(SHARDS_GONE), "shards")],
                ),
                graph(
                    "Consumers",
                    "short",
                    [
                        (events(STALLS), "stalled"),
                        (events(STARVED), "starved"),
                        (
                            events_by("runtime", STANDSTILLS),
                            "runtime of {{runtime}} stood still",
                        ),
                        (events_by("task", TASK_PANICS), "{{task}} panicked"),
                    ],
                ),
                graph(
                    "Aggregates and ends",
                    "short",
                    [
                        (
                            events_by("outcome", OUTSIDE_SHARD),
                            "outside the shard, {{outcome}}",
                        ),
                        (events(INVALID_HASH_KEYS), "invalid hash keys"),
                        (events(END_CLAIMS), "ends that were checked"),
                        (events(RECORDS_LEFT_OUT), "finished before"),
                    ],
                ),
                graph(
                    "Broken invariants",
                    "short",
                    [(events_by("invariant", INVARIANT_VIOLATIONS), "{{invariant}}")],
                ),
            ],
        },
        PanelRow {
            title: "Coordination",
            panels: vec![
                graph(
                    "Leases",
                    "short",
                    [(by("sum", "instance", LEASES_HELD), "{{instance}}")],
                ),
                graph(
                    "Leader",
                    "short",
                    [
                        (by("sum", "instance", LEADER), "{{instance}} leads"),
                        (all("max", HASH_KEY_HOLES), "ranges without a lease"),
                    ],
                ),
                graph(
                    "Leases in motion",
                    "short",
                    [
                        (events(ASSIGNMENTS), "assigned"),
                        (events(LEASES_LOST), "lost"),
                        (events(LEASES_SUSPENDED), "suspended"),
                        (events(LEASES_DELETED), "deleted"),
                    ],
                ),
                graph(
                    "Calls of the lease store",
                    "cps",
                    [(rate_by("outcome", STORE_CALLS), "{{outcome}}")],
                ),
            ],
        },
        PanelRow {
            title: "Lease store in detail, from workers whose metrics have the level detailed",
            panels: vec![
                graph(
                    "Changes of leases",
                    "cps",
                    [(rate_by("verb, outcome", LEASE_CHANGES), "{{verb}} {{outcome}}")],
                ),
                graph("Pages of scans", "cps", [(rate(STORE_PAGES), "pages")]),
                graph(
                    "Time of 99 of 100 store calls",
                    "s",
                    [(quantile("0.99", "le, operation", STORE_SECONDS), "{{operation}}")],
                ),
            ],
        },
    ]
}

/// Every query of the dashboard.
pub fn queries() -> Vec<String> {
    let panels = rows().into_iter().flat_map(|row| row.panels);
    panels
        .flat_map(|panel| panel.queries)
        .map(|(query, _)| query)
        .collect()
}

/// The file with the dashboard.
pub(super) fn dashboard() -> String {
    let mut panels = Vec::new();
    let (mut top, mut id) = (0, 0);
    for row in rows() {
        id += 1;
        panels.push(json!({
            "id": id, "type": "row", "title": row.title, "collapsed": false, "panels": [],
            "gridPos": { "x": 0, "y": top, "w": WIDTH, "h": 1 },
        }));
        top += 1;
        let is_numbers = row.panels.iter().all(|panel| panel.is_number);
        let (width, height) = if is_numbers { (4, 4) } else { (8, 8) };
        let mut left = 0;
        for panel in row.panels {
            if left + width > WIDTH {
                (left, top) = (0, top + height);
            }
            id += 1;
            panels.push(shown(
                &panel,
                id,
                json!({ "x": left, "y": top, "w": width, "h": height }),
            ));
            left += width;
        }
        top += height;
    }
    let dashboard = json!({
        "title": "Kinesis consumers",
        "uid": "kinesis-client",
        "description": "Made from the list of metrics by `cargo run -p kcl-tests --bin deploy-files`.",
        "tags": ["kinesis"],
        "schemaVersion": 39,
        "editable": true,
        "refresh": "30s",
        "time": { "from": "now-3h", "to": "now" },
        "templating": { "list": [
            { "name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source" },
            {
                "name": "worker", "type": "query", "label": "Worker", "multi": true, "includeAll": true, "allValue": ".*",
                "refresh": 2, "datasource": source(), "current": { "text": "All", "value": "$__all" },
                "query": { "query": format!("label_values({LEASES_HELD}, worker)"), "refId": "worker" },
            },
        ] },
        "panels": panels,
    });
    let mut text = serde_json::to_string_pretty(&dashboard).unwrap_or_default();
    text.push('\n');
    text
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn shown(panel: &Panel, id: u64, place: Value) -> Value {
    let letters = 'A'..='Z';
    let targets = letters.zip(&panel.queries).map(|(letter, (query, legend))| {
        json!({
            "refId": letter.to_string(), "datasource": source(), "expr": query, "legendFormat": legend,
            "instant": panel.is_number, "range": !panel.is_number,
        })
    });
    json!({
        "id": id,
        "type": if panel.is_number { "stat" } else { "timeseries" },
        "title": panel.title,
        "datasource": source(),
        "gridPos": place,
        "fieldConfig": { "defaults": { "unit": panel.unit, "min": 0 }, "overrides": [] },
        "targets": targets.collect::<Vec<_>>(),
    })
}
