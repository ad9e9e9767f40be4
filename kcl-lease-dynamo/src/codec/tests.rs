//! Cases that the recorded rows do not show: the one-table layout, many streams, private attributes, and broken rows.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use bytes::Bytes;
use kcl_core::lease_store::{
    FinishedAhead, LeaderLock, Lease, LeaseOrder, LeaseOrders, OrderAnswer, OrderAuthor, PendingCheckpoint,
    ResetPosition, WorkerRow, WriteStamp,
};
use kcl_core::types::{HashKeyRange, Position, RecordPosition, ShardId, StreamIdentity, Timestamp, WorkerId};
use proptest::prelude::*;

use super::lease::lease_attributes;
use super::*;

fn id(number: u8) -> Incarnation {
    Incarnation::from_random_bytes([number; 16])
}

fn shards(names: &[&str]) -> BTreeSet<ShardId> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// The records behind the checkpoint of a full lease.
fn finished_ahead() -> FinishedAhead {
    let base = Position::parse("12345678901234567890", 5).unwrap();
    let at = |sub_sequence| RecordPosition {
        sequence: "12345678901234567891".parse().unwrap(),
        sub_sequence,
    };
    FinishedAhead::of(&base, true, [(&at(0), false), (&at(1), true)]).unwrap()
}

fn full_lease() -> Lease {
    Lease {
        key: "123:trucks:1700000000:shardId-7".parse().unwrap(),
        shard: "shardId-7".parse().unwrap(),
        stream: Some("123:trucks:1700000000".parse().unwrap()),
        owner: Some("next".parse().unwrap()),
        checkpoint_owner: Some("current".parse().unwrap()),
        counter: 41,
        owner_switches: 3,
        checkpoint: Position::parse("12345678901234567890", 5).unwrap(),
        pending: Some(PendingCheckpoint {
            position: Position::parse("12345678901234567899", 2).unwrap(),
            state: Some(Bytes::from_static(b"state")),
        }),
        finished_ahead: Some(finished_ahead()),
        parents: shards(&["shardId-1", "shardId-2"]),
        children: shards(&["shardId-9"]),
        hash_range: Some(HashKeyRange::WHOLE),
        throughput: Some(1.5),
        stamp: Some(WriteStamp {
            incarnation: id(1),
            counter: 41,
        }),
        handoff_stamp: Some(id(2)),
        pinned_start: Some(Timestamp::from_millis(1_700_000_000_123)),
        latest_at: Some(Timestamp::from_millis(1_700_000_000_456)),
        failover: Some(Duration::from_secs(10)),
        identity: Some(StreamIdentity {
            name: "trucks".into(),
            arn: "arn:aws:kinesis:eu-west-1:123:stream/trucks".into(),
            created: Timestamp::from_millis(1_700_000_000_000),
        }),
        reset_at: Some(Timestamp::from_millis(1_700_000_000_789)),
        report: Some(Box::new("t1700000000 b1 f2 p3 wcallback".parse().unwrap())),
        orders: Some(Box::new(orders())),
        answer: Some(OrderAnswer {
            revision: 1,
            refused: Some("no".into()),
        }),
    }
}

fn orders() -> LeaseOrders {
    let author = OrderAuthor::new("ana").unwrap().because("why").unwrap();
    let orders = LeaseOrders::default().with(LeaseOrder::Pause, &author, Timestamp::from_millis(5));
    let to = ResetPosition::TrimHorizon;
    orders.with_reset(
        &to,
        ResetPosition::AtTimestamp(Timestamp::from_millis(12)),
        true,
        &author,
        Timestamp::from_millis(6),
    )
}

