//! Dead letters in memory, and a sink that fails when a test says so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use kcl_core::dead_letter::{DeadLetter, DeadLetterError, DeadLetterSink};

/// A dead-letter sink in memory. Clones share the letters.
///
/// ```
/// use kcl_core::dead_letter::{DeadLetter, DeadLetterSink};
/// use kcl_core::types::{ApplicationName, Record, SequenceNumber, ShardId, WorkerId};
/// use kcl_testkit::MemoryDeadLetters;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sink = MemoryDeadLetters::default();
/// sink.fail_next(1);
/// let record = Record::new(SequenceNumber::from(7), "payload");
/// let shard = ShardId::new("shardId-000000000000")?;
/// let letter = DeadLetter::new(record, "trucks", shard, ApplicationName::new("app")?, WorkerId::new("worker-1")?);
/// assert!(sink.send(&letter).await.is_err());
/// assert!(sink.send(&letter).await.is_ok());
/// assert_eq!(sink.letters(), [letter]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct MemoryDeadLetters {
    state: Arc<Mutex<Letters>>,
}

#[derive(Debug, Default)]
struct Letters {
    letters: Vec<DeadLetter>,
    failures: usize,
    refused: usize,
    hangs: bool,
}

impl MemoryDeadLetters {
    /// Refuses the next so many letters.
    pub fn fail_next(&self, times: usize) {
        self.lock().failures = times;
    }

    /// Refuses every letter until [`recover`](Self::recover) is called.
    pub fn fail(&self) {
        self.fail_next(usize::MAX);
    }

    /// Answers no letter until [`recover`](Self::recover) is called.
    pub fn hang(&self) {
        self.lock().hangs = true;
    }

    /// Takes letters again.
    pub fn recover(&self) {
        let mut state = self.lock();
        (state.failures, state.hangs) = (0, false);
    }

    /// The letters that were acknowledged, in the order of their arrival.
    pub fn letters(&self) -> Vec<DeadLetter> {
        self.lock().letters.clone()
    }

    /// How many letters were refused, or not answered.
    pub fn refused(&self) -> usize {
        self.lock().refused
    }

    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl DeadLetterSink for MemoryDeadLetters {
    async fn send(&self, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        let hangs = {
            let mut state = self.lock();
            if !state.hangs && state.failures == 0 {
                state.letters.push(letter.clone());
                return Ok(());
            }
            state.refused += 1;
            state.failures = state.failures.saturating_sub(1);
            state.hangs
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        Err(DeadLetterError::new("the test says that the sink fails"))
    }
}
