use kcl_core::lease_store::{Expect, LeaseChange, LeaseStore as _, Outcome, StoreErrorKind, Version};
use kcl_core::types::Incarnation;
use serde_json::{Value, json};

use crate::server::{Server, error, ok};
use crate::tables::{calls, preparation, usual};

fn lease(key: &str) -> Value {
    json!({ "leaseKey": { "S": key }, "leaseCounter": { "N": "3" }, "checkpoint": { "S": "LATEST" } })
}

#[tokio::test]
async fn a_scan_follows_every_page_and_counts_it() {
    let server = Server::start().await;
    let script = |_: &str, input: &Value| match input.get("ExclusiveStartKey") {
        None => ok(
            json!({ "Items": [lease("shardId-1")], "LastEvaluatedKey": { "leaseKey": { "S": "shardId-1" } } }),
        ),
        Some(_) => ok(json!({ "Items": [lease("shardId-2"), { "leaseKey": { "S": "x" } }] })),
    };
    let scan = server.while_running(script, server.store().scan()).await.unwrap();
    let keys = scan
        .leases
        .iter()
        .map(|lease| lease.key.as_str())
        .collect::<Vec<_>>();
    assert_eq!(keys, ["shardId-1", "shardId-2"]);
    assert_eq!(scan.pages, 2);
    assert_eq!(scan.undecodable.len(), 1);
    let asked = server.asked();
    assert!(
        asked.iter().all(|(_, input)| input.get("Segment").is_none()),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_scan_in_parts_reads_each_part_once() {
    let server = Server::start().await;
    let script = |_: &str, input: &Value| {
        assert_eq!(input["TotalSegments"], 3);
        ok(json!({ "Items": [lease(&format!("shardId-{}", input["Segment"]))] }))
    };
    let store = server.store().scan_segments(3);
    let scan = server.while_running(script, store.scan()).await.unwrap();
    let keys = scan
        .leases
        .iter()
        .map(|lease| lease.key.as_str())
        .collect::<Vec<_>>();
    assert_eq!(
        (keys, scan.pages),
        (vec!["shardId-0", "shardId-1", "shardId-2"], 1)
    );
}

#[tokio::test]
async fn pages_count_what_is_read_whatever_the_parts() {
    let server = Server::start().await;
    let store = server.store().scan_segments(16);
    let empty = |_: &str, _: &Value| ok(json!({ "Items": [] }));
    let scan = server.while_running(empty, store.scan()).await.unwrap();
    assert_eq!((scan.pages, server.asked().len()), (1, 16));

    // Two parts take a second page, and in half of the sixteen there are 256 KiB on the last one.
    let large = |_: &str, input: &Value| {
        let segment = input["Segment"].as_u64().unwrap();
        let page = u8::from(!input["ExclusiveStartKey"].is_null());
        let key = format!("shardId-{segment}-{page}");
        if segment < 2 && page == 0 {
            return ok(json!({ "Items": [lease(&key)], "LastEvaluatedKey": { "leaseKey": { "S": key } } }));
        }
        let mut row = lease(&key);
        if segment.is_multiple_of(2) {
            row["ballast"] = json!({ "S": "x".repeat(256 << 10) });
        }
        ok(json!({ "Items": [row] }))
    };
    let scan = server.while_running(large, store.scan()).await.unwrap();
    assert_eq!((scan.pages, scan.leases.len()), (2 + 3, 18));
    assert_eq!(server.asked().len(), 18);
}

#[tokio::test]
async fn read_is_strongly_consistent_and_of_one_kind() {
    let server = Server::start().await;
    let script = |_: &str, _: &Value| {
        let row = json!({ "leaseKey": { "S": "w" }, "entityType": { "S": "WORKER_METRIC_STATS" }, "lut": { "N": "1" } });
        ok(json!({ "Item": row }))
    };
    let store = server.store();
    let key = "w".parse().unwrap();
    assert_eq!(
        server.while_running(script, store.read(&key)).await.unwrap(),
        None
    );
    assert_eq!(server.asked()[0].1["ConsistentRead"], true);
    let broken = |_: &str, _: &Value| ok(json!({ "Item": { "leaseKey": { "S": "w" } } }));
    let problem = server.while_running(broken, store.read(&key)).await.unwrap_err();
    assert_eq!(problem.kind(), StoreErrorKind::Data);
    server
        .while_running(|_, _| ok(json!({})), store.read_lock())
        .await
        .unwrap();
    assert_eq!(server.asked()[1].1["ConsistentRead"], true);
}

#[tokio::test]
async fn refusal_shows_row_where_server_does() {
    let server = Server::start().await;
    let store = server.store();
    let key = "shardId-1".parse().unwrap();
    let version = Version {
        counter: 7,
        owner: None,
        checkpoint_owner: None,
    };
    let expect = Expect::Version(version);
    let incarnation = Incarnation::from_random_bytes([1; 16]);
    let refusal = |_: &str, _: &Value| error(400, "ConditionalCheckFailedException");
    let silent = store.change(&key, &expect, &LeaseChange::Release, incarnation);
    let outcome = server.while_running(refusal, silent).await.unwrap();
    assert_eq!(outcome, Outcome::Refused { current: None });

    let showing = |operation: &str, input: &Value| {
        let (status, mut body) = refusal(operation, input);
        body["Item"] = lease("shardId-1");
        (status, body)
    };
    let shown = store.change(&key, &expect, &LeaseChange::Release, incarnation);
    let Outcome::Refused { current: Some(row) } = server.while_running(showing, shown).await.unwrap() else {
        panic!("the row is not shown");
    };
    assert_eq!(row.counter, 3);
    let (_, input) = server.asked().pop().unwrap();
    assert_eq!(input["ReturnValues"], "ALL_NEW");
    assert_eq!(input["ReturnValuesOnConditionCheckFailure"], "ALL_OLD");
}

#[tokio::test]
async fn owned_leases_are_keys_from_all_index_pages() {
    let server = Server::start().await;
    let row = |key: &str| json!({ "leaseOwner": { "S": "worker-1" }, "leaseKey": { "S": key } });
    let script = |operation: &str, input: &Value| match operation {
        "Query" if input["ExclusiveStartKey"].is_null() => {
            ok(json!({ "Items": [row("shardId-1")], "LastEvaluatedKey": row("shardId-1") }))
        }
        // A page may be empty and not the last.
        "Query" if input["ExclusiveStartKey"] == row("shardId-1") => {
            ok(json!({ "Items": [], "LastEvaluatedKey": row("shardId-2") }))
        }
        "Query" => ok(json!({ "Items": [row("shardId-3")] })),
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
    let keys = ["shardId-1", "shardId-3"].map(|key| key.parse().unwrap());
    assert_eq!(owned.as_deref(), Some(&keys[..]));
    let query = json!({
        "TableName": "leases",
        "IndexName": "LeaseOwnerToLeaseKeyIndex",
        "KeyConditionExpression": "#owner = :owner",
        "ExpressionAttributeNames": { "#owner": "leaseOwner" },
        "ExpressionAttributeValues": { ":owner": { "S": "worker-1" } },
    });
    let asked = server.asked();
    assert_eq!(asked.len(), 3);
    for ((operation, input), start) in asked.iter().zip([None, Some("shardId-1"), Some("shardId-2")]) {
        let mut expected = query.clone();
        if let Some(key) = start {
            expected["ExclusiveStartKey"] = row(key);
        }
        assert_eq!((operation.as_str(), input), ("Query", &expected));
    }
}

#[tokio::test]
async fn each_operation_of_running_worker_is_one_request() {
    let server = Server::start().await;
    let store = server.store();
    server
        .while_running(usual, store.prepare(&preparation()))
        .await
        .unwrap();
    server.asked();
    for (operation, call) in calls(&store) {
        // What the scripted answer comes to is tested elsewhere.
        let _ = server.while_running(usual, call).await;
        assert_eq!(server.operations(), [operation]);
    }
}
