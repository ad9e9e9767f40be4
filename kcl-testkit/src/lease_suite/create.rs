//! Creating leases, and storing what they hold.

use bytes::Bytes;
use kcl_core::lease_store::{
    Expect, Lease, LeaseChange, OwnerNotes, PendingCheckpoint, StoreErrorKind, WriteStamp,
};
use kcl_core::types::{
    HashKeyRange, LeaseKey, Position, RecordPosition, SequenceNumber, StreamIdentity, StreamKey, Timestamp,
};

use super::LeaseStoreFixture;
use super::support::{
    at, change, create, finished_ahead, incarnation, lease, one_won, owned, read, refused_expecting, renew,
    shards, worker,
};

/// An empty table has no lease; one that is created there reads back as it was written, by every handle.
pub async fn a_lease_created_in_an_empty_table_reads_back_as_it_was_written(fixture: &dyn LeaseStoreFixture) {
    let (store, other) = (fixture.handle().await, fixture.handle().await);
    assert_eq!(read(&store, &lease(1).key).await, None);
    let created = create(&store, lease(1)).await;
    assert_eq!(read(&other, &created.key).await, Some(created));
}

/// Creating again is refused, shows the first, and leaves it.
pub async fn creating_a_lease_twice_is_refused_and_leaves_the_first(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let first = create(&store, owned(1, 1)).await;
    let again = LeaseChange::Create(Box::new(owned(1, 2)));
    refused_expecting(&store, &first.key, &Expect::Absent, &again).await;
}

/// Of two at once one wins, and its row is the one that stays.
pub async fn of_two_handles_creating_one_lease_exactly_one_wins(fixture: &dyn LeaseStoreFixture) {
    let (a, b) = (fixture.handle().await, fixture.handle().await);
    let (by_a, by_b) = (owned(1, 1), owned(1, 2));
    let (create_a, create_b) = (
        LeaseChange::Create(Box::new(by_a.clone())),
        LeaseChange::Create(Box::new(by_b.clone())),
    );
    let (outcome_a, outcome_b) = tokio::join!(
        a.change(&by_a.key, &Expect::Absent, &create_a, incarnation(1)),
        b.change(&by_a.key, &Expect::Absent, &create_b, incarnation(2)),
    );
    let (outcome_a, outcome_b) = (outcome_a.unwrap(), outcome_b.unwrap());
    assert!(
        one_won([&outcome_a, &outcome_b]),
        "{outcome_a:?} and {outcome_b:?}"
    );
    let winner = if matches!(outcome_a, kcl_core::lease_store::Outcome::Applied(_)) {
        by_a
    } else {
        by_b
    };
    assert_eq!(read(&a, &winner.key).await, Some(winner));
}

/// Nothing is lost of a lease before its first checkpoint, of one in the middle of everything, or of one among many streams.
pub async fn every_field_of_a_lease_survives_being_stored(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    create(&store, fresh()).await;
    create(&store, busy()).await;
    let renewed = change(&store, &busy(), renew()).await;
    assert_eq!(renewed.pending, busy().pending);

    let stream = StreamKey::new("123456789012:orders:1700000000").unwrap();
    let of_many = Lease {
        key: LeaseKey::new(format!("{stream}:{}", lease(3).shard)).unwrap(),
        stream: Some(stream),
        ..lease(3)
    };
    create(&store, of_many).await;
}

fn fresh() -> Lease {
    Lease {
        checkpoint: Position::AtTimestamp,
        pinned_start: Some(Timestamp::from_millis(1_700_000_000_123)),
        identity: Some(StreamIdentity {
            name: "orders".into(),
            arn: "arn:aws:kinesis:eu-central-1:123456789012:stream/orders".into(),
            created: Timestamp::from_millis(1_690_000_000_456),
        }),
        ..owned(1, 1)
    }
}

