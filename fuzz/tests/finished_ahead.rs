//! No bytes in a row make a panic where the records stand that are finished ahead of a checkpoint, and bytes that are read are written the same.
//!
//! `cargo test` replays the committed inputs and tries some more; CONTRIBUTING.md says how to search for longer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is how they report"
)]

mod corpus;

use kcl_core::lease_store::FinishedAhead;

#[test]
fn any_bytes_are_refused_or_written_the_same_again() {
    bolero::check!().for_each(check);
}

#[test]
fn the_committed_inputs_pass() {
    corpus::replay("any_bytes_are_refused_or_written_the_same_again", check);
}

fn check(input: &[u8]) {
    let Ok(ahead) = FinishedAhead::decode(input) else {
        return;
    };
    assert!(input.len() <= FinishedAhead::LARGEST_ENCODING);
    assert_eq!(ahead.encode(), input);
    assert!(!ahead.base().covers(ahead.end()), "it ends behind its checkpoint");
    // The end itself may share its fingerprint with an exception; nothing behind it is ever finished.
    let mut behind = ahead.end().clone();
    if let Some(next) = behind.sub_sequence.checked_add(1) {
        behind.sub_sequence = next;
        assert!(!ahead.covers(&behind));
    }
    let moved = ahead.rebased(ahead.base()).expect("the checkpoint stays");
    assert_eq!(moved, ahead);
}
