//! The rows as they stand in the table after each step of their lives, attribute for attribute.

use std::time::Duration;

use kcl_core::lease_store::{
    Expect, LeaderLock, Lease, LeaseChange, LeaseStore as _, LockChange, LockExpect, LockOutcome, Outcome,
    OwnerNotes, PendingCheckpoint, RowFacts, WorkerChange, WorkerOutcome, WorkerRow,
};
use kcl_core::types::{HashKeyRange, Incarnation, LeaseKey, Position, StreamIdentity, Timestamp, WorkerId};
use kcl_lease_dynamo::DynamoLeaseStore;
use kcl_tests::testbed_or_skip;
use serde_json::{Value, json};

use crate::lease_conformance::backend_specific::expectation;
use crate::lease_conformance::backends::Backend;

const ONE: &str = "01010101-0101-4101-8101-010101010101";
const TWO: &str = "02020202-0202-4202-8202-020202020202";

fn incarnation(number: u8) -> Incarnation {
    Incarnation::from_random_bytes([number; 16])
}

fn worker(name: &str) -> WorkerId {
    name.parse().unwrap()
}

/// A row, the changes made to it, and the whole row that is expected after each.
struct Scenario<'a> {
    backend: &'a Backend,
    store: DynamoLeaseStore,
    lease: Lease,
    row: Value,
}

impl Scenario<'_> {
    async fn change(&mut self, by: u8, change: LeaseChange, shows: Value, hides: &[&str]) {
        let expect = expectation(&self.lease, &change);
        let changed = self
            .store
            .change(&self.lease.key, &expect, &change, incarnation(by))
            .await;
        let Outcome::Applied(lease) = changed.unwrap() else {
            panic!("{change:?} was refused on {}", self.backend.server);
        };
        self.lease = *lease;
        let row = self.row.as_object_mut().unwrap();
        row.extend(shows.as_object().unwrap().clone());
        for name in hides {
            assert!(
                row.remove(*name).is_some(),
                "{name} was not there before {change:?}"
            );
        }
        self.is_stored(&format!("{change:?}")).await;
    }

    async fn is_stored(&self, after: &str) {
        let stored = self.backend.row(self.lease.key.as_str()).await;
        assert_eq!(stored, self.row, "after {after} on {}", self.backend.server);
    }
}

