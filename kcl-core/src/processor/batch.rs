use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::lease::row::PendingCheckpoint;
use crate::lease::store::StoreError;
use crate::processor::fetched_batch::FetchedBatch;
use crate::runtime::clock::BoxFuture;
use crate::types::{Gap, Record, RecordPosition};

/// Records of one shard, in order. A clone is cheap, and a part shares the records of the whole.
///
/// The batch knows its shard and its ownership, and [`checkpoint_through`](Self::checkpoint_through) takes an index in the batch, so that
/// it can name neither another shard's record nor one that was not delivered:
///
/// ```compile_fail,E0308
/// # use kcl_core as kinesis_client;
/// # async fn processed(mine: kinesis_client::processor::RecordBatch, of_other_shard: kinesis_client::processor::RecordBatch) {
/// mine.checkpoint_through(&of_other_shard[0]).await;
/// # }
/// ```
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::types::{Record, SequenceNumber};
/// use kinesis_client::processor::RecordBatch;
///
/// let batch = RecordBatch::unowned(vec![Record::new(SequenceNumber::from(1), "payload")]);
/// for record in &batch {
///     assert_eq!(&record.data()[..], b"payload");
/// }
/// ```
#[derive(Clone)]
pub struct RecordBatch {
    fetched: Arc<FetchedBatch>,
    /// The number of the first of them among all that the ownership delivered.
    first: u64,
    from: usize,
    to: usize,
    sink: Arc<dyn CheckpointSink>,
}

/// Where a batch stores checkpoints: its ownership of the shard.
pub(crate) trait CheckpointSink: Send + Sync {
    /// Every record up to this one, which was delivered under this number, and all delivered before it, are finished; stores that.
    fn checkpoint_through(
        &self,
        record: RecordPosition,
        number: u64,
    ) -> BoxFuture<'_, Result<(), CheckpointError>>;

    /// Stores the position of this record, which was delivered under this number, and the state beside the checkpoint.
    fn prepare(
        &self,
        record: RecordPosition,
        number: u64,
        state: Bytes,
    ) -> BoxFuture<'_, Result<(), CheckpointError>>;

    /// Removes what was prepared last, if it is at this record.
    fn discard(&self, record: RecordPosition) -> BoxFuture<'_, Result<(), CheckpointError>>;
}

impl RecordBatch {
    /// All that was fetched together, with the number of its first record.
    pub(crate) fn new(fetched: Arc<FetchedBatch>, first: u64, sink: Arc<dyn CheckpointSink>) -> Self {
        Self {
            first,
            from: 0,
            to: fetched.len(),
            fetched,
            sink,
        }
    }

    /// A batch that belongs to no shard, for testing a processor without a worker: its checkpoints succeed and store nothing.
    /// [`on_checkpoint`](Self::on_checkpoint) shows a test which they are.
    pub fn unowned(records: Vec<Record>) -> Self {
        Self::new(Arc::new(records.into()), 0, Arc::new(Nowhere))
    }

