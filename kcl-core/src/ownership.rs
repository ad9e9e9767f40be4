pub(crate) mod assignment_hints;
pub(crate) mod backlog;
pub(crate) mod checkpoint_tracker;
pub(crate) mod checkpoints;
pub(crate) mod control;
pub(crate) mod held_leases;
pub(crate) mod lease_state;
pub(crate) mod progress;
pub(crate) mod release;
pub(crate) mod renewer;
pub(crate) mod throughput;
pub(crate) mod validity;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{Instrument as _, Span};

use crate::invariant::{Invariant, Violation};
use crate::lease::change::{Expect, LeaseChange};
use crate::lease::client::StoreClient;
use crate::lease::resolve::{Refusal, judge_refusal};
use crate::lease::row::{Lease, RowFacts};
use crate::lease::scanner::TableScanner;
use crate::lease::store::{Certainty, Outcome, StoreError, StoreErrorKind};
use crate::limits::byte_budget::ByteBudget;
use crate::limits::flow_control::{Blocked as HeldBack, FlowControl, FlowScope};
use crate::metrics::Metrics;
use crate::ownership::assignment_hints::AssignmentHints;
use crate::ownership::backlog::LagTracker;
use crate::ownership::checkpoint_tracker::CheckpointTracker;
use crate::ownership::control::{Control, DrainReason};
use crate::ownership::lease_state::{LeaseState, NextWrite};
use crate::ownership::progress::Progress;
use crate::ownership::throughput::ThroughputEma;
use crate::ownership::validity::{LeaseValidity, Validity, judge_validity};
use crate::processor::{ErrorPolicy, FencingToken, RecordProcessorFactory, ShardContext};
use crate::runtime::clock::{Clock, Moment};
use crate::runtime::failpoint::failpoint;
use crate::runtime::rng::Rng;
use crate::runtime::stall_probe::{CallbackThread, StallProbe};
use crate::runtime::task_scope::TaskScope;
use crate::settings::Settings;
use crate::settings::timing::Timing;
use crate::status::{StatusSource, WaitReason};
use crate::streams::registry::{OpenStream, Streams};
use crate::types::{ApplicationName, LeaseKey, RecordPosition, SequenceNumber, WorkerId};

/// The parts that every consumer of a worker uses.
pub(crate) struct WorkerContext {
    pub(crate) application: ApplicationName,
    pub(crate) worker: WorkerId,
    pub(crate) settings: Settings,
    pub(crate) timing: Timing,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Rng,
    pub(crate) streams: Arc<Streams>,
    pub(crate) store_client: StoreClient,
    pub(crate) scope: TaskScope,
    pub(crate) factory: Arc<dyn RecordProcessorFactory>,
    pub(crate) policy: Arc<dyn ErrorPolicy>,
    pub(crate) metrics: Metrics,
    pub(crate) status: StatusSource,
    pub(crate) scanner: Arc<TableScanner>,
    pub(crate) assignment_hints: Arc<AssignmentHints>,
    pub(crate) budget: Arc<ByteBudget>,
    pub(crate) flow_control: Arc<FlowControl>,
    /// Set when leases may have become available. Only the planner waits for it, and one that plans just now finds it set when it is done:
    /// it keeps one event, and more are not needed to plan once more.
    pub(crate) plan_now: Arc<Notify>,
    /// Whether the runtime runs that the consumers live on.
    pub(crate) stall_probe: Arc<StallProbe>,
}

impl WorkerContext {
    /// Makes known what this worker has seen of itself that must never be. It goes on: each write is conditioned even so.
    pub(crate) fn report(&self, seen: Result<(), Violation>) {
        if let Err(violation) = seen {
            self.metrics.invariant_broken(violation.invariant.place());
            tracing::error!(
                invariant = violation.invariant.id(),
                seen = violation.message,
                "an invariant is broken: this is a bug"
            );
        }
    }
}