/// A lease from its creation to the end of its shard, with a handoff in between.
async fn a_life(backend: &Backend, lease: Lease, keys: Value) {
    let store = backend.prepared().await;
    let create = LeaseChange::Create(Box::new(lease.clone()));
    let created = store
        .change(&lease.key, &Expect::Absent, &create, incarnation(1))
        .await;
    assert!(
        matches!(created.unwrap(), Outcome::Applied(_)),
        "{}",
        backend.server
    );
    let mut row = json!({
        "entityType": { "S": "LEASE" },
        "leaseCounter": { "N": "0" },
        "ownerSwitchesSinceCheckpoint": { "N": "0" },
        "checkpoint": { "S": "TRIM_HORIZON" },
        "checkpointSubSequenceNumber": { "N": "0" },
        "parentShardId": { "SS": ["shardId-000000000007", "shardId-000000000008"] },
        "startingHashKey": { "S": "0" },
        "endingHashKey": { "S": "340282366920938463463374607431768211455" },
    });
    row.as_object_mut()
        .unwrap()
        .extend(keys.as_object().unwrap().clone());
    let mut scenario = Scenario {
        backend,
        store,
        lease,
        row,
    };
    scenario.is_stored("its creation").await;

    let stamped = |by: &str, counter: u32| {
        json!({
            "leaseCounter": { "N": counter.to_string() },
            "rsCounter": { "N": counter.to_string() },
            "rsIncarnation": { "S": by },
        })
    };
    let and = |mut base: Value, more: Value| {
        let more = more.as_object().unwrap().clone();
        base.as_object_mut().unwrap().extend(more);
        base
    };
    let to = worker("worker-1");
    let shows = and(stamped(ONE, 1), json!({ "leaseOwner": { "S": "worker-1" } }));
    scenario.change(1, LeaseChange::Assign { to }, shows, &[]).await;

    let renew = LeaseChange::Renew {
        notes: OwnerNotes {
            throughput: Some(1.216_964_2),
            ..OwnerNotes::NONE
        },
        facts: RowFacts {
            identity: Some(StreamIdentity {
                name: "trucks".into(),
                arn: "arn:aws:kinesis:us-east-1:123456789012:stream/trucks".into(),
                created: Timestamp::from_millis(1_700_000_000_000),
            }),
            failover: Some(Duration::from_secs(10)),
            latest_at: Some(Timestamp::from_millis(1_700_000_002_000)),
        },
    };
    let shows = json!({
        "throughputKBps": { "N": "1.216964" },
        "rsStreamArn": { "S": "arn:aws:kinesis:us-east-1:123456789012:stream/trucks" },
        "rsStreamCreated": { "N": "1700000000000" },
        "rsStreamName": { "S": "trucks" },
        "rsFailoverMillis": { "N": "10000" },
        "rsLatestAt": { "N": "1700000002000" },
    });
    scenario.change(1, renew, and(stamped(ONE, 2), shows), &[]).await;

    let prepare = LeaseChange::Prepare {
        pending: Some(PendingCheckpoint {
            position: Position::parse("49680416556756428880067349872691", 2).unwrap(),
            state: Some("tx-17".into()),
        }),
    };
    let pending = [
        "pendingCheckpoint",
        "pendingCheckpointState",
        "pendingCheckpointSubSequenceNumber",
    ];
    let shows = json!({
        "pendingCheckpoint": { "S": "49680416556756428880067349872691" },
        "pendingCheckpointSubSequenceNumber": { "N": "2" },
        "pendingCheckpointState": { "B": "tx-17" },
    });
    scenario
        .change(1, prepare, and(stamped(ONE, 3), shows), &[])
        .await;

    let position = Position::parse("49680416556756428880067349872691", 3).unwrap();
    let shows = json!({
        "checkpoint": { "S": "49680416556756428880067349872691" },
        "checkpointSubSequenceNumber": { "N": "3" },
    });
    let checkpoint = LeaseChange::Checkpoint {
        position,
        finished_ahead: None,
        notes: OwnerNotes::NONE,
    };
    scenario
        .change(1, checkpoint, and(stamped(ONE, 4), shows), &pending)
        .await;

    // The counter stands still, so that the owner's renewals are not disturbed.
    let shows = json!({
        "leaseOwner": { "S": "worker-2" },
        "checkpointOwner": { "S": "worker-1" },
        "rsHandoffIncarnation": { "S": TWO },
    });
    let to = worker("worker-2");
    scenario
        .change(2, LeaseChange::BeginHandoff { to }, shows, &[])
        .await;
    scenario
        .change(
            1,
            LeaseChange::CompleteHandoff,
            stamped(ONE, 5),
            &["checkpointOwner", "rsHandoffIncarnation", "rsFailoverMillis"],
        )
        .await;

    let shows = json!({
        "checkpoint": { "S": "SHARD_END" },
        "checkpointSubSequenceNumber": { "N": "0" },
        "childShardIds": { "SS": ["shardId-000000000010", "shardId-000000000011"] },
    });
    let children = ["shardId-000000000010", "shardId-000000000011"].map(|shard| shard.parse().unwrap());
    let end = LeaseChange::End {
        children: children.into(),
    };
    scenario
        .change(2, end, and(stamped(TWO, 6), shows), &["leaseOwner"])
        .await;
}

fn lease() -> Lease {
    Lease {
        parents: ["shardId-000000000007", "shardId-000000000008"]
            .map(|shard| shard.parse().unwrap())
            .into(),
        hash_range: Some(HashKeyRange::WHOLE),
        ..Lease::unowned("shardId-000000000009".parse().unwrap(), Position::TrimHorizon)
    }
}

#[tokio::test]
async fn lease_of_one_stream_is_readable_by_java() {
    let testbed = testbed_or_skip!();
    for backend in Backend::all(&testbed, "stored-lease") {
        let keys = json!({ "leaseKey": { "S": "shardId-000000000009" } });
        a_life(&backend, lease(), keys).await;
    }
}

#[tokio::test]
async fn lease_of_many_streams_keeps_stream_and_shard() {
    let testbed = testbed_or_skip!();
    for backend in Backend::all(&testbed, "stored-lease-of-many") {
        let key = "123456789012:trucks:1700000000:shardId-000000000009";
        let lease = Lease {
            key: LeaseKey::new(key).unwrap(),
            stream: Some("123456789012:trucks:1700000000".parse().unwrap()),
            ..lease()
        };
        let keys = json!({
            "leaseKey": { "S": key },
            "streamName": { "S": "123456789012:trucks:1700000000" },
            "shardId": { "S": "shardId-000000000009" },
        });
        a_life(&backend, lease, keys).await;
    }
}

