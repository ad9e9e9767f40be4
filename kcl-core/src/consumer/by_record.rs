//! Calls a handler for the records of a shard, many at once: all calls are futures of the consumer's task.
//!
//! [`lanes`] decides which record may be handled next, [`failing`] what becomes of those that failed. A record that fails is parked: the
//! others go on, and another batch is taken whenever a call could run and no record is left for it.

mod failing;
pub(crate) mod handled;
mod lanes;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use crate::consumer::by_record::failing::{FailingRecord, FailingRecords};
use crate::consumer::by_record::handled::{EndedCall, HandledRecords, HandlingStep};
use crate::consumer::by_record::lanes::LaneEntry;
use crate::consumer::delivery::CallFailure;
use crate::consumer::failures::FailedRecords;
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
        if event == ConsumerEvent::Aborted && !records.calls.is_empty() {
            return self.dropped("handle");
        }
        // After a panic what was delivered is forgotten.
        if !matches!(event, ConsumerEvent::Aborted | ConsumerEvent::Panicked) {
            self.handled = Some(records);
        }
        event
    }

    async fn handle_records(&mut self, records: &mut HandledRecords, code: &RecordCalls) -> ConsumerEvent {
        let own = Arc::clone(&self.own);
        let mut resumed = Box::pin(own.resumed());
        let mut was_failing = false;
        records.took_more = false;
        loop {
            let is_draining = own.drain_reason().is_some();
            let is_paused = own.is_paused();
            let mut look_at = records.failing.next_due();
            if !is_draining && !is_paused {
                match self.start_handling(records, code) {
                    CallStart::Started => {}
                    CallStart::Interrupted(Interrupt::Drain) => continue,
                    CallStart::Interrupted(interrupt) => return self.interrupted(interrupt),
                    CallStart::Suspended | CallStart::Paused => {
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
            self.show_waiting(records, takes_more, is_paused);
            let is_failing = !records.failing.is_empty();
            if is_failing && !was_failing {
                // A shard that was resumed before is not resumed by that.
                resumed = Box::pin(own.resumed());
            }
            was_failing = is_failing;
            let step = tokio::select! {
                biased;
                interrupt = own.commanded_while(is_draining) => match interrupt {
                    Some(interrupt) => return self.interrupted(interrupt),
                    None => HandlingStep::Look,
                },
                step = records.next_end(&own) => step,
                () = own.worker.clock.sleep_until(look_at.unwrap_or(Moment::ZERO)), if look_at.is_some() => HandlingStep::Look,
                () = &mut resumed, if is_failing => HandlingStep::Resumed,
                _ = own.until_free(false, |_| ()), if is_paused && !is_draining => HandlingStep::Look,
                next = self.next_batch(is_idle), if takes_more => match next {
                    Ok(Some((id, batch))) => HandlingStep::Batch(id, batch),
                    // The calls that run come to their end first.
                    Ok(None) | Err(ConsumerEvent::DrainRequested) => HandlingStep::Look,
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
                HandlingStep::Ended => {
                    self.note_ended(records);
                    // Handlers that never wait must not keep the thread.
                    tokio::task::consume_budget().await;
                }
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
            records.failing.calls(place.number);
            records.call(entry, begun, call);
        }
        records.starting = starting;
        self.own.set_in_callback(!records.calls.is_empty());
        start
    }

    /// Says what the consumer waits for, so that the lease is renewed meanwhile. While more is taken it is records, whatever runs beside that:
    /// a fetcher that hangs is found out.
    fn show_waiting(&self, records: &mut HandledRecords, takes_more: bool, is_paused: bool) {
        let oldest = records.oldest_call();
        let reason = match (oldest, takes_more) {
            (_, true) => None,
            (Some(_), false) => Some(WaitReason::Callback),
            (None, false) if is_paused => Some(WaitReason::Paused),
            (None, false) if !records.letters.is_empty() => Some(WaitReason::DeadLetter),
            (None, false) if records.lanes.is_ready() => Some(WaitReason::Suspended),
            (None, false) if !records.failing.is_empty() => Some(WaitReason::Hold),
            (None, false) => None,
        };
        let begins_to_read = takes_more && !records.took_more;
        records.took_more = takes_more;
        self.own.calls_wait(reason, oldest, begins_to_read);
    }

    /// Notes the calls that have ended: their records are finished, or parked.
    fn note_ended(&mut self, records: &mut HandledRecords) {
        let now = self.now();
        let mut ended = std::mem::take(&mut records.ended);
        let (mut bytes, mut last): (u64, Option<RecordPosition>) = (0, None);
        // A histogram takes the longest of them: one value for each record would cost more than the record.
        let (mut handled, mut longest) = (0_u64, Duration::ZERO);
        let mut shows_failing = false;
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
                    bytes += record.data().len() as u64;
                    handled += 1;
                    longest = longest.max(now.saturating_since(begun));
                    let is_newer = last.as_ref().is_none_or(|last| last < record.position());
                    if is_newer {
                        last = Some(record.position().clone());
                    }
                    shows_failing |= records.failing.finished(place.number);
                    records.finish(entry);
                }
                Err(failure) => {
                    let record = record.clone();
                    self.handling_failed(records, entry, place.number, &record, failure);
                    shows_failing = true;
                }
            }
        }
        records.ended = ended;
        if handled > 0 {
            let metrics = &self.own.worker.metrics;
            metrics.batch_processed(handled, bytes, longest);
        }
        self.own.calls_ended(&records.finished, bytes, last);
        records.finished.clear();
        if shows_failing {
            self.show_failing(&records.failing);
        }
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
                records.send(&self.own, number, letter);
            }
        }
    }

    /// A record is set aside, which finishes it.
    fn letter_acknowledged(&mut self, records: &mut HandledRecords, number: u64) {
        let Some(FailingRecord { entry, set_aside, .. }) = records.failing.remove(number) else {
            return;
        };
        if let Some(set_aside) = set_aside {
            self.count_set_aside(&set_aside);
            self.remember_aside(&set_aside.position);
        }
        records.finish(entry);
        self.own.finish_records(&records.finished);
        records.finished.clear();
        records.send_more(&self.own);
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

    /// Shows the oldest record that fails, and how often it has failed.
    fn show_failing(&mut self, failing: &FailingRecords) {
        self.failures = failing.failures_of_oldest();
        if failing.is_empty() {
            self.parked_failures = 0;
        }
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
