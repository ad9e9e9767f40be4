//! Processors as users write them: quick, slow, failing, panicking, hanging.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::fleet::Fleet;
use async_trait::async_trait;
use kcl_core::clock::Rng;
use kcl_core::processor::{
    CheckpointError, ProcessorError, RecordBatch, RecordProcessor, RecordProcessorFactory, Severity,
    ShardContext,
};
use kcl_core::settings::CheckpointMode;
use kcl_core::types::{Record, RecordPosition, SequenceNumber};

use super::failing_records::{FailingRecords, PoisonKind, RecordFate};

/// Makes processors that err for as long as times are bad.
pub(super) struct ErraticProcessors {
    pub(super) fleet: Fleet,
    pub(super) rng: Rng,
    pub(super) bad_times: Arc<AtomicBool>,
    /// Whether every callback takes long.
    pub(super) is_slow: Arc<AtomicBool>,
    pub(super) failing: Option<FailingRecords>,
    pub(super) passed: Passed,
    /// How many it has made.
    pub(super) made: AtomicU64,
}

/// How often each record failed that passes in the end.
pub(super) type Passed = Arc<Mutex<BTreeMap<RecordPosition, u32>>>;

impl RecordProcessorFactory for ErraticProcessors {
    fn create(&self, shard: &ShardContext) -> Box<dyn RecordProcessor> {
        let mut name = format!("{} {}", shard.shard(), shard.fencing_token());
        if self.failing.is_some() {
            // After a panic the next processor does not panic at the same call: only poison fails for ever.
            name = format!("{name} {}", self.made.fetch_add(1, Ordering::Relaxed));
        }
        Box::new(ErraticProcessor {
            fleet: self.fleet.clone(),
            rng: self.rng.child(&name),
            bad_times: Arc::clone(&self.bad_times),
            is_slow: Arc::clone(&self.is_slow),
            failing: self.failing.clone(),
            passed: Arc::clone(&self.passed),
            collected: None,
        })
    }
}

struct ErraticProcessor {
    fleet: Fleet,
    rng: Rng,
    bad_times: Arc<AtomicBool>,
    is_slow: Arc<AtomicBool>,
    failing: Option<FailingRecords>,
    passed: Passed,
    /// With manual checkpoints, the last batch that is processed and not checkpointed, and how many of its records are.
    collected: Option<(RecordBatch, usize)>,
}

impl ErraticProcessor {
    /// Checkpoints what is processed, if it can, and keeps it for the next time if not.
    async fn flush(&mut self) {
        let Some((batch, count)) = self.collected.take() else {
            return;
        };
        if let Err(CheckpointError::Unavailable(_) | CheckpointError::Suspended) =
            batch.checkpoint_through(count.saturating_sub(1)).await
        {
            self.collected = Some((batch, count));
        }
    }

    /// With manual checkpoints: checkpoints some batches at once, parts of others, and collects the rest. The first `count` records are
    /// processed.
    async fn collect(&mut self, batch: RecordBatch, count: usize) {
        if count == 0 || self.fleet.settings().checkpoints.mode == CheckpointMode::Automatic {
            return;
        }
        let choice = self.rng.below(3);
        if choice == 0 {
            let part = usize::try_from(self.rng.below(count as u64)).unwrap();
            // What is not stored is with the next renewal, or comes again.
            let _ = batch.checkpoint_through(part).await;
        }
        self.collected = Some((batch, count));
        if choice == 1 {
            self.flush().await;
        }
    }

    /// The first record of the batch that fails, and how.
    fn first_failing(&self, batch: &RecordBatch) -> Option<(usize, RecordFate)> {
        let failing = self.failing.as_ref()?;
        let fates = batch.iter().map(Record::position).enumerate();
        let mut failed = fates.map(|(index, position)| (index, position, failing.fate(position)));
        failed.find_map(|(index, position, fate)| {
            let fails = match fate {
                RecordFate::Good => false,
                RecordFate::Poison(_) => true,
                RecordFate::Passing(times) => {
                    let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
                    let failures = passed.entry(position.clone()).or_default();
                    *failures += 1;
                    *failures <= times
                }
            };
            fails.then_some((index, fate))
        })
    }

