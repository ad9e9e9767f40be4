//! The calls for single records: how many run at once, in which order they start, and what they do.

use std::fmt;
use std::sync::Arc;

use crate::processor::batch::RecordBatch;
use crate::processor::context::ShardContext;
use crate::processor::error::ProcessorError;
use crate::runtime::clock::BoxFuture;
use crate::types::Record;

/// How many records of a shard a [`RecordHandler`](crate::processor::RecordHandler) is called for at once, and in which order the calls start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Concurrency {
    /// One at a time, in the order of the shard.
    #[default]
    Ordered,
    /// So many at most, 1 to [`MOST`](Self::MOST): those of one partition key one at a time, in the order of the shard. Records without a key
    /// count as of one key.
    ///
    /// Refused on streams whose records the service distributes over the shards (`AUTO`): there records of one key are in any shard, so that
    /// no order by key exists. Use [`Unordered`](Self::Unordered).
    PerKey(usize),
    /// So many at most, 1 to [`MOST`](Self::MOST), whatever their keys are. They start in the order of the shard.
    Unordered(usize),
}

impl Concurrency {
    /// The most calls that one shard may run at once. They run in one task: a shard that needs more of them needs to be split.
    pub const MOST: usize = 16_384;

    /// How many calls may run at once.
    pub fn calls(self) -> usize {
        match self {
            Self::Ordered => 1,
            Self::PerKey(calls) | Self::Unordered(calls) => calls,
        }
    }

    /// Says what is wrong.
    pub(crate) fn validate(self) -> Result<(), String> {
        match self.calls() {
            1..=Self::MOST => Ok(()),
            calls => Err(format!(
                "the handler is to run {calls} calls at once: give {self:?} a number from 1 to {}",
                Self::MOST
            )),
        }
    }
}

/// The calls of a processor that works on many records at once: how many, and what they do. See
/// [`RecordProcessor::record_calls`](crate::processor::RecordProcessor::record_calls).
#[derive(Clone)]
pub struct RecordCalls {
    concurrency: Concurrency,
    code: Arc<dyn RecordCode>,
}

impl RecordCalls {
    /// The calls of this code, in this way.
    pub(crate) fn new(concurrency: Concurrency, code: Arc<dyn RecordCode>) -> Self {
        Self { concurrency, code }
    }

    /// How many calls run at once, and in which order they start.
    pub fn concurrency(&self) -> Concurrency {
        self.concurrency
    }

    /// The calls with `wrap` around each: it is given the record and the call, and returns what runs in the place of the call. For processors
    /// that wrap another.
    #[must_use]
    pub fn wrapped(
        self,
        wrap: impl Fn(&Record, &ShardContext, HandlerCall) -> HandlerCall + Send + Sync + 'static,
    ) -> Self {
        let code = Arc::new(WrappedCode {
            wrap,
            inner: self.code,
        });
        Self { code, ..self }
    }

    /// The call for the record at this index of the batch.
    pub(crate) fn call(&self, batch: RecordBatch, index: usize, shard: ShardContext) -> HandlerCall {
        Arc::clone(&self.code).call(batch, index, shard)
    }
}

impl fmt::Debug for RecordCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordCalls")
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

/// A call of [`RecordHandler::handle`](crate::processor::RecordHandler::handle).
pub type HandlerCall = BoxFuture<'static, Result<(), ProcessorError>>;

/// Code that is called for single records.
pub(crate) trait RecordCode: Send + Sync {
    fn call(self: Arc<Self>, batch: RecordBatch, index: usize, shard: ShardContext) -> HandlerCall;
}

struct WrappedCode<W> {
    wrap: W,
    inner: Arc<dyn RecordCode>,
}

impl<W> RecordCode for WrappedCode<W>
where
    W: Fn(&Record, &ShardContext, HandlerCall) -> HandlerCall + Send + Sync + 'static,
{
    fn call(self: Arc<Self>, batch: RecordBatch, index: usize, shard: ShardContext) -> HandlerCall {
        // Where the call is polled a panic is its record's, and not the consumer's.
        Box::pin(async move {
            let inner = Arc::clone(&self.inner).call(batch.clone(), index, shard.clone());
            match batch.get(index) {
                Some(record) => (self.wrap)(record, &shard, inner).await,
                None => inner.await,
            }
        })
    }
}
