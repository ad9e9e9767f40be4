//! Handlers as users write them: quick, slow, failing, panicking, hanging.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kcl_core::clock::Rng;
use kcl_core::processor::{
    Concurrency, ProcessorError, RecordHandler, RecordHandlers, RecordProcessorFactory, Severity,
    ShardContext,
};
use kcl_core::types::Record;

use super::failing_records::{FailingRecords, PoisonKind, RecordFate};
use super::processor_behavior::{ErraticProcessors, Passed};
use crate::fleet::Fleet;

impl ErraticProcessors {
    /// Handlers that err in the same ways, called like this.
    pub(super) fn handlers(self, concurrency: Concurrency) -> impl RecordProcessorFactory {
        RecordHandlers::new(concurrency, move |shard: &ShardContext| ErraticHandler {
            fleet: self.fleet.clone(),
            rng: Mutex::new(
                self.rng
                    .child(&format!("{} {}", shard.shard(), shard.fencing_token())),
            ),
            bad_times: Arc::clone(&self.bad_times),
            is_slow: Arc::clone(&self.is_slow),
            failing: self.failing.clone(),
            passed: Arc::clone(&self.passed),
        })
    }
}

struct ErraticHandler {
    fleet: Fleet,
    rng: Mutex<Rng>,
    bad_times: Arc<AtomicBool>,
    is_slow: Arc<AtomicBool>,
    failing: Option<FailingRecords>,
    passed: Passed,
}

/// How long each call takes while all are slow.
const SLOW: Duration = Duration::from_secs(9);

impl ErraticHandler {
    fn below(&self, bound: u64) -> u64 {
        self.rng
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .below(bound)
    }

    async fn sleep_up_to(&self, millis: u64) {
        let time = Duration::from_millis(self.below(millis));
        self.fleet.sleep(time).await;
    }

    /// How the record fails this time, if it does.
    fn failure(&self, record: &Record) -> Option<RecordFate> {
        let fate = self.failing.as_ref()?.fate(record.position());
        let fails = match fate {
            RecordFate::Good => false,
            RecordFate::Poison(_) => true,
            RecordFate::Passing(times) => {
                let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
                let failures = passed.entry(record.position().clone()).or_default();
                *failures += 1;
                *failures <= times
            }
        };
        fails.then_some(fate)
    }
}

impl RecordHandler for ErraticHandler {
    async fn handle(&self, record: &Record, _: &ShardContext) -> Result<(), ProcessorError> {
        if self.is_slow.load(Ordering::Relaxed) {
            self.fleet.sleep(SLOW).await;
        }
        // Calls end in another order than they began in.
        match self.below(8) {
            0 => self.sleep_up_to(40).await,
            1 if self.below(30) == 0 => self.sleep_up_to(3000).await,
            _ => {}
        }
        match self.failure(record) {
            Some(RecordFate::Poison(PoisonKind::Panic)) => {
                std::panic::resume_unwind(Box::new("a record that panics"))
            }
            Some(RecordFate::Poison(
                PoisonKind::Named(Severity::Poison) | PoisonKind::Unnamed(Severity::Poison),
            )) => return Err(ProcessorError::poison("no such truck")),
            Some(RecordFate::Poison(_)) => return Err("no such truck".into()),
            Some(RecordFate::Passing(_)) => return Err(ProcessorError::transient("the sink is unwell")),
            Some(RecordFate::Good) | None => {}
        }
        if !self.bad_times.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.below(400) {
            0 => self.sleep_up_to(9000).await,
            1 | 2 => return Err(ProcessorError::transient("the sink is unwell")),
            3 => std::panic::resume_unwind(Box::new("a bug of the user's")),
            // One that does not come back before times are good again.
            4 if self.below(8) == 0 => {
                while self.bad_times.load(Ordering::Relaxed) {
                    self.fleet.sleep(Duration::from_millis(500)).await;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
