use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::ownership::checkpoint_tracker::CheckpointTracker;
use crate::types::{Record, SequenceNumber, ShardId};

fn at(n: u128) -> RecordPosition {
    RecordPosition::plain(SequenceNumber::from(n))
}

fn base_at(n: u128) -> Position {
    Position::Record(at(n))
}

/// Record `unfinished` is not finished, and those behind it up to `end` are.
fn ahead(base: u128, unfinished: u128, end: u128) -> Option<FinishedAhead> {
    let delivered: Vec<_> = (unfinished..=end).map(at).collect();
    let delivered = delivered
        .iter()
        .map(|position| (position, *position != at(unfinished)));
    FinishedAhead::of(&base_at(base), true, delivered)
}

fn row(checkpoint: u128, finished_ahead: Option<FinishedAhead>) -> Lease {
    Lease {
        finished_ahead,
        ..Lease::unowned(ShardId::new("shard").unwrap(), base_at(checkpoint))
    }
}

#[test]
fn found_attribute_stays_until_reading_passes_it() {
    let mut inherited = InheritedAhead::default();
    let row_found = row(4, ahead(4, 5, 9));
    assert_eq!(inherited.begin(Some(&row_found), true), ahead(4, 5, 9));
    inherited.delivered(&at(8));
    assert_eq!(inherited.change_of(&row_found, || None), None, "it knows more");
    let moved = inherited.with_checkpoint(&base_at(6), || None).unwrap();
    assert_eq!((moved.base(), moved.end()), (&base_at(6), &at(9)));
    inherited.delivered(&at(9));
    assert_eq!(inherited.change_of(&row_found, || None), Some(None));
    assert_eq!(
        inherited.with_checkpoint(&base_at(6), || ahead(6, 7, 8)),
        ahead(6, 7, 8)
    );
}

#[test]
fn void_attribute_is_neither_used_nor_kept() {
    let mut inherited = InheritedAhead::default();
    let moved_by_java = row(3, ahead(4, 5, 9));
    assert_eq!(inherited.begin(Some(&moved_by_java), true), None);
    assert_eq!(inherited.change_of(&moved_by_java, || None), Some(None));
    let of_other_mode = row(4, ahead(4, 5, 9));
    assert_eq!(inherited.begin(Some(&of_other_mode), false), None);
}

#[test]
fn nothing_is_stored_before_first_own_checkpoint() {
    let mut inherited = InheritedAhead::default();
    let row_found = row(4, None);
    let known = || ahead(4, 20, 30);
    assert_eq!(inherited.change_of(&row_found, known), None, "nothing is read");
    inherited.begin(None, true);
    assert_eq!(
        inherited.change_of(&row_found, known),
        None,
        "5 to 19 are not delivered"
    );
    inherited.stored(&base_at(19));
    let known = || ahead(19, 20, 30);
    assert_eq!(inherited.change_of(&row(19, None), known), Some(known()));
}

#[test]
fn pending_checkpoint_is_not_discarded_for_attribute() {
    let mut inherited = InheritedAhead::default();
    let mut pending = row(4, None);
    pending.pending = Some(crate::lease::row::PendingCheckpoint {
        position: base_at(9),
        state: None,
    });
    inherited.begin(Some(&pending), true);
    assert_eq!(inherited.change_of(&pending, || ahead(4, 5, 7)), None);
    pending.pending = None;
    assert_eq!(
        inherited.change_of(&pending, || ahead(4, 5, 7)),
        Some(ahead(4, 5, 7))
    );
}

/// The finished part of a tracker: the longest prefix, and the records behind that.
fn shown(
    tracker: &CheckpointTracker,
    before: &Position,
) -> (Position, impl Fn(&Position) -> Option<FinishedAhead>) {
    let finished = tracker.finished().cloned();
    let base = finished.map_or_else(|| before.clone(), Position::Record);
    (base, |base| {
        FinishedAhead::of(base, true, tracker.behind_prefix())
    })
}

proptest! {
    /// However far a successor has read, its row covers all that was finished and nothing that was not.
    #[test]
    fn two_owners_leave_out_only_finished_records(
        first in prop::collection::vec(any::<bool>(), 1..60),
        more in prop::collection::vec(any::<bool>(), 60),
        read in 0_usize..60,
        size in 1_usize..9,
    ) {
        let record = |n: usize| Record::new(SequenceNumber::from(n as u128), "");
        let number = |index: usize| index + 1;
        let mut tracker = CheckpointTracker::default();
        let all: Vec<_> = (0..first.len()).map(number).map(record).collect();
        let id = tracker.deliver(Arc::new(all.into()));
        let mut done: BTreeSet<usize> = (0..first.len()).filter(|index| first[*index]).collect();
        done.iter().for_each(|index| tracker.finish(id, *index));
        let (checkpoint, ahead) = shown(&tracker, &Position::TrimHorizon);
        let mut row = row(1, ahead(&checkpoint));
        row.checkpoint = checkpoint;

        let mut inherited = InheritedAhead::default();
        let found = inherited.begin(Some(&row), true);
        let mut tracker = CheckpointTracker::default();
        let behind: Vec<_> = (0..60).filter(|index| !row.checkpoint.covers(record(number(*index)).position())).collect();
        for part in behind.chunks(size).take(read.div_ceil(size)) {
            let records: Vec<_> = part.iter().map(|index| record(number(*index))).collect();
            let id = tracker.deliver(Arc::new(records.clone().into()));
            for (place, record) in records.iter().enumerate() {
                if inherited.found().is_some_and(|found| found.covers(record.position())) {
                    tracker.finish(id, place);
                }
            }
            inherited.delivered(records[records.len() - 1].position());
            for (place, index) in part.iter().enumerate().filter(|(_, index)| more[**index]) {
                tracker.finish(id, place);
                done.insert(*index);
            }
        }
        let (base, known) = shown(&tracker, &row.checkpoint);
        let ahead = inherited.with_checkpoint(&base, || known(&base));
        for index in 0..60 {
            let record = record(number(index));
            let covers = |ahead: &Option<FinishedAhead>| ahead.as_ref().is_some_and(|ahead| ahead.covers(record.position()));
            let is_covered = base.covers(record.position()) || covers(&ahead);
            prop_assert!(!is_covered || done.contains(&index), "{} is not finished", number(index));
            prop_assert!(is_covered || !covers(&found), "{} comes again", number(index));
        }
    }
}