    /// The batch with `watch` called before each of its checkpoints, and of those of its clones, with the position of the last record
    /// that is finished. If `watch` returns an error, nothing is marked as finished or stored, and the checkpoint fails with that error.
    ///
    /// For tests, and for processors that wrap another.
    ///
    /// ```
    /// # use kcl_core as kinesis_client;
    /// use std::sync::{Arc, Mutex};
    /// use kinesis_client::types::{Record, SequenceNumber};
    /// use kinesis_client::processor::RecordBatch;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), kcl_core::processor::CheckpointError> {
    /// let seen = Arc::new(Mutex::new(Vec::new()));
    /// let watched = Arc::clone(&seen);
    /// let records = (1..4_u128).map(|n| Record::new(SequenceNumber::from(n), "payload"));
    /// let batch = RecordBatch::unowned(records.collect()).on_checkpoint(move |position| {
    ///     watched.lock().unwrap().push(position.sequence.clone());
    ///     Ok(())
    /// });
    /// batch.checkpoint_through(1).await?;
    /// assert_eq!(*seen.lock().unwrap(), [SequenceNumber::from(2)]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn on_checkpoint(
        self,
        watch: impl Fn(&RecordPosition) -> Result<(), CheckpointError> + Send + Sync + 'static,
    ) -> Self {
        let inner = Arc::clone(&self.sink);
        let sink = Arc::new(ObservedSink { watch, inner });
        Self { sink, ..self }
    }

    /// The part that begins with the record at this index.
    #[must_use]
    pub(crate) fn starting_at(&self, index: usize) -> Self {
        let from = (self.from + index).min(self.to);
        Self { from, ..self.clone() }
    }

    /// The part that has at most so many records, from the beginning on.
    #[must_use]
    pub(crate) fn first_part(&self, count: usize) -> Self {
        let to = self.from.saturating_add(count).min(self.to);
        Self { to, ..self.clone() }
    }

    /// Between which of the records that were delivered together the part stands: the index of its first, and that after its last.
    pub(crate) fn place(&self) -> (usize, usize) {
        (self.from, self.to)
    }

    /// How far behind the newest record of the shard the batch was when it was fetched, where the source reports it.
    pub fn behind_latest(&self) -> Option<Duration> {
        self.fetched.behind
    }

    /// Where retention may have taken records between the batch before and this one: the record at which reading was to go on is gone.
    ///
    /// The gap is also counted, logged once, and shown in the status of the lease. A batch that comes again brings its gap again.
    pub fn gap(&self) -> Option<&Gap> {
        self.fetched.gap.as_ref().filter(|_| self.from == 0)
    }

    /// The bytes of all payloads.
    pub fn payload_bytes(&self) -> u64 {
        self.iter().map(|record| record.data().len() as u64).sum()
    }

    /// Says that every record up to and including the one at this index of the batch is done for good, and stores that.
    ///
    /// Returns once the checkpoint is stored. A checkpoint that is not ahead of the stored one stores nothing and succeeds.
    ///
    /// It is your word that the records are done, whoever holds the batch: also a task that outlived the processor it was given to, once the
    /// records have been delivered again.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] says what to do in each case. The records stay marked as done even so, except when fenced.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the write; the records stay marked as done.
    pub async fn checkpoint_through(&self, index: usize) -> Result<(), CheckpointError> {
        let (record, number) = self.delivered(index)?;
        self.sink
            .checkpoint_through(record.position().clone(), number)
            .await
    }

    /// The record at this index, and the number under which it was delivered.
    fn delivered(&self, index: usize) -> Result<(&Record, u64), CheckpointError> {
        let record = self.get(index).ok_or(CheckpointError::NotInBatch)?;
        Ok((record, self.first + (self.from + index) as u64))
    }

    /// Marks the record at this index, to checkpoint there later; `None` if there is no such record.
    pub(crate) fn mark(&self, index: usize) -> Option<CheckpointMark> {
        let (record, number) = self.delivered(index).ok()?;
        Some(CheckpointMark {
            position: record.position().detached(),
            number,
            sink: Arc::clone(&self.sink),
        })
    }

    /// Says that every record of the batch is done for good, and stores that.
    ///
    /// # Errors
    ///
    /// As [`checkpoint_through`](Self::checkpoint_through).
    ///
    /// # Cancel safety
    ///
    /// As [`checkpoint_through`](Self::checkpoint_through).
    pub async fn checkpoint(&self) -> Result<(), CheckpointError> {
        match self.len().checked_sub(1) {
            Some(last) => self.checkpoint_through(last).await,
            None => Ok(()),
        }
    }

    /// Prepares a checkpoint at the record at this index of the batch: stores its position, and up to 4 KiB of your own, beside the checkpoint of
    /// the lease. The checkpoint stays where it is until [`commit`](PreparedCheckpoint::commit).
    ///
    /// This is the first phase of a commit in two phases: what you store says how to find the transaction in your sink. If the worker dies
    /// before `commit`, the next owner is given both by [`ShardContext::pending_checkpoint`](super::ShardContext::pending_checkpoint) when its
    /// `initialize` is called, and decides by what it returns.
    ///
    /// A lease has at most one prepared checkpoint: another one replaces it, and a checkpoint by your code discards it, wherever
    /// that is. With automatic checkpoints the worker stores nothing before it while it is neither committed nor discarded, and commits it
    /// when `process_records` has returned `Ok` for its record.
    ///
    /// It works with automatic and with manual checkpoints. A position that is not ahead of the checkpoint prepares nothing and succeeds.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`]. Unless it is [`NotPrepared`](CheckpointError::NotPrepared), certainly nothing was prepared.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the write: the checkpoint may be prepared, now or later.
    ///
    /// ```
    /// # use kcl_core as kinesis_client;
    /// use kinesis_client::processor::{ProcessorError, RecordBatch};
    ///
    /// # struct Sink;
    /// # impl Sink {
    /// #     async fn write(&self, _: &RecordBatch) -> Result<String, ProcessorError> { Ok("tx-17".to_owned()) }
    /// #     async fn commit(&self, _: &str) -> Result<(), ProcessorError> { Ok(()) }
    /// # }
    /// async fn process(batch: RecordBatch, sink: &Sink) -> Result<(), ProcessorError> {
    ///     let transaction = sink.write(&batch).await?; // not visible yet
    ///     let prepared = batch.prepare_through(batch.len() - 1, transaction.clone()).await?;
    ///     sink.commit(&transaction).await?;
    ///     Ok(prepared.commit().await?)
    /// }
    /// ```
    pub async fn prepare_through(
        &self,
        index: usize,
        state: impl Into<Bytes>,
    ) -> Result<PreparedCheckpoint, CheckpointError> {
        let ((record, number), state) = (self.delivered(index)?, state.into());
        if state.len() > PendingCheckpoint::LARGEST_STATE {
            return Err(CheckpointError::StateTooLarge(state.len()));
        }
        let position = record.position().detached();
        self.sink.prepare(position.clone(), number, state).await?;
        Ok(PreparedCheckpoint {
            position,
            number,
            sink: Arc::clone(&self.sink),
        })
    }

    /// Prepares a checkpoint at the last record of the batch.
    ///
    /// # Errors
    ///
    /// As [`prepare_through`](Self::prepare_through); [`NotInBatch`](CheckpointError::NotInBatch) for an empty batch, which no worker makes.
    ///
    /// # Cancel safety
    ///
    /// As [`prepare_through`](Self::prepare_through).
    pub async fn prepare(&self, state: impl Into<Bytes>) -> Result<PreparedCheckpoint, CheckpointError> {
        let last = self.len().checked_sub(1).ok_or(CheckpointError::NotInBatch)?;
        self.prepare_through(last, state).await
    }
}

