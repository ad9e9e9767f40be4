use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::lifecycle::ConsumerEnd;
use crate::model::LeaseKey;
use crate::monitor::Monitor;

/// The leases of a worker, and those it is about to take up.
///
/// From the moment a lease is expected until its consumer has ended it is in here without a gap, so nobody finds the worker empty
/// while a lease passes from the one to the other.
pub(super) struct Holdings<T>(Monitor<State<T>>);

struct State<T> {
    held: BTreeMap<LeaseKey, T>,
    /// Leases that a task is taking up or waiting for.
    expected: BTreeSet<LeaseKey>,
    /// How the leases ended that the worker had when it began to leave.
    ends: BTreeMap<LeaseKey, ConsumerEnd>,
}

impl<T: Clone> Holdings<T> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Monitor::new(State {
            held: BTreeMap::new(),
            expected: BTreeSet::new(),
            ends: BTreeMap::new(),
        })))
    }

    /// Those keys that are neither held nor being taken up.
    pub(super) fn not_known(&self, keys: BTreeSet<LeaseKey>) -> Vec<LeaseKey> {
        self.0.look(|state| {
            let is_new = |key: &LeaseKey| !state.held.contains_key(key) && !state.expected.contains(key);
            keys.into_iter().filter(is_new).collect()
        })
    }

    /// The lease is being taken up, until what this returns is dropped.
    pub(super) fn expect(self: &Arc<Self>, key: LeaseKey) -> Expected<T> {
        // One more that is not done: nobody waits for that.
        self.0.change_unseen(|state| state.expected.insert(key.clone()));
        Expected {
            holdings: Arc::clone(self),
            key,
        }
    }

    /// The worker holds an expected lease now.
    pub(super) fn hold(&self, key: LeaseKey, held: T) {
        self.0.change_unseen(|state| state.held.insert(key, held));
    }

    /// The consumer of a lease is done. How that ended is kept for whoever asks, if it matters.
    pub(super) fn end(&self, key: &LeaseKey, end: Option<ConsumerEnd>) {
        self.0.change(|state| {
            state.held.remove(key);
            if let Some(end) = end {
                state.ends.insert(key.clone(), end);
            }
        });
    }

    /// A lease was given back with which nothing was begun.
    pub(super) fn gave_back(&self, key: LeaseKey) {
        self.0
            .change_unseen(|state| state.ends.insert(key, ConsumerEnd::Released));
    }

    /// What the worker holds now.
    pub(super) fn held(&self) -> Vec<T> {
        self.0.look(|state| state.held.values().cloned().collect())
    }

    /// How many leases the worker holds or is about to take up or give back.
    pub(super) fn unfinished(&self) -> usize {
        self.0.look(|state| state.held.len() + state.expected.len())
    }

    /// How what the worker had when it began to leave has ended.
    pub(super) fn take_ends(&self) -> BTreeMap<LeaseKey, ConsumerEnd> {
        self.0.change_unseen(|state| std::mem::take(&mut state.ends))
    }

    /// Returns once the worker holds no lease and takes none up.
    pub(super) async fn empty(&self) {
        let is_empty = |state: &State<T>| state.held.is_empty() && state.expected.is_empty();
        self.0.wait_for(|state| is_empty(state).then_some(())).await;
    }
}

/// A lease that a task takes up, for as long as the task lives, however it ends.
pub(super) struct Expected<T> {
    holdings: Arc<Holdings<T>>,
    key: LeaseKey,
}

impl<T> Expected<T> {
    pub(super) fn key(&self) -> &LeaseKey {
        &self.key
    }
}

impl<T> Drop for Expected<T> {
    fn drop(&mut self) {
        self.holdings.0.change(|state| state.expected.remove(&self.key));
    }
}