fn busy() -> Lease {
    let inside_an_aggregate = Position::Record(RecordPosition {
        sequence: SequenceNumber::from(7_000_000_000_000),
        sub_sequence: 12,
    });
    Lease {
        checkpoint_owner: Some(worker(2)),
        counter: 41,
        owner_switches: 3,
        checkpoint: inside_an_aggregate.clone(),
        pending: Some(PendingCheckpoint {
            position: inside_an_aggregate,
            state: Some(Bytes::from_static(b"\x00prepared\xff")),
        }),
        finished_ahead: finished_ahead(6_999_999_999_990, 7_000_000_000_010),
        parents: shards([7]),
        children: shards([8, 9]),
        hash_range: Some(HashKeyRange::new(5, 10).unwrap()),
        throughput: Some(12.5),
        stamp: Some(WriteStamp {
            incarnation: incarnation(3),
            counter: 41,
        }),
        handoff_stamp: Some(incarnation(4)),
        ..owned(2, 1)
    }
}

/// Each of the words that stand for a position, as checkpoint.
pub async fn every_sentinel_checkpoint_survives_being_stored(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let sentinels = [
        Position::AtTimestamp,
        Position::TrimHorizon,
        Position::Latest,
        Position::ShardEnd,
    ];
    for (n, checkpoint) in (1..).zip(sentinels) {
        create(
            &store,
            Lease {
                checkpoint,
                ..lease(n)
            },
        )
        .await;
    }
}

/// Sequence numbers are longer than any integer type.
pub async fn a_sequence_number_of_129_digits_survives_being_stored(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    for (n, digits) in (1..).zip([1, 38, 39, 60, 129]) {
        let sequence = SequenceNumber::new("9".repeat(digits)).unwrap();
        let checkpoint = Position::Record(RecordPosition::plain(sequence));
        create(
            &store,
            Lease {
                checkpoint,
                ..lease(n)
            },
        )
        .await;
    }
}

/// Hash keys are 128 bits wide, more than the 38 digits of a DynamoDB number.
pub async fn hash_ranges_at_the_extremes_survive_being_stored(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let ranges = [
        (0, 0),
        (0, u128::MAX),
        (u128::MAX - 1, u128::MAX),
        (u128::MAX, u128::MAX),
    ];
    for (n, (start, end)) in (1..).zip(ranges) {
        let hash_range = Some(HashKeyRange::new(start, end).unwrap());
        create(
            &store,
            Lease {
                hash_range,
                ..lease(n)
            },
        )
        .await;
    }
}

/// A first shard has no parent, the child of a split one, that of a merge two.
pub async fn leases_with_no_one_and_two_parents_survive_being_stored(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    for (n, parents) in [(1, vec![]), (2, vec![1]), (4, vec![2, 3])] {
        create(
            &store,
            Lease {
                parents: shards(parents),
                ..lease(n)
            },
        )
        .await;
    }
}

/// A change under an expectation that is not its own is a mistake of the caller, and touches nothing.
pub async fn a_change_that_does_not_fit_its_expectation_is_an_error_and_touches_nothing(
    fixture: &dyn LeaseStoreFixture,
) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let mistakes = [
        (Expect::Absent, renew()),
        (
            Expect::Present,
            LeaseChange::Checkpoint {
                position: at(9),
                finished_ahead: None,
                notes: OwnerNotes::NONE,
            },
        ),
        (Expect::Present, LeaseChange::Delete),
        (Expect::Version(row.version()), LeaseChange::CompleteHandoff),
        (Expect::Version(row.version()), LeaseChange::CancelHandoff),
        (
            Expect::Owners {
                owner: Some(worker(1)),
                checkpoint_owner: None,
            },
            LeaseChange::BeginHandoff { to: worker(1) },
        ),
        (
            Expect::Owners {
                owner: None,
                checkpoint_owner: None,
            },
            LeaseChange::BeginHandoff { to: worker(2) },
        ),
    ];
    for (expect, change) in mistakes {
        let error = store
            .change(&row.key, &expect, &change, incarnation(1))
            .await
            .unwrap_err();
        assert_eq!(
            error.kind(),
            StoreErrorKind::Invalid,
            "{change:?} expecting {expect:?}"
        );
        assert_eq!(error.certainty(), kcl_core::lease_store::Certainty::Definite);
        assert_eq!(read(&store, &row.key).await.as_ref(), Some(&row));
    }
}
