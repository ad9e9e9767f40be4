//! The writes of the owner on its row, and what their outcomes mean.
//!
//! A checkpoint is stored by the renewer (what is finished, with the renewal or before it), by a checkpoint of user code (`checkpoints`),
//! before the lease is given up (`release`), and as the end of the shard (`consumer::shard_end`). All of them write here.

use tracing::Instrument as _;

use crate::invariant::Invariant;
use crate::lease::change::{Expect, LeaseChange};
use crate::lease::finished_ahead::FinishedAhead;
use crate::lease::resolve::{Refusal, judge_refusal};
use crate::lease::row::{Lease, OwnerNotes, RowFacts};
use crate::lease::store::{Certainty, Outcome, StoreError, StoreErrorKind};
use crate::ownership::lease_state::NextWrite;
use crate::ownership::report_meter::report;
use crate::ownership::{Ownership, OwnershipState};
use crate::runtime::clock::Moment;
use crate::runtime::failpoint::failpoint;
use crate::settings::Aggregation;
use crate::types::{Position, RecordPosition};

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

/// The facts by which the renewer decides when to write next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WriteTimes {
    /// From when the last applied write counts.
    pub(crate) renewed: Moment,
    /// When the last checkpoint was sent.
    pub(crate) stored: Moment,
    /// Whether something is finished and not stored.
    pub(crate) unstored: bool,
    /// Whether a handoff of the lease is under way; `None` once the row names another owner.
    pub(crate) in_handoff: Option<bool>,
    /// Whether an operator waits for an answer.
    pub(crate) owes_answer: bool,
}

impl OwnershipState {
    /// The position that is finished and not stored yet.
    fn unstored(&self) -> Option<&RecordPosition> {
        let done = match failpoint!(CheckpointBeforeFinish) {
            true => self.tracker.last_delivered(),
            false => self.tracker.finished(),
        };
        done.filter(|done| self.is_to_store(done))
    }

    /// Whether the row does not store the position yet, and storing it leaves no prepared checkpoint behind.
    pub(crate) fn is_to_store(&self, done: &RecordPosition) -> bool {
        !self.is_before_prepared(done) && !self.known.row().checkpoint.covers(done)
    }

    fn is_before_prepared(&self, done: &RecordPosition) -> bool {
        self.prepared.as_ref().is_some_and(|prepared| done < prepared)
    }

    /// Whether the change is a checkpoint that was decided on before another was prepared, which it would discard.
    fn is_kept_back(&self, change: &LeaseChange) -> bool {
        let LeaseChange::Checkpoint { position, .. } = change else {
            return false;
        };
        match position.record() {
            Some(done) => self.is_before_prepared(done),
            None => self.prepared.is_some(),
        }
    }

    /// The records behind a checkpoint that the deliveries of this ownership show as finished.
    fn finished_ahead(&self, base: &Position, is_unpacked: bool) -> Option<FinishedAhead> {
        FinishedAhead::of(base, is_unpacked, self.tracker.behind_prefix())
    }

    /// The position that is finished and not stored yet, with the records that are finished ahead.
    fn checkpoint(&self, is_unpacked: bool) -> Option<(Position, Option<FinishedAhead>)> {
        let position = Position::Record(self.unstored()?.detached());
        let ahead = self
            .inherited
            .with_checkpoint(&position, || self.finished_ahead(&position, is_unpacked));
        Some((position, ahead))
    }

    /// The checkpoint of the row, where other records are finished ahead than the row says.
    fn same_checkpoint(&self, is_unpacked: bool) -> Option<(Position, Option<FinishedAhead>)> {
        let row = self.known.row();
        if self.prepared.is_some() {
            return None;
        }
        let known = || self.finished_ahead(&row.checkpoint, is_unpacked);
        let ahead = self.inherited.change_of(row, known)?;
        Some((row.checkpoint.clone(), ahead))
    }
}

impl Ownership {
    /// The facts by which the renewer decides when to write next.
    pub(crate) fn write_times(&self) -> WriteTimes {
        self.read(|state| {
            let row = state.known.row();
            let is_ours = row.actual_owner() == Some(&self.worker.worker);
            WriteTimes {
                renewed: state.validity.renewed,
                stored: state.stored_at,
                unstored: state.unstored().is_some(),
                in_handoff: is_ours.then(|| row.is_in_handoff()),
                owes_answer: state.obeyed.answer_to(row).is_some(),
            }
        })
    }

    /// The checkpoint to store, where something is finished and not stored yet.
    pub(crate) fn checkpoint(&self) -> Option<LeaseChange> {
        self.checkpoint_of(OwnershipState::checkpoint)
    }

    /// The checkpoint to store with a write that is due anyway: also one that only stores what is finished ahead of the row's.
    pub(crate) fn checkpoint_with_ahead(&self) -> Option<LeaseChange> {
        self.checkpoint_of(|state, is_unpacked| {
            let checkpoint = state.checkpoint(is_unpacked);
            checkpoint.or_else(|| state.same_checkpoint(is_unpacked))
        })
    }

