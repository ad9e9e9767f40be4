//! Decides whether a shard goes on behind a gap.

use crate::runtime::failpoint::failpoint;
use crate::settings::RetentionGap;
use crate::types::{Gap, SequenceNumber};

/// The consequence of a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterGap {
    /// Reading goes on behind it.
    GoOn,
    /// The shard is held until the gap is accepted.
    Hold,
}

/// Decides the consequence of the gap. `accepted` is where the last gap began that an operator accepted in this ownership.
pub(crate) fn after_gap(setting: RetentionGap, gap: &Gap, accepted: Option<&SequenceNumber>) -> AfterGap {
    match setting {
        RetentionGap::Continue => AfterGap::GoOn,
        // Read again, it may end later: retention goes on.
        RetentionGap::Hold if accepted == Some(&gap.after) => AfterGap::GoOn,
        RetentionGap::Hold if failpoint!(GapHoldIgnored) => AfterGap::GoOn,
        RetentionGap::Hold => AfterGap::Hold,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(after: u128, first: Option<u128>) -> Gap {
        Gap {
            after: after.into(),
            first: first.map(Into::into),
        }
    }

    #[test]
    fn gap_holds_only_by_setting() {
        let gap = gap(5, Some(9));
        assert_eq!(after_gap(RetentionGap::Continue, &gap, None), AfterGap::GoOn);
        assert_eq!(after_gap(RetentionGap::Hold, &gap, None), AfterGap::Hold);
    }

    #[test]
    fn accepted_gap_holds_no_more() {
        let accepted = SequenceNumber::from(5);
        let hold = |gap: &Gap| after_gap(RetentionGap::Hold, gap, Some(&accepted));
        assert_eq!(hold(&gap(5, Some(9))), AfterGap::GoOn);
        assert_eq!(hold(&gap(5, Some(12))), AfterGap::GoOn, "retention went on");
        assert_eq!(hold(&gap(5, None)), AfterGap::GoOn);
        assert_eq!(hold(&gap(9, Some(12))), AfterGap::Hold, "that is another one");
    }
}
