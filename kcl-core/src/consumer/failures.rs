//! Does what the error policy decides about a failure of user code: it tries again, halves, sets a record aside, holds, gives the lease
//! up, or stops the worker.

use std::sync::Arc;
use std::time::Duration;

use crate::consumer::delivery::{CallFailure, FailureText};
use crate::consumer::isolation::{Attempts, FailureTally};
use crate::consumer::letters::send_letter;
use crate::consumer::reaction::{Pause, Reaction, SetAside};
use crate::consumer::shard_consumer::ShardConsumer;
use crate::dead_letter::DeadLetter;
use crate::error::{Causes, Error, ErrorKind};
use crate::lifecycle::ConsumerEvent;
use crate::ownership::checkpoint_tracker::BatchId;
use crate::processor::{Decision, FailedCall, Failure, FailureKind, RecordBatch, decide};
use crate::runtime::failpoint::failpoint;
use crate::runtime::log_once;
use crate::settings::CheckpointMode;
use crate::status::WaitReason;
use crate::types::{Position, Record, RecordPosition};

/// The pause after a decision that does not fit the failure: the longest of the standard policy.
const UNFIT: Duration = Duration::from_secs(30);
/// The shortest pause, so that a policy without pauses does not burn a core.
const SHORTEST: Duration = Duration::from_millis(1);
/// No time at which a shard is tried again.
const NEVER: Duration = Duration::from_secs(1 << 30);

/// The records of a call that failed, as a policy sees them.
#[derive(Default)]
pub(crate) struct FailedRecords<'a> {
    count: usize,
    /// How many of them are not finished.
    rest: usize,
    first: Option<&'a Record>,
    last: Option<&'a RecordPosition>,
    /// The record that failed, where it is known.
    isolated: Option<&'a Record>,
    bisected: bool,
}

impl<'a> FailedRecords<'a> {
    /// One record, which was alone.
    pub(crate) fn alone(record: &'a Record) -> Self {
        Self {
            count: 1,
            rest: 1,
            first: Some(record),
            last: None,
            isolated: Some(record),
            bisected: false,
        }
    }
}

impl ShardConsumer {
    /// Decides about a failed call without records.
    pub(crate) fn call_failed(&mut self, call: FailedCall, failure: CallFailure) -> ConsumerEvent {
        let (kind, now) = (failure.kind, self.now());
        let at = self.failing_calls.iter().position(|(of, _)| *of == call);
        let (_, mut tally) = at.map_or((call, FailureTally::default()), |at| {
            self.failing_calls.swap_remove(at)
        });
        let attempts = tally.failed(kind, now);
        self.failing_calls.push((call, tally));
        let reaction = self.react(call, attempts, failure, &FailedRecords::default());
        self.after_reaction(reaction, kind, None)
    }

    /// A call without records returned: its failures before count no more.
    pub(crate) fn call_returned(&mut self, call: FailedCall) {
        let before = self.failing_calls.len();
        self.failing_calls.retain(|(of, _)| *of != call);
        if self.failing_calls.len() < before {
            self.show_failures();
        }
    }

