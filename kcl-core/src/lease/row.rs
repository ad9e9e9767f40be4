use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::lease::finished_ahead::FinishedAhead;
use crate::lease::orders::{LeaseOrders, OrderAnswer, ResetPosition};
use crate::lease::report::ShardReport;
use crate::types::{
    HashKeyRange, Incarnation, LeaseKey, Position, RecordPosition, ShardId, StreamIdentity, StreamKey,
    Timestamp, WorkerId,
};

/// One row of the lease table: a shard, who owns it, and how far it is processed.
///
/// The fields are the attributes of the Java KCL's rows, and a few private ones that Java preserves and ignores.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// The key of the row.
    pub key: LeaseKey,
    /// The shard that the lease is for.
    pub shard: ShardId,
    /// The stream of the shard, where the application reads many; `None` where it reads one.
    pub stream: Option<StreamKey>,
    /// The worker named in the row: the owner, or during a graceful handoff the next one.
    pub owner: Option<WorkerId>,
    /// Only during a graceful handoff: the worker that still processes the shard and may checkpoint.
    pub checkpoint_owner: Option<WorkerId>,
    /// The heartbeat: one more with each renewal, checkpoint, assignment, handover and release.
    pub counter: u64,
    /// How often the owner changed since the last checkpoint.
    pub owner_switches: u64,
    /// How far the shard is processed.
    pub checkpoint: Position,
    /// A checkpoint that was prepared and not committed.
    pub pending: Option<PendingCheckpoint>,
    /// Private: the records behind the checkpoint that are finished already. A checkpoint replaces it, and it is void once the row has another
    /// checkpoint than the one that it names: see [`valid_finished_ahead`](Self::valid_finished_ahead).
    pub finished_ahead: Option<FinishedAhead>,
    /// The shards that this one came from.
    pub parents: BTreeSet<ShardId>,
    /// The shards that this one became; known once it is ended.
    pub children: BTreeSet<ShardId>,
    /// The hash keys of the shard, where known.
    pub hash_range: Option<HashKeyRange>,
    /// Moving average of the throughput in KiB/s.
    pub throughput: Option<f64>,
    /// Private: who wrote the counter last, and which counter that was.
    pub stamp: Option<WriteStamp>,
    /// Private: the incarnation of the planner that began the handoff under way.
    pub handoff_stamp: Option<Incarnation>,
    /// Private: the service's time at which reading starts as long as nothing is checkpointed.
    pub pinned_start: Option<Timestamp>,
    /// Private: the time of the service that LATEST means in a row which Java wrote: reading starts there as long as nothing is
    /// checkpointed. It is the start of this shard only, while [`pinned_start`](Self::pinned_start) is that of the application.
    pub latest_at: Option<Timestamp>,
    /// Private: the failover time by which the [actual owner](Self::actual_owner) renews the lease. The first renewal of an owner
    /// stores it, and it goes when the lease is given up, handed over or assigned.
    pub failover: Option<Duration>,
    /// Private: the stream the lease was created for, beyond its name.
    pub identity: Option<StreamIdentity>,
    /// Private: the time of the service that AT_TIMESTAMP means in this row since an operator's reset; it is void once the row has another checkpoint.
    pub reset_at: Option<Timestamp>,
    /// Private: how the last owner said that the shard is doing.
    pub report: Option<Box<ShardReport>>,
    /// Private: the orders of operators.
    pub orders: Option<Box<LeaseOrders>>,
    /// Private: the owner's answer to the orders.
    pub answer: Option<OrderAnswer>,
}

/// The owner's words with a renewal or a checkpoint, beside the heartbeat; `None` leaves the row's.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnerNotes {
    /// The new moving average of the throughput in KiB/s.
    pub throughput: Option<f64>,
    /// How the shard is doing.
    pub report: Option<Box<ShardReport>>,
    /// The answer to the newest orders.
    pub answer: Option<OrderAnswer>,
}

impl OwnerNotes {
    /// Nothing: what the row says stays.
    pub const NONE: Self = Self {
        throughput: None,
        report: None,
        answer: None,
    };
}

/// The facts that a renewal stores beside the heartbeat, because the row lacks it; `None` leaves the row's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowFacts {
    /// The stream the lease belongs to.
    pub identity: Option<StreamIdentity>,
    /// The failover time by which the owner renews the lease, in whole milliseconds.
    pub failover: Option<Duration>,
    /// The time of the service that LATEST means in this row.
    pub latest_at: Option<Timestamp>,
}

impl RowFacts {
    /// Nothing: the renewal is a heartbeat.
    pub const NONE: Self = Self {
        identity: None,
        failover: None,
        latest_at: None,
    };

    /// The facts that the row lacks under an owner who reads this stream and lives by this failover time.
    #[must_use]
    pub fn missing(row: &Lease, stream: &StreamIdentity, failover: Duration) -> Self {
        // A store keeps whole milliseconds. Rounded up, because it is what others wait for.
        let millis = failover.as_nanos().div_ceil(1_000_000);
        let failover = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
        Self {
            identity: row.identity.is_none().then(|| stream.clone()),
            failover: Some(failover).filter(|failover| row.failover != Some(*failover)),
            latest_at: None,
        }
    }
}

/// A checkpoint that was [prepared](crate::processor::RecordBatch::prepare) and not yet committed.
#[derive(Clone, PartialEq, Eq)]
pub struct PendingCheckpoint {
    /// The prepared position. A worker of this library prepares records only; the Java KCL may prepare the end of a shard, too.
    pub position: Position,
    /// The data that the application stored with it, unless that was empty.
    pub state: Option<Bytes>,
}

