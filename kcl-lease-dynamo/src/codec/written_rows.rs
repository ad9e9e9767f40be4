//! Every kind of row that we write, attribute for attribute and with its types, in DynamoDB's own JSON.

use std::time::Duration;

use kcl_core::lease_store::{
    LeaderLock, Lease, LeaseChange, OwnerNotes, PendingCheckpoint, RowFacts, WorkerRow, apply,
};
use kcl_core::types::{HashKeyRange, LeaseKey, Position, StreamIdentity, Timestamp};
use serde_json::{Value, json};

use super::golden::item;
use super::lease::lease_attributes;
use super::*;

const ME: &str = "01010101-0101-4101-8101-010101010101";

fn me() -> Incarnation {
    Incarnation::from_random_bytes([1; 16])
}

fn identity() -> StreamIdentity {
    StreamIdentity {
        name: "trucks".into(),
        arn: "arn:aws:kinesis:eu-west-1:123456789012:stream/trucks".into(),
        created: Timestamp::from_millis(1_700_000_000_000),
    }
}

/// A child shard's lease as shard sync creates it.
fn new_lease() -> Lease {
    Lease {
        parents: ["shardId-000000000000".parse().unwrap()].into(),
        hash_range: Some(HashKeyRange::WHOLE),
        identity: Some(identity()),
        pinned_start: Some(Timestamp::from_millis(1_700_000_001_000)),
        ..Lease::unowned("shardId-000000000001".parse().unwrap(), Position::Latest)
    }
}

/// The same where the application reads many streams.
fn of_many_streams() -> Lease {
    Lease {
        key: LeaseKey::new("123456789012:trucks:1700000000:shardId-000000000001").unwrap(),
        stream: Some("123456789012:trucks:1700000000".parse().unwrap()),
        ..new_lease()
    }
}

/// The row after these changes, as `apply` says.
fn after(lease: &Lease, changes: impl IntoIterator<Item = LeaseChange>) -> Lease {
    changes
        .into_iter()
        .fold(lease.clone(), |row, change| apply(&row, &change, me()))
}

fn given_to(worker: &str) -> LeaseChange {
    LeaseChange::Assign {
        to: worker.parse().unwrap(),
    }
}

fn ended() -> [LeaseChange; 2] {
    let children = ["shardId-000000000002", "shardId-000000000003"].map(|shard| shard.parse().unwrap());
    [
        given_to("worker-1"),
        LeaseChange::End {
            children: children.into(),
        },
    ]
}

fn with(mut base: Value, more: Value) -> Value {
    let more = more.as_object().unwrap().clone();
    base.as_object_mut().unwrap().extend(more);
    base
}

/// The attributes that every row of `new_lease` shows, whatever happened to it.
fn always() -> Value {
    json!({
        "leaseKey": { "S": "shardId-000000000001" },
        "parentShardId": { "SS": ["shardId-000000000000"] },
        "startingHashKey": { "S": "0" },
        "endingHashKey": { "S": "340282366920938463463374607431768211455" },
        "rsPinnedStart": { "N": "1700000001000" },
        "rsStreamArn": { "S": "arn:aws:kinesis:eu-west-1:123456789012:stream/trucks" },
        "rsStreamCreated": { "N": "1700000000000" },
        "rsStreamName": { "S": "trucks" },
    })
}

fn many_streams() -> Value {
    json!({
        "leaseKey": { "S": "123456789012:trucks:1700000000:shardId-000000000001" },
        "streamName": { "S": "123456789012:trucks:1700000000" },
        "shardId": { "S": "shardId-000000000001" },
    })
}

fn untouched() -> Value {
    json!({
        "entityType": { "S": "LEASE" },
        "leaseCounter": { "N": "0" },
        "ownerSwitchesSinceCheckpoint": { "N": "0" },
        "checkpoint": { "S": "LATEST" },
        "checkpointSubSequenceNumber": { "N": "0" },
    })
}

fn finished() -> Value {
    json!({
        "leaseCounter": { "N": "2" },
        "ownerSwitchesSinceCheckpoint": { "N": "0" },
        "checkpoint": { "S": "SHARD_END" },
        "checkpointSubSequenceNumber": { "N": "0" },
        "childShardIds": { "SS": ["shardId-000000000002", "shardId-000000000003"] },
        "rsCounter": { "N": "2" },
        "rsIncarnation": { "S": ME },
    })
}

#[test]
fn new_lease_is_written_with_kind_without_owner() {
    assert_eq!(creation_item(&new_lease()), item(&with(always(), untouched())));
}

#[test]
fn new_lease_of_many_streams_names_its_stream() {
    let expected = with(with(always(), untouched()), many_streams());
    assert_eq!(creation_item(&of_many_streams()), item(&expected));
}

