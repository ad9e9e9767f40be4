//! No bytes of a stream make a panic, and what is read can be packed again.
//!
//! `cargo test` replays the committed inputs and tries some more; CONTRIBUTING.md says how to search for longer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is how they report"
)]

mod corpus;

use bytes::Bytes;
use kcl_aggregation::{Aggregate, Aggregator, OutsideShard, UserRecord, unpack};

#[test]
fn any_message_makes_an_error_or_readable_records() {
    bolero::check!().for_each(check);
}

#[test]
fn the_committed_inputs_pass() {
    corpus::replay("any_message_makes_an_error_or_readable_records", check);
}

fn check(input: &[u8]) {
    let message = &Bytes::copy_from_slice(input);
    // Without a matching MD5 nothing is an aggregate, so the message itself is what the search changes.
    let _ = unpack(message);
    let Ok(aggregate) = Aggregate::from_message(message.clone()) else {
        return;
    };
    let all = aggregate.records().collect::<Vec<_>>();
    assert_eq!(all.len(), aggregate.len());
    for (index, record) in all.iter().enumerate() {
        let sub_sequence_number = match record {
            Ok(record) => record.sub_sequence_number,
            Err(error) => error.sub_sequence_number,
        };
        assert_eq!(sub_sequence_number, index as u64);
    }
    let readable = all.iter().flatten().cloned().collect::<Vec<_>>();
    assert!(readable.iter().all(|record| is_part_of(&record.data, message)));
    assert_eq!(aggregate.records_after(0).count(), all.len().saturating_sub(1));
    check_policies(&aggregate, &readable);
    check_packing(&readable);
}

fn check_policies(aggregate: &Aggregate, readable: &[UserRecord]) {
    let shard = 1 << 100..=u128::MAX / 2;
    let outside = readable
        .iter()
        .filter(|record| !shard.contains(&record.hash_key()))
        .count();
    for policy in [
        OutsideShard::FilterAggregate,
        OutsideShard::FilterRecords,
        OutsideShard::Deliver,
    ] {
        let admitted = aggregate.admit(shard.clone(), policy).unwrap();
        assert_eq!(admitted.outside(), outside);
        let delivered = admitted.records().flatten().count();
        assert_eq!(delivered, readable.len() - admitted.withheld());
    }
    assert_eq!(aggregate.admit(shard, OutsideShard::Fail).is_err(), outside > 0);
}

fn check_packing(records: &[UserRecord]) {
    let mut aggregator = Aggregator::with_limit(usize::MAX);
    let mut accepted = Vec::new();
    for record in records {
        let added = aggregator.add(&record.partition_key, record.explicit_hash_key, &record.data);
        if added.is_ok() {
            accepted.push((&record.partition_key, record.explicit_hash_key, &record.data));
        }
    }
    let Some(packed) = aggregator.finish() else {
        return;
    };
    let again = unpack(&packed.data).unwrap().unwrap();
    let again = again.records().collect::<Result<Vec<_>, _>>().unwrap();
    let again = again
        .iter()
        .map(|record| (&record.partition_key, record.explicit_hash_key, &record.data));
    assert!(again.eq(accepted));
}

fn is_part_of(part: &Bytes, whole: &Bytes) -> bool {
    let (part, whole) = (part.as_ptr_range(), whole.as_ptr_range());
    whole.start <= part.start && part.end <= whole.end
}
