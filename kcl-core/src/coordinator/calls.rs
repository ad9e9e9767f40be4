//! The coordinator's calls of the lease store, each with a deadline of the worker's own.
//!
//! A store may have none, or one that is longer than the failover time allows. A write that was not answered in time may have happened all the
//! same: the error says so, and whoever wrote looks before deciding anything.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::lease::store::{LeaseStore, Scan, StoreError, StoreErrorKind};
use crate::lease::worker_row::{
    LeaderLock, LockChange, LockExpect, LockOutcome, WorkerChange, WorkerOutcome,
};
use crate::runtime::clock::{Clock, ClockExt as _};

/// The store, as the coordinator calls it.
pub(crate) struct StoreCalls {
    store: Arc<dyn LeaseStore>,
    clock: Arc<dyn Clock>,
    /// The deadline of a call on one row.
    limit: Duration,
}

impl StoreCalls {
    /// A call on one row may hang for a sixth of the failover time, as a write of a lease may: the heartbeat after one that hung is
    /// then still in time.
    pub(crate) fn new(store: Arc<dyn LeaseStore>, clock: Arc<dyn Clock>, failover: Duration) -> Self {
        let limit = failover / 6;
        Self { store, clock, limit }
    }

    pub(crate) async fn read_lock(&self) -> Result<Option<LeaderLock>, StoreError> {
        self.in_time(self.store.read_lock()).await
    }

    /// Not answered in time means that the lock may have been written, now or later.
    pub(crate) async fn change_lock(
        &self,
        expect: &LockExpect,
        change: &LockChange,
    ) -> Result<LockOutcome, StoreError> {
        self.in_time(self.store.change_lock(expect, change)).await
    }

    pub(crate) async fn change_worker(&self, change: &WorkerChange) -> Result<WorkerOutcome, StoreError> {
        self.in_time(self.store.change_worker(change)).await
    }

    /// Scans with this patience, and lets it learn from how long that took.
    pub(crate) async fn scan(&self, patience: &mut ScanPatience) -> Result<Scan, StoreError> {
        let begun = self.clock.now();
        match self.clock.timeout(patience.limit, self.store.scan()).await {
            Ok(scanned) => {
                let scan = scanned?;
                patience.took(self.clock.now().saturating_since(begun));
                Ok(scan)
            }
            Err(elapsed) => {
                patience.ran_out();
                Err(no_answer(elapsed.0))
            }
        }
    }

    async fn in_time<T: Send>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let answer = self.clock.timeout(self.limit, call).await;
        answer.unwrap_or_else(|elapsed| Err(no_answer(elapsed.0)))
    }
}

fn no_answer(limit: Duration) -> StoreError {
    StoreError::unknown(
        StoreErrorKind::Unavailable,
        format!("the lease store did not answer within {limit:?}"),
    )
}

/// How long a scan may take before it counts as hung.
///
/// A quarter of the failover time, which is how often the table is scanned at least; but a large table takes the time that it takes, and
/// only a scan shows its size. So one that was not done in time is given twice the time when it is tried again, up to the whole
/// failover time, and one that was done leaves twice its time to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScanPatience {
    failover: Duration,
    limit: Duration,
}

impl ScanPatience {
    pub(crate) fn new(failover: Duration) -> Self {
        let limit = failover / 4;
        Self { failover, limit }
    }

    fn took(&mut self, time: Duration) {
        self.limit = (time * 2).clamp(self.failover / 4, self.failover);
    }

    fn ran_out(&mut self) {
        self.limit = (self.limit * 2).min(self.failover);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_is_given_more_time_while_it_needs_more_and_never_more_than_the_failover_time() {
        let second = Duration::from_secs(1);
        let mut patience = ScanPatience::new(second * 10);
        let mut limits = vec![patience.limit.as_millis()];
        for _ in 0..3 {
            patience.ran_out();
            limits.push(patience.limit.as_millis());
        }
        assert_eq!(limits, [2_500, 5_000, 10_000, 10_000]);
        for (took, limit) in [(9, 10_000), (3, 6_000), (1, 2_500), (0, 2_500)] {
            patience.took(second * took);
            assert_eq!(patience.limit.as_millis(), limit, "after {took} s");
        }
    }
}
