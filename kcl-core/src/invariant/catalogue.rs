//! The invariants: their ids, and what each says.

use std::fmt;

/// An invariant of a fleet, whatever crashes, hangs or is late.
///
/// I1 to I9 and I11 hold at every moment, and so does what I14 says of the holder of the lock: a [`Checker`](super::Checker) finds the
/// moment at which one is broken. I10, I12, I13 and the rest of I14 say what becomes of a fleet once it is left alone, and I15 is of
/// single rows and records: those are functions of their own, in this module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// I1.
    NoRecordLost,
    /// I2.
    CheckpointNotAhead,
    /// I3.
    CheckpointRises,
    /// I4.
    SingleWriter,
    /// I5.
    TokenRises,
    /// I6.
    NoStartAfterDeadline,
    /// I7.
    NoOverlap,
    /// I8.
    InOrder,
    /// I9.
    ParentsFirst,
    /// I10.
    LineageComplete,
    /// I11.
    CleanupSafe,
    /// I12.
    EveryLeaseOwned,
    /// I13.
    BalanceSettles,
    /// I14.
    LeaderHarmless,
    /// I15.
    Compatible,
}

impl Invariant {
    /// Every invariant, in the order of the ids.
    pub const ALL: [Self; 15] = [
        Self::NoRecordLost,
        Self::CheckpointNotAhead,
        Self::CheckpointRises,
        Self::SingleWriter,
        Self::TokenRises,
        Self::NoStartAfterDeadline,
        Self::NoOverlap,
        Self::InOrder,
        Self::ParentsFirst,
        Self::LineageComplete,
        Self::CleanupSafe,
        Self::EveryLeaseOwned,
        Self::BalanceSettles,
        Self::LeaderHarmless,
        Self::Compatible,
    ];

    /// Its place in [`ALL`](Self::ALL).
    pub(crate) fn place(self) -> usize {
        self as usize
    }

    /// The short id, `I1` to `I15`.
    pub fn id(self) -> &'static str {
        match self {
            Self::NoRecordLost => "I1",
            Self::CheckpointNotAhead => "I2",
            Self::CheckpointRises => "I3",
            Self::SingleWriter => "I4",
            Self::TokenRises => "I5",
            Self::NoStartAfterDeadline => "I6",
            Self::NoOverlap => "I7",
            Self::InOrder => "I8",
            Self::ParentsFirst => "I9",
            Self::LineageComplete => "I10",
            Self::CleanupSafe => "I11",
            Self::EveryLeaseOwned => "I12",
            Self::BalanceSettles => "I13",
            Self::LeaderHarmless => "I14",
            Self::Compatible => "I15",
        }
    }

    /// The invariant in words.
    pub fn statement(self) -> &'static str {
        match self {
            Self::NoRecordLost => "every record put is processed, or was taken away by retention",
            Self::CheckpointNotAhead => "a stored checkpoint never passes unfinished work",
            Self::CheckpointRises => "the checkpoint of a shard never falls, whoever writes it",
            Self::SingleWriter => {
                "every accepted change is based on the last accepted one, and none comes from a former owner"
            }
            Self::TokenRises => "every ownership of a shard has a larger fencing token, and keeps it",
            Self::NoStartAfterDeadline => {
                "no batch starts after the deadline that the worker's own clock sets it"
            }
            Self::NoOverlap => "two workers never both start batches of one shard while both run unpaused",
            Self::InOrder => {
                "an ownership starts at or before the checkpoint, and takes every record in order"
            }
            Self::ParentsFirst => {
                "no record of a child shard is delivered before all its parents are finished"
            }
            Self::LineageComplete => {
                "at rest the leases that are not ended cover every hash key once, and no shard lacks a lease for longer than two sync periods"
            }
            Self::CleanupSafe => {
                "a lease is deleted only once it is ended and its children have leases that have begun, or its shard is gone from the stream"
            }
            Self::EveryLeaseOwned => {
                "once nothing goes wrong any more, every lease that is not ended has a living owner in bounded time"
            }
            Self::BalanceSettles => "balance settles in few moves, and then nothing moves",
            Self::LeaderHarmless => {
                "the leader lock has one holder at a time, is taken from nobody who keeps it, and has a living holder in bounded time"
            }
            Self::Compatible => {
                "a row keeps the attributes that its writer does not know, and every user record in an aggregate is counted"
            }
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.id(), self.statement())
    }
}

/// An invariant was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{invariant} is broken: {message}")]
pub struct Violation {
    /// The invariant.
    pub invariant: Invariant,
    /// The observation, and the expectation.
    pub message: String,
}

impl Invariant {
    pub(crate) fn broken<T>(self, message: impl Into<String>) -> Result<T, Violation> {
        Err(Violation {
            invariant: self,
            message: message.into(),
        })
    }

    /// Nothing if `holds`, the violation if not.
    pub(crate) fn check(self, holds: bool, message: impl FnOnce() -> String) -> Result<(), Violation> {
        if holds { Ok(()) } else { self.broken(message()) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_invariant_stands_at_its_place_under_its_id() {
        for (place, invariant) in Invariant::ALL.into_iter().enumerate() {
            assert_eq!(invariant.place(), place);
            assert_eq!(invariant.id(), format!("I{}", place + 1));
            assert!(invariant.to_string().starts_with(invariant.id()));
        }
        let statements: BTreeSet<_> = Invariant::ALL.iter().map(|i| i.statement()).collect();
        assert_eq!(statements.len(), Invariant::ALL.len());
    }
}
