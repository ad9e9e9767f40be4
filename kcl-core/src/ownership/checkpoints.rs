//! The delivered and the finished part of a shard in one ownership, and the checkpoints of user code.

use std::sync::Arc;

use bytes::Bytes;

use crate::invariant::Invariant;
use crate::lease::change::LeaseChange;
use crate::lease::finished_ahead::FinishedAhead;
use crate::lease::row::{Lease, PendingCheckpoint};
use crate::lease::store::Certainty;
use crate::ownership::backlog::SourceAnswer;
use crate::ownership::checkpoint_tracker::BatchId;
use crate::ownership::control::Interrupt;
use crate::ownership::inherited_ahead::InheritedAhead;
use crate::ownership::row_writes::WriteResult;
use crate::ownership::validity::Validity;
use crate::ownership::{Ownership, OwnershipState};
use crate::processor::fetched_batch::FetchedBatch;
use crate::processor::{CheckpointError, CheckpointSink, RecordBatch};
use crate::runtime::clock::{BoxFuture, Moment};
use crate::runtime::failpoint::failpoint;
use crate::settings::CheckpointMode;
use crate::status::WaitReason;
use crate::types::{HashKeyRange, Position, Record, RecordPosition, SequenceNumber};

/// Whether a call of the processor may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallStart {
    /// It has started.
    Started,
    /// The consumer has something else to do.
    Interrupted(Interrupt),
    /// No batch starts under a lease that another worker may be given.
    Suspended,
    /// An order pauses the shard.
    Paused,
}

impl OwnershipState {
    /// Every record up to this one is finished. The number is that of its delivery, where it is known.
    fn finish_through(&mut self, record: &RecordPosition, number: Option<u64>) {
        self.tracker.finish_numbered(record, number);
        if let Some(finished) = self.tracker.finished() {
            self.backlog.finished_through(finished);
        }
    }

    /// Finishes the records of a batch that were finished before they were delivered. Returns how many they are.
    fn finish_inherited(&mut self, id: BatchId, records: &[Record]) -> u64 {
        let mut finished = 0;
        if let Some(found) = self.inherited.found() {
            for (index, record) in records.iter().enumerate() {
                if found.covers(record.position()) {
                    self.tracker.finish(id, index);
                    finished += 1;
                }
            }
        }
        if let Some(last) = records.last() {
            self.inherited.delivered(last.position());
        }
        if finished > 0
            && let Some(finished) = self.tracker.finished()
        {
            self.backlog.finished_through(finished);
        }
        finished
    }

    /// These records are finished, each named by its batch and its index in it. Returns `true` if the finished prefix has moved.
    fn finish_records(&mut self, records: &[(BatchId, usize)]) -> bool {
        let before = self.tracker.finished_number();
        for (batch, index) in records {
            self.tracker.finish(*batch, *index);
        }
        let is_more = self.tracker.finished_number() > before;
        if is_more && let Some(finished) = self.tracker.finished() {
            self.backlog.finished_through(finished);
        }
        is_more
    }

    /// Whether something is finished that the row does not store and should.
    fn is_ahead_of_row(&self) -> bool {
        let finished = self.tracker.finished();
        finished.is_some_and(|finished| self.is_to_store(finished))
    }
}

impl Ownership {
    /// Another fetcher begins. Returns its number, and since when the source has brought no record, however often the shard was opened: times
    /// without a request do not count.
    pub(crate) fn begin_fetching(&self) -> (u64, Moment) {
        let begun = self.with(|state| {
            state.progress.fetcher_begins();
            (state.backlog.begin_fetching(), state.idle_since)
        });
        self.worker.status.changed();
        begun
    }

    /// The source has answered. `first` is the first record of a shard that was opened without a checkpoint, and `brings` is `true` if
    /// the answer brought records. Returns the hash keys that the shard receives, where they are known.
    pub(crate) fn fetched(
        &self,
        now: Moment,
        first: Option<&SequenceNumber>,
        brings: bool,
    ) -> Option<HashKeyRange> {
        let (range, is_new) = self.with(|state| {
            state.progress.step(now);
            if let Some(first) = first {
                state.begun_at.get_or_insert_with(|| first.detached());
            }
            let facts = &mut state.facts;
            let mut is_new = facts.trouble.take().is_some();
            if brings {
                state.idle_since = now;
                is_new |= facts.end_in_doubt.take().is_some();
            }
            (state.known.row().hash_range, is_new)
        });
        if is_new {
            self.worker.status.changed();
        }
        range
    }

