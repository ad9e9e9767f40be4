//! The user's other part: a [`RecordHandler`], which is called for each record, and many at once if it asks for that.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::processor::record_calls::{Concurrency, HandlerCall, RecordCalls, RecordCode};
use crate::processor::{
    ProcessorError, RecordBatch, RecordProcessor, RecordProcessorFactory, ShardContext, StartFrom,
};
use crate::settings::CheckpointMode;
use crate::types::Record;

/// Handles the records of one shard, each in a call of its own. One value is made per ownership of a lease, and shared by the calls.
///
/// A [`Concurrency`] says how many calls run at once, and in which order they start. All calls of a shard run in one task, as the futures that
/// `handle` returns: none is spawned for a record. Give the handler to a worker by
/// [`WorkerBuilder::handler`](crate::worker::builder::WorkerBuilder::handler).
///
/// A record is finished once its call has returned `Ok`, and the checkpoint moves to the last record before the first that is not
/// finished. Records that are finished beyond it are stored in the lease row as well, as far as there is room: the next owner
/// leaves them out.
///
/// An error is a value: the worker's [`ErrorPolicy`](crate::processor::ErrorPolicy) decides, as for a processor. The record is parked
/// meanwhile, and with [`Concurrency::PerKey`] those behind it with its key; the others go on until the worker holds as many bytes as it may. A
/// panic is a failure of its record alone: the handler stays, so that it must not leave what it shares half done where it may panic. With
/// [`Concurrency::Ordered`] the shard is held meanwhile, and a panic replaces the handler, both as for a processor.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::processor::{ProcessorError, RecordHandler, ShardContext};
/// use kinesis_client::types::Record;
///
/// struct Notify(/* a client of an HTTP API */);
///
/// impl RecordHandler for Notify {
///     async fn handle(&self, record: &Record, shard: &ShardContext) -> Result<(), ProcessorError> {
///         println!("{}: {} bytes", shard.shard(), record.data().len());
///         Ok(())
///     }
/// }
/// ```
pub trait RecordHandler: Send + Sync + 'static {
    /// Called for each record. Returning `Ok` says that the record is done for good.
    ///
    /// When the lease is about to be given up, [`ShardContext::draining`] fires: no more calls start, and those that run
    /// should come to an end. When the lease is lost, [`ShardContext::cancelled`] fires and the calls are left to return by themselves.
    ///
    /// # Errors
    ///
    /// Any error; the [`ErrorPolicy`](crate::processor::ErrorPolicy) decides what happens to the record.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped only when the worker must stop before it returns; the record counts as unfinished then.
    fn handle(
        &self,
        record: &Record,
        shard: &ShardContext,
    ) -> impl Future<Output = Result<(), ProcessorError>> + Send;

    /// As [`RecordProcessor::initialize`].
    ///
    /// # Errors
    ///
    /// As [`RecordProcessor::initialize`].
    ///
    /// # Cancel safety
    ///
    /// As [`RecordProcessor::initialize`].
    fn initialize(
        &self,
        _shard: &ShardContext,
    ) -> impl Future<Output = Result<StartFrom, ProcessorError>> + Send {
        std::future::ready(Ok(StartFrom::Checkpoint))
    }

    /// As [`RecordProcessor::shutdown_requested`]: called when the calls that ran have returned.
    ///
    /// # Errors
    ///
    /// As [`RecordProcessor::shutdown_requested`].
    ///
    /// # Cancel safety
    ///
    /// As [`RecordProcessor::shutdown_requested`].
    fn shutdown_requested(
        &self,
        _shard: &ShardContext,
    ) -> impl Future<Output = Result<(), ProcessorError>> + Send {
        std::future::ready(Ok(()))
    }

    /// As [`RecordProcessor::shard_ended`]: called when every record of a closed shard is finished.
    ///
    /// # Errors
    ///
    /// As [`RecordProcessor::shard_ended`].
    ///
    /// # Cancel safety
    ///
    /// As [`RecordProcessor::shard_ended`].
    fn shard_ended(&self, _shard: &ShardContext) -> impl Future<Output = Result<(), ProcessorError>> + Send {
        std::future::ready(Ok(()))
    }

    /// As [`RecordProcessor::lease_lost`]: called when the calls that ran have returned.
    ///
    /// # Cancel safety
    ///
    /// As [`RecordProcessor::lease_lost`].
    fn lease_lost(&self, _shard: &ShardContext) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// Makes the [`RecordHandler`] of each shard, as the factory that a worker asks for a processor.
