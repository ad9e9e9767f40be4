//! Decides when a hole in the cover of the leases is worth a sync.

use crate::model::HashKeyRange;
use crate::shard_sync::Cover;

/// Remembers the holes of one stream from audit to audit.
///
/// A scan is no snapshot: while a shard ends it may see the parent ended and not yet the children. Only a hole
/// that is seen again and again is one.
#[derive(Debug, Clone)]
pub struct Audit {
    threshold: u32,
    seen: Option<(HashKeyRange, u32)>,
}

/// What an audit says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The leases cover every hash key.
    Whole,
    /// There is a hole that may be an artefact of the scan.
    Suspected(HashKeyRange),
    /// The same hole was seen often enough: a sync should repair it.
    Repair(HashKeyRange),
}

impl Audit {
    /// An audit that believes in a hole seen in this many consecutive looks; 1 believes at once, and so does 0.
    ///
    /// The Java KCL looks every two minutes and believes after three.
    pub fn new(threshold: u32) -> Self {
        Self {
            threshold,
            seen: None,
        }
    }

    /// Takes in the cover of the leases that are not ended.
    pub fn look(&mut self, cover: &Cover) -> Verdict {
        let still_there = self.seen.filter(|(hole, _)| cover.holes.contains(hole));
        self.seen = match still_there {
            Some((hole, times)) => Some((hole, times.saturating_add(1))),
            None => cover.holes.first().map(|hole| (*hole, 1)),
        };
        match self.seen {
            None => Verdict::Whole,
            Some((hole, times)) if times >= self.threshold => Verdict::Repair(hole),
            Some((hole, _)) => Verdict::Suspected(hole),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_holes(holes: &[u128]) -> Cover {
        Cover {
            holes: holes
                .iter()
                .map(|at| HashKeyRange::new(*at, *at).unwrap())
                .collect(),
            overlaps: false,
        }
    }

    fn hole(at: u128) -> HashKeyRange {
        HashKeyRange::new(at, at).unwrap()
    }

    #[test]
    fn a_hole_is_believed_when_it_was_seen_often_enough_in_a_row() {
        let mut audit = Audit::new(3);
        assert_eq!(audit.look(&with_holes(&[])), Verdict::Whole);
        assert_eq!(audit.look(&with_holes(&[7])), Verdict::Suspected(hole(7)));
        assert_eq!(audit.look(&with_holes(&[3, 7])), Verdict::Suspected(hole(7)));
        assert_eq!(audit.look(&with_holes(&[7])), Verdict::Repair(hole(7)));
        assert_eq!(audit.look(&with_holes(&[7])), Verdict::Repair(hole(7)));
    }

    #[test]
    fn another_hole_or_none_starts_the_count_again() {
        let mut audit = Audit::new(2);
        assert_eq!(audit.look(&with_holes(&[7])), Verdict::Suspected(hole(7)));
        assert_eq!(audit.look(&with_holes(&[8])), Verdict::Suspected(hole(8)));
        assert_eq!(audit.look(&with_holes(&[])), Verdict::Whole);
        assert_eq!(audit.look(&with_holes(&[8])), Verdict::Suspected(hole(8)));
    }
}
