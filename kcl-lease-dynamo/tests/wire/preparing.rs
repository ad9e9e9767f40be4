use kcl_core::lease::{LeaseStore as _, Preparation, StoreErrorKind};
use serde_json::{Value, json};

use crate::server::{Answer, Server, error, ok};
use crate::tables::{NEVER, described, preparation, usual};

const WRITES: [&str; 4] = ["PutItem", "UpdateItem", "DeleteItem", "CreateTable"];

#[tokio::test]
async fn a_missing_table_is_created_with_its_index_and_marked_as_of_a_new_application() {
    let server = Server::start().await;
    let mut created = false;
    let script = |operation: &str, input: &Value| {
        created |= operation == "CreateTable";
        match operation {
            "DescribeTable" if !created => error(400, "ResourceNotFoundException"),
            _ => usual(operation, input),
        }
    };
    server
        .while_running(script, server.store().prepare(&preparation()))
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
        "Scan",
        "GetItem",
        // Writes that never happen: are they granted?
        "PutItem",
        "UpdateItem",
        "DeleteItem",
        "PutItem",
        "Query",
    ];
    assert_eq!(operations, expected);
    let create = json!({
        "TableName": "leases",
        "BillingMode": "PAY_PER_REQUEST",
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
        }],
    });
    assert_eq!(asked[2].1, create);
    let mark = &asked[9].1;
    assert_eq!(mark["ConditionExpression"], "attribute_not_exists(#leaseKey)");
    assert_eq!(mark["Item"]["leaseKey"]["S"], "Migration3.0");
    assert_eq!(mark["Item"]["entityType"]["S"], "CLIENT_VERSION_MIGRATION");
    assert_eq!(mark["Item"]["cv"]["S"], "CLIENT_VERSION_3X");
    assert_eq!(mark["Item"]["mb"]["S"], "worker-1");
    assert_eq!(mark["Item"]["h"]["L"][0]["M"]["cv"]["S"], "CLIENT_VERSION_INIT");
}

#[tokio::test]
async fn a_table_that_another_worker_creates_meanwhile_is_as_good() {
    let server = Server::start().await;
    let mut looks = 0;
    let script = |operation: &str, input: &Value| {
        looks += usize::from(operation == "DescribeTable" && input["TableName"] == "leases");
        match operation {
            "CreateTable" => error(400, "ResourceInUseException"),
            "DescribeTable" if looks == 1 => error(400, "ResourceNotFoundException"),
            "DescribeTable" if looks < 4 && input["TableName"] == "leases" => described("CREATING", None),
            _ => usual(operation, input),
        }
    };
    server
        .while_running(script, server.store().prepare(&preparation()))
        .await
        .unwrap();
    assert_eq!(looks, 4);
}

#[tokio::test]
async fn an_existing_application_is_left_as_it_is() {
    let server = Server::start().await;
    let script = |operation: &str, input: &Value| match operation {
        "GetItem" => {
            ok(json!({ "Item": { "leaseKey": { "S": "Migration3.0" }, "cv": { "S": "CLIENT_VERSION_3X" } } }))
        }
        _ => usual(operation, input),
    };
    server
        .while_running(script, server.store().prepare(&preparation()))
        .await
        .unwrap();
    let writes = server.asked().into_iter().filter(|(operation, input)| {
        WRITES.contains(&operation.as_str()) && input["ConditionExpression"] != NEVER
    });
    assert_eq!(writes.count(), 0);
}

#[tokio::test]
async fn a_table_with_another_key_is_refused_at_first_sight() {
    let server = Server::start().await;
    let script = |_: &str, _: &Value| {
        ok(json!({ "Table": {
            "TableStatus": "ACTIVE",
            "KeySchema": [{ "AttributeName": "id", "KeyType": "HASH" }, { "AttributeName": "at", "KeyType": "RANGE" }],
            "AttributeDefinitions": [
                { "AttributeName": "id", "AttributeType": "S" },
                { "AttributeName": "at", "AttributeType": "N" },
            ],
        }}))
    };
    let refusal = server
        .while_running(script, server.store().prepare(&preparation()))
        .await
        .unwrap_err();
    assert_eq!(refusal.kind(), StoreErrorKind::Foreign);
    let text = refusal.to_string();
    assert!(
        text.contains("its key is HASH id of type S and RANGE at of type N"),
        "{text}"
    );
    assert_eq!(server.operations(), ["DescribeTable"]);
}

#[tokio::test]
async fn nothing_is_written_beside_a_java_fleet_unless_it_is_taken_over() {
    let java_lease = json!({
        "leaseKey": { "S": "shardId-000000000001" },
        "leaseOwner": { "S": "w1" },
        "leaseCounter": { "N": "219" },
        "checkpoint": { "S": "TRIM_HORIZON" },
    });
    let rolled_back = json!({ "leaseKey": { "S": "Migration3.0" }, "cv": { "S": "CLIENT_VERSION_2X" } });
    let coordinator = |operation: &str, input: &Value| match operation {
        "DescribeTable" if input["TableName"] == "app-CoordinatorState" => described("ACTIVE", None),
        _ => usual(operation, input),
    };
    let version = |operation: &str, input: &Value| match operation {
        "GetItem" => ok(json!({ "Item": rolled_back })),
        _ => usual(operation, input),
    };
    let lease = |operation: &str, input: &Value| match operation {
        "Scan" => ok(json!({ "Items": [java_lease] })),
        _ => usual(operation, input),
    };
    type Script<'a> = &'a dyn Fn(&str, &Value) -> Answer;
    let scripts: [Script<'_>; 3] = [&coordinator, &version, &lease];
    for script in scripts {
        let server = Server::start().await;
        let refusal = server
            .while_running(script, server.store().prepare(&preparation()))
            .await
            .unwrap_err();
        assert_eq!(refusal.kind(), StoreErrorKind::Foreign);
        assert!(refusal.to_string().contains("take_over_java"), "{refusal}");
        let operations = server.operations();
        assert!(
            operations.iter().all(|asked| !WRITES.contains(&asked.as_str())),
            "{operations:?}"
        );

        let taking_over = Preparation {
            take_over_java: true,
            ..preparation()
        };
        server
            .while_running(script, server.store().prepare(&taking_over))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn the_index_is_not_waited_for_and_not_asked_while_it_is_being_filled() {
    let server = Server::start().await;
    let script = |operation: &str, input: &Value| match operation {
        "DescribeTable" if input["TableName"] == "leases" => described("UPDATING", Some("CREATING")),
        _ => usual(operation, input),
    };
    let store = server.store();
    server
        .while_running(script, store.prepare(&preparation()))
        .await
        .unwrap();
    server.asked();
    let worker = "worker-1".parse().unwrap();
    assert_eq!(
        server
            .while_running(script, store.owned_by(&worker))
            .await
            .unwrap(),
        None
    );
    assert_eq!(server.operations(), Vec::<String>::new());
}

#[tokio::test]
async fn an_index_that_vanishes_is_done_without() {
    let server = Server::start().await;
    let script = |operation: &str, input: &Value| match operation {
        "Query" => error(400, "ValidationException"),
        _ => usual(operation, input),
    };
    let store = server.store();
    let worker = "worker-1".parse().unwrap();
    for _ in 0..2 {
        assert_eq!(
            server
                .while_running(script, store.owned_by(&worker))
                .await
                .unwrap(),
            None
        );
    }
    assert_eq!(server.operations(), ["DescribeTable", "Query"]);
}
