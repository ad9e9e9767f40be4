//! Decides what follows a failure of user code.

use std::error::Error as StdError;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::processor::Severity;
use crate::runtime::backoff::Backoff;
use crate::runtime::panic_message::panic_message;
use crate::types::{Record, RecordPosition};

/// A failed call of your code, or records that could not even be offered to it, as a policy sees it.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::processor::{Failure, FailureKind, Severity};
/// use kinesis_client::types::{Record, SequenceNumber};
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("no such truck")]
/// struct NoSuchTruck;
///
/// let record = Record::new(SequenceNumber::from(7), "payload");
/// let failure = Failure::new(1, FailureKind::Error(Severity::Poison), &NoSuchTruck).at(&record);
/// assert!(failure.is_isolated() && failure.error.is::<NoSuchTruck>());
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Failure<'a> {
    /// The call that failed.
    pub call: FailedCall,
    /// How it failed.
    pub kind: FailureKind,
    /// How often the call has failed like this on this record, or on a part that begins with it, this time included: at least 1. Each
    /// [kind](Self::kind) is counted by itself, so that a sink that was down uses up no attempts of a record. It starts again with each part of
    /// a [bisected](Decision::Bisect) batch.
    pub attempt: u32,
    /// How long ago the first of these attempts failed.
    pub since_first: Duration,
    /// How many records the failed call had; 0 where it had none.
    pub records: usize,
    /// The record that failed, where it is known: the processor [named](crate::processor::ProcessorError::at) it, it was offered alone, or
    /// it is [unreadable](FailureKind::Unreadable), and then it is the Kinesis record as it came.
    pub record: Option<&'a Record>,
    /// How long ago the first record of the failed call arrived at the service, by the worker's clock.
    pub oldest_age: Option<Duration>,
    /// Whether the call had a part of a batch that failed before and was [bisected](Decision::Bisect).
    pub bisected: bool,
    /// The error that your code returned. Of a panic and of an unreadable record it is one whose text says what happened.
    pub error: &'a (dyn StdError + 'static),
}

impl<'a> Failure<'a> {
    /// The failure number `attempt` of a call of `process_records` with one record, without its name. For tests of a policy.
    pub fn new(attempt: u32, kind: FailureKind, error: &'a (dyn StdError + 'static)) -> Self {
        Self {
            call: FailedCall::ProcessRecords,
            kind,
            attempt,
            since_first: Duration::ZERO,
            records: 1,
            record: None,
            oldest_age: None,
            bisected: false,
            error,
        }
    }

    /// The failure, at this record.
    #[must_use]
    pub fn at(self, record: &'a Record) -> Self {
        Self {
            record: Some(record),
            ..self
        }
    }

    /// The failure, of a call with so many records.
    #[must_use]
    pub fn among(self, records: usize) -> Self {
        Self { records, ..self }
    }

    /// Returns `true` if the failure is at one record that is known: only such a record is set aside.
    pub fn is_isolated(&self) -> bool {
        self.record.is_some()
    }

    /// The position of the record that failed, where it is known.
    pub fn position(&self) -> Option<&RecordPosition> {
        self.record.map(Record::position)
    }

    /// Your code's own classification. Of a panic it is [`Severity::Unspecified`], of an unreadable record [`Severity::Poison`].
    pub fn severity(&self) -> Severity {
        match self.kind {
            FailureKind::Error(severity) => severity,
            FailureKind::Panic => Severity::Unspecified,
            FailureKind::Unreadable => Severity::Poison,
        }
    }
}

/// A call of a processor that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailedCall {
    /// [`initialize`](crate::processor::RecordProcessor::initialize).
    Initialize,
    /// [`process_records`](crate::processor::RecordProcessor::process_records).
    ProcessRecords,
    /// [`handle`](crate::processor::RecordHandler::handle), where the handler is called for many records at once.
    Handle,
    /// [`tick`](crate::processor::RecordProcessor::tick).
    Tick,
    /// [`shard_ended`](crate::processor::RecordProcessor::shard_ended).
    ShardEnded,
    /// None: an aggregated record could not be unpacked, or holds what [`Aggregation::Fail`](crate::settings::Aggregation::Fail) forbids.
    Unpack,
}

