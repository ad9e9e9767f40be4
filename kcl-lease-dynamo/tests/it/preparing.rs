use std::time::Duration;

use kcl_core::lease_store::{LeaseStore as _, Preparation, StoreErrorKind};
use kcl_lease_dynamo::{TableLayout, TableOptions};
use serde_json::{Value, json};

use crate::server::{Answer, Server, error, ok};
use crate::tables::{NEVER, calls, described, is_never, preparation, three_tables, usual};

const WRITES: [&str; 4] = ["PutItem", "UpdateItem", "DeleteItem", "CreateTable"];

#[tokio::test]
async fn missing_table_is_created_with_index_and_mark() {
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
async fn table_created_by_another_worker_is_as_good() {
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
async fn application_naming_no_table_uses_chosen_one() {
    let server = Server::start().await;
    let preparation = Preparation {
        application: "my trucks".parse().unwrap(),
        ..preparation()
    };
    // What DynamoDB says of a name that no table can have.
    let script = |operation: &str, input: &Value| match input["TableName"].as_str() {
        Some("leases") => usual(operation, input),
        _ => error(400, "ValidationException"),
    };
    server
        .while_running(script, server.store().prepare(&preparation))
        .await
        .unwrap();
    for (operation, input) in server.asked() {
        assert_eq!(input["TableName"], "leases", "{operation}");
    }
    let store = server.store().table_options(TableOptions {
        layout: TableLayout::ThreeTables,
        ..TableOptions::default()
    });
    let refused = server
        .while_running(script, store.prepare(&preparation))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Invalid);
    assert!(refused.to_string().contains("OneTable"), "{refused}");
}

#[tokio::test]
async fn table_with_another_key_is_refused_at_once() {
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
async fn nothing_is_written_beside_java_unless_taken_over() {
    let java_lease = json!({
        "leaseKey": { "S": "shardId-000000000001" },
        "leaseOwner": { "S": "w1" },
        "leaseCounter": { "N": "219" },
        "checkpoint": { "S": "TRIM_HORIZON" },
    });
    let rolled_back = json!({ "leaseKey": { "S": "Migration3.0" }, "cv": { "S": "CLIENT_VERSION_2X" } });
    let version = |operation: &str, input: &Value| match operation {
        "GetItem" => ok(json!({ "Item": rolled_back })),
        _ => usual(operation, input),
    };
    let lease = |operation: &str, input: &Value| match operation {
        "Scan" => ok(json!({ "Items": [java_lease] })),
        _ => usual(operation, input),
    };
    let coordinator = |operation: &str, input: &Value| match operation {
        "GetItem" if input["Key"]["key"]["S"] == "Migration3.0" => {
            ok(json!({ "Item": { "key": { "S": "Migration3.0" }, "cv": { "S": "CLIENT_VERSION_3X" } } }))
        }
        _ => three_tables(operation, input),
    };
    type Script<'a> = &'a dyn Fn(&str, &Value) -> Answer;
    let scripts: [Script<'_>; 3] = [&coordinator, &version, &lease];
    for script in scripts {
        let server = Server::start().await;
        let options = TableOptions {
            layout: TableLayout::OneTable,
            ..TableOptions::default()
        };
        let store = server.store().watch_java_for(SHORT).table_options(options);
        let refusal = server
            .while_running(script, store.prepare(&preparation()))
            .await
            .unwrap_err();
        assert_eq!(refusal.kind(), StoreErrorKind::Foreign);
        assert!(refusal.to_string().contains("--take-over-java"), "{refusal}");
        let operations = server.operations();
        assert!(
            operations.iter().all(|asked| !WRITES.contains(&asked.as_str())),
            "{operations:?}"
        );

        server
            .while_running(script, store.prepare(&taking_over()))
            .await
            .unwrap();
    }
}

/// Long enough for one more look.
const SHORT: Duration = Duration::from_millis(50);

fn taking_over() -> Preparation {
    Preparation {
        take_over_java: true,
        ..preparation()
    }
}

/// Three tables of a stopped Java application, and what was remembered of that.
#[derive(Default)]
struct JavaTables {
    /// The row `Migration3.0`, once a start has marked it.
    marked: bool,
    left_over: Vec<String>,
    /// When worker w1 wrote its row last.
    reported: i64,
}

impl JavaTables {
    fn answer(&mut self, operation: &str, input: &Value) -> Answer {
        let table = input["TableName"].as_str().unwrap_or_default();
        match (operation, table, input["Key"]["key"]["S"].as_str()) {
            ("GetItem", "app-CoordinatorState", Some("Migration3.0")) => {
                let mut row = json!({ "key": { "S": "Migration3.0" }, "cv": { "S": "CLIENT_VERSION_3X" } });
                if self.marked {
                    row["rsApplication"] = json!({ "S": "app" });
                    row["rsLeftOver"] = json!({ "SS": self.left_over });
                }
                ok(json!({ "Item": row }))
            }
            ("UpdateItem", "app-CoordinatorState", Some("Migration3.0")) => {
                self.marked = true;
                let values = &input["ExpressionAttributeValues"];
                assert_eq!(values[":rsApplication"]["S"], "app");
                let left = values[":rsLeftOver"]["SS"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                self.left_over = left
                    .iter()
                    .map(|mark| mark.as_str().unwrap().to_owned())
                    .collect();
                ok(json!({}))
            }
            ("Scan", "app-WorkerMetricStats", _) => ok(json!({ "Items": [
                { "wid": { "S": "w1" }, "lut": { "N": self.reported.to_string() }, "sts": { "M": {} } },
            ]})),
            _ => three_tables(operation, input),
        }
    }
}

#[tokio::test]
async fn taken_over_application_needs_the_setting_once() {
    let mut java = JavaTables::default();
    let server = Server::start().await;
    let store = || server.store().watch_java_for(SHORT);
    let mut start = async |preparation: Preparation| {
        let script = |operation: &str, input: &Value| java.answer(operation, input);
        server.while_running(script, store().prepare(&preparation)).await
    };
    assert!(start(preparation()).await.is_err());
    start(taking_over()).await.unwrap();
    let asked = server.asked();
    let mark = asked.iter().find(|(_, input)| {
        input["Key"]["key"]["S"] == "Migration3.0" && !input["UpdateExpression"].is_null()
    });
    let (_, mark) = mark.expect("the answer is written");
    assert_eq!(
        mark["ExpressionAttributeValues"][":rsTakenOverBy"]["S"],
        "worker-1"
    );
    for _ in 0..3 {
        start(preparation()).await.unwrap();
    }
    // What was watched once is not watched again.
    let scans = server
        .asked()
        .into_iter()
        .filter(|(operation, input)| operation == "Scan" && input["TableName"] == "app-WorkerMetricStats");
    assert_eq!(scans.count(), 3);
}

#[tokio::test]
async fn live_java_worker_is_refused_whatever_the_setting() {
    let (mut java, server) = (JavaTables::default(), Server::start().await);
    let mut moves = false;
    let mut start = async |preparation: Preparation, lives: bool| {
        moves = lives;
        let script = |operation: &str, input: &Value| {
            if operation == "Scan" && moves {
                java.reported += 30;
            }
            java.answer(operation, input)
        };
        let store = server.store().watch_java_for(SHORT);
        server.while_running(script, store.prepare(&preparation)).await
    };
    let refusal = start(taking_over(), true).await.unwrap_err();
    assert_eq!(refusal.kind(), StoreErrorKind::Foreign);
    assert!(
        refusal
            .to_string()
            .contains("worker w1 was written by a Java worker"),
        "{refusal}"
    );
    start(taking_over(), false).await.unwrap();
    let refusal = start(preparation(), true).await.unwrap_err();
    assert!(refusal.to_string().contains("needs no setting"), "{refusal}");
    // Once the worker that was started by accident is gone, a start of ours needs nothing.
    start(preparation(), false).await.unwrap();
    let wrote_rows = server.asked().into_iter().filter(|(operation, input)| {
        WRITES.contains(&operation.as_str()) && !is_never(input) && input["TableName"] == "leases"
    });
    assert_eq!(wrote_rows.count(), 0);
}

#[tokio::test]
async fn workers_that_start_together_share_three_new_tables() {
    // Another worker of ours has made the table, and not marked it yet.
    let server = Server::start().await;
    let options = TableOptions {
        layout: TableLayout::ThreeTables,
        ..TableOptions::default()
    };
    let store = server.store().table_options(options);
    server
        .while_running(three_tables, store.prepare(&preparation()))
        .await
        .unwrap();
    let asked = server.asked();
    let mark = asked.iter().find(|(_, input)| input["Item"]["cv"].is_object());
    let (_, mark) = mark.expect("the application is marked");
    assert_eq!(mark["TableName"], "app-CoordinatorState");
    assert_eq!(mark["Item"]["rsApplication"]["S"], "app");
}

#[tokio::test]
async fn mark_written_between_two_looks_is_seen() {
    // Another worker of ours marks the application and writes its leases after this one looked for the mark.
    let lease = json!({
        "leaseKey": { "S": "shardId-000000000001" },
        "leaseCounter": { "N": "0" },
        "checkpoint": { "S": "TRIM_HORIZON" },
    });
    let server = Server::start().await;
    let mut looks = 0;
    let script = |operation: &str, input: &Value| match operation {
        "Scan" if input["TableName"] == "leases" => ok(json!({ "Items": [lease] })),
        "GetItem" if input["Key"]["key"]["S"] == "Migration3.0" => {
            looks += 1;
            let mut row = json!({ "key": { "S": "Migration3.0" }, "cv": { "S": "CLIENT_VERSION_3X" } });
            row["rsApplication"] = json!({ "S": "app" });
            ok(if looks == 1 {
                json!({})
            } else {
                json!({ "Item": row })
            })
        }
        _ => three_tables(operation, input),
    };
    let store = server.store();
    server
        .while_running(script, store.prepare(&preparation()))
        .await
        .unwrap();
    assert_eq!(looks, 2);
}

#[tokio::test]
async fn coordinator_table_under_creation_is_waited_for() {
    let server = Server::start().await;
    let mut looks = 0;
    let script = |operation: &str, input: &Value| {
        if input["TableName"] != "app-CoordinatorState" {
            return three_tables(operation, input);
        }
        looks += usize::from(operation == "DescribeTable");
        match operation {
            "DescribeTable" if looks < 3 => ok(json!({ "Table": {
                "TableStatus": "CREATING",
                "KeySchema": [{ "AttributeName": "key", "KeyType": "HASH" }],
                "AttributeDefinitions": [{ "AttributeName": "key", "AttributeType": "S" }],
            }})),
            "DescribeTable" => three_tables(operation, input),
            _ if looks < 3 => error(400, "ResourceNotFoundException"),
            _ => three_tables(operation, input),
        }
    };
    let store = server.store();
    server
        .while_running(script, store.prepare(&preparation()))
        .await
        .unwrap();
    assert!(looks >= 3);
}

#[tokio::test]
async fn rows_are_in_three_tables_of_java() {
    let (mut java, server) = (JavaTables::default(), Server::start().await);
    let store = server.store().watch_java_for(SHORT);
    let mut script = |operation: &str, input: &Value| java.answer(operation, input);
    server
        .while_running(&mut script, store.prepare(&taking_over()))
        .await
        .unwrap();
    server.asked();
    for (_, call) in calls(&store) {
        // The scripted answers show no rows of leases.
        let _ = server.while_running(&mut script, call).await;
    }
    for (operation, input) in server.asked() {
        let table = input["TableName"].as_str().unwrap();
        let key = [&input["Key"], &input["Item"]]
            .into_iter()
            .find(|key| key.is_object());
        let Some(key) = key.and_then(Value::as_object) else {
            continue;
        };
        let id = ["leaseKey", "wid", "key"]
            .into_iter()
            .filter_map(|name| Some((name, key.get(name)?["S"].as_str()?)))
            .collect::<Vec<_>>();
        let expected = match id[..] {
            [("leaseKey", "shardId-1")] => "leases",
            [("wid", "worker-1")] => "app-WorkerMetricStats",
            [("key", "Leader")] => "app-CoordinatorState",
            _ => panic!("{operation} of {id:?}"),
        };
        assert_eq!(table, expected, "{operation} of {id:?}");
    }
}

#[tokio::test]
async fn index_being_filled_is_neither_awaited_nor_asked() {
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
