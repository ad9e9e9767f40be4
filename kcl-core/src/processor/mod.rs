//! The user's part: a [`RecordProcessor`] per shard, and its arguments.

mod batch;
mod context;
mod delivered;
mod error;
pub(crate) mod fetched_batch;
mod handler;
mod policy;
mod record_calls;
mod sink_position;
mod windows;

use async_trait::async_trait;

pub use crate::lease::row::PendingCheckpoint;
pub use batch::{CheckpointError, PreparedCheckpoint, RecordBatch};
pub(crate) use batch::{CheckpointMark, CheckpointSink};
pub use context::{FencingToken, ShardContext};
pub use delivered::{Delivered, DeliveredRecords, HandOn, NotAcknowledged, handed_on};
pub use error::{ProcessorError, Severity};
pub use handler::{RecordHandler, RecordHandlers};
pub(crate) use policy::decide;
pub use policy::{Decision, ErrorPolicy, FailedCall, Failure, FailureKind, LastResort, Policy, Retries};
pub use record_calls::{Concurrency, HandlerCall, RecordCalls};
pub use sink_position::{
    AdvanceValues, ClaimValues, ReadValues, SinkPosition, SinkPositionError, SinkSql, StoredPosition,
};
pub use windows::panes::Window;
pub use windows::{TumblingWindows, WindowProcessor};

use crate::settings::CheckpointMode;
use crate::types::{RecordPosition, Timestamp};

/// Processes the records of one shard. One value is made per ownership of a lease, and used by one task.
///
/// Delivery is at least once: after a failover or a crash, records after the last stored checkpoint come again.
/// Within one ownership records come in order and none is left out.
///
/// An error is a value: the worker's [`ErrorPolicy`] decides, and by default tries the same batch again with growing pauses,
/// holding the shard. A panic counts as an error; the processor is then dropped and replaced, and reading goes on from
/// the stored checkpoint.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use async_trait::async_trait;
/// use kinesis_client::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
///
/// struct Counter(u64);
///
/// #[async_trait]
/// impl RecordProcessor for Counter {
///     async fn process_records(&mut self, batch: RecordBatch, shard: &ShardContext) -> Result<(), ProcessorError> {
///         self.0 += batch.len() as u64;
///         println!("{}: {} records", shard.shard(), self.0);
///         Ok(())
///     }
/// }
/// ```
///
/// # Code that blocks
///
/// Callbacks run on the runtime that the worker was started on, where a callback that blocks its thread, and one that computes for long, holds up
/// whatever that thread was to run: other shards, and the rest of your program. It costs no lease, because the worker renews
/// them on a [thread of its own](crate::worker::builder::Coordination). The worker warns once of such a callback.
///
/// Run blocking code on a thread that is there for it. `tokio::task::spawn_blocking` takes what it can own, which a batch is: its clones are
/// cheap. On a runtime of several threads, `tokio::task::block_in_place` takes what it can borrow:
///
/// ```
/// # use kcl_core as kinesis_client;
/// use async_trait::async_trait;
/// use kinesis_client::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
///
/// struct Archive;
///
/// fn compress_and_store(batch: &RecordBatch) -> std::io::Result<()> {
///     # drop(batch.clone());
///     Ok(()) // seconds of work, or a client without async
/// }
///
/// #[async_trait]
/// impl RecordProcessor for Archive {
///     async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
///         tokio::task::spawn_blocking(move || compress_and_store(&batch)).await??;
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait RecordProcessor: Send + 'static {
    /// Called once before the first record. Says where to start: by default after the stored checkpoint. It also decides about a
    /// [checkpoint that was prepared](ShardContext::pending_checkpoint) and not committed.
    ///
    /// # Errors
    ///
    /// Any error; the call is repeated with growing pauses.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when the lease is lost or the worker stops; the processor is not used again then.
    async fn initialize(&mut self, _shard: &ShardContext) -> Result<StartFrom, ProcessorError> {
        Ok(StartFrom::Checkpoint)
    }

    /// Called with the next records, never empty, one batch at a time.
    ///
    /// With automatic checkpoints, returning `Ok` says that every record of the batch is done for good. A batch is as large as the
    /// processor is likely to finish within a part of [`drain_timeout`](crate::settings::ShutdownSettings::drain_timeout), by how long its calls have
    /// taken.
    /// When the lease is about to be given up meanwhile, [`ShardContext::draining`] fires: a call that takes long should come to an end.
    /// When the lease is lost meanwhile, [`ShardContext::cancelled`] fires and the call is left to return by itself.
    ///
    /// # Errors
    ///
    /// Any error; the [`ErrorPolicy`] decides what happens. [`ProcessorError::at`] says which record failed, so that those
    /// before it are not delivered again.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped only when the worker must stop before it returns; the batch counts as unfinished then.
    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError>;

    /// Called when nothing else was called for the [tick interval](crate::settings::ProcessingSettings::tick_interval): no records came, the shard is
    /// paused or, at its end, waits for your code's checkpoints. For processors that collect records and flush them when they become old.
    ///
    /// It is not called while the shard is held after a failure, or while the lease could not be renewed in time. Under load the calls of
    /// [`process_records`](Self::process_records) take its place.
    ///
    /// # Errors
    ///
    /// Any error; the [`ErrorPolicy`] decides how long the shard is held before it goes on.
    ///
    /// # Cancel safety
    ///
    /// As [`process_records`](Self::process_records).
    async fn tick(&mut self, _shard: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }

    /// Called when the worker hands the shard over or shuts down, after the last batch has returned: the last chance to
    /// flush and, with manual checkpoints, to checkpoint.
    ///
    /// # Errors
    ///
    /// Any error; it is reported, and the lease is handed over nevertheless.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when the deadline of the shutdown passes.
    async fn shutdown_requested(&mut self, _shard: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }

    /// Called when `process_records` has returned `Ok` for every record of a closed shard. The worker stores the end once the call has
    /// returned `Ok` and every record is finished.
    ///
    /// With automatic checkpoints every record is finished by then. With manual ones this is the time to flush and to checkpoint, here or
    /// later from a task: the end waits, and the children of the shard with it, until your code has checkpointed the last record.
    /// [`end_of_shard`](Self::end_of_shard) is for processors that do not want that.
    ///
    /// # Errors
    ///
    /// Any error; the call is repeated with growing pauses, and the children of the shard wait.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when the lease is lost or the worker stops; the next owner calls it again.
    async fn shard_ended(&mut self, _shard: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }

    /// Says what the end of the shard waits for with [manual checkpoints](crate::settings::CheckpointMode::Manual). Asked once, when
    /// [`shard_ended`](Self::shard_ended) has returned `Ok`.
    ///
    /// By default the end waits for your code's checkpoints. A processor that wraps another passes the question on.
    fn end_of_shard(&self) -> EndOfShard {
        EndOfShard::WhenFinished
    }

    /// Called when another worker has the lease, after a running call has returned. Nothing can be checkpointed any more, so there is nothing
    /// here to checkpoint with:
    ///
    /// ```compile_fail,E0599
    /// # use kcl_core as kinesis_client;
    /// # use kinesis_client::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
    /// # struct Late;
    /// # #[async_trait::async_trait]
    /// # impl RecordProcessor for Late {
    /// #     async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> { Ok(()) }
    /// async fn lease_lost(&mut self, shard: &ShardContext) {
    ///     shard.checkpoint().await;
    /// }
    /// # }
    /// ```
    ///
    /// A batch that the processor kept answers [`Fenced`](CheckpointError::Fenced).
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when the worker stops.
    async fn lease_lost(&mut self, _shard: &ShardContext) {}

    /// The calls for single records, of a processor that works on many at once: the worker calls these in the place of
    /// [`process_records`](Self::process_records). Asked when `initialize` has returned, and whenever the shard goes on after a failure.
    ///
    /// [`tick`](Self::tick) is not called then. By default there are none. [`RecordHandlers`] makes processors that have them; a processor that wraps another passes the question on, or
    /// [wraps](RecordCalls::wrapped) the calls.
    fn record_calls(&self) -> Option<RecordCalls> {
        None
    }
}

