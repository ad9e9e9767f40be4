//! The documented policies against the calls that a whole life of the store makes.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use kcl_core::lease_store::{
    Expect, LeaderLock, Lease, LeaseChange, LeaseStore, LockChange, LockExpect, WorkerChange, WorkerRow,
};
use kcl_core::types::{Incarnation, Position, Timestamp};
use kcl_lease_dynamo::{TableLayout, TableOptions};
use serde_json::{Value, json};

use crate::server::{Answer, Asked, Server, error, ok};
use crate::tables::{backups, described, preparation, three_tables, usual};

/// An action and the resource it is granted on, without region and account.
type Grants = BTreeSet<(String, String)>;

/// The policies of the page, in their order.
fn documented() -> [Grants; 3] {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/iam-policy.md");
    let page = std::fs::read_to_string(page).unwrap();
    let blocks = page
        .split("```json")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap());
    let policies = blocks.map(|block| grants(&serde_json::from_str(block).unwrap()));
    policies.collect::<Vec<_>>().try_into().unwrap()
}

fn grants(policy: &Value) -> Grants {
    let mut grants = Grants::new();
    for statement in policy["Statement"].as_array().unwrap() {
        assert_eq!(statement["Effect"], "Allow");
        let resource = statement["Resource"].as_str().unwrap();
        let table = resource.split_once(":table/").unwrap().1;
        let action = &statement["Action"];
        let actions = action.as_array().cloned().unwrap_or_else(|| vec![action.clone()]);
        for action in actions {
            grants.insert((action.as_str().unwrap().to_owned(), table.to_owned()));
        }
    }
    grants
}

/// The rights for the requests that were made, with the names of the page.
fn needed((operation, input): &Asked) -> Grants {
    let table = match (input["TableName"].as_str(), input["ResourceArn"].as_str()) {
        (Some(table), _) => table,
        (None, arn) => arn.unwrap().split_once(":table/").unwrap().1,
    };
    let table = match table {
        "leases" => "truck-tracker".to_owned(),
        "app-CoordinatorState" => "truck-tracker-CoordinatorState".to_owned(),
        "app-WorkerMetricStats" => "truck-tracker-WorkerMetricStats".to_owned(),
        other => panic!("a call on table {other}"),
    };
    let resource = match input["IndexName"].as_str() {
        Some(index) => format!("{table}/index/{index}"),
        None => table.clone(),
    };
    let mut grants = Grants::from([(format!("dynamodb:{operation}"), resource)]);
    if operation == "CreateTable" && !input["Tags"].is_null() {
        // From "CreateTable" in the API reference: the tags take a right of their own.
        grants.insert(("dynamodb:TagResource".to_owned(), table));
    }
    grants
}

/// Every call that the seam has, with every kind of write.
async fn life(store: &dyn LeaseStore) {
    store.prepare(&preparation()).await.unwrap();
    store.scan().await.unwrap();
    let incarnation = Incarnation::from_random_bytes([1; 16]);
    let worker = "worker-1".parse().unwrap();
    let row = WorkerRow {
        id: "worker-1".parse().unwrap(),
        incarnation: Some(incarnation),
        touches: 0,
        failover: None,
        max_leases: None,
        max_throughput: None,
        updated: Timestamp::from_millis(0),
        started: None,
        version: None,
        orders: None,
    };
    let lease = Lease::unowned("shardId-1".parse().unwrap(), Position::TrimHorizon);
    let lock = LeaderLock {
        owner: "worker-1".parse().unwrap(),
        duration: Duration::from_secs(10),
        version: "1".to_owned(),
        released: false,
        standby: None,
    };
    let held = LockExpect::Version {
        version: "1".to_owned(),
        owner: lock.owner.clone(),
    };
    store
        .change_worker(&WorkerChange::Announce(row.clone()))
        .await
        .unwrap();
    store
        .change_worker(&WorkerChange::Touch(row.clone()))
        .await
        .unwrap();
    store.read_lock().await.unwrap();
    store
        .change_lock(&LockExpect::Absent, &LockChange::Hold(lock))
        .await
        .unwrap();
    let create = LeaseChange::Create(Box::new(lease.clone()));
    let version = Expect::Version(lease.version());
    store
        .change(&lease.key, &Expect::Absent, &create, incarnation)
        .await
        .unwrap();
    store.owned_by(&worker).await.unwrap();
    store.read(&lease.key).await.unwrap();
    // The scripted answers show no rows, so what a change of a lease ends with says nothing here.
    let _ = store
        .change(&lease.key, &version, &LeaseChange::Release, incarnation)
        .await;
    let _ = store
        .change(&lease.key, &version, &LeaseChange::Delete, incarnation)
        .await;
    store.change_lock(&held, &LockChange::Release).await.unwrap();
    store
        .change_worker(&WorkerChange::Leave {
            id: worker,
            incarnation,
        })
        .await
        .unwrap();
    store
        .change_worker(&WorkerChange::DeleteExpired(row))
        .await
        .unwrap();
}

