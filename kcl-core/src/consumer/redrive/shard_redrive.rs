//! Hands the letters of one shard to a processor, and does what the policy decides.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;

use bytes::Bytes;

use crate::consumer::delivery::{CallFailure, Delivery as _, ThreadObserver, ToProcessor};
use crate::consumer::isolation::{Attempts, FailureTally, Isolation};
use crate::consumer::letters::SEND_DEADLINE;
use crate::dead_letter::{DeadLetter, DeadLetterSink};
use crate::error::Causes;
use crate::processor::fetched_batch::FetchedBatch;
use crate::processor::{
    CheckpointError, CheckpointSink, Decision, ErrorPolicy, FailedCall, Failure, FailureKind, RecordBatch,
    RecordProcessorFactory, ShardContext, decide,
};
use crate::runtime::clock::{BoxFuture, Clock, ClockExt as _};
use crate::runtime::lock::Locked;
use crate::runtime::log_once;
use crate::runtime::stall_probe::CallbackThread;
use crate::runtime::task_scope::caught;
use crate::settings::CheckpointMode;
use crate::types::{LeaseKey, Record, RecordPosition};

/// The parts of a redrive, the same for each shard.
#[derive(Clone)]
pub(super) struct RedriveSetup {
    pub(super) factory: Arc<dyn RecordProcessorFactory>,
    pub(super) policy: Arc<dyn ErrorPolicy>,
    pub(super) sink: Option<Arc<dyn DeadLetterSink>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) most: usize,
    pub(super) mode: CheckpointMode,
}

impl RedriveSetup {
    /// Sends the letter once, within the time that a worker gives a sink.
    async fn send(&self, letter: Option<DeadLetter>) -> Result<(), String> {
        let (Some(sink), Some(letter)) = (&self.sink, letter) else {
            return Err("no sink for a dead letter: give Redrive one by .dead_letters(…)".to_owned());
        };
        // A panic may also come before the first poll.
        let sending = caught(async { sink.send(&letter).await });
        let why = match self.clock.timeout(SEND_DEADLINE, sending).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(error))) => Causes(&error).to_string(),
            Ok(Err(panic)) => format!("the sink panicked: {panic}"),
            Err(elapsed) => elapsed.to_string(),
        };
        Err(format!("dead letter not accepted: {why}"))
    }
}

/// The end of a letter in a redrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LetterFate {
    Processed,
    DeadLetter,
    Skipped,
    Left(Option<String>),
}

/// Hands the letters of one shard over, in their order. Returns the fate of each.
pub(super) async fn redrive_shard(setup: &RedriveSetup, letters: &[DeadLetter]) -> Vec<LetterFate> {
    let Some(newest) = letters.iter().max_by_key(|letter| letter.fencing_token) else {
        return Vec::new();
    };
    let watch = ThreadObserver {
        on_thread: Arc::new(CallbackThread::default()),
        clock: Arc::clone(&setup.clock),
    };
    let records: Vec<Record> = letters.iter().map(|letter| letter.record.clone()).collect();
    let redrive = ShardRedrive {
        setup,
        letters,
        records: Arc::new(records.into()),
        delivery: ToProcessor::new(Arc::clone(&setup.factory), context_of(newest), watch),
        is_ready: false,
        beginnings: FailureTally::default(),
        isolation: Isolation::default(),
        front: 0,
        aside: BTreeMap::new(),
        finished: FinishedLetters::through(0),
        stopped: None,
    };
    redrive.run().await
}

/// A shard under way. Its records are named by their index.
struct ShardRedrive<'a> {
    setup: &'a RedriveSetup,
    letters: &'a [DeadLetter],
    records: Arc<FetchedBatch>,
    delivery: ToProcessor,
    /// Whether the processor is initialized. A panic costs the processor, and the next one is initialized, too.
    is_ready: bool,
    /// The failures of `initialize` in a row.
    beginnings: FailureTally,
    isolation: Isolation,
    /// The record that is offered next.
    front: usize,
    /// The records that were set aside.
    aside: BTreeMap<usize, LetterFate>,
    finished: Arc<FinishedLetters>,
    /// The record at which the shard stopped, and why.
    stopped: Option<(usize, String)>,
}

/// How many records are finished, from the first on; `None` once the processor that finishes them was replaced.
struct FinishedLetters(Locked<Option<usize>>);

impl FinishedLetters {
    fn through(count: usize) -> Arc<Self> {
        Arc::new(Self(Locked::new(Some(count))))
    }

    fn finish(&self, count: usize) -> Result<(), CheckpointError> {
        match self.0.lock().as_mut() {
            Some(finished) => {
                *finished = count.max(*finished);
                Ok(())
            }
            None => Err(CheckpointError::Fenced),
        }
    }

    /// Returns how many are finished. Later checkpoints are refused.
    fn fence(&self) -> usize {
        self.0.lock().take().unwrap_or(0)
    }
}