/// One ownership of one lease: from the renewal that began it until it is lost or given up.
pub(crate) struct Ownership {
    pub(crate) worker: Arc<WorkerContext>,
    /// The stream of the shard.
    pub(crate) stream: Arc<OpenStream>,
    pub(crate) key: LeaseKey,
    pub(crate) context: ShardContext,
    /// The fields of every log line about the shard: the lease, the token, and the worker around them. It is entered by the tasks of the lease, so
    /// that their lines name neither; user code that checkpoints may run outside.
    pub(crate) span: Span,
    /// Where pauses and rates for the shard may be set.
    pub(crate) scopes: Vec<FlowScope>,
    pub(crate) control: Control,
    pub(crate) progress: Progress,
    /// Set when there may be something to store. Only the renewer waits for it, and one that stores just now finds it set when it is done.
    pub(crate) dirty: Notify,
    /// Set when more is finished. Only the consumer waits for it.
    pub(crate) finished_more: Notify,
    /// Whether a user callback runs: a handoff may be declined only then.
    pub(crate) in_callback: AtomicBool,
    /// Whether it was said that user records belong to another shard, and that one has an explicit hash key that is none.
    pub(crate) said_outside: AtomicBool,
    pub(crate) said_invalid_hash_key: AtomicBool,
    /// When its callbacks have a thread, which they may block.
    pub(crate) on_thread: Arc<CallbackThread>,
    state: Mutex<OwnershipState>,
    pub(crate) backlog: Mutex<LagTracker>,
}

pub(crate) struct OwnershipState {
    known: LeaseState,
    validity: LeaseValidity,
    /// Since when no batch may start, if none may.
    suspended: Option<Moment>,
    /// Whether a write that gives the lease up was sent.
    giving_up: bool,
    stored_at: Moment,
    pub(crate) tracker: CheckpointTracker,
    /// The first record that came, where reading began without a checkpoint.
    begun_at: Option<SequenceNumber>,
    /// Since when no record has come.
    idle_since: Moment,
    throughput_ema: ThroughputEma,
}

/// The fate of a write of the owner.
#[derive(Debug)]
pub(crate) enum WriteResult {
    /// The row is as wanted, and this is it.
    Applied(Box<Lease>),
    /// An earlier write of this owner, whose reply it did not wait for, gave the lease up; this is the row.
    GivenUp(Box<Lease>),
    /// Another worker has the lease.
    Lost,
    /// It is not known, or did not happen. The owner may still have the lease.
    Failed(StoreError),
}

impl Ownership {
    /// The ownership that began with a renewal sent at `renewed`, which returned this row.
    pub(crate) fn begin(
        worker: Arc<WorkerContext>,
        stream: Arc<OpenStream>,
        row: Lease,
        renewed: Moment,
    ) -> Arc<Self> {
        let now = worker.clock.now();
        let throughput_ema = ThroughputEma::new(row.throughput, worker.timing.renewal, now);
        let early = u64::from(failpoint!(TokenNotRaised));
        let token = FencingToken::new(row.counter - early);
        let context = ShardContext::of_lease(
            worker.application.clone(),
            worker.worker.clone(),
            (stream.identity.name.clone(), Some(stream.identity.arn.clone())),
            (row.shard.clone(), row.hash_range),
            row.key.clone(),
            token,
        );
        let validity = LeaseValidity {
            renewed,
            refused: false,
        };
        context.set_valid_until(validity.until(worker.timing.validity));
        let mut scopes = vec![FlowScope::Worker, FlowScope::Shard(row.key.clone())];
        scopes.push(FlowScope::Stream(stream.source.name().to_owned()));
        if stream.source.address() != stream.source.name() {
            scopes.push(FlowScope::Stream(stream.source.address().to_owned()));
        }
        // Of the highest level, so that its fields are there whatever level is logged.
        let span = tracing::error_span!("shard", lease = %row.key, token = %token);
        Arc::new(Self {
            stream,
            key: row.key.clone(),
            context,
            span,
            scopes,
            control: Control::default(),
            progress: Progress::new(now),
            dirty: Notify::new(),
            finished_more: Notify::new(),
            in_callback: AtomicBool::new(false),
            said_outside: AtomicBool::new(false),
            said_invalid_hash_key: AtomicBool::new(false),
            on_thread: Arc::default(),
            state: Mutex::new(OwnershipState {
                known: LeaseState::new(row),
                validity,
                suspended: None,
                giving_up: false,
                stored_at: now,
                tracker: CheckpointTracker::default(),
                begun_at: None,
                idle_since: now,
                throughput_ema,
            }),
            backlog: Mutex::new(LagTracker::new(now)),
            worker,
        })
    }

