//! Hands dead letters to a processor again, through the same policy, without a lease.

mod plan;
mod shard_redrive;

use std::fmt;
use std::sync::Arc;

use tracing::Instrument as _;

use crate::consumer::redrive::plan::RedrivePlan;
use crate::consumer::redrive::shard_redrive::{LetterFate, RedriveSetup, redrive_shard};
use crate::dead_letter::{DeadLetter, DeadLetterKey, DeadLetterSink};
use crate::processor::{ErrorPolicy, LastResort, Policy, RecordProcessorFactory};
use crate::runtime::clock::{Clock, TokioClock};
use crate::settings::CheckpointMode;

/// Hands dead letters to a processor again: in order per shard, through an error policy, without leases.
///
/// A letter of an aggregated record that could not be unpacked is unpacked again, and its user records are offered and reported each as a
/// letter of its own; some of them may have been processed before. One that still cannot be unpacked is left, and those behind it are offered.
///
/// The processor of each shard is made with the [context](crate::processor::ShardContext) of the newest letter, so its fencing token is that of the ownership
/// that set the record aside: a sink that has seen a larger one refuses what is redriven.
/// [`initialize`](crate::processor::RecordProcessor::initialize) is called, and what it returns is not looked at; so is
/// [`shutdown_requested`](crate::processor::RecordProcessor::shutdown_requested) at the end of each shard: if that fails, the letters of the
/// shard are left, since the processor may not have flushed them. Checkpoints store nothing; with [manual ones](Self::checkpoint_mode) they say
/// which letters are processed.
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
    setup: RedriveSetup,
}

impl fmt::Debug for Redrive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redrive")
            .field("policy", &self.setup.policy)
            .field("sink", &self.setup.sink)
            .finish_non_exhaustive()
    }
}

/// The account of letters that were handed to a processor again. Each is in one list, in the order of shards and positions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedriveReport {
    /// The letters that the processor finished.
    pub processed: Vec<DeadLetterKey>,
    /// The letters that were set aside again, and that a sink has acknowledged.
    pub dead_letters: Vec<DeadLetterKey>,
    /// The letters that were skipped, as the policy said.
    pub skipped: Vec<DeadLetterKey>,
    /// The letters that are left, with the reason where a shard stopped or a letter was left by itself: the policy said to hold, to release or
    /// to stop, or wanted a dead letter where there is no sink, the sink failed, the processor did not flush or checkpoint what it was
    /// given, or the record still cannot be unpacked. Redrive them again.
    pub left: Vec<(DeadLetterKey, Option<String>)>,
}

impl Redrive {
    /// Begins with the factory of the processors: the one that the worker has.
    pub fn new(factory: impl RecordProcessorFactory) -> Self {
        let mode = factory.checkpoint_mode();
        Self {
            setup: RedriveSetup {
                factory: Arc::new(factory),
                policy: Arc::new(Policy::new(LastResort::Hold)),
                sink: None,
                clock: Arc::new(TokioClock::new()),
                most: 1000,
                mode: mode.unwrap_or_default(),
            },
        }
    }

    /// Sets the policy for failures. By default it is [`Policy::new`] with [`LastResort::Hold`]: letters that fail again are left, and
    /// [transient](crate::processor::Severity::Transient) failures are retried for ever.
    pub fn error_policy(mut self, policy: impl ErrorPolicy) -> Self {
        self.setup.policy = Arc::new(policy);
        self
    }

    /// Sets where records go that fail again. Not the folder that the letters came from. A send that fails, panics or takes longer than 30 s
    /// leaves the letter and those behind it.
    pub fn dead_letters(mut self, sink: impl DeadLetterSink) -> Self {
        self.setup.sink = Some(Arc::new(sink));
        self
    }

    /// Sets the source of time; the runtime's by default.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.setup.clock = clock;
        self
    }

    /// Sets the most records in one call, 1000 by default; 0 counts as 1.
    pub fn max_batch_records(mut self, most: usize) -> Self {
        self.setup.most = most.max(1);
        self
    }

    /// Sets who declares a record done, as for the worker: by default a call that returned `Ok`. With
    /// [`CheckpointMode::Manual`], letters are processed once the processor has checkpointed them, by the end of `shutdown_requested`.
    /// A factory that [needs a mode](RecordProcessorFactory::checkpoint_mode) has it in any case.
    pub fn checkpoint_mode(mut self, mode: CheckpointMode) -> Self {
        self.setup.mode = self.setup.factory.checkpoint_mode().unwrap_or(mode);
        self
    }

    /// Hands the letters over, shard by shard, each shard in order. Of several copies of a letter, the one that failed last
    /// is handed over.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the call under way; letters may be finished that no report names.
    pub async fn run(&self, letters: impl IntoIterator<Item = DeadLetter>) -> RedriveReport {
        let plan = RedrivePlan::new(letters);
        let mut report = RedriveReport::default();
        for letters in plan.shards() {
            let of_shard = letters.first();
            let stream = of_shard.map(|letter| letter.stream.as_str());
            let shard = of_shard.map(|letter| letter.shard.as_str());
            let span = tracing::info_span!("redrive", stream, shard);
            let fates = redrive_shard(&self.setup, letters).instrument(span).await;
            for (letter, fate) in letters.iter().zip(fates) {
                report.add(letter.key(), fate);
            }
        }
        for key in plan.empty {
            report.add(key, LetterFate::Processed);
        }
        for (key, why) in plan.unreadable {
            tracing::warn!(position = %key.position, why, "left a dead letter that still cannot be unpacked");
            report.add(key, LetterFate::Left(Some(why)));
        }
        report.processed.sort();
        report.left.sort();
        report
    }
}

impl RedriveReport {
    fn add(&mut self, key: DeadLetterKey, fate: LetterFate) {
        match fate {
            LetterFate::Processed => self.processed.push(key),
            LetterFate::DeadLetter => self.dead_letters.push(key),
            LetterFate::Skipped => self.skipped.push(key),
            LetterFate::Left(why) => self.left.push((key, why)),
        }
    }
}
