//! The reports of an observer of a fleet.

use std::sync::Arc;
use std::time::Duration;

use kcl_core::clock::Moment;
use kcl_core::lease_store::{Expect, Lease, LeaseChange, LockChange, LockExpect};
use kcl_core::processor::FencingToken;
use kcl_core::types::{Incarnation, LeaseKey, RecordPosition, Timestamp, WorkerId};

/// One run of one worker process, distinct from every other even where two share a worker id.
pub type Process = Arc<str>;

/// One event in a fleet, as an observer who sees everything reports it.
///
/// Shards are named by their lease keys. Where a [`Moment`] is given it is one of the process's own clock, except where said.
#[derive(Debug, Clone, PartialEq)]
pub enum Observation {
    /// A shard came to be.
    ShardOpened {
        /// The shard.
        shard: LeaseKey,
        /// The shards that it came from.
        parents: Vec<LeaseKey>,
    },
    /// The stream does not list the shard any more: retention took everything.
    ShardForgotten {
        /// The shard.
        shard: LeaseKey,
    },
    /// A record was put that the application wants: not one before its initial position.
    Put {
        /// Where it went.
        shard: LeaseKey,
        /// Its position.
        position: RecordPosition,
        /// When it arrived by the service's clock, where that is known: a reset may name the time.
        arrival: Option<Timestamp>,
    },
    /// Retention took records away.
    Trimmed {
        /// Of this shard.
        shard: LeaseKey,
        /// The oldest record that is left; `None` when none is.
        oldest: Option<RecordPosition>,
    },
    /// A batch comes with the word that retention may have taken records before it. Seen before the batch starts.
    GapTold {
        /// The process that is given the batch.
        process: Process,
        /// The shard.
        shard: LeaseKey,
    },
    /// A lease row was changed: the store accepted the change.
    Written(Box<Written>),
    /// A lease row was taken away by a party that is no worker and keeps no rules, such as an operator by hand.
    Removed {
        /// The row.
        key: LeaseKey,
    },
    /// The leader lock was changed: the store accepted the change.
    LockWritten {
        /// By this process.
        process: Process,
        /// The expected condition.
        expect: LockExpect,
        /// The change.
        change: LockChange,
        /// The true time, the same for every process.
        at: Moment,
    },
    /// A processor was made for an ownership: the first time, or again after a panic.
    Started {
        /// By this process.
        process: Process,
        /// For this shard.
        shard: LeaseKey,
        /// With this token.
        token: FencingToken,
    },
    /// A batch is being handed to the processor.
    BatchStarted {
        /// By this process.
        process: Process,
        /// Of this shard.
        shard: LeaseKey,
        /// In the ownership with this token.
        token: FencingToken,
        /// The records, in the order of the batch.
        records: Vec<RecordPosition>,
        /// The time at the process.
        now: Moment,
        /// Until when the process believes that the lease is its own.
        valid_until: Moment,
        /// The true time, the same for every process.
        at: Moment,
    },
    /// The processor has finished the batch that it was handed last.
    BatchFinished {
        /// In this process.
        process: Process,
        /// Of this shard.
        shard: LeaseKey,
        /// The true time, the same for every process.
        at: Moment,
    },
    /// With manual checkpoints, the processor returned from the batch that it was handed last. That finishes no record.
    BatchReturned {
        /// In this process.
        process: Process,
        /// Of this shard.
        shard: LeaseKey,
        /// The true time, the same for every process.
        at: Moment,
    },
    /// The processor did not finish the batch that it was handed last.
    BatchFailed {
        /// In this process.
        process: Process,
        /// Of this shard.
        shard: LeaseKey,
        /// The record that failed, where the processor said so: those before it have had their turn.
        from: Option<RecordPosition>,
        /// Whether those before it are finished, which they are with automatic checkpoints.
        finishes: bool,
    },
    /// The handler is being called for a record.
    CallStarted {
        /// By this process.
        process: Process,
        /// Of this shard.
        shard: LeaseKey,
        /// In the ownership with this token.
        token: FencingToken,
        /// The record.
        record: RecordPosition,
        /// The records among which it has an order: those of its key, or of none. `None` where it has no order among any.
        lane: Option<Option<String>>,
        /// The time at the process.
        now: Moment,
        /// Until when the process believes that the lease is its own.
        valid_until: Moment,
        /// The true time, the same for every process.
        at: Moment,
    },
    /// A call of the handler has ended.
    CallEnded {
        /// In this process.
        process: Process,
        /// Of this shard.
        shard: LeaseKey,
        /// In the ownership with this token.
        token: FencingToken,
        /// The record.
        record: RecordPosition,
        /// Whether it returned `Ok`, which finishes the record. It did not if it failed or was dropped.
        finishes: bool,
        /// The true time, the same for every process.
        at: Moment,
    },
    /// The user's code checkpoints: every record up to this one is finished.
    Checkpointed {
        /// In this process.
        process: Process,
        /// Of this shard.
        shard: LeaseKey,
        /// Under this token.
        token: FencingToken,
        /// The last record that is finished.
        through: RecordPosition,
    },
    /// The user's code says of a checkpoint that was prepared and not committed that it is to be: every record up to it is finished.
    PendingCommitted {
        /// In this process.
        process: Process,
        /// Of this shard.
        shard: LeaseKey,
        /// Under this token.
        token: FencingToken,
        /// The last record that is finished.
        through: RecordPosition,
    },
    /// A record is set aside, as the error policy says: the sink has acknowledged its dead letter, or the policy skips it.
    SetAside {
        /// In this process.
        process: Process,
        /// Of this shard.
        shard: LeaseKey,
        /// Under this token; `None` where the observer knows only the process, and its newest ownership is meant.
        token: Option<FencingToken>,
        /// The record.
        position: RecordPosition,
        /// Whether it is an aggregated record that cannot be unpacked: all in it goes with it.
        unreadable: bool,
        /// How often a call has failed on it, as the worker counts; `None` from an observer that saw no failed calls.
        attempts: Option<u32>,
    },
    /// A process stands still while time goes on: what it believes from now on may be late.
    Paused {
        /// The process.
        process: Process,
    },
}

/// A change of a lease row that the store accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The process that wrote.
    pub process: Process,
    /// The id of its worker.
    pub worker: WorkerId,
    /// The failover time of that worker.
    pub failover: Duration,
    /// The row.
    pub key: LeaseKey,
    /// The expected condition.
    pub expect: Expect,
    /// The change.
    pub change: LeaseChange,
    /// The incarnation that it was made under.
    pub incarnation: Incarnation,
    /// The row after the change, as the store shows it.
    pub after: Lease,
    /// The time at the process when the store made the change.
    pub now: Moment,
}
