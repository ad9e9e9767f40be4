//! Hands dead letters to a processor again, through the same policy, without a lease.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::consumer::delivery::{CallFailure, Delivery, ThreadObserver, ToProcessor};
use crate::consumer::isolation::Isolation;
use crate::dead_letter::{DeadLetter, DeadLetterKey, DeadLetterSink};
use crate::error::Causes;
use crate::processor::{
    Decision, ErrorPolicy, FailedCall, Failure, FailureKind, Policy, RecordBatch, RecordProcessorFactory,
    ShardContext, decide,
};
use crate::runtime::clock::{Clock, ClockExt as _, TokioClock};
use crate::runtime::stall_probe::CallbackThread;
use crate::types::{Record, ShardId, WorkerId};

/// Hands dead letters to a processor again: in order per shard, through an error policy, without leases.
///
/// The processor of each shard is made with the [context](ShardContext) of the newest letter, so its fencing token is that of the ownership
/// that set the record aside: a sink that has seen a larger one refuses what is redriven.
/// [`initialize`](crate::processor::RecordProcessor::initialize) is called, and what it returns is not looked at; so is
/// [`shutdown_requested`](crate::processor::RecordProcessor::shutdown_requested) at the end of each shard. Checkpoints store nothing.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::dead_letter::DeadLetter;
/// use kinesis_client::processor::{LastResort, Policy, RecordProcessor, ShardContext};
/// use kinesis_client::{Redrive, RedriveReport};
///
/// async fn again<P: RecordProcessor + Default>(letters: Vec<DeadLetter>) -> RedriveReport {
///     Redrive::new(|_: &ShardContext| P::default())
///         .error_policy(Policy::new(LastResort::Skip))
///         .run(letters)
///         .await
/// }
/// ```
#[must_use]
pub struct Redrive {
    factory: Arc<dyn RecordProcessorFactory>,
    policy: Arc<dyn ErrorPolicy>,
    sink: Option<Arc<dyn DeadLetterSink>>,
    clock: Arc<dyn Clock>,
    most: usize,
}

impl fmt::Debug for Redrive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redrive")
            .field("policy", &self.policy)
            .field("sink", &self.sink)
            .finish_non_exhaustive()
    }
}

/// The account of letters that were handed to a processor again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedriveReport {
    /// The letters that the processor finished, in the order of shards and positions.
    pub processed: Vec<DeadLetterKey>,
    /// The letters that were set aside again, and that a sink has acknowledged.
    pub dead_letters: Vec<DeadLetterKey>,
    /// The letters that were skipped, as the policy said.
    pub skipped: Vec<DeadLetterKey>,
    /// The letters that are left, with the error of the first of each shard: the policy said to hold, to release or to stop, or wanted a
    /// dead letter where there is no sink, or the sink failed. Redrive them again.
    pub left: Vec<(DeadLetterKey, Option<String>)>,
}

/// How one shard goes on after a failure.
enum Next {
    Again,
    Passed,
    Stopped(String),
}

impl Redrive {
    /// Begins with the factory of the processors: the one that the worker has.
    pub fn new(factory: impl RecordProcessorFactory) -> Self {
        Self {
            factory: Arc::new(factory),
            policy: Arc::new(Policy::default()),
            sink: None,
            clock: Arc::new(TokioClock::new()),
            most: 1000,
        }
    }

    /// Sets the policy for failures. By default every failure is tried again for ever, as by a worker.
    pub fn error_policy(mut self, policy: impl ErrorPolicy) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// Sets where records go that fail again. Not the folder that the letters came from.
    pub fn dead_letters(mut self, sink: impl DeadLetterSink) -> Self {
        self.sink = Some(Arc::new(sink));
        self
    }

    /// Sets the source of time; the runtime's by default.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the most records in one call, 1000 by default; 0 counts as 1.
    pub fn max_batch_records(mut self, most: usize) -> Self {
        self.most = most.max(1);
        self
    }

    /// Hands the letters over, shard by shard, each shard in order. A letter that is there twice is handed over once.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the call under way; letters may be finished that no report names.
    pub async fn run(&self, letters: impl IntoIterator<Item = DeadLetter>) -> RedriveReport {
        let mut shards: BTreeMap<(String, ShardId), BTreeMap<_, DeadLetter>> = BTreeMap::new();
        for letter in letters {
            let shard = shards
                .entry((letter.stream.clone(), letter.shard.clone()))
                .or_default();
            shard.insert(letter.record.position().clone(), letter);
        }
        let mut report = RedriveReport::default();
        for letters in shards.into_values() {
            self.run_shard(letters.into_values().collect(), &mut report).await;
        }
        report
    }

