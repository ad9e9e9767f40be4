//! The owner's heartbeat.

use std::time::Duration;

use kcl_core::lease_store::{Certainty, Expect, Lease, LeaseChange, OwnerNotes, RowFacts, StoreErrorKind};
use kcl_core::types::{StreamIdentity, Timestamp};

use super::LeaseStoreFixture;
use super::support::{
    assign, at, attempt, change, checkpoint, create, end, expecting, hand_off, incarnation, lease, one_won,
    owned, read, refused, refused_expecting, renew, with_counter, worker,
};

/// A renewal moves the counter by one and nothing else that another worker could rely on.
pub async fn a_renewal_adds_one_to_the_counter_and_touches_no_checkpoint(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let row = change(&store, &row, checkpoint(77)).await;
    let renewed = change(&store, &row, renew()).await;
    assert_eq!(renewed.counter, row.counter + 1);
    assert_eq!(renewed.checkpoint, row.checkpoint);
}

/// Two renewals under one version: the second is refused.
pub async fn renewal_under_a_stale_counter_is_refused(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    change(&store, &row, renew()).await;
    refused(&store, &row, &renew()).await;
}

/// A counter that the row has not reached is no better than one that it has left.
pub async fn renewal_under_a_future_counter_is_refused(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    refused_expecting(&store, &row.key, &with_counter(&row, 1), &renew()).await;
}

/// The owner before sees the lease gone, whatever counter it tries.
pub async fn renewal_by_a_former_owner_is_refused(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let taken = change(&store, &row, assign(2)).await;
    refused(&store, &row, &renew()).await;
    refused_expecting(&store, &row.key, &with_counter(&row, taken.counter), &renew()).await;
}

/// Throughput and identity are stored when a renewal brings them, and stay when it does not. A checkpoint is a renewal.
pub async fn a_renewal_stores_the_facts_it_brings_and_leaves_the_others(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let row = create(&store, owned(1, 1)).await;
    let identity = StreamIdentity {
        name: "orders".into(),
        arn: "arn:aws:kinesis:eu-central-1:123456789012:stream/orders".into(),
        created: Timestamp::from_millis(1_690_000_000_456),
    };
    let facts = LeaseChange::Renew {
        notes: OwnerNotes {
            throughput: Some(2.25),
            ..OwnerNotes::NONE
        },
        facts: RowFacts {
            identity: Some(identity.clone()),
            latest_at: Some(Timestamp::from_millis(1_690_000_000_789)),
            ..RowFacts::NONE
        },
    };
    let row = change(&store, &row, facts).await;
    let row = change(&store, &row, renew()).await;
    let row = change(&store, &row, checkpoint(5)).await;
    assert_eq!(
        (row.throughput, row.identity.as_ref()),
        (Some(2.25), Some(&identity))
    );
    assert_eq!(row.latest_at, Some(Timestamp::from_millis(1_690_000_000_789)));
    let measured = LeaseChange::Checkpoint {
        position: at(6),
        finished_ahead: None,
        notes: OwnerNotes {
            throughput: Some(7.5),
            ..OwnerNotes::NONE
        },
    };
    let row = change(&store, &row, measured).await;
    assert_eq!((row.throughput, row.identity), (Some(7.5), Some(identity)));
}

