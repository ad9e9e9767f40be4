//! Calls a handler for the records of a shard, many at once: all calls are futures of the consumer's task.
//!
//! [`lanes`] decides which record may be handled next, [`failing`] what becomes of those that failed. A record that fails is parked: the
//! others go on, and another batch is taken whenever a call could run and no record is left for it.

mod failing;
pub(crate) mod handled;
mod lanes;

use std::future::poll_fn;
use std::sync::Arc;

use crate::consumer::by_record::failing::{FailingRecord, FailingRecords};
use crate::consumer::by_record::handled::{EndedCall, HandledRecords, HandlingStep, RunningCall};
use crate::consumer::by_record::lanes::LaneEntry;
use crate::consumer::delivery::CallFailure;
use crate::consumer::failures::{FailedRecords, send_letter};
use crate::consumer::shard_consumer::ShardConsumer;
use crate::lifecycle::ConsumerEvent;
use crate::ownership::checkpoints::CallStart;
use crate::ownership::control::{DrainReason, Interrupt};
use crate::processor::{FailedCall, FailureKind, RecordCalls};
use crate::runtime::clock::Moment;
use crate::status::WaitReason;
use crate::types::{Record, RecordPosition};

impl ShardConsumer {
    /// Calls the handler for record after record, until something else is to be done.
    pub(crate) async fn run_by_record(&mut self, code: &RecordCalls) -> ConsumerEvent {
        let before = self.handled.take();
        let mut records = before.unwrap_or_else(|| Box::new(HandledRecords::new(code.concurrency())));
        let event = self.handle_records(&mut records, code).await;
        if event != ConsumerEvent::Aborted {
            self.handled = Some(records);
        }
        event
    }

    async fn handle_records(&mut self, records: &mut HandledRecords, code: &RecordCalls) -> ConsumerEvent {
        let own = Arc::clone(&self.own);
        own.wants_records();
        let mut resumed = Box::pin(own.resumed());
        loop {
            let is_draining = own.drain_reason().is_some();
            let is_paused = own.is_paused();
            let mut look_at = records.failing.next_due();
            if !is_draining && !is_paused {
                match self.start_handling(records, code) {
                    CallStart::Started => {}
                    CallStart::Interrupted(Interrupt::Drain) => continue,
                    CallStart::Interrupted(interrupt) => return self.interrupted(interrupt),
                    CallStart::Suspended => {
                        let again = self.now() + own.worker.timing.suspended_look;
                        look_at = Some(look_at.map_or(again, |due| due.min(again)));
                    }
                }
            } else if is_draining && records.calls.is_empty() {
                return ConsumerEvent::DrainRequested;
            }
            let is_idle = records.is_empty();
            // The end of the shard, and a record that cannot be read, come when all before them is finished.
            let takes_more = !is_draining
                && !is_paused
                && records.wants_more()
                && (is_idle || (self.end.is_none() && self.unreadable.is_none()));
            self.show_waiting(records, takes_more);
            let is_failing = !records.failing.is_empty();
            let step = tokio::select! {
                biased;
                interrupt = own.commanded_while(is_draining) => match interrupt {
                    Some(interrupt) => return self.interrupted(interrupt),
                    None => HandlingStep::Look,
                },
                step = records.next_end(&own) => step,
                () = own.worker.clock.sleep_until(look_at.unwrap_or(Moment::ZERO)), if look_at.is_some() => HandlingStep::Look,
                () = &mut resumed, if is_failing => HandlingStep::Resumed,
                _ = own.until_free(false, |reason| own.consumer_waits(reason)), if is_paused && !is_draining => HandlingStep::Look,
                next = self.next_batch(is_idle), if takes_more => match next {
                    Ok(Some((id, batch))) => HandlingStep::Batch(id, batch),
                    Ok(None) => HandlingStep::Look,
                    Err(event) => return event,
                },
            };
            match step {
                HandlingStep::Look => {}
                HandlingStep::Batch(id, batch) => {
                    own.handed_to_calls(&batch);
                    let finished = self.finish_again(id, &batch);
                    records.push(id, batch, &finished);
                }
                HandlingStep::Ended => self.note_ended(records),
                HandlingStep::Acknowledged(number) => self.letter_acknowledged(records, number),
                HandlingStep::Resumed => {
                    resumed = Box::pin(own.resumed());
                    records.failing.try_now(self.now());
                }
            }
            self.retry_due(records);
        }
    }

    /// Starts the calls that may run, once the lease is live.
    fn start_handling(&self, records: &mut HandledRecords, code: &RecordCalls) -> CallStart {
        records.take_startable();
        if records.starting.is_empty() {
            return CallStart::Started;
        }
        let mut starting = std::mem::take(&mut records.starting);
        let places = starting.iter().filter_map(|entry| {
            let (place, open) = records.find(*entry)?;
            let (from, _) = open.batch.place();
            Some((open.id, from + place.index + 1))
        });
        let start = self.own.start_calls(places, false);
        let begun = self.now();
        for entry in starting.drain(..) {
            let Some((place, open)) = records.find(entry).filter(|_| start == CallStart::Started) else {
                records.lanes.give_back(entry);
                continue;
            };
            let call = code.call(open.batch.clone(), place.index, self.own.context.clone());
            records.begun.push_back((entry, place.number, begun));
            records.failing.calls(place.number);
            records.calls.push(RunningCall { entry, begun, call });
        }
        records.starting = starting;
        self.own.set_in_callback(!records.calls.is_empty());
        start
    }

