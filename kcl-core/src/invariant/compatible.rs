//! The invariant of rows and records that others wrote: I15.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::invariant::{Invariant, Violation};

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
    use super::*;

    fn row(attributes: &[(&str, u32)]) -> BTreeMap<String, u32> {
        attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect()
    }

    #[test]
    fn what_is_another_s_is_neither_lost_nor_changed_nor_invented() {
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
    fn a_record_is_counted_once_and_not_more_often() {
        assert_eq!(check_counted(3, 3, 0), Ok(()));
        assert_eq!(check_counted(3, 0, 3), Ok(()));
        assert!(check_counted(3, 2, 0).is_err());
        assert!(check_counted(3, 3, 1).is_err());
    }
}
