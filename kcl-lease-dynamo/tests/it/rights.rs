//! Missing rights: no error while the table can be worked with, and one error with everything in it while it cannot.

use kcl_core::lease_store::{LeaseStore as _, StoreErrorKind};
use kcl_lease_dynamo::{Billing, TableOptions};
use serde_json::{Value, json};

use crate::log::Log;
use crate::server::{Answer, Server, error, ok};
use crate::tables::{NEVER, described, preparation, usual};

/// The operations that change rows.
const WRITES: [&str; 3] = ["PutItem", "UpdateItem", "DeleteItem"];

const TABLE: &str = "arn:aws:dynamodb:eu-west-1:*:table/leases";

fn denied() -> Answer {
    error(400, "AccessDeniedException")
}

fn everything() -> TableOptions {
    TableOptions {
        billing: Billing::OnDemand,
        point_in_time_recovery: true,
        deletion_protection: true,
        tags: [("team".to_owned(), "trucks".to_owned())].into(),
        ..TableOptions::default()
    }
}

#[tokio::test]
async fn rights_to_rows_suffice_for_existing_table() {
    let server = Server::start().await;
    let script = |operation: &str, input: &Value| match operation {
        "GetItem" | "PutItem" | "UpdateItem" | "DeleteItem" | "Scan" => usual(operation, input),
        _ => denied(),
    };
    let log = Log::start();
    let store = server.store().table_options(everything());
    server
        .while_running(script, store.prepare(&preparation()))
        .await
        .unwrap();
    let operations = server.operations();
    assert!(!operations.contains(&"CreateTable".to_owned()), "{operations:?}");
    let warnings = log.warnings().join("\n");
    let advice = format!("grant dynamodb:Query on {TABLE}/index/LeaseOwnerToLeaseKeyIndex");
    assert!(warnings.contains(&advice), "{warnings}");
    let worker = "worker-1".parse().unwrap();
    let owned = store.owned_by(&worker);
    assert_eq!(server.while_running(script, owned).await.unwrap(), None);
}

#[tokio::test]
async fn worker_without_describe_right_asks_index_anyway() {
    let server = Server::start().await;
    let script = |operation: &str, input: &Value| match operation {
        "DescribeTable" => denied(),
        "Query" => ok(json!({ "Items": [
            { "leaseOwner": { "S": "worker-1" }, "leaseKey": { "S": "shardId-1" } },
        ]})),
        _ => usual(operation, input),
    };
    let store = server.store();
    server
        .while_running(script, store.prepare(&preparation()))
        .await
        .unwrap();
    server.asked();
    let worker = "worker-1".parse().unwrap();
    let owned = server
        .while_running(script, store.owned_by(&worker))
        .await
        .unwrap();
    assert_eq!(owned, Some(vec!["shardId-1".parse().unwrap()]));
    assert_eq!(server.operations(), ["Query"]);
}

#[tokio::test]
async fn ungranted_extras_of_existing_table_are_one_warning() {
    let log = Log::start();
    let server = Server::start().await;
    let script = |operation: &str, input: &Value| match operation {
        "DescribeTable" if input["TableName"] == "leases" => described("ACTIVE", None),
        "DescribeTable" | "UpdateTable" | "DescribeContinuousBackups" | "UpdateContinuousBackups" => denied(),
        "ListTagsOfResource" => denied(),
        _ => usual(operation, input),
    };
    let store = server.store().table_options(everything());
    server
        .while_running(script, store.prepare(&preparation()))
        .await
        .unwrap();
    let warnings = log.warnings();
    let of_table = warnings
        .iter()
        .filter(|line| line.contains("used as it is"))
        .collect::<Vec<_>>();
    let [warning] = of_table[..] else {
        panic!("{warnings:?}");
    };
    let parts = [
        format!(
            "grant dynamodb:UpdateTable on {TABLE}, or add the global secondary index LeaseOwnerToLeaseKeyIndex"
        ),
        format!("grant dynamodb:UpdateContinuousBackups on {TABLE}, or switch it on by hand"),
        "it has no deletion protection".to_owned(),
    ];
    for part in parts {
        assert!(warning.contains(&part), "{part} is not in {warning}");
    }
}

