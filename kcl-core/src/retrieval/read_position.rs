//! Where the reading of a shard stands, and whether it could go on exactly there.

use crate::retrieval::deaggregate::FinishedRecord;
use crate::retrieval::start_position::ReadStart;
use crate::runtime::failpoint::failpoint;
use crate::source::{Fetch, ShardEnd, SourceError, SourceErrorKind, StartPosition};
use crate::types::{Gap, SequenceNumber};

/// A place in a shard.
///
/// A shard is opened at the last record that was handed on, which is then left out. If another record comes first, retention has taken
/// that one, and nobody can see whether it took others behind it.
#[derive(Debug)]
pub(crate) struct ReadPosition {
    /// Where to open the shard.
    position: StartPosition,
    /// Records up to and including this one were handed on, or are done.
    done: Option<FinishedRecord>,
    /// The record that should come first, until one has come.
    expected: Option<SequenceNumber>,
    /// The newest answer has brought that record, or another in its place.
    is_shown: bool,
    /// How often in a row the service has refused the position.
    refusals: u32,
    /// The service refused the position, and reading began at the oldest record instead.
    from_oldest: bool,
}

/// Whether a reader has shown the record at which it was opened, or another in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResumeCheck {
    /// The newest answer has.
    Now,
    /// An answer before the newest has.
    Before,
    Never,
}

impl ReadPosition {
    pub(crate) fn new(start: ReadStart) -> Self {
        Self {
            position: start.position,
            done: start.done,
            expected: None,
            is_shown: false,
            refusals: 0,
            from_oldest: false,
        }
    }

    pub(crate) fn position(&self) -> &StartPosition {
        &self.position
    }

    pub(crate) fn done(&self) -> Option<&FinishedRecord> {
        self.done.as_ref()
    }

    /// Whether opening the shard again leads to the same place.
    pub(crate) fn is_fixed(&self) -> bool {
        self.position != StartPosition::Latest || self.done.is_some()
    }

    /// The record was handed on as a whole.
    pub(crate) fn handed_on(&mut self, record: &SequenceNumber) {
        self.done = Some(FinishedRecord::whole(record.detached()));
    }

    /// The shard is opened next at this record.
    pub(crate) fn go_to(&mut self, record: SequenceNumber) {
        self.position = StartPosition::AtSequence(record);
    }

    /// The shard is opened next at the last record that was handed on, if there was one.
    pub(crate) fn back_to_last(&mut self) {
        if let Some(done) = &self.done {
            self.position = StartPosition::AtSequence(done.position.sequence.clone());
        }
    }

    /// The shard was opened here.
    pub(crate) fn opened(&mut self) {
        self.refusals = 0;
        if let StartPosition::AtSequence(record) = &self.position {
            self.expected = Some(record.clone());
        }
    }

    /// The service refused to open the shard here. The second time reading begins with the oldest record that it keeps, since the position
    /// may be too old. Returns the position when it changes its mind.
    pub(crate) fn refused(&mut self) -> Option<SequenceNumber> {
        let StartPosition::AtSequence(refused) = &self.position else {
            return None;
        };
        self.refusals += 1;
        if self.refusals < 2 {
            return None;
        }
        let refused = refused.clone();
        let done = self.done.as_ref().map(|done| done.position.sequence.clone());
        self.expected = Some(done.unwrap_or_else(|| refused.clone()));
        self.position = StartPosition::TrimHorizon;
        (self.refusals, self.from_oldest) = (0, true);
        Some(refused)
    }

    /// Checks that a refused position was too old. If older records are there, it is not one of this shard: then what comes after it by
    /// number says nothing.
    pub(crate) fn check_oldest(&mut self, fetch: &Fetch) -> Result<(), SourceError> {
        let (true, Some(first), Some(expected)) = (self.from_oldest, fetch.records.first(), &self.expected)
        else {
            return Ok(());
        };
        self.from_oldest = false;
        if first.sequence_number() >= expected {
            return Ok(());
        }
        let message = format!(
            "the service refuses the position {expected}, and keeps older records: it is no position of this shard"
        );
        self.position = StartPosition::AtSequence(expected.clone());
        Err(SourceError::new(SourceErrorKind::Invalid, message))
    }

    /// Whether the reader has shown the record at which it was opened.
    pub(crate) fn shown(&self) -> ResumeCheck {
        match self.expected {
            None if self.is_shown => ResumeCheck::Now,
            None if self.done.is_some() => ResumeCheck::Before,
            _ => ResumeCheck::Never,
        }
    }

    /// The gap before the records of this answer, which is not handed on yet.
    pub(crate) fn gap_ahead(&self, fetch: &Fetch) -> Option<Gap> {
        let mut numbers = fetch.records.iter().map(|record| record.sequence_number());
        let first = match &self.expected {
            Some(expected) => numbers.find(|number| *number >= expected),
            None => numbers.next(),
        };
        let missing = first.and_then(|first| self.expected.as_ref().filter(|expected| *expected != first));
        Some(Gap {
            after: missing.or(fetch.lost_place.as_ref())?.clone(),
            first: first.map(SequenceNumber::detached),
        })
    }

