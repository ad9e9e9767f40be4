//! Where records go that a policy sets aside: the seam, and what is sent.
//!
//! A record is set aside once its sink has acknowledged the [`DeadLetter`]; only then may the checkpoint move past it. While the sink fails,
//! the shard is held. `kcl-dead-letters` has a sink that writes files and reads them back, `kcl-kinesis` one that writes to a stream.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::processor::{FailedCall, FencingToken, Severity};
use crate::types::{ApplicationName, HashKeyRange, Record, RecordPosition, ShardId, Timestamp, WorkerId};

/// Takes the records that a policy sets aside.
///
/// A letter may come more than once: when the answer of the sink was lost, when the lease moved before the checkpoint was stored, or when a
/// processor panicked meanwhile. [`DeadLetter::key`] is the same each time, for a sink that keeps one of them.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use std::sync::Mutex;
///
/// use async_trait::async_trait;
/// use kinesis_client::dead_letter::{DeadLetter, DeadLetterError, DeadLetterSink};
///
/// #[derive(Debug, Default)]
/// struct Kept(Mutex<Vec<DeadLetter>>);
///
/// #[async_trait]
/// impl DeadLetterSink for Kept {
///     async fn send(&self, letter: &DeadLetter) -> Result<(), DeadLetterError> {
///         self.0.lock().unwrap().push(letter.clone());
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait DeadLetterSink: Send + Sync + fmt::Debug + 'static {
    /// Stores the letter, and returns once it would survive a crash.
    ///
    /// # Errors
    ///
    /// Any error: the worker holds the shard and sends the letter again, with growing pauses up to 30 s. A send that takes longer than 30 s
    /// is dropped and counts as failed.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when the lease is lost, when the worker stops, and when it takes too long; the letter may be stored even so.
    async fn send(&self, letter: &DeadLetter) -> Result<(), DeadLetterError>;
}

#[async_trait]
impl<S: DeadLetterSink + ?Sized> DeadLetterSink for Arc<S> {
    async fn send(&self, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        (**self).send(letter).await
    }
}

/// A sink could not store a letter.
#[derive(Debug)]
pub struct DeadLetterError {
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl DeadLetterError {
    /// The failure, by what was being done and what helps. It must not contain a payload: it is logged.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            source: None,
        }
    }

    /// The failure with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for DeadLetterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for DeadLetterError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

/// A record that was set aside, whole, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The record as it was offered to the processor. With [`FailedCall::Unpack`] it is the Kinesis record as it came, and its sub-sequence number
    /// that of the user record in it that cannot be read, or 2^63 - 1 where none can.
    pub record: Record,
    /// The application whose policy set it aside.
    pub application: ApplicationName,
    /// The name of the stream.
    pub stream: String,
    /// The Amazon resource name of the stream, or what a source without AWS uses in its place.
    pub stream_arn: Option<String>,
    /// The shard.
    pub shard: ShardId,
    /// The hash keys that the shard receives, where the lease says.
    pub hash_range: Option<HashKeyRange>,
    /// The worker that set it aside.
    pub worker: WorkerId,
    /// The token of the ownership in which it was set aside.
    pub fencing_token: FencingToken,
    /// The call that failed.
    pub call: FailedCall,
    /// The severity of the last failure.
    pub severity: Severity,
    /// Whether the last attempt panicked.
    pub panicked: bool,
    /// How often the call failed on this record, in whichever way, since it was alone or named.
    pub attempts: u32,
    /// When a call failed first that had this record, by the worker's clock.
    pub first_failure: Timestamp,
    /// When it failed last, by the worker's clock.
    pub last_failure: Timestamp,
    /// The error and its causes, as text.
    pub error: String,
}

/// Names a letter, the same for each copy. Keys are in the order of their applications, streams, shards and positions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct DeadLetterKey {
    /// The application.
    pub application: ApplicationName,
    /// The name of the stream.
    pub stream: String,
    /// The Amazon resource name of the stream, where the letter has it: another account or region may have a stream of the same name.
    pub stream_arn: Option<String>,
    /// The shard.
    pub shard: ShardId,
    /// The position of the record in the shard.
    pub position: RecordPosition,
    /// Whether the record is a Kinesis record that could not be unpacked. Its first user record has the same position, and may have a
    /// letter of its own.
    pub is_packed: bool,
}

impl DeadLetter {
    /// The letter of a record whose first attempt just failed, in the stream `stream`, for tests of a sink.
    pub fn new(
        record: Record,
        stream: impl Into<String>,
        shard: ShardId,
        application: ApplicationName,
        worker: WorkerId,
    ) -> Self {
        Self {
            record,
            application,
            stream: stream.into(),
            stream_arn: None,
            shard,
            hash_range: None,
            worker,
            fencing_token: FencingToken::new(0),
            call: FailedCall::ProcessRecords,
            severity: Severity::Unspecified,
            panicked: false,
            attempts: 1,
            first_failure: Timestamp::from_millis(0),
            last_failure: Timestamp::from_millis(0),
            error: String::new(),
        }
    }

    /// Returns `true` if the record is a Kinesis record that could not be unpacked, so that it is no record for a processor.
    pub fn is_packed(&self) -> bool {
        self.call == FailedCall::Unpack
    }

    /// The name of the letter, the same for each copy.
    pub fn key(&self) -> DeadLetterKey {
        DeadLetterKey {
            application: self.application.clone(),
            stream: self.stream.clone(),
            stream_arn: self.stream_arn.clone(),
            shard: self.shard.clone(),
            position: self.record.position().clone(),
            is_packed: self.is_packed(),
        }
    }
}
