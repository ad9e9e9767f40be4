//! The life of one consumer: it takes batches from the fetcher, offers them to the processor, and tries again what failed, after the pause
//! that the error policy says. The end of the shard, the drain and the ticks are in files beside this one.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::poll_immediate;
use tracing::Instrument as _;

use crate::consumer::by_record::handled::HandledRecords;
use crate::consumer::call_size::{CallPace, time_for_call};
use crate::consumer::delivery::Delivery;
use crate::consumer::fetched_records::FetchedRecords;
use crate::consumer::isolation::{FailureTally, Isolation};
use crate::consumer::reaction::{Pause, SetAside};
use crate::error::Causes;
use crate::lease::finished_ahead::FinishedAhead;
use crate::lease::row::Lease;
use crate::lifecycle::{ConsumerEnd, ConsumerEvent, ConsumerState, transition};
use crate::limits::byte_budget::BudgetPermit;
use crate::ownership::Ownership;
use crate::ownership::checkpoint_tracker::BatchId;
use crate::ownership::checkpoints::CallStart;
use crate::ownership::control::{DrainReason, Interrupt};
use crate::processor::fetched_batch::UnreadableRecord;
use crate::processor::{FailedCall, RecordBatch, StartFrom};
use crate::retrieval::pin_latest::pin_latest;
use crate::retrieval::start_position::{ReadStart, start_of};
use crate::runtime::backoff::Backoff;
use crate::runtime::clock::{ClockExt as _, Moment};
use crate::runtime::failpoint::failpoint;
use crate::source::{ShardEnd, SourceErrorKind, StartPosition};
use crate::status::WaitReason;
use crate::types::{Gap, Record, RecordPosition};

/// Runs the life of one consumer, from its first state to its end.
pub(crate) async fn consume(own: Arc<Ownership>, delivery: Box<dyn Delivery>) -> ConsumerEnd {
    let consumer = ShardConsumer {
        own: Arc::clone(&own),
        delivery,
        start_from: StartFrom::Checkpoint,
        fetched: None,
        waiting: None,
        closed_by_pause: false,
        unreadable: None,
        gap: None,
        end: None,
        failures: 0,
        broken_fetchers: 0,
        failing_calls: Vec::new(),
        isolation: Isolation::default(),
        set_aside: None,
        aside: BTreeSet::new(),
        ahead: None,
        pause: Pause::default(),
        passed: 0,
        tick_due: own.worker.clock.now(),
        pace: CallPace::default(),
        batches: 0,
        refetch_at: None,
        handled: None,
        parked_failures: 0,
    };
    let end = consumer.live().await;
    own.end_consumer();
    end
}

pub(crate) struct ShardConsumer {
    pub(crate) own: Arc<Ownership>,
    pub(crate) delivery: Box<dyn Delivery>,
    /// Where the processor wants to start.
    start_from: StartFrom,
    /// The batches that the fetcher hands on, while there is one.
    pub(crate) fetched: Option<FetchedRecords>,
    /// A batch that was received and is not finished.
    pub(crate) waiting: Option<(BatchId, RecordBatch)>,
    /// Whether the batch is offered although the shard is paused: the pause ended its gathering.
    closed_by_pause: bool,
    /// The record that comes next and cannot be read, with the room that its answer takes.
    pub(crate) unreadable: Option<(UnreadableRecord, Option<Arc<BudgetPermit>>)>,
    /// A gap before records of which none could be offered: the next batch reports it.
    gap: Option<Gap>,
    /// The end of the shard, once it was read.
    pub(crate) end: Option<ShardEnd>,
    /// How often the user's code has failed without a batch finished in between.
    pub(crate) failures: u32,
    /// How many fetchers have broken in a row.
    broken_fetchers: u32,
    /// The calls without records that fail, each by itself: that a new processor begins well says nothing about the call in which the one
    /// before it panicked.
    pub(crate) failing_calls: Vec<(FailedCall, FailureTally)>,
    /// The records among which a failure is.
    pub(crate) isolation: Isolation,
    /// The record that is being set aside.
    pub(crate) set_aside: Option<SetAside>,
    /// The records that were set aside in this ownership, and that may come again: after a panic reading goes on at the stored checkpoint.
    pub(crate) aside: BTreeSet<RecordPosition>,
    /// The records that were finished before reading began, until it is past the last of them.
    pub(crate) ahead: Option<FinishedAhead>,
    /// How long to wait before it is called again.
    pub(crate) pause: Pause,
    /// How many records were set aside in this ownership.
    pub(crate) passed: u32,
    /// When `tick` is due, unless it is called before.
    pub(crate) tick_due: Moment,
    /// How long its calls take.
    pub(crate) pace: CallPace,
    batches: u64,
    /// When the next fetcher begins, after one that broke.
    refetch_at: Option<Moment>,
    /// The records that a handler is called for.
    pub(crate) handled: Option<Box<HandledRecords>>,
    /// How many calls of the handler have failed since no record was parked.
    pub(crate) parked_failures: u32,
}

