//! The leases that a worker holds or is about to take, and how the consumers of others ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::lifecycle::ConsumerEnd;
use crate::runtime::watched::Watched;
use crate::types::LeaseKey;

/// The leases of a worker, and those it is about to take up.
///
/// From the moment a lease is expected until its consumer has ended it is in here without a gap, so nobody finds the worker empty
/// while a lease passes from the one to the other.
pub(crate) struct HeldLeases<T>(Watched<HeldState<T>>);

struct HeldState<T> {
    held: BTreeMap<LeaseKey, T>,
    /// Leases that a task is taking up or waiting for.
    expected: BTreeSet<LeaseKey>,
    /// How the leases ended that the worker had when it began to leave.
    ends: BTreeMap<LeaseKey, ConsumerEnd>,
}

impl<T: Clone> HeldLeases<T> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Watched::new(HeldState {
            held: BTreeMap::new(),
            expected: BTreeSet::new(),
            ends: BTreeMap::new(),
        })))
    }

    /// Those keys that are neither held nor being taken up.
    pub(crate) fn filter_unknown(&self, keys: BTreeSet<LeaseKey>) -> Vec<LeaseKey> {
        self.0.read(|state| {
            let is_new = |key: &LeaseKey| !state.held.contains_key(key) && !state.expected.contains(key);
            keys.into_iter().filter(is_new).collect()
        })
    }

    /// The lease is being taken up, until what this returns is dropped. `None` if it is held or being taken up already.
    pub(crate) fn expect(self: &Arc<Self>, key: LeaseKey) -> Option<ExpectedLease<T>> {
        // One more that is not done: nobody waits for that.
        let is_new = self
            .0
            .modify_quietly(|state| !state.held.contains_key(&key) && state.expected.insert(key.clone()));
        is_new.then(|| ExpectedLease {
            held: Arc::clone(self),
            key,
        })
    }

    /// The worker holds an expected lease now.
    pub(crate) fn hold(&self, key: LeaseKey, held: T) {
        self.0.modify_quietly(|state| state.held.insert(key, held));
    }

    /// The consumer of a lease is done. How that ended is kept for whoever asks, if it matters: that is found out in the moment in which
    /// the lease goes, so of what is held when it begins to matter no end is missing.
    pub(crate) fn end(&self, key: &LeaseKey, end: ConsumerEnd, matters: impl FnOnce() -> bool) {
        self.0.modify(|state| {
            if matters() {
                state.ends.insert(key.clone(), end);
            }
            state.held.remove(key)
        });
    }

    /// A lease was given back with which nothing was started, by a worker that leaves.
    pub(crate) fn gave_back(&self, key: LeaseKey) {
        self.0
            .modify_quietly(|state| state.ends.insert(key, ConsumerEnd::Released));
    }

    /// The leases that the worker holds now.
    pub(crate) fn held(&self) -> Vec<T> {
        self.0.read(|state| state.held.values().cloned().collect())
    }

    /// How many leases the worker holds now.
    pub(crate) fn count(&self) -> usize {
        self.0.read(|state| state.held.len())
    }

    /// Returns `true` if the worker holds the lease now.
    pub(crate) fn holds(&self, key: &LeaseKey) -> bool {
        self.0.read(|state| state.held.contains_key(key))
    }

    /// How many leases the worker holds or is about to take up or give back.
    pub(crate) fn unfinished(&self) -> usize {
        self.0.read(|state| state.held.len() + state.expected.len())
    }

    /// How what the worker had when it began to leave has ended.
    pub(crate) fn take_ends(&self) -> BTreeMap<LeaseKey, ConsumerEnd> {
        self.0.modify_quietly(|state| std::mem::take(&mut state.ends))
    }

    /// Returns once the worker holds no lease and takes none up.
    pub(crate) async fn empty(&self) {
        let is_empty = |state: &HeldState<T>| state.held.is_empty() && state.expected.is_empty();
        self.0.wait_for(|state| is_empty(state).then_some(())).await;
    }
}

/// A lease that a task takes up, for as long as the task lives, however it ends.
pub(crate) struct ExpectedLease<T> {
    held: Arc<HeldLeases<T>>,
    key: LeaseKey,
}

impl<T> ExpectedLease<T> {
    pub(crate) fn key(&self) -> &LeaseKey {
        &self.key
    }
}

