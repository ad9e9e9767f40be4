//! The leader lock.

use std::time::Duration;

use kcl_core::lease_store::{LeaderLock, LockChange, LockExpect, LockOutcome};

use super::LeaseStoreFixture;
use super::support::{Handle, worker};

/// The lock as this worker holds it at this version.
pub(super) fn lock(owner: u32, version: &str) -> LeaderLock {
    LeaderLock {
        owner: worker(owner),
        duration: Duration::from_millis(10_500),
        version: version.to_owned(),
        released: false,
        standby: None,
    }
}

fn seen(lock: &LeaderLock) -> LockExpect {
    LockExpect::Version {
        version: lock.version.clone(),
        owner: lock.owner.clone(),
    }
}

async fn attempt(store: &Handle, expect: &LockExpect, change: LockChange) -> LockOutcome {
    store.change_lock(expect, &change).await.unwrap()
}

async fn hold(store: &Handle, expect: &LockExpect, lock: &LeaderLock) {
    let outcome = attempt(store, expect, LockChange::Hold(lock.clone())).await;
    assert_eq!(outcome, LockOutcome::Applied, "{lock:?} expecting {expect:?}");
    assert_eq!(store.read_lock().await.unwrap().as_ref(), Some(lock));
}

async fn refused(store: &Handle, expect: &LockExpect, change: LockChange) {
    let before = store.read_lock().await.unwrap();
    let outcome = attempt(store, expect, change).await;
    assert_eq!(
        outcome,
        LockOutcome::Refused,
        "expecting {expect:?} of {before:?}"
    );
    assert_eq!(store.read_lock().await.unwrap(), before);
}

/// A free lock is taken with everything the holder says, and read by every handle.
pub async fn a_free_lock_is_taken_and_reads_back(fixture: &dyn LeaseStoreFixture) {
    let (store, other) = (fixture.handle().await, fixture.handle().await);
    assert_eq!(store.read_lock().await.unwrap(), None);
    let held = LeaderLock {
        standby: Some(worker(2)),
        ..lock(1, "v1")
    };
    hold(&store, &LockExpect::Absent, &held).await;
    assert_eq!(other.read_lock().await.unwrap(), Some(held));
}

/// A lock that is held is not free.
pub async fn taking_a_held_lock_as_if_it_were_free_is_refused(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    hold(&store, &LockExpect::Absent, &lock(1, "v1")).await;
    refused(&store, &LockExpect::Absent, LockChange::Hold(lock(2, "v2"))).await;
}

/// Of two workers taking a free lock one becomes the leader.
pub async fn of_two_takers_of_a_free_lock_exactly_one_wins(fixture: &dyn LeaseStoreFixture) {
    let (a, b) = (fixture.handle().await, fixture.handle().await);
    let (by_a, by_b) = tokio::join!(
        attempt(&a, &LockExpect::Absent, LockChange::Hold(lock(1, "v1"))),
        attempt(&b, &LockExpect::Absent, LockChange::Hold(lock(2, "v2"))),
    );
    assert_ne!(by_a, by_b);
    let winner = if by_a == LockOutcome::Applied {
        lock(1, "v1")
    } else {
        lock(2, "v2")
    };
    assert_eq!(a.read_lock().await.unwrap(), Some(winner));
}

/// The holder's heartbeat needs the version that it wrote last.
pub async fn a_heartbeat_under_an_old_version_is_refused(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let (first, second) = (
        lock(1, "v1"),
        LeaderLock {
            standby: Some(worker(3)),
            ..lock(1, "v2")
        },
    );
    hold(&store, &LockExpect::Absent, &first).await;
    hold(&store, &seen(&first), &second).await;
    refused(&store, &seen(&first), LockChange::Hold(lock(1, "v3"))).await;
    hold(&store, &seen(&second), &lock(1, "v3")).await;
}

/// A challenger takes the lock as it saw it stand still; the former leader's heartbeat is refused.
pub async fn a_challenger_takes_the_lock_as_it_saw_it_last(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let (dead, taken) = (lock(1, "v1"), lock(2, "v2"));
    hold(&store, &LockExpect::Absent, &dead).await;
    hold(&store, &seen(&dead), &taken).await;
    refused(&store, &seen(&dead), LockChange::Hold(lock(1, "v3"))).await;
    refused(&store, &seen(&dead), LockChange::Release).await;
}

/// Version and owner must both be as seen.
pub async fn the_version_of_another_owner_is_not_enough(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    hold(&store, &LockExpect::Absent, &lock(1, "v1")).await;
    refused(&store, &seen(&lock(2, "v1")), LockChange::Hold(lock(2, "v2"))).await;
}

/// A lock that is given up is free at once.
pub async fn a_released_lock_is_free(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let held = lock(1, "v1");
    hold(&store, &LockExpect::Absent, &held).await;
    assert_eq!(
        attempt(&store, &seen(&held), LockChange::Release).await,
        LockOutcome::Applied
    );
    assert_eq!(store.read_lock().await.unwrap(), None);
    refused(&store, &seen(&held), LockChange::Release).await;
    refused(&store, &seen(&held), LockChange::Hold(lock(1, "v2"))).await;
    hold(&store, &LockExpect::Absent, &lock(2, "v3")).await;
}

/// Java gives a lock up by marking the row; the mark is read and can be overwritten.
pub async fn the_mark_of_a_lock_given_up_survives_being_stored(fixture: &dyn LeaseStoreFixture) {
    let store = fixture.handle().await;
    let marked = LeaderLock {
        released: true,
        ..lock(1, "v1")
    };
    hold(&store, &LockExpect::Absent, &marked).await;
    hold(&store, &seen(&marked), &lock(2, "v2")).await;
}