impl CheckpointSink for FinishedLetters {
    fn checkpoint_through(
        &self,
        _: RecordPosition,
        number: u64,
    ) -> BoxFuture<'_, Result<(), CheckpointError>> {
        let count = usize::try_from(number).unwrap_or(usize::MAX).saturating_add(1);
        Box::pin(ready(self.finish(count)))
    }

    /// Stores nothing: no other processor begins where this one ends.
    fn prepare(&self, _: RecordPosition, _: u64, _: Bytes) -> BoxFuture<'_, Result<(), CheckpointError>> {
        Box::pin(ready(self.finish(0)))
    }

    fn discard(&self, _: RecordPosition) -> BoxFuture<'_, Result<(), CheckpointError>> {
        Box::pin(ready(self.finish(0)))
    }
}

impl ShardRedrive<'_> {
    async fn run(mut self) -> Vec<LetterFate> {
        while self.stopped.is_none() {
            match self.until_aside() {
                0 => break,
                _ if !self.is_ready => self.initialize().await,
                count => self.offer(count).await,
            }
        }
        let drained = match self.is_ready {
            true => self.delivery.drain().await,
            false => Ok(()),
        };
        let mut finished = self.finished.fence();
        let mut unfinished = "processed and not checkpointed".to_owned();
        if let Err(failure) = drained {
            unfinished = format!("shutdown_requested failed: {}", text(&failure));
            tracing::warn!(error = text(&failure), "failed shutdown_requested of a redrive");
            // A processor that did not flush may have returned from each of its calls.
            if self.setup.mode == CheckpointMode::Automatic {
                finished = 0;
            }
        }
        fates(
            self.letters.len(),
            &self.aside,
            finished,
            unfinished,
            self.stopped,
        )
    }

    /// Passes the records at the front that are set aside. Returns how many there are before the next of those.
    fn until_aside(&mut self) -> usize {
        while self.aside.contains_key(&self.front) {
            self.front += 1;
        }
        let next = self.aside.keys().find(|index| **index > self.front);
        next.map_or(self.letters.len(), |index| *index) - self.front
    }

    async fn initialize(&mut self) {
        let Err(failure) = self.delivery.initialize().await else {
            self.is_ready = true;
            self.beginnings = FailureTally::default();
            return;
        };
        let attempts = self.beginnings.failed(failure.kind, self.setup.clock.now());
        let records = FailedLetters::default();
        let decision = self.decide(FailedCall::Initialize, attempts, &failure, &records);
        if let Decision::Retry { after } = decision {
            self.setup.clock.sleep(after).await;
        } else {
            let why = format!("initialize failed ({decision:?}): {}", text(&failure));
            self.stopped = Some((self.front, why));
        }
    }

    /// Offers the next records, of which so many may be in one call.
    async fn offer(&mut self, available: usize) {
        let sink = Arc::clone(&self.finished) as Arc<dyn CheckpointSink>;
        let rest = RecordBatch::new(Arc::clone(&self.records), 0, sink).starting_at(self.front);
        let positions = rest.iter().map(Record::position);
        let count = self
            .isolation
            .next_offer(positions, available.min(self.setup.most));
        let part = rest.first_part(count);
        if let Err(failure) = self.delivery.offer(part.clone()).await {
            return self.records_failed(&part, &failure).await;
        }
        self.front += part.len();
        self.finish_automatically(self.front);
        if let Some(last) = part.last() {
            let next = rest.get(part.len()).map(Record::position);
            self.isolation.finished(last.position(), next);
        }
    }

    fn finish_automatically(&self, count: usize) {
        if self.setup.mode == CheckpointMode::Automatic {
            // Refused after a panic only, when the count is known already.
            drop(self.finished.finish(count));
        }
    }

    async fn records_failed(&mut self, part: &RecordBatch, failure: &CallFailure) {
        let named = failure.position.as_ref();
        let at = named.and_then(|named| part.iter().position(|record| record.position() == named));
        if let (Some(named), None) = (named, at) {
            tracing::error!(position = %named, "the processor says that a record failed which its call did not have");
        }
        let failed = part.starting_at(at.unwrap_or(0));
        let (Some(first), Some(last)) = (failed.first(), failed.last()) else {
            return;
        };
        let (index, _) = failed.place();
        let is_alone = at.is_some() || failed.len() == 1;
        self.finish_automatically(index);
        self.front = index;
        if failure.kind == FailureKind::Panic {
            // The records that were not finished come again, to another processor.
            self.front = self.finished.fence();
            self.finished = FinishedLetters::through(self.front);
            self.is_ready = false;
        }
        let now = self.setup.clock.now();
        let seen = FailedLetters {
            count: part.len(),
            first: Some(first),
            isolated: is_alone.then_some(first),
            bisected: self.isolation.is_bisecting(),
        };
        let attempts = self
            .isolation
            .failed(first.position(), last.position(), failure.kind, now);
        let decision = self.decide(FailedCall::ProcessRecords, attempts, failure, &seen);
        match decision {
            Decision::Retry { after } => self.setup.clock.sleep(after).await,
            Decision::Bisect | Decision::DeadLetter | Decision::Skip if !is_alone => {
                self.isolation.bisect(last.position());
            }
            Decision::Skip => {
                tracing::warn!(position = %first.position(), "skipped a dead letter, as the error policy says");
                self.set_aside(index, LetterFate::Skipped);
            }
            Decision::DeadLetter => {
                match self.setup.send(self.letter_again(index, attempts, failure)).await {
                    Ok(()) => {
                        tracing::warn!(position = %first.position(), "sent a dead letter to the sink again");
                        self.set_aside(index, LetterFate::DeadLetter);
                    }
                    Err(why) => {
                        self.stopped = Some((index, format!("{why}; it was sent for: {}", text(failure))))
                    }
                }
            }
            Decision::Bisect | Decision::Hold | Decision::Release | Decision::Stop => {
                self.stopped = Some((index, format!("{decision:?}: {}", text(failure))));
            }
        }
    }

    fn set_aside(&mut self, index: usize, fate: LetterFate) {
        self.aside.insert(index, fate);
        self.isolation.clear();
    }

    /// Asks the policy, with what a worker would show it.
    fn decide(
        &self,
        call: FailedCall,
        attempts: Attempts,
        failure: &CallFailure,
        records: &FailedLetters<'_>,
    ) -> Decision {
        if log_once::is_due(attempts.count) {
            let panicked = failure.kind == FailureKind::Panic;
            let position = records.first.map(|record| record.position().to_string());
            let (call, attempt, error) = (call.as_str(), attempts.count, text(failure));
            tracing::warn!(
                call,
                attempt,
                panicked,
                position,
                error,
                "failed call of a redrive"
            );
        }
        let arrived = records.first.and_then(Record::approximate_arrival);
        let seen = Failure {
            call,
            kind: failure.kind,
            attempt: attempts.count,
            since_first: attempts.since_first,
            records: records.count,
            record: records.isolated,
            oldest_age: arrived.map(|arrived| self.setup.clock.wall().since(arrived)),
            bisected: records.bisected,
            error: failure.error.as_ref(),
        };
        decide(self.setup.policy.as_ref(), &seen)
    }

    /// The letter with the failures of this redrive.
    fn letter_again(&self, index: usize, attempts: Attempts, failure: &CallFailure) -> Option<DeadLetter> {
        let mut letter = self.letters.get(index)?.clone();
        letter.attempts = letter.attempts.saturating_add(attempts.total);
        letter.last_failure = self.setup.clock.wall();
        letter.severity = Failure::new(attempts.count, failure.kind, failure.error.as_ref()).severity();
        letter.panicked = failure.kind == FailureKind::Panic;
        letter.error = text(failure);
        Some(letter)
    }
}