    async fn fail(&mut self, batch: RecordBatch, index: usize, fate: RecordFate) -> ProcessorError {
        if self.rng.one_in(8) {
            let slow = Duration::from_millis(self.rng.below(2000));
            self.fleet.sleep(slow).await;
        }
        let is_named = match fate {
            RecordFate::Poison(PoisonKind::Panic) => {
                std::panic::resume_unwind(Box::new("a record that panics"))
            }
            RecordFate::Poison(PoisonKind::Unnamed(_)) => false,
            RecordFate::Poison(PoisonKind::Named(_)) => true,
            RecordFate::Passing(_) | RecordFate::Good => self.rng.one_in(2),
        };
        let error = match fate {
            RecordFate::Poison(
                PoisonKind::Named(Severity::Poison) | PoisonKind::Unnamed(Severity::Poison),
            ) => ProcessorError::poison("no such truck"),
            RecordFate::Poison(_) => ProcessorError::from("no such truck"),
            RecordFate::Passing(_) | RecordFate::Good => unwell(true),
        };
        if !is_named {
            return error;
        }
        let error = error.at(&batch[index]);
        self.collect(batch, index).await;
        error
    }
}

/// How long each callback takes while all are slow.
const SLOW: Duration = Duration::from_secs(9);

/// The failure of a sink. Where records are set aside, only a transient one costs no record its attempts.
fn unwell(is_transient: bool) -> ProcessorError {
    match is_transient {
        true => ProcessorError::transient("the sink is unwell"),
        false => ProcessorError::from("the sink is unwell"),
    }
}

#[async_trait]
impl RecordProcessor for ErraticProcessor {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        if self.is_slow.load(Ordering::Relaxed) {
            self.fleet.sleep(SLOW).await;
        }
        if let Some((index, fate)) = self.first_failing(&batch) {
            return Err(self.fail(batch, index, fate).await);
        }
        let sets_aside = self.failing.is_some();
        let count = batch.len();
        if !self.bad_times.load(Ordering::Relaxed) {
            self.collect(batch, count).await;
            return Ok(());
        }
        match self.rng.below(120) {
            0 => {
                let slow = Duration::from_millis(self.rng.below(9000));
                self.fleet.sleep(slow).await;
            }
            1 => return Err(unwell(sets_aside)),
            2 => {
                let index = usize::try_from(self.rng.below(batch.len() as u64)).unwrap();
                return Err(unwell(sets_aside).at(&batch[index]));
            }
            // A panic that only its worker notices.
            3 => std::panic::resume_unwind(Box::new("a bug of the user's")),
            // One that does not come back before times are good again.
            4 if self.rng.one_in(8) => {
                while self.bad_times.load(Ordering::Relaxed) {
                    self.fleet.sleep(Duration::from_millis(500)).await;
                }
            }
            // It names a record that it was never given, or gives up altogether.
            5 if sets_aside => {
                let other = Record::new(SequenceNumber::from(u128::MAX), "never delivered");
                return Err(match self.rng.one_in(4) {
                    true => ProcessorError::fatal("the sink is gone"),
                    false => unwell(true).at(&other),
                });
            }
            _ => {}
        }
        self.collect(batch, count).await;
        Ok(())
    }

    async fn tick(&mut self, _: &ShardContext) -> Result<(), ProcessorError> {
        // Some are flushed at the first tick, and some late.
        if self.collected.is_some() && self.rng.one_in(3) {
            self.flush().await;
        }
        Ok(())
    }

    async fn shutdown_requested(&mut self, _: &ShardContext) -> Result<(), ProcessorError> {
        if self.collected.is_some() && self.rng.one_in(2) {
            self.flush().await;
        }
        Ok(())
    }
}
