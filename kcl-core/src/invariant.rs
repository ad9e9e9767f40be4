//! The invariants of a fleet: their ids, what each says, and the checks that production calls.
//!
//! The predicates over a whole fleet are in the test kit: simulation, model and chaos feed its checker. A worker checks what it sees of itself,
//! and counts what it finds in [`INVARIANT_VIOLATIONS`](crate::metrics::INVARIANT_VIOLATIONS).

use std::collections::BTreeMap;
use std::fmt::{self, Debug};

/// An invariant of a fleet, whatever crashes, hangs or is late.
///
/// I1 to I9, I11 and I16 hold at every moment, and so does what I14 says of the holder of the lock. I10, I12, I13 and the rest of I14 say what
/// becomes of a fleet once it is left alone, and I15 is of single rows and records: [`check_attributes`] and [`check_counted`].
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
    /// I16.
    KeyOrder,
    /// I17.
    OrdersObeyed,
}

impl Invariant {
    /// Every invariant, in the order of the ids.
    pub const ALL: [Self; 17] = [
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
        Self::KeyOrder,
        Self::OrdersObeyed,
    ];

    /// Its place in [`ALL`](Self::ALL).
    pub(crate) fn place(self) -> usize {
        self as usize
    }

    /// The short id, `I1` to `I17`.
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
            Self::KeyOrder => "I16",
            Self::OrdersObeyed => "I17",
        }
    }

    /// The invariant in words.
    pub fn statement(self) -> &'static str {
        match self {
            Self::NoRecordLost => {
                "every record put is processed, set aside as the policy says, or was taken away by retention"
            }
            Self::CheckpointNotAhead => "a stored checkpoint never passes unfinished work",
            Self::CheckpointRises => {
                "no writer lowers the checkpoint of a shard, but for an operator's reset"
            }
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
            Self::KeyOrder => {
                "where records are handled in the order of their keys, none begins while one before it with its key is unfinished"
            }
            Self::OrdersObeyed => {
                "an order is obeyed from its answer on, or refused with a reason, and after a reset a shard is read from exactly where it says"
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
    /// Returns the violation of this invariant.
    ///
    /// # Errors
    ///
    /// Always.
    pub fn broken<T>(self, message: impl Into<String>) -> Result<T, Violation> {
        Err(Violation {
            invariant: self,
            message: message.into(),
        })
    }

    /// Checks one predicate of this invariant, and words the violation with `message`.
    ///
    /// # Errors
    ///
    /// The violation, unless it `holds`.
    pub fn check(self, holds: bool, message: impl FnOnce() -> String) -> Result<(), Violation> {
        if holds { Ok(()) } else { self.broken(message()) }
    }
}

/// Checks that a write kept every attribute which `is_ours` does not claim, as it was, and added none.
///
/// `before` and `after` are the attributes of the row by name, whatever a store calls an attribute.
///
/// ```
/// use std::collections::BTreeMap;
/// use kcl_core::invariant::{Invariant, check_attributes};
///
/// let before = BTreeMap::from([("leaseCounter".to_owned(), "1"), ("new in Java KCL 4".to_owned(), "x")]);
/// let mut after = before.clone();
/// after.insert("leaseCounter".to_owned(), "2");
/// let is_ours = |name: &str| name == "leaseCounter";
/// assert_eq!(check_attributes(&before, &after, is_ours), Ok(()));
/// after.remove("new in Java KCL 4");
/// let violation = check_attributes(&before, &after, is_ours).unwrap_err();
/// assert_eq!(violation.invariant, Invariant::Compatible);
/// ```
///
/// # Errors
///
/// [`Invariant::Compatible`], with the name of the attribute.
pub fn check_attributes<V: PartialEq + Debug>(
    before: &BTreeMap<String, V>,
    after: &BTreeMap<String, V>,
    is_ours: impl Fn(&str) -> bool,
) -> Result<(), Violation> {
    let names = before.keys().chain(after.keys());
    for name in names.filter(|name| !is_ours(name)) {
        let (was, is) = (before.get(name), after.get(name));
        Invariant::Compatible.check(was == is, || {
            format!("a write turned the attribute {name}, which is another's, from {was:?} into {is:?}")
        })?;
    }
    Ok(())
}

/// Checks that every user record in an aggregate was delivered, or counted as withheld or as done before.
///
/// An aggregate may hold records whose keys hash to other shards, as after a split: the Java KCL drops them without a word.
///
/// ```
/// use kcl_core::invariant::{Invariant, check_counted};
///
/// assert_eq!(check_counted(10, 7, 3), Ok(()));
/// assert_eq!(check_counted(10, 7, 0).unwrap_err().invariant, Invariant::Compatible);
/// ```
///
/// # Errors
///
/// [`Invariant::Compatible`].
pub fn check_counted(contained: usize, delivered: usize, counted: usize) -> Result<(), Violation> {
    Invariant::Compatible.check(delivered + counted == contained, || {
        format!("of {contained} records in an aggregate {delivered} are delivered and {counted} counted")
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_invariant_has_its_place_and_id() {
        for (place, invariant) in Invariant::ALL.into_iter().enumerate() {
            assert_eq!(invariant.place(), place);
            assert_eq!(invariant.id(), format!("I{}", place + 1));
            assert!(invariant.to_string().starts_with(invariant.id()));
        }
        let statements: BTreeSet<_> = Invariant::ALL.iter().map(|i| i.statement()).collect();
        assert_eq!(statements.len(), Invariant::ALL.len());
    }

    fn row(attributes: &[(&str, u32)]) -> BTreeMap<String, u32> {
        attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect()
    }

    #[test]
    fn attributes_of_others_are_neither_lost_nor_altered() {
        let before = row(&[("ours", 1), ("theirs", 2)]);
        let check = |after: &[(&str, u32)]| check_attributes(&before, &row(after), |name| name == "ours");
        assert_eq!(check(&[("ours", 5), ("theirs", 2)]), Ok(()));
        assert_eq!(check(&[("theirs", 2)]), Ok(()));
        for wrong in [
            &[("ours", 1)][..],
            &[("ours", 1), ("theirs", 3)],
            &[("ours", 1), ("theirs", 2), ("alien", 1)],
        ] {
            assert_eq!(check(wrong).unwrap_err().invariant, Invariant::Compatible);
        }
    }

    #[test]
    fn each_record_is_counted_exactly_once() {
        assert_eq!(check_counted(3, 3, 0), Ok(()));
        assert_eq!(check_counted(3, 0, 3), Ok(()));
        assert!(check_counted(3, 2, 0).is_err());
        assert!(check_counted(3, 3, 1).is_err());
    }
}
