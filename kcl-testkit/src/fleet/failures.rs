//! Shows the oracle which records are set aside: by the answers of the dead-letter sink, and by the decisions of the error policy.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use kcl_core::dead_letter::{DeadLetter, DeadLetterError, DeadLetterSink};
use kcl_core::processor::{Decision, ErrorPolicy, FailedCall, Failure};
use kcl_core::types::LeaseKey;

use super::oracle::{Short, Witness};
use crate::dead_letters::{MemoryDeadLetters, place_of};
use crate::invariant::Observation;

/// The way of one process to the dead-letter sink.
pub(super) struct ObservedDeadLetters {
    pub(super) witness: Witness,
    pub(super) letters: MemoryDeadLetters,
}

#[async_trait]
impl DeadLetterSink for ObservedDeadLetters {
    async fn send(&self, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        let (oracle, process) = (&self.witness.oracle, &self.witness.process);
        let (shard, position) = (LeaseKey::single_stream(&letter.shard), place_of(letter));
        let answer = self.letters.send(letter).await;
        let answered = match &answer {
            Ok(()) => "is acknowledged",
            Err(_) => "is not acknowledged",
        };
        let short = Short(&position);
        oracle.note(&format_args!(
            "{process:<8} dead letter of {short} of {shard} {answered}"
        ));
        if answer.is_ok() {
            oracle.observe(&Observation::SetAside {
                process: Arc::clone(process),
                shard,
                token: Some(letter.fencing_token),
                position,
                unreadable: letter.call == FailedCall::Unpack,
                attempts: Some(letter.attempts),
            });
        }
        answer
    }
}

impl fmt::Debug for ObservedDeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.letters.fmt(f)
    }
}

/// The error policy of one process.
pub(super) struct ObservedPolicy {
    pub(super) witness: Witness,
    pub(super) policy: Arc<dyn ErrorPolicy>,
}

impl ErrorPolicy for ObservedPolicy {
    fn decide(&self, failure: &Failure<'_>) -> Decision {
        let decision = self.policy.decide(failure);
        let (oracle, process) = (&self.witness.oracle, &self.witness.process);
        let place = failure.position().map(|position| Short(position).to_string());
        oracle.note(&format_args!(
            "{process:<8} {} failed for the {}. time at {}: {decision:?}",
            failure.call.as_str(),
            failure.attempt,
            place.as_deref().unwrap_or("an unknown record")
        ));
        if decision == Decision::Skip
            && failure.call.has_records()
            && let Some(position) = failure.position()
            && let Some(shard) = oracle.ask(|checker| checker.home_of(position).cloned())
        {
            oracle.observe(&Observation::SetAside {
                process: Arc::clone(process),
                shard,
                token: None,
                position: position.clone(),
                unreadable: failure.call == FailedCall::Unpack,
                attempts: Some(failure.attempt),
            });
        }
        decision
    }

    fn sends_dead_letters(&self) -> bool {
        self.policy.sends_dead_letters()
    }
}

impl fmt::Debug for ObservedPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.policy.fmt(f)
    }
}
