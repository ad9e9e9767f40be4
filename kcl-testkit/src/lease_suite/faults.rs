//! Lost replies, failures and dropped callers.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::internals::{Resolution, resolve};
use kcl_core::lease_store::{Certainty, Expect, Lease, LeaseChange, LeaseStore as _, StoreErrorKind, apply};
use kcl_core::types::HashKeyRange;

use super::LeaseStoreFixture;
use super::support::{
    DISCARD, Handle, assign, change, checkpoint, create, end, expecting, hand_off, incarnation, lease, owned,
    prepare, read, refused, renew, shards,
};
use crate::faults::{Fault, FaultyLeaseStore, Operation};

/// Each change there is, with a row to make it on; `None` for creating.
async fn every_change(store: &Handle) -> Vec<(Option<Lease>, LeaseChange)> {
    let described = LeaseChange::Describe {
        children: Some(shards([90, 91])),
        hash_range: Some(HashKeyRange::WHOLE),
    };
    let mut cases = vec![(None, LeaseChange::Create(Box::new(owned(1, 1))))];
    let on_owned = [
        renew(),
        assign(2),
        hand_off(2),
        LeaseChange::Release,
        checkpoint(5),
        prepare(5, Some(b"state")),
        end([90, 91]),
        described,
        LeaseChange::Delete,
    ];
    for (n, change) in (2..).zip(on_owned) {
        cases.push((Some(create(store, owned(n, 1)).await), change));
    }
    let in_handoff = [
        LeaseChange::CompleteHandoff,
        LeaseChange::CancelHandoff,
        LeaseChange::Release,
        renew(),
        checkpoint(5),
    ];
    for (n, step) in (20..).zip(in_handoff) {
        let row = create(store, owned(n, 1)).await;
        cases.push((Some(change(store, &row, hand_off(2)).await), step));
    }
    cases
}

fn faulty(store: Handle) -> FaultyLeaseStore {
    FaultyLeaseStore::new(store, Arc::new(TokioClock::new()))
}

fn parts(before: &Option<Lease>, change: &LeaseChange) -> (Lease, Expect) {
    let row = before.clone().unwrap_or_else(|| owned(1, 1));
    let expect = expecting(&row, change);
    (row, expect)
}

/// Whatever the change, a writer that lost the reply finds out through any handle that it was made.
pub async fn a_change_whose_reply_was_lost_is_found_to_be_made(fixture: &dyn LeaseStoreFixture) {
    let (inner, other) = (fixture.handle().await, fixture.handle().await);
    let store = faulty(Arc::clone(&inner));
    for (before, change) in every_change(&inner).await {
        let (row, expect) = parts(&before, &change);
        store.faults().once(Operation::Change, Fault::LoseReply);
        let error = store
            .change(&row.key, &expect, &change, incarnation(1))
            .await
            .unwrap_err();
        assert_eq!(error.certainty(), Certainty::Unknown);
        let shown = read(&other, &row.key).await;
        let resolution = resolve(shown.as_ref(), before.as_ref(), &expect, &change, incarnation(1));
        assert_eq!(resolution, Resolution::Applied, "{change:?} on {before:?}");
    }
}

/// Whatever the change, a writer whose request was lost finds out that it was not made, and may make it again.
pub async fn a_change_whose_request_was_lost_is_found_not_to_be_made(fixture: &dyn LeaseStoreFixture) {
    let (inner, other) = (fixture.handle().await, fixture.handle().await);
    for (before, change) in every_change(&inner).await {
        let (row, expect) = parts(&before, &change);
        let shown = read(&other, &row.key).await;
        let resolution = resolve(shown.as_ref(), before.as_ref(), &expect, &change, incarnation(1));
        assert_eq!(resolution, Resolution::NotYet, "{change:?} on {before:?}");
    }
}

/// Whatever the change, a definite failure leaves the row alone.
pub async fn a_definite_failure_leaves_the_row_alone(fixture: &dyn LeaseStoreFixture) {
    let (inner, other) = (fixture.handle().await, fixture.handle().await);
    let store = faulty(Arc::clone(&inner));
    for (before, change) in every_change(&inner).await {
        let (row, expect) = parts(&before, &change);
        let fault = Fault::Fail(StoreErrorKind::Throttled);
        store.faults().once(Operation::Change, fault);
        let error = store
            .change(&row.key, &expect, &change, incarnation(1))
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.certainty()),
            (StoreErrorKind::Throttled, Certainty::Definite)
        );
        assert_eq!(read(&other, &row.key).await, before, "after a failed {change:?}");
    }
}