impl FailedCall {
    /// Returns `true` if the call is about records, so that one of them can be set aside.
    pub fn has_records(self) -> bool {
        matches!(self, Self::ProcessRecords | Self::Handle | Self::Unpack)
    }

    const ALL: [Self; 6] = [
        Self::Initialize,
        Self::ProcessRecords,
        Self::Handle,
        Self::Tick,
        Self::ShardEnded,
        Self::Unpack,
    ];

    /// The call with this [name](Self::as_str).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|call| call.as_str() == name)
    }

    /// The name of the method, in log lines and dead letters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::ProcessRecords => "process_records",
            Self::Handle => "handle",
            Self::Tick => "tick",
            Self::ShardEnded => "shard_ended",
            Self::Unpack => "unpack",
        }
    }
}

/// How a call of your code failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// It returned an error, of this severity.
    Error(Severity),
    /// It panicked. The processor was thrown away.
    Panic,
    /// Your code was not called: an aggregated record could not be unpacked, or holds what `Aggregation::Fail` forbids. All before it is
    /// finished.
    Unreadable,
}

/// The reaction to a failure.
///
/// A reaction that needs records, to a failure of a call without any, is taken as a retry after 30 s. So is one that the worker does not
/// know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// Call again after this time, with the records from the failed one on. The shard is held meanwhile, and nothing is skipped.
    Retry {
        /// How long to wait first.
        after: Duration,
    },
    /// Offer the failed records, from the named one on, in halves, until the failing record is alone. Records of a half that succeeds are finished and not offered
    /// again. Of a thousand records one is found in at most eleven further calls.
    Bisect,
    /// Set the failing record aside: send it to the [dead-letter sink](crate::dead_letter::DeadLetterSink), and go on behind it once the
    /// sink has acknowledged it. While the sink fails, the shard is held. A batch whose failing record is not known is bisected first.
    DeadLetter,
    /// Set the failing record aside without a copy: its data is lost to this application. It is counted and logged. A batch whose failing
    /// record is not known is bisected first.
    Skip,
    /// Hold the shard without another try, until an operator [resumes](crate::FlowHandle::resume) it or the lease moves, as with a new deployment.
    Hold,
    /// Give the lease up after a third of the failover time, since another worker may be luckier. This worker does not get it back for
    /// three failover times, unless it is alone.
    Release,
    /// Stop the worker. [`Worker::run`](crate::Worker::run) returns the error.
    Stop,
}

/// Decides what happens when your code fails, or cannot be called. It is pure: the same failure gives the same decision.
///
/// [`Policy`] is the one to compose; implement the trait where a decision needs the error itself:
///
/// ```
/// # use kcl_core as kinesis_client;
/// use std::time::Duration;
/// use kinesis_client::processor::{Decision, ErrorPolicy, Failure, LastResort, Policy};
///
/// /// Waits for a throttled sink, and leaves everything else to the standard.
/// #[derive(Debug)]
/// struct PatientWithSink(Policy);
///
/// impl ErrorPolicy for PatientWithSink {
///     fn decide(&self, failure: &Failure<'_>) -> Decision {
///         match failure.error.downcast_ref::<std::io::Error>() {
///             Some(error) if error.kind() == std::io::ErrorKind::TimedOut => Decision::Retry { after: Duration::from_secs(5) },
///             _ => self.0.decide(failure),
///         }
///     }
///
///     fn sends_dead_letters(&self) -> bool {
///         self.0.sends_dead_letters()
///     }
/// }
/// # assert!(PatientWithSink(Policy::new(LastResort::DeadLetter)).sends_dead_letters());
/// ```
pub trait ErrorPolicy: Send + Sync + fmt::Debug + 'static {
    /// Returns the reaction to this failure.
    fn decide(&self, failure: &Failure<'_>) -> Decision;

    /// Returns `true` if a decision may be [`Decision::DeadLetter`]: the worker is then not built without a sink. `false` by default.
    fn sends_dead_letters(&self) -> bool {
        false
    }
}

