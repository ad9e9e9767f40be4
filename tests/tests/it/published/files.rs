//! The files in `deploy/`: made from the list of metrics, and in line with the code.

use std::collections::BTreeSet;
use std::path::Path;

use kcl_core::metrics::ALL;
use kcl_core::settings::Settings;
use kcl_http::{DEFAULT_PORT, LIVENESS_PATH, METRICS_PATH, READINESS_PATH};
use kcl_tests::deploy::promql::check;
use kcl_tests::deploy::{ALERTS, files, queries};
use saphyr::{LoadableYamlNode as _, YamlOwned};

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn files_are_those_that_are_made() {
    for file in files() {
        let committed = read(file.path);
        let is_same = match file.path.ends_with(".json") {
            // The order of fields depends on how serde_json is built.
            true => {
                let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
                parsed(&committed) == parsed(&file.content)
            }
            false => committed == file.content,
        };
        assert!(
            is_same,
            "{} is old: cargo run -p kcl-tests --bin deploy-files",
            file.path
        );
    }
}

#[test]
fn dashboard_shows_every_metric_and_no_other() {
    let mut shown = BTreeSet::new();
    for query in queries() {
        let names = check(&query).unwrap_or_else(|error| panic!("{error}: {query}"));
        shown.extend(names);
    }
    let expected: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
    assert_eq!(shown, expected);
    // The queries of the file are these, and each panel has its place.
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("deploy/grafana/kinesis-client.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    let written: Vec<_> = targets
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(written, queries());
    let mut places = BTreeSet::new();
    for panel in panels {
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for column in place("x")..place("x") + place("w") {
            assert!(column < 24);
            for line in place("y")..place("y") + place("h") {
                assert!(
                    places.insert((column, line)),
                    "{} stands on another",
                    panel["title"]
                );
            }
        }
    }
}

#[test]
fn alarm_on_a_counter_sees_its_first_count() {
    let counters = ALERTS
        .iter()
        .map(kcl_tests::deploy::Alert::expression)
        .filter(|expression| expression.contains("increase("));
    let mut seen = 0;
    for expression in counters {
        // The counter appears with 1, so that nothing increases.
        assert!(
            expression.contains("> 0 unless ") && expression.contains(" offset "),
            "{expression}"
        );
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn silent_application_is_seen_beside_others() {
    let alert = ALERTS
        .iter()
        .find(|alert| alert.name == "KinesisNoWorker")
        .unwrap();
    let expression = alert.expression();
    assert!(
        expression.contains("unless max by (job)"),
        "`absent` sees nothing while any worker is scraped: {expression}"
    );
    for alert in ALERTS
        .iter()
        .filter(|alert| alert.expression().contains("max by"))
    {
        assert!(
            alert.expression().contains("by (job"),
            "{} mixes applications",
            alert.name
        );
    }
}

#[test]
fn alarms_are_those_of_the_document() {
    let document = read("docs/operations.md");
    let headings: BTreeSet<String> = document
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|heading| heading.to_lowercase().replace(',', "").replace(' ', "-"))
        .collect();
    let section = document.split("\n## Alarm\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows: Vec<_> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let expressions: Vec<_> = ALERTS.iter().map(kcl_tests::deploy::Alert::expression).collect();
    assert_eq!(rows, expressions);
    for alert in ALERTS {
        let names = check(&alert.expression()).unwrap_or_else(|error| panic!("{}: {error}", alert.name));
        assert_eq!(names.len(), 1, "{}", alert.name);
        assert!(
            headings.contains(alert.section),
            "{} names no section: {headings:#?}",
            alert.name
        );
        // What a summary shows is a label that the expression leaves.
        let metric = ALL.iter().find(|metric| names.contains(metric.name)).unwrap();
        for part in alert.summary.split("$labels.").skip(1) {
            let label = part
                .split(|letter: char| !letter.is_alphanumeric())
                .next()
                .unwrap();
            let is_kept =
                metric.labels.contains(&label) || alert.expression().contains(&format!("by ({label})"));
            assert!(is_kept, "{} shows {label}", alert.name);
        }
    }
    let rules = yaml("deploy/prometheus/alerts.yaml");
    let rules = at(&rules[0], &["groups", "0", "rules"]);
    assert_eq!(rules.as_sequence().unwrap().len(), ALERTS.len());
    for (index, alert) in ALERTS.iter().enumerate() {
        let rule = at(rules, &[&index.to_string()]);
        assert_eq!(text(rule, &["alert"]), alert.name);
        assert_eq!(text(rule, &["expr"]), alert.expression());
        assert_eq!(text(rule, &["annotations", "summary"]), alert.summary);
    }
}

fn yaml(path: &str) -> Vec<YamlOwned> {
    YamlOwned::load_from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn at<'a>(mut yaml: &'a YamlOwned, path: &[&str]) -> &'a YamlOwned {
    for name in path {
        let next = match name.parse::<usize>() {
            Ok(index) => yaml.as_sequence().and_then(|list| list.get(index)),
            Err(_) => yaml.as_mapping_get(name),
        };
        yaml = next.unwrap_or_else(|| panic!("there is no {name} of {path:?}"));
    }
    yaml
}

fn text<'a>(yaml: &'a YamlOwned, path: &[&str]) -> &'a str {
    let found = at(yaml, path);
    found.as_str().unwrap_or_else(|| panic!("{path:?} is no text"))
}

