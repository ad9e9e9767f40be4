//! Tumbling windows over the records of a shard: an adapter over a [`RecordProcessor`].

pub(super) mod panes;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytesize::ByteSize;

use crate::error::{Error, ErrorKind};
use crate::processor::windows::panes::{Pane, Panes, Placement, PlacementError, Window, WindowBounds};
use crate::processor::{
    CheckpointError, CheckpointMark, ProcessorError, RecordBatch, RecordProcessor, RecordProcessorFactory,
    Severity, ShardContext, StartFrom,
};
use crate::runtime::failpoint::failpoint;
use crate::settings::CheckpointMode;
use crate::types::{Record, RecordPosition};

/// Collects the records of a shard in windows. [`TumblingWindows`] runs it as a processor.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use async_trait::async_trait;
/// use kinesis_client::processor::{ProcessorError, ShardContext, Window, WindowProcessor};
/// use kinesis_client::types::Record;
///
/// struct Counts;
///
/// #[async_trait]
/// impl WindowProcessor for Counts {
///     type State = u64;
///
///     fn open(&mut self, _: &Window) -> u64 {
///         0
///     }
///
///     fn record(&mut self, count: &mut u64, _: &Record) -> Result<(), ProcessorError> {
///         *count += 1;
///         Ok(())
///     }
///
///     async fn window_closed(&mut self, count: &mut u64, window: &Window, shard: &ShardContext) -> Result<(), ProcessorError> {
///         println!("{}: {count} records from {} to {}", window.pane_key(shard), window.start, window.end);
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait WindowProcessor: Send + 'static {
    /// The state of an open window. It is in memory only: another worker makes it again from the records.
    type State: Send + 'static;

    /// Called once before anything else, as [`RecordProcessor::initialize`].
    ///
    /// # Errors
    ///
    /// Any error; the call is repeated with growing pauses.
    ///
    /// # Cancel safety
    ///
    /// As [`RecordProcessor::initialize`].
    async fn initialize(&mut self, _shard: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }

    /// Makes the state of a window, or of another of its panes. `window` has its first record and no other; [`record`](Self::record) is called
    /// with that record next.
    fn open(&mut self, window: &Window) -> Self::State;

    /// Adds a record to the state of its window.
    ///
    /// # Errors
    ///
    /// Any error, which is about this record: it counts as not added, so the state must be as before. The
    /// [policy](super::ErrorPolicy) decides; a record that it sets aside is in no window.
    fn record(&mut self, state: &mut Self::State, record: &Record) -> Result<(), ProcessorError>;

    /// Called when a window, or one of its panes, has all its records. It is finished once the call has returned `Ok`, and given again
    /// otherwise: to this processor, or with the same [key](Window::pane_key) to a successor.
    ///
    /// # Errors
    ///
    /// Any error; the call is repeated as the [policy](super::ErrorPolicy) says about [transient](ProcessorError::transient) failures, or about
    /// [fatal](ProcessorError::fatal) ones if it is one. No single record is the cause, so none is set aside.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped only when the worker must stop before it returns.
    async fn window_closed(
        &mut self,
        state: &mut Self::State,
        window: &Window,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError>;
}

/// Makes the processors of tumbling windows: windows of one length, one after the other, aligned to 1970 in UTC, by the time at which the
/// service received a record.
///
/// A window closes when a record comes that arrived at its end or later, when the shard has been idle until then, and at the end of
/// the shard. The checkpoint goes on to the first record of a window that is open, and no further: a successor makes the window again from its
/// records. That needs [manual checkpoints](CheckpointMode::Manual), which the worker has with this factory, whatever its settings say.
///
/// ```
/// # use kcl_core as kinesis_client;
/// # use async_trait::async_trait;
/// # use kcl_core::processor::{ProcessorError, Window, WindowProcessor};
/// # use kcl_core::types::Record;
/// # struct Counts;
/// # #[async_trait]
/// # impl WindowProcessor for Counts {
/// #     type State = u64;
/// #     fn open(&mut self, _: &Window) -> u64 { 0 }
/// #     fn record(&mut self, count: &mut u64, _: &Record) -> Result<(), ProcessorError> { *count += 1; Ok(()) }
/// #     async fn window_closed(&mut self, _: &mut u64, _: &Window, _: &ShardContext) -> Result<(), ProcessorError> { Ok(()) }
/// # }
/// use std::time::Duration;
/// use kinesis_client::processor::{ShardContext, TumblingWindows};
/// use kinesis_client::settings::ByteSize;
///
/// let minute = Duration::from_secs(60);
/// let windows = TumblingWindows::new(minute, |_: &ShardContext| Counts)?.max_open_bytes(ByteSize::mib(512));
/// // Worker::builder("counts").processor(windows)
/// # Ok::<(), kcl_core::Error>(())
/// ```
pub struct TumblingWindows<F> {
    make: F,
    bounds: WindowBounds,
    idle_grace: Duration,
}

