//! Where the reading of a shard begins.

use crate::lease::row::Lease;
use crate::processor::StartFrom;
use crate::retrieval::deaggregate::FinishedRecord;
use crate::runtime::failpoint::failpoint;
use crate::source::StartPosition;
use crate::types::{InitialPosition, Position, RecordPosition};

/// Where to open a shard, and which records to leave out because they are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadStart {
    pub(crate) position: StartPosition,
    /// Records up to and including this one are done.
    pub(crate) done: Option<FinishedRecord>,
}

impl ReadStart {
    /// Right after a record that this ownership has delivered.
    pub(crate) fn after_delivered(last: RecordPosition) -> Self {
        Self::after(last, true)
    }

    /// Right after this record. The record itself is asked for again and left out: it may be an aggregate of which only
    /// a part is done, and a position is valid for as long as its record is kept.
    fn after(position: RecordPosition, is_exact: bool) -> Self {
        let done = FinishedRecord { position, is_exact };
        Self {
            position: StartPosition::AtSequence(done.position.sequence.clone()),
            done: (!failpoint!(ResumeAtCheckpoint)).then_some(done),
        }
    }
}

/// Where an ownership begins, by the row that its first renewal returned and the processor's request.
///
/// Until the first checkpoint a lease with a pinned start is opened at the pinned time, whoever opens it and however late:
/// opening it at the newest record again would skip what came in between. A row at LATEST that Java wrote has no pin; it gets a time of
/// its own before it is opened for the first time ([`needs_time`]). `configured` serves other rows without a pin.
pub(crate) fn start_of(lease: &Lease, start_from: &StartFrom, configured: InitialPosition) -> ReadStart {
    let from = |position| ReadStart { position, done: None };
    match start_from {
        StartFrom::Checkpoint | StartFrom::CommitPending | StartFrom::DiscardPending => {}
        // A position inside an aggregate was unpacked; at its first one the processor knows its own setting.
        StartFrom::After(record) => return ReadStart::after(record.clone(), record.sub_sequence == 0),
        StartFrom::TrimHorizon => return from(StartPosition::TrimHorizon),
        StartFrom::AtTimestamp(time) => return from(StartPosition::AtTimestamp(*time)),
    }
    let pinned = lease.pinned_start.map(StartPosition::AtTimestamp);
    let reset = lease.reset_at.filter(|_| !failpoint!(ResetTimeIgnored));
    let reset = reset.map(StartPosition::AtTimestamp);
    let position = match &lease.checkpoint {
        Position::Record(record) => return ReadStart::after(record.clone(), false),
        Position::TrimHorizon | Position::ShardEnd => StartPosition::TrimHorizon,
        Position::Latest => {
            let told = lease.latest_at.map(StartPosition::AtTimestamp);
            pinned.or(told).unwrap_or(StartPosition::Latest)
        }
        Position::AtTimestamp => reset.or(pinned).unwrap_or(match configured {
            InitialPosition::AtTimestamp(time) => StartPosition::AtTimestamp(time),
            // Without the time nothing shows which records are wanted, so none is left out.
            InitialPosition::TrimHorizon | InitialPosition::Latest => StartPosition::TrimHorizon,
        }),
    };
    ReadStart { position, done: None }
}

/// Whether LATEST in this row, as Java wrote it, is yet to be given a time: until then each opening would begin at another record.
pub(crate) fn needs_time(lease: &Lease, start_from: &StartFrom) -> bool {
    let is_told = lease.pinned_start.is_some() || lease.latest_at.is_some();
    lease.checkpoint == Position::Latest && !is_told && *start_from == StartFrom::Checkpoint
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{SequenceNumber, ShardId, Timestamp};

    fn lease(checkpoint: Position, pinned: Option<i64>) -> Lease {
        let shard = ShardId::new("shardId-000000000000").unwrap();
        Lease {
            pinned_start: pinned.map(Timestamp::from_millis),
            ..Lease::unowned(shard, checkpoint)
        }
    }

    fn opened(checkpoint: Position, pinned: Option<i64>) -> StartPosition {
        start_of(
            &lease(checkpoint, pinned),
            &StartFrom::Checkpoint,
            InitialPosition::Latest,
        )
        .position
    }

    #[test]
    fn latest_of_java_has_one_time_at_openings() {
        let mut row = lease(Position::Latest, None);
        assert!(needs_time(&row, &StartFrom::Checkpoint));
        let own = StartFrom::After(RecordPosition::plain(SequenceNumber::from(9)));
        assert!(!needs_time(&row, &own), "the processor knows where it is");
        row.latest_at = Some(Timestamp::from_millis(8));
        assert!(!needs_time(&row, &StartFrom::Checkpoint));
        let start = start_of(&row, &StartFrom::Checkpoint, InitialPosition::TrimHorizon);
        let at = StartPosition::AtTimestamp(Timestamp::from_millis(8));
        assert_eq!(start.position, at);
        assert!(!needs_time(
            &lease(Position::Latest, Some(7)),
            &StartFrom::Checkpoint
        ));
        assert!(!needs_time(
            &lease(Position::TrimHorizon, None),
            &StartFrom::Checkpoint
        ));
    }

    #[test]
    fn pinned_lease_never_opens_at_new_latest() {
        let pinned = StartPosition::AtTimestamp(Timestamp::from_millis(7));
        assert_eq!(opened(Position::Latest, Some(7)), pinned);
        assert_eq!(opened(Position::AtTimestamp, Some(7)), pinned);
        assert_eq!(opened(Position::TrimHorizon, Some(7)), StartPosition::TrimHorizon);
        assert_eq!(opened(Position::Latest, None), StartPosition::Latest);
    }

    #[test]
    fn checkpoint_opens_at_its_record_and_skips_it() {
        let done = RecordPosition::plain(SequenceNumber::from(5));
        let start = start_of(
            &lease(Position::Record(done.clone()), Some(7)),
            &StartFrom::Checkpoint,
            InitialPosition::Latest,
        );
        assert_eq!(
            start,
            ReadStart {
                position: StartPosition::AtSequence(SequenceNumber::from(5)),
                done: Some(FinishedRecord {
                    position: done,
                    is_exact: false
                })
            }
        );
    }

    #[test]
    fn the_processor_may_know_better() {
        let own = RecordPosition::plain(SequenceNumber::from(9));
        let start = start_of(
            &lease(Position::TrimHorizon, None),
            &StartFrom::After(own.clone()),
            InitialPosition::Latest,
        );
        let done = FinishedRecord {
            position: own.clone(),
            is_exact: true,
        };
        assert_eq!(start.done, Some(done));
        let stored = lease(Position::Record(own), None);
        let opened = |start_from| start_of(&stored, &start_from, InitialPosition::Latest).position;
        let time = Timestamp::from_millis(11);
        assert_eq!(opened(StartFrom::TrimHorizon), StartPosition::TrimHorizon);
        assert_eq!(
            opened(StartFrom::AtTimestamp(time)),
            StartPosition::AtTimestamp(time)
        );
    }
}
