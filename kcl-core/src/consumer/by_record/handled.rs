//! The records that a handler is called for, and the calls that run.

use std::collections::{BTreeSet, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use slab::Slab;

use crate::consumer::by_record::failing::FailingRecords;
use crate::consumer::by_record::lanes::{LaneEntry, Lanes, RecordPlace};
use crate::consumer::delivery::CallFailure;
use crate::consumer::letters::send_letter;
use crate::dead_letter::DeadLetter;
use crate::ownership::Ownership;
use crate::ownership::checkpoint_tracker::BatchId;
use crate::processor::{Concurrency, HandlerCall, RecordBatch};
use crate::runtime::clock::{BoxFuture, Moment};
use crate::runtime::task_scope::poll_caught;
use crate::types::Record;

/// The most calls whose ends are noted in one step.
const MOST_ENDS: usize = 256;
/// How long calls may have the thread in one step, looked at after each few of them that end.
const LONGEST_POLL: Duration = Duration::from_millis(5);
const ENDS_BETWEEN_LOOKS: usize = 8;
/// How many dead letters of one shard are on their way at once.
const MOST_LETTERS: usize = 16;

/// The records that a handler is called for, from their delivery until they are finished.
pub(crate) struct HandledRecords {
    pub(crate) most: usize,
    pub(crate) lanes: Lanes,
    pub(crate) batches: Slab<OpenBatch>,
    pub(crate) calls: FuturesUnordered<RunningCall>,
    /// When each call that runs began.
    pub(crate) begun: BTreeSet<(Moment, LaneEntry)>,
    pub(crate) failing: FailingRecords,
    /// Waits for the sink to acknowledge the letter of a record; returns the number of the record.
    pub(crate) letters: FuturesUnordered<BoxFuture<'static, u64>>,
    /// The letters that wait for their turn, with the numbers of their records.
    pub(crate) letters_waiting: VecDeque<(u64, DeadLetter)>,
    /// Whether another batch was asked for when the consumer looked last.
    pub(crate) took_more: bool,
    /// The calls that have ended and are not noted yet.
    pub(crate) ended: Vec<EndedCall>,
    /// The calls that are about to begin, and the records that are finished.
    pub(crate) starting: Vec<LaneEntry>,
    pub(crate) finished: Vec<(BatchId, usize)>,
}

/// A batch of which records are not finished.
pub(crate) struct OpenBatch {
    pub(crate) id: BatchId,
    pub(crate) batch: RecordBatch,
    pub(crate) unfinished: usize,
}

/// A call of the handler.
pub(crate) struct RunningCall {
    pub(crate) entry: LaneEntry,
    pub(crate) begun: Moment,
    pub(crate) call: HandlerCall,
}

pub(crate) struct EndedCall {
    pub(crate) entry: LaneEntry,
    pub(crate) begun: Moment,
    pub(crate) outcome: Result<(), CallFailure>,
}

impl Future for RunningCall {
    type Output = EndedCall;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<EndedCall> {
        let polled = poll_caught(self.call.as_mut(), cx);
        let (entry, begun) = (self.entry, self.begun);
        polled.map(|outcome| EndedCall {
            entry,
            begun,
            outcome: match outcome {
                Ok(outcome) => outcome.map_err(CallFailure::from),
                Err(message) => Err(CallFailure::panicked(message)),
            },
        })
    }
}

/// The next event in the calls of a shard.
pub(crate) enum HandlingStep {
    /// Calls have ended.
    Ended,
    /// The letter of the record with this number is acknowledged.
    Acknowledged(u64),
    /// A time has come, or a command: what may be done is looked at again.
    Look,
    /// The operator has resumed the shard: what failed is tried again.
    Resumed,
    /// Another batch.
    Batch(BatchId, RecordBatch),
}

impl HandledRecords {
    pub(crate) fn new(concurrency: Concurrency) -> Self {
        Self {
            most: concurrency.calls(),
            lanes: Lanes::new(concurrency),
            batches: Slab::new(),
            calls: FuturesUnordered::new(),
            begun: BTreeSet::new(),
            failing: FailingRecords::default(),
            letters: FuturesUnordered::new(),
            letters_waiting: VecDeque::new(),
            took_more: false,
            ended: Vec::new(),
            starting: Vec::new(),
            finished: Vec::new(),
        }
    }

    /// Takes a batch. Its records at the indices `finished`, which ascend, are finished already.
    pub(crate) fn push(&mut self, id: BatchId, batch: RecordBatch, finished: &[usize]) {
        let (first, unfinished) = (id.first_number(), batch.len() - finished.len());
        if unfinished == 0 {
            return;
        }
        let (at, _) = batch.place();
        let slot = self.batches.vacant_entry();
        for (index, record) in batch.iter().enumerate() {
            if finished.binary_search(&index).is_ok() {
                continue;
            }
            let place = RecordPlace {
                number: first + (at + index) as u64,
                batch: slot.key(),
                index,
            };
            self.lanes.push(place, record);
        }
        slot.insert(OpenBatch {
            id,
            batch,
            unfinished,
        });
    }

    /// Whether a call could run and there is no record for it.
    pub(crate) fn wants_more(&self) -> bool {
        self.free() > 0 && !self.lanes.is_ready()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    pub(crate) fn find(&self, entry: LaneEntry) -> Option<(RecordPlace, &OpenBatch)> {
        let place = self.lanes.place(entry)?;
        Some((place, self.batches.get(place.batch)?))
    }

    pub(crate) fn record(&self, entry: LaneEntry) -> Option<&Record> {
        let (place, open) = self.find(entry)?;
        open.batch.get(place.index)
    }

    /// Takes the records for the calls that may begin.
    pub(crate) fn take_startable(&mut self) {
        let free = self.free();
        while self.starting.len() < free
            && let Some(entry) = self.lanes.take()
        {
            self.starting.push(entry);
        }
    }

    /// The record is finished: the next of its key may be handled. Its batch is let go with its last record.
    pub(crate) fn finish(&mut self, entry: LaneEntry) {
        let Some(place) = self.lanes.place(entry) else {
            return;
        };
        self.lanes.finish(entry);
        let Some(open) = self.batches.get_mut(place.batch) else {
            return;
        };
        let (from, _) = open.batch.place();
        self.finished.push((open.id, from + place.index));
        open.unfinished -= 1;
        if open.unfinished == 0 {
            self.batches.remove(place.batch);
        }
    }

    /// Since when the oldest call runs.
    pub(crate) fn oldest_call(&self) -> Option<Moment> {
        self.begun.first().map(|(begun, _)| *begun)
    }

    /// A call begins.
    pub(crate) fn call(&mut self, entry: LaneEntry, begun: Moment, call: HandlerCall) {
        self.begun.insert((begun, entry));
        self.calls.push(RunningCall { entry, begun, call });
    }

    /// Sends the letter of the record with this number, or none if it has none. At most so many are on their way at once.
    pub(crate) fn send(&mut self, own: &Arc<Ownership>, number: u64, letter: Option<DeadLetter>) {
        match letter {
            None => self.letters.push(Box::pin(std::future::ready(number))),
            Some(letter) => self.letters_waiting.push_back((number, letter)),
        }
        self.send_more(own);
    }

    /// Sends letters that wait for their turn.
    pub(crate) fn send_more(&mut self, own: &Arc<Ownership>) {
        while self.letters.len() < MOST_LETTERS
            && let Some((number, letter)) = self.letters_waiting.pop_front()
        {
            let own = Arc::clone(own);
            self.letters.push(Box::pin(async move {
                send_letter(&own, &letter).await;
                number
            }));
        }
    }

    /// How many calls may begin. A record whose letter is not acknowledged takes the place of a call, since its copy is in memory.
    fn free(&self) -> usize {
        let busy = self.calls.len() + self.letters.len() + self.letters_waiting.len();
        self.most.saturating_sub(busy)
    }

    /// Returns once calls have ended, which are in `ended` then, or a letter is acknowledged.
    pub(crate) async fn next_end(&mut self, own: &Ownership) -> HandlingStep {
        poll_fn(|cx| {
            if self.poll_calls(own, cx).is_ready() {
                return Poll::Ready(HandlingStep::Ended);
            }
            match self.letters.poll_next_unpin(cx) {
                Poll::Ready(Some(number)) => Poll::Ready(HandlingStep::Acknowledged(number)),
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Ready once calls have ended, which are in `ended` then. While they are polled, the thread is the user's.
    pub(crate) fn poll_calls(&mut self, own: &Ownership, cx: &mut Context<'_>) -> Poll<()> {
        if self.calls.is_empty() {
            return Poll::Pending;
        }
        let clock = &own.worker.clock;
        let begun = clock.now();
        own.on_thread.begins("handle", begun);
        while let Poll::Ready(Some(ended)) = self.calls.poll_next_unpin(cx) {
            self.begun.remove(&(ended.begun, ended.entry));
            self.ended.push(ended);
            let looks = self.ended.len().is_multiple_of(ENDS_BETWEEN_LOOKS);
            if self.ended.len() >= MOST_ENDS || (looks && clock.now() >= begun + LONGEST_POLL) {
                break;
            }
        }
        own.on_thread.ends(clock.now());
        match self.ended.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }
}