    /// Decides about a failed call of `process_records`. The records before the one that the processor named are finished; what is not
    /// finished of the batch waits to be offered again.
    pub(crate) fn records_failed(
        &mut self,
        id: BatchId,
        batch: &RecordBatch,
        part: &RecordBatch,
        took: Duration,
        failure: CallFailure,
    ) -> ConsumerEvent {
        self.own
            .worker
            .metrics
            .batch_failed(failure.kind == FailureKind::Panic);
        let (named, done) = self.after_failure(part, &failure);
        self.pace.took(done, took);
        if named.is_some() && self.own.context.draining().is_cancelled() {
            // The processor was asked to come to an end, and reports how far it came.
            let (from, _) = part.place();
            self.own.withdraw_offer(id, from + done);
            let left = part.len() - done;
            tracing::info!(done, left, "processor left its batch for the drain");
            self.waiting = Some((id, batch.starting_at(done)));
            return ConsumerEvent::CallFailed;
        }
        self.failures = self.failures.saturating_add(1);
        let rest = part.starting_at(done);
        let (Some(first), Some(last)) = (rest.first(), rest.last()) else {
            // A deliberate bug has finished the whole part.
            return ConsumerEvent::CallFailed;
        };
        let alone = (rest.len() == 1).then_some(first);
        let is_neighbour = named.is_none() && failpoint!(NeighbourSetAside);
        let isolated = named
            .and_then(|named| part.get(named))
            .or(alone)
            .or(is_neighbour.then_some(first));
        let bisected = self.isolation.is_bisecting();
        let (kind, now) = (failure.kind, self.now());
        let mut attempts = self
            .isolation
            .failed(first.position(), last.position(), kind, now);
        if failpoint!(AttemptsShared) {
            (attempts.count, attempts.total) = (self.failures, self.failures);
        }
        let records = FailedRecords {
            count: part.len(),
            rest: rest.len(),
            first: Some(first),
            last: Some(last.position()),
            isolated,
            bisected,
        };
        let failing = isolated.map(|record| record.position().clone());
        let reaction = self.react(FailedCall::ProcessRecords, attempts, failure, &records);
        let event = self.after_reaction(reaction, kind, failing);
        if event == ConsumerEvent::CallFailed {
            self.waiting = Some((id, batch.starting_at(done)));
        }
        event
    }

    /// Decides about a record that cannot be offered to user code. All before it is finished.
    pub(crate) fn unreadable_failed(&mut self) -> Option<ConsumerEvent> {
        let (unreadable, _) = self.unreadable.as_ref()?;
        let unreadable = unreadable.clone();
        if self.aside.contains(&unreadable.finished_position()) {
            // It was set aside before a panic, and comes again.
            self.finish_unreadable();
            return None;
        }
        self.own
            .show(|facts| facts.unreadable = Some(unreadable.position.clone()));
        self.failures = self.failures.saturating_add(1);
        let (kind, now) = (FailureKind::Unreadable, self.now());
        let attempts = self
            .isolation
            .failed(&unreadable.position, &unreadable.position, kind, now);
        let failure = CallFailure {
            kind,
            position: Some(unreadable.position),
            error: Box::new(FailureText(unreadable.why)),
        };
        let records = FailedRecords::alone(&unreadable.record);
        let failing = Some(unreadable.record.position().clone());
        let reaction = self.react(FailedCall::Unpack, attempts, failure, &records);
        Some(self.after_reaction(reaction, kind, failing))
    }

    /// Finds the record that failed, where the processor said which, and the first to be tried again. With automatic checkpoints the records
    /// before it are finished.
    pub(crate) fn after_failure(&self, part: &RecordBatch, failure: &CallFailure) -> (Option<usize>, usize) {
        let named = failure.position.as_ref();
        let at = named.and_then(|named| part.binary_search_by(|record| record.position().cmp(named)).ok());
        if let (Some(named), None) = (named, at) {
            tracing::error!(
                position = %named,
                "the processor says that a record failed which its call did not have: nothing of the call is finished. \
                 Give ProcessorError::at a record of the batch"
            );
        }
        let skipped = usize::from(failpoint!(SkipOnError));
        let index = (at.unwrap_or(0) + skipped).min(part.len());
        if self.own.worker.settings.checkpoints.mode == CheckpointMode::Automatic
            && let Some(last_good) = index.checked_sub(1).and_then(|index| part.get(index))
        {
            self.own.finish_through(last_good.position(), None);
        }
        (at, index)
    }