    async fn run_shard(&self, letters: Vec<DeadLetter>, report: &mut RedriveReport) {
        let Some(newest) = letters.iter().max_by_key(|letter| letter.fencing_token) else {
            return;
        };
        let watch = ThreadObserver {
            on_thread: Arc::new(CallbackThread::default()),
            clock: Arc::clone(&self.clock),
        };
        let mut delivery = ToProcessor::new(Arc::clone(&self.factory), context_of(newest), watch);
        let records: Vec<Record> = letters.iter().map(|letter| letter.record.clone()).collect();
        let mut isolation = Isolation::default();
        let mut front = 0;
        let mut stopped = None;
        // A panic costs the processor: the next one is initialized, too.
        let mut is_ready = false;
        let mut failures = 0;
        while front < records.len() && stopped.is_none() {
            if !is_ready {
                match delivery.initialize().await {
                    Ok(_) => is_ready = true,
                    Err(failure) => {
                        failures += 1;
                        let seen = self.failure(FailedCall::Initialize, failures, Duration::ZERO, &failure);
                        let decision = decide(self.policy.as_ref(), &seen);
                        if let Decision::Retry { after } = decision {
                            self.clock.sleep(after).await;
                        } else {
                            stopped = Some(format!("initialize failed ({decision:?}): {}", text(&failure)))
                        }
                        continue;
                    }
                }
            }
            let rest = &records[front..];
            let count = isolation.next_offer(rest.iter().map(Record::position), self.most);
            let part = &rest[..count];
            let Err(failure) = delivery.offer(RecordBatch::unowned(part.to_vec())).await else {
                let keys = letters[front..front + count].iter().map(DeadLetter::key);
                report.processed.extend(keys);
                let next = rest.get(count).map(Record::position);
                isolation.finished(part[count - 1].position(), next);
                front += count;
                continue;
            };
            is_ready = failure.kind != FailureKind::Panic;
            let named = failure.position.as_ref();
            let named = named.and_then(|named| part.iter().position(|record| record.position() == named));
            if let Some(named) = named {
                report
                    .processed
                    .extend(letters[front..front + named].iter().map(DeadLetter::key));
                front += named;
            }
            let failed = &part[named.unwrap_or(0)..];
            let alone = named.is_some() || failed.len() == 1;
            match self
                .after_failure(&mut isolation, failed, alone, &failure, &letters[front], report)
                .await
            {
                Next::Again => {}
                Next::Passed => front += 1,
                Next::Stopped(why) => stopped = Some(why),
            }
        }
        if is_ready && let Err(failure) = delivery.drain().await {
            tracing::warn!(error = text(&failure), "shutdown_requested failed");
        }
        for letter in &letters[front..] {
            report.left.push((letter.key(), stopped.take()));
        }
    }

    async fn after_failure(
        &self,
        isolation: &mut Isolation,
        failed: &[Record],
        alone: bool,
        failure: &CallFailure,
        letter: &DeadLetter,
        report: &mut RedriveReport,
    ) -> Next {
        let (Some(first), Some(last)) = (failed.first(), failed.last()) else {
            return Next::Again;
        };
        let now = self.clock.now();
        let bisected = isolation.is_bisecting();
        let attempts = isolation.failed(first.position(), last.position(), failure.kind, now);
        let seen = Failure {
            records: failed.len(),
            record: alone.then_some(first),
            bisected,
            ..self.failure(
                FailedCall::ProcessRecords,
                attempts.count,
                attempts.since_first,
                failure,
            )
        };
        let decision = decide(self.policy.as_ref(), &seen);
        match decision {
            Decision::Retry { after } => self.clock.sleep(after).await,
            Decision::Bisect | Decision::DeadLetter | Decision::Skip if !alone => {
                isolation.bisect(last.position());
            }
            Decision::Skip => {
                report.skipped.push(letter.key());
                isolation.clear();
                return Next::Passed;
            }
            Decision::DeadLetter => {
                let Some(sink) = &self.sink else {
                    return Next::Stopped(format!("no sink for a dead letter: {}", text(failure)));
                };
                let mut letter = letter.clone();
                letter.attempts = letter.attempts.saturating_add(attempts.total);
                letter.last_failure = self.clock.wall();
                letter.severity = seen.severity();
                letter.panicked = failure.kind == FailureKind::Panic;
                letter.error = text(failure);
                if let Err(error) = sink.send(&letter).await {
                    return Next::Stopped(format!("dead letter not accepted: {}", Causes(&error)));
                }
                report.dead_letters.push(letter.key());
                isolation.clear();
                return Next::Passed;
            }
            decision @ (Decision::Bisect | Decision::Hold | Decision::Release | Decision::Stop) => {
                return Next::Stopped(format!("{decision:?}: {}", text(failure)));
            }
        }
        Next::Again
    }

    fn failure<'a>(
        &self,
        call: FailedCall,
        attempt: u32,
        since_first: Duration,
        failure: &'a CallFailure,
    ) -> Failure<'a> {
        Failure {
            call,
            kind: failure.kind,
            attempt,
            since_first,
            records: 0,
            record: None,
            oldest_age: None,
            bisected: false,
            error: failure.error.as_ref(),
        }
    }
}

fn text(failure: &CallFailure) -> String {
    Causes(failure.error.as_ref()).to_string()
}

fn context_of(letter: &DeadLetter) -> ShardContext {
    let worker: WorkerId = letter.worker.clone();
    let (stream, shard) = (letter.stream.clone(), letter.shard.clone());
    let context = ShardContext::new(
        letter.application.clone(),
        worker,
        stream,
        shard,
        letter.fencing_token,
    )
    .of_redrive();
    match letter.hash_range {
        Some(range) => context.with_hash_range(range),
        None => context,
    }
}
