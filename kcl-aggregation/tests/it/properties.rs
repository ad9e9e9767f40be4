//! Properties of all records: packing and unpacking agree, nothing is copied, nothing panics.

use std::collections::BTreeSet;

use bytes::Bytes;
use kcl_aggregation::{
    Aggregate, Aggregator, Envelope, InvalidUserRecord, OutsideShard, Packed, UserRecord, hash_key_of, unpack,
};
use proptest::prelude::*;

type Put = (String, Option<u128>, Vec<u8>);

fn puts() -> impl Strategy<Value = Vec<Put>> {
    let key = prop_oneof!["[a-d]", "\\PC{1,40}"];
    let hash_key = prop_oneof![
        Just(None),
        (0_u128..4).prop_map(Some),
        any::<u128>().prop_map(Some)
    ];
    let data = proptest::collection::vec(any::<u8>(), 0..200);
    proptest::collection::vec((key, hash_key, data), 1..40)
}

fn packed(puts: &[Put], limit: usize) -> Vec<Packed> {
    let mut aggregator = Aggregator::with_limit(limit);
    let mut all = Vec::new();
    for (key, hash_key, data) in puts {
        all.extend(aggregator.add(key, *hash_key, data).unwrap());
    }
    all.extend(aggregator.finish());
    all
}

fn aggregate(packed: &Packed) -> Aggregate {
    unpack(&packed.data).unwrap().expect("an aggregated record")
}

fn user_records(aggregate: &Aggregate) -> Vec<UserRecord> {
    aggregate.records().collect::<Result<_, _>>().unwrap()
}

fn is_part_of(part: &[u8], whole: &Bytes) -> bool {
    let whole = whole.as_ptr_range();
    let part = part.as_ptr_range();
    whole.start <= part.start && part.end <= whole.end
}

/// Everything that a caller may do with bytes from a stream.
fn exercise(aggregate: &Aggregate) {
    let all = aggregate.records().collect::<Vec<_>>();
    assert_eq!(all.len(), aggregate.len());
    let readable = all.iter().flatten().count();
    for policy in [OutsideShard::FilterRecords, OutsideShard::FilterAggregate] {
        let admitted = aggregate.admit(0..=u128::MAX / 2, policy).unwrap();
        assert!(admitted.outside() <= readable);
        assert_eq!(
            admitted.records().flatten().count(),
            readable - admitted.withheld()
        );
        let _ = admitted.records_after(1).count();
    }
}