impl PendingCheckpoint {
    /// The most bytes that an application may store with a prepared checkpoint: 4 KiB. They are a part of the lease row, which is read by each scan
    /// and paid for with each renewal.
    pub const LARGEST_STATE: usize = 4096;
}

/// Shows how much data the application stored, never what is in it.
impl fmt::Debug for PendingCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingCheckpoint")
            .field("position", &self.position)
            .field("state_bytes", &self.state.as_ref().map(Bytes::len))
            .finish()
    }
}

/// Marks a counter as written by a certain run of a certain process.
///
/// A row whose counter differs from its stamp's was written last by somebody who knows no stamps: a Java worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WriteStamp {
    /// The run of the process that wrote.
    pub incarnation: Incarnation,
    /// The counter that it wrote.
    pub counter: u64,
}

/// The values that a conditional write compares: everything that a change of ownership or progress moves.
///
/// Beginning a handoff moves no counter, so the counter alone would not do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The lease counter.
    pub counter: u64,
    /// The owner named in the row.
    pub owner: Option<WorkerId>,
    /// The worker handing the lease over, during a handoff.
    pub checkpoint_owner: Option<WorkerId>,
}

impl Lease {
    /// The largest counter that a row may have: what a Java worker reads is a signed number of 64 bits. A lease renewed a thousand times a
    /// second gets there after 292 million years, so a row that shows it was written by hand or is broken.
    ///
    /// A change that would move the counter further is an error, because the next writer could not be distinguished from the last.
    pub const LARGEST_COUNTER: u64 = i64::MAX as u64;

    /// A lease that nobody owns yet, in an application that reads one stream.
    pub fn unowned(shard: ShardId, checkpoint: Position) -> Self {
        Self {
            key: LeaseKey::single_stream(&shard),
            shard,
            stream: None,
            owner: None,
            checkpoint_owner: None,
            counter: 0,
            owner_switches: 0,
            checkpoint,
            pending: None,
            finished_ahead: None,
            parents: BTreeSet::new(),
            children: BTreeSet::new(),
            hash_range: None,
            throughput: None,
            stamp: None,
            handoff_stamp: None,
            pinned_start: None,
            latest_at: None,
            failover: None,
            identity: None,
            reset_at: None,
            report: None,
            orders: None,
            answer: None,
        }
    }

    /// The longest failover time that is waited for: the longest that the [settings](crate::settings::LeaseSettings::failover_time) allow. A row
    /// that says more was written by hand or is broken, and must not keep a lease from the fleet for ever.
    pub const LONGEST_FAILOVER: Duration = Duration::from_secs(3600);

    /// The key of the lease of another shard of the same stream.
    pub fn key_of_sibling(&self, shard: &ShardId) -> LeaseKey {
        match &self.stream {
            None => LeaseKey::single_stream(shard),
            Some(stream) => LeaseKey::of_stream(stream, shard),
        }
    }

    /// The values that a conditional write on this row compares.
    pub fn version(&self) -> Version {
        Version {
            counter: self.counter,
            owner: self.owner.clone(),
            checkpoint_owner: self.checkpoint_owner.clone(),
        }
    }

    /// The worker that processes the shard: during a handoff the one that hands it over.
    pub fn actual_owner(&self) -> Option<&WorkerId> {
        self.checkpoint_owner.as_ref().or(self.owner.as_ref())
    }

    /// Whether the lease is being handed over from one worker to the next.
    pub fn is_in_handoff(&self) -> bool {
        self.checkpoint_owner.is_some()
    }

    /// Whether the shard is processed to its end.
    pub fn is_ended(&self) -> bool {
        self.checkpoint.is_shard_end()
    }

    /// Whether the shard of this row is finished. One without a row is: it was cleaned up, or its records are gone.
    pub fn is_finished(row: Option<&Self>) -> bool {
        row.is_none_or(Self::is_ended)
    }

    /// The records behind the checkpoint that are finished already, unless that is void: written beside another checkpoint, or by a worker that
    /// unpacks aggregated records where this one does not, or the reverse.
    pub fn valid_finished_ahead(&self, is_unpacked: bool) -> Option<&FinishedAhead> {
        let ahead = self.finished_ahead.as_ref();
        ahead.filter(|ahead| ahead.belongs_to(&self.checkpoint, is_unpacked))
    }

    /// Whether the counter was written last by somebody who knows no stamps.
    pub fn is_written_by_foreigner(&self) -> bool {
        self.stamp.is_none_or(|stamp| stamp.counter != self.counter)
    }

    /// The place from which the shard is read: behind its checkpoint or, where nothing is checkpointed, at its start.
    pub fn reading_from(&self) -> ResetPosition {
        let at =
            |time: Option<Timestamp>| time.map_or(ResetPosition::TrimHorizon, ResetPosition::AtTimestamp);
        match &self.checkpoint {
            Position::Record(record) => ResetPosition::After(record.clone()),
            Position::ShardEnd => ResetPosition::ShardEnd,
            Position::TrimHorizon => ResetPosition::TrimHorizon,
            Position::AtTimestamp => at(self.reset_at.or(self.pinned_start)),
            Position::Latest => at(self.pinned_start.or(self.latest_at)),
        }
    }

    /// The revision of the orders; 0 if none was ever given.
    pub fn orders_revision(&self) -> u64 {
        self.orders.as_ref().map_or(0, |orders| orders.revision)
    }

    /// Whether no owner has answered the newest orders.
    pub fn is_unanswered(&self) -> bool {
        let answered = self.answer.as_ref().map_or(0, |answer| answer.revision);
        answered < self.orders_revision()
    }

    /// The record at which processing stands, if any was checkpointed.
    pub fn checkpointed_record(&self) -> Option<&RecordPosition> {
        self.checkpoint.record()
    }
}
