//! Tells the fleet that this worker lives, and finds out when another process took its id.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::consumer::Services;
use crate::error::Causes;
use crate::lease::{StoreError, StoreErrorKind, WorkerChange, WorkerOutcome, WorkerRow};
use crate::time::ClockExt as _;

/// The worker's own row.
pub(crate) struct Membership {
    services: Arc<Services>,
    touches: AtomicU64,
}

/// Whether this process may still act under its worker id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The row shows this process.
    Confirmed,
    /// The row shows a newer process with the same id.
    Superseded,
}

impl Membership {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self {
            services,
            touches: AtomicU64::new(0),
        }
    }

    /// Writes the row, whatever was there: of two processes with one id the newest wins.
    pub(crate) async fn announce(&self) -> Result<(), StoreError> {
        self.change(WorkerChange::Announce(self.row())).await.map(drop)
    }

    /// Writes the row again, unless it shows another process. A row that is gone was buried while this process hung.
    pub(crate) async fn confirm(&self) -> Result<Standing, StoreError> {
        if self.touch().await? {
            return Ok(Standing::Confirmed);
        }
        if self.change(WorkerChange::Return(self.row())).await? == WorkerOutcome::Applied {
            tracing::warn!("the fleet had taken this worker for dead");
            return Ok(Standing::Confirmed);
        }
        // There is a row again. It may be this process's own: of an earlier return that landed late, or of one that another task made.
        Ok(match self.touch().await? {
            true => Standing::Confirmed,
            false => Standing::Superseded,
        })
    }

    /// Writes the row again if it shows this process, and says whether it does.
    async fn touch(&self) -> Result<bool, StoreError> {
        let touched = self.change(WorkerChange::Touch(self.row())).await?;
        Ok(touched == WorkerOutcome::Applied)
    }

    /// Deletes the row, unless it shows another process.
    pub(crate) async fn leave(&self) -> Result<(), StoreError> {
        let incarnation = self.services.lanes.incarnation();
        self.change(WorkerChange::Leave {
            id: self.services.worker.clone(),
            incarnation,
        })
        .await
        .map(drop)
    }

    /// Touches the row every third of the failover time. Returns when another process has taken the id.
    pub(crate) async fn keep_up(&self) {
        let failover = self.services.settings.failover_time;
        let mut failing = false;
        let mut pause = failover / 3;
        loop {
            self.services.clock.sleep(pause).await;
            match self.confirm().await {
                Ok(Standing::Confirmed) => {
                    failing = false;
                    pause = failover / 3;
                }
                Ok(Standing::Superseded) => return,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(error = %Causes(&error), "cannot write the worker's row, trying on");
                    }
                    pause = failover / 10;
                }
            }
        }
    }

    /// A row whose touches no row of this process had before: a reply that was lost can never be taken for a refusal.
    fn row(&self) -> WorkerRow {
        WorkerRow {
            id: self.services.worker.clone(),
            incarnation: Some(self.services.lanes.incarnation()),
            touches: self.touches.fetch_add(1, Ordering::Relaxed),
            failover: Some(self.services.settings.failover_time),
            max_leases: self.services.settings.max_leases,
            max_throughput: self.services.settings.max_throughput,
            updated: self.services.clock.wall(),
        }
    }

    /// Within the deadline of one request. The condition is only on the incarnation, so repeating a write whose outcome is
    /// unknown is always right.
    async fn change(&self, change: WorkerChange) -> Result<WorkerOutcome, StoreError> {
        let limit = self.services.settings.failover_time / 6;
        let call = self.services.store.change_worker(&change);
        self.services
            .clock
            .timeout(limit, call)
            .await
            .unwrap_or_else(|elapsed| {
                Err(
                    StoreError::unknown(StoreErrorKind::Unavailable, "the lease store did not answer")
                        .with_source(elapsed),
                )
            })
    }
}
