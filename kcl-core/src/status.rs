//! What a worker is doing, as a snapshot that tests, health checks and people read alike.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;

use crate::lifecycle::{ConsumerState, WaitReason};
use crate::model::{LeaseKey, Position, RecordPosition, WorkerId};
use crate::processor::FencingToken;
use crate::source::SourceErrorKind;
use crate::time::Moment;

/// A snapshot of a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerStatus {
    /// The worker.
    pub worker: WorkerId,
    /// What the worker as a whole is doing.
    pub phase: Phase,
    /// Whether it is the leader.
    pub is_leader: bool,
    /// The leases it holds.
    pub leases: BTreeMap<LeaseKey, LeaseStatus>,
    /// How long the fleet may take to notice that a worker died and to go on in its place, as far as this worker can tell:
    /// known to the leader once it has read the lease table.
    pub failover_bound: Option<Duration>,
    /// As leader: the leases that no worker has, and why is in the log.
    pub unplaced: usize,
}

/// What a worker as a whole is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Looks whether stream and store are there.
    Starting,
    /// Consumes.
    Running,
    /// Gives its leases up.
    Draining,
    /// Has stopped.
    Stopped,
}

/// A snapshot of one lease that a worker holds.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseStatus {
    /// What its consumer is doing.
    pub state: ConsumerState,
    /// What the consumer waits for, and since when by the worker's clock.
    pub waiting: Option<(WaitReason, Moment)>,
    /// The token of this ownership.
    pub token: FencingToken,
    /// The stored checkpoint.
    pub checkpoint: Position,
    /// The last record whose batch the processor has finished.
    pub processed: Option<RecordPosition>,
    /// How many records the processor has finished in this ownership.
    pub records: u64,
    /// How far behind the newest record of the shard the last fetch was.
    pub behind: Option<Duration>,
    /// Why the shard could not be read the last time it was tried; `None` when it could.
    pub trouble: Option<SourceErrorKind>,
    /// How often the processor has failed in a row.
    pub failures: u32,
}

/// Where the parts of a worker write what they do. Clones write to the same board.
#[derive(Debug, Clone)]
pub(crate) struct StatusBoard {
    sender: watch::Sender<WorkerStatus>,
}

impl StatusBoard {
    pub(crate) fn new(worker: WorkerId) -> Self {
        let status = WorkerStatus {
            worker,
            phase: Phase::Starting,
            is_leader: false,
            leases: BTreeMap::new(),
            failover_bound: None,
            unplaced: 0,
        };
        Self {
            sender: watch::Sender::new(status),
        }
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut WorkerStatus)) {
        self.sender.send_modify(change);
    }

    pub(crate) fn update_lease(&self, key: &LeaseKey, change: impl FnOnce(&mut LeaseStatus)) {
        self.sender
            .send_if_modified(|status| status.leases.get_mut(key).map(change).is_some());
    }

    /// What a consumer waits for; watchers are woken only by news.
    pub(crate) fn update_waiting(&self, key: &LeaseKey, waiting: Option<(WaitReason, Moment)>) {
        self.sender.send_if_modified(|status| {
            let lease = status.leases.get_mut(key);
            lease.is_some_and(|lease| std::mem::replace(&mut lease.waiting, waiting) != waiting)
        });
    }

    /// What the coordinator says about the office; watchers are woken only by news.
    pub(crate) fn update_office(&self, leads: bool, bound: Option<Duration>, unplaced: usize) {
        self.sender.send_if_modified(|status| {
            let new = (leads, bound, unplaced);
            let is_news = (status.is_leader, status.failover_bound, status.unplaced) != new;
            (status.is_leader, status.failover_bound, status.unplaced) = new;
            is_news
        });
    }

    pub(crate) fn read(&self) -> WorkerStatus {
        self.sender.borrow().clone()
    }

    pub(crate) fn held(&self) -> usize {
        self.sender.borrow().leases.len()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<WorkerStatus> {
        self.sender.subscribe()
    }
}
