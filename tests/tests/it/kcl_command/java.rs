//! Tables that the Java KCL 3.1.3 left when two workers ran, and those that it keeps in one.

use std::path::Path;

use kcl_lease_dynamo::aws_sdk_dynamodb::types::AttributeValue;
use kcl_tests::testbed_or_skip;
use serde_json::Value;

use super::kcl;
use crate::lease_conformance::backend_specific::attribute;
use crate::lease_conformance::backends::Backend;

/// The rows of each table, by its name in the dump.
fn dumped() -> Value {
    let dump = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../kcl-lease-dynamo/tests/golden/java-kcl-3.1.3/2-two-workers.json");
    serde_json::from_slice(&std::fs::read(dump).unwrap()).unwrap()
}

fn rows(dump: &Value, table: &str) -> Vec<Vec<(String, AttributeValue)>> {
    let rows = dump["tables"][table]["items"].as_array().unwrap().iter();
    rows.map(|row| row.as_object().unwrap().iter().map(attribute).collect())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn java_tables_are_shown_as_far_as_known() {
    let testbed = testbed_or_skip!();
    let kcl = kcl(&testbed, "kcl-java");
    let backend = Backend::all(&testbed, "kcl-java-app").into_iter().next().unwrap();
    let dump = dumped();
    let app = backend.table.as_str();
    let tables = [
        ("app-jpoll3", app.to_owned(), "leaseKey"),
        (
            "app-jpoll3-CoordinatorState",
            format!("{app}-CoordinatorState"),
            "key",
        ),
        (
            "app-jpoll3-WorkerMetricStats",
            format!("{app}-WorkerMetricStats"),
            "wid",
        ),
    ];
    for (dumped, table, key) in tables {
        backend.create_table(&table, key).await;
        for row in rows(&dump, dumped) {
            backend.put_into(&table, row).await;
        }
    }
    let before = backend.keys(app, "leaseKey").await;

    let status = kcl.json(&["status", app], 0);
    assert_eq!(status["summary"]["java_workers"], 2, "{status:#}");
    let shards = status["shards"].as_array().unwrap();
    assert_eq!(shards.len(), before.len());
    assert!(
        shards.iter().all(|shard| shard["owner"].is_string()),
        "{status:#}"
    );
    let workers = kcl.json(&["workers", app], 0);
    assert!(
        workers["workers"]
            .as_array()
            .unwrap()
            .iter()
            .all(|worker| worker["is_java"] == true),
        "{workers:#}"
    );
    let listed = kcl.json(&["list", &format!("^{app}")], 0);
    assert_eq!(
        listed.as_array().unwrap().len(),
        1,
        "the tables beside are none: {listed:#}"
    );
    assert_eq!(listed[0]["layout"], "three tables");
    let shard = shards[0]["shard"].as_str().unwrap();
    let why = kcl.run(&["why", app, shard]);
    assert!(why.output.contains("A Java worker wrote the row last"), "{why:?}");
    let doctor = kcl.json(&["doctor", app], 1);
    let findings = doctor["findings"].as_array().unwrap();
    assert!(
        findings.iter().any(|finding| finding["code"] == "java-workers"),
        "{doctor:#}"
    );
    let export = kcl.json(&["export", app], 0);
    assert_eq!(export["checkpoints"].as_array().unwrap().len(), before.len());

    assert_eq!(backend.keys(app, "leaseKey").await, before, "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn java_workers_without_rows_are_counted() {
    let testbed = testbed_or_skip!();
    let kcl = kcl(&testbed, "kcl-java-2");
    let backend = Backend::all(&testbed, "kcl-java-2-app")
        .into_iter()
        .next()
        .unwrap();
    // The Java KCL 2.x has this table alone.
    let app = backend.table.as_str();
    backend.create_table(app, "leaseKey").await;
    for row in rows(&dumped(), "app-jpoll3") {
        backend.put(row).await;
    }
    let status = kcl.json(&["status", app], 0);
    let owners: std::collections::BTreeSet<&str> = status["shards"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|shard| shard["state"] != "ENDED")
        .filter_map(|shard| shard["owner"].as_str())
        .collect();
    assert!(!owners.is_empty(), "{status:#}");
    assert_eq!(status["summary"]["unknown_workers"], owners.len(), "{status:#}");
    for worker in kcl.json(&["workers", app], 0)["workers"].as_array().unwrap() {
        assert_eq!(
            (&worker["is_live"], &worker["is_java"]),
            (&Value::Null, &true.into()),
            "{worker:#}"
        );
        assert!(worker["leases"].as_u64().unwrap() > 0, "{worker:#}");
    }
    let lag = kcl.json(&["lag", app], 0);
    assert_eq!(
        lag["workers_wanted"],
        owners.len().min(status["shards"].as_array().unwrap().len()),
        "{lag:#}"
    );
    let doctor = kcl.json(&["doctor", app], 1);
    let codes: Vec<&str> = doctor["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|finding| finding["code"].as_str())
        .collect();
    assert!(
        codes.contains(&"java-workers") && !codes.contains(&"no-workers"),
        "{codes:?}"
    );
}
