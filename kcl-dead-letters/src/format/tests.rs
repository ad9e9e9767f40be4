use crate::{InvalidLetter, decode, encode};
use kcl_core::dead_letter::DeadLetter;
use kcl_core::processor::{FailedCall, FencingToken, Severity};
use kcl_core::types::{ApplicationName, HashKeyRange, Record, SequenceNumber, ShardId, Timestamp, WorkerId};
use proptest::prelude::*;

fn letter(data: Vec<u8>, key: Option<String>) -> DeadLetter {
    let mut record = Record::new(SequenceNumber::from(7), data).with_sub_sequence(3);
    if let Some(key) = key {
        record = record.with_partition_key(key).with_explicit_hash_key(u128::MAX);
    }
    let shard = ShardId::new("shardId-000000000000").unwrap();
    let app = ApplicationName::new("app").unwrap();
    DeadLetter::new(record, "trucks", shard, app, WorkerId::new("worker-1").unwrap())
}

/// The format is documented: whoever changes it changes this text.
#[test]
fn line_is_as_documented() {
    let mut letter = letter(b"not a position".to_vec(), Some("truck-7".to_owned()));
    letter.record = letter
        .record
        .with_arrival(Timestamp::from_millis(1_700_000_000_123));
    letter.stream_arn = Some("arn:aws:kinesis:eu-west-1:123456789012:stream/trucks".to_owned());
    letter.hash_range = Some(HashKeyRange::WHOLE);
    letter.fencing_token = FencingToken::new(12);
    letter.call = FailedCall::ProcessRecords;
    letter.severity = Severity::Poison;
    letter.attempts = 5;
    letter.first_failure = Timestamp::from_millis(1_700_000_001_000);
    letter.last_failure = Timestamp::from_millis(1_700_000_002_500);
    letter.error = "no such truck: line 1".to_owned();
    let line = String::from_utf8(encode(&letter)).unwrap();
    let expected = concat!(
        r#"{"version":1,"application":"app","stream":"trucks","#,
        r#""stream_arn":"arn:aws:kinesis:eu-west-1:123456789012:stream/trucks","shard":"shardId-000000000000","#,
        r#""sequence_number":"7","sub_sequence_number":3,"partition_key":"truck-7","#,
        r#""explicit_hash_key":"340282366920938463463374607431768211455","#,
        r#""hash_range":{"start":"0","end":"340282366920938463463374607431768211455"},"#,
        r#""arrived":"2023-11-14T22:13:20.123Z","worker":"worker-1","fencing_token":12,"call":"process_records","#,
        r#""severity":"poison","panicked":false,"attempts":5,"first_failure":"2023-11-14T22:13:21.000Z","#,
        r#""last_failure":"2023-11-14T22:13:22.500Z","error":"no such truck: line 1","data":"bm90IGEgcG9zaXRpb24="}"#,
        "\n"
    );
    assert_eq!(line, expected);
    assert_eq!(decode(line.as_bytes()), Ok(letter));
}

#[test]
fn wrong_lines_are_refused_without_quoting_them() {
    let line = String::from_utf8(encode(&letter(b"secret".to_vec(), None))).unwrap();
    let wrong = |from: &str, to: &str| decode(line.replace(from, to).as_bytes()).unwrap_err();
    assert_eq!(wrong("\"version\":1", "\"version\":2"), InvalidLetter::Version(2));
    assert_eq!(
        wrong("\"7\"", "\"seven\""),
        InvalidLetter::Member("sequence_number")
    );
    assert_eq!(wrong("c2VjcmV0", "c2Vjcm="), InvalidLetter::Member("data"));
    assert_eq!(wrong("unspecified", "bad"), InvalidLetter::Member("severity"));
    let malformed = wrong("\"shard\":", "\"share\":");
    assert!(matches!(malformed, InvalidLetter::Malformed(_)) && !malformed.to_string().contains("c2Vj"));
}

#[test]
fn members_that_are_not_known_are_left_alone() {
    let letter = letter(b"payload".to_vec(), None);
    let line = String::from_utf8(encode(&letter)).unwrap();
    let more = line.replacen('{', r#"{"added_later":[1,2],"#, 1);
    assert_eq!(decode(more.as_bytes()), Ok(letter));
}

proptest! {
    #[test]
    fn any_letter_is_read_back(data in prop::collection::vec(any::<u8>(), 0..200), key in prop::option::of(".{1,20}"), error in ".{0,50}") {
        let mut letter = letter(data, key);
        letter.error = error;
        let line = encode(&letter);
        prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        prop_assert_eq!(decode(&line), Ok(letter));
    }

    #[test]
    fn any_bytes_are_a_letter_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes).is_err());
    }
}
