//! Records whose treatment by the Java KCL is known: each payload was run through its de-aggregator.
//!
//! Where it loses user records or passes a corrupt aggregate as if it were plain, an error is expected here.

use std::ops::RangeInclusive;

use bytes::Bytes;
use kcl_aggregation::{Aggregate, CorruptRecord, OutsideShard, UserRecord, hash_key_of, unpack};

const WHOLE: RangeInclusive<u128> = 0..=u128::MAX;

fn bytes(hex: &str) -> Bytes {
    let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}

fn aggregate(hex: &str) -> Aggregate {
    unpack(&bytes(hex)).unwrap().expect("an aggregated record")
}

/// `key/explicit hash key/sub-sequence number=data`, or the error.
fn shown(record: Result<UserRecord, CorruptRecord>) -> String {
    match record {
        Ok(record) => {
            let hash_key = record
                .explicit_hash_key
                .map_or("-".to_owned(), |key| key.to_string());
            let data: String = record.data.iter().map(|byte| format!("{byte:02x}")).collect();
            format!(
                "{}/{hash_key}/{}={data}",
                record.partition_key, record.sub_sequence_number
            )
        }
        Err(error) => error.to_string(),
    }
}

/// The records that the Java KCL delivers, which filters whole aggregates.
fn delivered(hex: &str, shard: RangeInclusive<u128>) -> Vec<String> {
    let aggregate = aggregate(hex);
    let admitted = aggregate.admit(shard, OutsideShard::FilterAggregate).unwrap();
    admitted.records().map(shown).collect()
}

fn is_plain(hex: &str) -> bool {
    unpack(&bytes(hex)).unwrap().is_none()
}

#[test]
fn v01_user_records_with_one_key_keep_order() {
    let hex = "f3899ac20a02706b1a0508001a01611a0508001a01621a0508001a01630e4946e61d608e69c50a71751095e119";
    assert_eq!(delivered(hex, WHOLE), ["pk/-/0=61", "pk/-/1=62", "pk/-/2=63"]);
}

#[test]
fn v02_first_and_last_hash_keys_are_read() {
    let hex = "f3899ac20a0270310a02703212013012273334303238323336363932303933383436333436333337343630373433313736383231313435351a07080010001a01611a07080110011a016292904757d1570178e115e50bfc9259f4";
    let last = "p2/340282366920938463463374607431768211455/1=62";
    assert_eq!(delivered(hex, WHOLE), ["p1/0/0=61", last]);
}

#[test]
fn v03_user_records_may_differ_in_hash_key() {
    let hex = "f3899ac20a0270311201351a0508001a01611a07080010001a01629fec655bee5a4b860b830ed5924c2372";
    assert_eq!(delivered(hex, WHOLE), ["p1/-/0=61", "p1/5/1=62"]);
}

#[test]
fn v04_record_with_wrong_md5_is_plain() {
    assert!(is_plain(
        "f3899ac20a0270311a0508001a016100000000000000000000000000000000"
    ));
}

#[test]
fn v05_an_empty_message_makes_a_plain_record() {
    assert!(is_plain("f3899ac2d41d8cd98f00b204e9800998ecf8427e"));
}

#[test]
fn v06_an_aggregate_without_user_records_yields_nothing() {
    let hex = "f3899ac20a027031ea7ddc860af796d50bdeee1d83b988ea";
    assert_eq!(delivered(hex, WHOLE), [""; 0]);
    assert!(aggregate(hex).is_empty());
}

#[test]
fn v07_wrong_index_is_error_between_readable_neighbours() {
    // Java drops the second user record and the third, or dies of its own log line.
    let hex = "f3899ac20a0270311a0508001a01611a0508091a01621a0508001a0163b32db6bd3e0af158c7d470a41024e6fb";
    let error =
        "corrupt user record at index 1 of an aggregated record: partition key 9 is not in the table of 1";
    assert_eq!(delivered(hex, WHOLE), ["p1/-/0=61", error, "p1/-/2=63"]);
}

#[test]
fn v08_right_md5_without_protobuf_is_an_error() {
    // Java passes it as if it were plain.
    let hex = "f3899ac274657374206d657373616765c72b9698fa1927e1dd12d3cf26ed84b2";
    let error = unpack(&bytes(hex)).unwrap_err().to_string();
    assert_eq!(
        error,
        "corrupt aggregated record: a group ends that did not begin at byte 5"
    );
}

#[test]
fn v09_short_records_are_plain() {
    for hex in ["f3899a", "f3899ac2", ""] {
        assert!(is_plain(hex), "{hex}");
    }
}

