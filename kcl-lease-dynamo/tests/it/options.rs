//! The demands of options on a table that is made, and of one that is there.

use kcl_core::lease_store::{LeaseStore as _, StoreErrorKind};
use kcl_lease_dynamo::{Billing, TableOptions};
use serde_json::{Value, json};

use crate::log::Log;
use crate::server::{Answer, Server, error, ok};
use crate::tables::{ARN, backups, described, preparation, usual};

fn everything() -> TableOptions {
    TableOptions {
        billing: Billing::Provisioned {
            read_units: 10,
            write_units: 20,
        },
        point_in_time_recovery: true,
        deletion_protection: true,
        tags: [("team".to_owned(), "trucks".to_owned())].into(),
        ..TableOptions::default()
    }
}

fn recoverable() -> TableOptions {
    TableOptions {
        point_in_time_recovery: true,
        ..TableOptions::default()
    }
}

/// A table made as `everything` asks.
fn complete_table(status: &str) -> Answer {
    let (code, mut body) = described(status, Some(status));
    body["Table"]["BillingModeSummary"]["BillingMode"] = json!("PROVISIONED");
    body["Table"]["ProvisionedThroughput"] = json!({ "ReadCapacityUnits": 10, "WriteCapacityUnits": 20 });
    body["Table"]["DeletionProtectionEnabled"] = json!(true);
    (code, body)
}

#[tokio::test]
async fn new_table_follows_options_and_becomes_recoverable() {
    let log = Log::start();
    let server = Server::start().await;
    let (mut created, mut looks) = (false, 0);
    let script = |operation: &str, input: &Value| {
        created |= operation == "CreateTable";
        match operation {
            "DescribeTable" if !created => error(400, "ResourceNotFoundException"),
            "DescribeTable" => {
                looks += 1;
                complete_table(if looks < 3 { "CREATING" } else { "ACTIVE" })
            }
            "DescribeContinuousBackups" => backups("DISABLED"),
            "ListTagsOfResource" => ok(json!({ "Tags": [{ "Key": "team", "Value": "trucks" }] })),
            _ => usual(operation, input),
        }
    };
    let store = server.store().table_options(everything());
    server
        .while_running(script, store.prepare(&preparation()))
        .await
        .unwrap();
    let asked = server.asked();
    let operations = asked
        .iter()
        .map(|(operation, _)| operation.as_str())
        .collect::<Vec<_>>();
    let expected = [
        "DescribeTable",
        "DescribeTable",
        "CreateTable",
        "DescribeTable",
        "DescribeTable",
        "DescribeTable",
        "Scan",
        "GetItem",
        "PutItem",
        "UpdateItem",
        "DeleteItem",
        "PutItem",
        "DescribeContinuousBackups",
        "UpdateContinuousBackups",
        "Query",
        "ListTagsOfResource",
    ];
    assert_eq!(operations, expected);
    let units = json!({ "ReadCapacityUnits": 10, "WriteCapacityUnits": 20 });
    let create = json!({
        "TableName": "leases",
        "BillingMode": "PROVISIONED",
        "ProvisionedThroughput": units,
        "DeletionProtectionEnabled": true,
        "Tags": [{ "Key": "team", "Value": "trucks" }],
        "AttributeDefinitions": [
            { "AttributeName": "leaseKey", "AttributeType": "S" },
            { "AttributeName": "leaseOwner", "AttributeType": "S" },
        ],
        "KeySchema": [{ "AttributeName": "leaseKey", "KeyType": "HASH" }],
        "GlobalSecondaryIndexes": [{
            "IndexName": "LeaseOwnerToLeaseKeyIndex",
            "KeySchema": [
                { "AttributeName": "leaseOwner", "KeyType": "HASH" },
                { "AttributeName": "leaseKey", "KeyType": "RANGE" },
            ],
            "Projection": { "ProjectionType": "KEYS_ONLY" },
            "ProvisionedThroughput": units,
        }],
    });
    assert_eq!(asked[2].1, create);
    let recovery = json!({
        "TableName": "leases",
        "PointInTimeRecoverySpecification": { "PointInTimeRecoveryEnabled": true },
    });
    assert_eq!(asked[13].1, recovery);
    assert_eq!(log.warnings(), Vec::<String>::new());
}

