//! Decides when a hole in the cover of the leases is worth a sync.

use crate::source::shard_graph::Cover;
use crate::types::HashKeyRange;

/// Remembers the holes of one stream from audit to audit.
///
/// A scan is no snapshot: while a shard ends it may see the parent ended and not yet the children. Only a hole
/// that is seen again and again is one.
#[derive(Debug, Clone)]
pub(crate) struct CoverageAudit {
    threshold: u32,
    seen: Option<(HashKeyRange, u32)>,
}

/// The result of an audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CoverageVerdict {
    /// The leases cover every hash key.
    Whole,
    /// There is a hole that may be an artefact of the scan.
    Suspected(HashKeyRange),
    /// The same hole was seen often enough: a sync should repair it.
    Repair(HashKeyRange),
}

impl CoverageAudit {
    /// An audit that believes in a hole seen in this many consecutive looks; 1 believes at once, and so does 0.
    ///
    /// The Java KCL looks every two minutes and believes after three.
    pub(crate) fn new(threshold: u32) -> Self {
        Self {
            threshold,
            seen: None,
        }
    }

    /// Observes the cover of the leases that are not ended.
    pub(crate) fn look(&mut self, cover: &Cover) -> CoverageVerdict {
        let still_there = self.seen.filter(|(hole, _)| cover.holes.contains(hole));
        self.seen = match still_there {
            Some((hole, times)) => Some((hole, times.saturating_add(1))),
            None => cover.holes.first().map(|hole| (*hole, 1)),
        };
        match self.seen {
            None => CoverageVerdict::Whole,
            Some((hole, times)) if times >= self.threshold => CoverageVerdict::Repair(hole),
            Some((hole, _)) => CoverageVerdict::Suspected(hole),
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
    fn hole_is_believed_when_seen_often_enough() {
        let mut audit = CoverageAudit::new(3);
        assert_eq!(audit.look(&with_holes(&[])), CoverageVerdict::Whole);
        assert_eq!(audit.look(&with_holes(&[7])), CoverageVerdict::Suspected(hole(7)));
        assert_eq!(
            audit.look(&with_holes(&[3, 7])),
            CoverageVerdict::Suspected(hole(7))
        );
        assert_eq!(audit.look(&with_holes(&[7])), CoverageVerdict::Repair(hole(7)));
        assert_eq!(audit.look(&with_holes(&[7])), CoverageVerdict::Repair(hole(7)));
    }

    #[test]
    fn another_hole_or_none_starts_the_count_again() {
        let mut audit = CoverageAudit::new(2);
        assert_eq!(audit.look(&with_holes(&[7])), CoverageVerdict::Suspected(hole(7)));
        assert_eq!(audit.look(&with_holes(&[8])), CoverageVerdict::Suspected(hole(8)));
        assert_eq!(audit.look(&with_holes(&[])), CoverageVerdict::Whole);
        assert_eq!(audit.look(&with_holes(&[8])), CoverageVerdict::Suspected(hole(8)));
    }
}