proptest! {
    #[test]
    fn what_was_packed_is_unpacked(puts in puts(), limit in 1_000_usize..6_000) {
        let mut unpacked = Vec::new();
        for packed in packed(&puts, limit) {
            prop_assert!(packed.data.len() + packed.partition_key.len() <= limit);
            let aggregate = aggregate(&packed);
            prop_assert_eq!(aggregate.len(), packed.records);
            for (index, record) in user_records(&aggregate).into_iter().enumerate() {
                prop_assert_eq!(record.sub_sequence_number, index as u64);
                if index == 0 {
                    prop_assert_eq!(record.hash_key(), packed.hash_key());
                }
                unpacked.push((record.partition_key.to_string(), record.explicit_hash_key, record.data.to_vec()));
            }
        }
        prop_assert_eq!(unpacked, puts);
    }

    #[test]
    fn aggregate_ends_only_when_next_does_not_fit(puts in puts(), limit in 1_000_usize..6_000) {
        let all = packed(&puts, limit);
        let mut begun = 0;
        for pair in all.windows(2) {
            // One more record in a larger one is over the limit.
            let one_more = packed_whole(&puts[begun..=begun + pair[0].records]);
            prop_assert!(one_more.data.len() + one_more.partition_key.len() > limit);
            begun += pair[0].records;
        }
    }

    #[test]
    fn user_records_are_slices_of_the_kinesis_record(puts in puts()) {
        let packed = packed_whole(&puts);
        for record in user_records(&aggregate(&packed)) {
            prop_assert!(is_part_of(&record.data, &packed.data));
            prop_assert!(is_part_of(record.partition_key.as_bytes(), &packed.data));
        }
    }

    #[test]
    fn a_consumer_goes_on_after_any_user_record(puts in puts(), done in 0_u64..50) {
        let aggregate = aggregate(&packed_whole(&puts));
        let mut expected = user_records(&aggregate);
        expected.retain(|record| record.sub_sequence_number > done);
        let rest = aggregate.records_after(done).collect::<Result<Vec<_>, _>>().unwrap();
        prop_assert_eq!(&rest, &expected);
        let admitted = aggregate.admit(0..=u128::MAX, OutsideShard::Fail).unwrap();
        prop_assert_eq!(admitted.records_after(done).collect::<Result<Vec<_>, _>>().unwrap(), expected);
        prop_assert_eq!(aggregate.records_after(u64::MAX).count(), 0);
    }

    #[test]
    fn a_policy_delivers_what_it_says(puts in puts(), a in any::<u128>(), b in any::<u128>()) {
        let shard = a.min(b)..=a.max(b);
        let aggregate = aggregate(&packed_whole(&puts));
        let inside: BTreeSet<u64> = (0..)
            .zip(&puts)
            .filter(|(_, (key, hash_key, _))| shard.contains(&hash_key.unwrap_or_else(|| hash_key_of(key))))
            .map(|(index, _)| index)
            .collect();
        let outside = puts.len() - inside.len();
        let everything: BTreeSet<u64> = (0..puts.len() as u64).collect();
        let of_aggregate = if outside == 0 { everything.clone() } else { BTreeSet::new() };
        for (policy, expected) in [
            (OutsideShard::Deliver, everything),
            (OutsideShard::FilterRecords, inside),
            (OutsideShard::FilterAggregate, of_aggregate),
        ] {
            let admitted = aggregate.admit(shard.clone(), policy).unwrap();
            let delivered: BTreeSet<u64> =
                admitted.records().map(|record| record.unwrap().sub_sequence_number).collect();
            prop_assert_eq!(admitted.outside(), outside);
            prop_assert_eq!(admitted.withheld(), puts.len() - delivered.len());
            prop_assert_eq!(delivered, expected, "{:?}", policy);
        }
        let failed = aggregate.admit(shard, OutsideShard::Fail).err();
        prop_assert_eq!(failed.map(|error| error.outside), (outside > 0).then_some(outside));
    }

    #[test]
    fn a_record_with_one_bit_changed_is_plain(puts in puts(), at in any::<prop::sample::Index>(), bit in 0_u32..8) {
        let mut data = packed_whole(&puts).data.to_vec();
        let at = at.index(data.len());
        data[at] ^= 1_u8 << bit;
        prop_assert!(unpack(&Bytes::from(data)).unwrap().is_none());
    }

    #[test]
    fn damaged_message_makes_an_error_or_aggregate(
        puts in puts(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        length in any::<prop::sample::Index>(),
    ) {
        let data = packed_whole(&puts).data;
        let mut message = data[4..data.len() - 16].to_vec();
        for (at, byte) in damage {
            let at = at.index(message.len());
            message[at] = byte;
        }
        message.truncate(length.index(4 * message.len()).max(1));
        if let Ok(aggregate) = Aggregate::from_message(Bytes::from(message)) {
            exercise(&aggregate);
        }
    }

    #[test]
    fn envelopes_together_are_those_alone(
        records in proptest::collection::vec(
            (puts(), any::<prop::sample::Index>(), prop::option::weighted(0.3, 0_u32..8), 0_u8..4),
            0..40,
        ),
    ) {
        let records: Vec<Bytes> = records
            .into_iter()
            .map(|(puts, at, flipped, kind)| {
                let mut data = packed_whole(&puts).data.to_vec();
                let at = at.index(data.len());
                match (kind, flipped) {
                    (0, _) => data.truncate(at),
                    (_, Some(bit)) => data[at] ^= 1_u8 << bit,
                    (_, None) => {}
                }
                Bytes::from(data)
            })
            .collect();
        let together = Envelope::of_each(records.iter().map(|record| &record[..]));
        let alone: Vec<_> = records.iter().map(|record| Envelope::of(record)).collect();
        prop_assert_eq!(&together, &alone);
        for (record, envelope) in records.iter().zip(together) {
            let (together, alone) = (envelope.unpack(record).unwrap(), unpack(record).unwrap());
            let together = together.as_ref().map(user_records);
            prop_assert_eq!(together, alone.as_ref().map(user_records));
        }
    }

    #[test]
    fn any_bytes_make_an_error_or_an_aggregate(message in proptest::collection::vec(any::<u8>(), 0..200)) {
        let message = Bytes::from(message);
        prop_assert!(unpack(&message).unwrap().is_none());
        if let Ok(aggregate) = Aggregate::from_message(message) {
            exercise(&aggregate);
        }
    }
}

fn packed_whole(puts: &[Put]) -> Packed {
    let mut all = packed(puts, 1 << 20);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[test]
fn user_record_that_cannot_be_packed_changes_nothing() {
    let mut aggregator = Aggregator::with_limit(100);
    assert_eq!(aggregator.add("a", None, b"1"), Ok(None));
    let refused = [
        (aggregator.add("", None, b""), InvalidUserRecord::PartitionKey(0)),
        (
            aggregator.add(&"é".repeat(257), None, b""),
            InvalidUserRecord::PartitionKey(257),
        ),
        // 1 for the outer key, 20 for the envelope, 3 for the table, 2 + 2 + 2 + 71 for the record.
        (
            aggregator.add("b", None, &[0; 71]),
            InvalidUserRecord::TooLarge(101, 100),
        ),
    ];
    for (result, expected) in refused {
        assert_eq!(result, Err(expected));
    }
    assert_eq!(aggregator.finish().unwrap().records, 1);
    assert_eq!(aggregator.finish(), None);
    assert_eq!(aggregator.add("b", None, &[0; 70]), Ok(None));
    assert_eq!(aggregator.finish().unwrap().data.len(), 99);
}

#[test]
fn neither_payload_nor_key_is_shown_by_debug() {
    let mut aggregator = Aggregator::new();
    aggregator.add("alice", None, b"secret").unwrap();
    let mut shown = format!("{aggregator:?}");
    let packed = aggregator.finish().unwrap();
    let aggregate = aggregate(&packed);
    let admitted = aggregate.admit(0..=1, OutsideShard::Deliver).unwrap();
    shown += &format!("{packed:?} {aggregate:?} {admitted:?} {:?}", aggregate.records());
    shown += &format!("{:?}", user_records(&aggregate));
    for hidden in ["alice", "secret", "97, 108", "115, 101"] {
        assert!(!shown.contains(hidden), "{shown}");
    }
}