impl<F> TumblingWindows<F> {
    /// Windows of this length, whole milliseconds from 1 s to a day, with the processors that `make` returns, one for each ownership of
    /// a shard.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] for another length.
    pub fn new(length: Duration, make: F) -> Result<Self, Error> {
        let millis = i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
        let is_whole = length.subsec_nanos().is_multiple_of(1_000_000);
        if !(SECOND..=DAY).contains(&length) || !is_whole {
            let message = format!(
                "windows of {length:?} are not possible: choose whole milliseconds from 1 s to a day"
            );
            return Err(Error::new(ErrorKind::Configuration, message));
        }
        Ok(Self {
            make,
            bounds: WindowBounds {
                length: millis,
                max_open_bytes: ByteSize::mib(256).as_u64(),
                emits_early: false,
            },
            idle_grace: 5 * SECOND,
        })
    }

    /// Sets how long after its end a window of an idle shard stays open, 5 s by default: for records that the service has received and does
    /// not show yet.
    ///
    /// A record that comes later still is no error: it opens another pane of its window. The clock of the worker's host may be as wrong as it
    /// likes: the worker measures only how long ago it received the last record, and the service had received that one before.
    #[must_use]
    pub fn idle_grace(mut self, grace: Duration) -> Self {
        self.idle_grace = grace;
        self
    }

    /// Sets the most bytes of records, by payload and partition key, since the first record of the oldest open window: a successor has to read
    /// them again. 256 MiB by default.
    ///
    /// Where a record would go beyond that, the shard is held with an error, unless windows are [emitted early](Self::emit_early).
    #[must_use]
    pub fn max_open_bytes(mut self, bytes: ByteSize) -> Self {
        self.bounds.max_open_bytes = bytes.as_u64();
        self
    }

    /// Closes the open windows early, each as a pane, where a record would go beyond [`max_open_bytes`](Self::max_open_bytes). The records
    /// after it make other panes.
    #[must_use]
    pub fn emit_early(mut self) -> Self {
        self.bounds.emits_early = true;
        self
    }
}

impl<F> fmt::Debug for TumblingWindows<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TumblingWindows")
            .field("bounds", &self.bounds)
            .field("idle_grace", &self.idle_grace)
            .finish_non_exhaustive()
    }
}

impl<F, P> RecordProcessorFactory for TumblingWindows<F>
where
    F: Fn(&ShardContext) -> P + Send + Sync + 'static,
    P: WindowProcessor,
{
    fn create(&self, shard: &ShardContext) -> Box<dyn RecordProcessor> {
        Box::new(WindowedShard {
            inner: (self.make)(shard),
            panes: Panes::new(self.bounds.clone()),
            idle_grace: self.idle_grace,
            last: None,
            reached: None,
            stored: None,
        })
    }

    fn checkpoint_mode(&self) -> Option<CheckpointMode> {
        Some(CheckpointMode::Manual)
    }
}

/// The windows of one shard in one ownership.
struct WindowedShard<P: WindowProcessor> {
    inner: P,
    panes: Panes<P::State, CheckpointMark>,
    idle_grace: Duration,
    /// The last record that is in a window: a batch that is tried again may have it.
    last: Option<RecordPosition>,
    /// Its mark.
    reached: Option<CheckpointMark>,
    /// Up to where the checkpoint is stored.
    stored: Option<RecordPosition>,
}