    /// Asks the policy, and prepares what it decides.
    pub(crate) fn react(
        &mut self,
        call: FailedCall,
        attempts: Attempts,
        failure: CallFailure,
        records: &FailedRecords<'_>,
    ) -> Reaction {
        let worker = Arc::clone(&self.own.worker);
        let name = call.as_str();
        // Records that are parked may be many: they are counted together.
        let is_parked = call == FailedCall::Handle;
        let is_due = log_once::is_due(if is_parked {
            self.parked_failures
        } else {
            attempts.total
        });
        if is_due {
            let panicked = failure.kind == FailureKind::Panic;
            let position = failure.position.as_ref().map(ToString::to_string);
            let (attempt, error) = (attempts.total, Causes(failure.error.as_ref()));
            let what = if is_parked {
                "failed call; its record is parked"
            } else {
                "failed call; holding the shard"
            };
            tracing::warn!(call = name, attempt, panicked, position, %error, "{what}");
        }
        let arrived = records.first.and_then(Record::approximate_arrival);
        let age = arrived.map(|arrived| worker.clock.wall().since(arrived));
        let seen = Failure {
            call,
            kind: failure.kind,
            attempt: attempts.count,
            since_first: attempts.since_first,
            records: records.count,
            record: records.isolated,
            oldest_age: age,
            bisected: records.bisected,
            error: failure.error.as_ref(),
        };
        let decision = match self.ordered_decision(call, records) {
            Some(decision) => decision,
            None if failpoint!(SkipWithoutPolicy) && seen.is_isolated() => Decision::Skip,
            None => decide(worker.policy.as_ref(), &seen),
        };
        let pause = |length| Reaction {
            pause: Pause {
                length,
                then_release: false,
            },
            set_aside: None,
        };
        let set_aside = |set_aside| Reaction {
            pause: Pause::default(),
            set_aside: Some(set_aside),
        };
        match (decision, records.isolated) {
            (Decision::Retry { after }, _) => pause(after.max(SHORTEST)),
            (Decision::DeadLetter, Some(record)) if call.has_records() => {
                let position = self.position_behind(call, record);
                set_aside(SetAside {
                    letter: Some(self.letter(&seen, attempts, record, &position)),
                    is_unreadable: call == FailedCall::Unpack,
                    position,
                })
            }
            (Decision::Skip, Some(record)) if call.has_records() => set_aside(SetAside {
                letter: None,
                is_unreadable: call == FailedCall::Unpack,
                position: self.position_behind(call, record),
            }),
            (Decision::Bisect, _) | (Decision::DeadLetter | Decision::Skip, None) if records.rest > 1 => {
                if let Some(last) = records.last {
                    self.isolation.bisect(last);
                }
                Reaction::default()
            }
            (Decision::Hold, _) => {
                if is_due {
                    tracing::warn!(call = name, "holding until the shard is resumed or moves");
                }
                pause(NEVER)
            }
            (Decision::Release, _) => {
                if is_due {
                    tracing::warn!(call = name, "giving the lease up, as the error policy says");
                }
                // Not at once: a worker that is alone gets the lease back right away.
                let pause = Pause {
                    length: worker.timing.renewal,
                    then_release: true,
                };
                Reaction {
                    pause,
                    set_aside: None,
                }
            }
            (Decision::Stop, _) => {
                let message = format!("{name} failed, and the error policy stops the worker");
                let error = Error::new(ErrorKind::Processing, message).with_source(failure.error);
                worker.fatal.raise(error);
                pause(NEVER)
            }
            (decision, _) => {
                tracing::warn!(
                    ?decision,
                    call = name,
                    "decision of the error policy does not fit; trying again in 30 s"
                );
                pause(UNFIT)
            }
        }
    }

    /// The decision of an operator about these records, for which the policy is not asked. The record that is to be left out is isolated first.
    fn ordered_decision(&self, call: FailedCall, records: &FailedRecords<'_>) -> Option<Decision> {
        let skip = self.own.ordered_skip()?;
        // An aggregate that cannot be unpacked is named as a whole, or by the part that cannot.
        let part = self.unreadable.as_ref().filter(|_| call == FailedCall::Unpack);
        let is_part = part.is_some_and(|(unreadable, _)| unreadable.position == skip);
        let is_named = |isolated: &RecordPosition| *isolated == skip || is_part;
        match records.isolated.map(Record::position) {
            Some(isolated) if is_named(isolated) => Some(match self.own.worker.dead_letters {
                Some(_) => Decision::DeadLetter,
                None => Decision::Skip,
            }),
            Some(_) => None,
            None => {
                let first = records.first.map(Record::position)?;
                let is_among = *first <= skip && records.last.is_some_and(|last| skip <= *last);
                is_among.then_some(Decision::Bisect)
            }
        }
    }

