//! Processors as users write them: quick, slow, failing, panicking, hanging.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::Rng;
use kcl_core::processor::{
    CheckpointError, ProcessorError, RecordBatch, RecordProcessor, RecordProcessorFactory, ShardContext,
};
use kcl_core::settings::CheckpointMode;
use kcl_testkit::fleet::Fleet;

/// Makes processors that err for as long as times are bad.
pub(super) struct ErraticProcessors {
    pub(super) fleet: Fleet,
    pub(super) rng: Rng,
    pub(super) bad_times: Arc<AtomicBool>,
    /// Whether every callback takes long.
    pub(super) is_slow: Arc<AtomicBool>,
}

impl RecordProcessorFactory for ErraticProcessors {
    fn create(&self, shard: &ShardContext) -> Box<dyn RecordProcessor> {
        let name = format!("{} {}", shard.shard(), shard.fencing_token());
        Box::new(ErraticProcessor {
            fleet: self.fleet.clone(),
            rng: self.rng.child(&name),
            bad_times: Arc::clone(&self.bad_times),
            is_slow: Arc::clone(&self.is_slow),
            collected: None,
        })
    }
}

struct ErraticProcessor {
    fleet: Fleet,
    rng: Rng,
    bad_times: Arc<AtomicBool>,
    is_slow: Arc<AtomicBool>,
    /// With manual checkpoints, the last batch that is processed and not checkpointed.
    collected: Option<RecordBatch>,
}

impl ErraticProcessor {
    /// Checkpoints what is processed, if it can, and keeps it for the next time if not.
    async fn flush(&mut self) {
        let Some(batch) = self.collected.take() else {
            return;
        };
        if let Err(CheckpointError::Unavailable(_) | CheckpointError::Suspended) = batch.checkpoint().await {
            self.collected = Some(batch);
        }
    }

    /// With manual checkpoints: checkpoints some batches at once, parts of others, and collects the rest.
    async fn collect(&mut self, batch: RecordBatch) {
        if self.fleet.settings().checkpoints.mode == CheckpointMode::Automatic {
            return;
        }
        let choice = self.rng.below(3);
        if choice == 0 {
            let part = usize::try_from(self.rng.below(batch.len() as u64)).unwrap();
            // What is not stored is with the next renewal, or comes again.
            let _ = batch.checkpoint_through(part).await;
        }
        self.collected = Some(batch);
        if choice == 1 {
            self.flush().await;
        }
    }
}

/// How long each callback takes while all are slow.
const SLOW: Duration = Duration::from_secs(9);

#[derive(Debug, thiserror::Error)]
#[error("the sink is unwell")]
struct Unwell;

#[async_trait]
impl RecordProcessor for ErraticProcessor {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        if self.is_slow.load(Ordering::Relaxed) {
            self.fleet.sleep(SLOW).await;
        }
        if !self.bad_times.load(Ordering::Relaxed) {
            self.collect(batch).await;
            return Ok(());
        }
        match self.rng.below(120) {
            0 => {
                let slow = Duration::from_millis(self.rng.below(9000));
                self.fleet.sleep(slow).await;
            }
            1 => return Err(ProcessorError::from(Unwell)),
            2 => {
                let index = usize::try_from(self.rng.below(batch.len() as u64)).unwrap();
                return Err(ProcessorError::from(Unwell).at(&batch[index]));
            }
            // A panic that only its worker notices.
            3 => std::panic::resume_unwind(Box::new("a bug of the user's")),
            // One that does not come back before times are good again.
            4 if self.rng.one_in(8) => {
                while self.bad_times.load(Ordering::Relaxed) {
                    self.fleet.sleep(Duration::from_millis(500)).await;
                }
            }
            _ => {}
        }
        self.collect(batch).await;
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