    /// A part of an answer is about to be handed to the consumer.
    pub(crate) fn handed_on(&self, fetcher: u64, answer: SourceAnswer) {
        self.with(|state| state.backlog.fetched(fetcher, answer));
        self.worker.status.changed();
    }

    /// Reading begins at the checkpoint of this row, or, where there is none, at another place. Returns the records behind it that are finished
    /// already: they are finished when they are [delivered](Self::deliver), and are not to be offered.
    pub(crate) fn begin_reading(&self, row: Option<&Lease>) -> Option<FinishedAhead> {
        let is_unpacked = self.is_unpacked();
        self.with(|state| state.inherited.begin(row, is_unpacked))
    }

    /// Observes a batch that the consumer has taken, to hand it to the processor. Those of its records are finished at once that a row said were
    /// finished ahead of the checkpoint.
    pub(crate) fn deliver(&self, records: Arc<FetchedBatch>) -> BatchId {
        let (id, finished) = self.with(|state| {
            state.backlog.taken(records.fetches);
            state.meter.read(records.len());
            let last = state.tracker.last_delivered();
            let goes_back = records
                .first()
                .map(Record::position)
                .filter(|first| last.is_some_and(|last| *first <= last));
            let in_order = Invariant::InOrder.check(goes_back.is_none(), || {
                format!("{} brings {goes_back:?} after {last:?}", self.key)
            });
            self.worker.report(in_order);
            let id = state.tracker.deliver(Arc::clone(&records));
            (id, state.finish_inherited(id, &records))
        });
        self.worker.status.changed();
        if finished > 0 {
            self.worker.metrics.left_out(finished);
            self.dirty.notify_one();
        }
        id
    }

    /// Offers this many records of the batch to the processor, from its beginning on, unless the consumer has something else to do or the
    /// lease is suspended. A drain is nothing else where the records are the last before it.
    pub(crate) fn start_call(&self, batch: BatchId, records: usize, is_for_drain: bool) -> CallStart {
        self.start_calls(std::iter::once((batch, records)), is_for_drain)
    }

    /// Offers the records up to these of their batches, to calls that start together, on the same conditions.
    pub(crate) fn start_calls(
        &self,
        calls: impl Iterator<Item = (BatchId, usize)>,
        is_for_drain: bool,
    ) -> CallStart {
        let now = self.worker.clock.now();
        let failover = self.worker.timing.failover;
        let (start, is_suspended) = self.with(|state| {
            let interrupt = state.commands.interrupt();
            if let Some(interrupt) = interrupt.filter(|other| !(is_for_drain && *other == Interrupt::Drain)) {
                return (CallStart::Interrupted(interrupt), false);
            }
            // Decided with the answer to the order: once that is given, nothing starts.
            if state.obeyed.is_paused && !failpoint!(PauseNotObeyed) {
                return (CallStart::Paused, false);
            }
            if let (Validity::Suspended | Validity::Lost, is_new) = self.judge_validity(state, now) {
                state.progress.waits(WaitReason::Suspended, now);
                return (CallStart::Suspended, is_new);
            }
            // An owner that gave the lease up, or learned that it is lost, stamps nothing; the margin is for the way from the decision here.
            let renewed = state.validity.renewed;
            let in_time = Invariant::NoStartAfterDeadline.check(now < renewed + failover, || {
                format!(
                    "a batch of {} starts at {now:?}, and the lease was renewed at {renewed:?}",
                    self.key
                )
            });
            self.worker.report(in_time);
            for (batch, records) in calls {
                state.tracker.offer(batch, records);
            }
            state.progress.waits(WaitReason::Callback, now);
            (CallStart::Started, false)
        });
        match is_suspended {
            true => self.report_suspended(),
            false => self.worker.status.changed(),
        }
        start
    }