/// The records of a failed call, as a policy sees them.
#[derive(Default)]
struct FailedLetters<'a> {
    count: usize,
    first: Option<&'a Record>,
    /// The record that failed, where it is known.
    isolated: Option<&'a Record>,
    bisected: bool,
}

/// Decides the fate of each of so many records, of which the first `finished` are finished. The first that was offered and is not
/// finished has the reason `unfinished`.
fn fates(
    count: usize,
    aside: &BTreeMap<usize, LetterFate>,
    finished: usize,
    unfinished: String,
    stopped: Option<(usize, String)>,
) -> Vec<LetterFate> {
    let mut unfinished = Some(unfinished);
    let fate = |index| match (aside.get(&index), &stopped) {
        (Some(fate), _) => fate.clone(),
        (None, _) if index < finished => LetterFate::Processed,
        (None, Some((at, why))) if *at == index => LetterFate::Left(Some(why.clone())),
        (None, Some((at, _))) if *at < index => LetterFate::Left(None),
        (None, _) => LetterFate::Left(unfinished.take()),
    };
    (0..count).map(fate).collect()
}

fn text(failure: &CallFailure) -> String {
    Causes(failure.error.as_ref()).to_string()
}

fn context_of(letter: &DeadLetter) -> ShardContext {
    ShardContext::of_lease(
        letter.application.clone(),
        letter.worker.clone(),
        (letter.stream.clone(), letter.stream_arn.clone()),
        (letter.shard.clone(), letter.hash_range),
        (LeaseKey::single_stream(&letter.shard), None),
        letter.fencing_token,
    )
    .of_redrive()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_letter_has_one_fate_and_its_reason() {
        let aside = BTreeMap::from([(1, LetterFate::Skipped), (4, LetterFate::DeadLetter)]);
        let left = |why: Option<&str>| LetterFate::Left(why.map(str::to_owned));
        let all = fates(
            7,
            &aside,
            2,
            "not flushed".to_owned(),
            Some((5, "held".to_owned())),
        );
        let expected = [
            LetterFate::Processed,
            LetterFate::Skipped,
            left(Some("not flushed")),
            left(None),
            LetterFate::DeadLetter,
            left(Some("held")),
            left(None),
        ];
        assert_eq!(all, expected);
        assert_eq!(
            fates(1, &BTreeMap::new(), 1, String::new(), None),
            [LetterFate::Processed]
        );
    }

    #[test]
    fn replaced_processor_finishes_nothing_more() {
        let finished = FinishedLetters::through(2);
        assert!(finished.finish(5).is_ok() && finished.finish(3).is_ok());
        assert_eq!(finished.fence(), 5);
        assert!(matches!(finished.finish(7), Err(CheckpointError::Fenced)));
    }
}