#[test]
fn every_field_of_a_lease_has_its_attribute() {
    let item = creation_item(&full_lease());
    let expected = [
        ("checkpoint", s("12345678901234567890")),
        ("checkpointOwner", s("current")),
        ("checkpointSubSequenceNumber", n(5)),
        ("childShardIds", AttributeValue::Ss(vec!["shardId-9".into()])),
        ("endingHashKey", s("340282366920938463463374607431768211455")),
        ("entityType", s("LEASE")),
        ("leaseCounter", n(41)),
        ("leaseKey", s("123:trucks:1700000000:shardId-7")),
        ("leaseOwner", s("next")),
        ("ownerSwitchesSinceCheckpoint", n(3)),
        (
            "parentShardId",
            AttributeValue::Ss(vec!["shardId-1".into(), "shardId-2".into()]),
        ),
        ("pendingCheckpoint", s("12345678901234567899")),
        ("pendingCheckpointState", AttributeValue::B(Blob::new("state"))),
        ("pendingCheckpointSubSequenceNumber", n(2)),
        ("rsCounter", n(41)),
        ("rsFailoverMillis", n(10_000)),
        (
            "rsFinishedAhead",
            AttributeValue::B(Blob::new(finished_ahead().encode())),
        ),
        ("rsHandoffIncarnation", s(id(2))),
        ("rsIncarnation", s(id(1))),
        ("rsLatestAt", n(1_700_000_000_456_u64)),
        ("rsOrders", lease_orders_value(&orders())),
        ("rsOrdersAnswered", n(1)),
        ("rsOrdersRefused", s("no")),
        ("rsOrdersRevision", n(2)),
        ("rsReport", s("t1700000000 b1 f2 p3 wcallback")),
        ("rsResetAt", n(1_700_000_000_789_i64)),
        ("rsPinnedStart", n(1_700_000_000_123_u64)),
        ("rsStreamArn", s("arn:aws:kinesis:eu-west-1:123:stream/trucks")),
        ("rsStreamCreated", n(1_700_000_000_000_u64)),
        ("rsStreamName", s("trucks")),
        ("shardId", s("shardId-7")),
        ("startingHashKey", s(0)),
        ("streamName", s("123:trucks:1700000000")),
        ("throughputKBps", n(1.5)),
    ];
    assert_eq!(
        item,
        expected.map(|(name, value)| (name.to_owned(), value)).into()
    );
    assert_eq!(decode_lease(&item).unwrap(), full_lease());
}

#[test]
fn new_lease_has_attributes_that_java_insists_on() {
    let lease = Lease::unowned("shardId-1".parse().unwrap(), Position::TrimHorizon);
    let item = creation_item(&lease);
    let names = item.keys().map(String::as_str).collect::<Vec<_>>();
    let expected = [
        "checkpoint",
        "checkpointSubSequenceNumber",
        "entityType",
        "leaseCounter",
        "leaseKey",
        "ownerSwitchesSinceCheckpoint",
    ];
    assert_eq!(names, expected);
    assert_eq!(decode_lease(&item).unwrap(), lease);
}

#[test]
fn row_without_required_attributes_is_not_a_lease() {
    for name in [attributes::COUNTER, attributes::CHECKPOINT, attributes::KEY] {
        let mut item = creation_item(&full_lease());
        item.remove(name);
        assert_eq!(decode_lease(&item).unwrap_err(), DecodeError::Missing(name));
    }
}

#[test]
fn numbers_at_their_limit_are_read() {
    for (digits, switches) in [
        ("18446744073709551615", u64::MAX),
        ("18446744073709551616", u64::MAX),
        ("99999999999999999999999999999999999999", u64::MAX),
        ("00000000000000000000000000000000000007", 7),
    ] {
        let mut item = creation_item(&full_lease());
        put(&mut item, attributes::COUNTER, n(Lease::LARGEST_COUNTER));
        put(&mut item, attributes::OWNER_SWITCHES, n(digits));
        let lease = decode_lease(&item).unwrap();
        assert_eq!(
            (lease.counter, lease.owner_switches),
            (Lease::LARGEST_COUNTER, switches)
        );
    }
}