    /// The processor returned `Ok` for a part of a batch with so many bytes of payload, the last part or not.
    pub(crate) fn call_succeeded(&self, batch: BatchId, part: &RecordBatch, bytes: u64, is_last: bool) {
        let now = self.worker.clock.now();
        let is_automatic = self.worker.settings.checkpoints.mode == CheckpointMode::Automatic;
        let last = part.last().map(Record::position);
        let begins_to_store = self.with(|state| {
            let was_ahead = state.is_ahead_of_row();
            state.progress.goes_on(now);
            match (is_automatic, last) {
                (true, Some(last)) if !is_last => state.finish_through(last, None),
                (true, _) => {
                    state.tracker.finish_batch(batch);
                    state.backlog.finished();
                }
                // Its code says when the records are finished. They are kept no longer than that code keeps them.
                (false, Some(last)) if is_last => {
                    state.tracker.release(batch);
                    state.backlog.returned(last, state.tracker.finished(), now);
                }
                (false, _) => {}
            }
            state.throughput_ema.add(bytes);
            let facts = &mut state.facts;
            facts.processed = last.cloned();
            facts.records += part.len() as u64;
            facts.failures = 0;
            facts.unreadable = None;
            facts.failing = None;
            !was_ahead && state.is_ahead_of_row()
        });
        self.worker.status.changed();
        // If it was ahead before, the renewer knows when to store.
        if begins_to_store {
            self.dirty.notify_one();
        }
    }

    /// A batch is taken whose records are handled one by one, and finished as their calls end.
    pub(crate) fn handed_to_calls(&self, batch: &RecordBatch) {
        if let Some(last) = batch.last() {
            self.with(|state| {
                let finished = state.tracker.finished();
                state.backlog.handed_to_calls(last.position(), finished);
            });
        }
    }

    /// These records are finished, by calls that brought so many bytes; `last` is the last of them. It is no step: the consumer may wait for
    /// records beside its calls.
    pub(crate) fn calls_ended(
        &self,
        finished: &[(BatchId, usize)],
        bytes: u64,
        last: Option<RecordPosition>,
    ) {
        let begins_to_store = self.with(|state| {
            let was_ahead = state.is_ahead_of_row();
            state.finish_records(finished);
            state.throughput_ema.add(bytes);
            let facts = &mut state.facts;
            // Without one they were set aside.
            if last.is_some() {
                facts.records += finished.len() as u64;
            }
            facts.processed = facts.processed.take().max(last);
            !was_ahead && state.is_ahead_of_row()
        });
        self.worker.status.changed();
        if begins_to_store {
            self.dirty.notify_one();
        }
    }

    /// One record of the batch, by its index, is finished.
    pub(crate) fn finish_record(&self, batch: BatchId, index: usize) {
        self.finish_records(&[(batch, index)]);
    }

    /// These records are finished, each named by its batch and its index in it, in any order. It costs one lock and one wake-up.
    pub(crate) fn finish_records(&self, records: &[(BatchId, usize)]) {
        let (begins_to_store, is_more) = self.with(|state| {
            let was_ahead = state.is_ahead_of_row();
            let is_more = state.finish_records(records);
            (is_more && !was_ahead && state.is_ahead_of_row(), is_more)
        });
        self.worker.status.changed();
        // If it was ahead before, the renewer knows when to store.
        if begins_to_store {
            self.dirty.notify_one();
        }
        if is_more {
            self.finished_more.notify_one();
        }
    }

    /// Every record of the batch that was left is finished although the processor was not offered it.
    pub(crate) fn batch_passed(&self, batch: BatchId, rest: &RecordBatch) {
        if self.worker.settings.checkpoints.mode == CheckpointMode::Automatic {
            self.with(|state| state.backlog.finished());
        } else if let Some(last) = rest.last() {
            let now = self.worker.clock.now();
            self.with(|state| {
                state.tracker.release(batch);
                state
                    .backlog
                    .returned(last.position(), state.tracker.finished(), now);
            });
        }
        self.worker.status.changed();
    }

    /// The processor left the batch before the record at this index, to be offered the rest another time.
    pub(crate) fn withdraw_offer(&self, batch: BatchId, index: usize) {
        self.with(|state| state.tracker.withdraw_offer(batch, index));
    }

    /// Whether every record that was delivered is finished.
    pub(crate) fn is_all_finished(&self) -> bool {
        self.read(|state| state.tracker.is_all_finished())
    }

    /// Every record that was delivered is finished, as the processor says.
    pub(crate) fn finish_all(&self) {
        if let Some(last) = self.last_delivered() {
            self.finish_through(&last, None);
        }
    }

    /// How many records were given to the processor and are not finished.
    pub(crate) fn unfinished(&self) -> u64 {
        self.read(|state| state.tracker.unfinished())
    }

    /// The last record that was handed to the processor in this ownership.
    pub(crate) fn last_delivered(&self) -> Option<RecordPosition> {
        self.read(|state| state.tracker.last_delivered().cloned())
    }

