//! Records that are handed on, and acknowledged by whoever has them then.

use std::fmt;
use std::ops::Deref;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::processor::{ProcessorError, RecordHandler, ShardContext};
use crate::types::Record;

/// Something that was delivered and that its holder has to acknowledge: a record, or what was [made](Self::map) from one.
///
/// It may be acknowledged anywhere, at any time, in any order, while the lease of its shard is held. Dropping it is a failure of the record, as
/// [`fail`](Self::fail) is, and never an acknowledgement.
#[must_use = "dropping it fails its record"]
pub struct Delivered<T> {
    value: T,
    shard: ShardContext,
    acknowledgement: Acknowledgement,
}

/// Ends the call of the handler that waits for it.
struct Acknowledgement {
    outcome: oneshot::Sender<Result<(), ProcessorError>>,
    lost: CancellationToken,
}

/// The record was not acknowledged: its lease is not this worker's any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("the lease of the shard is not this worker's any more: the record comes again, at its next owner")]
#[non_exhaustive]
pub struct NotAcknowledged;

impl<T> Delivered<T> {
    /// The record is done for good.
    ///
    /// # Errors
    ///
    /// [`NotAcknowledged`] if the lease was given up or lost before: the record is delivered again, to its next owner. Undo what was
    /// done, or let that owner find out. `Ok` is no promise that the record does not come again: if the worker dies before the next
    /// checkpoint, it does.
    pub fn ack(self) -> Result<(), NotAcknowledged> {
        self.acknowledgement.end(Ok(()))
    }

    /// The record is not done: the worker's [`ErrorPolicy`](crate::processor::ErrorPolicy) decides about this error. A record
    /// that is tried again is delivered again.
    ///
    /// # Errors
    ///
    /// As [`ack`](Self::ack).
    pub fn fail(self, error: impl Into<ProcessorError>) -> Result<(), NotAcknowledged> {
        self.acknowledgement.end(Err(error.into()))
    }

    /// Replaces the value, as by what was decoded from it.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Delivered<U> {
        Delivered {
            value: change(self.value),
            shard: self.shard,
            acknowledgement: self.acknowledgement,
        }
    }

    /// The shard that it came from.
    pub fn shard(&self) -> &ShardContext {
        &self.shard
    }
}

impl Acknowledgement {
    fn end(self, outcome: Result<(), ProcessorError>) -> Result<(), NotAcknowledged> {
        if self.lost.is_cancelled() {
            return Err(NotAcknowledged);
        }
        self.outcome.send(outcome).map_err(|_| NotAcknowledged)
    }
}

impl<T> Deref for Delivered<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Delivered<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Delivered").field(&self.value).finish()
    }
}

/// Makes a handler that hands each record on, and the queue from which they are taken: for code that pulls records and acknowledges
/// them when it likes, as another engine does.
///
/// The queue is shared by all shards and workers that the handler is given to. It holds so many records, at least 1, that nobody has taken
/// yet; how many are taken and not acknowledged is bounded by the [`Concurrency`](crate::processor::Concurrency) of the worker, for each shard.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::processor::{Concurrency, ShardContext, handed_on};
/// use kinesis_client::Worker;
///
/// # fn build() {
/// let (handler, mut records) = handed_on(1000);
/// let worker = Worker::builder("app")
///     .handler(Concurrency::PerKey(500), move |_: &ShardContext| handler.clone());
/// # drop(worker);
/// let engine = async move {
///     while let Some(record) = records.next().await {
///         // Hand it to whatever works on it; that calls ack or fail.
///         tokio::spawn(async move {
///             println!("{}: {} bytes", record.shard().shard(), record.data().len());
///             record.ack()
///         });
///     }
/// };
/// # drop(engine);
/// # }
/// ```
pub fn handed_on(capacity: usize) -> (HandOn, DeliveredRecords) {
    let (queue, records) = mpsc::channel(capacity.max(1));
    (HandOn { queue }, DeliveredRecords { records })
}

/// The handler of [`handed_on`]: a record is handled once it is acknowledged. A clone hands on to the same queue.
#[derive(Debug, Clone)]
pub struct HandOn {
    queue: mpsc::Sender<Delivered<Record>>,
}

impl RecordHandler for HandOn {
    async fn handle(&self, record: &Record, shard: &ShardContext) -> Result<(), ProcessorError> {
        let (outcome, acknowledged) = oneshot::channel();
        let delivered = Delivered {
            value: record.clone(),
            shard: shard.clone(),
            acknowledgement: Acknowledgement {
                outcome,
                lost: shard.cancelled().clone(),
            },
        };
        if self.queue.send(delivered).await.is_err() {
            return Err("nobody takes records from the queue any more: its receiver was dropped".into());
        }
        match acknowledged.await {
            Ok(outcome) => outcome,
            Err(_) => Err("a delivered record was dropped without an acknowledgement".into()),
        }
    }
}

/// The queue of [`handed_on`].
#[derive(Debug)]
pub struct DeliveredRecords {
    records: mpsc::Receiver<Delivered<Record>>,
}

impl DeliveredRecords {
    /// The next record of any shard; those of one key, or of one shard, come in the order that the worker's
    /// [`Concurrency`](crate::processor::Concurrency) promises. `None` once every clone of the handler is gone, as after the worker has stopped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no record.
    pub async fn next(&mut self) -> Option<Delivered<Record>> {
        self.records.recv().await
    }

    /// Waits for the next record, and returns it with what else is in the queue, at most so many records in all. Empty only where
    /// [`next`](Self::next) returns `None`, or for a `most` of zero.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no record.
    pub async fn next_many(&mut self, most: usize) -> Vec<Delivered<Record>> {
        let mut records = Vec::new();
        self.records.recv_many(&mut records, most).await;
        records
    }
}