/// A place in the shard at which a checkpoint can be made when the batch is gone, whose records it does not keep.
#[derive(Clone)]
pub(crate) struct CheckpointMark {
    position: RecordPosition,
    number: u64,
    sink: Arc<dyn CheckpointSink>,
}

impl CheckpointMark {
    /// The position of the record that it marks.
    pub(crate) fn position(&self) -> &RecordPosition {
        &self.position
    }

    /// As [`RecordBatch::checkpoint_through`] with the record that it marks.
    pub(crate) async fn checkpoint(&self) -> Result<(), CheckpointError> {
        self.sink
            .checkpoint_through(self.position.clone(), self.number)
            .await
    }
}

/// A checkpoint that was [prepared](RecordBatch::prepare_through), to be committed or discarded. Dropped, it stays prepared: the next owner is
/// given it if this one commits nothing more.
#[must_use = "a prepared checkpoint does not move the stored one before it is committed"]
pub struct PreparedCheckpoint {
    position: RecordPosition,
    number: u64,
    sink: Arc<dyn CheckpointSink>,
}

impl PreparedCheckpoint {
    /// The position of the record that it was prepared at.
    pub fn position(&self) -> &RecordPosition {
        &self.position
    }

    /// Says that every record up to the prepared position is done for good, and moves the checkpoint there: as
    /// [`checkpoint_through`](RecordBatch::checkpoint_through) with that record. Another try after an error does no harm.
    ///
    /// # Errors
    ///
    /// As [`checkpoint_through`](RecordBatch::checkpoint_through).
    ///
    /// # Cancel safety
    ///
    /// As [`checkpoint_through`](RecordBatch::checkpoint_through).
    pub async fn commit(&self) -> Result<(), CheckpointError> {
        self.sink
            .checkpoint_through(self.position.clone(), self.number)
            .await
    }