#[tokio::test]
async fn recovery_already_on_is_not_asked_again() {
    let server = Server::start().await;
    let script = |operation: &str, input: &Value| match operation {
        "DescribeContinuousBackups" => backups("ENABLED"),
        _ => usual(operation, input),
    };
    let store = server.store().table_options(recoverable());
    server
        .while_running(script, store.prepare(&preparation()))
        .await
        .unwrap();
    let operations = server.operations();
    assert!(
        operations.contains(&"DescribeContinuousBackups".to_owned()),
        "{operations:?}"
    );
    assert!(
        !operations.contains(&"UpdateContinuousBackups".to_owned()),
        "{operations:?}"
    );
}

#[tokio::test]
async fn recovery_refused_by_young_table_is_asked_again() {
    let log = Log::start();
    let server = Server::start().await;
    let mut tries = 0;
    let script = |operation: &str, input: &Value| match operation {
        "DescribeContinuousBackups" => backups("DISABLED"),
        "UpdateContinuousBackups" => {
            tries += 1;
            match tries {
                1 => error(400, "ContinuousBackupsUnavailableException"),
                _ => ok(json!({})),
            }
        }
        _ => usual(operation, input),
    };
    let store = server.store().table_options(recoverable());
    server
        .while_running(script, store.prepare(&preparation()))
        .await
        .unwrap();
    assert_eq!(tries, 2);
    assert_eq!(log.warnings(), Vec::<String>::new());
}

#[tokio::test]
async fn recovery_is_not_asked_of_changing_table() {
    let log = Log::start();
    let server = Server::start().await;
    let script = |operation: &str, input: &Value| match operation {
        "DescribeTable" if input["TableName"] == "leases" => described("UPDATING", Some("CREATING")),
        "DescribeContinuousBackups" => backups("DISABLED"),
        _ => usual(operation, input),
    };
    let store = server.store().table_options(recoverable());
    server
        .while_running(script, store.prepare(&preparation()))
        .await
        .unwrap();
    assert!(
        !server
            .operations()
            .contains(&"UpdateContinuousBackups".to_owned())
    );
    let [warning] = log.warnings().try_into().unwrap();
    assert!(
        warning.contains("because the table is UPDATING; the next start tries again"),
        "{warning}"
    );
}

#[tokio::test]
async fn missing_index_is_added_with_capacity_of_table() {
    let on_demand = described("ACTIVE", None);
    let mut provisioned = complete_table("ACTIVE");
    provisioned.1["Table"]["GlobalSecondaryIndexes"] = json!([]);
    let units = json!({ "ReadCapacityUnits": 10, "WriteCapacityUnits": 20 });
    for (table, units) in [(on_demand, Value::Null), (provisioned, units)] {
        let server = Server::start().await;
        let script = |operation: &str, input: &Value| match operation {
            "DescribeTable" if input["TableName"] == "leases" => table.clone(),
            _ => usual(operation, input),
        };
        let store = server.store();
        server
            .while_running(script, store.prepare(&preparation()))
            .await
            .unwrap();
        let (operation, input) = server.asked().pop().unwrap();
        assert_eq!(operation, "UpdateTable");
        let mut create = json!({
            "IndexName": "LeaseOwnerToLeaseKeyIndex",
            "KeySchema": [
                { "AttributeName": "leaseOwner", "KeyType": "HASH" },
                { "AttributeName": "leaseKey", "KeyType": "RANGE" },
            ],
            "Projection": { "ProjectionType": "KEYS_ONLY" },
        });
        if !units.is_null() {
            create["ProvisionedThroughput"] = units;
        }
        let expected = json!({
            "TableName": "leases",
            "AttributeDefinitions": [
                { "AttributeName": "leaseKey", "AttributeType": "S" },
                { "AttributeName": "leaseOwner", "AttributeType": "S" },
            ],
            "GlobalSecondaryIndexUpdates": [{ "Create": create }],
        });
        assert_eq!(input, expected);
    }
}

