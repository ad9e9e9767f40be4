use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::Instrument as _;

use crate::budget::Held;
use crate::checkpoint::BatchId;
use crate::consumer::control::Interrupt;
use crate::consumer::delivery::{CallFailure, Delivery};
use crate::consumer::ending::store_end;
use crate::consumer::fetcher::start_fetching;
use crate::consumer::leaving::give_up;
use crate::consumer::ownership::Ownership;
use crate::consumer::parts::Fetched;
use crate::consumer::start::{Start, start_of};
use crate::consumer::unpack::Unreadable;
use crate::error::Causes;
use crate::lease::Lease;
use crate::lease::hold::HoldVerdict;
use crate::lifecycle::{Backlog, ConsumerEnd, ConsumerEvent, ConsumerState, WaitReason, transition};
use crate::mutant::{self, Mutant};
use crate::processor::{Decision, Failure, FailureKind, RecordBatch, StartFrom, backoff, decide};
use crate::settings::Checkpointing;
use crate::source::{ShardEnd, SourceErrorKind, StartPosition};
use crate::task::Place;
use crate::time::ClockExt as _;

/// Runs the life of one consumer, from its first state to its end.
pub(crate) async fn consume(own: Arc<Ownership>, delivery: Box<dyn Delivery>) -> ConsumerEnd {
    let consumer = ShardConsumer {
        own: Arc::clone(&own),
        delivery,
        wish: StartFrom::Checkpoint,
        fetched: None,
        waiting: None,
        unreadable: None,
        end: None,
        failures: 0,
        broken_fetchers: 0,
        failures_of_initialize: 0,
        pause: Duration::ZERO,
        batches: 0,
    };
    let end = consumer.live().await;
    own.control.finish();
    end
}

