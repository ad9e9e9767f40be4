//! Tables as the scripted server describes them, and what a worker asks of one.

use std::pin::Pin;
use std::time::Duration;

use kcl_core::lease_store::{
    Expect, LeaderLock, Lease, LeaseChange, LeaseStore as _, LockChange, LockExpect, Preparation, StoreError,
    WorkerChange,
};
use kcl_core::types::{Incarnation, LeaseKey, Position};
use kcl_lease_dynamo::DynamoLeaseStore;
use serde_json::{Value, json};

use crate::server::{Answer, error, ok};

pub(crate) fn preparation() -> Preparation {
    Preparation {
        application: "app".parse().unwrap(),
        worker: "worker-1".parse().unwrap(),
        within: Duration::from_secs(60),
        take_over_java: false,
    }
}

/// The lease table on demand, in this status, with its index in that one.
pub(crate) fn described(status: &str, index: Option<&str>) -> Answer {
    let index = index.map(|status| {
        json!({
            "IndexName": "LeaseOwnerToLeaseKeyIndex",
            "IndexStatus": status,
            "KeySchema": [
                { "AttributeName": "leaseOwner", "KeyType": "HASH" },
                { "AttributeName": "leaseKey", "KeyType": "RANGE" },
            ],
        })
    });
    ok(json!({ "Table": {
        "TableName": "leases",
        "TableArn": ARN,
        "TableStatus": status,
        "BillingModeSummary": { "BillingMode": "PAY_PER_REQUEST" },
        "KeySchema": [{ "AttributeName": "leaseKey", "KeyType": "HASH" }],
        "AttributeDefinitions": [{ "AttributeName": "leaseKey", "AttributeType": "S" }],
        "GlobalSecondaryIndexes": index.into_iter().collect::<Vec<_>>(),
    }}))
}

/// A further table of the Java KCL 3.0 to 3.4, with this partition key.
pub(crate) fn described_beside(key: &str) -> Answer {
    ok(json!({ "Table": {
        "TableStatus": "ACTIVE",
        "KeySchema": [{ "AttributeName": key, "KeyType": "HASH" }],
        "AttributeDefinitions": [{ "AttributeName": key, "AttributeType": "S" }],
    }}))
}

/// As [`usual`], with the two further tables of the Java KCL 3.0 to 3.4.
pub(crate) fn three_tables(operation: &str, input: &Value) -> Answer {
    match (operation, input["TableName"].as_str()) {
        ("DescribeTable", Some("app-CoordinatorState")) => described_beside("key"),
        ("DescribeTable", Some("app-WorkerMetricStats")) => described_beside("wid"),
        ("DescribeTable", _) => usual(operation, input),
        ("PutItem" | "UpdateItem" | "DeleteItem", _) if is_never(input) => {
            error(400, "ConditionalCheckFailedException")
        }
        ("Scan", _) => ok(json!({ "Items": [], "Count": 0, "ScannedCount": 0 })),
        _ => ok(json!({})),
    }
}

/// Whether the write only finds out whether it would be allowed.
pub(crate) fn is_never(input: &Value) -> bool {
    input["ConditionExpression"] == NEVER
}

pub(crate) const ARN: &str = "arn:aws:dynamodb:eu-west-1:123456789012:table/leases";

/// The condition of a write that finds out whether it would be allowed.
pub(crate) const NEVER: &str = "attribute_exists(#leaseKey) AND attribute_not_exists(#leaseKey)";

/// An empty table that stands ready; what the script says nothing of is answered like this.
pub(crate) fn usual(operation: &str, input: &Value) -> Answer {
    match (operation, input["TableName"].as_str()) {
        ("DescribeTable", Some("leases")) => described("ACTIVE", Some("ACTIVE")),
        ("DescribeTable", _) | (_, Some("app-CoordinatorState" | "app-WorkerMetricStats")) => {
            error(400, "ResourceNotFoundException")
        }
        ("PutItem" | "UpdateItem" | "DeleteItem", _) if input["ConditionExpression"] == NEVER => {
            error(400, "ConditionalCheckFailedException")
        }
        ("Scan", _) => ok(json!({ "Items": [], "Count": 0, "ScannedCount": 0 })),
        _ => ok(json!({})),
    }
}

/// The answer of DescribeContinuousBackups.
pub(crate) fn backups(recovery: &str) -> Answer {
    ok(json!({ "ContinuousBackupsDescription": {
        "ContinuousBackupsStatus": "ENABLED",
        "PointInTimeRecoveryDescription": { "PointInTimeRecoveryStatus": recovery },
    }}))
}

/// A call of the store, as a future of its outcome.
type Call<'a> = Pin<Box<dyn Future<Output = Result<(), StoreError>> + 'a>>;

/// Every call that a running worker makes, each with the operation that it takes.
pub(crate) fn calls(store: &DynamoLeaseStore) -> Vec<(&'static str, Call<'_>)> {
    let incarnation = Incarnation::from_random_bytes([1; 16]);
    let key: LeaseKey = "shardId-1".parse().unwrap();
    let lease = Lease::unowned("shardId-1".parse().unwrap(), Position::TrimHorizon);
    let lock = LeaderLock {
        owner: "worker-1".parse().unwrap(),
        duration: Duration::from_secs(10),
        version: "1".to_owned(),
        released: false,
        standby: None,
    };
    let (read, version) = (key.clone(), Expect::Version(lease.version()));
    let (deleted, created, released) = (key.clone(), key.clone(), key);
    let (same, create) = (version.clone(), LeaseChange::Create(Box::new(lease)));
    let leave = WorkerChange::Leave {
        id: "worker-1".parse().unwrap(),
        incarnation,
    };
    vec![
        ("Scan", Box::pin(async { store.scan().await.map(drop) })),
        (
            "GetItem",
            Box::pin(async move { store.read(&read).await.map(drop) }),
        ),
        ("GetItem", Box::pin(async { store.read_lock().await.map(drop) })),
        (
            "Query",
            Box::pin(async { store.owned_by(&"worker-1".parse().unwrap()).await.map(drop) }),
        ),
        (
            "PutItem",
            Box::pin(async move {
                let change = store.change(&created, &Expect::Absent, &create, incarnation);
                change.await.map(drop)
            }),
        ),
        (
            "UpdateItem",
            Box::pin(async move {
                let change = store.change(&released, &version, &LeaseChange::Release, incarnation);
                change.await.map(drop)
            }),
        ),
        (
            "DeleteItem",
            Box::pin(async move {
                let change = store.change(&deleted, &same, &LeaseChange::Delete, incarnation);
                change.await.map(drop)
            }),
        ),
        (
            "DeleteItem",
            Box::pin(async move { store.change_worker(&leave).await.map(drop) }),
        ),
        (
            "PutItem",
            Box::pin(async move {
                let hold = LockChange::Hold(lock);
                store.change_lock(&LockExpect::Absent, &hold).await.map(drop)
            }),
        ),
    ]
}
