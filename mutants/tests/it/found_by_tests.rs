//! The bugs that no scenario shows: each is found by a test of its own.

use kcl_core::internals::{Failpoint, failpoint};
use kcl_core::lease_store::{FinishedAhead, Lease};
use kcl_core::types::{Position, RecordPosition, SequenceNumber, ShardId};
use kcl_mutants::found_by_tests;

/// The test that finds the bug, as the list names it.
fn named(bug: Failpoint) -> &'static str {
    let (_, test) = found_by_tests().into_iter().find(|(of, _)| *of == bug).unwrap();
    test
}

/// Returns `true` if nothing counts as finished beside a checkpoint that was moved back by hand.
fn is_void_after_move() -> bool {
    let at = |n: u128| RecordPosition::plain(SequenceNumber::from(n));
    let base = Position::Record(at(4));
    let mut row = Lease::unowned(ShardId::new("shard").unwrap(), base.clone());
    row.finished_ahead = FinishedAhead::of(&base, true, [(&at(5), false), (&at(6), true)]);
    assert!(row.valid_finished_ahead(true).is_some());
    row.checkpoint = Position::Record(at(2));
    row.valid_finished_ahead(true).is_none()
}

#[test]
fn moved_checkpoint_makes_attribute_void() {
    let bug = Failpoint::AheadOfAnotherCheckpoint;
    assert_eq!(named(bug), "moved_checkpoint_makes_attribute_void");
    assert!(is_void_after_move());
    assert!(!failpoint::with(bug, is_void_after_move));
}

/// The same that the simulation finds, without a fleet.
#[test]
fn record_in_flight_is_never_left_out() {
    let at = |n: u128| RecordPosition::plain(SequenceNumber::from(n));
    let leaves_out_second = || {
        let delivered = [at(1), at(2), at(3)];
        let delivered = delivered.iter().map(|position| (position, *position == at(3)));
        let ahead = FinishedAhead::of(&Position::TrimHorizon, true, delivered).unwrap();
        ahead.covers(&at(2))
    };
    assert!(!leaves_out_second());
    assert!(failpoint::with(
        Failpoint::AheadCountsUnfinished,
        leaves_out_second
    ));
}
