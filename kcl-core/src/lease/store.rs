//! The seam to a lease table: what a store must do, and what its answers mean.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::lease::change::{Expect, LeaseChange};
use crate::lease::row::Lease;
use crate::lease::worker_row::{
    LeaderLock, LockChange, LockExpect, LockOutcome, WorkerChange, WorkerOutcome, WorkerRow,
};
use crate::types::{ApplicationName, Incarnation, LeaseKey, WorkerId};

/// Where leases, worker rows and the leader lock live.
///
/// # Contract
///
/// - [`change`](Self::change) tests and writes in one atomic step with respect to every other worker.
/// - The row after a change is what [`apply`](crate::lease::change::apply) says, and attributes that this crate does not know survive it.
/// - [`read`](Self::read) and [`read_lock`](Self::read_lock) see every write that was answered before they were called.
///   [`scan`](Self::scan) and [`owned_by`](Self::owned_by) may lag behind.
/// - A store keeps no state between calls that another handle on the same storage would not see.
/// - Every call ends: a store that talks to a network has a deadline of its own on each request.
///
/// The conformance suite in `kcl-testkit` tests each rule by name.
#[async_trait]
pub trait LeaseStore: Send + Sync + fmt::Debug + 'static {
    /// The capabilities of this store.
    fn capabilities(&self) -> Capabilities;

    /// Makes sure that the storage is there and is meant for this application: creates what is missing and waits for it.
    ///
    /// Calling it again, or from many workers at once, changes nothing more.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Foreign`] when the storage belongs to somebody else (nothing was written then), and every other kind.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave the storage created or not; calling again goes on from there.
    async fn prepare(&self, preparation: &Preparation) -> Result<(), StoreError>;

    /// Reads everything once: leases, worker rows, the leader lock.
    ///
    /// A row that is there during the whole scan is seen; each row is seen at most once; rows of a kind this crate does not know are skipped.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; a row that cannot be decoded is not an error but listed in [`Scan::undecodable`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect on the storage.
    async fn scan(&self) -> Result<Scan, StoreError>;

    /// Reads one lease, strongly consistent.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; [`StoreErrorKind::Data`] when the row cannot be decoded.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect on the storage.
    async fn read(&self, key: &LeaseKey) -> Result<Option<Lease>, StoreError>;

    /// The keys of the leases that name this worker as owner, or `None` when the store has no quick way to know.
    ///
    /// The answer may lag behind; read the row before acting on it.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect on the storage.
    async fn owned_by(&self, worker: &WorkerId) -> Result<Option<Vec<LeaseKey>>, StoreError>;

    /// Changes one lease row if, and only if, `expect` holds at the moment of the write.
    ///
    /// A refused change is an ordinary outcome, not an error: some other worker got there first.
    ///
    /// # Errors
    ///
    /// A [`StoreError`] whose [certainty](StoreError::certainty) is [`Certainty::Definite`] means that the row was not touched.
    /// [`Certainty::Unknown`] means that the write may have landed, or may land yet: read the row strongly before deciding anything.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the outcome unknown, exactly like [`Certainty::Unknown`].
    async fn change(
        &self,
        key: &LeaseKey,
        expect: &Expect,
        change: &LeaseChange,
        incarnation: Incarnation,
    ) -> Result<Outcome, StoreError>;

    /// Changes one worker row, each kind of change under its own condition.
    ///
    /// # Errors
    ///
    /// As [`change`](Self::change).
    ///
    /// # Cancel safety
    ///
    /// As [`change`](Self::change).
    async fn change_worker(&self, change: &WorkerChange) -> Result<WorkerOutcome, StoreError>;

    /// Reads the leader lock, strongly consistent.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect on the storage.
    async fn read_lock(&self) -> Result<Option<LeaderLock>, StoreError>;

    /// Changes the leader lock if, and only if, `expect` holds at the moment of the write.
    ///
    /// # Errors
    ///
    /// As [`change`](Self::change).
    ///
    /// # Cancel safety
    ///
    /// As [`change`](Self::change).
    async fn change_lock(&self, expect: &LockExpect, change: &LockChange) -> Result<LockOutcome, StoreError>;
}

/// The capabilities of a store, so that callers and the conformance suite know what to expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether [`LeaseStore::owned_by`] is a cheap look-up.
    pub owner_index: bool,
    /// Whether a refusal shows the row that caused it.
    pub refusal_shows_row: bool,
}