#[test]
fn v10a_both_ends_of_shard_belong_to_it() {
    let hex = "f3899ac20a0270310a02703212023130120232301a07080010001a01611a07080110011a01629eaa2c34dcc10d86b6f62d0edd43957d";
    assert_eq!(delivered(hex, 10..=20), ["p1/10/0=61", "p2/20/1=62"]);
}

#[test]
fn v10b_record_behind_shard_filters_the_whole_aggregate() {
    let hex = "f3899ac20a0270310a02703212023130120232311a07080010001a01611a07080110011a01621660c6879b57ac060e3bed6eaff8262e";
    assert_eq!(delivered(hex, 10..=20), [""; 0]);
}

#[test]
fn v10c_record_before_shard_filters_the_whole_aggregate() {
    let hex = "f3899ac20a0270310a027032120139120231351a07080010001a01611a07080110011a0162ac3afcdf5d32919f7389c0eddd33b111";
    assert_eq!(delivered(hex, 10..=20), [""; 0]);
}

#[test]
fn v11_hash_key_without_number_is_absent() {
    // Java drops the second user record and the third.
    let hex = "f3899ac20a02703112036162631a0508001a01611a07080010001a01621a0508001a0163daaa3a0a62d01862f3af4ae82df32a0f";
    assert_eq!(delivered(hex, WHOLE), ["p1/-/0=61", "p1/-/1=62", "p1/-/2=63"]);
    let invalid = |record: Result<UserRecord, CorruptRecord>| record.unwrap().has_invalid_hash_key;
    let invalid = aggregate(hex).records().map(invalid).collect::<Vec<_>>();
    assert_eq!(invalid, [false, true, false]);
}

#[test]
fn v15_aggregate_inside_user_record_is_its_data() {
    let hex = "f3899ac20a0270311a2308001a1ff3899ac20a0270691a0508001a017a90a2fc8fc8e53c7fbae26bb3b12454bf42e5dfb1fb71142a695a2eb84fbac697";
    let inner = "f3899ac20a0270691a0508001a017a90a2fc8fc8e53c7fbae26bb3b12454bf";
    assert_eq!(delivered(hex, WHOLE), [format!("p1/-/0={inner}")]);
}

#[test]
fn v16_index_is_cut_to_32_bits() {
    let hex = "f3899ac20a0270311a090880808080101a0161e200028cfedc595ed564477040bbde0c";
    assert_eq!(delivered(hex, WHOLE), ["p1/-/0=61"]);
}

#[test]
fn v18_key_beyond_utf8_is_replaced_before_hashing() {
    let hex = "f3899ac20a0370fffe1a0508001a01615d292a93cc8ca1be95c2fde6fa308f6b";
    let hash_key = 19846019058310160704716798583680352338;
    assert_eq!(delivered(hex, hash_key..=hash_key), ["p\u{fffd}\u{fffd}/-/0=61"]);
    let record = aggregate(hex).records().next().unwrap().unwrap();
    assert_eq!(record.hash_key(), hash_key);
}

#[test]
fn v21_tables_may_stand_behind_user_records() {
    let hex = "f3899ac21a0508001a01610a027031faf85f459aa8dd2fba5651e12fab92da";
    assert_eq!(delivered(hex, WHOLE), ["p1/-/0=61"]);
}

#[test]
fn v22_byte_behind_md5_makes_plain_record() {
    assert!(is_plain(
        "f3899ac20a0270311a0508001a0161cc4f729191e30edc3cd5a0aae3f83a8b00"
    ));
}

#[test]
fn v23_shard_of_one_key_gets_its_record() {
    let hex = "f3899ac20a02706b1a0508001a0161ea3a0d04a0b619cbf04ad7f0b05413c3";
    let hash_key = hash_key_of("pk");
    assert_eq!(hash_key, 38317986088707300215492326132921849533);
    assert_eq!(delivered(hex, hash_key..=hash_key), ["pk/-/0=61"]);
    assert_eq!(delivered(hex, hash_key + 1..=u128::MAX), [""; 0]);
    assert_eq!(delivered(hex, 0..=hash_key - 1), [""; 0]);
}

#[test]
fn v24_hash_key_outside_table_is_an_error() {
    // Java delivers nothing and says so in a log line.
    let hex = "f3899ac20a0270311a07080010001a016121d923d3470e389d0dfca1733495d0cd";
    let error = "corrupt user record at index 0 of an aggregated record: explicit hash key 0 is not in the table of 0";
    assert_eq!(delivered(hex, WHOLE), [error]);
}