#[test]
fn attribute_of_wrong_type_or_value_is_named() {
    let broken = [
        (
            attributes::COUNTER,
            s("7"),
            "attribute leaseCounter is not of type N",
        ),
        (
            attributes::OWNER,
            s(""),
            "attribute leaseOwner: the worker id is empty",
        ),
        (
            attributes::PENDING_STATE,
            n(0),
            "attribute pendingCheckpointState is not of type B",
        ),
        (
            attributes::PARENTS,
            s("shardId-1"),
            "attribute parentShardId is not of type SS",
        ),
        (
            attributes::COUNTER,
            n(-1),
            "attribute leaseCounter: invalid digit found in string",
        ),
        (
            attributes::COUNTER,
            n(9_223_372_036_854_775_808_u64),
            "attribute leaseCounter: 9223372036854775808 is beyond the largest counter, 9223372036854775807",
        ),
        (
            attributes::COUNTER,
            n("18446744073709551616"),
            "attribute leaseCounter: number too large to fit in target type",
        ),
        (
            attributes::OWNER_SWITCHES,
            n("1.5"),
            "attribute ownerSwitchesSinceCheckpoint: invalid digit found in string",
        ),
    ];
    for (name, value, problem) in broken {
        let mut item = creation_item(&full_lease());
        put(&mut item, name, value);
        let undecodable = decode_lease(&item).unwrap_err().of_row(&item);
        assert_eq!(undecodable.problem, problem);
        assert_eq!(undecodable.key, full_lease().key.as_str());
    }
}

#[test]
fn unreadable_finished_ahead_is_ignored() {
    let mut of_the_future = finished_ahead().encode();
    of_the_future[0] = 2;
    let broken = [
        s("text"),
        AttributeValue::B(Blob::new([])),
        AttributeValue::B(Blob::new(of_the_future)),
    ];
    for value in broken {
        let mut item = creation_item(&full_lease());
        put(&mut item, attributes::FINISHED_AHEAD, value);
        let expected = Lease {
            finished_ahead: None,
            ..full_lease()
        };
        assert_eq!(decode_lease(&item).unwrap(), expected);
    }
}

#[test]
fn mark_of_handoff_ended_by_java_is_none() {
    let mut item = creation_item(&full_lease());
    item.remove(attributes::CHECKPOINT_OWNER);
    assert_eq!(decode_lease(&item).unwrap().handoff_stamp, None);
}

#[test]
fn rows_differ_by_entity_type_or_reserved_keys() {
    let row = |key: &str, entity: Option<&str>| {
        let mut item = Item::new();
        put(&mut item, attributes::KEY, s(key));
        put_some(&mut item, attributes::ENTITY_TYPE, entity.map(s));
        kind(&item)
    };
    assert_eq!(row("shardId-1", None), RowKind::Lease);
    assert_eq!(row("shardId-1", Some("LEASE")), RowKind::Lease);
    assert_eq!(row("worker-1", Some("WORKER_METRIC_STATS")), RowKind::Worker);
    assert_eq!(row("Leader", Some("LEADER")), RowKind::Lock);
    assert_eq!(row("Leader", None), RowKind::Lock);
    assert_eq!(row("Migration3.0", None), RowKind::Other);
    for entity in [
        "CLIENT_VERSION_MIGRATION",
        "TABLE_MIGRATION",
        "STREAM",
        "OF_THE_FUTURE",
    ] {
        assert_eq!(row("x", Some(entity)), RowKind::Other);
    }
}

