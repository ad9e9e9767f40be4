//! Does what the error policy decides about a failure of user code: it tries again, halves, sets a record aside, holds, gives the lease
//! up, or stops the worker.

use std::sync::Arc;
use std::time::Duration;

use crate::consumer::delivery::{CallFailure, FailureText};
use crate::consumer::isolation::Attempts;
use crate::consumer::set_aside::{SetAside, all_of};
use crate::consumer::shard_consumer::ShardConsumer;
use crate::dead_letter::DeadLetter;
use crate::error::{Causes, Error, ErrorKind};
use crate::lifecycle::ConsumerEvent;
use crate::ownership::checkpoint_tracker::BatchId;
use crate::ownership::control::DrainReason;
use crate::processor::{Decision, FailedCall, Failure, FailureKind, RecordBatch, decide};
use crate::runtime::backoff::Backoff;
use crate::runtime::clock::ClockExt as _;
use crate::runtime::failpoint::failpoint;
use crate::runtime::log_once;
use crate::runtime::task_scope::caught;
use crate::settings::CheckpointMode;
use crate::status::WaitReason;
use crate::types::{Position, Record, RecordPosition};

/// The pause after a decision that does not fit the failure: the longest of the standard policy.
const UNFIT: Duration = Duration::from_secs(30);
/// No time at which a shard is tried again.
const NEVER: Duration = Duration::from_secs(1 << 30);
/// How long a sink may take for one letter.
pub(crate) const SEND_DEADLINE: Duration = Duration::from_secs(30);
const SEND_AGAIN: Duration = Duration::from_millis(200);
const LONGEST_SEND_AGAIN: Duration = Duration::from_secs(30);

/// The records of a call that failed, as a policy sees them.
#[derive(Default)]
struct FailedRecords<'a> {
    count: usize,
    first: Option<&'a Record>,
    last: Option<&'a RecordPosition>,
    /// The record that failed, where it is known.
    isolated: Option<&'a Record>,
    bisected: bool,
}

impl ShardConsumer {
    /// Decides about a failed call without records.
    pub(crate) fn call_failed(
        &mut self,
        call: FailedCall,
        count: u32,
        failure: CallFailure,
    ) -> ConsumerEvent {
        let now = self.now();
        if count == 1 {
            self.failing_since = now;
        }
        let attempts = Attempts {
            count,
            since_first: now.saturating_since(self.failing_since),
            total: count,
            since_any: now.saturating_since(self.failing_since),
        };
        self.react(call, attempts, &failure, &FailedRecords::default());
        self.after_reaction(&failure)
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
        let mut attempts = self
            .isolation
            .failed(first.position(), last.position(), failure.kind, self.now());
        if failpoint!(AttemptsShared) {
            (attempts.count, attempts.total) = (self.failures, self.failures);
        }
        let records = FailedRecords {
            count: part.len(),
            first: Some(first),
            last: Some(last.position()),
            isolated,
            bisected,
        };
        self.react(FailedCall::ProcessRecords, attempts, &failure, &records);
        let event = self.after_reaction(&failure);
        if event == ConsumerEvent::CallFailed {
            self.waiting = Some((id, batch.starting_at(done)));
        }
        event
    }

    /// Decides about a record that cannot be offered to user code. All before it is finished.
    pub(crate) fn meet_unreadable(&mut self) -> Option<ConsumerEvent> {
        let (unreadable, _) = self.unreadable.as_ref()?;
        let unreadable = unreadable.clone();
        let whole = all_of(&unreadable.record);
        if self.aside.contains(&whole) {
            // It comes again since a processor panicked, and is set aside already.
            self.unreadable = None;
            self.finish_unreadable(&unreadable.record, &whole);
            return None;
        }
        self.own
            .show(|facts| facts.unreadable = Some(unreadable.position.clone()));
        self.failures = self.failures.saturating_add(1);
        let attempts = self.isolation.failed(
            &unreadable.position,
            &unreadable.position,
            FailureKind::Unreadable,
            self.now(),
        );
        let failure = CallFailure {
            kind: FailureKind::Unreadable,
            position: Some(unreadable.position),
            error: Box::new(FailureText(unreadable.why)),
        };
        let records = FailedRecords {
            count: 1,
            first: Some(&unreadable.record),
            last: None,
            isolated: Some(&unreadable.record),
            bisected: false,
        };
        self.react(FailedCall::Unpack, attempts, &failure, &records);
        Some(self.after_reaction(&failure))
    }