fn options() -> TableOptions {
    TableOptions {
        point_in_time_recovery: true,
        tags: [("team".to_owned(), "trucks".to_owned())].into(),
        ..TableOptions::default()
    }
}

/// An application of ours, beside which an older Java worker was started by accident.
fn beside_java(operation: &str, input: &Value) -> Answer {
    match (operation, input["TableName"].as_str()) {
        ("GetItem", Some("leases")) => ok(json!({ "Item": {
            "leaseKey": { "S": "Migration3.0" },
            "cv": { "S": "CLIENT_VERSION_3X" },
            "rsApplication": { "S": "app" },
        }})),
        _ => three_tables(operation, input),
    }
}

#[tokio::test]
async fn three_tables_need_what_their_policy_says() {
    let server = Server::start().await;
    let mut created = std::collections::BTreeSet::new();
    let makes = |operation: &str, input: &Value| {
        let table = input["TableName"].as_str().unwrap_or_default();
        if operation == "CreateTable" {
            created.insert(table.to_owned());
        }
        match operation {
            "DescribeTable" if !created.contains(table) => error(400, "ResourceNotFoundException"),
            _ => three_tables(operation, input),
        }
    };
    let options = TableOptions {
        layout: TableLayout::ThreeTables,
        ..TableOptions::default()
    };
    let store = server.store().table_options(options);
    server.while_running(makes, life(&store)).await;
    server
        .while_running(beside_java, server.store().prepare(&preparation()))
        .await
        .unwrap();
    let mut beside = server.asked().iter().flat_map(needed).collect::<Grants>();
    let [makes_its_table, _, three] = documented();
    beside.retain(|(_, resource)| resource.contains("truck-tracker-"));
    assert_eq!(beside, three);
    // In addition to the policy for the lease table.
    assert!(!makes_its_table.is_superset(&three));
}

#[tokio::test]
async fn policy_with_table_creation_allows_exactly_all_calls() {
    let server = Server::start().await;
    let mut created = false;
    let makes = |operation: &str, input: &Value| {
        created |= operation == "CreateTable";
        match operation {
            "DescribeTable" if !created => error(400, "ResourceNotFoundException"),
            "DescribeContinuousBackups" => backups("DISABLED"),
            _ => usual(operation, input),
        }
    };
    let store = server.store().table_options(options());
    server.while_running(makes, life(&store)).await;
    let completes = |operation: &str, input: &Value| match operation {
        "DescribeTable" if input["TableName"] == "leases" => described("ACTIVE", None),
        _ => usual(operation, input),
    };
    server
        .while_running(completes, server.store().prepare(&preparation()))
        .await
        .unwrap();
    server
        .while_running(beside_java, server.store().prepare(&preparation()))
        .await
        .unwrap();
    let called = server.asked().iter().flat_map(needed).collect::<Grants>();
    let [makes_its_table, ..] = documented();
    assert_eq!(called, makes_its_table);
}

#[tokio::test]
async fn policy_without_table_creation_is_exactly_enough() {
    let [_, uses_a_table, _] = documented();
    for options in [TableOptions::default(), options()] {
        let server = Server::start().await;
        let refused = std::cell::Cell::new(0);
        let script = |operation: &str, input: &Value| -> Answer {
            let asked = (operation.to_owned(), input.clone());
            if needed(&asked).is_subset(&uses_a_table) {
                usual(operation, input)
            } else {
                refused.set(refused.get() + 1);
                error(400, "AccessDeniedException")
            }
        };
        let plain = options == TableOptions::default();
        let store = server.store().table_options(options);
        server.while_running(script, life(&store)).await;
        server
            .while_running(beside_java, server.store().prepare(&preparation()))
            .await
            .unwrap();
        let called = server.asked().iter().flat_map(needed).collect::<Grants>();
        assert!(called.is_superset(&uses_a_table), "{called:?}");
        assert_eq!(plain, refused.get() == 0, "{called:?}");
        assert!(!plain || called == uses_a_table, "{called:?}");
    }
}

#[test]
fn policies_differ_only_in_work_on_table() {
    let [makes, uses, _] = documented();
    let more = makes.difference(&uses).map(|(action, _)| action.as_str());
    let expected = [
        "dynamodb:CreateTable",
        "dynamodb:DescribeContinuousBackups",
        "dynamodb:ListTagsOfResource",
        "dynamodb:TagResource",
        "dynamodb:UpdateContinuousBackups",
        "dynamodb:UpdateTable",
    ];
    assert_eq!(more.collect::<Vec<_>>(), expected);
    assert!(uses.is_subset(&makes));
}
