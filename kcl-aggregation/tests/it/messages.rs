//! Messages that no vector shows: made by hand, read without an envelope.

use bytes::Bytes;
use kcl_aggregation::{Aggregate, OutsideShard, UserRecord, hash_key_of};

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
fn user_record_without_data_makes_message_unparsable() {
    let error = read(&[field(1, b"pk"), field(3, &[0x08, 0])]).unwrap_err();
    assert_eq!(
        error,
        "corrupt aggregated record: a user record has no data at byte 6"
    );
}

#[test]
fn user_record_without_key_index_makes_message_unparsable() {
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
fn a_tag_without_key_makes_the_message_unparsable() {
    let record = [vec![0x08, 0], field(3, b"x"), field(4, &field(2, b"value"))].concat();
    let error = read(&[field(1, b"pk"), field(3, &record)]).unwrap_err();
    assert_eq!(error, "corrupt aggregated record: a tag has no key at byte 13");
}

#[test]
fn known_field_of_another_type_is_unknown() {
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
fn index_that_java_makes_negative_is_error() {
    // 2^31
    let record = [vec![0x08, 0x80, 0x80, 0x80, 0x80, 0x08], field(3, b"x")].concat();
    let error = only_record(&[field(1, b"pk"), field(3, &record)]).unwrap_err();
    assert!(
        error.ends_with("partition key 2147483648 is not in the table of 1"),
        "{error}"
    );
}

#[test]
fn invalid_hash_keys_are_read_as_absent() {
    let rows: [(&str, Option<u128>); 12] = [
        ("", None),
        ("undefined", None),
        ("null", None),
        ("340282366920938463463374607431768211456", None),
        ("-1", None),
        ("0xff", None),
        (" 7", None),
        ("1.7e38", None),
        ("+-1", None),
        ("7", Some(7)),
        ("+7", Some(7)),
        ("-0", Some(0)),
    ];
    let with_hash_key = field(3, &[vec![0x08, 0, 0x10, 0], field(3, b"x")].concat());
    for (text, hash_key) in rows {
        let fields = [field(1, b"pk"), field(2, text.as_bytes()), with_hash_key.clone()];
        let record = only_record(&fields).unwrap();
        assert_eq!(record.explicit_hash_key, hash_key, "{text:?}");
        assert_eq!(record.has_invalid_hash_key, hash_key.is_none(), "{text:?}");
        assert_eq!(record.data, "x");
    }
}

#[test]
fn partition_key_places_record_with_invalid_hash_key() {
    let stored = |key| field(3, &[vec![0x08, key, 0x10, 0], field(3, b"x")].concat());
    let fields = [
        field(1, b"pk"),
        field(1, b"other"),
        field(2, b"undefined"),
        stored(0),
        stored(1),
    ];
    let aggregate = read(&fields).unwrap();
    let hash_key = hash_key_of("pk");
    let admitted = aggregate
        .admit(hash_key..=hash_key, OutsideShard::FilterRecords)
        .unwrap();
    assert_eq!((admitted.outside(), admitted.withheld()), (1, 1));
    let records = admitted.records().collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!((records.len(), &*records[0].partition_key), (1, "pk"));
    let whole = aggregate.admit(0..=u128::MAX, OutsideShard::Fail).unwrap();
    assert_eq!((whole.outside(), whole.records().count()), (0, 2));
}

#[test]
fn owned_records_resume_anywhere() {
    let stored = |key, hash| field(3, &[vec![0x08, key, 0x10, hash], field(3, &[key])].concat());
    // The third is corrupt, the second lies outside.
    let fields = [
        field(1, b"pk"),
        field(2, b"5"),
        field(2, b"50"),
        stored(0, 0),
        stored(0, 1),
        stored(9, 0),
        stored(0, 0),
    ];
    for policy in [OutsideShard::Deliver, OutsideShard::FilterRecords] {
        let aggregate = read(&fields).unwrap();
        let admitted = aggregate.admit(0..=9, policy).unwrap();
        let mut owned = aggregate.clone().into_records(Some(0..=9), policy).unwrap();
        assert_eq!((owned.total(), owned.left(), owned.outside()), (4, 4, 1));
        assert_eq!(owned.withheld(), admitted.withheld());
        let expected = admitted.records().collect::<Vec<_>>();
        assert_eq!(owned.by_ref().collect::<Vec<_>>(), expected);
        assert_eq!(owned.left(), 0);
        for after in 0..5 {
            let owned = aggregate.clone().into_records(Some(0..=9), policy).unwrap();
            let rest = owned.after(after).collect::<Vec<_>>();
            assert_eq!(rest, admitted.records_after(after).collect::<Vec<_>>(), "{after}");
        }
    }
}

#[test]
fn bad_key_that_nobody_uses_does_no_harm() {
    let record = [vec![0x08, 0], field(3, b"x")].concat();
    only_record(&[field(1, b"pk"), field(2, b"abc"), field(3, &record)]).unwrap();
}

#[test]
fn corrupt_user_record_is_reported_under_each_policy() {
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
