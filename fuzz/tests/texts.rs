//! No text makes a panic where a number, a position or a name is expected, and a value that was read reads the same after it is written.
//!
//! `cargo test` replays the committed inputs and tries some more; CONTRIBUTING.md says how to search for longer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is how they report"
)]

mod corpus;

use kcl_core::types::{
    HashKeyRange, Incarnation, LeaseKey, Position, SequenceNumber, ShardId, StreamIdentity, Timestamp,
};

#[test]
fn any_text_is_refused_or_read_the_same_again() {
    bolero::check!().for_each(check);
}

#[test]
fn the_committed_inputs_pass() {
    corpus::replay("any_text_is_refused_or_read_the_same_again", check);
}

fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.splitn(3, '\n');
    let [first, second, third] = [(); 3].map(|()| lines.next().unwrap_or_default());
    check_numbers(first, second);
    check_position(first, second);
    if let Ok(range) = HashKeyRange::parse(first, second) {
        let again = HashKeyRange::parse(&range.start().to_string(), &range.end().to_string());
        assert_eq!(again, Ok(range));
        assert!(range.contains(range.start()) && range.contains(range.end()));
    }
    if let Ok(incarnation) = first.parse::<Incarnation>() {
        assert_eq!(incarnation.to_string().parse(), Ok(incarnation));
    }
    check_keys(first, second, third);
}

/// Sequence numbers are ordered as numbers, whatever zeros they begin with.
fn check_numbers(first: &str, second: &str) {
    let (Ok(a), Ok(b)) = (SequenceNumber::new(first), SequenceNumber::new(second)) else {
        return;
    };
    for number in [&a, &b] {
        assert_eq!(number.as_str().parse(), Ok(number.clone()));
    }
    let padded = |digits: &str| format!("{:0>129}", digits.trim_start_matches('0'));
    assert_eq!(a.cmp(&b), padded(first).cmp(&padded(second)));
}

fn check_position(checkpoint: &str, sub_sequence: &str) {
    let sub_sequence = sub_sequence.parse().unwrap_or(0);
    let Ok(position) = Position::parse(checkpoint, sub_sequence) else {
        return;
    };
    let again = Position::parse(position.checkpoint_text(), position.sub_sequence());
    assert_eq!(again.as_ref(), Ok(&position));
    // What was stored is never taken for something after the end, or before the beginning.
    assert!(position <= Position::ShardEnd);
    if let Some(record) = position.record() {
        assert!(position.covers(record));
    }
}

fn check_keys(name: &str, arn: &str, created: &str) {
    let identity = StreamIdentity {
        name: name.to_owned(),
        arn: arn.to_owned(),
        created: Timestamp::from_millis(created.parse().unwrap_or(0)),
    };
    let (Ok(stream), Ok(shard)) = (identity.key(), ShardId::new(name)) else {
        return;
    };
    let key = LeaseKey::of_stream(&stream, &shard);
    assert!(key.as_str().starts_with(stream.as_str()) && key.as_str().ends_with(shard.as_str()));
    assert_ne!(key, LeaseKey::single_stream(&shard));
}