    fn checkpoint_of(
        &self,
        decide: impl FnOnce(&OwnershipState, bool) -> Option<(Position, Option<FinishedAhead>)>,
    ) -> Option<LeaseChange> {
        let is_unpacked = self.is_unpacked();
        let (position, finished_ahead) = self.read(|state| decide(state, is_unpacked))?;
        Some(LeaseChange::Checkpoint {
            position,
            finished_ahead,
            notes: self.notes(),
        })
    }

    /// The owner's words beside its next renewal or checkpoint.
    fn notes(&self) -> OwnerNotes {
        let now = self.worker.clock.now();
        let status = self.status(now);
        let at = self.worker.clock.wall();
        self.with(|state| {
            let behind = status.behind.at(now);
            let pace = state.meter.pace(now, status.records, behind);
            let last_progress = now.saturating_since(state.progress.activity().last_step);
            OwnerNotes {
                throughput: state.throughput_ema.read(now),
                report: Some(Box::new(report(&status, at, now, last_progress, pace))),
                answer: state.obeyed.answer_to(state.known.row()),
            }
        })
    }

    /// Whether aggregated records are unpacked here, so that a position may be that of a record inside of one.
    pub(crate) fn is_unpacked(&self) -> bool {
        self.worker.settings.reading.aggregation != Aggregation::Raw
    }

    /// The renewal to store, with the facts that the row lacks.
    pub(crate) fn renewal(&self) -> LeaseChange {
        let failover = self.worker.timing.failover;
        let notes = self.notes();
        self.read(|state| LeaseChange::Renew {
            notes,
            facts: RowFacts::missing(state.known.row(), &self.stream.identity, failover),
        })
    }

    /// Makes one of the owner's changes, on the newest row that the owner knows.
    ///
    /// A refusal that shows only a newly started handoff, or an earlier write of our own that landed late, is adopted and the
    /// change made again.
    pub(crate) async fn write(&self, change: LeaseChange) -> WriteResult {
        let writing = self.try_to_write(change, false);
        writing.instrument(self.span.clone()).await
    }

    /// As [`write`](Self::write), for a checkpoint that user code makes: it goes before one that is prepared.
    pub(crate) async fn write_for_user(&self, change: LeaseChange) -> WriteResult {
        let writing = self.try_to_write(change, true);
        writing.instrument(self.span.clone()).await
    }

    async fn try_to_write(&self, change: LeaseChange, for_user: bool) -> WriteResult {
        if let LeaseChange::End { .. } | LeaseChange::Release | LeaseChange::CompleteHandoff = change {
            self.with(|state| state.giving_up = true);
        }
        // Each round adopts something new, and there are only those two things to adopt.
        for _ in 0..4 {
            let sent = self.worker.clock.now();
            let next = self.with(|state| match !for_user && state.is_kept_back(&change) {
                true => NextWrite::Stored(state.known.row().clone()),
                false => state.known.next(&change, &self.worker.worker, sent),
            });
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
                            self.with(|state| self.observe(state, *row));
                            self.obey_orders();
                        }
                        // Another task's write of the same ownership was answered while this one waited for its turn.
                        _ if self.read(|state| state.known.row().version() != before.version()) => {}
                        (Refusal::GaveUp, Some(row)) => {
                            self.with(|state| {
                                state.validity.refused = true;
                                self.observe(state, (*row).clone())
                            });
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
                        self.with(|state| state.known.did_not_happen(&before));
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
        let giving_up = self.read(|state| state.giving_up);
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
        let now = self.worker.clock.now();
        let sent = match failpoint!(DeadlineFromReply) {
            true => now,
            false => sent,
        };
        let (is_new, was_suspended) = self.with(|state| {
            state.validity.renewed = state.validity.renewed.max(sent);
            let known = state.known.row();
            let (from, to) = (&known.checkpoint, &row.checkpoint);
            let rises = Invariant::CheckpointRises.check(from <= to || known.counter >= row.counter, || {
                format!("the checkpoint of {} goes from {from} to {to}", self.key)
            });
            self.worker.report(rises);
            if !self.observe(state, row.clone()) {
                return (false, false);
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
                state.inherited.stored(&row.checkpoint);
            }
            // What landed late may be too old to go on with.
            (true, now < until && state.suspended.take().is_some())
        });
        if was_suspended {
            tracing::info!(parent: &self.span, "the lease is renewed again");
        }
        if is_new {
            self.worker.status.changed();
            self.obey_orders();
        }
    }

    /// Another worker has the lease: nothing of this ownership is written any more.
    pub(crate) fn lost(&self, now_held_by: Option<&Lease>) {
        let already = self.with(|state| std::mem::replace(&mut state.validity.refused, true));
        if already {
            return;
        }
        self.context.set_valid_until(Moment::ZERO);
        let to = now_held_by.and_then(Lease::actual_owner).map(ToString::to_string);
        let counter = now_held_by.map(|row| row.counter);
        tracing::info!(parent: &self.span, from = %self.worker.worker, to, counter, reason = "refused", "lease lost");
        self.worker.metrics.lease_lost();
        self.context.cancelled().cancel();
        self.lose();
    }
}
