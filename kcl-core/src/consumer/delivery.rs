//! The seam between a consumer and user code. The consumer knows only this seam.

use std::error::Error as StdError;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;

use crate::processor::{
    EndOfShard, FailureKind, ProcessorError, RecordBatch, RecordCalls, RecordProcessor,
    RecordProcessorFactory, ShardContext, StartFrom,
};
use crate::runtime::clock::{BoxFuture, Clock};
use crate::runtime::panic_message::panic_message;
use crate::runtime::stall_probe::CallbackThread;
use crate::runtime::task_scope::caught;
use crate::types::RecordPosition;

/// How a call of user code failed.
#[derive(Debug)]
pub(crate) struct CallFailure {
    pub(crate) kind: FailureKind,
    pub(crate) position: Option<RecordPosition>,
    pub(crate) error: Box<dyn StdError + Send + Sync>,
}

/// The text of a failure that is no error of user code.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct FailureText(pub(crate) String);

/// Takes batches and lifecycle calls to whatever the user wrote.
#[async_trait]
pub(crate) trait Delivery: Send {
    /// Prepares for the first batch.
    async fn initialize(&mut self) -> Result<StartFrom, CallFailure>;
    /// Offers a batch; returns when every record in it is finished or one has failed.
    async fn offer(&mut self, batch: RecordBatch) -> Result<(), CallFailure>;
    /// Time has passed without records.
    fn tick(&mut self) -> BoxFuture<'_, Result<(), CallFailure>>;
    /// The last call before the lease is given up.
    async fn drain(&mut self) -> Result<(), CallFailure>;
    /// Every record of the shard was offered. Returns `true` if they all count as finished, whatever was checkpointed.
    async fn end(&mut self) -> Result<EndOfShard, CallFailure>;
    /// Another worker has the lease.
    async fn lose(&mut self) -> Result<(), CallFailure>;
    /// The calls for single records, where the user's code works on many at once: they take the place of [`offer`](Self::offer).
    fn record_calls(&self) -> Option<RecordCalls>;
}

/// Drives a [`RecordProcessor`]: one batch at a time. After a panic the processor is thrown away, and the next call makes another.
pub(crate) struct ToProcessor {
    factory: Arc<dyn RecordProcessorFactory>,
    context: ShardContext,
    processor: Option<Box<dyn RecordProcessor>>,
    watch: ThreadObserver,
}

/// Notes when a callback has a thread.
pub(crate) struct ThreadObserver {
    pub(crate) on_thread: Arc<CallbackThread>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl ThreadObserver {
    /// Runs what may block its thread.
    fn note<T>(&self, call: &'static str, run: impl FnOnce() -> T) -> T {
        self.on_thread.begins(call, self.clock.now());
        let output = run();
        self.on_thread.ends(self.clock.now());
        output
    }
}

impl ToProcessor {
    pub(crate) fn new(
        factory: Arc<dyn RecordProcessorFactory>,
        context: ShardContext,
        watch: ThreadObserver,
    ) -> Self {
        Self {
            factory,
            context,
            processor: None,
            watch,
        }
    }

    fn make(&mut self) -> Result<(), CallFailure> {
        if self.processor.is_none() {
            let create = || std::panic::catch_unwind(AssertUnwindSafe(|| self.factory.create(&self.context)));
            let made = self.watch.note("create", create);
            self.processor =
                Some(made.map_err(|payload| CallFailure::panicked(panic_message(payload.as_ref())))?);
        }
        Ok(())
    }

    /// Calls the processor; a panic, wherever in the call, costs the processor and nothing else.
    async fn call<T>(
        &mut self,
        call: &'static str,
        run: impl for<'a> FnOnce(
            &'a mut dyn RecordProcessor,
            &'a ShardContext,
        ) -> BoxFuture<'a, Result<T, ProcessorError>>
        + Send,
    ) -> Result<T, CallFailure> {
        let context = self.context.clone();
        // A panic may also come before the first poll: a processor may be written without `async fn`.
        self.make()?;
        let (Some(processor), watch) = (&mut self.processor, &self.watch) else {
            return Err(CallFailure::panicked("no processor was made"));
        };
        let outcome = {
            let mut called = std::pin::pin!(caught(async { run(processor.as_mut(), &context).await }));
            poll_fn(|cx| watch.note(call, || called.as_mut().poll(cx))).await
        };
        match outcome {
            Ok(result) => result.map_err(CallFailure::from),
            Err(message) => {
                self.processor = None;
                Err(CallFailure::panicked(message))
            }
        }
    }
}

impl CallFailure {
    pub(crate) fn panicked(message: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Panic,
            position: None,
            error: Box::new(FailureText(message.into())),
        }
    }
}

impl From<ProcessorError> for CallFailure {
    fn from(error: ProcessorError) -> Self {
        Self {
            kind: FailureKind::Error(error.severity()),
            position: error.position().cloned(),
            error: error.into_cause(),
        }
    }
}

#[async_trait]
impl Delivery for ToProcessor {
    async fn initialize(&mut self) -> Result<StartFrom, CallFailure> {
        self.call("initialize", |processor, context| processor.initialize(context))
            .await
    }

    async fn offer(&mut self, batch: RecordBatch) -> Result<(), CallFailure> {
        self.call("process_records", |processor, context| {
            processor.process_records(batch, context)
        })
        .await
    }

    fn tick(&mut self) -> BoxFuture<'_, Result<(), CallFailure>> {
        Box::pin(self.call("tick", |processor, context| processor.tick(context)))
    }

    async fn drain(&mut self) -> Result<(), CallFailure> {
        self.call("shutdown_requested", |processor, context| {
            processor.shutdown_requested(context)
        })
        .await
    }

    async fn end(&mut self) -> Result<EndOfShard, CallFailure> {
        self.call("shard_ended", |processor, context| {
            Box::pin(async move {
                processor.shard_ended(context).await?;
                Ok(processor.end_of_shard())
            })
        })
        .await
    }

    async fn lose(&mut self) -> Result<(), CallFailure> {
        self.call("lease_lost", |processor, context| {
            Box::pin(async move {
                processor.lease_lost(context).await;
                Ok(())
            })
        })
        .await
    }

    fn record_calls(&self) -> Option<RecordCalls> {
        self.processor.as_ref()?.record_calls()
    }
}