///
/// [`WorkerBuilder::handler`](crate::worker::builder::WorkerBuilder::handler) makes one; what takes a factory, as a
/// [`Redrive`](crate::Redrive) and the test kit do, is given one made here. A redrive calls the handler for one record after the other.
///
/// ```
/// # use kcl_core as kinesis_client;
/// # use kinesis_client::processor::{ProcessorError, RecordHandler};
/// # use kinesis_client::types::Record;
/// use kinesis_client::processor::{Concurrency, RecordHandlers, RecordProcessorFactory, ShardContext};
/// # struct Notify;
/// # impl RecordHandler for Notify {
/// #     async fn handle(&self, _: &Record, _: &ShardContext) -> Result<(), ProcessorError> { Ok(()) }
/// # }
/// let handlers = RecordHandlers::new(Concurrency::PerKey(64), |_: &ShardContext| Notify);
/// assert_eq!(handlers.concurrency(), Concurrency::PerKey(64));
/// ```
pub struct RecordHandlers<F> {
    concurrency: Concurrency,
    make: F,
}

impl<F, H> RecordHandlers<F>
where
    F: Fn(&ShardContext) -> H + Send + Sync + 'static,
    H: RecordHandler,
{
    /// Calls the handlers that `make` returns in this way.
    pub fn new(concurrency: Concurrency, make: F) -> Self {
        Self { concurrency, make }
    }
}

impl<F> fmt::Debug for RecordHandlers<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordHandlers")
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

impl<F, H> RecordProcessorFactory for RecordHandlers<F>
where
    F: Fn(&ShardContext) -> H + Send + Sync + 'static,
    H: RecordHandler,
{
    fn create(&self, shard: &ShardContext) -> Box<dyn RecordProcessor> {
        Box::new(HandlerProcessor {
            handler: Arc::new((self.make)(shard)),
            concurrency: self.concurrency,
        })
    }

    fn concurrency(&self) -> Concurrency {
        self.concurrency
    }

    // A handler has nothing to checkpoint with.
    fn checkpoint_mode(&self) -> Option<CheckpointMode> {
        Some(CheckpointMode::Automatic)
    }
}

/// A handler as a processor: for what offers whole batches, it handles one record after the other.
struct HandlerProcessor<H> {
    handler: Arc<H>,
    concurrency: Concurrency,
}

#[async_trait]
impl<H: RecordHandler> RecordProcessor for HandlerProcessor<H> {
    async fn initialize(&mut self, shard: &ShardContext) -> Result<StartFrom, ProcessorError> {
        self.handler.initialize(shard).await
    }

    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        let draining = shard.draining();
        for record in &batch {
            if draining.is_cancelled() || shard.cancelled().is_cancelled() {
                return Err(ProcessorError::transient("the lease is given up").at(record));
            }
            let handled = self.handler.handle(record, shard).await;
            handled.map_err(|error| error.at(record))?;
            // Handlers that never wait must not keep the thread for a whole batch.
            tokio::task::consume_budget().await;
        }
        Ok(())
    }

    async fn shutdown_requested(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        self.handler.shutdown_requested(shard).await
    }

    async fn shard_ended(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        self.handler.shard_ended(shard).await
    }

    async fn lease_lost(&mut self, shard: &ShardContext) {
        self.handler.lease_lost(shard).await;
    }

    fn record_calls(&self) -> Option<RecordCalls> {
        let code = Arc::clone(&self.handler) as Arc<dyn RecordCode>;
        (self.concurrency != Concurrency::Ordered).then(|| RecordCalls::new(self.concurrency, code))
    }
}

impl<H: RecordHandler> RecordCode for H {
    fn call(self: Arc<Self>, batch: RecordBatch, index: usize, shard: ShardContext) -> HandlerCall {
        Box::pin(async move {
            match batch.get(index) {
                Some(record) => self.handle(record, &shard).await,
                None => Err("a record was to be handled that its batch does not have".into()),
            }
        })
    }
}
