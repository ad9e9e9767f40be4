//! Tables as the scripted server describes them.

use std::time::Duration;

use kcl_core::lease::Preparation;
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

pub(crate) const ARN: &str = "arn:aws:dynamodb:eu-west-1:123456789012:table/leases";

/// An empty table that stands ready; what the script says nothing of is answered like this.
pub(crate) fn usual(operation: &str, input: &Value) -> Answer {
    match (operation, input["TableName"].as_str()) {
        ("DescribeTable", Some("leases")) => described("ACTIVE", Some("ACTIVE")),
        ("DescribeTable", _) => error(400, "ResourceNotFoundException"),
        ("Scan", _) => ok(json!({ "Items": [], "Count": 0, "ScannedCount": 0 })),
        _ => ok(json!({})),
    }
}

/// What DescribeContinuousBackups says.
pub(crate) fn backups(recovery: &str) -> Answer {
    ok(json!({ "ContinuousBackupsDescription": {
        "ContinuousBackupsStatus": "ENABLED",
        "PointInTimeRecoveryDescription": { "PointInTimeRecoveryStatus": recovery },
    }}))
}