    /// The gap before the records of this answer.
    pub(crate) fn gap_before(&mut self, fetch: &Fetch) -> Option<Gap> {
        let numbers = || fetch.records.iter().map(|record| record.sequence_number());
        let first = match &self.expected {
            Some(expected) => numbers().find(|number| *number >= expected),
            None => numbers().next(),
        };
        self.is_shown = first.is_some() && self.expected.is_some();
        let found = first.and_then(|first| self.expected.take().filter(|expected| expected != first));
        let after = found.or_else(|| fetch.lost_place.clone())?;
        (!failpoint!(GapNotCounted)).then(|| Gap {
            after,
            first: first.map(SequenceNumber::detached),
        })
    }

    /// The gap at the end of the shard: the record that was looked for has not come, nor any other.
    pub(crate) fn gap_at(&mut self, end: Option<&ShardEnd>) -> Option<Gap> {
        end?;
        let after = self.expected.take()?;
        Some(Gap { after, first: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Record, RecordPosition};

    fn number(number: u128) -> SequenceNumber {
        SequenceNumber::from(number)
    }

    fn opened_after(done: u128) -> ReadPosition {
        let mut place = ReadPosition::new(ReadStart::after_delivered(RecordPosition::plain(number(done))));
        place.opened();
        place
    }

    fn fetch(numbers: &[u128]) -> Fetch {
        let record = |n: &u128| Record::new(number(*n), "");
        Fetch {
            records: numbers.iter().map(record).collect(),
            ..Fetch::default()
        }
    }

    fn gap(after: u128, first: Option<u128>) -> Option<Gap> {
        Some(Gap {
            after: number(after),
            first: first.map(number),
        })
    }

    #[test]
    fn another_first_record_is_a_gap_once() {
        let mut place = opened_after(5);
        assert_eq!(place.gap_before(&fetch(&[])), None);
        assert_eq!(place.gap_before(&fetch(&[9, 10])), gap(5, Some(9)));
        assert_eq!(place.gap_before(&fetch(&[12])), None);
    }

    #[test]
    fn gap_ahead_equals_gap_handed_on() {
        let mut place = opened_after(5);
        for numbers in [&[][..], &[5, 9], &[9, 10], &[12]] {
            let fetch = fetch(numbers);
            let ahead = place.gap_ahead(&fetch);
            assert_eq!(place.gap_ahead(&fetch), ahead, "to look changes nothing");
            assert_eq!(place.gap_before(&fetch), ahead, "{numbers:?}");
            place = opened_after(5);
        }
        let lost = Fetch {
            lost_place: Some(number(7)),
            ..fetch(&[9])
        };
        place.gap_before(&fetch(&[5]));
        assert_eq!(place.gap_ahead(&lost), gap(7, Some(9)));
    }

    #[test]
    fn the_same_first_record_is_no_gap() {
        let mut place = opened_after(5);
        assert_eq!(place.shown(), ResumeCheck::Never);
        assert_eq!(place.gap_before(&fetch(&[5])), None);
        assert_eq!(place.shown(), ResumeCheck::Now);
        assert_eq!(place.gap_before(&fetch(&[9])), None);
        assert_eq!(place.shown(), ResumeCheck::Before);
        assert_eq!(place.gap_at(Some(&ShardEnd::default())), None);
    }

    #[test]
    fn end_without_the_expected_record_is_a_gap() {
        let mut place = opened_after(5);
        assert_eq!(place.gap_at(None), None);
        assert_eq!(place.gap_at(Some(&ShardEnd::default())), gap(5, None));
    }

    #[test]
    fn source_that_seeks_its_place_says_its_loss() {
        let mut place = ReadPosition::new(ReadStart {
            position: StartPosition::TrimHorizon,
            done: None,
        });
        place.opened();
        let lost = Fetch {
            lost_place: Some(number(3)),
            ..fetch(&[7])
        };
        assert_eq!(place.gap_before(&lost), gap(3, Some(7)));
    }

    #[test]
    fn refused_position_gives_way_to_oldest_record() {
        let mut place = ReadPosition::new(ReadStart::after_delivered(RecordPosition::plain(number(5))));
        assert_eq!(place.refused(), None, "once may be a mistake");
        assert_eq!(place.refused(), Some(number(5)));
        assert_eq!(place.position(), &StartPosition::TrimHorizon);
        place.opened();
        place.check_oldest(&fetch(&[8])).unwrap();
        assert_eq!(place.gap_before(&fetch(&[8])), gap(5, Some(8)));
    }

    #[test]
    fn refused_first_record_gives_way_to_oldest_record() {
        let mut place = ReadPosition::new(ReadStart {
            position: StartPosition::AtSequence(number(5)),
            done: None,
        });
        assert_eq!((place.refused(), place.refused()), (None, Some(number(5))));
        place.opened();
        assert_eq!(place.gap_before(&fetch(&[8])), gap(5, Some(8)));
    }

    #[test]
    fn a_refused_position_among_older_records_stays_refused() {
        let mut place = ReadPosition::new(ReadStart::after_delivered(RecordPosition::plain(number(5))));
        place.refused();
        place.refused();
        place.opened();
        assert!(place.check_oldest(&fetch(&[2, 8])).is_err());
        assert_eq!(place.position(), &StartPosition::AtSequence(number(5)));
    }
}