fn number(yaml: &YamlOwned, path: &[&str]) -> u64 {
    let found = at(yaml, path).as_integer();
    found
        .and_then(|number| number.try_into().ok())
        .unwrap_or_else(|| panic!("{path:?} is no number"))
}

#[test]
fn manifests_agree_with_the_code() {
    const NAME: &str = "truck-tracker";
    const SCALER: &str = "truck-tracker-scaler";
    let list = yaml("deploy/kubernetes/kustomization.yaml");
    let listed: BTreeSet<_> = at(&list[0], &["resources"])
        .as_sequence()
        .unwrap()
        .iter()
        .filter_map(YamlOwned::as_str)
        .collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes");
    let mut there: BTreeSet<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(there.remove("kustomization.yaml"));
    assert_eq!(there.iter().map(String::as_str).collect::<BTreeSet<_>>(), listed);
    for file in &listed {
        let name = match *file {
            "scaler.yaml" => SCALER,
            _ => NAME,
        };
        for manifest in yaml(&format!("deploy/kubernetes/{file}")) {
            assert_eq!(text(&manifest, &["metadata", "name"]), name, "{file}");
            let label = text(&manifest, &["metadata", "labels", "app.kubernetes.io/name"]);
            assert_eq!(label, name, "{file}");
            for selector in ["selector", "podSelector"] {
                let spec = manifest.as_mapping_get("spec");
                let Some(selector) = spec.and_then(|spec| spec.as_mapping_get(selector)) else {
                    continue;
                };
                // A Service names the labels alone.
                let labels = selector.as_mapping_get("matchLabels").unwrap_or(selector);
                assert_eq!(text(labels, &["app.kubernetes.io/name"]), name, "{file}");
            }
        }
    }

    let port = u64::from(DEFAULT_PORT);
    let deployment = &yaml("deploy/kubernetes/deployment.yaml")[0];
    let pod = at(deployment, &["spec", "template"]);
    let annotation = |name: &str| text(pod, &["metadata", "annotations", name]);
    assert_eq!(annotation("prometheus.io/port"), port.to_string());
    assert_eq!(annotation("prometheus.io/path"), METRICS_PATH);
    let grace = number(pod, &["spec", "terminationGracePeriodSeconds"]);
    let drain = Settings::default().shutdown.drain_timeout.as_secs();
    assert!(
        grace >= drain + 10,
        "{grace} s leave no time after a drain of {drain} s"
    );
    assert_eq!(text(pod, &["spec", "serviceAccountName"]), NAME);
    let worker = at(pod, &["spec", "containers", "0"]);
    assert_eq!(number(worker, &["ports", "0", "containerPort"]), port);
    let named = text(worker, &["ports", "0", "name"]);
    for (probe, path) in [
        ("startupProbe", LIVENESS_PATH),
        ("livenessProbe", LIVENESS_PATH),
        ("readinessProbe", READINESS_PATH),
    ] {
        assert_eq!(text(worker, &[probe, "httpGet", "path"]), path, "{probe}");
        assert_eq!(text(worker, &[probe, "httpGet", "port"]), named, "{probe}");
    }
    let monitor = &yaml("deploy/kubernetes/podmonitor.yaml")[0];
    let endpoint = at(monitor, &["spec", "podMetricsEndpoints", "0"]);
    assert_eq!(
        (text(endpoint, &["port"]), text(endpoint, &["path"])),
        (named, METRICS_PATH)
    );
    let policy = &yaml("deploy/kubernetes/networkpolicy.yaml")[0];
    assert_eq!(
        number(policy, &["spec", "ingress", "0", "ports", "0", "port"]),
        port
    );
    let scaled = &yaml("deploy/kubernetes/scaledobject.yaml")[0];
    assert_eq!(text(scaled, &["spec", "scaleTargetRef", "name"]), NAME);
    let fallback = text(scaled, &["spec", "fallback", "behavior"]);
    assert_eq!(
        fallback, "currentReplicasIfHigher",
        "a scaler that does not answer takes no worker away"
    );
    let scaler = yaml("deploy/kubernetes/scaler.yaml");
    let asked = at(scaled, &["spec", "triggers", "0", "metadata"]);
    assert_eq!(text(asked, &["application"]), NAME);
    let port = number(&scaler[1], &["spec", "ports", "0", "port"]);
    let address = format!("{SCALER}.default.svc.cluster.local:{port}");
    assert_eq!(text(asked, &["scalerAddress"]), address);
    let container = at(&scaler[0], &["spec", "template", "spec", "containers", "0"]);
    assert_eq!(number(container, &["ports", "0", "containerPort"]), port);
    assert_eq!(text(container, &["args", "3"]), format!("0.0.0.0:{port}"));
}