#[tokio::test]
async fn everything_missing_table_needs_is_one_error() {
    let server = Server::start().await;
    let script = |operation: &str, _: &Value| match operation {
        "DescribeTable" => error(400, "ResourceNotFoundException"),
        _ => denied(),
    };
    let refusal = async |options: TableOptions| {
        let store = server.store().table_options(options);
        let refusal = server
            .while_running(script, store.prepare(&preparation()))
            .await
            .unwrap_err();
        assert_eq!(refusal.kind(), StoreErrorKind::Denied);
        refusal.to_string()
    };
    let text = refusal(everything()).await;
    let parts = [
        format!(
            "grant dynamodb:CreateTable, dynamodb:TagResource, dynamodb:DescribeContinuousBackups, \
             dynamodb:UpdateContinuousBackups on {TABLE}, or create it by hand with the partition key leaseKey of type S and no sort key"
        ),
        "the global secondary index LeaseOwnerToLeaseKeyIndex with the partition key leaseOwner of type S, the sort key leaseKey"
            .to_owned(),
        "billed on demand (PAY_PER_REQUEST); with point-in-time recovery; with deletion protection; with the tags team=trucks"
            .to_owned(),
        format!(
            "a worker needs dynamodb:GetItem, dynamodb:PutItem, dynamodb:UpdateItem, dynamodb:DeleteItem, dynamodb:Scan on {TABLE}, \
             and dynamodb:Query on {TABLE}/index/LeaseOwnerToLeaseKeyIndex"
        ),
    ];
    for part in parts {
        assert!(text.contains(&part), "{part} is not in {text}");
    }
    let plain = refusal(TableOptions::default()).await;
    assert!(
        plain.contains(&format!(
            "grant dynamodb:CreateTable on {TABLE}, or create it by hand"
        )),
        "{plain}"
    );
    assert!(!plain.contains("recovery") && !plain.contains("tags"), "{plain}");
}

#[tokio::test]
async fn worker_without_rights_is_told_all_it_needs() {
    let server = Server::start().await;
    let script = |_: &str, _: &Value| denied();
    let refusal = server
        .while_running(script, server.store().prepare(&preparation()))
        .await
        .unwrap_err();
    assert_eq!(refusal.kind(), StoreErrorKind::Denied);
    let text = refusal.to_string();
    for part in [
        "grant dynamodb:DescribeTable on it",
        "grant dynamodb:GetItem on it",
        "in all, a worker needs dynamodb:GetItem, dynamodb:PutItem, dynamodb:UpdateItem, dynamodb:DeleteItem, dynamodb:Scan on",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(server.operations(), ["DescribeTable", "GetItem"]);
}

#[tokio::test]
async fn every_missing_read_right_is_named_at_once() {
    let server = Server::start().await;
    let script = |operation: &str, input: &Value| match operation {
        "Scan" | "GetItem" => denied(),
        _ => usual(operation, input),
    };
    let refusal = server
        .while_running(script, server.store().prepare(&preparation()))
        .await
        .unwrap_err();
    assert_eq!(refusal.kind(), StoreErrorKind::Denied);
    let text = refusal.to_string();
    for part in [
        "grant dynamodb:Scan on it",
        "grant dynamodb:GetItem on it",
        "dynamodb:DeleteItem, dynamodb:Scan on arn:aws:dynamodb:eu-west-1:*:table/leases",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[tokio::test]
async fn missing_write_rights_are_named_before_any_write() {
    let server = Server::start().await;
    let script = |operation: &str, input: &Value| match operation {
        "UpdateItem" | "DeleteItem" => denied(),
        _ => usual(operation, input),
    };
    let refusal = server
        .while_running(script, server.store().prepare(&preparation()))
        .await
        .unwrap_err();
    assert_eq!(refusal.kind(), StoreErrorKind::Denied);
    let text = refusal.to_string();
    for part in [
        "grant dynamodb:UpdateItem on it",
        "grant dynamodb:DeleteItem on it",
        "in all, a worker needs dynamodb:GetItem, dynamodb:PutItem,",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains("grant dynamodb:PutItem"), "{text}");
    let asked = server.asked();
    let writes = asked
        .iter()
        .filter(|(operation, _)| WRITES.contains(&operation.as_str()))
        .collect::<Vec<_>>();
    assert_eq!(writes.len(), 3);
    for (operation, input) in writes {
        assert_eq!(input["ConditionExpression"], NEVER, "{operation}");
    }
}

#[tokio::test]
async fn bad_credentials_are_no_missing_right() {
    let cases = [
        (
            "UnrecognizedClientException",
            StoreErrorKind::Denied,
            "check the access key",
        ),
        // They heal where their source renews them, so that a start tries on.
        (
            "ExpiredTokenException",
            StoreErrorKind::Unavailable,
            "renew the credentials",
        ),
    ];
    for (code, kind, advice) in cases {
        let server = Server::start().await;
        let script = |_: &str, _: &Value| error(400, code);
        let refusal = server
            .while_running(script, server.store().prepare(&preparation()))
            .await
            .unwrap_err();
        assert_eq!(refusal.kind(), kind);
        let text = refusal.to_string();
        assert!(text.contains(advice) && !text.contains("grant"), "{text}");
        assert_eq!(server.operations(), ["DescribeTable"]);
    }
}