#[tokio::test]
async fn lock_is_stored_as_lock_client_writes_it() {
    let testbed = testbed_or_skip!();
    for backend in Backend::all(&testbed, "stored-lock") {
        let store = backend.prepared().await;
        let version = |number: u32| format!("909051ab-fad5-441c-82b3-56ea9af242e{number}");
        let hold = |owner: &str, number: u32, standby: Option<&str>| LeaderLock {
            owner: worker(owner),
            duration: Duration::from_secs(10),
            version: version(number),
            released: false,
            standby: standby.map(worker),
        };
        let seen = |owner: &str, number: u32| LockExpect::Version {
            version: version(number),
            owner: worker(owner),
        };
        let row = |owner: &str, number: u32| {
            json!({
                "leaseKey": { "S": "Leader" },
                "entityType": { "S": "LEADER" },
                "ownerName": { "S": owner },
                "leaseDuration": { "S": "10000" },
                "recordVersionNumber": { "S": version(number) },
                // Says to a later start that no Java worker holds it.
                "rsLock": { "N": "1" },
            })
        };
        let steps = [
            (LockExpect::Absent, hold("a", 1, None), row("a", 1)),
            (seen("a", 1), hold("a", 2, Some("b")), {
                let mut row = row("a", 2);
                row["rsDeputy"] = json!({ "S": "b" });
                row
            }),
            // Whoever takes the lock over names a standby of its own, or none.
            (seen("a", 2), hold("b", 3, None), row("b", 3)),
        ];
        for (expect, lock, row) in steps {
            let held = store.change_lock(&expect, &LockChange::Hold(lock)).await;
            assert_eq!(held.unwrap(), LockOutcome::Applied, "{}", backend.server);
            assert_eq!(backend.row("Leader").await, row, "{}", backend.server);
        }
        let late = store.change_lock(&seen("a", 2), &LockChange::Release).await;
        assert_eq!(late.unwrap(), LockOutcome::Refused, "{}", backend.server);
        let release = store.change_lock(&seen("b", 3), &LockChange::Release).await;
        assert_eq!(release.unwrap(), LockOutcome::Applied, "{}", backend.server);
        assert_eq!(store.read_lock().await.unwrap(), None, "{}", backend.server);
    }
}

#[tokio::test]
async fn worker_row_is_stored_as_java_without_metrics() {
    let testbed = testbed_or_skip!();
    for backend in Backend::all(&testbed, "stored-worker") {
        let store = backend.prepared().await;
        let row = |touches: u64, max_leases| WorkerRow {
            id: worker("worker-1"),
            incarnation: Some(incarnation(1)),
            touches,
            failover: Some(Duration::from_secs(10)),
            max_leases,
            max_throughput: None,
            updated: Timestamp::from_millis(1_700_000_000_123),
            started: None,
            version: None,
            orders: None,
        };
        let mut expected = json!({
            "leaseKey": { "S": "worker-1" },
            "entityType": { "S": "WORKER_METRIC_STATS" },
            "lut": { "N": "1700000000" },
            "sts": { "M": {} },
            "opr": { "M": {} },
            "sup": { "N": "1" },
            "slu": { "N": "1700000000" },
            "rsIncarnation": { "S": ONE },
            "rsTouches": { "N": "0" },
            "rsFailoverMillis": { "N": "10000" },
            "rsMaxLeases": { "N": "4" },
            "rsUpdatedMillis": { "N": "1700000000123" },
        });
        let announced = store
            .change_worker(&WorkerChange::Announce(row(0, Some(4))))
            .await;
        assert_eq!(announced.unwrap(), WorkerOutcome::Applied, "{}", backend.server);
        assert_eq!(backend.row("worker-1").await, expected, "{}", backend.server);
        let touched = store.change_worker(&WorkerChange::Touch(row(1, None))).await;
        assert_eq!(touched.unwrap(), WorkerOutcome::Applied, "{}", backend.server);
        expected["rsTouches"] = json!({ "N": "1" });
        expected.as_object_mut().unwrap().remove("rsMaxLeases");
        assert_eq!(backend.row("worker-1").await, expected, "{}", backend.server);
    }
}

#[tokio::test]
async fn new_application_is_marked_as_3_x_once() {
    let testbed = testbed_or_skip!();
    for backend in Backend::all(&testbed, "stored-version") {
        backend.prepared().await;
        let mut row = backend.row("Migration3.0").await;
        // The time of the host; a worker that comes later leaves it as it is.
        backend.prepared().await;
        assert_eq!(backend.row("Migration3.0").await, row, "{}", backend.server);
        let millis = row["mts"]["N"].as_str().unwrap().to_owned();
        assert!(millis.parse::<i64>().unwrap() > 1_700_000_000_000, "{millis}");
        let entry = row["h"]["L"].as_array_mut().unwrap().pop().unwrap();
        let expected = json!({
            "leaseKey": { "S": "Migration3.0" },
            "entityType": { "S": "CLIENT_VERSION_MIGRATION" },
            "rsApplication": { "S": backend.table },
            "cv": { "S": "CLIENT_VERSION_3X" },
            "mb": { "S": "worker-1" },
            "mts": { "N": millis },
            "h": { "L": [] },
        });
        assert_eq!(row, expected, "{}", backend.server);
        let first = json!({ "M": {
            "cv": { "S": "CLIENT_VERSION_INIT" },
            "mb": { "S": "worker-1" },
            "mts": { "N": millis },
        }});
        assert_eq!(entry, first, "{}", backend.server);
    }
}
