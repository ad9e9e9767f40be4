//! A processor that records all its calls, and misbehaves on request.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{Clock, ClockExt as _};
use kcl_core::processor::{
    CheckpointError, FencingToken, ProcessorError, RecordBatch, RecordProcessor, RecordProcessorFactory,
    ShardContext, StartFrom,
};
use kcl_core::types::{Record, RecordPosition, ShardId, WorkerId};

/// One line of the [`Journal`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The worker.
    pub worker: WorkerId,
    /// The shard.
    pub shard: ShardId,
    /// The ownership of the shard.
    pub token: FencingToken,
    /// The call.
    pub event: Event,
}

/// A call of a processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was initialised.
    Initialized,
    /// It processed this record. The record is written down before its batch is acknowledged.
    Processed(Record),
    /// It was asked to finish.
    ShutdownRequested,
    /// Its shard ended.
    ShardEnded,
    /// Its lease was lost.
    LeaseLost,
}

/// How a call of `process_records` goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misbehaviour {
    /// It fails at the record with this index, or the last, after having processed those before it, and says so.
    FailAt(usize),
    /// It fails before the first record without saying where.
    Fail,
    /// It panics before the first record.
    Panic,
    /// It never returns.
    Hang,
    /// It takes this long before it processes the batch.
    TakeTime(Duration),
}

/// The factory of the processors, and all their calls: the "processed" side of an oracle. Clones share it.
///
/// Give a clone to each worker of a fleet; the entries of all of them stand in one order.
///
/// ```
/// use std::sync::Arc;
/// use kcl_core::types::{ApplicationName, Record, SequenceNumber, ShardId, WorkerId};
/// use kcl_core::processor::{FencingToken, RecordBatch, RecordProcessorFactory, ShardContext};
/// use kcl_core::clock::TokioClock;
/// use kcl_testkit::processors::Journal;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let shard = ShardContext::new(ApplicationName::new("app")?, WorkerId::new("w")?, "trucks", ShardId::new("s")?, FencingToken::new(1));
/// let journal = Journal::new(Arc::new(TokioClock::new()));
/// let mut processor = journal.create(&shard);
/// let batch = RecordBatch::unowned(vec![Record::new(SequenceNumber::from(1), "payload")]);
/// processor.process_records(batch, &shard).await.expect("it behaves");
/// assert_eq!(journal.processed().len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Journal {
    shared: Arc<Mutex<Pages>>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct Pages {
    entries: Vec<Entry>,
    script: VecDeque<(Option<ShardId>, Misbehaviour)>,
}