impl ShardConsumer {
    async fn live(mut self) -> ConsumerEnd {
        let mut state = ConsumerState::AwaitingParents;
        loop {
            self.show(state);
            let event = match state {
                ConsumerState::AwaitingParents => self.await_parents().await,
                ConsumerState::Initializing => self.initialize().await,
                ConsumerState::Running => self.run().await,
                ConsumerState::Holding | ConsumerState::Rebuilding => self.hold().await,
                ConsumerState::Ending => self.end_shard().await,
                ConsumerState::AwaitingCheckpoints => self.await_checkpoints().await,
                ConsumerState::StoringEnd => self.store_end().await,
                ConsumerState::Draining => self.drain().await,
                ConsumerState::Leaving => self.leave().await,
                ConsumerState::Losing => self.lose().await,
                ConsumerState::Done(end) => return end,
            };
            let Some(next) = transition(state, event) else {
                tracing::error!(%state, ?event, "a consumer met an event that its state does not know");
                debug_assert!(false, "{event:?} in {state}");
                return ConsumerEnd::Expires;
            };
            if !matches!(
                next,
                ConsumerState::Running
                    | ConsumerState::Initializing
                    | ConsumerState::Holding
                    | ConsumerState::Draining
            ) {
                self.fetched = None;
            }
            match (is_held(state), is_held(next)) {
                (false, true) => self.own.worker.metrics.hold_begins(),
                (true, false) => self.own.worker.metrics.hold_ends(),
                (true, true) | (false, false) => {}
            }
            state = next;
        }
    }

    /// A child begins when each of its parents is finished: ended, or gone from the table because it was finished long ago.
    ///
    /// A shard that is paused by an order waits here, and looks again then: its parents may have been reset meanwhile.
    async fn await_parents(&mut self) -> ConsumerEvent {
        loop {
            if let Some(event) = self.parents_unfinished().await {
                return event;
            }
            if !self.own.is_paused_by_order() {
                break;
            }
            self.own.consumer_waits(WaitReason::Paused);
            let own = Arc::clone(&self.own);
            tokio::select! {
                biased;
                interrupt = own.interrupted() => return self.interrupted(interrupt),
                () = own.resumed_by_order() => {}
            }
        }
        self.own.consumer_goes_on();
        ConsumerEvent::ParentsFinished
    }

