//! Looking at an application that is there: by reads alone, in each layout, with errors that say what is wrong.

use kcl_core::lease_store::{LeaseStore as _, StoreError, StoreErrorKind};
use kcl_core::types::ApplicationName;
use kcl_lease_dynamo::{AttachedTable, TableLayout};
use serde_json::{Value, json};

use crate::server::{Answer, Server, error, ok};
use crate::tables::{described, described_beside, three_tables, usual};

fn app() -> ApplicationName {
    "app".parse().unwrap()
}

fn mark(application: &str) -> Answer {
    ok(json!({ "Item": {
        "leaseKey": { "S": "Migration3.0" },
        "cv": { "S": "CLIENT_VERSION_3X" },
        "rsApplication": { "S": application },
    }}))
}

fn is_mark(operation: &str, input: &Value, table: &str) -> bool {
    operation == "GetItem" && input["TableName"] == table && input["Key"].to_string().contains("Migration3.0")
}

/// The operations of a look, and how it ended.
async fn look(
    script: impl FnMut(&str, &Value) -> Answer,
) -> (Vec<String>, Result<AttachedTable, StoreError>) {
    let server = Server::start().await;
    let store = server.store();
    let attached = server.while_running(script, store.attach(&app())).await;
    (server.operations(), attached)
}

#[tokio::test]
async fn marked_table_is_found_with_two_reads() {
    let script = |operation: &str, input: &Value| match is_mark(operation, input, "leases") {
        true => mark("app"),
        false => usual(operation, input),
    };
    let (asked, attached) = look(script).await;
    let attached = attached.unwrap();
    assert_eq!(attached.layout, TableLayout::OneTable);
    assert_eq!(attached.application, Some(app()));
    assert_eq!(attached.client_version.as_deref(), Some("CLIENT_VERSION_3X"));
    assert_eq!(attached.has_owner_index, Some(true));
    assert_eq!(asked, ["DescribeTable", "GetItem"]);
}

#[tokio::test]
async fn looking_writes_nothing_in_any_layout() {
    let scripts: [fn(&str, &Value) -> Answer; 2] = [usual, three_tables];
    for (script, layout) in scripts
        .into_iter()
        .zip([TableLayout::OneTable, TableLayout::ThreeTables])
    {
        let (asked, attached) = look(script).await;
        assert_eq!(attached.unwrap().layout, layout);
        let reads = ["DescribeTable", "GetItem", "Scan"];
        assert!(
            asked.iter().all(|operation| reads.contains(&operation.as_str())),
            "{asked:?}"
        );
    }
}

#[tokio::test]
async fn three_tables_are_scanned_after_looking() {
    let server = Server::start().await;
    let store = server.store();
    let script = |operation: &str, input: &Value| match (operation, input["TableName"].as_str()) {
        ("Scan", Some("app-WorkerMetricStats")) => ok(json!({ "Items": [
            { "wid": { "S": "java-1" }, "lut": { "N": "1800000000" } },
        ], "Count": 1 })),
        _ => three_tables(operation, input),
    };
    let seen = async {
        store.attach(&app()).await.unwrap();
        store.scan().await.unwrap()
    };
    let seen = server.while_running(script, seen).await;
    assert_eq!(seen.workers[0].id.as_str(), "java-1");
    assert_eq!(seen.workers[0].incarnation, None);
}

#[tokio::test]
async fn missing_table_names_region_and_what_to_check() {
    let (_, attached) = look(|_, _| error(400, "ResourceNotFoundException")).await;
    let problem = attached.unwrap_err();
    assert_eq!(problem.kind(), StoreErrorKind::Missing);
    let text = problem.to_string();
    assert!(
        text.contains("eu-west-1") && text.contains("another region"),
        "{text}"
    );
}

#[tokio::test]
async fn table_of_others_is_refused_by_looking() {
    let script = |operation: &str, input: &Value| match is_mark(operation, input, "leases") {
        true => mark("other"),
        false => usual(operation, input),
    };
    let (_, attached) = look(script).await;
    let problem = attached.unwrap_err();
    assert_eq!(problem.kind(), StoreErrorKind::Foreign);
    assert!(problem.to_string().contains("\"other\""), "{problem}");

    let (_, attached) = look(|_, _| described_beside("id")).await;
    let problem = attached.unwrap_err();
    assert_eq!(problem.kind(), StoreErrorKind::Foreign);
    assert!(problem.to_string().contains("is not a lease table"), "{problem}");
}

#[tokio::test]
async fn missing_right_to_look_names_reads_alone() {
    let script = |operation: &str, _: &Value| match operation {
        "DescribeTable" => described("ACTIVE", None),
        _ => error(400, "AccessDeniedException"),
    };
    let (_, attached) = look(script).await;
    let problem = attached.unwrap_err();
    assert_eq!(problem.kind(), StoreErrorKind::Denied);
    let text = problem.to_string();
    assert!(
        text.contains("dynamodb:Scan") && !text.contains("PutItem"),
        "{text}"
    );
}

#[tokio::test]
async fn mark_is_read_without_knowing_the_application() {
    let server = Server::start().await;
    let store = server.store();
    let read = server
        .while_running(|_, _| mark("trucks"), store.marked_application())
        .await;
    assert_eq!(read.unwrap(), Some("trucks".parse().unwrap()));
    assert_eq!(server.operations(), ["GetItem"]);
}