    /// Removes the prepared checkpoint: its transaction was rolled back, and its records are not done. One that another has replaced
    /// stays replaced.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`]; after [`NotPrepared`](CheckpointError::NotPrepared) the next owner may be given it nevertheless.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the write.
    pub async fn discard(self) -> Result<(), CheckpointError> {
        self.sink.discard(self.position.clone()).await
    }
}

impl fmt::Debug for PreparedCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedCheckpoint")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Deref for RecordBatch {
    type Target = [Record];

    fn deref(&self) -> &[Record] {
        self.fetched.get(self.from..self.to).unwrap_or_default()
    }
}

impl<'a> IntoIterator for &'a RecordBatch {
    type Item = &'a Record;
    type IntoIter = std::slice::Iter<'a, Record>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Shows how many records there are and where, never what is in them.
impl fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordBatch")
            .field("records", &self.len())
            .field("first", &self.first().map(Record::position))
            .field("last", &self.last().map(Record::position))
            .finish_non_exhaustive()
    }
}

struct Nowhere;

impl CheckpointSink for Nowhere {
    fn checkpoint_through(&self, _: RecordPosition, _: u64) -> BoxFuture<'_, Result<(), CheckpointError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn prepare(&self, _: RecordPosition, _: u64, _: Bytes) -> BoxFuture<'_, Result<(), CheckpointError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn discard(&self, _: RecordPosition) -> BoxFuture<'_, Result<(), CheckpointError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

struct ObservedSink<F> {
    watch: F,
    inner: Arc<dyn CheckpointSink>,
}

impl<F> CheckpointSink for ObservedSink<F>
where
    F: Fn(&RecordPosition) -> Result<(), CheckpointError> + Send + Sync,
{
    fn checkpoint_through(
        &self,
        record: RecordPosition,
        number: u64,
    ) -> BoxFuture<'_, Result<(), CheckpointError>> {
        match (self.watch)(&record) {
            Ok(()) => self.inner.checkpoint_through(record, number),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn prepare(
        &self,
        record: RecordPosition,
        number: u64,
        state: Bytes,
    ) -> BoxFuture<'_, Result<(), CheckpointError>> {
        self.inner.prepare(record, number, state)
    }

    fn discard(&self, record: RecordPosition) -> BoxFuture<'_, Result<(), CheckpointError>> {
        self.inner.discard(record)
    }
}

/// Why a checkpoint was not stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Another worker has the shard, or the processor that was given the record panicked and was replaced. Do: stop; the records will be
    /// delivered again, to that worker or that processor.
    #[error("the shard is no longer this processor's: another one goes on from the last stored checkpoint")]
    Fenced,
    /// The lease could not be renewed in time, and nobody has taken it yet. Do: wait, or return; the checkpoint is
    /// stored by itself if the lease can be renewed. One that was to be prepared is not.
    #[error("the lease of the shard could not be renewed in time; the checkpoint waits for it")]
    Suspended,
    /// The store did not answer. Do: nothing, or try again; the checkpoint is stored with the next renewal.
    #[error("the lease store did not take the checkpoint; it is stored with the next renewal")]
    Unavailable(#[source] StoreError),
    /// The batch has no record at this index. Do: name one from 0 to the length less 1.
    #[error("the batch that was asked for a checkpoint has no record at this index")]
    NotInBatch,
    /// So many bytes are more than may be stored with a prepared checkpoint. Do: store a key, and what it stands for in your sink.
    #[error("{0} bytes are more than a prepared checkpoint may store, which are {limit}", limit = PendingCheckpoint::LARGEST_STATE)]
    StateTooLarge(usize),
    /// The store did not answer, and it is not known whether the checkpoint is prepared or, of one that was to be discarded, gone. Do:
    /// try again, or fail; commit nothing in the sink on this word.
    #[error("the lease store did not take the prepared checkpoint; it is not tried again by itself")]
    NotPrepared(#[source] StoreError),
}
