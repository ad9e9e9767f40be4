//! Tables that the Java KCL left, on each DynamoDB of the testbed: what a start makes of them, and what is in them afterwards.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use kcl_core::lease_store::{
    Expect, LeaderLock, Lease, LeaseChange, LeaseStore, LockChange, LockExpect, LockOutcome, Outcome,
    Preparation, StoreErrorKind, WorkerChange, WorkerOutcome, WorkerRow,
};
use kcl_core::types::{Incarnation, Position, Timestamp};
use kcl_lease_dynamo::TableLayout;
use kcl_tests::testbed_or_skip;
use serde_json::Value;

use crate::lease_conformance::backend_specific::attribute;
use crate::lease_conformance::backends::Backend;

fn run() -> Incarnation {
    Incarnation::from_random_bytes([1; 16])
}

fn row(name: &str) -> WorkerRow {
    WorkerRow {
        id: name.parse().unwrap(),
        incarnation: Some(run()),
        touches: 1,
        failover: Some(Duration::from_secs(1)),
        max_leases: None,
        max_throughput: None,
        updated: Timestamp::from_millis(1_800_000_000_000),
        started: None,
        version: None,
        orders: None,
    }
}

fn taking_over(backend: &Backend) -> Preparation {
    Preparation {
        take_over_java: true,
        ..backend.preparation()
    }
}

fn coordinator(backend: &Backend) -> String {
    format!("{}-CoordinatorState", backend.table)
}

fn workers(backend: &Backend) -> String {
    format!("{}-WorkerMetricStats", backend.table)
}

/// The three tables as the Java KCL 3.1.3 left them when two workers ran.
async fn put_three_tables(backend: &Backend) {
    let dump = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../kcl-lease-dynamo/tests/golden/java-kcl-3.1.3/2-two-workers.json");
    let dump: Value = serde_json::from_slice(&std::fs::read(dump).unwrap()).unwrap();
    let tables = [
        ("app-jpoll3", backend.table.clone(), "leaseKey"),
        ("app-jpoll3-CoordinatorState", coordinator(backend), "key"),
        ("app-jpoll3-WorkerMetricStats", workers(backend), "wid"),
    ];
    for (dumped, table, key) in tables {
        backend.create_table(&table, key).await;
        for row in dump["tables"][dumped]["items"].as_array().unwrap() {
            backend
                .put_into(&table, row.as_object().unwrap().iter().map(attribute))
                .await;
        }
    }
}

/// The rows that a worker writes beside leases: its own, and the lock of a leader, over the one that is there.
async fn work(store: &dyn LeaseStore) {
    let announced = store
        .change_worker(&WorkerChange::Announce(row("ours")))
        .await
        .unwrap();
    assert_eq!(announced, WorkerOutcome::Applied);
    let touched = store
        .change_worker(&WorkerChange::Touch(row("ours")))
        .await
        .unwrap();
    assert_eq!(touched, WorkerOutcome::Applied);
    let expect = match store.read_lock().await.unwrap() {
        None => LockExpect::Absent,
        Some(lock) => LockExpect::Version {
            version: lock.version,
            owner: lock.owner,
        },
    };
    let lock = LeaderLock {
        owner: "ours".parse().unwrap(),
        duration: Duration::from_secs(1),
        version: "1".to_owned(),
        released: false,
        standby: None,
    };
    let held = store
        .change_lock(&expect, &LockChange::Hold(lock.clone()))
        .await
        .unwrap();
    assert_eq!(held, LockOutcome::Applied);
    assert_eq!(store.read_lock().await.unwrap(), Some(lock));
}

