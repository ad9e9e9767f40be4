//! Announces that this worker lives, and finds out when another process took its id.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Causes;
use crate::lease::store::StoreError;
use crate::lease::worker_row::{WorkerChange, WorkerOutcome, WorkerRow};
use crate::ownership::WorkerContext;
use crate::runtime::clock::ClockExt as _;
use crate::runtime::log_once::LogOnce;
use crate::types::Timestamp;

/// The worker's own row.
pub(crate) struct Heartbeat {
    worker: Arc<WorkerContext>,
    touches: AtomicU64,
    started: Timestamp,
}

/// Whether this process may still act under its worker id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeartbeatStanding {
    /// The row shows this process.
    Confirmed,
    /// The row shows a newer process with the same id.
    Superseded,
}

impl Heartbeat {
    pub(crate) fn new(worker: Arc<WorkerContext>) -> Self {
        let started = worker.clock.wall();
        Self {
            worker,
            touches: AtomicU64::new(0),
            started,
        }
    }

    /// Writes the row, whatever was there: of two processes with one id the newest wins.
    pub(crate) async fn announce(&self) -> Result<(), StoreError> {
        self.change(WorkerChange::Announce(self.row())).await.map(drop)
    }

    /// Writes the row again, unless it shows another process. A row that is gone was deleted while this process hung.
    pub(crate) async fn confirm(&self) -> Result<HeartbeatStanding, StoreError> {
        if self.touch().await? {
            return Ok(HeartbeatStanding::Confirmed);
        }
        if self.change(WorkerChange::Reannounce(self.row())).await? == WorkerOutcome::Applied {
            tracing::warn!("the fleet had taken this worker for dead");
            return Ok(HeartbeatStanding::Confirmed);
        }
        // There is a row again. It may be this process's own: of an earlier return that landed late, or of one that another task made.
        Ok(match self.touch().await? {
            true => HeartbeatStanding::Confirmed,
            false => HeartbeatStanding::Superseded,
        })
    }

    /// Writes the row again if it shows this process, and returns `true` if so.
    async fn touch(&self) -> Result<bool, StoreError> {
        let touched = self.change(WorkerChange::Touch(self.row())).await?;
        Ok(touched == WorkerOutcome::Applied)
    }

    /// Deletes the row, unless it shows another process.
    pub(crate) async fn leave(&self) -> Result<(), StoreError> {
        let incarnation = self.worker.store_client.incarnation();
        self.change(WorkerChange::Leave {
            id: self.worker.worker.clone(),
            incarnation,
        })
        .await
        .map(drop)
    }

    /// Touches the row every third of the failover time. Returns when another process has taken the id.
    pub(crate) async fn keep_up(&self) {
        let timing = &self.worker.timing;
        const WHAT: &str = "cannot write the worker's row";
        let mut problem = LogOnce::default();
        let mut pause = timing.heartbeat;
        loop {
            self.worker.clock.sleep(pause).await;
            match self.confirm().await {
                Ok(HeartbeatStanding::Confirmed) => {
                    problem.log_end(WHAT);
                    pause = timing.heartbeat;
                }
                Ok(HeartbeatStanding::Superseded) => return,
                Err(error) => {
                    problem.warn(WHAT, Causes(&error));
                    pause = timing.heartbeat_retry;
                }
            }
        }
    }

    /// A row whose touches no row of this process had before: a reply that was lost can never be taken for a refusal.
    fn row(&self) -> WorkerRow {
        WorkerRow {
            id: self.worker.worker.clone(),
            incarnation: Some(self.worker.store_client.incarnation()),
            touches: self.touches.fetch_add(1, Ordering::Relaxed),
            failover: Some(self.worker.timing.failover),
            max_leases: self.worker.settings.assignment.max_leases,
            max_throughput: self.worker.settings.assignment.max_throughput_kib(),
            updated: self.worker.clock.wall(),
            started: Some(self.started),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            orders: None,
        }
    }

    /// Within the deadline of one request. The condition is only on the incarnation, so repeating a write whose outcome is
    /// unknown is always right.
    async fn change(&self, change: WorkerChange) -> Result<WorkerOutcome, StoreError> {
        self.worker.store_client.change_worker(&change).await
    }
}