    /// The event of a failure, of this record where it is known, that was reacted to.
    fn after_reaction(
        &mut self,
        reaction: Reaction,
        kind: FailureKind,
        failing: Option<RecordPosition>,
    ) -> ConsumerEvent {
        (self.pause, self.set_aside) = (reaction.pause, reaction.set_aside);
        self.show_failures();
        self.own.show(|facts| facts.failing = failing);
        if kind != FailureKind::Panic {
            return ConsumerEvent::CallFailed;
        }
        // The new processor begins at the stored checkpoint; what this one was given counts as not delivered.
        if !failpoint!(BatchDroppedOnPanic) {
            self.own.forget_delivered();
        }
        self.waiting = None;
        self.handled = None;
        self.fetched = None;
        self.unreadable = None;
        self.end = None;
        ConsumerEvent::Panicked
    }

    /// How far the shard is finished once this record is set aside.
    fn position_behind(&self, call: FailedCall, record: &Record) -> RecordPosition {
        match &self.unreadable {
            Some((unreadable, _)) if call == FailedCall::Unpack => unreadable.finished_position(),
            _ => record.position().detached(),
        }
    }

    fn letter(
        &self,
        failure: &Failure<'_>,
        attempts: Attempts,
        record: &Record,
        position: &RecordPosition,
    ) -> DeadLetter {
        let (context, clock) = (&self.own.context, &self.own.worker.clock);
        let now = clock.wall();
        DeadLetter {
            // Where a record cannot be unpacked, the number names the part that cannot.
            record: record.detached().with_sub_sequence(position.sub_sequence),
            application: context.application().clone(),
            stream: context.stream().to_owned(),
            stream_arn: context.stream_arn().map(str::to_owned),
            shard: context.shard().clone(),
            hash_range: context.hash_range(),
            worker: context.worker().clone(),
            fencing_token: context.fencing_token(),
            call: failure.call,
            severity: failure.severity(),
            panicked: failure.kind == FailureKind::Panic,
            attempts: attempts.total,
            first_failure: now.minus(clock.now().saturating_since(attempts.first)),
            last_failure: now,
            error: Causes(failure.error).to_string(),
        }
    }

    /// Waits before the next try: for the sink to acknowledge a record that is set aside, or as long as the policy said.
    pub(crate) async fn hold(&mut self) -> ConsumerEvent {
        if let Some(event) = self.finish_setting_aside().await {
            return event;
        }
        if failpoint!(NoRetry) {
            self.pause.length = NEVER;
        }
        match self.wait_after_failure().await {
            Some(ConsumerEvent::ReopenRequested) | None => ConsumerEvent::RetryDue,
            Some(event) => event,
        }
    }

    /// Sends the letter of a record that is set aside, until the sink has acknowledged it; the record is finished then. `None` when there is
    /// nothing left to do.
    async fn finish_setting_aside(&mut self) -> Option<ConsumerEvent> {
        let set_aside = self.set_aside.take()?;
        if let Some(letter) = &set_aside.letter
            && !failpoint!(PositionBeforeAcknowledgement)
            && let Some(event) = self.send(letter).await
        {
            // The next owner meets the record again.
            return Some(event);
        }
        self.count_set_aside(&set_aside);
        if set_aside.is_unreadable {
            self.finish_unreadable();
        }
        self.remember_aside(&set_aside.position);
        if let Some((id, batch)) = self.waiting.take() {
            self.waiting = self.pass_finished(id, batch).map(|(rest, _)| (id, rest));
        }
        self.isolation.clear();
        self.failures = 0;
        self.show_failures();
        None
    }

    /// Counts a record that is set aside, and says so.
    pub(crate) fn count_set_aside(&mut self, set_aside: &SetAside) {
        let position = &set_aside.position;
        let is_skipped = set_aside.letter.is_none();
        self.own.worker.metrics.set_aside(is_skipped);
        self.passed = self.passed.saturating_add(1);
        if log_once::is_due(self.passed) {
            let so_far = self.passed;
            match is_skipped {
                true => tracing::warn!(%position, so_far, "skipped a record, as the error policy says"),
                false => tracing::warn!(%position, so_far, "sent a record to the dead-letter sink"),
            }
        }
        self.own.show(|facts| {
            facts.failing = None;
            match is_skipped {
                true => facts.skipped += 1,
                false => facts.dead_letters += 1,
            }
        });
    }

