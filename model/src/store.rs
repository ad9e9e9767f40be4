//! One conditional write, as the store makes it.
//!
//! A state of a model holds rows, not a store. So each write goes through a [`MemoryLeaseStore`] that is made for it and holds
//! the one row: what is checked is the transition of the real store, with its conditions.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use kcl_core::lease_store::{
    Expect, LeaderLock, Lease, LeaseChange, LeaseStore as _, LockChange, LockExpect, LockOutcome, Outcome,
};
use kcl_core::types::{Incarnation, LeaseKey};
use kcl_lease_memory::MemoryLeaseStore;

/// Applies a change to this row.
pub(crate) fn change(
    row: Option<&Lease>,
    key: &LeaseKey,
    expect: &Expect,
    change: &LeaseChange,
    incarnation: Incarnation,
) -> Outcome {
    let store = MemoryLeaseStore::new();
    if let Some(row) = row {
        let create = LeaseChange::Create(Box::new(row.clone()));
        at_once(store.change(key, &Expect::Absent, &create, incarnation))
            .expect("an empty table takes any row");
    }
    at_once(store.change(key, expect, change, incarnation)).expect("the model asks for sensible changes")
}

/// Applies a change to the leader lock. Returns the lock after it, too.
pub(crate) fn change_lock(
    lock: Option<&LeaderLock>,
    expect: &LockExpect,
    change: &LockChange,
) -> (LockOutcome, Option<LeaderLock>) {
    let store = MemoryLeaseStore::new();
    if let Some(lock) = lock {
        at_once(store.change_lock(&LockExpect::Absent, &LockChange::Hold(lock.clone())))
            .expect("an empty table takes any lock");
    }
    let outcome = at_once(store.change_lock(expect, change)).expect("the model asks for sensible changes");
    (outcome, at_once(store.read_lock()).expect("memory can be read"))
}

/// The memory store does each call at the first poll of its future.
fn at_once<T>(call: impl Future<Output = T>) -> T {
    match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("the memory store waits for something"),
    }
}
