//! Processors as users write them: quick, slow, failing, panicking, hanging.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::processor::{
    ProcessorError, RecordBatch, RecordProcessor, RecordProcessorFactory, ShardContext,
};
use kcl_core::rng::Rng;
use kcl_testkit::fleet::Fleet;

/// Makes processors that have their moods for as long as times are bad.
pub(super) struct Moods {
    pub(super) fleet: Fleet,
    pub(super) rng: Rng,
    pub(super) bad_times: Arc<AtomicBool>,
}

impl RecordProcessorFactory for Moods {
    fn create(&self, shard: &ShardContext) -> Box<dyn RecordProcessor> {
        let name = format!("{} {}", shard.shard(), shard.fencing_token());
        Box::new(Moody {
            fleet: self.fleet.clone(),
            rng: self.rng.child(&name),
            bad_times: Arc::clone(&self.bad_times),
        })
    }
}

struct Moody {
    fleet: Fleet,
    rng: Rng,
    bad_times: Arc<AtomicBool>,
}

#[derive(Debug, thiserror::Error)]
#[error("the sink is unwell")]
struct Unwell;

#[async_trait]
impl RecordProcessor for Moody {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        if !self.bad_times.load(Ordering::Relaxed) {
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
            // A panic that tells nobody but its worker.
            3 => std::panic::resume_unwind(Box::new("a bug of the user's")),
            // One that does not come back before times are good again.
            4 if self.rng.one_in(8) => {
                while self.bad_times.load(Ordering::Relaxed) {
                    self.fleet.sleep(Duration::from_millis(500)).await;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