/// Our worker id in another run of the process is somebody else, even at the same counter.
pub async fn the_write_of_another_run_of_the_worker_is_not_taken_for_our_own(
    fixture: &dyn LeaseStoreFixture,
) {
    let (store, other) = (fixture.handle().await, fixture.handle().await);
    let row = create(&store, owned(1, 1)).await;
    let (expect, renewal) = (expecting(&row, &renew()), renew());
    other
        .change(&row.key, &expect, &renewal, incarnation(9))
        .await
        .unwrap();
    let shown = read(&store, &row.key).await;
    let resolution = resolve(shown.as_ref(), Some(&row), &expect, &renewal, incarnation(1));
    assert_eq!(resolution, Resolution::Refused);
}

/// A writer that lost the reply of its renewal, and finds a handoff on top, still knows that its renewal was made.
pub async fn a_renewal_whose_reply_was_lost_is_found_under_a_handoff_begun_on_top(
    fixture: &dyn LeaseStoreFixture,
) {
    let (inner, planner) = (fixture.handle().await, fixture.handle().await);
    let store = faulty(Arc::clone(&inner));
    let row = create(&inner, owned(1, 1)).await;
    let (expect, renewal) = (expecting(&row, &renew()), renew());
    store.faults().once(Operation::Change, Fault::LoseReply);
    store
        .change(&row.key, &expect, &renewal, incarnation(1))
        .await
        .unwrap_err();
    let renewed = apply(&row, &renewal, incarnation(1));
    change(&planner, &renewed, hand_off(2)).await;
    let shown = read(&inner, &row.key).await;
    let resolution = resolve(shown.as_ref(), Some(&row), &expect, &renewal, incarnation(1));
    assert_eq!(resolution, Resolution::Applied);
}

/// A renewal whose reply is lost is not a lost lease: the owner reads the row, and goes on from what it shows.
pub async fn renewal_with_lost_reply_keeps_its_lease(fixture: &dyn LeaseStoreFixture) {
    let inner = fixture.handle().await;
    let store = faulty(Arc::clone(&inner));
    let row = create(&inner, owned(1, 1)).await;
    let (expect, renewal) = (expecting(&row, &renew()), renew());
    store.faults().once(Operation::Change, Fault::LoseReply);
    store
        .change(&row.key, &expect, &renewal, incarnation(1))
        .await
        .unwrap_err();
    refused(&inner, &row, &renew()).await;
    let shown = read(&inner, &row.key).await.unwrap();
    let resolution = resolve(Some(&shown), Some(&row), &expect, &renewal, incarnation(1));
    assert_eq!(resolution, Resolution::Applied);
    change(&inner, &shown, checkpoint(5)).await;
}

/// A caller that is dropped in the middle leaves the row as before or as after, never a mix.
pub async fn a_dropped_caller_leaves_the_row_before_or_after_and_never_a_mix(
    fixture: &dyn LeaseStoreFixture,
) {
    let (store, other) = (fixture.handle().await, fixture.handle().await);
    let clock = TokioClock::new();
    for n in 1..=20 {
        let row = create(&store, owned(n, 1)).await;
        let change = end([90, 91]);
        let (expect, after) = (expecting(&row, &change), apply(&row, &change, incarnation(1)));
        let patience = Duration::from_micros(u64::from(n) * 250);
        let call = pin!(store.change(&row.key, &expect, &change, incarnation(1)));
        if n > 1 {
            let _ = clock.timeout(patience, call).await;
        }
        let left = read(&other, &row.key).await.unwrap();
        assert!(
            left == row || left == after,
            "{left:?} is neither before nor after"
        );
    }
    assert_eq!(
        read(&other, &lease(1).key).await,
        Some(owned(1, 1)),
        "a call that is never polled does nothing"
    );
}

/// Of two prepared checkpoints with one counter the row shows which was stored: no other write of the owner takes it for its own.
pub async fn a_prepared_checkpoint_whose_reply_was_lost_is_found(fixture: &dyn LeaseStoreFixture) {
    let inner = fixture.handle().await;
    let store = faulty(Arc::clone(&inner));
    let row = create(&inner, owned(1, 1)).await;
    let (made, expect) = (prepare(5, Some(b"made")), expecting(&row, &renew()));
    store.faults().once(Operation::Change, Fault::LoseReply);
    let lost = store.change(&row.key, &expect, &made, incarnation(1)).await;
    assert_eq!(lost.unwrap_err().certainty(), Certainty::Unknown);
    let shown = read(&inner, &row.key).await;
    let verdict = |change: &LeaseChange| resolve(shown.as_ref(), Some(&row), &expect, change, incarnation(1));
    assert_eq!(verdict(&made), Resolution::Applied);
    for other in [
        prepare(5, Some(b"other")),
        prepare(6, Some(b"made")),
        DISCARD,
        renew(),
        checkpoint(5),
    ] {
        assert_eq!(verdict(&other), Resolution::OwnEarlierWrite, "{other:?}");
    }
}