/// Where a shard's first batch begins. It is asked for at each beginning of an ownership, and after each panic: a processor that always
/// answers [`TrimHorizon`](Self::TrimHorizon) reads the shard again each time. A stored checkpoint does not go back.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum StartFrom {
    /// After the stored checkpoint.
    #[default]
    Checkpoint,
    /// After this record, which the processor knows to be done: for sinks that store their own position.
    /// A position before the stored checkpoint reads again what lies between.
    After(RecordPosition),
    /// With the oldest record that the stream keeps, whatever is checkpointed.
    TrimHorizon,
    /// With the first record that the service received at this time or later, whatever is checkpointed. Records before it that are not
    /// finished are skipped.
    AtTimestamp(Timestamp),
    /// After the [pending checkpoint](ShardContext::pending_checkpoint), which is committed: the worker stores it as the checkpoint before it
    /// reads, and calls nothing before that is done. Without a pending checkpoint at a record it is as [`Checkpoint`](Self::Checkpoint).
    CommitPending,
    /// After the stored checkpoint. The [pending checkpoint](ShardContext::pending_checkpoint) is removed before the worker reads: its
    /// transaction was rolled back, and its records come again. Without a pending checkpoint it is as [`Checkpoint`](Self::Checkpoint),
    /// which leaves a pending one to the next checkpoint.
    DiscardPending,
}

/// The condition for the end of a shard with manual checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EndOfShard {
    /// Until your code has checkpointed every record that was delivered.
    #[default]
    WhenFinished,
    /// Nothing: every record that was delivered is done for good, checkpointed or not. For processors that keep their own position and
    /// [start from it](StartFrom::After).
    AllFinished,
}

/// Makes the processor of a shard. Closures that take a [`ShardContext`] and return a processor are factories.
pub trait RecordProcessorFactory: Send + Sync + 'static {
    /// A fresh processor for this ownership of the shard.
    fn create(&self, shard: &ShardContext) -> Box<dyn RecordProcessor>;

    /// The checkpoint mode that these processors need, whatever the [settings](crate::settings::CheckpointSettings::mode) say; `None` for
    /// that of the settings, as by default. Asked once, when the worker is built.
    ///
    /// A processor whose correctness depends on who checkpoints asks for its mode here, so that no user can forget the setting. A factory that
    /// wraps another passes the question on.
    fn checkpoint_mode(&self) -> Option<CheckpointMode> {
        None
    }

    /// How many records of a shard its processors work on at once: the worker refuses what a stream cannot have, before it reads. A factory
    /// that wraps another passes the question on.
    fn concurrency(&self) -> Concurrency {
        Concurrency::Ordered
    }
}

impl<F, P> RecordProcessorFactory for F
where
    F: Fn(&ShardContext) -> P + Send + Sync + 'static,
    P: RecordProcessor,
{
    fn create(&self, shard: &ShardContext) -> Box<dyn RecordProcessor> {
        Box::new(self(shard))
    }
}