impl<P: ErrorPolicy + ?Sized> ErrorPolicy for Arc<P> {
    fn decide(&self, failure: &Failure<'_>) -> Decision {
        (**self).decide(failure)
    }

    fn sends_dead_letters(&self) -> bool {
        (**self).sends_dead_letters()
    }
}

/// The standard policy: for each severity, retries up to a limit, and then a last resort.
///
/// | Failure | [`Policy::default`] | [`Policy::new`] with a last resort |
/// |---|---|---|
/// | [transient](Severity::Transient) | retried for ever | retried for ever |
/// | [unspecified](Severity::Unspecified), a panic | retried for ever | five attempts, then the last resort |
/// | [poison](Severity::Poison), an unreadable record | retried for ever | the last resort at once |
/// | [fatal](Severity::Fatal) | retried for ever | the worker stops |
///
/// A batch whose failing record is not known is retried whole, and then bisected: the record that fails alone has its own attempts.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use std::time::Duration;
/// use kinesis_client::processor::{Decision, ErrorPolicy, Failure, FailureKind, LastResort, Policy, Retries, Severity};
/// use kinesis_client::types::{Record, SequenceNumber};
///
/// let policy = Policy::new(LastResort::DeadLetter)
///     .unspecified(Retries::at_most(3).for_at_most(Duration::from_secs(60)), LastResort::Hold);
/// let record = Record::new(SequenceNumber::from(7), "payload");
/// let error = std::io::Error::other("no such truck");
/// let poison = Failure::new(1, FailureKind::Error(Severity::Poison), &error);
/// assert_eq!(policy.decide(&poison.clone().at(&record)), Decision::DeadLetter);
/// assert_eq!(policy.decide(&poison.among(1000)), Decision::Bisect);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    transient: Chain,
    unspecified: Chain,
    panic: Chain,
    poison: Chain,
    unreadable: Chain,
    fatal: Chain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chain {
    retries: Retries,
    then: LastResort,
}

/// How often a failed call is tried again, with pauses that double.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    attempts: Option<u32>,
    age: Option<Duration>,
    pauses: Pauses,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pauses {
    first: Duration,
    longest: Duration,
}

impl Default for Pauses {
    /// 100 ms: a blip of a sink is over, and a broken record does not burn a core. 30 s: a sink that comes back is noticed within a minute.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(30),
        }
    }
}

/// The reaction when all retries have failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LastResort {
    /// [`Decision::DeadLetter`].
    DeadLetter,
    /// [`Decision::Skip`].
    Skip,
    /// [`Decision::Hold`].
    Hold,
    /// [`Decision::Release`].
    Release,
    /// [`Decision::Stop`].
    Stop,
}

impl Retries {
    /// Retries without end: the last resort is never reached.
    pub fn forever() -> Self {
        Self {
            attempts: None,
            age: None,
            pauses: Pauses::default(),
        }
    }

    /// So many attempts, the first call included; 0 counts as 1, which is no retry.
    pub fn at_most(attempts: u32) -> Self {
        Self {
            attempts: Some(attempts.max(1)),
            ..Self::forever()
        }
    }

    /// No retry.
    pub fn none() -> Self {
        Self::at_most(1)
    }

    /// No retry once the first attempt has failed so long ago.
    #[must_use]
    pub fn for_at_most(self, age: Duration) -> Self {
        Self {
            age: Some(age),
            ..self
        }
    }

    /// The pauses before a retry: they double from `first`, 100 ms by default, up to `longest`, 30 s by default.
    #[must_use]
    pub fn pausing(self, first: Duration, longest: Duration) -> Self {
        Self {
            pauses: Pauses { first, longest },
            ..self
        }
    }

    fn pause(&self, attempt: u32) -> Duration {
        Backoff::new(self.pauses.first, self.pauses.longest).after(attempt)
    }