impl<P: WindowProcessor> WindowedShard<P> {
    /// Adds the record at this index of the batch to its window.
    fn add(&mut self, batch: &RecordBatch, index: usize, record: &Record) -> Result<(), ProcessorError> {
        let placed = self.panes.place(record).map_err(|error| match error {
            PlacementError::NoArrival => ProcessorError::poison(error),
            PlacementError::TooManyBytes { .. } => ProcessorError::transient(error),
        });
        let (window, is_alone) = match placed? {
            Placement::Joins(place) => {
                if let Some(state) = self.panes.state(place) {
                    self.inner.record(state, record)?;
                }
                self.panes.join(place, record);
                return Ok(());
            }
            Placement::Opens(window) => (window, false),
            Placement::OpensAlone(window) => (window, true),
        };
        let mut state = self.inner.open(&window);
        self.inner.record(&mut state, record)?;
        let before = match index.checked_sub(1) {
            Some(before) => batch.mark(before),
            None => self.reached.clone(),
        };
        let pane = Pane {
            window,
            state,
            before,
        };
        self.panes.open(pane, is_alone, record);
        Ok(())
    }

    /// Notes that the records of the batch before this index are in windows.
    fn note(&mut self, batch: &RecordBatch, before: usize) {
        if let Some(last) = before.checked_sub(1)
            && let Some(record) = batch.get(last)
            && self.last.as_ref().is_none_or(|last| last < record.position())
        {
            self.last = Some(record.position().detached());
            self.reached = batch.mark(last);
        }
        self.panes.detach();
    }

    /// Hands over the windows that have passed, then moves the checkpoint to the first record of an open one.
    ///
    /// Nothing is added before both are done. After an idle time this is what keeps a record out of a pane that was handed over without it.
    async fn settle(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        self.hand_over(shard).await?;
        self.store().await.map_err(ProcessorError::transient)
    }

    async fn hand_over(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        while let Some(pane) = self.panes.next_passed() {
            let closed = self.inner.window_closed(&mut pane.state, &pane.window, shard);
            closed.await.map_err(of_no_record)?;
            self.panes.passed_is_done();
        }
        Ok(())
    }

    async fn store(&mut self) -> Result<(), CheckpointError> {
        let through = match self.panes.outermost() {
            Some(open) if !failpoint!(OpenWindowCheckpointed) => &open.before,
            _ => &self.reached,
        };
        if let Some(through) = through
            && self.stored.as_ref() < Some(through.position())
        {
            through.checkpoint().await?;
            self.stored = Some(through.position().clone());
        }
        Ok(())
    }

    async fn close_all(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        self.panes.close_all();
        self.settle(shard).await
    }
}

#[async_trait]
impl<P: WindowProcessor> RecordProcessor for WindowedShard<P> {
    async fn initialize(&mut self, shard: &ShardContext) -> Result<StartFrom, ProcessorError> {
        self.inner.initialize(shard).await?;
        Ok(StartFrom::Checkpoint)
    }

    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        self.settle(shard).await?;
        let is_known = |record: &Record| self.last.as_ref().is_some_and(|last| record.position() <= last);
        let known = batch.partition_point(is_known);
        for (index, record) in batch.iter().enumerate().skip(known) {
            if let Err(error) = self.add(&batch, index, record) {
                self.note(&batch, index);
                self.settle(shard).await?;
                return Err(error.at(record));
            }
            if self.panes.next_passed().is_some() {
                self.note(&batch, index + 1);
                self.hand_over(shard).await?;
            }
        }
        self.note(&batch, batch.len());
        self.settle(shard).await
    }

    async fn tick(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        self.panes.close_idle(shard.idle_for(), self.idle_grace);
        self.settle(shard).await
    }

    async fn shutdown_requested(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        // Dead letters have no successor that reads them again.
        match shard.is_redrive() {
            true => self.close_all(shard).await,
            false => self.settle(shard).await,
        }
    }

    async fn shard_ended(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        self.close_all(shard).await
    }
}

/// The failure of a call that no single record caused, so that no policy sets one aside for it.
fn of_no_record(error: ProcessorError) -> ProcessorError {
    match error.severity() {
        Severity::Fatal => ProcessorError::fatal(error.into_cause()),
        Severity::Transient | Severity::Poison | Severity::Unspecified => {
            ProcessorError::transient(error.into_cause())
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