    /// The facts that a renewal of this row should fill in.
    pub(crate) fn missing_facts(&self) -> RowFacts {
        let failover = self.worker.timing.failover;
        RowFacts::missing(self.lock().known.row(), &self.stream.identity, failover)
    }

    /// The row as the last applied write returned it.
    pub(crate) fn row(&self) -> Lease {
        self.lock().known.row().clone()
    }

    pub(crate) fn token(&self) -> FencingToken {
        self.context.fencing_token()
    }

    /// From when the last applied write counts, and when the last checkpoint was stored.
    pub(crate) fn written(&self) -> (Moment, Moment) {
        let state = self.lock();
        (state.validity.renewed, state.stored_at)
    }

    /// The validity of the lease now, by the owner's own clock.
    pub(crate) fn verdict(&self) -> Validity {
        let now = self.worker.clock.now();
        let mut state = self.lock();
        let verdict = judge_validity(state.validity, now, self.worker.timing.validity);
        if verdict == Validity::Suspended && state.suspended.is_none() {
            state.suspended = Some(now);
            drop(state);
            self.show_suspended();
            self.worker.metrics.lease_suspended();
            tracing::warn!(parent: &self.span, "the lease could not be renewed in time: no batch starts until it is");
        }
        verdict
    }

    /// The position that is finished and not stored yet.
    pub(crate) fn unstored(&self) -> Option<RecordPosition> {
        let state = self.lock();
        let done = match failpoint!(CheckpointBeforeFinish) {
            true => state.tracker.last_delivered(),
            false => state.tracker.finished(),
        };
        done.filter(|done| !state.known.row().checkpoint.covers(done))
            .cloned()
    }

    /// The last record that was handed to the processor in this ownership.
    pub(crate) fn last_delivered(&self) -> Option<RecordPosition> {
        self.lock().tracker.last_delivered().cloned()
    }

    /// The first record that came when the shard was opened without a checkpoint.
    pub(crate) fn begun_at(&self, first: &SequenceNumber) {
        self.lock().begun_at.get_or_insert_with(|| first.detached());
    }

    /// Where the shard was started, if it was opened without a checkpoint and has brought records: to open it at its newest again would skip them,
    /// and to open it at its oldest would not show what retention took since.
    pub(crate) fn begun(&self) -> Option<SequenceNumber> {
        self.lock().begun_at.clone()
    }

    /// The processor begins at another place.
    pub(crate) fn forget_begun(&self) {
        self.lock().begun_at = None;
    }

    /// The source brought records.
    pub(crate) fn brought_records(&self, now: Moment) {
        self.lock().idle_since = now;
    }

    /// Nothing was asked of the source for so long, which says nothing about the shard.
    pub(crate) fn held_up(&self, time: Duration) {
        let mut state = self.lock();
        state.idle_since = state.idle_since + time;
    }

    /// Since when the source has brought no record, however often the shard was opened. Times without a request do not count.
    pub(crate) fn idle_since(&self) -> Moment {
        self.lock().idle_since
    }

    /// A batch is about to be handed to the processor: nobody else may have been given the lease by now.
    pub(crate) fn check_start(&self) {
        let (now, (renewed, _)) = (self.worker.clock.now(), self.written());
        // An owner that gave the lease up, or learned that it is lost, stamps nothing; the margin is for the way from the decision here.
        let in_time =
            Invariant::NoStartAfterDeadline.check(now < renewed + self.worker.timing.failover, || {
                format!(
                    "a batch of {} starts at {now:?}, and the lease was renewed at {renewed:?}",
                    self.key
                )
            });
        self.worker.report(in_time);
    }

    /// Whether reading is neither paused nor ahead of its rate.
    pub(crate) fn is_free(&self) -> bool {
        let worker = &self.worker;
        worker
            .flow_control
            .hold(&self.scopes, worker.clock.now())
            .is_none()
    }

