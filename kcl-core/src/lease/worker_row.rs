use std::time::Duration;

use crate::lease::orders::WorkerOrders;
use crate::types::{Incarnation, Timestamp, WorkerId};

/// The facts that a worker publishes about itself; in a shared table, a Java KCL worker-metrics item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRow {
    /// The worker.
    pub id: WorkerId,
    /// The run of the process; `None` in a row that Java wrote.
    pub incarnation: Option<Incarnation>,
    /// One more with each touch, so that an observer sees the worker live without comparing clocks.
    pub touches: u64,
    /// The failover time that the worker lives by; `None` in a row that Java wrote.
    pub failover: Option<Duration>,
    /// The most leases the worker wants; `None` for no limit.
    pub max_leases: Option<u32>,
    /// The most throughput the worker wants, in KiB/s over all its shards; `None` for no limit.
    pub max_throughput: Option<u32>,
    /// When the row was written, by the worker's own wall clock. For people and Java; we never compare it.
    pub updated: Timestamp,
    /// When the process announced itself, by its own wall clock; `None` in a row that Java wrote. For people.
    pub started: Option<Timestamp>,
    /// The version of this library that the process runs, or what its application says of itself; `None` in a row that Java wrote.
    pub version: Option<String>,
    /// The orders of operators for the worker. A worker's own writes leave the row's, whatever they bring here.
    pub orders: Option<Box<WorkerOrders>>,
}

/// A change of a worker's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerChange {
    /// A starting worker writes its row whatever was there: of two processes with one id the newest wins.
    Announce(WorkerRow),
    /// A running worker writes its row again, if the row still shows its incarnation.
    Touch(WorkerRow),
    /// A running worker whose row is gone, because it was taken for dead, writes it again, if nobody has taken its id.
    Reannounce(WorkerRow),
    /// A leaving worker deletes its row, if the row still shows its incarnation.
    Leave {
        /// The worker.
        id: WorkerId,
        /// The run of the process that leaves.
        incarnation: Incarnation,
    },
    /// An operator gives orders, if those in the row have this revision; 0 where there are none. Not to a worker of Java, which obeys none.
    Order {
        /// The worker.
        id: WorkerId,
        /// The revision that the operator has seen.
        seen: u64,
        /// The orders to store, of the next revision.
        orders: Box<WorkerOrders>,
    },
    /// A planner deletes the row of a worker that has long been dead, if the row is as it was last seen.
    DeleteExpired(WorkerRow),
}

/// How a change of a worker's row ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerOutcome {
    /// The row was changed.
    Applied,
    /// The row is not as the change expects it: gone, or there, or that of another run of a process.
    Refused,
}

/// The row that makes one worker the leader: the lock item of the DynamoDB lock client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderLock {
    /// The worker that holds the lock.
    pub owner: WorkerId,
    /// How long a challenger must see the version unchanged before it may take the lock.
    pub duration: Duration,
    /// A fresh random text with each heartbeat.
    pub version: String,
    /// Whether the holder gave the lock up without deleting the row.
    pub released: bool,
    /// Private: the worker that stands in for the leader; wiped when Java takes the lock.
    pub standby: Option<WorkerId>,
}

/// The condition on the lock at the moment of the write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockExpect {
    /// There is no lock row.
    Absent,
    /// The lock row shows this version and owner.
    Version {
        /// The version last seen.
        version: String,
        /// The owner last seen.
        owner: WorkerId,
    },
}

/// A change of the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockChange {
    /// Writes the whole row: taking the lock, or the holder's heartbeat.
    Hold(LeaderLock),
    /// Deletes the row: the holder gives the lock up.
    Release,
}

/// How a change of the lock ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockOutcome {
    /// The lock is as the change says.
    Applied,
    /// The lock was not as expected.
    Refused,
}