struct ShardConsumer {
    own: Arc<Ownership>,
    delivery: Box<dyn Delivery>,
    /// Where the processor wants to start.
    wish: StartFrom,
    /// What the fetcher hands on, while there is one.
    fetched: Option<mpsc::Receiver<Fetched>>,
    /// A batch that was taken in and is not finished.
    waiting: Option<(BatchId, RecordBatch)>,
    /// What comes next and cannot be read, with the room that its answer takes.
    unreadable: Option<(Unreadable, Arc<Held>)>,
    /// The end of the shard, once it was read.
    end: Option<ShardEnd>,
    /// How often the user's code has failed without a batch finished in between.
    failures: u32,
    /// How many fetchers have broken in a row.
    broken_fetchers: u32,
    /// How often `initialize` has failed in a row. Counted for itself: that a new processor begins well says nothing about
    /// the batch at which the one before it panicked.
    failures_of_initialize: u32,
    /// How long to wait before it is called again.
    pause: Duration,
    batches: u64,
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
                ConsumerState::StoringEnd => self.store_end().await,
                ConsumerState::Draining => self.drain().await,
                ConsumerState::Leaving => self.leave().await,
                ConsumerState::Losing => self.lose().await,
                ConsumerState::Done(end) => return end,
            };
            let Some(next) = transition(state, event) else {
                tracing::error!(lease = %self.own.key, %state, ?event, "a consumer met an event that its state does not know");
                debug_assert!(false, "{event:?} in {state}");
                return ConsumerEnd::Expires;
            };
            if !matches!(
                next,
                ConsumerState::Running | ConsumerState::Initializing | ConsumerState::Holding
            ) {
                self.fetched = None;
            }
            if next != state && matches!(state, ConsumerState::Holding) {
                self.own.services.metrics.hold_ends();
            }
            if next != state && matches!(next, ConsumerState::Holding) {
                self.own.services.metrics.hold_begins();
            }
            state = next;
        }
    }

    /// A child begins when each of its parents is finished: ended, or gone from the table because it was finished long ago.
    async fn await_parents(&mut self) -> ConsumerEvent {
        let row = self.own.row();
        let needed = match () {
            () if mutant::active(Mutant::NoParentWait) => 0,
            () if mutant::active(Mutant::OneParentIsEnough) => 1,
            () => row.parents.len(),
        };
        for parent in row.parents.iter().take(needed) {
            let key = row.key_of_sibling(parent);
            loop {
                match self.own.services.lanes.read(&key).await {
                    Ok(row) if Lease::is_finished(row.as_ref()) => break,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(lease = %key, error = %Causes(&error), "cannot read the parent's row")
                    }
                }
                self.waits(WaitReason::Parents);
                if let Some(event) = self
                    .pause_for(self.own.services.settings.parent_poll_interval)
                    .await
                {
                    return event;
                }
            }
        }
        self.goes_on();
        ConsumerEvent::ParentsFinished
    }

    async fn initialize(&mut self) -> ConsumerEvent {
        if let Some(event) = self.pause_after_failure().await {
            return event;
        }
        self.waits(WaitReason::Initialize);
        let called = tokio::select! {
            biased;
            interrupt = self.own.control.interrupted() => Err(interrupt),
            called = self.delivery.initialize() => Ok(called),
        };
        match called {
            Err(interrupt) => self.interrupted(interrupt),
            Ok(Ok(wish)) => {
                self.wish = wish;
                self.failures_of_initialize = 0;
                self.show_failures();
                self.goes_on();
                tracing::info!(lease = %self.own.key, token = %self.own.token(), checkpoint = %self.own.row().checkpoint, "shard started");
                ConsumerEvent::CallReturned
            }
            Ok(Err(failure)) => {
                self.failures_of_initialize = self.failures_of_initialize.saturating_add(1);
                self.failed("initialize", self.failures_of_initialize, failure, 0)
            }
        }
    }

    /// Takes batch after batch to the processor, until something else is to be done.
    async fn run(&mut self) -> ConsumerEvent {
        self.own.progress.wants_records(self.now());
        self.own.show_waiting();
        loop {
            let (id, batch) = match self.waiting.take() {
                Some(waiting) => waiting,
                None => match self.next_batch().await {
                    Ok(next) => next,
                    Err(event) => return event,
                },
            };
            if let Some(event) = self.until_free().await {
                self.waiting = Some((id, batch));
                return event;
            }
            if let Some(event) = self.offer(id, batch).await {
                return event;
            }
        }
    }

    async fn next_batch(&mut self) -> Result<(BatchId, RecordBatch), ConsumerEvent> {
        loop {
            if let Some(event) = self.meet_unreadable() {
                return Err(event);
            }
            if self.end.is_some() {
                return Err(ConsumerEvent::Exhausted);
            }
            let own = Arc::clone(&self.own);
            let fetched = match &mut self.fetched {
                Some(fetched) => fetched,
                None => {
                    let start = self.start();
                    self.fetched.insert(start_fetching(&own, start))
                }
            };
            let next = tokio::select! {
                biased;
                interrupt = own.control.interrupted() => return Err(self.interrupted(interrupt)),
                next = fetched.recv() => next,
            };
            match next {
                Some(Fetched {
                    records,
                    behind,
                    end,
                    unreadable,
                }) => {
                    self.broken_fetchers = 0;
                    self.end = end;
                    self.unreadable = unreadable;
                    let is_last = self.end.is_some() && mutant::active(Mutant::EndBeforeLastRecords);
                    if records.is_empty() || is_last {
                        continue;
                    }
                    own.with_backlog(Backlog::taken);
                    let records = Arc::new(records);
                    let id = own.deliver(Arc::clone(&records));
                    return Ok((id, RecordBatch::new(records, behind, own)));
                }
                // The fetcher broke: begin again where the last delivered record ended.
                None => {
                    self.fetched = None;
                    self.broken_fetchers = self.broken_fetchers.saturating_add(1);
                    own.services.board.update_lease(&own.key, |status| {
                        status.trouble = Some(SourceErrorKind::Unavailable);
                    });
                    let pause = backoff(FETCHER_PAUSE, LONGEST_FETCHER_PAUSE, self.broken_fetchers);
                    if let Some(event) = self.pause_for(pause).await {
                        return Err(event);
                    }
                }
            }
        }
    }

    /// All before a record that cannot be read is finished: the policy decides, as if the user's code had failed on it.
    fn meet_unreadable(&mut self) -> Option<ConsumerEvent> {
        let (unreadable, _) = self.unreadable.as_ref()?;
        let Unreadable {
            position,
            why,
            record,
        } = unreadable.clone();
        let at = position.clone();
        let board = &self.own.services.board;
        board.update_lease(&self.own.key, |status| status.unreadable = Some(at));
        self.failures = self.failures.saturating_add(1);
        let failure = CallFailure {
            kind: FailureKind::Unreadable,
            position: Some(position),
            record: Some(record),
            message: why,
        };
        Some(self.failed("unpack", self.failures, failure, 1))
    }

    /// Where to read on: after what was delivered in this ownership, or where the ownership begins.
    fn start(&self) -> Start {
        if let Some(last) = self.own.last_delivered() {
            return Start::after_delivered(last);
        }
        let configured = self.own.services.settings.initial_position;
        let configured = self.own.stream.initial_position.unwrap_or(configured);
        let mut start = start_of(&self.own.row(), &self.wish, configured);
        if let (StartPosition::Latest, Some(begun)) = (&start.position, self.own.begun()) {
            start.position = StartPosition::AtSequence(begun);
        }
        start
    }

    /// Waits while the shard is paused, and then until the lease is live.
    async fn until_free(&mut self) -> Option<ConsumerEvent> {
        let own = Arc::clone(&self.own);
        let interrupt = tokio::select! {
            biased;
            interrupt = own.control.interrupted() => Some(interrupt),
            () = own.until_free(false, |reason| own.consumer_waits(reason)) => None,
        };
        match interrupt {
            Some(interrupt) => Some(self.interrupted(interrupt)),
            None => self.until_live().await,
        }
    }

    /// Waits while the lease is suspended: no batch starts under a lease that somebody else may be given.
    async fn until_live(&mut self) -> Option<ConsumerEvent> {
        loop {
            if let Some(interrupt) = self.own.control.interrupt() {
                return Some(self.interrupted(interrupt));
            }
            match self.own.verdict() {
                HoldVerdict::GoOn { .. } => return None,
                HoldVerdict::Suspended | HoldVerdict::Lost => self.waits(WaitReason::Suspended),
            }
            let pause = self.own.services.settings.failover_time / 50;
            if let Some(event) = self.pause_for(pause).await {
                return Some(event);
            }
        }
    }

    /// Offers one batch; `None` when it is finished and the next may come.
    async fn offer(&mut self, id: BatchId, batch: RecordBatch) -> Option<ConsumerEvent> {
        self.own.check_start();
        self.waits(WaitReason::Callback);
        let begun = self.now();
        self.batches += 1;
        let span = tracing::debug_span!("batch", n = self.batches, records = batch.len());
        let offered = {
            let _callback = self.own.enter_callback();
            tokio::select! {
                biased;
                () = self.own.control.aborted() => return Some(ConsumerEvent::Aborted),
                offered = self.delivery.offer(batch.clone()).instrument(span) => offered,
            }
        };
        self.goes_on();
        match offered {
            Ok(()) => {
                self.finished(id, &batch, self.now().saturating_since(begun));
                None
            }
            Err(_) if mutant::active(Mutant::BatchDroppedOnError) => {
                self.finished(id, &batch, Duration::ZERO);
                None
            }
            Err(mut failure) => {
                let (index, rest) = self.after_failure(&batch, &failure);
                failure.record = index.and_then(|index| batch.get(index).cloned()).map(Box::new);
                self.failures = self.failures.saturating_add(1);
                let event = self.failed("process_records", self.failures, failure, batch.len());
                self.waiting = (event == ConsumerEvent::CallFailed).then_some((id, rest));
                Some(event)
            }
        }
    }

    fn finished(&mut self, id: BatchId, batch: &RecordBatch, took: Duration) {
        let services = &self.own.services;
        match services.settings.checkpointing {
            Checkpointing::Automatic => self.own.finish_batch(id),
            // Whoever checkpoints rarely must not fill the memory with what is processed.
            Checkpointing::Manual => self.own.release_batch(id),
        }
        self.failures = 0;
        self.own.with_backlog(Backlog::finished);
        let records = batch.len() as u64;
        self.own.processed(batch.payload_bytes());
        services
            .metrics
            .batch_processed(records, batch.payload_bytes(), took);
        services.board.update_lease(&self.own.key, |status| {
            status.processed = batch.last().map(|record| record.position().clone());
            status.records += records;
            status.failures = 0;
            status.unreadable = None;
        });
    }

    /// The part of the batch that is to be tried again: from the record that failed, where the processor said which.
    /// With the index of that record.
    fn after_failure(&self, batch: &RecordBatch, failure: &CallFailure) -> (Option<usize>, RecordBatch) {
        let failed = failure.position.as_ref();
        let at = failed.and_then(|failed| {
            batch
                .binary_search_by(|record| record.position().cmp(failed))
                .ok()
        });
        let skipped = usize::from(mutant::active(Mutant::SkipOnError));
        let index = (at.unwrap_or(0) + skipped).min(batch.len());
        if self.own.services.settings.checkpointing == Checkpointing::Automatic
            && let Some(last_good) = index.checked_sub(1).and_then(|index| batch.get(index))
        {
            self.own.finish_through(last_good.position());
        }
        (at, batch.starting_at(index))
    }

    /// Asks the policy what to do about a failure of the user's code.
    fn failed(
        &mut self,
        call: &'static str,
        attempt: u32,
        failure: CallFailure,
        records: usize,
    ) -> ConsumerEvent {
        let services = &self.own.services;
        let panicked = failure.kind == FailureKind::Panic;
        let CallFailure {
            kind,
            position,
            record,
            message,
        } = failure;
        if call == "process_records" {
            services.metrics.batch_failed(panicked);
        }
        let at = position.as_ref().map(ToString::to_string);
        if attempt.is_power_of_two() && kind == FailureKind::Unreadable {
            tracing::warn!(lease = %self.own.key, attempt, at, error = message, "a record cannot be read; the shard is held");
        } else if attempt.is_power_of_two() {
            tracing::warn!(lease = %self.own.key, call, attempt, panicked, at, error = message, "the processor failed; the shard is held");
        }
        let failure = Failure {
            attempt,
            kind,
            position,
            record: record.map(|record| *record),
            records,
        };
        let Decision::Retry { after } = decide(services.policy.as_ref(), &failure);
        self.pause = after;
        self.show_failures();
        if panicked {
            // The new processor begins at the stored checkpoint; what this one was given counts as not delivered.
            if !mutant::active(Mutant::BatchDroppedOnPanic) {
                self.own.forget_delivered();
            }
            self.waiting = None;
            self.fetched = None;
            self.unreadable = None;
            self.end = None;
            ConsumerEvent::Panicked
        } else {
            ConsumerEvent::CallFailed
        }
    }

    async fn hold(&mut self) -> ConsumerEvent {
        self.waits(WaitReason::Hold);
        let pause = match mutant::active(Mutant::NoRetry) {
            true => Duration::from_secs(1 << 30),
            false => std::mem::take(&mut self.pause),
        };
        match self.pause_for(pause).await {
            Some(ConsumerEvent::ReopenRequested) | None => ConsumerEvent::RetryDue,
            Some(event) => event,
        }
    }

    async fn end_shard(&mut self) -> ConsumerEvent {
        if let Some(event) = self.pause_after_failure().await {
            return event;
        }
        self.waits(WaitReason::Callback);
        // With manual checkpoints the user's code may still be busy with records it was given; that it returns from
        // this call is its word that it is not.
        let ended = {
            let _callback = self.own.enter_callback();
            tokio::select! {
                biased;
                interrupt = self.own.control.lost_or_aborted() => Err(interrupt),
                ended = self.delivery.end() => Ok(ended),
            }
        };
        match ended {
            Err(interrupt) => self.interrupted(interrupt),
            Ok(Ok(())) => ConsumerEvent::CallReturned,
            Ok(Err(failure)) => {
                self.failures = self.failures.saturating_add(1);
                self.failed("shard_ended", self.failures, failure, 0)
            }
        }
    }

    async fn store_end(&mut self) -> ConsumerEvent {
        self.waits(WaitReason::Draining);
        let end = self.end.clone().unwrap_or_default();
        let own = Arc::clone(&self.own);
        let ending = Arc::clone(&own);
        let name = format!("ending {}", own.key);
        let scope = &own.services.scope;
        let stored = scope.run_at(Place::Coordination, name, async move {
            store_end(&ending, &end).await
        });
        tokio::select! {
            biased;
            interrupt = own.control.lost_or_aborted() => self.interrupted(interrupt),
            event = stored => event,
        }
    }

    async fn drain(&mut self) -> ConsumerEvent {
        self.waits(WaitReason::Draining);
        // Not a callback during which a handoff may be declined: a processor that was told to finish is not given more.
        let drained = tokio::select! {
            biased;
            interrupt = self.own.control.lost_or_aborted() => Err(interrupt),
            drained = self.delivery.drain() => Ok(drained),
        };
        match drained {
            Err(interrupt) => self.interrupted(interrupt),
            Ok(Ok(())) => ConsumerEvent::CallReturned,
            Ok(Err(failure)) => {
                tracing::warn!(lease = %self.own.key, error = failure.message, "shutdown_requested failed");
                ConsumerEvent::CallFailed
            }
        }
    }

    /// Stores the last checkpoint, then hands the lease over or releases it; the keeper renews until that is done.
    async fn leave(&mut self) -> ConsumerEvent {
        self.waits(WaitReason::Draining);
        let own = Arc::clone(&self.own);
        let leaving = Arc::clone(&own);
        let name = format!("leaving {}", own.key);
        let scope = &own.services.scope;
        let given_up = scope.run_at(Place::Coordination, name, async move { give_up(&leaving).await });
        tokio::select! {
            biased;
            // The worker waits no longer.
            () = own.control.finished() => ConsumerEvent::Aborted,
            event = given_up => event,
        }
    }

    async fn lose(&mut self) -> ConsumerEvent {
        self.waits(WaitReason::Draining);
        tokio::select! {
            biased;
            () = self.own.control.aborted() => ConsumerEvent::Aborted,
            lost = self.delivery.lose() => match lost {
                Ok(()) => ConsumerEvent::CallReturned,
                Err(failure) => {
                    tracing::warn!(lease = %self.own.key, error = failure.message, "lease_lost failed");
                    ConsumerEvent::Panicked
                }
            },
        }
    }

    /// Waits as long as the policy said, if a call has failed before.
    async fn pause_after_failure(&mut self) -> Option<ConsumerEvent> {
        let pause = std::mem::take(&mut self.pause);
        if pause.is_zero() {
            return None;
        }
        self.waits(WaitReason::Hold);
        self.pause_for(pause).await
    }

    /// Sleeps, unless something else is to be done.
    async fn pause_for(&mut self, pause: Duration) -> Option<ConsumerEvent> {
        let interrupt = tokio::select! {
            biased;
            interrupt = self.own.control.interrupted() => Some(interrupt),
            () = self.own.services.clock.sleep(pause) => None,
        };
        interrupt.map(|interrupt| self.interrupted(interrupt))
    }

    fn interrupted(&mut self, interrupt: Interrupt) -> ConsumerEvent {
        match interrupt {
            Interrupt::Abort => ConsumerEvent::Aborted,
            Interrupt::Lost => ConsumerEvent::LeaseLost,
            Interrupt::Drain => ConsumerEvent::DrainRequested,
            Interrupt::Reopen => {
                self.fetched = None;
                self.own.control.reopened();
                self.own.progress.begins_anew(self.now());
                ConsumerEvent::ReopenRequested
            }
        }
    }

    fn show_failures(&self) {
        let failures = self.failures.max(self.failures_of_initialize);
        self.own
            .services
            .board
            .update_lease(&self.own.key, |status| status.failures = failures);
    }

    fn show(&self, state: ConsumerState) {
        self.own
            .services
            .board
            .update_lease(&self.own.key, |status| status.state = state);
    }

    /// Says what the consumer waits for: to its keeper, which renews the lease on that word, and to whoever watches.
    fn waits(&self, reason: WaitReason) {
        self.own.consumer_waits(reason);
    }

    fn goes_on(&self) {
        self.own.progress.goes_on(self.now());
        self.own.show_waiting();
    }

    fn now(&self) -> crate::time::Moment {
        self.own.services.clock.now()
    }
}

/// How long to wait before a fetcher that broke is replaced: longer each time until something was fetched.
const FETCHER_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_FETCHER_PAUSE: Duration = Duration::from_secs(5);
