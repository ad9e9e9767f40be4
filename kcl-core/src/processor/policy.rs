//! Decides what follows a failure of user code.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::processor::Severity;
use crate::runtime::backoff::Backoff;
use crate::runtime::panic_message::panic_message;
use crate::types::{Record, RecordPosition};

/// A failed call of user code, or records that could not even be offered to it, as a policy sees it.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::types::{Record, SequenceNumber};
/// use kinesis_client::processor::{Failure, FailureKind};
///
/// let record = Record::new(SequenceNumber::from(7), "payload");
/// let failure = Failure::new(1, FailureKind::Unreadable).at(record.clone());
/// assert_eq!(failure.record, Some(record));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// How often the same call has failed in a row, this time included: at least 1.
    pub attempt: u32,
    /// How it failed.
    pub kind: FailureKind,
    /// The record it failed at, where the processor said so.
    pub position: Option<RecordPosition>,
    /// The record at that position. One that is [unreadable](FailureKind::Unreadable) is the Kinesis record as it came. It may keep the
    /// memory of a whole answer: [detach](Record::detached) what is kept for long.
    pub record: Option<Record>,
    /// How many records the failed batch had.
    pub records: usize,
}

impl Failure {
    /// The failure number `attempt` in a row of a call for one record, at a place that is not known. For tests of a policy.
    pub fn new(attempt: u32, kind: FailureKind) -> Self {
        Self {
            attempt,
            kind,
            position: None,
            record: None,
            records: 1,
        }
    }

    /// The failure, at this record.
    #[must_use]
    pub fn at(mut self, record: Record) -> Self {
        self.position = Some(record.position().clone());
        self.record = Some(record);
        self
    }
}

/// How a call of user code failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// It returned an error, of this severity.
    Error(Severity),
    /// It panicked. The processor was thrown away.
    Panic,
    /// The user's code was not called: an aggregated record could not be unpacked, or holds what `Aggregation::Fail` forbids. All before it is finished.
    Unreadable,
}

/// The reaction to a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// Call again after this time, with the records from the failed one on. The shard is held meanwhile, and nothing is skipped.
    Retry {
        /// How long to wait first.
        after: Duration,
    },
}

/// Decides what happens when the user's code fails, or cannot be called. It is pure: the same failure gives the same decision.
pub trait ErrorPolicy: Send + Sync + fmt::Debug + 'static {
    /// Returns the reaction to this failure.
    fn decide(&self, failure: &Failure) -> Decision;
}

/// The default policy: tries again for ever, with pauses that double from `first` up to `longest`. It never skips a record.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::processor::{Decision, ErrorPolicy, Failure, FailureKind, RetryForever};
///
/// let policy = RetryForever::default();
/// let pause = |attempt| match policy.decide(&Failure::new(attempt, FailureKind::Panic)) {
///     Decision::Retry { after } => after.as_millis(),
///     _ => unreachable!("this policy only retries"),
/// };
/// assert_eq!((pause(1), pause(2), pause(1000)), (100, 200, 30_000));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryForever {
    /// The first pause. 100 ms by default: a blip of a sink is over, and a broken record does not burn a core.
    pub first: Duration,
    /// The longest pause. 30 s by default: a sink that comes back is noticed within a minute.
    pub longest: Duration,
}

impl Default for RetryForever {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(30),
        }
    }
}

impl ErrorPolicy for RetryForever {
    fn decide(&self, failure: &Failure) -> Decision {
        Decision::Retry {
            after: Backoff::new(self.first, self.longest).after(failure.attempt),
        }
    }
}

/// Asks the policy. One that panics is as if it was not set: the failure that it was asked about is not made worse.
pub(crate) fn decide(policy: &dyn ErrorPolicy, failure: &Failure) -> Decision {
    catch_unwind(AssertUnwindSafe(|| policy.decide(failure))).unwrap_or_else(|payload| {
        let message = panic_message(payload.as_ref());
        tracing::error!(panic = message, "the error policy panicked; the default decides");
        RetryForever::default().decide(failure)
    })
}