    fn are_used_up(&self, failure: &Failure<'_>) -> bool {
        let by_count = self.attempts.is_some_and(|most| failure.attempt >= most);
        by_count || self.age.is_some_and(|age| failure.since_first >= age)
    }
}

impl Default for Policy {
    /// Retries everything for ever, and holds the shard meanwhile: nothing is skipped.
    fn default() -> Self {
        let forever = Chain {
            retries: Retries::forever(),
            then: LastResort::Hold,
        };
        Self {
            transient: forever,
            unspecified: forever,
            panic: forever,
            poison: forever,
            unreadable: forever,
            fatal: forever,
        }
    }
}

impl Policy {
    /// The policy with this last resort, as the table above says.
    #[must_use]
    pub fn new(last_resort: LastResort) -> Self {
        let chain = |retries, then| Chain { retries, then };
        let some = chain(Retries::at_most(5), last_resort);
        let at_once = chain(Retries::none(), last_resort);
        Self {
            unspecified: some,
            panic: some,
            poison: at_once,
            unreadable: at_once,
            fatal: chain(Retries::none(), LastResort::Stop),
            ..Self::default()
        }
    }
}

macro_rules! setters {
    ($($name:ident: $what:literal),* $(,)?) => {
        impl Policy {
            $(
                #[doc = concat!("Sets the retries and the last resort for ", $what, ".")]
                #[must_use]
                pub fn $name(mut self, retries: Retries, then: LastResort) -> Self {
                    self.$name = Chain { retries, then };
                    self
                }
            )*
        }
    };
}
setters! {
    transient: "failures that [will pass](Severity::Transient)",
    unspecified: "failures of which [nothing is known](Severity::Unspecified)",
    panic: "panics",
    poison: "failures that [the record causes](Severity::Poison)",
    unreadable: "records that [cannot be read](FailureKind::Unreadable)",
    fatal: "failures after which [no record can be processed](Severity::Fatal)",
}

impl ErrorPolicy for Policy {
    fn decide(&self, failure: &Failure<'_>) -> Decision {
        let chain = match failure.kind {
            FailureKind::Error(Severity::Transient) => &self.transient,
            FailureKind::Error(Severity::Unspecified) => &self.unspecified,
            FailureKind::Error(Severity::Poison) => &self.poison,
            FailureKind::Error(Severity::Fatal) => &self.fatal,
            FailureKind::Panic => &self.panic,
            FailureKind::Unreadable => &self.unreadable,
        };
        let sets_aside = matches!(chain.then, LastResort::DeadLetter | LastResort::Skip);
        let retry = Decision::Retry {
            after: chain.retries.pause(failure.attempt),
        };
        if sets_aside && !failure.call.has_records() {
            return retry;
        }
        // The parts of a batch that was retried whole have no retries of their own: only the record that fails alone has.
        let is_part = sets_aside && failure.bisected && !failure.is_isolated();
        if !is_part && !chain.retries.are_used_up(failure) {
            return retry;
        }
        match chain.then {
            LastResort::DeadLetter | LastResort::Skip if !failure.is_isolated() => Decision::Bisect,
            LastResort::DeadLetter => Decision::DeadLetter,
            LastResort::Skip => Decision::Skip,
            LastResort::Hold => Decision::Hold,
            LastResort::Release => Decision::Release,
            LastResort::Stop => Decision::Stop,
        }
    }

    fn sends_dead_letters(&self) -> bool {
        let chains = [
            &self.transient,
            &self.unspecified,
            &self.panic,
            &self.poison,
            &self.unreadable,
            &self.fatal,
        ];
        chains.iter().any(|chain| chain.then == LastResort::DeadLetter)
    }
}

/// Asks the policy. One that panics is as if it was not set: the failure that it was asked about is not made worse.
pub(crate) fn decide(policy: &dyn ErrorPolicy, failure: &Failure<'_>) -> Decision {
    catch_unwind(AssertUnwindSafe(|| policy.decide(failure))).unwrap_or_else(|payload| {
        let message = panic_message(payload.as_ref());
        tracing::error!(panic = message, "the error policy panicked; the default decides");
        Policy::default().decide(failure)
    })
}
