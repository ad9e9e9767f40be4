use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kcl_core::clock::Moment;
use kcl_core::lease_store::{
    Certainty, Expect, Lease, LeaseChange, LockChange, LockExpect, StoreErrorKind, WorkerChange,
};
use kcl_core::types::{Incarnation, LeaseKey, WorkerId};

/// The kinds of call of a lease store: what faults are aimed at and what is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// [`LeaseStore::prepare`](kcl_core::lease_store::LeaseStore::prepare).
    Prepare,
    /// [`LeaseStore::scan`](kcl_core::lease_store::LeaseStore::scan).
    Scan,
    /// [`LeaseStore::read`](kcl_core::lease_store::LeaseStore::read).
    Read,
    /// [`LeaseStore::owned_by`](kcl_core::lease_store::LeaseStore::owned_by).
    OwnedBy,
    /// [`LeaseStore::change`](kcl_core::lease_store::LeaseStore::change).
    Change,
    /// [`LeaseStore::change_worker`](kcl_core::lease_store::LeaseStore::change_worker).
    ChangeWorker,
    /// [`LeaseStore::read_lock`](kcl_core::lease_store::LeaseStore::read_lock).
    ReadLock,
    /// [`LeaseStore::change_lock`](kcl_core::lease_store::LeaseStore::change_lock).
    ChangeLock,
}

/// One call, with everything the caller asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum StoreCall {
    /// The storage was prepared.
    Prepare,
    /// Everything was read.
    Scan,
    /// One lease was read.
    Read(LeaseKey),
    /// The leases of one worker were looked up.
    OwnedBy(WorkerId),
    /// One lease was to be changed.
    Change {
        /// The key of the lease.
        key: LeaseKey,
        /// The condition of the change.
        expect: Expect,
        /// The change.
        change: LeaseChange,
        /// The run of the process that asked.
        incarnation: Incarnation,
    },
    /// One worker row was to be changed.
    ChangeWorker(WorkerChange),
    /// The leader lock was read.
    ReadLock,
    /// The leader lock was to be changed.
    ChangeLock {
        /// The condition of the change.
        expect: LockExpect,
        /// The change.
        change: LockChange,
    },
}

impl StoreCall {
    /// The kind of the call.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Prepare => Operation::Prepare,
            Self::Scan => Operation::Scan,
            Self::Read(_) => Operation::Read,
            Self::OwnedBy(_) => Operation::OwnedBy,
            Self::Change { .. } => Operation::Change,
            Self::ChangeWorker(_) => Operation::ChangeWorker,
            Self::ReadLock => Operation::ReadLock,
            Self::ChangeLock { .. } => Operation::ChangeLock,
        }
    }
}

/// The effect of a call on the storage, whatever its caller learned.
#[derive(Debug, Clone, PartialEq)]
pub enum Happened {
    /// The call never reached the storage.
    Nothing,
    /// A read was answered.
    Answered,
    /// A write was made; of a lease, this is the row after it.
    Applied(Option<Box<Lease>>),
    /// A write was refused, since its expectation did not hold.
    Refused,
    /// The wrapped store itself failed.
    Failed {
        /// Why.
        kind: StoreErrorKind,
        /// Whether a write may have happened nevertheless.
        certainty: Certainty,
    },
}

/// One call and its effect, reported at the moment it was done.
///
/// Over a store whose calls are one step, such as the one in memory, events come in the order in which the storage changed.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreEvent {
    /// When it was done, by the clock of the wrapper.
    pub at: Moment,
    /// The request.
    pub call: StoreCall,
    /// The effect.
    pub happened: Happened,
    /// Whether a fault keeps the answer from the caller.
    pub reply_lost: bool,
}

/// How many calls of each kind were made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreCounts {
    counts: BTreeMap<Operation, u64>,
}

impl StoreCounts {
    /// The calls of this kind.
    pub fn of(&self, operation: Operation) -> u64 {
        self.counts.get(&operation).copied().unwrap_or(0)
    }

    /// The calls of every kind.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    pub(super) fn add(&mut self, operation: Operation) {
        *self.counts.entry(operation).or_default() += 1;
    }
}

/// The latest events of one or many stores, in order. Clones share the events.
#[derive(Debug, Clone)]
pub struct StoreHistory {
    capacity: usize,
    events: Arc<Mutex<VecDeque<StoreEvent>>>,
}

impl StoreHistory {
    /// A history that keeps this many events and forgets the oldest first.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            events: Arc::default(),
        }
    }

    /// Adds an event.
    pub fn push(&self, event: &StoreEvent) {
        let mut events = self.lock();
        events.push_back(event.clone());
        while events.len() > self.capacity {
            events.pop_front();
        }
    }

    /// The events that are kept, the oldest first.
    pub fn events(&self) -> Vec<StoreEvent> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<StoreEvent>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