    /// Says what the consumer waits for, so that the lease is renewed meanwhile.
    fn show_waiting(&self, records: &HandledRecords, takes_more: bool) {
        match (records.calls.is_empty(), records.failing.is_empty()) {
            // As it was said when they began.
            (false, _) => {}
            (true, _) if takes_more => self.own.wants_records(),
            (true, false) if !records.letters.is_empty() => self.own.consumer_waits(WaitReason::DeadLetter),
            (true, false) => self.own.consumer_waits(WaitReason::Hold),
            (true, true) => {}
        }
    }

    /// Notes the calls that have ended: their records are finished, or parked.
    fn note_ended(&mut self, records: &mut HandledRecords) {
        let now = self.now();
        let mut ended = std::mem::take(&mut records.ended);
        let (mut bytes, mut last): (u64, Option<RecordPosition>) = (0, None);
        for EndedCall {
            entry,
            begun,
            outcome,
        } in ended.drain(..)
        {
            let Some((place, record)) = records.lanes.place(entry).zip(records.record(entry)) else {
                continue;
            };
            match outcome {
                Ok(()) => {
                    let size = record.data().len() as u64;
                    bytes += size;
                    let is_newer = last.as_ref().is_none_or(|last| last < record.position());
                    if is_newer {
                        last = Some(record.position().clone());
                    }
                    let metrics = &self.own.worker.metrics;
                    metrics.batch_processed(1, size, now.saturating_since(begun));
                    if records.failing.finished(place.number) {
                        self.show_failing(&records.failing);
                    }
                    records.finish(entry);
                }
                Err(failure) => {
                    let record = record.clone();
                    self.handling_failed(records, entry, place.number, &record, failure);
                }
            }
        }
        records.ended = ended;
        let oldest = records.oldest_call();
        self.own.calls_ended(&records.finished, bytes, last, oldest);
        records.finished.clear();
        self.own.set_in_callback(!records.calls.is_empty());
    }

    /// Decides about a record whose call failed.
    fn handling_failed(
        &mut self,
        records: &mut HandledRecords,
        entry: LaneEntry,
        number: u64,
        record: &Record,
        failure: CallFailure,
    ) {
        let (kind, now) = (failure.kind, self.now());
        let metrics = &self.own.worker.metrics;
        metrics.batch_failed(kind == FailureKind::Panic);
        let attempts = records
            .failing
            .failed(number, entry, record.position(), kind, now);
        let of = FailedRecords::alone(record);
        let reaction = self.react(FailedCall::Handle, attempts, failure, &of);
        let failing = &mut records.failing;
        match reaction.set_aside {
            None => failing.park(number, reaction.pause, now),
            Some(set_aside) => {
                let letter = set_aside.letter.clone();
                failing.set_aside(number, set_aside);
                let own = Arc::clone(&self.own);
                records.letters.push(Box::pin(async move {
                    if let Some(letter) = letter {
                        send_letter(&own, &letter).await;
                    }
                    number
                }));
            }
        }
        self.show_failing(&records.failing);
    }

    /// A record is set aside, which finishes it.
    fn letter_acknowledged(&mut self, records: &mut HandledRecords, number: u64) {
        let Some(FailingRecord { entry, set_aside, .. }) = records.failing.remove(number) else {
            return;
        };
        if let Some(set_aside) = set_aside {
            self.count_set_aside(&set_aside);
        }
        records.finish(entry);
        let oldest = records.oldest_call();
        self.own.calls_ended(&records.finished, 0, None, oldest);
        records.finished.clear();
        self.show_failing(&records.failing);
    }

    /// Tries the parked records again whose pause is over.
    fn retry_due(&self, records: &mut HandledRecords) {
        let now = self.now();
        while let Some((entry, then_release)) = records.failing.take_due(now) {
            if then_release {
                self.own.drain(DrainReason::Failing);
            }
            records.lanes.give_back(entry);
        }
    }

    /// Shows the oldest record that fails, and how often one of them has failed.
    fn show_failing(&mut self, failing: &FailingRecords) {
        self.failures = failing.most_failures();
        self.show_failures();
        let (oldest, parked) = (failing.oldest().cloned(), failing.len());
        self.own.show(|facts| {
            facts.failing = oldest;
            facts.parked = parked as u64;
        });
    }

    /// Lets the calls return that run when the lease is lost. Nothing of what they do is noted.
    pub(crate) async fn let_calls_return(&mut self) {
        let Some(mut records) = self.handled.take() else {
            return;
        };
        while !records.calls.is_empty() {
            poll_fn(|cx| records.poll_calls(&self.own, cx)).await;
            records.ended.clear();
        }
    }
}
