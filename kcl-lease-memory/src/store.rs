use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use kcl_core::lease_store::{
    Capabilities, Expect, LeaderLock, Lease, LeaseChange, LeaseStore, LockChange, LockExpect, LockOutcome,
    Outcome, Preparation, Scan, StoreError, WorkerChange, WorkerOutcome,
};
use kcl_core::types::{Incarnation, LeaseKey, WorkerId};

use crate::storage::Storage;

/// Rows per page of a scan when nothing else is said: about what DynamoDB returns of lease rows in its 1 MiB page.
const PAGE: NonZeroU32 = NonZeroU32::new(1000).unwrap();

/// Leases, worker rows and the leader lock in memory.
///
/// A clone is another handle on the same storage. Every call is one atomic step, done at the first poll of its future;
/// no call fails but those that make no sense.
///
/// ```
/// use kcl_core::lease_store::{Expect, Lease, LeaseChange, LeaseStore, Outcome};
/// use kcl_core::types::{Incarnation, Position, ShardId};
/// use kcl_lease_memory::MemoryLeaseStore;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryLeaseStore::new();
/// let other_handle = store.clone();
/// let lease = Lease::unowned(ShardId::new("shardId-000000000000")?, Position::TrimHorizon);
/// let create = LeaseChange::Create(Box::new(lease.clone()));
/// let incarnation = Incarnation::from_random_bytes([1; 16]);
///
/// let outcome = store.change(&lease.key, &Expect::Absent, &create, incarnation).await?;
/// assert!(matches!(outcome, Outcome::Applied(_)));
/// let outcome = other_handle.change(&lease.key, &Expect::Absent, &create, incarnation).await?;
/// assert!(matches!(outcome, Outcome::Refused { .. }));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct MemoryLeaseStore {
    storage: Arc<Mutex<Storage>>,
    owner_index: bool,
    page: NonZeroU32,
}

impl MemoryLeaseStore {
    /// A storage without rows, and the first handle on it.
    pub fn new() -> Self {
        Self {
            storage: Arc::default(),
            owner_index: true,
            page: PAGE,
        }
    }

    /// The same storage through a handle whose [`owned_by`](LeaseStore::owned_by) answers `None`, as a table does whose index is not there yet.
    #[must_use]
    pub fn without_owner_index(mut self) -> Self {
        self.owner_index = false;
        self
    }

    /// The same storage through a handle that counts this many rows to a page of a scan; 1000 when nothing is said.
    #[must_use]
    pub fn with_page_size(mut self, rows: NonZeroU32) -> Self {
        self.page = rows;
        self
    }

    fn lock(&self) -> MutexGuard<'_, Storage> {
        // A step cannot panic half done, so the rows are whole even if a thread died holding the lock.
        self.storage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryLeaseStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl LeaseStore for MemoryLeaseStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            owner_index: self.owner_index,
            refusal_shows_row: true,
        }
    }

    async fn prepare(&self, preparation: &Preparation) -> Result<(), StoreError> {
        self.lock().prepare(&preparation.application)
    }

    async fn scan(&self) -> Result<Scan, StoreError> {
        let storage = self.lock();
        let rows = u32::try_from(storage.rows()).unwrap_or(u32::MAX);
        Ok(Scan {
            leases: storage.leases.values().cloned().collect(),
            workers: storage.workers.values().cloned().collect(),
            lock: storage.lock.clone(),
            undecodable: Vec::new(),
            pages: rows.div_ceil(self.page.get()).max(1),
        })
    }

    async fn read(&self, key: &LeaseKey) -> Result<Option<Lease>, StoreError> {
        Ok(self.lock().leases.get(key).cloned())
    }

    async fn owned_by(&self, worker: &WorkerId) -> Result<Option<Vec<LeaseKey>>, StoreError> {
        if !self.owner_index {
            return Ok(None);
        }
        let storage = self.lock();
        let owned = storage
            .leases
            .values()
            .filter(|lease| lease.owner.as_ref() == Some(worker));
        Ok(Some(owned.map(|lease| lease.key.clone()).collect()))
    }

    async fn change(
        &self,
        key: &LeaseKey,
        expect: &Expect,
        change: &LeaseChange,
        incarnation: Incarnation,
    ) -> Result<Outcome, StoreError> {
        self.lock().change(key, expect, change, incarnation)
    }

    async fn change_worker(&self, change: &WorkerChange) -> Result<WorkerOutcome, StoreError> {
        Ok(self.lock().change_worker(change))
    }

    async fn read_lock(&self) -> Result<Option<LeaderLock>, StoreError> {
        Ok(self.lock().lock.clone())
    }

    async fn change_lock(&self, expect: &LockExpect, change: &LockChange) -> Result<LockOutcome, StoreError> {
        self.lock().change_lock(expect, change)
    }
}
