//! A table in every state that a start can find it in, and what is said then.

use std::time::Duration;

use kcl_core::lease_store::{Certainty, LeaseStore as _, Preparation, StoreError, StoreErrorKind};
use serde_json::{Value, json};

use crate::server::{Answer, Server, error, ok};
use crate::tables::{described, preparation, three_tables, usual};

/// Too short for a table that does not change.
fn hurried() -> Preparation {
    Preparation {
        within: Duration::from_millis(500),
        ..preparation()
    }
}

async fn start(
    script: impl FnMut(&str, &Value) -> Answer,
    preparation: &Preparation,
) -> (Server, Result<(), StoreError>) {
    let server = Server::start().await;
    let store = server.store();
    let outcome = server.while_running(script, store.prepare(preparation)).await;
    (server, outcome)
}

fn always(status: &'static str) -> impl FnMut(&str, &Value) -> Answer {
    move |operation, input| match operation {
        "DescribeTable" if input["TableName"] == "leases" => described(status, Some("ACTIVE")),
        _ => usual(operation, input),
    }
}

#[tokio::test]
async fn active_or_updating_table_is_used() {
    for status in ["ACTIVE", "UPDATING"] {
        let (_, outcome) = start(always(status), &preparation()).await;
        assert!(outcome.is_ok(), "{status}: {outcome:?}");
    }
}

#[tokio::test]
async fn unusable_table_is_error_with_state_and_help() {
    let states = [
        ("CREATING", "it is CREATING"),
        ("DELETING", "it is DELETING"),
        (
            "INACCESSIBLE_ENCRYPTION_CREDENTIALS",
            "restore the access to that key of AWS KMS",
        ),
        ("ARCHIVED", "restore the table from its backup"),
        (
            "REPLICATION_NOT_AUTHORIZED",
            "see the replicas of this global table",
        ),
    ];
    for (status, part) in states {
        let (server, outcome) = start(always(status), &hurried()).await;
        let refusal = outcome.unwrap_err();
        assert_eq!(
            (refusal.kind(), refusal.certainty()),
            (StoreErrorKind::Unavailable, Certainty::Definite)
        );
        let text = refusal.to_string();
        assert!(
            text.starts_with("table leases did not become usable in time: it is ") && text.contains(part),
            "{text}"
        );
        let operations = server.operations();
        assert!(
            operations.iter().all(|asked| asked == "DescribeTable"),
            "{operations:?}"
        );
    }
}

#[tokio::test]
async fn table_being_deleted_is_awaited_and_made_anew() {
    let (mut looks, mut created) = (0, false);
    let script = |operation: &str, input: &Value| {
        created |= operation == "CreateTable";
        match operation {
            "DescribeTable" if input["TableName"] == "leases" && !created => {
                looks += 1;
                match looks {
                    1 | 2 => described("DELETING", None),
                    _ => error(400, "ResourceNotFoundException"),
                }
            }
            _ => usual(operation, input),
        }
    };
    let (server, outcome) = start(script, &preparation()).await;
    outcome.unwrap();
    let operations = server.operations();
    let creations = operations.iter().filter(|asked| *asked == "CreateTable");
    assert_eq!(creations.count(), 1, "{operations:?}");
}

#[tokio::test]
async fn throttling_table_is_a_retryable_error() {
    for code in ["ProvisionedThroughputExceededException", "ThrottlingException"] {
        let script = |operation: &str, input: &Value| match operation {
            "Scan" => error(400, code),
            _ => usual(operation, input),
        };
        let (_, outcome) = start(script, &preparation()).await;
        let refusal = outcome.unwrap_err();
        assert_eq!(
            (refusal.kind(), refusal.certainty()),
            (StoreErrorKind::Throttled, Certainty::Definite)
        );
        let text = refusal.to_string();
        assert!(
            text.starts_with(&format!("dynamodb:Scan on table leases: {code}")),
            "{text}"
        );
    }
}

#[tokio::test]
async fn account_making_many_tables_is_retryable_error() {
    let script = |operation: &str, _: &Value| match operation {
        "DescribeTable" => error(400, "ResourceNotFoundException"),
        _ => error(400, "LimitExceededException"),
    };
    let (_, outcome) = start(script, &preparation()).await;
    let refusal = outcome.unwrap_err();
    assert_eq!(refusal.kind(), StoreErrorKind::Throttled, "{refusal}");
}

#[tokio::test]
async fn foreign_table_is_refused_even_taking_over_java() {
    let script = |operation: &str, input: &Value| match operation {
        "GetItem" => ok(json!({ "Item": {
            "leaseKey": { "S": "Migration3.0" },
            "cv": { "S": "CLIENT_VERSION_3X" },
            "rsApplication": { "S": "parcels" },
        }})),
        _ => usual(operation, input),
    };
    for take_over_java in [false, true] {
        let preparation = Preparation {
            take_over_java,
            ..preparation()
        };
        let (server, outcome) = start(script, &preparation).await;
        let refusal = outcome.unwrap_err();
        assert_eq!(refusal.kind(), StoreErrorKind::Foreign);
        let text = refusal.to_string();
        assert!(
            text.contains(r#"belongs to the application "parcels", and this worker is of "app""#),
            "{text}"
        );
        assert_eq!(
            server.operations().last().map(String::as_str),
            Some("GetItem"),
            "something was done after the refusal"
        );
    }
}

#[tokio::test]
async fn later_application_is_refused_the_new_table() {
    for (winner, refused) in [("app", false), ("parcels", true)] {
        let mut marked = false;
        let script = |operation: &str, input: &Value| match operation {
            "PutItem" if input["Item"]["cv"].is_object() => {
                marked = true;
                error(400, "ConditionalCheckFailedException")
            }
            "GetItem" if marked => ok(json!({ "Item": {
                "leaseKey": { "S": "Migration3.0" },
                "cv": { "S": "CLIENT_VERSION_3X" },
                "rsApplication": { "S": winner },
            }})),
            _ => usual(operation, input),
        };
        let (_, outcome) = start(script, &preparation()).await;
        let kind = outcome.err().map(|refusal| refusal.kind());
        assert_eq!(kind, refused.then_some(StoreErrorKind::Foreign), "{winner}");
    }
}

#[tokio::test]
async fn state_table_of_older_java_fleet_is_named() {
    let script = |operation: &str, input: &Value| match operation {
        "DescribeTable" if input["TableName"] == "leases" => error(400, "ResourceNotFoundException"),
        "GetItem" => {
            ok(json!({ "Item": { "key": { "S": "Migration3.0" }, "cv": { "S": "CLIENT_VERSION_3X" } } }))
        }
        _ => three_tables(operation, input),
    };
    let (server, outcome) = start(script, &preparation()).await;
    let refusal = outcome.unwrap_err();
    assert_eq!(refusal.kind(), StoreErrorKind::Foreign);
    assert!(
        refusal.to_string().contains("table app-CoordinatorState exists"),
        "{refusal}"
    );
    assert_eq!(
        server.operations(),
        ["DescribeTable", "DescribeTable", "GetItem", "GetItem"]
    );
}
