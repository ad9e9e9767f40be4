use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Operation, Protocol};

/// Counts the requests that came in, those that a fault struck included. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct WireRequests {
    counts: Arc<Mutex<BTreeMap<(Operation, Protocol), u64>>>,
}

impl WireRequests {
    /// How many calls of this operation there were.
    #[must_use]
    pub fn count(&self, operation: Operation) -> u64 {
        self.counts()
            .iter()
            .filter(|((counted, _), _)| *counted == operation)
            .map(|(_, count)| count)
            .sum()
    }

    /// How many calls of this operation there were in this protocol.
    #[must_use]
    pub fn count_in(&self, operation: Operation, protocol: Protocol) -> u64 {
        self.counts().get(&(operation, protocol)).copied().unwrap_or(0)
    }

    /// How many calls there were of each operation.
    #[must_use]
    pub fn all(&self) -> BTreeMap<Operation, u64> {
        let mut all = BTreeMap::new();
        for ((operation, _), count) in self.counts().iter() {
            *all.entry(*operation).or_default() += count;
        }
        all
    }

    pub(super) fn add(&self, operation: Operation, protocol: Protocol) {
        *self.counts().entry((operation, protocol)).or_default() += 1;
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<(Operation, Protocol), u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