    /// Where the shard was started, if it was opened without a checkpoint and has brought records: to open it at its newest again would skip them,
    /// and to open it at its oldest would not show what retention took since.
    pub(crate) fn begun(&self) -> Option<SequenceNumber> {
        self.read(|state| state.begun_at.clone())
    }

    /// The processor begins at another place.
    pub(crate) fn forget_begun(&self) {
        self.with(|state| state.begun_at = None);
    }

    /// Every record up to this one is finished. The number is that of its delivery, where it is known.
    pub(crate) fn finish_through(&self, record: &RecordPosition, number: Option<u64>) {
        self.with(|state| state.finish_through(record, number));
        self.worker.status.changed();
        self.dirty.notify_one();
        self.finished_more.notify_one();
    }

    /// Forgets what was delivered: a new processor begins at the stored checkpoint.
    pub(crate) fn forget_delivered(&self) {
        self.with(|state| {
            state.tracker.forget();
            state.inherited = InheritedAhead::default();
            state.backlog.forget();
            // Whether it is committed is for the new processor to say.
            state.prepared = None;
        });
        self.worker.status.changed();
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
            self.with(|state| {
                // The word of user code, wherever it is, goes before what was prepared.
                if !state.known.row().checkpoint.covers(&record) {
                    state.prepared = None;
                }
            });
            self.finish_through(&record, Some(number));
            // A record that was given to a processor which panicked since is to be delivered again, and not finished by this.
            let stored = |row: &Lease| match row.checkpoint.covers(&record) {
                true => Ok(()),
                false => Err(CheckpointError::Fenced),
            };
            if verdict == Validity::Suspended && self.write_times().unstored {
                return Err(CheckpointError::Suspended);
            }
            let Some(checkpoint) = self.checkpoint() else {
                return self.read(|state| stored(state.known.row()));
            };
            match self.write_for_user(checkpoint).await {
                WriteResult::Applied(row) => stored(&row),
                WriteResult::Lost | WriteResult::GivenUp(_) => Err(CheckpointError::Fenced),
                WriteResult::Failed(error) => Err(CheckpointError::Unavailable(error)),
            }
        })
    }

    fn prepare(
        &self,
        record: RecordPosition,
        number: u64,
        state: Bytes,
    ) -> BoxFuture<'_, Result<(), CheckpointError>> {
        Box::pin(async move {
            match self.verdict() {
                Validity::Lost => return Err(CheckpointError::Fenced),
                Validity::Suspended => return Err(CheckpointError::Suspended),
                Validity::GoOn { .. } => {}
            }
            // From now on what is finished before it is not stored any more.
            if let Some(checkpoint) = self.checkpoint() {
                match self.write(checkpoint).await {
                    WriteResult::Applied(_) => {}
                    WriteResult::Lost | WriteResult::GivenUp(_) => return Err(CheckpointError::Fenced),
                    WriteResult::Failed(error) => return Err(CheckpointError::NotPrepared(error)),
                }
            }
            let before = self.with(|known| match known.tracker.is_forgotten(number) {
                true => Err(CheckpointError::Fenced),
                false => Ok(known.prepared.replace(record.detached())),
            })?;
            let pending = PendingCheckpoint {
                position: Position::Record(record.detached()),
                state: Some(state).filter(|state| !state.is_empty()),
            };
            let pending = Some(pending);
            match self.write(LeaseChange::Prepare { pending }).await {
                WriteResult::Applied(_) => Ok(()),
                WriteResult::Lost | WriteResult::GivenUp(_) => Err(CheckpointError::Fenced),
                WriteResult::Failed(error) => {
                    if error.certainty() == Certainty::Definite {
                        self.with(|known| known.prepared = before);
                    }
                    Err(CheckpointError::NotPrepared(error))
                }
            }
        })
    }

    fn discard(&self, record: RecordPosition) -> BoxFuture<'_, Result<(), CheckpointError>> {
        Box::pin(async move {
            if self.verdict() == Validity::Lost {
                return Err(CheckpointError::Fenced);
            }
            let is_newest =
                self.with(|state| state.prepared.take_if(|prepared| *prepared == record).is_some());
            if !is_newest {
                return Ok(());
            }
            self.dirty.notify_one();
            match self.write(LeaseChange::Prepare { pending: None }).await {
                WriteResult::Applied(_) => Ok(()),
                WriteResult::Lost | WriteResult::GivenUp(_) => Err(CheckpointError::Fenced),
                WriteResult::Failed(error) => Err(CheckpointError::NotPrepared(error)),
            }
        })
    }
}
