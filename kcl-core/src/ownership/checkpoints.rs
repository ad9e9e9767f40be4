//! The delivered and the finished part of a shard in one ownership, and the checkpoints of user code.

use std::sync::{Arc, MutexGuard, PoisonError};

use crate::invariant::Invariant;
use crate::lease::change::LeaseChange;
use crate::lease::row::Lease;
use crate::limits::byte_budget::Records;
use crate::ownership::backlog::LagTracker;
use crate::ownership::checkpoint_tracker::BatchId;
use crate::ownership::validity::Validity;
use crate::ownership::{Ownership, WriteResult};
use crate::processor::CheckpointError;
use crate::processor::CheckpointSink;
use crate::runtime::clock::BoxFuture;
use crate::status::Behind;
use crate::types::{Position, Record, RecordPosition};

impl Ownership {
    /// Observes a batch that is about to be handed to the processor.
    pub(crate) fn deliver(&self, records: Arc<Records>) -> BatchId {
        let mut state = self.lock();
        let last = state.tracker.last_delivered();
        let goes_back = records
            .first()
            .map(Record::position)
            .filter(|first| last.is_some_and(|last| *first <= last));
        let in_order = Invariant::InOrder.check(goes_back.is_none(), || {
            format!("{} brings {goes_back:?} after {last:?}", self.key)
        });
        self.worker.report(in_order);
        state.tracker.deliver(records)
    }

    /// The processor is given this many records of the batch, from its beginning on.
    pub(crate) fn offer(&self, batch: BatchId, records: usize) {
        self.lock().tracker.offer(batch, records);
    }

    /// The processor left the batch before the record at this index, to be offered the rest another time.
    pub(crate) fn withdraw_offer(&self, batch: BatchId, index: usize) {
        self.lock().tracker.withdraw_offer(batch, index);
    }

    /// Every record of the batch is finished.
    pub(crate) fn finish_batch(&self, batch: BatchId) {
        self.lock().tracker.finish_batch(batch);
        self.dirty.notify_one();
    }

    /// Whether every record that was delivered is finished.
    pub(crate) fn is_all_finished(&self) -> bool {
        self.lock().tracker.is_all_finished()
    }

    /// Every record that was delivered is finished, as the processor says.
    pub(crate) fn finish_all(&self) {
        if let Some(last) = self.last_delivered() {
            self.finish_through(&last, None);
        }
    }

    /// How many records were given to the processor and are not finished.
    pub(crate) fn unfinished(&self) -> u64 {
        self.lock().tracker.unfinished()
    }

    /// Changes what is known of the backlog, and shows how far behind the shard is.
    pub(crate) fn with_backlog<T>(&self, change: impl FnOnce(&mut LagTracker) -> T) -> T {
        let outcome = change(&mut self.lock_backlog());
        self.show_backlog();
        outcome
    }

    /// Shows how far behind the shard is, and what is not finished.
    fn show_backlog(&self) {
        // Read while nobody else writes the status: of two who change something, the last to show it shows both.
        self.worker.status.update_lease(&self.key, |status| {
            (status.behind, status.freshness) = self.lateness();
            status.unfinished = self.unfinished();
            status.unfinished_since = self.lock_backlog().unfinished_since();
        });
    }

    /// How far behind the shard is, in reading and in processing.
    pub(crate) fn lateness(&self) -> (Behind, Behind) {
        let backlog = self.lock_backlog();
        (backlog.unread(), backlog.unfinished())
    }

    /// The processor returned from the batch, and its code says when the records are finished. They are kept no longer than that code
    /// keeps them.
    pub(crate) fn release_batch(&self, batch: BatchId, last: &RecordPosition) {
        let now = self.worker.clock.now();
        let mut state = self.lock();
        state.tracker.release(batch);
        // Under the lock: what is finished meanwhile finds the batch among those returned.
        let finished = state.tracker.finished();
        self.lock_backlog().returned(last, finished, now);
        drop(state);
        self.show_backlog();
    }

    /// Every record up to this one is finished. The number is that of its delivery, where it is known.
    pub(crate) fn finish_through(&self, record: &RecordPosition, number: Option<u64>) {
        let mut state = self.lock();
        state.tracker.finish_numbered(record, number);
        if let Some(finished) = state.tracker.finished() {
            self.lock_backlog().finished_through(finished);
        }
        drop(state);
        self.show_backlog();
        self.dirty.notify_one();
        self.finished_more.notify_one();
    }

    /// Forgets what was delivered: a new processor begins at the stored checkpoint.
    pub(crate) fn forget_delivered(&self) {
        self.lock().tracker.forget();
        self.with_backlog(LagTracker::forget);
    }

    fn lock_backlog(&self) -> MutexGuard<'_, LagTracker> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CheckpointSink for Ownership {
    fn checkpoint_through(
        &self,
        record: RecordPosition,
        number: u64,
    ) -> BoxFuture<'_, Result<(), CheckpointError>> {
        Box::pin(async move {
            let verdict = self.verdict();
            if verdict == Validity::Lost {
                return Err(CheckpointError::Fenced);
            }
            self.finish_through(&record, Some(number));
            // A record that was given to a processor which panicked since is to be delivered again, and not finished by this.
            let stored = |row: &Lease| match row.checkpoint.covers(&record) {
                true => Ok(()),
                false => Err(CheckpointError::Fenced),
            };
            let Some(position) = self.unstored() else {
                return stored(&self.row());
            };
            if verdict == Validity::Suspended {
                return Err(CheckpointError::Suspended);
            }
            match self
                .write(LeaseChange::Checkpoint {
                    position: Position::Record(position),
                    throughput: self.throughput(),
                })
                .await
            {
                WriteResult::Applied(row) => stored(&row),
                WriteResult::Lost | WriteResult::GivenUp(_) => Err(CheckpointError::Fenced),
                WriteResult::Failed(error) => Err(CheckpointError::Unavailable(error)),
            }
        })
    }
}
