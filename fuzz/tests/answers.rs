//! No body of an answer makes a panic, and both formats give the same records.
//!
//! `cargo test` replays the committed inputs and tries some more; CONTRIBUTING.md says how to search for longer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is how they report"
)]

mod corpus;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kcl_core::types::Record;
use kcl_kinesis::fuzzing::{DecodedPage, from_cbor, from_json};
use serde_json::{Value, json};

/// Farther from 1970 than this, in milliseconds, seconds as a fraction are not exact.
const EXACT: u64 = 1 << 43;

#[test]
fn any_answer_is_refused_or_understood_in_both_formats() {
    bolero::check!().for_each(check);
}

#[test]
fn the_committed_inputs_pass() {
    corpus::replay("any_answer_is_refused_or_understood_in_both_formats", check);
}

fn check(input: &[u8]) {
    let body = Bytes::copy_from_slice(input);
    if let Some(page) = from_cbor(&body) {
        assert_eq!(page.body_bytes, body.len());
        check_again_in_json(&page);
    }
    if let Some(page) = from_json(&body) {
        // Texts that nobody asks for are passed over without a look into them, so not everything that is understood is JSON throughout.
        if let Ok(whole) = serde_json::from_slice::<Value>(&body) {
            let records = whole.get("Records").and_then(Value::as_array);
            assert_eq!(page.records.len(), records.map_or(0, Vec::len));
        }
        assert!(page.records.iter().map(Record::size).sum::<usize>() <= page.body_bytes);
        check_again_in_json(&page);
    }
}

/// Writes what was understood, and reads it again.
fn check_again_in_json(page: &DecodedPage) {
    let record = |record: &Record| {
        let mut written = json!({
            "SequenceNumber": record.sequence_number().as_str(),
            "Data": STANDARD.encode(record.data()),
        });
        if let Some(key) = record.partition_key() {
            written["PartitionKey"] = key.into();
        }
        if let Some(arrived) = record.approximate_arrival() {
            written["ApproximateArrivalTimestamp"] = (arrived.as_millis() as f64 / 1000.0).into();
        }
        written
    };
    let written = json!({
        "Records": page.records.iter().map(record).collect::<Vec<_>>(),
        "NextShardIterator": page.next,
        "MillisBehindLatest": page.behind_millis,
    });
    let again = from_json(&Bytes::from(written.to_string())).expect("what is written is understood");
    assert_eq!(
        (&again.next, again.behind_millis),
        (&page.next, page.behind_millis)
    );
    assert_eq!(again.records.len(), page.records.len());
    for (again, record) in again.records.iter().zip(&page.records) {
        assert_eq!(again.position(), record.position());
        assert_eq!(again.data(), record.data());
        assert_eq!(again.partition_key(), record.partition_key());
        let is_exact = |record: &Record| {
            record
                .approximate_arrival()
                .filter(|time| time.as_millis().unsigned_abs() < EXACT)
        };
        assert_eq!(is_exact(again), is_exact(record));
    }
}
