//! Dead letters in memory, and a sink that fails as a test says.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{ClockExt as _, Rng, TokioClock};
use kcl_core::dead_letter::{DeadLetter, DeadLetterError, DeadLetterSink};
use kcl_core::processor::FailedCall;
use kcl_core::types::RecordPosition;

/// A dead-letter sink in memory. Clones share the letters, and the faults.
///
/// ```
/// use kcl_core::dead_letter::{DeadLetter, DeadLetterSink};
/// use kcl_core::types::{ApplicationName, Record, SequenceNumber, ShardId, WorkerId};
/// use kcl_testkit::{MemoryDeadLetters, SinkFault};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sink = MemoryDeadLetters::default();
/// let record = Record::new(SequenceNumber::from(7), "payload");
/// let shard = ShardId::new("shardId-000000000000")?;
/// let letter = DeadLetter::new(record, "trucks", shard, ApplicationName::new("app")?, WorkerId::new("worker-1")?);
/// sink.fail_next(1);
/// assert!(sink.send(&letter).await.is_err());
/// assert_eq!(sink.letters(), []);
/// sink.inject(1, SinkFault::LoseAnswer);
/// assert!(sink.send(&letter).await.is_err());
/// assert!(sink.send(&letter).await.is_ok());
/// assert_eq!(sink.letters(), [letter.clone(), letter]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct MemoryDeadLetters {
    state: Arc<Mutex<SinkState>>,
    /// Another sink, to which each letter goes first.
    behind: Option<Arc<dyn DeadLetterSink>>,
}

#[derive(Debug, Default)]
struct SinkState {
    letters: Vec<DeadLetter>,
    script: VecDeque<SinkFault>,
    lasting: Option<SinkFault>,
    random: Option<(Rng, SinkFaultRates)>,
    failures: usize,
}

/// How a dead-letter sink fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkFault {
    /// It stores nothing and returns an error.
    Refuse,
    /// It stores nothing and never answers.
    Hang,
    /// It stores the letter and returns an error.
    LoseAnswer,
    /// It stores the letter and answers so much later. A worker waits for 30 s.
    AnswerLate(Duration),
}

/// How often a sink fails at random: once in so many letters, and never where it says 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SinkFaultRates {
    /// [`SinkFault::Refuse`].
    pub refuse_one_in: u64,
    /// [`SinkFault::Hang`].
    pub hang_one_in: u64,
    /// [`SinkFault::LoseAnswer`].
    pub lose_one_in: u64,
    /// [`SinkFault::AnswerLate`], by up to a minute.
    pub late_one_in: u64,
}

const LATEST_ANSWER: u64 = 60_000;

impl MemoryDeadLetters {
    /// Keeps letters that another sink has stored: each goes there first, and fails where that one fails.
    pub fn in_front_of(sink: Arc<dyn DeadLetterSink>) -> Self {
        Self {
            behind: Some(sink),
            ..Self::default()
        }
    }

    /// Refuses the next so many letters, after the faults that were requested before.
    pub fn fail_next(&self, times: usize) {
        self.inject(times, SinkFault::Refuse);
    }

    /// Fails the next so many letters like this, after the faults that were requested before.
    pub fn inject(&self, times: usize, fault: SinkFault) {
        self.lock().script.extend(std::iter::repeat_n(fault, times));
    }

    /// Refuses every letter until [`recover`](Self::recover) is called.
    pub fn fail(&self) {
        self.inject_always(SinkFault::Refuse);
    }

    /// Answers no letter until [`recover`](Self::recover) is called.
    pub fn hang(&self) {
        self.inject_always(SinkFault::Hang);
    }

    /// Fails every letter like this until [`recover`](Self::recover) is called.
    pub fn inject_always(&self, fault: SinkFault) {
        self.lock().lasting = Some(fault);
    }

    /// Fails at random, from these numbers and so often, until [`recover`](Self::recover) is called.
    pub fn inject_at_random(&self, rng: Rng, rates: SinkFaultRates) {
        self.lock().random = Some((rng, rates));
    }

    /// Takes letters again. A letter that hangs goes on hanging.
    pub fn recover(&self) {
        let mut state = self.lock();
        state.script.clear();
        (state.lasting, state.random) = (None, None);
    }

    /// Ends what [`inject_always`](Self::inject_always) began, and nothing else.
    pub fn end_lasting_fault(&self) {
        self.lock().lasting = None;
    }

    /// The letters that were stored, in the order of their arrival. One whose answer was lost is there once for each time that it came.
    pub fn letters(&self) -> Vec<DeadLetter> {
        self.lock().letters.clone()
    }

    /// How many letters were refused, or not answered in time.
    pub fn refused(&self) -> usize {
        self.lock().failures
    }

    fn next_fault(&self) -> Option<SinkFault> {
        let state = &mut *self.lock();
        let fault = state.script.pop_front().or(state.lasting).or_else(|| {
            let (rng, rates) = state.random.as_mut()?;
            rates.draw(rng)
        });
        state.failures += usize::from(fault.is_some());
        fault
    }

    async fn store(&self, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        if let Some(sink) = &self.behind {
            sink.send(letter).await?;
        }
        self.lock().letters.push(letter.clone());
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, SinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SinkFaultRates {
    fn draw(&self, rng: &mut Rng) -> Option<SinkFault> {
        if rng.one_in(self.refuse_one_in) {
            Some(SinkFault::Refuse)
        } else if rng.one_in(self.hang_one_in) {
            Some(SinkFault::Hang)
        } else if rng.one_in(self.lose_one_in) {
            Some(SinkFault::LoseAnswer)
        } else if rng.one_in(self.late_one_in) {
            Some(SinkFault::AnswerLate(Duration::from_millis(
                rng.below(LATEST_ANSWER),
            )))
        } else {
            None
        }
    }
}

#[async_trait]
impl DeadLetterSink for MemoryDeadLetters {
    async fn send(&self, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        match self.next_fault() {
            None => self.store(letter).await,
            Some(SinkFault::Refuse) => Err(DeadLetterError::new("the test says that the sink fails")),
            Some(SinkFault::Hang) => std::future::pending().await,
            Some(SinkFault::LoseAnswer) => {
                self.store(letter).await?;
                Err(DeadLetterError::new("the test says that the answer is lost"))
            }
            Some(SinkFault::AnswerLate(by)) => {
                self.store(letter).await?;
                TokioClock::new().sleep(by).await;
                Ok(())
            }
        }
    }
}

/// The position of the record as it was put: the letter of one of which nothing could be unpacked names everything in it.
pub(crate) fn place_of(letter: &DeadLetter) -> RecordPosition {
    let position = letter.record.position();
    match letter.call == FailedCall::Unpack {
        true => RecordPosition::plain(position.sequence.clone()),
        false => position.clone(),
    }
}