    /// Waits until reading is neither paused nor ahead of its rate. `shown` says what is waited for; nothing is said where there is no wait.
    pub(crate) async fn until_free(&self, heeds_rate: bool, shown: impl Fn(WaitReason)) {
        let worker = &self.worker;
        loop {
            let changed = worker.flow_control.changed();
            match worker.flow_control.hold(&self.scopes, worker.clock.now()) {
                Some(HeldBack::Paused) => {
                    shown(WaitReason::Paused);
                    changed.await;
                }
                Some(HeldBack::Until(until)) if heeds_rate => {
                    shown(WaitReason::RateLimit);
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = worker.clock.sleep_until(until) => {}
                    }
                }
                Some(HeldBack::Until(_)) | None => return,
            }
        }
    }

    /// The consumer begins to wait for this, or keeps waiting.
    pub(crate) fn consumer_waits(&self, reason: WaitReason) {
        self.progress.waits(reason, self.worker.clock.now());
        self.show_waiting();
    }

    /// The fetcher begins to wait for this, or keeps waiting.
    pub(crate) fn fetcher_waits(&self, reason: WaitReason) {
        self.progress.fetcher_waits(reason, self.worker.clock.now());
        self.show_waiting();
    }

    /// The fetcher waits for nothing any more.
    pub(crate) fn fetcher_goes_on(&self) {
        self.progress.fetcher_goes_on(self.worker.clock.now());
        self.show_waiting();
    }

    /// Shows what the consumer waits for to whoever watches.
    pub(crate) fn show_waiting(&self) {
        // Read while nobody else writes the status: of two who change something, the last to show it shows both.
        let waiting = || self.progress.activity().waiting;
        self.worker.status.update_waiting(&self.key, waiting);
    }

    fn show_suspended(&self) {
        let suspended = || self.lock().suspended;
        self.worker
            .status
            .update_lease(&self.key, |status| status.suspended = suspended());
    }

    /// Notes that so many bytes of payload were processed.
    pub(crate) fn processed(&self, bytes: u64) {
        self.lock().throughput_ema.add(bytes);
    }

    /// The throughput to store with a renewal or a checkpoint, in KiB/s.
    pub(crate) fn throughput(&self) -> Option<f64> {
        let now = self.worker.clock.now();
        self.lock().throughput_ema.read(now)
    }

    /// Makes one of the owner's changes, on the newest row that the owner knows.
    ///
    /// A refusal that shows only a newly started handoff, or an earlier write of our own that landed late, is adopted and the
    /// change made again.
    pub(crate) async fn write(&self, change: LeaseChange) -> WriteResult {
        self.try_to_write(change).instrument(self.span.clone()).await
    }

    async fn try_to_write(&self, change: LeaseChange) -> WriteResult {
        if let LeaseChange::End { .. } | LeaseChange::Release | LeaseChange::CompleteHandoff = change {
            self.lock().giving_up = true;
        }
        // Each round adopts something new, and there are only those two things to adopt.
        for _ in 0..4 {
            let sent = self.worker.clock.now();
            let next = self.lock().known.next(&change, &self.worker.worker, sent);
            let (before, since) = match next {
                NextWrite::Write { before, since } => (before, since),
                NextWrite::Stored(row) => return WriteResult::Applied(Box::new(row)),
                NextWrite::GivenUp(row) => return WriteResult::GivenUp(Box::new(row)),
            };
            let expect = Expect::Version(before.version());
            let outcome = self
                .worker
                .store_client
                .change(&self.key, Some(&before), expect.clone(), change.clone())
                .await;
            match outcome {
                Ok(Outcome::Applied(row)) => {
                    self.applied(&row, &change, since);
                    return WriteResult::Applied(row);
                }
                Ok(Outcome::Refused { current }) => {
                    let refusal = current
                        .as_deref()
                        .map_or(Refusal::Lost, |row| self.judge(row, &before, &expect, &change));
                    match (refusal, current) {
                        (Refusal::Adopt, Some(row)) => {
                            self.observe(&mut self.lock(), *row);
                        }
                        // Another task's write of the same ownership was answered while this one waited for its turn.
                        _ if self.row().version() != before.version() => {}
                        (Refusal::GaveUp, Some(row)) => {
                            let mut state = self.lock();
                            state.validity.refused = true;
                            self.observe(&mut state, (*row).clone());
                            drop(state);
                            self.context.set_valid_until(Moment::ZERO);
                            return WriteResult::GivenUp(row);
                        }
                        _ if failpoint!(RefusalIsSuccess) => {
                            self.applied(&before, &change, sent);
                            return WriteResult::Applied(Box::new(before));
                        }
                        (_, current) => {
                            self.lost(current.as_deref());
                            return WriteResult::Lost;
                        }
                    }
                }
                Err(error) => {
                    if error.certainty() == Certainty::Definite {
                        self.lock().known.did_not_happen(&before);
                    }
                    return WriteResult::Failed(error);
                }
            }
        }
        WriteResult::Failed(StoreError::unknown(
            StoreErrorKind::Unavailable,
            format!("the lease {} changes faster than it can be followed", self.key),
        ))
    }

    /// Notes what a reply showed, and wakes the renewer when a handoff begins or ends. Returns `true` if it was new.
    fn observe(&self, state: &mut OwnershipState, row: Lease) -> bool {
        let was_in_handoff = state.known.row().is_in_handoff();
        let is_news = state.known.observe(row);
        if state.known.row().is_in_handoff() != was_in_handoff {
            self.dirty.notify_one();
        }
        is_news
    }

    fn judge(&self, row: &Lease, before: &Lease, expect: &Expect, change: &LeaseChange) -> Refusal {
        let incarnation = self.worker.store_client.incarnation();
        let giving_up = self.lock().giving_up;
        judge_refusal(
            row,
            before,
            expect,
            change,
            &self.worker.worker,
            incarnation,
            giving_up,
        )
    }

    fn applied(&self, row: &Lease, change: &LeaseChange, sent: Moment) {
        let mut state = self.lock();
        let sent = match failpoint!(DeadlineFromReply) {
            true => self.worker.clock.now(),
            false => sent,
        };
        state.validity.renewed = state.validity.renewed.max(sent);
        let known = state.known.row();
        let (from, to) = (&known.checkpoint, &row.checkpoint);
        let rises = Invariant::CheckpointRises.check(from <= to || known.counter >= row.counter, || {
            format!("the checkpoint of {} goes from {from} to {to}", self.key)
        });
        self.worker.report(rises);
        if !self.observe(&mut state, row.clone()) {
            return;
        }
        // Given up: a renewal that was under way meanwhile is refused, and that is no loss.
        state.validity.refused |= row.actual_owner() != Some(&self.worker.worker);
        let until = match state.validity.refused {
            true => Moment::ZERO,
            false => state.validity.until(self.worker.timing.validity),
        };
        self.context.set_valid_until(until);
        if let LeaseChange::Checkpoint { .. } | LeaseChange::End { .. } = change {
            state.stored_at = sent;
        }
        // What landed late may be too old to go on with.
        let was_suspended = self.worker.clock.now() < until && state.suspended.take().is_some();
        drop(state);
        if was_suspended {
            self.show_suspended();
            tracing::info!(parent: &self.span, "the lease is renewed again");
        }
        self.worker
            .status
            .update_lease(&self.key, |status| status.checkpoint = row.checkpoint.clone());
    }

    /// Another worker has the lease: nothing of this ownership is written any more.
    pub(crate) fn lost(&self, now_held_by: Option<&Lease>) {
        let already = std::mem::replace(&mut self.lock().validity.refused, true);
        if already {
            return;
        }
        self.context.set_valid_until(Moment::ZERO);
        let to = now_held_by.and_then(Lease::actual_owner).map(ToString::to_string);
        let counter = now_held_by.map(|row| row.counter);
        tracing::info!(parent: &self.span, from = %self.worker.worker, to, counter, reason = "refused", "lease lost");
        self.worker.metrics.lease_lost();
        self.context.cancelled().cancel();
        self.control.lose();
    }

    /// The lease is to be given up: the consumer is informed, and a callback that runs.
    pub(crate) fn drain(&self, reason: DrainReason) {
        self.control.drain(reason);
        self.context.begin_drain();
    }

    /// The handoff is off: the consumer goes on, unless it must give the lease up for another reason.
    pub(crate) fn withdraw_handoff(&self) {
        self.control.withdraw_handoff();
        if self.control.drain_reason().is_none() {
            self.context.end_drain();
            // Another reason may have come in between.
            if self.control.drain_reason().is_some() {
                self.context.begin_drain();
            }
        }
    }

    /// Marks the time in which a user callback runs.
    pub(crate) fn enter_callback(&self) -> CallbackGuard<'_> {
        self.in_callback.store(true, Ordering::Release);
        CallbackGuard(&self.in_callback)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, OwnershipState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A callback runs until this is dropped.
pub(crate) struct CallbackGuard<'a>(&'a AtomicBool);

impl Drop for CallbackGuard<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ownership")
            .field("lease", &self.key)
            .field("token", &self.token())
            .finish_non_exhaustive()
    }
}