    /// Finds the record that failed, where the processor said which, and the first to be tried again. With automatic checkpoints the records
    /// before it are finished.
    fn after_failure(&self, part: &RecordBatch, failure: &CallFailure) -> (Option<usize>, usize) {
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
    fn react(
        &mut self,
        call: FailedCall,
        attempts: Attempts,
        failure: &CallFailure,
        records: &FailedRecords<'_>,
    ) {
        let worker = Arc::clone(&self.own.worker);
        let error = Causes(failure.error.as_ref());
        if log_once::is_due(attempts.count) {
            let panicked = failure.kind == FailureKind::Panic;
            let position = failure.position.as_ref().map(ToString::to_string);
            let (call, attempt) = (call.as_str(), attempts.count);
            tracing::warn!(call, attempt, panicked, position, %error, "failed call; holding the shard");
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
        let decision = match failpoint!(SkipWithoutPolicy) && seen.is_isolated() {
            true => Decision::Skip,
            false => decide(worker.policy.as_ref(), &seen),
        };
        self.pause = Duration::ZERO;
        match (decision, records.isolated) {
            (Decision::Retry { after }, _) => self.pause = after,
            (Decision::DeadLetter, Some(record)) if call.has_records() => {
                let letter = self.letter(&seen, record, attempts, error.to_string());
                self.set_aside = Some(SetAside::new(call, record, Some(letter)));
            }
            (Decision::Skip, Some(record)) if call.has_records() => {
                self.set_aside = Some(SetAside::new(call, record, None));
            }
            (Decision::Bisect | Decision::DeadLetter | Decision::Skip, None) if records.count > 1 => {
                if let Some(last) = records.last {
                    self.isolation.bisect(last);
                }
            }
            (Decision::Hold, _) => {
                tracing::warn!(
                    call = call.as_str(),
                    "holding the shard until it is resumed or moves"
                );
                self.pause = NEVER;
            }
            (Decision::Release, _) => {
                tracing::warn!(
                    call = call.as_str(),
                    "giving the lease up, as the error policy says"
                );
                // Not at once: a worker that is alone gets the lease back right away.
                self.releases = true;
                self.pause = worker.timing.renewal;
            }
            (Decision::Stop, _) => {
                let message = format!(
                    "{} failed, and the error policy stops the worker: {error}",
                    call.as_str()
                );
                worker.fatal.raise(Error::new(ErrorKind::Processing, message));
                self.pause = NEVER;
            }
            (decision, _) => {
                tracing::warn!(
                    ?decision,
                    call = call.as_str(),
                    "decision of the error policy does not fit; trying again in 30 s"
                );
                self.pause = UNFIT;
            }
        }
        self.show_failures();
        let failing = records.isolated.map(|record| record.position().clone());
        self.own.show(|facts| facts.failing = failing);
    }

    /// The event of a failure that was reacted to.
    fn after_reaction(&mut self, failure: &CallFailure) -> ConsumerEvent {
        if failure.kind != FailureKind::Panic {
            return ConsumerEvent::CallFailed;
        }
        // The new processor begins at the stored checkpoint; what this one was given counts as not delivered.
        if !failpoint!(BatchDroppedOnPanic) {
            self.own.forget_delivered();
        }
        self.waiting = None;
        self.fetched = None;
        self.unreadable = None;
        self.end = None;
        ConsumerEvent::Panicked
    }

    fn letter(
        &self,
        failure: &Failure<'_>,
        record: &Record,
        attempts: Attempts,
        error: String,
    ) -> DeadLetter {
        let (context, now) = (&self.own.context, self.own.worker.clock.wall());
        DeadLetter {
            record: record.detached(),
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
            first_failure: now.minus(attempts.since_any),
            last_failure: now,
            error,
        }
    }

    /// Waits before the next try: for the sink to acknowledge a record that is set aside, or as long as the policy said.
    pub(crate) async fn hold(&mut self) -> ConsumerEvent {
        if let Some(event) = self.finish_setting_aside().await {
            return event;
        }
        self.own.consumer_waits(WaitReason::Hold);
        let pause = match failpoint!(NoRetry) {
            true => NEVER,
            false => std::mem::take(&mut self.pause),
        };
        let waited = self.pause_for(pause).await;
        if waited.is_none() && std::mem::take(&mut self.releases) {
            self.own.drain(DrainReason::Failing);
        }
        match waited {
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
        let worker = &self.own.worker;
        let position = &set_aside.position;
        let is_skipped = set_aside.letter.is_none();
        worker.metrics.set_aside(is_skipped);
        match is_skipped {
            true => tracing::warn!(%position, "skipped a record, as the error policy says"),
            false => tracing::warn!(%position, "sent a record to the dead-letter sink"),
        }
        self.own.show(|facts| {
            facts.failing = None;
            if set_aside.is_unreadable {
                facts.unreadable = None;
            }
            match is_skipped {
                true => facts.skipped += 1,
                false => facts.dead_letters += 1,
            }
        });
        if let Some((unreadable, _)) = self.unreadable.take_if(|_| set_aside.is_unreadable) {
            self.finish_unreadable(&unreadable.record, position);
        }
        self.remember_aside(position);
        self.isolation.clear();
        self.failures = 0;
        self.show_failures();
        None
    }

    /// Remembers a record that is set aside, for as long as it may come again: until the stored checkpoint has passed it.
    fn remember_aside(&mut self, position: &RecordPosition) {
        if let Position::Record(stored) = self.own.row().checkpoint {
            self.aside.retain(|aside| *aside > stored);
        }
        self.aside.insert(position.detached());
    }

    /// A record that was never delivered is finished: it counts as delivered, and reading goes on behind it.
    fn finish_unreadable(&mut self, record: &Record, position: &RecordPosition) {
        let whole = record.clone().with_sub_sequence(position.sub_sequence);
        let id = self.own.deliver(Arc::new(vec![whole].into()));
        self.own.finish_record(id, 0);
        self.fetched = None;
    }

    async fn send(&mut self, letter: &DeadLetter) -> Option<ConsumerEvent> {
        let own = Arc::clone(&self.own);
        let Some(sink) = &own.worker.dead_letters else {
            tracing::error!(
                "the error policy sends dead letters and there is no sink: give the worker one by .dead_letters(…). Holding the shard"
            );
            self.own.consumer_waits(WaitReason::DeadLetter);
            return self.pause_for(NEVER).await;
        };
        let mut failures = Backoff::new(SEND_AGAIN, LONGEST_SEND_AGAIN);
        let mut problem = log_once::LogOnce::default();
        loop {
            self.own.consumer_waits(WaitReason::DeadLetter);
            let sending = own.worker.clock.timeout(SEND_DEADLINE, caught(sink.send(letter)));
            let sent = tokio::select! {
                biased;
                interrupt = own.interrupted() => {
                    let event = self.interrupted(interrupt);
                    if event == ConsumerEvent::ReopenRequested {
                        continue;
                    }
                    return Some(event);
                },
                sent = sending => sent,
            };
            let why = match sent {
                Ok(Ok(Ok(()))) => {
                    problem.log_end("dead letter not accepted");
                    return None;
                }
                Ok(Ok(Err(error))) => Causes(&error).to_string(),
                Ok(Err(panic)) => format!("the sink panicked: {panic}"),
                Err(elapsed) => elapsed.to_string(),
            };
            own.worker.metrics.dead_letter_failed();
            problem.warn("dead letter not accepted; holding the shard", why);
            match self.pause_for(failures.failed()).await {
                Some(ConsumerEvent::ReopenRequested) | None => {}
                Some(event) => return Some(event),
            }
        }
    }

    /// Finishes records at the beginning of the batch that are set aside. Returns how many of the others come before the next of those.
    pub(crate) fn pass_set_aside(&mut self, id: BatchId, batch: RecordBatch) -> Option<(RecordBatch, usize)> {
        if self.aside.is_empty() {
            let count = batch.len();
            return Some((batch, count));
        }
        let is_aside = |record: &Record| self.aside.contains(record.position());
        let passed = batch.iter().take_while(|record| is_aside(record)).count();
        let (from, _) = batch.place();
        for index in from..from + passed {
            self.own.finish_record(id, index);
        }
        let rest = batch.starting_at(passed);
        if rest.is_empty() {
            self.own.batch_passed(id, &batch);
            return None;
        }
        let count = rest.iter().take_while(|record| !is_aside(record)).count();
        Some((rest, count))
    }
}