/// The failover time that an owner stores is there for as long as it owns the lease, and no longer.
pub async fn the_failover_time_of_an_owner_goes_with_it(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let failover = Duration::from_secs(30);
    let told = LeaseChange::Renew {
        notes: OwnerNotes::NONE,
        facts: RowFacts {
            failover: Some(failover),
            ..RowFacts::NONE
        },
    };
    let row = create(&store, owned(1, 1)).await;
    let row = change(&store, &row, told).await;
    let row = change(&store, &row, renew()).await;
    let row = change(&store, &row, checkpoint(5)).await;
    let owned = change(&store, &row, hand_off(2)).await;
    assert_eq!(owned.failover, Some(failover), "it still processes the shard");
    let row = change(&store, &owned, LeaseChange::CancelHandoff).await;
    assert_eq!(row.failover, Some(failover));
    let row = change(&store, &row, hand_off(2)).await;
    let row = change(&store, &row, LeaseChange::CompleteHandoff).await;
    assert_eq!(row.failover, None, "it handed the lease over");
    let told = LeaseChange::Renew {
        notes: OwnerNotes::NONE,
        facts: RowFacts {
            failover: Some(failover * 2),
            ..RowFacts::NONE
        },
    };
    let row = change(&store, &row, told.clone()).await;
    let row = change(&store, &row, assign(3)).await;
    assert_eq!(row.failover, None, "the lease was assigned to another");
    let row = change(&store, &row, told).await;
    let row = change(&store, &row, LeaseChange::Release).await;
    assert_eq!(row.failover, None, "it gave the lease up");
}

/// A lease that is gone cannot be renewed back to life.
pub async fn renewal_of_an_absent_lease_is_refused_and_creates_nothing(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    refused(&store, &owned(1, 1), &renew()).await;
    assert_eq!(read(&store, &lease(1).key).await, None);
}

/// The owner renews while another worker takes: one of both is refused, and the row is the winner's.
pub async fn of_a_renewal_and_a_take_at_once_exactly_one_wins(fixture: &dyn LeaseStoreFixture) {
    let (a, b) = (fixture.handle().await, fixture.handle().await);
    for n in 1..=8 {
        let row = create(&a, owned(n, 1)).await;
        let (renewal, take) = (renew(), assign(2));
        let (renewed, taken) = tokio::join!(attempt(&a, &row, &renewal), attempt(&b, &row, &take));
        assert!(one_won([&renewed, &taken]), "{renewed:?} and {taken:?}");
        let owner = if matches!(renewed, kcl_core::lease_store::Outcome::Applied(_)) {
            1
        } else {
            2
        };
        let left = read(&a, &row.key).await.unwrap();
        assert_eq!((left.owner, left.counter), (Some(worker(owner)), 1));
    }
}

/// Two handles renew the same version, again and again: each time one renewal is made.
pub async fn of_two_renewals_of_one_version_exactly_one_is_made(fixture: &dyn LeaseStoreFixture) {
    let (a, b) = (fixture.handle().await, fixture.handle().await);
    let mut row = create(&a, owned(1, 1)).await;
    for _ in 0..10 {
        let renewal = renew();
        let (first, second) = tokio::join!(attempt(&a, &row, &renewal), attempt(&b, &row, &renewal));
        assert!(one_won([&first, &second]), "{first:?} and {second:?}");
        let left = read(&a, &row.key).await.unwrap();
        assert!(Expect::Version(left.version()) == with_counter(&row, row.counter + 1));
        row = left;
    }
}

/// A row whose counter can count no further is as it was after every change that would count: a write that would look like the next
/// is an error, and never made.
pub async fn counter_at_its_limit_is_moved_no_further(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let counter = Lease::LARGEST_COUNTER - 1;
    let row = create(
        &store,
        Lease {
            counter,
            ..owned(1, 1)
        },
    )
    .await;
    let last = change(&store, &row, renew()).await;
    assert_eq!(last.counter, Lease::LARGEST_COUNTER);
    for step in [
        renew(),
        checkpoint(5),
        assign(2),
        LeaseChange::Release,
        end([2, 3]),
    ] {
        let tried = store
            .change(&last.key, &expecting(&last, &step), &step, incarnation(1))
            .await;
        let error = tried.unwrap_err();
        assert_eq!(
            (error.kind(), error.certainty()),
            (StoreErrorKind::Data, Certainty::Definite),
            "{error}"
        );
        assert!(error.to_string().contains("limit"), "{error}");
        assert_eq!(read(&store, &last.key).await.as_ref(), Some(&last));
    }
    // It can still be removed.
    change(&store, &last, LeaseChange::Delete).await;
}
