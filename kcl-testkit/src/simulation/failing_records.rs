//! Records that fail, and what the workers of a scenario do about them: a function of the seed and of the record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kcl_core::clock::Rng;
use kcl_core::processor::{
    Decision, ErrorPolicy, FailedCall, Failure, LastResort, Policy, Retries, Severity,
};
use kcl_core::types::RecordPosition;

use crate::dead_letters::{SinkFaultRates, place_of};
use crate::fleet::Fleet;

/// Records that fail, and what the workers of a scenario do about them.
#[derive(Debug, Clone, PartialEq)]
pub struct FailingRecords {
    /// The seed that says which records fail.
    pub seed: u64,
    /// One in so many records can never be processed.
    pub poison_one_in: u64,
    /// One in so many fails up to four times, and then no more.
    pub passing_one_in: u64,
    /// Whether poison gives a dead letter, or is skipped.
    pub sends_letters: bool,
    /// The error policy of every worker.
    pub policy: Policy,
    /// At one in so many poison records a worker gives its lease up while times are bad; 0 for never.
    pub release_one_in: u64,
    /// How the dead-letter sink fails while times are bad.
    pub sink: SinkFaultRates,
}

/// The fate of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordFate {
    /// It is processed.
    Good,
    /// It fails so many times.
    Passing(u32),
    /// It fails for ever, like this.
    Poison(PoisonKind),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PoisonKind {
    /// The processor says which record it is.
    Named(Severity),
    /// The call fails, and nothing says at which record.
    Unnamed(Severity),
    /// The processor panics.
    Panic,
}

impl FailingRecords {
    pub(super) fn draw(seed: u64, rng: &mut Rng) -> Self {
        let one_of = |rng: &mut Rng, choice: [u64; 5]| {
            let index = usize::try_from(rng.below(5)).unwrap_or(0);
            choice.get(index).copied().unwrap_or(0)
        };
        let number =
            |rng: &mut Rng, least: u32, more: u64| least + u32::try_from(rng.below(more)).unwrap_or(0);
        let sends_letters = !rng.one_in(4);
        let last = match sends_letters {
            true => LastResort::DeadLetter,
            false => LastResort::Skip,
        };
        let pauses = |rng: &mut Rng, retries: Retries| {
            let first = Duration::from_millis(20 + rng.below(130));
            retries.pausing(first, Duration::from_millis(500))
        };
        let poison = Retries::at_most(number(rng, 1, 3));
        let unspecified = Retries::at_most(number(rng, 1, 4));
        // A processor panics once in a while on records that are good: never so often in a row.
        let panic = Retries::at_most(number(rng, 4, 2));
        let policy = Policy::new(last)
            .poison(pauses(rng, poison), last)
            .unspecified(pauses(rng, unspecified), last)
            .panic(pauses(rng, panic), last)
            .transient(pauses(rng, Retries::forever()), LastResort::Hold);
        Self {
            seed,
            poison_one_in: one_of(rng, [40, 100, 300, 1000, 10_000]),
            passing_one_in: one_of(rng, [0, 30, 100, 300, 1000]),
            sends_letters,
            policy,
            release_one_in: one_of(rng, [0, 0, 0, 2, 8]),
            sink: SinkFaultRates {
                refuse_one_in: one_of(rng, [0, 2, 4, 8, 16]),
                hang_one_in: one_of(rng, [0, 0, 8, 16, 32]),
                lose_one_in: one_of(rng, [0, 2, 4, 8, 16]),
                late_one_in: one_of(rng, [0, 0, 8, 16, 32]),
            },
        }
    }

    pub(super) fn fate(&self, position: &RecordPosition) -> RecordFate {
        let mut hash = hash(self.seed, position);
        let mut below = |bound: u64| {
            let drawn = hash % bound.max(1);
            hash /= bound.max(1);
            drawn
        };
        if below(self.poison_one_in) == 0 {
            let severity = match below(2) {
                0 => Severity::Poison,
                _ => Severity::Unspecified,
            };
            return RecordFate::Poison(match below(20) {
                0..10 => PoisonKind::Named(severity),
                10..18 => PoisonKind::Unnamed(severity),
                _ => PoisonKind::Panic,
            });
        }
        if self.passing_one_in > 0 && below(self.passing_one_in) == 0 {
            return RecordFate::Passing(1 + u32::try_from(below(4)).unwrap_or(0));
        }
        RecordFate::Good
    }

    pub(super) fn is_poison(&self, position: &RecordPosition) -> bool {
        matches!(self.fate(position), RecordFate::Poison(_))
    }
}

/// The same for every copy of a record.
fn hash(seed: u64, position: &RecordPosition) -> u64 {
    let text = position.to_string();
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    // The low bits of the sum depend on few of the others.
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The policy of a worker: it gives leases up at some records while times are bad, and is the scenario's otherwise.
#[derive(Debug)]
pub(super) struct ScenarioPolicy {
    pub(super) failing: FailingRecords,
    pub(super) bad_times: Arc<AtomicBool>,
}

impl ErrorPolicy for ScenarioPolicy {
    fn decide(&self, failure: &Failure<'_>) -> Decision {
        let releases = |position: &RecordPosition| {
            let one_in = self.failing.release_one_in;
            one_in > 0 && hash(!self.failing.seed, position).is_multiple_of(one_in)
        };
        let is_first = failure.attempt == 1 && failure.severity() != Severity::Transient;
        if is_first && self.bad_times.load(Ordering::Relaxed) && failure.position().is_some_and(releases) {
            return Decision::Release;
        }
        self.failing.policy.decide(failure)
    }

    fn sends_dead_letters(&self) -> bool {
        self.failing.policy.sends_dead_letters()
    }
}

impl FailingRecords {
    /// Checks the dead letters of a scenario at its end: only poison has one, and each is the record whole.
    pub(super) fn check_set_aside(&self, fleet: &Fleet, is_packed: bool) {
        let letters = fleet.dead_letters().letters();
        assert!(
            self.sends_letters || letters.is_empty(),
            "a letter for a record that is skipped"
        );
        let put: BTreeMap<_, _> = fleet
            .stream()
            .put_log()
            .into_iter()
            .map(|(shard, record)| (record.position().clone(), (shard, record)))
            .collect();
        for letter in letters {
            let position = &place_of(&letter);
            let is_poison = letter.call == FailedCall::Unpack || self.is_poison(position);
            assert!(is_poison, "{position} is set aside, and is no poison (I1)");
            // Of a record that was unpacked the log has only the whole.
            if let Some((shard, whole)) = put.get(position) {
                let is_copy =
                    letter.record.data() == whole.data() || (is_packed && letter.call != FailedCall::Unpack);
                assert!(
                    is_copy && letter.shard == *shard,
                    "the letter of {position} is not the record"
                );
            }
        }
    }
}