    /// Remembers a record that is set aside, for as long as it may come again: until the stored checkpoint has passed it.
    pub(crate) fn remember_aside(&mut self, position: &RecordPosition) {
        if let Position::Record(stored) = self.own.row().checkpoint {
            self.aside.retain(|aside| *aside > stored);
        }
        self.aside.insert(position.detached());
    }

    /// A record that was never delivered is finished: it counts as delivered, and reading goes on behind it.
    fn finish_unreadable(&mut self) {
        let Some((unreadable, _)) = self.unreadable.take() else {
            return;
        };
        self.own.show(|facts| facts.unreadable = None);
        let position = unreadable.finished_position();
        let record = unreadable.record.with_sub_sequence(position.sub_sequence);
        let id = self.own.deliver(Arc::new(vec![record].into()));
        self.own.finish_record(id, 0);
        self.fetched = None;
    }

    async fn send(&mut self, letter: &DeadLetter) -> Option<ConsumerEvent> {
        let own = Arc::clone(&self.own);
        loop {
            own.consumer_waits(WaitReason::DeadLetter);
            let event = tokio::select! {
                biased;
                interrupt = own.interrupted() => self.interrupted(interrupt),
                () = send_letter(&own, letter) => return None,
            };
            if event != ConsumerEvent::ReopenRequested {
                return Some(event);
            }
        }
    }

    /// Whether the record was finished before it came: it was set aside in this ownership, or its row said that it is finished ahead of the
    /// checkpoint. Such a record is not offered.
    pub(crate) fn is_finished_already(&self, record: &Record) -> bool {
        let position = record.position();
        self.aside.contains(position) || self.ahead.as_ref().is_some_and(|ahead| ahead.covers(position))
    }

    /// Finishes the records of the batch that are [finished already](Self::is_finished_already), wherever they stand in it. Returns their
    /// indices, ascending.
    pub(crate) fn finish_again(&mut self, id: BatchId, batch: &RecordBatch) -> Vec<usize> {
        if !self.may_bring_finished(batch) {
            return Vec::new();
        }
        let records = batch.iter().enumerate();
        let finished = records.filter(|(_, record)| self.is_finished_already(record));
        let finished: Vec<_> = finished.map(|(index, _)| index).collect();
        let (from, _) = batch.place();
        let named: Vec<_> = finished.iter().map(|index| (id, from + index)).collect();
        if !named.is_empty() {
            self.own.finish_records(&named);
        }
        finished
    }

    /// Whether a record of the batch may be finished already. Once a batch begins behind what the row said, no later one is.
    fn may_bring_finished(&mut self, batch: &RecordBatch) -> bool {
        let first = batch.first().map(Record::position);
        self.ahead.take_if(|ahead| first > Some(ahead.end()));
        !self.aside.is_empty() || self.ahead.is_some()
    }

    /// Finishes records at the beginning of the batch that are [finished already](Self::is_finished_already). Returns how many of the others
    /// come before the next of those.
    pub(crate) fn pass_finished(&mut self, id: BatchId, batch: RecordBatch) -> Option<(RecordBatch, usize)> {
        if !self.may_bring_finished(&batch) {
            let count = batch.len();
            return Some((batch, count));
        }
        let passed = batch.iter().take_while(|record| self.is_finished_already(record));
        let passed = passed.count();
        let (from, _) = batch.place();
        let finished: Vec<_> = (from..from + passed).map(|index| (id, index)).collect();
        if !finished.is_empty() {
            self.own.finish_records(&finished);
        }
        let rest = batch.starting_at(passed);
        if rest.is_empty() {
            self.own.batch_passed(id, &batch);
            return None;
        }
        let count = rest.iter().take_while(|record| !self.is_finished_already(record));
        let count = count.count();
        Some((rest, count))
    }
}