    /// Waits until each parent is finished, unless something else is to be done.
    async fn parents_unfinished(&mut self) -> Option<ConsumerEvent> {
        let row = self.own.row();
        let needed = match () {
            () if failpoint!(NoParentWait) => 0,
            () if failpoint!(OneParentIsEnough) => 1,
            () => row.parents.len(),
        };
        for parent in row.parents.iter().take(needed) {
            let key = row.key_of_sibling(parent);
            loop {
                match self.own.worker.store_client.read(&key).await {
                    Ok(row) if Lease::is_finished(row.as_ref()) => break,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(parent_lease = %key, error = %Causes(&error), "cannot read the parent's row")
                    }
                }
                self.own.consumer_waits(WaitReason::Parents);
                if let Some(event) = self
                    .pause_for(self.own.worker.settings.leases.parent_poll_interval)
                    .await
                {
                    return Some(event);
                }
            }
        }
        None
    }

    async fn initialize(&mut self) -> ConsumerEvent {
        if let Some(event) = self.wait_after_failure().await {
            return event;
        }
        self.own.consumer_waits(WaitReason::Initialize);
        self.own.context.set_pending_checkpoint(self.own.row().pending);
        let called = tokio::select! {
            biased;
            interrupt = self.own.interrupted() => Err(interrupt),
            called = self.delivery.initialize() => Ok(called),
        };
        match called {
            Err(interrupt) => self.interrupted(interrupt),
            Ok(Ok(start_from)) => {
                let start_from = match self.answer_pending(start_from).await {
                    Ok(start_from) => start_from,
                    Err(event) => return event,
                };
                if start_from != self.start_from {
                    self.own.forget_begun();
                }
                let own_place = matches!(
                    start_from,
                    StartFrom::After(_) | StartFrom::TrimHorizon | StartFrom::AtTimestamp(_)
                );
                self.own.begins_at_checkpoint(!own_place);
                self.start_from = start_from;
                self.call_returned(FailedCall::Initialize);
                self.own.consumer_goes_on();
                self.delay_tick();
                tracing::info!(checkpoint = %self.own.row().checkpoint, "shard started");
                ConsumerEvent::CallReturned
            }
            Ok(Err(failure)) => self.call_failed(FailedCall::Initialize, failure),
        }
    }

    /// Takes batch after batch to the processor, until something else is to be done.
    async fn run(&mut self) -> ConsumerEvent {
        if let Some(code) = self.delivery.record_calls() {
            return self.run_by_record(&code).await;
        }
        self.own.wants_records();
        loop {
            if self.waiting.is_none() {
                match self.next_batch(true).await {
                    Ok(next) => self.waiting = next,
                    Err(event) => return event,
                }
            }
            // The batch stays where a tick that panics meanwhile drops it.
            if let Some(event) = self.until_free().await {
                return event;
            }
            let Some((id, batch)) = self.waiting.take() else {
                continue;
            };
            if let Some(event) = self.offer(id, batch).await {
                return event;
            }
        }
    }

    /// Receives the next batch. `None` if there is something else in its place, and not everything before that is finished. A call that is
    /// dropped loses nothing.
    pub(crate) async fn next_batch(
        &mut self,
        is_all_finished: bool,
    ) -> Result<Option<(BatchId, RecordBatch)>, ConsumerEvent> {
        loop {
            if !is_all_finished && (self.unreadable.is_some() || self.end.is_some()) {
                return Ok(None);
            }
            if let Some(event) = self.unreadable_failed() {
                return Err(event);
            }
            if self.end.is_some() {
                return Err(ConsumerEvent::Exhausted);
            }
            let own = Arc::clone(&self.own);
            // A handler has no ticks, which would end with any of its calls.
            let ticks = self.delivery.record_calls().is_none();
            if let Some(due) = self.refetch_at {
                let pause = due.saturating_since(self.now());
                if let Some(event) = self.pause_for(pause).await {
                    return Err(event);
                }
                self.refetch_at = None;
            }
            if self.fetched.is_none() {
                let settled = tokio::select! {
                    biased;
                    interrupt = own.interrupted() => Some(self.interrupted(interrupt)),
                    settled = pin_latest(&own, &self.start_from) => settled,
                };
                if let Some(event) = settled {
                    return Err(event);
                }
            }
            let fetched = match &mut self.fetched {
                Some(fetched) => fetched,
                None => {
                    let start = self.start();
                    // A handler is called for records, and not for batches.
                    let is_for_batches = self.delivery.record_calls().is_none();
                    self.fetched
                        .insert(FetchedRecords::begin(&own, start, is_for_batches))
                }
            };
            let next = tokio::select! {
                biased;
                interrupt = own.interrupted() => return Err(self.interrupted(interrupt)),
                next = fetched.next(&own) => next,
                () = own.worker.clock.sleep_until(self.tick_due), if ticks => {
                    match self.tick().await {
                        Some(event) => return Err(event),
                        None => continue,
                    }
                }
            };
            match next {
                Some((mut batch, closed_by_pause)) => {
                    self.broken_fetchers = 0;
                    self.closed_by_pause = closed_by_pause;
                    self.end = batch.end.take();
                    self.unreadable = batch.unreadable.take();
                    let is_last = self.end.is_some() && failpoint!(EndBeforeLastRecords);
                    batch.gap = self.gap.take().or(batch.gap);
                    if batch.is_empty() || is_last {
                        self.gap = batch.gap;
                        continue;
                    }
                    let batch = Arc::new(batch);
                    let id = own.deliver(Arc::clone(&batch));
                    return Ok(Some((id, RecordBatch::new(batch, id.first_number(), own))));
                }
                // The fetcher broke: begin again where the last delivered record ended.
                None => {
                    self.fetched = None;
                    self.broken_fetchers = self.broken_fetchers.saturating_add(1);
                    own.show(|facts| facts.trouble = Some(SourceErrorKind::Unavailable));
                    let pauses = Backoff::new(FETCHER_PAUSE, LONGEST_FETCHER_PAUSE);
                    self.refetch_at = Some(self.now() + pauses.after(self.broken_fetchers));
                }
            }
        }
    }

    /// Where to read on: after what was delivered in this ownership, or where the ownership begins.
    fn start(&mut self) -> ReadStart {
        if let Some(last) = self.own.last_delivered() {
            return ReadStart::after_delivered(last);
        }
        let configured = self.own.worker.settings.reading.initial_position;
        let configured = self.own.stream.initial_position.unwrap_or(configured);
        let row = self.own.row();
        let mut start = start_of(&row, &self.start_from, configured);
        let is_at_checkpoint = self.start_from == StartFrom::Checkpoint;
        self.ahead = self.own.begin_reading(is_at_checkpoint.then_some(&row));
        // The first record that came stays the first: of LATEST there would be another, and one that retention took is missed.
        if let (None, Some(begun)) = (&start.done, self.own.begun()) {
            start.position = StartPosition::AtSequence(begun);
        }
        start
    }

    /// Waits while the shard is paused.
    async fn until_free(&mut self) -> Option<ConsumerEvent> {
        if std::mem::take(&mut self.closed_by_pause) {
            return None;
        }
        let own = Arc::clone(&self.own);
        while own.is_paused() {
            tokio::select! {
                biased;
                interrupt = own.interrupted() => return Some(self.interrupted(interrupt)),
                _ = own.until_free(false, |reason| own.consumer_waits(reason)) => return None,
                () = own.worker.clock.sleep_until(self.tick_due) => {}
            }
            if let Some(event) = self.tick().await {
                return Some(event);
            }
        }
        None
    }

    /// Starts a call of the processor with the first `records` of the batch, once the lease is live. Breaks where it cannot start: with the
    /// event, or with none if an order has paused the shard meanwhile.
    async fn start_call(&mut self, id: BatchId, records: usize) -> ControlFlow<Option<ConsumerEvent>> {
        loop {
            match self.own.start_call(id, records, false) {
                CallStart::Started => return ControlFlow::Continue(()),
                CallStart::Interrupted(interrupt) => {
                    return ControlFlow::Break(Some(self.interrupted(interrupt)));
                }
                CallStart::Paused => return ControlFlow::Break(None),
                CallStart::Suspended => {}
            }
            let pause = self.own.worker.timing.suspended_look;
            if let Some(event) = self.pause_for(pause).await {
                return ControlFlow::Break(Some(event));
            }
        }
    }

    /// Offers as many of the records as the processor is likely to finish in time; `None` when they are finished and the next may come.
    async fn offer(&mut self, id: BatchId, batch: RecordBatch) -> Option<ConsumerEvent> {
        let limit = time_for_call(&self.own.worker.settings);
        let (batch, until_finished) = self.pass_finished(id, batch)?;
        // The user chose the size of what is gathered.
        let available = match self.own.worker.settings.processing.batching {
            Some(_) => until_finished,
            None => self.pace.records(limit, until_finished),
        };
        let positions = batch.iter().map(Record::position);
        let part = batch.first_part(self.isolation.next_offer(positions, available));
        let (_, to) = part.place();
        if let ControlFlow::Break(event) = self.start_call(id, to).await {
            self.waiting = Some((id, batch));
            return event;
        }
        let begun = self.now();
        self.batches += 1;
        let span = tracing::debug_span!("batch", n = self.batches, records = part.len());
        let offered = {
            let _callback = self.own.enter_callback();
            let mut offer = std::pin::pin!(self.delivery.offer(part.clone()).instrument(span));
            // Nothing commands otherwise yet.
            match poll_immediate(&mut offer).await {
                Some(offered) => Some(offered),
                None => tokio::select! {
                    biased;
                    () = self.own.aborted() => None,
                    offered = offer => Some(offered),
                },
            }
        };
        let Some(offered) = offered else {
            return Some(self.dropped("process_records"));
        };
        self.delay_tick();
        let took = self.now().saturating_since(begun);
        let rest = batch.starting_at(part.len());
        match offered {
            Ok(()) => {
                self.pace.took(part.len(), took);
                self.finished(id, &part, took, rest.is_empty());
                if let Some(last) = part.last() {
                    let next = rest.first().map(Record::position);
                    self.isolation.finished(last.position(), next);
                }
                self.waiting = (!rest.is_empty()).then_some((id, rest));
                None
            }
            Err(_) if failpoint!(BatchDroppedOnError) => {
                self.finished(id, &batch, Duration::ZERO, true);
                None
            }
            Err(failure) => {
                self.own.consumer_goes_on();
                Some(self.records_failed(id, &batch, &part, took, failure))
            }
        }
    }

    /// Notes that the processor returned from a part of a batch, the last one or not.
    pub(crate) fn finished(&mut self, id: BatchId, part: &RecordBatch, took: Duration, is_last: bool) {
        self.failures = 0;
        let bytes = part.payload_bytes();
        self.own.call_succeeded(id, part, bytes, is_last);
        let metrics = &self.own.worker.metrics;
        metrics.batch_processed(part.len() as u64, bytes, took);
    }

    /// A callback was dropped, because the time for it was up.
    pub(crate) fn dropped(&self, call: &'static str) -> ConsumerEvent {
        let unfinished = self.own.unfinished();
        tracing::warn!(
            call,
            unfinished,
            "dropped a callback that did not return in time; what it did not finish is delivered again"
        );
        ConsumerEvent::Aborted
    }

    /// Waits as long as the policy said, if a call has failed before: until the operator resumes the shard at the latest.
    pub(crate) async fn wait_after_failure(&mut self) -> Option<ConsumerEvent> {
        let pause = std::mem::take(&mut self.pause);
        if pause.length.is_zero() {
            return None;
        }
        let own = Arc::clone(&self.own);
        own.consumer_waits(WaitReason::Hold);
        let interrupt = tokio::select! {
            biased;
            interrupt = own.interrupted() => Some(interrupt),
            () = own.resumed() => None,
            () = own.worker.clock.sleep(pause.length) => None,
        };
        let interrupt = match interrupt {
            None if pause.then_release => {
                own.drain(DrainReason::Failing);
                Some(own.interrupted().await)
            }
            interrupt => interrupt,
        };
        interrupt.map(|interrupt| self.interrupted(interrupt))
    }

    /// Sleeps, unless something else is to be done.
    pub(crate) async fn pause_for(&mut self, pause: Duration) -> Option<ConsumerEvent> {
        let interrupt = tokio::select! {
            biased;
            interrupt = self.own.interrupted() => Some(interrupt),
            () = self.own.worker.clock.sleep(pause) => None,
        };
        interrupt.map(|interrupt| self.interrupted(interrupt))
    }

    pub(crate) fn interrupted(&mut self, interrupt: Interrupt) -> ConsumerEvent {
        match interrupt {
            Interrupt::Abort => ConsumerEvent::Aborted,
            Interrupt::Lost => ConsumerEvent::LeaseLost,
            Interrupt::Drain => ConsumerEvent::DrainRequested,
            Interrupt::Reopen => {
                self.fetched = None;
                self.own.reopened();
                ConsumerEvent::ReopenRequested
            }
        }
    }

    pub(crate) fn show_failures(&self) {
        let of_calls = self.failing_calls.iter().map(|(_, tally)| tally.total()).max();
        let failures = self.failures.max(of_calls.unwrap_or(0));
        self.own.show(|facts| facts.failures = failures);
    }

    fn show(&self, state: ConsumerState) {
        self.own.show(|facts| facts.state = state);
    }

    pub(crate) fn now(&self) -> Moment {
        self.own.worker.clock.now()
    }
}

fn is_held(state: ConsumerState) -> bool {
    matches!(state, ConsumerState::Holding | ConsumerState::Rebuilding)
}

/// How long to wait before a fetcher that broke is replaced: longer each time until something was fetched.
const FETCHER_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_FETCHER_PAUSE: Duration = Duration::from_secs(5);
