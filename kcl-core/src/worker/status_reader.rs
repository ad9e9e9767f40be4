//! The status of a worker, asked of the worker and of the leases that it holds.

use std::fmt;
use std::sync::Arc;

use crate::ownership::Ownership;
use crate::ownership::held_leases::HeldLeases;
use crate::status::{WorkerState, WorkerStatus};

/// Reads what a worker is doing, for an endpoint of a server or a task of its own. Clones read the same worker.
///
/// It neither stops the worker nor keeps it running, and goes on showing the last status after the worker has stopped.
#[derive(Clone)]
pub struct StatusReader {
    pub(crate) worker: Arc<WorkerState>,
    /// The held leases, which answer for their status.
    pub(crate) held: Arc<HeldLeases<Arc<Ownership>>>,
}

impl StatusReader {
    pub(crate) fn new(worker: Arc<WorkerState>) -> Self {
        let held = HeldLeases::new();
        Self { worker, held }
    }

    /// Returns the status of the worker now.
    pub fn status(&self) -> WorkerStatus {
        self.worker.snapshot(|at| {
            let held = self.held.held().into_iter();
            held.map(|own| (own.key.clone(), own.status(at))).collect()
        })
    }

    /// As [`WorkerHandle::wait_for`](crate::WorkerHandle::wait_for).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn wait_for(&self, mut predicate: impl FnMut(&WorkerStatus) -> bool) -> WorkerStatus {
        let watcher = self.worker.watch();
        loop {
            let changed = watcher.changed();
            let status = self.status();
            if predicate(&status) {
                return status;
            }
            changed.await;
        }
    }
}

impl fmt::Debug for StatusReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StatusReader").field(&self.status()).finish()
    }
}