#[test]
fn lease_in_handoff_names_next_and_checkpoint_owner() {
    let handoff = [
        given_to("worker-1"),
        LeaseChange::Checkpoint {
            position: Position::parse("49680416556756428880067349872691", 3).unwrap(),
            finished_ahead: None,
            notes: OwnerNotes::NONE,
        },
        LeaseChange::Renew {
            notes: OwnerNotes {
                throughput: Some(1.25),
                ..OwnerNotes::NONE
            },
            facts: RowFacts {
                failover: Some(Duration::from_secs(30)),
                latest_at: Some(Timestamp::from_millis(1_700_000_002_000)),
                ..RowFacts::NONE
            },
        },
        LeaseChange::BeginHandoff {
            to: "worker-2".parse().unwrap(),
        },
    ];
    let expected = with(
        always(),
        json!({
            "leaseOwner": { "S": "worker-2" },
            "checkpointOwner": { "S": "worker-1" },
            "leaseCounter": { "N": "3" },
            "ownerSwitchesSinceCheckpoint": { "N": "0" },
            "checkpoint": { "S": "49680416556756428880067349872691" },
            "checkpointSubSequenceNumber": { "N": "3" },
            "throughputKBps": { "N": "1.25" },
            "rsCounter": { "N": "3" },
            "rsFailoverMillis": { "N": "30000" },
            "rsHandoffIncarnation": { "S": ME },
            "rsLatestAt": { "N": "1700000002000" },
            "rsIncarnation": { "S": ME },
        }),
    );
    let lease = after(&new_lease(), handoff);
    assert_eq!(lease_attributes(&lease), item(&expected));
    assert_eq!(decode_lease(&item(&expected)).unwrap(), lease);
}

/// As the Java KCL stores it, but for the position inside an aggregate, which Java drops.
#[test]
fn prepared_checkpoint_has_attributes_of_java() {
    let prepared = LeaseChange::Prepare {
        pending: Some(PendingCheckpoint {
            position: Position::parse("49680416556756428880067349872695", 2).unwrap(),
            state: Some("tx-17".into()),
        }),
    };
    let lease = after(&new_lease(), [given_to("worker-1"), prepared]);
    let expected = with(
        with(always(), untouched()),
        json!({
            "leaseOwner": { "S": "worker-1" },
            "leaseCounter": { "N": "2" },
            "pendingCheckpoint": { "S": "49680416556756428880067349872695" },
            "pendingCheckpointSubSequenceNumber": { "N": "2" },
            "rsCounter": { "N": "2" },
            "rsIncarnation": { "S": ME },
        }),
    );
    let mut expected = item(&expected);
    expected.remove("entityType");
    let state = AttributeValue::B(aws_sdk_dynamodb::primitives::Blob::new("tx-17"));
    expected.insert("pendingCheckpointState".to_owned(), state);
    assert_eq!(lease_attributes(&lease), expected);
    assert_eq!(decode_lease(&expected).unwrap(), lease);
}

#[test]
fn finished_lease_without_owner_names_its_children() {
    for (lease, keys) in [(new_lease(), json!({})), (of_many_streams(), many_streams())] {
        let expected = with(with(always(), finished()), keys);
        let lease = after(&lease, ended());
        assert_eq!(lease_attributes(&lease), item(&expected));
        assert_eq!(decode_lease(&item(&expected)).unwrap(), lease);
    }
}

#[test]
fn lock_is_item_of_java_with_our_standby() {
    let lock = LeaderLock {
        owner: "worker-1".parse().unwrap(),
        duration: Duration::from_secs(10),
        version: "909051ab-fad5-441c-82b3-56ea9af242e2".to_owned(),
        released: false,
        standby: None,
    };
    let bare = json!({
        "leaseKey": { "S": "Leader" },
        "entityType": { "S": "LEADER" },
        "ownerName": { "S": "worker-1" },
        "leaseDuration": { "S": "10000" },
        "recordVersionNumber": { "S": "909051ab-fad5-441c-82b3-56ea9af242e2" },
        "rsLock": { "N": "1" },
    });
    assert_eq!(encode_lock(&lock), item(&bare));
    let standby = Some("worker-2".parse().unwrap());
    let named = with(bare, json!({ "rsDeputy": { "S": "worker-2" } }));
    assert_eq!(encode_lock(&LeaderLock { standby, ..lock }), item(&named));
}

#[test]
fn worker_row_is_javas_with_our_own_facts() {
    let row = WorkerRow {
        id: "worker-1".parse().unwrap(),
        incarnation: Some(me()),
        touches: 9,
        failover: Some(Duration::from_secs(10)),
        max_leases: None,
        max_throughput: None,
        updated: Timestamp::from_millis(1_700_000_000_123),
        started: None,
        version: None,
        orders: None,
    };
    let expected = json!({
        "entityType": { "S": "WORKER_METRIC_STATS" },
        "lut": { "N": "1700000000" },
        "sts": { "M": {} },
        "opr": { "M": {} },
        "sup": { "N": "1" },
        "slu": { "N": "1700000000" },
        "rsIncarnation": { "S": ME },
        "rsTouches": { "N": "9" },
        "rsFailoverMillis": { "N": "10000" },
        "rsUpdatedMillis": { "N": "1700000000123" },
    });
    assert_eq!(worker_attributes(&row), item(&expected));
}

#[test]
fn new_client_version_has_one_entry_of_history() {
    let (application, worker) = ("app".parse().unwrap(), "worker-1".parse().unwrap());
    let written = client_version_item(&application, &worker, Timestamp::from_millis(1_700_000_000_123));
    let expected = json!({
        "leaseKey": { "S": "Migration3.0" },
        "entityType": { "S": "CLIENT_VERSION_MIGRATION" },
        "rsApplication": { "S": "app" },
        "cv": { "S": "CLIENT_VERSION_3X" },
        "mb": { "S": "worker-1" },
        "mts": { "N": "1700000000123" },
        "h": { "L": [{ "M": {
            "cv": { "S": "CLIENT_VERSION_INIT" },
            "mb": { "S": "worker-1" },
            "mts": { "N": "1700000000123" },
        }}]},
    });
    assert_eq!(written, item(&expected));
}