#[test]
fn worker_row_looks_like_java_without_metrics() {
    let worker = WorkerRow {
        id: "worker-1".parse().unwrap(),
        incarnation: Some(id(3)),
        touches: 9,
        failover: Some(Duration::from_secs(10)),
        max_leases: Some(4),
        max_throughput: Some(2048),
        updated: Timestamp::from_millis(1_700_000_000_123),
        started: None,
        version: None,
        orders: None,
    };
    let mut item = worker_attributes(&worker);
    let empty = || AttributeValue::M(Default::default());
    let expected = [
        ("entityType", s("WORKER_METRIC_STATS")),
        ("lut", n(1_700_000_000)),
        ("opr", empty()),
        ("rsFailoverMillis", n(10_000)),
        ("rsIncarnation", s(id(3))),
        ("rsMaxLeases", n(4)),
        ("rsMaxThroughputKBps", n(2048)),
        ("rsTouches", n(9)),
        ("rsUpdatedMillis", n(1_700_000_000_123_u64)),
        ("slu", n(1_700_000_000)),
        ("sts", empty()),
        ("sup", n(1)),
    ];
    assert_eq!(
        item,
        expected.map(|(name, value)| (name.to_owned(), value)).into()
    );
    put(&mut item, attributes::KEY, s("worker-1"));
    assert_eq!(decode_worker(&item).unwrap(), worker);

    // A Java worker with the same id wrote last.
    put(&mut item, attributes::UPDATED_SECS, n(1_700_000_030));
    assert_eq!(
        decode_worker(&item).unwrap().updated,
        Timestamp::from_millis(1_700_000_030_000)
    );
}

#[test]
fn lock_keeps_its_duration_as_text_of_milliseconds() {
    let lock = LeaderLock {
        owner: WorkerId::new("worker-1").unwrap(),
        duration: Duration::from_secs(10),
        version: "909051ab-fad5-441c-82b3-56ea9af242e2".to_owned(),
        released: true,
        standby: Some("worker-2".parse().unwrap()),
    };
    let item = encode_lock(&lock);
    let expected = [
        ("entityType", s("LEADER")),
        ("isReleased", s("1")),
        ("leaseDuration", s("10000")),
        ("leaseKey", s("Leader")),
        ("ownerName", s("worker-1")),
        ("recordVersionNumber", s("909051ab-fad5-441c-82b3-56ea9af242e2")),
        ("rsDeputy", s("worker-2")),
        ("rsLock", n(1)),
    ];
    assert_eq!(
        item,
        expected.map(|(name, value)| (name.to_owned(), value)).into()
    );
    assert_eq!(decode_lock(&item).unwrap(), lock);
}

#[test]
fn throughput_has_at_most_six_decimals() {
    for (value, text) in [
        (1.617_262, "1.617262"),
        (0.000_045, "0.000045"),
        (12.0, "12"),
        (1e-300, "0"),
        (-0.1, "0"),
        (f64::NAN, "0"),
        (f64::INFINITY, "0"),
        (0.123_456_7, "0.123457"),
    ] {
        assert_eq!(throughput_text(value), text);
    }
}

proptest! {
    #[test]
    fn a_lease_of_one_stream_round_trips(
        counter in 0..=Lease::LARGEST_COUNTER,
        switches in any::<u64>(),
        owner in prop::option::of("[a-z]{1,9}"),
        checkpoint in prop_oneof![Just("LATEST"), Just("AT_TIMESTAMP"), Just("SHARD_END"), Just("170141183460469231731687303715884105726")],
        throughput in prop::option::of((0_u32..4_000_000).prop_map(|micros| f64::from(micros) / 1e6)),
        pinned in prop::option::of(any::<i64>()),
        range in prop::option::of((any::<u128>(), any::<u128>())),
        stamp in prop::option::of((any::<[u8; 16]>(), any::<u64>())),
    ) {
        let lease = Lease {
            orders: pinned.map(|at| Box::new(LeaseOrders { revision: at.unsigned_abs(), ..orders() })),
            owner: owner.map(|owner| owner.parse().unwrap()),
            counter,
            owner_switches: switches,
            throughput,
            pinned_start: pinned.map(Timestamp::from_millis),
            hash_range: range.map(|(a, b)| HashKeyRange::new(a.min(b), a.max(b)).unwrap()),
            stamp: stamp.map(|(bytes, counter)| WriteStamp { incarnation: Incarnation::from_random_bytes(bytes), counter }),
            ..Lease::unowned("shardId-1".parse().unwrap(), Position::parse(checkpoint, 0).unwrap())
        };
        prop_assert_eq!(decode_lease(&lease_attributes(&lease)).unwrap(), lease);
    }
}