fn set(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

#[tokio::test]
async fn three_java_tables_stay_and_are_claimed_once() {
    let testbed = testbed_or_skip!();
    for backend in Backend::all(&testbed, "java-three") {
        put_three_tables(&backend).await;
        let refusal = backend.store().prepare(&backend.preparation()).await.unwrap_err();
        assert_eq!(refusal.kind(), StoreErrorKind::Foreign, "{}", backend.server);
        let store = backend.store();
        store.prepare(&taking_over(&backend)).await.unwrap();
        let scan = store.scan().await.unwrap();
        let ids = scan
            .workers
            .iter()
            .map(|row| row.id.as_str())
            .collect::<BTreeSet<_>>();
        assert_eq!(ids, ["w1", "w2"].into(), "{}", backend.server);
        assert_eq!(scan.lock.unwrap().owner.as_str(), "w1");
        assert_eq!((scan.leases.len(), scan.undecodable.len()), (4, 0));
        work(&store).await;

        // As after a crash: nothing was taken back.
        let leases = backend.keys(&backend.table, "leaseKey").await;
        assert!(leases.iter().all(|key| key.starts_with("shardId-")), "{leases:?}");
        assert_eq!(
            backend.keys(&workers(&backend), "wid").await,
            set(&["ours", "w1", "w2"])
        );
        assert_eq!(
            backend.keys(&coordinator(&backend), "key").await,
            set(&["Leader", "Migration3.0"])
        );
        for _ in 0..3 {
            backend.store().prepare(&backend.preparation()).await.unwrap();
        }
        // A Java worker that died long ago is deleted as the leader deletes one of ours.
        let java = scan
            .workers
            .into_iter()
            .find(|row| row.id.as_str() == "w2")
            .unwrap();
        let deleted = store
            .change_worker(&WorkerChange::DeleteExpired(java))
            .await
            .unwrap();
        assert_eq!(deleted, WorkerOutcome::Applied, "{}", backend.server);
    }
}

#[tokio::test]
async fn accidental_java_start_divides_no_application_of_ours() {
    let testbed = testbed_or_skip!();
    for backend in Backend::all(&testbed, "java-accident") {
        work(&backend.prepared().await).await;
        // What the Java KCL 3.0 to 3.4 does at its start.
        backend.create_table(&coordinator(&backend), "key").await;
        backend.create_table(&workers(&backend), "wid").await;
        let java =
            serde_json::json!({ "wid": { "S": "java" }, "lut": { "N": "1800000000" }, "sts": { "M": {} } });
        let java = java.as_object().unwrap().iter().map(attribute);
        backend.put_into(&workers(&backend), java).await;

        let store = backend.store();
        store.prepare(&backend.preparation()).await.unwrap();
        let scan = store.scan().await.unwrap();
        assert_eq!(scan.workers, [row("ours")], "{}", backend.server);
        assert_eq!(scan.lock.unwrap().owner.as_str(), "ours");
    }
}

#[tokio::test]
async fn table_prepared_for_java_holds_nothing_but_leases() {
    let testbed = testbed_or_skip!();
    for mut backend in Backend::all(&testbed, "java-prepared") {
        backend.layout = TableLayout::OneTable;
        let store = backend.prepared().await;
        let lease = Lease::unowned("shardId-1".parse().unwrap(), Position::TrimHorizon);
        let create = LeaseChange::Create(Box::new(lease.clone()));
        let created = store
            .change(&lease.key, &Expect::Absent, &create, run())
            .await
            .unwrap();
        assert!(matches!(created, Outcome::Applied(_)));
        work(&store).await;
        let report = store
            .prepare_for_java(&backend.table.parse().unwrap())
            .await
            .unwrap();
        let removed = report.removed.into_iter().collect::<BTreeSet<_>>();
        assert_eq!(
            removed,
            set(&["Leader", "Migration3.0", "ours"]),
            "{}",
            backend.server
        );
        assert_eq!(report.left, [] as [String; 0]);
        assert_eq!(
            backend.keys(&backend.table, "leaseKey").await,
            set(&["shardId-1"])
        );
        assert_eq!(store.read(&lease.key).await.unwrap(), Some(lease));
    }
}

#[tokio::test]
async fn table_of_live_worker_stays_unprepared_for_java() {
    let testbed = testbed_or_skip!();
    for backend in Backend::all(&testbed, "java-live") {
        let store = backend.prepared().await;
        work(&store).await;
        let application = backend.table.parse().unwrap();
        let touch = async {
            let mut row = row("ours");
            loop {
                row.touches += 1;
                store
                    .change_worker(&WorkerChange::Touch(row.clone()))
                    .await
                    .unwrap();
                tokio::task::yield_now().await;
            }
        };
        let refusal = tokio::select! {
            outcome = store.prepare_for_java(&application) => outcome.unwrap_err(),
            () = touch => unreachable!(),
        };
        assert_eq!(refusal.kind(), StoreErrorKind::Foreign, "{}", backend.server);
        assert_eq!(
            backend.keys(&backend.table, "leaseKey").await,
            set(&["Leader", "Migration3.0", "ours"])
        );
    }
}