impl Journal {
    /// An empty journal; slow processors take their time by this clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            shared: Arc::default(),
            clock,
        }
    }

    /// Makes the next call of `process_records` on any shard go wrong, after those that were requested before.
    pub fn misbehave(&self, how: Misbehaviour) {
        self.lock().script.push_back((None, how));
    }

    /// Makes the next call of `process_records` on this shard go wrong, after those that were requested before.
    pub fn misbehave_on(&self, shard: ShardId, how: Misbehaviour) {
        self.lock().script.push_back((Some(shard), how));
    }

    /// How many of the requests to misbehave no call has met yet.
    #[must_use]
    pub fn still_to_come(&self) -> usize {
        self.lock().script.len()
    }

    /// Everything so far, in order.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.clone()
    }

    /// The records processed so far, in order, each with its shard; a record that came twice is there twice.
    #[must_use]
    pub fn processed(&self) -> Vec<(ShardId, Record)> {
        let entries = &self.lock().entries;
        let processed = |entry: &Entry| match &entry.event {
            Event::Processed(record) => Some((entry.shard.clone(), record.clone())),
            Event::Initialized | Event::ShutdownRequested | Event::ShardEnded | Event::LeaseLost => None,
        };
        entries.iter().filter_map(processed).collect()
    }

    fn write(&self, shard: &ShardContext, events: impl Iterator<Item = Event>) {
        let entry = |event| Entry {
            worker: shard.worker().clone(),
            shard: shard.shard().clone(),
            token: shard.fencing_token(),
            event,
        };
        self.lock().entries.extend(events.map(entry));
    }

    fn write_records(&self, shard: &ShardContext, records: &[Record]) {
        self.write(shard, records.iter().cloned().map(Event::Processed));
    }

    fn next_misbehaviour(&self, shard: &ShardId) -> Option<Misbehaviour> {
        let mut pages = self.lock();
        let fits = |only: &Option<ShardId>| only.as_ref().is_none_or(|only| only == shard);
        let index = pages.script.iter().position(|(only, _)| fits(only))?;
        pages.script.remove(index).map(|(_, how)| how)
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecordProcessorFactory for Journal {
    fn create(&self, _: &ShardContext) -> Box<dyn RecordProcessor> {
        Box::new(JournalProcessor(self.clone()))
    }
}

/// Sees the checkpoints that a processor under test makes. Clones share what is seen.
///
/// ```
/// use kcl_core::types::{Record, SequenceNumber};
/// use kcl_core::processor::CheckpointError;
/// use kcl_testkit::processors::Checkpoints;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let checkpoints = Checkpoints::default();
/// let records = (1..4_u128).map(|n| Record::new(SequenceNumber::from(n), "payload"));
/// // The processor under test is given the batch.
/// let batch = checkpoints.batch(records.collect());
/// batch.checkpoint_through(1).await.expect("nothing is in its way");
/// assert_eq!(checkpoints.last().map(|last| last.sequence), Some(SequenceNumber::from(2)));
///
/// checkpoints.fail_next(CheckpointError::Fenced);
/// assert!(batch.checkpoint().await.is_err());
/// assert_eq!(checkpoints.all().len(), 1);
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Checkpoints {
    shared: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    checkpoints: Vec<RecordPosition>,
    failures: VecDeque<CheckpointError>,
}

impl Checkpoints {
    /// A batch that belongs to no shard, with these records, whose checkpoints are seen.
    #[must_use]
    pub fn batch(&self, records: Vec<Record>) -> RecordBatch {
        self.watch(RecordBatch::unowned(records))
    }

    /// The batch, whose checkpoints are seen from now on.
    #[must_use]
    pub fn watch(&self, batch: RecordBatch) -> RecordBatch {
        let seen = self.clone();
        batch.on_checkpoint(move |through| {
            let mut seen = seen.lock();
            if let Some(error) = seen.failures.pop_front() {
                return Err(error);
            }
            seen.checkpoints.push(through.clone());
            Ok(())
        })
    }

    /// Makes the next checkpoint fail with this error, after those that were requested before.
    pub fn fail_next(&self, error: CheckpointError) {
        self.lock().failures.push_back(error);
    }

    /// Every checkpoint so far that did not fail, in order.
    #[must_use]
    pub fn all(&self) -> Vec<RecordPosition> {
        self.lock().checkpoints.clone()
    }

    /// The last checkpoint that did not fail.
    #[must_use]
    pub fn last(&self) -> Option<RecordPosition> {
        self.lock().checkpoints.last().cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The processor of one ownership of a shard.
#[derive(Debug)]
struct JournalProcessor(Journal);

#[async_trait]
impl RecordProcessor for JournalProcessor {
    async fn initialize(&mut self, shard: &ShardContext) -> Result<StartFrom, ProcessorError> {
        self.0.write(shard, std::iter::once(Event::Initialized));
        Ok(StartFrom::Checkpoint)
    }

    #[expect(clippy::panic, reason = "a test asked for a processor that panics")]
    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        match self.0.next_misbehaviour(shard.shard()) {
            None => {}
            Some(Misbehaviour::Fail) => return Err(ProcessorError::transient("made to fail")),
            Some(Misbehaviour::Panic) => panic!("made to panic"),
            Some(Misbehaviour::Hang) => std::future::pending().await,
            Some(Misbehaviour::TakeTime(time)) => self.0.clock.sleep(time).await,
            Some(Misbehaviour::FailAt(index)) => {
                let index = index.min(batch.len().saturating_sub(1));
                let (done, rest) = batch.split_at(index);
                self.0.write_records(shard, done);
                let error = ProcessorError::transient("made to fail");
                return Err(rest.first().map_or_else(
                    || ProcessorError::transient("made to fail on nothing"),
                    |failed| error.at(failed),
                ));
            }
        }
        self.0.write_records(shard, &batch);
        Ok(())
    }

    async fn shutdown_requested(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        self.0.write(shard, std::iter::once(Event::ShutdownRequested));
        Ok(())
    }

    async fn shard_ended(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        self.0.write(shard, std::iter::once(Event::ShardEnded));
        Ok(())
    }

    async fn lease_lost(&mut self, shard: &ShardContext) {
        self.0.write(shard, std::iter::once(Event::LeaseLost));
    }
}

#[cfg(test)]
mod tests {
    use kcl_core::clock::TokioClock;
    use kcl_core::types::{ApplicationName, SequenceNumber};

    use super::*;

    fn context(shard: &str) -> ShardContext {
        ShardContext::new(
            ApplicationName::new("app").unwrap(),
            WorkerId::new("worker").unwrap(),
            "trucks",
            ShardId::new(shard).unwrap(),
            FencingToken::new(7),
        )
    }

    fn batch(numbers: std::ops::Range<u128>) -> RecordBatch {
        RecordBatch::unowned(numbers.map(|n| Record::new(n.into(), "x")).collect())
    }

    fn numbers(journal: &Journal) -> Vec<SequenceNumber> {
        let processed = journal.processed();
        processed
            .iter()
            .map(|(_, record)| record.sequence_number().clone())
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn every_call_is_noted_in_order_with_ownership() {
        let journal = Journal::new(Arc::new(TokioClock::new()));
        let shard = context("s");
        let mut processor = journal.create(&shard);
        processor.initialize(&shard).await.unwrap();
        processor.process_records(batch(0..2), &shard).await.unwrap();
        processor.shutdown_requested(&shard).await.unwrap();
        processor.shard_ended(&shard).await.unwrap();
        processor.lease_lost(&shard).await;
        let entries = journal.entries();
        assert!(entries.iter().all(|entry| entry.token == FencingToken::new(7)));
        let record = |n: u128| Event::Processed(Record::new(n.into(), "x"));
        let events: Vec<_> = entries.into_iter().map(|entry| entry.event).collect();
        assert_eq!(
            events,
            [
                Event::Initialized,
                record(0),
                record(1),
                Event::ShutdownRequested,
                Event::ShardEnded,
                Event::LeaseLost
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failure_at_record_processes_those_before_it() {
        let journal = Journal::new(Arc::new(TokioClock::new()));
        let (shard, other) = (context("s"), context("other"));
        let mut processor = journal.create(&shard);
        journal.misbehave_on(shard.shard().clone(), Misbehaviour::FailAt(1));
        processor.process_records(batch(7..8), &other).await.unwrap();
        let error = processor.process_records(batch(0..3), &shard).await.unwrap_err();
        assert_eq!(error.position().map(|at| at.sequence.clone()), Some(1.into()));
        processor.process_records(batch(1..3), &shard).await.unwrap();
        assert_eq!(numbers(&journal), [7, 0, 1, 2].map(SequenceNumber::from));
        assert_eq!(journal.still_to_come(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn misbehaviour_comes_in_order_it_was_asked_for() {
        let clock = Arc::new(TokioClock::new());
        let journal = Journal::new(clock.clone());
        let shard = context("s");
        let mut processor = journal.create(&shard);
        journal.misbehave(Misbehaviour::Fail);
        journal.misbehave(Misbehaviour::TakeTime(Duration::from_secs(5)));
        journal.misbehave(Misbehaviour::Hang);
        assert!(processor.process_records(batch(0..1), &shard).await.is_err());
        assert_eq!(numbers(&journal), []);
        processor.process_records(batch(0..1), &shard).await.unwrap();
        assert_eq!(clock.now().since_origin(), Duration::from_secs(5));
        let hanging = processor.process_records(batch(1..2), &shard);
        assert!(clock.timeout(Duration::from_secs(3600), hanging).await.is_err());
        assert_eq!(numbers(&journal), [SequenceNumber::from(0)]);
    }
}