impl<T> Drop for ExpectedLease<T> {
    fn drop(&mut self) {
        self.held.0.modify(|state| state.expected.remove(&self.key));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::ownership::control::{Commands, DrainReason};
    use crate::runtime::clock::BoxFuture;
    use crate::runtime::watched::explored::{Crossroads, explore_some, fails, run_all};
    use crate::types::ShardId;

    #[derive(Clone, Copy, PartialEq)]
    enum Mistake {
        None,
        /// The lease is expected no more before it is held.
        LeavesGap,
        /// Whether the end matters is found out before the lease goes.
        AsksEarly,
        /// A consumer that begins does not look whether the worker leaves meanwhile.
        LooksAway,
    }

    struct Lease {
        key: LeaseKey,
        commands: Watched<Commands>,
        is_done: AtomicBool,
    }

    impl Lease {
        fn drain(&self) {
            self.commands
                .modify(|commands| commands.drain(DrainReason::Shutdown));
        }
    }

    /// The steps of a worker and a lease that it takes up, as in `Grants`.
    #[derive(Clone)]
    struct Fixture {
        held: Arc<HeldLeases<Arc<Lease>>>,
        leaving: CancellationToken,
        crossroads: Arc<Crossroads>,
        mistake: Mistake,
    }

    impl Fixture {
        fn is_leaving(&self) -> bool {
            self.crossroads.pass();
            self.leaving.is_cancelled()
        }

        /// Takes the lease up, consumes it until it is drained or by itself is done, and lets it go.
        fn take(&self, lease: &Arc<Lease>, ends_by_itself: bool) -> BoxFuture<'static, ()> {
            let (fixture, lease) = (self.clone(), Arc::clone(lease));
            let mut expected = self.held.expect(lease.key.clone());
            Box::pin(async move {
                if fixture.mistake == Mistake::LeavesGap {
                    expected = None;
                }
                fixture.held.hold(lease.key.clone(), Arc::clone(&lease));
                if fixture.mistake != Mistake::LooksAway && fixture.is_leaving() {
                    lease.drain();
                }
                drop(expected);
                if !ends_by_itself {
                    lease.commands.wait_for(Commands::drain_reason).await;
                }
                lease.is_done.store(true, Ordering::SeqCst);
                let early = fixture.mistake == Mistake::AsksEarly && fixture.is_leaving();
                let matters = || match fixture.mistake {
                    Mistake::AsksEarly => early,
                    Mistake::None | Mistake::LeavesGap | Mistake::LooksAway => fixture.is_leaving(),
                };
                fixture.held.end(&lease.key, ConsumerEnd::Released, matters);
            })
        }

        /// Leaves: drains what is held, and waits until nothing is.
        fn leave(&self, leases: Vec<Arc<Lease>>) -> BoxFuture<'static, ()> {
            let fixture = self.clone();
            Box::pin(async move {
                fixture.crossroads.pass();
                fixture.leaving.cancel();
                let held = fixture.held.held();
                for lease in fixture.held.held() {
                    lease.drain();
                }
                fixture.held.empty().await;
                let is_done = |lease: &Arc<Lease>| lease.is_done.load(Ordering::SeqCst);
                assert!(leases.iter().all(is_done), "left too early");
                let ends = fixture.held.take_ends();
                let is_known = |lease: &Arc<Lease>| ends.contains_key(&lease.key);
                assert!(held.iter().all(is_known), "an end is missing");
            })
        }
    }

    fn a_worker_leaves(mistake: Mistake) {
        let fixture = Fixture {
            held: HeldLeases::new(),
            leaving: CancellationToken::new(),
            crossroads: Arc::default(),
            mistake,
        };
        let lease = |n: u32| {
            let shard = ShardId::new(format!("shardId-{n:012}")).unwrap();
            Arc::new(Lease {
                key: LeaseKey::single_stream(&shard),
                commands: Watched::default(),
                is_done: AtomicBool::new(false),
            })
        };
        let (drained, done) = (lease(0), lease(1));
        run_all(vec![
            fixture.take(&drained, false),
            fixture.take(&done, true),
            fixture.leave(vec![drained, done]),
        ]);
        assert_eq!(fixture.held.unfinished(), 0);
    }

    #[test]
    fn leaving_worker_misses_no_lease_in_any_order() {
        explore_some(5000, || a_worker_leaves(Mistake::None));
    }

    #[test]
    fn mistakes_in_taking_or_leaving_leases_are_found() {
        assert!(fails("left too early", || a_worker_leaves(Mistake::LeavesGap)));
        assert!(fails("an end is missing", || a_worker_leaves(Mistake::AsksEarly)));
        assert!(fails("deadlock", || a_worker_leaves(Mistake::LooksAway)));
    }
}
