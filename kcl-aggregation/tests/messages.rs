//! Messages that no vector shows: made by hand, read without an envelope.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is how they report"
)]

use bytes::Bytes;
use kcl_aggregation::{Aggregate, OutsideShard, UserRecord};

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn read(fields: &[Vec<u8>]) -> Result<Aggregate, String> {
    Aggregate::from_message(Bytes::from(fields.concat())).map_err(|error| error.to_string())
}

fn only_record(fields: &[Vec<u8>]) -> Result<UserRecord, String> {
    let aggregate = read(fields)?;
    assert_eq!(aggregate.len(), 1);
    let record = aggregate.records().next().unwrap();
    record.map_err(|error| error.to_string())
}

#[test]
fn a_user_record_without_data_makes_the_message_unparseable() {
    let error = read(&[field(1, b"pk"), field(3, &[0x08, 0])]).unwrap_err();
    assert_eq!(
        error,
        "corrupt aggregated record: a user record has no data at byte 6"
    );
}

#[test]
fn a_user_record_without_partition_key_index_makes_the_message_unparseable() {
    let error = read(&[field(1, b"pk"), field(3, &field(3, b"x"))]).unwrap_err();
    let expected = "corrupt aggregated record: a user record has no partition key index at byte 6";
    assert_eq!(error, expected);
}

#[test]
fn tags_and_unknown_fields_are_skipped() {
    let tag = field(4, &[field(1, b"key"), field(2, b"value")].concat());
    let record = [vec![0x08, 0], field(3, b"x"), tag, field(9, b"?")].concat();
    let record = only_record(&[field(7, b"?"), field(1, b"pk"), vec![0x40, 1], field(3, &record)]);
    assert_eq!(record.unwrap().data, "x");
}

#[test]
fn a_tag_without_key_makes_the_message_unparseable() {
    let record = [vec![0x08, 0], field(3, b"x"), field(4, &field(2, b"value"))].concat();
    let error = read(&[field(1, b"pk"), field(3, &record)]).unwrap_err();
    assert_eq!(error, "corrupt aggregated record: a tag has no key at byte 13");
}

#[test]
fn a_known_field_of_another_type_is_an_unknown_one() {
    // A table of partition keys as number; an index as text.
    let record = [field(1, b"0"), vec![0x08, 0], field(3, b"x")].concat();
    let record = only_record(&[vec![0x08, 3], field(1, b"pk"), field(3, &record)]).unwrap();
    assert_eq!((record.partition_key, record.data), ("pk".into(), "x".into()));
}

#[test]
fn the_last_of_several_values_counts() {
    let record = [vec![0x08, 9], field(3, b"x"), vec![0x08, 0], field(3, b"y")].concat();
    let record = only_record(&[field(1, b"pk"), field(3, &record)]).unwrap();
    assert_eq!((record.partition_key, record.data), ("pk".into(), "y".into()));
}

#[test]
fn empty_data_and_an_empty_key_are_delivered() {
    let record = [vec![0x08, 0], field(3, b"")].concat();
    let record = only_record(&[field(1, b""), field(3, &record)]).unwrap();
    assert_eq!((record.partition_key, record.data), ("".into(), "".into()));
}

#[test]
fn an_index_that_java_makes_negative_is_an_error() {
    // 2^31
    let record = [vec![0x08, 0x80, 0x80, 0x80, 0x80, 0x08], field(3, b"x")].concat();
    let error = only_record(&[field(1, b"pk"), field(3, &record)]).unwrap_err();
    assert!(
        error.ends_with("partition key 2147483648 is not in the table of 1"),
        "{error}"
    );
}

#[test]
fn a_hash_key_that_no_shard_can_have_is_an_error() {
    for text in ["", "-1", "340282366920938463463374607431768211456"] {
        let record = [vec![0x08, 0, 0x10, 0], field(3, b"x")].concat();
        let error =
            only_record(&[field(1, b"pk"), field(2, text.as_bytes()), field(3, &record)]).unwrap_err();
        assert!(error.ends_with("is not a number from 0 to 2^128 - 1"), "{error}");
    }
}

#[test]
fn a_bad_key_that_nobody_uses_does_no_harm() {
    let record = [vec![0x08, 0], field(3, b"x")].concat();
    only_record(&[field(1, b"pk"), field(2, b"abc"), field(3, &record)]).unwrap();
}

#[test]
fn a_corrupt_user_record_is_reported_under_each_policy() {
    let stored = |key, hash| field(3, &[vec![0x08, key, 0x10, hash], field(3, b"x")].concat());
    let fields = [field(1, b"pk"), field(2, b"5"), stored(0, 0), stored(7, 0)];
    let aggregate = read(&fields).unwrap();
    for policy in [
        OutsideShard::FilterAggregate,
        OutsideShard::FilterRecords,
        OutsideShard::Deliver,
    ] {
        let admitted = aggregate.admit(6..=9, policy).unwrap();
        assert_eq!(admitted.outside(), 1, "{policy:?}");
        let delivered = usize::from(policy == OutsideShard::Deliver);
        assert_eq!(admitted.withheld(), 1 - delivered, "{policy:?}");
        let records = admitted.records().collect::<Vec<_>>();
        assert_eq!(records.iter().filter(|record| record.is_ok()).count(), delivered);
        let corrupt = records.iter().find_map(|record| record.as_ref().err()).unwrap();
        assert_eq!(corrupt.sub_sequence_number, 1, "{policy:?}");
    }
}
