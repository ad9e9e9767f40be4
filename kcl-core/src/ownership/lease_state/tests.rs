use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::lease::change::apply;
use crate::lease::finished_ahead::FinishedAhead;
use crate::lease::row::{OwnerNotes, RowFacts};
use crate::types::{Incarnation, Position, RecordPosition, SequenceNumber, ShardId};

const RENEW: LeaseChange = LeaseChange::Renew {
    notes: OwnerNotes::NONE,
    facts: RowFacts::NONE,
};

fn id(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

fn owned_by(name: &str) -> Lease {
    Lease {
        owner: Some(id(name)),
        ..Lease::unowned(ShardId::new("shard").unwrap(), Position::TrimHorizon)
    }
}

fn after(row: &Lease, change: &LeaseChange) -> Lease {
    apply(row, change, Incarnation::from_random_bytes([1; 16]))
}

fn checkpoint(record: &str) -> LeaseChange {
    let record = RecordPosition::plain(SequenceNumber::new(record).unwrap());
    LeaseChange::Checkpoint {
        position: Position::Record(record),
        finished_ahead: None,
        notes: OwnerNotes::NONE,
    }
}

fn second(n: u64) -> Moment {
    Moment::from_origin(Duration::from_secs(n))
}

#[test]
fn row_that_stores_more_gets_no_checkpoint() {
    let row = after(&owned_by("me"), &checkpoint("70"));
    let mut known = LeaseState::new(row.clone());
    for less in ["60", "70"] {
        assert_eq!(
            known.next(&checkpoint(less), &id("me"), second(1)),
            NextWrite::Stored(row.clone())
        );
    }
    let more = known.next(&checkpoint("80"), &id("me"), second(1));
    assert!(matches!(more, NextWrite::Write { .. }));
    let children = BTreeSet::new();
    let ended = after(&row, &LeaseChange::End { children });
    known.observe(ended.clone());
    assert_eq!(
        known.next(&checkpoint("80"), &id("me"), second(2)),
        NextWrite::Stored(ended)
    );
}

#[test]
fn same_checkpoint_with_more_finished_is_written() {
    let at = |n: u128| RecordPosition::plain(SequenceNumber::from(n));
    let (open, done) = (at(71), at(72));
    let row = after(&owned_by("me"), &checkpoint("70"));
    let ahead = FinishedAhead::of(&row.checkpoint, true, [(&open, false), (&done, true)]);
    let with = |position: Position| LeaseChange::Checkpoint {
        position,
        finished_ahead: ahead.clone(),
        notes: OwnerNotes::NONE,
    };
    let mut known = LeaseState::new(row.clone());
    let same = with(row.checkpoint.clone());
    assert!(matches!(
        known.next(&same, &id("me"), second(1)),
        NextWrite::Write { .. }
    ));
    let less = with(Position::Record(at(60)));
    let stored = NextWrite::Stored(row.clone());
    assert_eq!(known.next(&less, &id("me"), second(1)), stored);
    let written = after(&row, &same);
    known.observe(written.clone());
    let stored = NextWrite::Stored(written);
    assert_eq!(known.next(&same, &id("me"), second(2)), stored);
}

#[test]
fn nothing_is_written_on_row_given_up() {
    let row = owned_by("me");
    let in_handoff = after(&row, &LeaseChange::BeginHandoff { to: id("next") });
    for given_up in [
        after(&row, &LeaseChange::Release),
        after(&in_handoff, &LeaseChange::CompleteHandoff),
    ] {
        let mut known = LeaseState::new(row.clone());
        assert!(known.observe(given_up.clone()));
        for change in [checkpoint("80"), RENEW, LeaseChange::Release] {
            assert_eq!(
                known.next(&change, &id("me"), second(1)),
                NextWrite::GivenUp(given_up.clone())
            );
        }
    }
    let mut known = LeaseState::new(in_handoff);
    assert!(matches!(
        known.next(&RENEW, &id("me"), second(1)),
        NextWrite::Write { .. }
    ));
}

#[test]
fn write_counts_from_first_that_may_still_land() {
    let mut known = LeaseState::new(owned_by("me"));
    let since = |known: &mut LeaseState, now| match known.next(&RENEW, &id("me"), second(now)) {
        NextWrite::Write { since, .. } => since,
        other @ (NextWrite::Stored(_) | NextWrite::GivenUp(_)) => panic!("{other:?}"),
    };
    assert_eq!(since(&mut known, 1), second(1));
    assert_eq!(since(&mut known, 2), second(1));
    let renewed = after(known.row(), &RENEW);
    known.observe(renewed.clone());
    assert_eq!(since(&mut known, 3), second(3));
    // A reply that is no news: the write of second 3 expects this very row.
    assert!(known.observe(renewed));
    assert_eq!(since(&mut known, 4), second(3));
}

#[test]
fn throttled_write_is_forgotten_unless_another_is_pending() {
    let mut known = LeaseState::new(owned_by("me"));
    let send = |known: &mut LeaseState, now| match known.next(&RENEW, &id("me"), second(now)) {
        NextWrite::Write { before, since } => (before, since),
        other @ (NextWrite::Stored(_) | NextWrite::GivenUp(_)) => panic!("{other:?}"),
    };
    let (old, _) = send(&mut known, 1);
    known.did_not_happen(&old);
    assert_eq!(send(&mut known, 2).1, second(2));
    assert_eq!(send(&mut known, 3).1, second(2));
    known.did_not_happen(&old);
    assert_eq!(send(&mut known, 4).1, second(2), "one of them may land yet");
    let renewed = after(&old, &RENEW);
    known.observe(renewed);
    assert_eq!(send(&mut known, 5).1, second(5));
    known.did_not_happen(&old);
    assert_eq!(
        send(&mut known, 6).1,
        second(5),
        "what failed was of an older row"
    );
}

#[test]
fn a_reply_that_was_overtaken_is_left_aside() {
    let old = owned_by("me");
    let new = after(&old, &RENEW);
    let mut known = LeaseState::new(new.clone());
    assert!(!known.observe(old));
    assert_eq!(known.row(), &new);
}