/// The facts about the application that a store is prepared for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preparation {
    /// The application.
    pub application: ApplicationName,
    /// The worker that asks.
    pub worker: WorkerId,
    /// How long the call may wait for the storage before it gives up.
    ///
    /// A length of time and no moment: a store may measure it with a clock of its own, whose origin is another than the worker's.
    pub within: Duration,
    /// Whether to take over rows that a *stopped* Java application left; otherwise a table that Java workers may be using is refused. A
    /// store remembers that it was asked to, and refuses a table that a live Java worker uses in any case.
    pub take_over_java: bool,
}

/// Everything a scan saw.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scan {
    /// The leases, in no particular order.
    pub leases: Vec<Lease>,
    /// The worker rows.
    pub workers: Vec<WorkerRow>,
    /// The leader lock, if it is held.
    pub lock: Option<LeaderLock>,
    /// Rows that look like ours and could not be read.
    pub undecodable: Vec<Undecodable>,
    /// How many pages there were to read, at least 1: what the cadence of scans is fitted to. It says how large the table is; in how
    /// many parts it was read is no matter.
    pub pages: u32,
}

/// A row that looks like ours and cannot be read. It is never written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undecodable {
    /// The key of the row.
    pub key: String,
    /// The defect.
    pub problem: String,
}

/// How a conditional change ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The change was made, and this is the row after it; for a deletion, as it was.
    Applied(Box<Lease>),
    /// The expectation did not hold.
    Refused {
        /// The row as it was at that moment, where the store shows it; `None` also when there is no row.
        current: Option<Box<Lease>>,
    },
}

/// Whether a write that failed may have happened even so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// It did not happen and will not.
    Definite,
    /// It may have happened, or may happen yet.
    Unknown,
}

/// Why a store could not answer. A kind is here only if the worker acts differently on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// Too many requests. Do: slow down.
    Throttled,
    /// No answer, or a failure of the service. Do: try again.
    Unavailable,
    /// The permission is missing. Do: grant what the message names.
    Denied,
    /// The storage is not there. Do: call [`LeaseStore::prepare`], or create it.
    Missing,
    /// The storage is there and not meant for us. Do: use another name, or the setting that the message names.
    Foreign,
    /// A row cannot be read. Do: repair or remove it; nothing was overwritten.
    Data,
    /// The request makes no sense. Do: correct the name or the option that the message names; where it names none, report it, it is
    /// a bug.
    Invalid,
}

/// Refuses a change that would count beyond [`Lease::LARGEST_COUNTER`]. Every store asks this before it touches the row.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::lease_store::{Expect, Lease, LeaseChange, StoreErrorKind, check_counter};
/// use kinesis_client::types::{Position, ShardId};
///
/// let counter = Lease::LARGEST_COUNTER;
/// let lease = Lease { counter, ..Lease::unowned(ShardId::new("shardId-000000000000")?, Position::Latest) };
/// let expect = Expect::Version(lease.version());
/// let refused = check_counter(&lease.key, &expect, &LeaseChange::Release).unwrap_err();
/// assert_eq!(refused.kind(), StoreErrorKind::Data);
/// assert!(check_counter(&lease.key, &expect, &LeaseChange::Delete).is_ok());
/// # Ok::<(), kcl_core::types::InvalidName>(())
/// ```
///
/// # Errors
///
/// A definite one of the kind [`Data`](StoreErrorKind::Data), with what to do.
pub fn check_counter(key: &LeaseKey, expect: &Expect, change: &LeaseChange) -> Result<(), StoreError> {
    let seen = match (change, expect) {
        (LeaseChange::Create(lease), _) => lease.counter.saturating_sub(1),
        (change, Expect::Version(version) | Expect::VersionAndOrders(version, _))
            if change.moves_counter() =>
        {
            version.counter
        }
        (_, _) => return Ok(()),
    };
    if seen < Lease::LARGEST_COUNTER {
        return Ok(());
    }
    let message = format!(
        "the lease {key} cannot be changed: its counter is at its limit of {}, where no write could be told from the next. Stop the workers and \
         set leaseCounter to a smaller number",
        Lease::LARGEST_COUNTER
    );
    Err(StoreError::definite(StoreErrorKind::Data, message))
}

/// A store could not answer.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    certainty: Certainty,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl StoreError {
    /// An error after which the request did certainly not happen.
    pub fn definite(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            certainty: Certainty::Definite,
            message: message.into(),
            source: None,
        }
    }

    /// An error after which the request may have happened, or may happen yet.
    pub fn unknown(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            certainty: Certainty::Unknown,
            message: message.into(),
            source: None,
        }
    }

    /// The error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The reaction that fits it.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Whether the request may have happened even so.
    pub fn certainty(&self) -> Certainty {
        self.certainty
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