#[tokio::test]
async fn index_added_by_another_worker_is_as_good() {
    let log = Log::start();
    let server = Server::start().await;
    let script = |operation: &str, input: &Value| match operation {
        "DescribeTable" if input["TableName"] == "leases" => described("ACTIVE", None),
        "UpdateTable" => error(400, "ResourceInUseException"),
        _ => usual(operation, input),
    };
    let store = server.store();
    server
        .while_running(script, store.prepare(&preparation()))
        .await
        .unwrap();
    assert_eq!(log.warnings(), Vec::<String>::new());
}

#[tokio::test]
async fn difference_from_options_is_one_warning_left_alone() {
    let log = Log::start();
    let server = Server::start().await;
    let script = |operation: &str, input: &Value| match operation {
        "DescribeContinuousBackups" => backups("ENABLED"),
        "ListTagsOfResource" if input["NextToken"].is_null() => {
            assert_eq!(input["ResourceArn"], ARN);
            ok(json!({ "Tags": [{ "Key": "team", "Value": "cars" }], "NextToken": "more" }))
        }
        "ListTagsOfResource" => ok(json!({ "Tags": [{ "Key": "cost", "Value": "low" }] })),
        _ => usual(operation, input),
    };
    let mut options = everything();
    options.tags.insert("cost".to_owned(), "low".to_owned());
    let store = server.store().table_options(options);
    server
        .while_running(script, store.prepare(&preparation()))
        .await
        .unwrap();
    let operations = server.operations();
    for change in [
        "CreateTable",
        "UpdateTable",
        "UpdateContinuousBackups",
        "TagResource",
    ] {
        assert!(!operations.contains(&change.to_owned()), "{operations:?}");
    }
    let [warning] = log.warnings().try_into().unwrap();
    let parts = [
        "it is billed on demand (PAY_PER_REQUEST), and the options say provisioned with 10 read and 20 write units",
        "it has no deletion protection, and the options ask for it",
        "it lacks the tags team=trucks",
    ];
    assert!(warning.contains(&parts.join("; ")), "{warning}");
}

#[tokio::test]
async fn table_that_has_more_brings_no_warning() {
    let log = Log::start();
    let server = Server::start().await;
    let script = |operation: &str, input: &Value| match operation {
        "DescribeTable" if input["TableName"] == "leases" => complete_table("ACTIVE"),
        _ => usual(operation, input),
    };
    let store = server.store();
    server
        .while_running(script, store.prepare(&preparation()))
        .await
        .unwrap();
    assert_eq!(log.warnings(), Vec::<String>::new());
    let operations = server.operations();
    assert!(!operations.contains(&"UpdateTable".to_owned()), "{operations:?}");
}

#[tokio::test]
async fn index_with_other_keys_is_named_not_asked() {
    let log = Log::start();
    let server = Server::start().await;
    let (code, mut body) = described("ACTIVE", Some("ACTIVE"));
    body["Table"]["GlobalSecondaryIndexes"][0]["KeySchema"][0]["AttributeName"] = json!("owner");
    let script = |operation: &str, input: &Value| match operation {
        "DescribeTable" if input["TableName"] == "leases" => (code, body.clone()),
        _ => usual(operation, input),
    };
    let store = server.store();
    server
        .while_running(script, store.prepare(&preparation()))
        .await
        .unwrap();
    let worker = "worker-1".parse().unwrap();
    assert_eq!(
        server
            .while_running(script, store.owned_by(&worker))
            .await
            .unwrap(),
        None
    );
    let operations = server.operations();
    assert!(!operations.contains(&"Query".to_owned()), "{operations:?}");
    let [warning] = log.warnings().try_into().unwrap();
    assert!(
        warning.contains("its index LeaseOwnerToLeaseKeyIndex has other keys than"),
        "{warning}"
    );
}

#[tokio::test]
async fn impossible_options_are_refused_before_anything_is_sent() {
    let server = Server::start().await;
    let store = server.store_of("no such name").table_options(TableOptions {
        billing: Billing::Provisioned {
            read_units: 0,
            write_units: 0,
        },
        ..TableOptions::default()
    });
    let refusal = server
        .while_running(usual, store.prepare(&preparation()))
        .await
        .unwrap_err();
    assert_eq!(refusal.kind(), StoreErrorKind::Invalid);
    for part in ["\"no such name\"", "read_units", "write_units"] {
        assert!(refusal.to_string().contains(part), "{refusal}");
    }
    assert_eq!(server.operations(), Vec::<String>::new());
}
