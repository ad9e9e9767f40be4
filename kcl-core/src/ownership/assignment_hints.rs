//! Leases that a worker assigned to itself, so that they need not be discovered.

use std::collections::BTreeSet;

use tokio::sync::Notify;

use crate::runtime::lock::Locked;
use crate::types::LeaseKey;

/// Leases that were given to this worker, as far as the worker itself knows: it need not wait to discover them.
#[derive(Debug, Default)]
pub(crate) struct AssignmentHints {
    keys: Locked<BTreeSet<LeaseKey>>,
    /// Only discovery waits for it, and finds what arrived while it was busy.
    arrived: Notify,
}

impl AssignmentHints {
    /// This lease names the worker as its owner now.
    pub(crate) fn add(&self, key: LeaseKey) {
        self.keys.lock().insert(key);
        self.arrived.notify_one();
    }

    /// Returns once there is a hint that was not taken.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    pub(crate) fn take(&self) -> BTreeSet<LeaseKey> {
        std::mem::take(&mut self.keys.lock())
    }
}
