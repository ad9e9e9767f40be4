use bytes::Bytes;
use kcl_aggregation::Aggregator;
use proptest::prelude::*;

use super::*;

/// The records of all batches together.
#[derive(Debug, Default, PartialEq)]
struct Unpacked {
    records: Vec<Record>,
    unreadable: Option<UnreadableRecord>,
    faults: AggregateFaults,
}

/// Unpacks in parts of this many records, as a worker that begins at a stored checkpoint.
fn unpack_by(
    part: usize,
    mut records: Vec<Record>,
    how: Aggregation,
    shard: Option<HashKeyRange>,
    done: Option<&RecordPosition>,
) -> Unpacked {
    if let Some(done) = done {
        let stored = FinishedRecord {
            position: done.clone(),
            is_exact: false,
        };
        leave_out_done(&mut records, how, &stored);
    }
    let mut unpacker = Deaggregator::new(records, how, shard, done.cloned());
    let mut all = Unpacked::default();
    while !unpacker.is_empty() {
        let next = match unpacker.is_plain() {
            true => unpacker.next(None),
            false => unpacker.unpack(part),
        };
        assert!(next.len() <= part || unpacker.is_empty());
        all.records.extend(next.records);
        all.unreadable = next.unreadable.map(|(unreadable, _)| unreadable);
    }
    all.faults = unpacker.take_faults();
    all
}

fn unpack(
    records: Vec<Record>,
    how: Aggregation,
    shard: Option<HashKeyRange>,
    done: Option<&RecordPosition>,
) -> Unpacked {
    let whole = unpack_by(usize::MAX, records.clone(), how, shard, done);
    for part in 1..4 {
        assert_eq!(unpack_by(part, records.clone(), how, shard, done), whole);
    }
    whole
}

fn plain(number: u128) -> Record {
    Record::new(SequenceNumber::from(number), format!("plain {number}"))
}

/// An aggregate of records with these hash keys.
fn aggregate(number: u128, keys: &[u128]) -> Record {
    let mut aggregator = Aggregator::new();
    for key in keys {
        aggregator
            .add("truck", Some(*key), format!("{key}").as_bytes())
            .unwrap();
    }
    Record::new(SequenceNumber::from(number), aggregator.finish().unwrap().data)
}

/// An aggregate whose message makes no sense, in a sound envelope.
fn corrupt(number: u128) -> Record {
    use md5::{Digest as _, Md5};
    let message = [0xff; 20];
    let mut data = vec![0xf3, 0x89, 0x9a, 0xc2];
    data.extend_from_slice(&message);
    data.extend_from_slice(&Md5::digest(message));
    Record::new(SequenceNumber::from(number), Bytes::from(data))
}

/// An aggregate whose MD5 is wrong: a plain record.
fn broken(number: u128) -> Record {
    let mut data = aggregate(number, &[1, 2]).data().to_vec();
    *data.last_mut().unwrap() ^= 1;
    Record::new(SequenceNumber::from(number), Bytes::from(data))
}

fn at(number: u128, sub_sequence: u64) -> RecordPosition {
    RecordPosition {
        sequence: SequenceNumber::from(number),
        sub_sequence,
    }
}

fn misplaced(unpacked: &Unpacked) -> (usize, usize) {
    (unpacked.faults.outside, unpacked.faults.withheld)
}

fn places(unpacked: &Unpacked) -> Vec<String> {
    positions(&unpacked.records)
}

fn positions(records: &[Record]) -> Vec<String> {
    records
        .iter()
        .map(|record| record.position().to_string())
        .collect()
}

fn low_half() -> Option<HashKeyRange> {
    Some(HashKeyRange::new(0, 9).unwrap())
}

#[test]
fn reading_goes_on_inside_an_aggregate() {
    let records = || vec![plain(1), aggregate(2, &[1, 2, 3]), plain(3)];
    let all = unpack(records(), Aggregation::Deliver, low_half(), None);
    assert_eq!(places(&all), ["1", "2", "2/1", "2/2", "3"]);
    assert_eq!(all.records[1].explicit_hash_key(), Some(1));
    assert_eq!(all.records[3].partition_key(), Some("truck"));
    let rest = unpack(records(), Aggregation::Deliver, low_half(), Some(&at(2, 1)));
    assert_eq!(places(&rest), ["2/2", "3"]);
    let rest = unpack(records(), Aggregation::Deliver, low_half(), Some(&at(2, 2)));
    assert_eq!(places(&rest), ["3"]);
}

#[test]
fn record_outside_shard_is_counted_whatever_happens() {
    let records = || vec![aggregate(1, &[5, 15, 6]), aggregate(2, &[7])];
    let rows = [
        (Aggregation::Deliver, vec!["1", "1/1", "1/2", "2"], 0),
        (Aggregation::Filter, vec!["2"], 3),
        (Aggregation::FilterRecords, vec!["1", "1/2", "2"], 1),
    ];
    for (how, expected, withheld) in rows {
        let unpacked = unpack(records(), how, low_half(), None);
        assert_eq!(places(&unpacked), expected, "{how:?}");
        assert_eq!(misplaced(&unpacked), (1, withheld), "{how:?}");
        assert_eq!(unpacked.unreadable, None);
    }
    let failed = unpack(records(), Aggregation::Fail, low_half(), None);
    assert_eq!(places(&failed), [""; 0]);
    assert_eq!(failed.unreadable.unwrap().position, at(1, 0));
    // Where the range is not known, nothing is known to be outside.
    let unpacked = unpack(records(), Aggregation::Fail, None, None);
    assert_eq!(places(&unpacked).len(), 4);
    let raw = unpack(records(), Aggregation::Raw, low_half(), None);
    assert_eq!(raw.records, records());
}

#[test]
fn record_outside_is_not_counted_again_midway() {
    let records = vec![aggregate(1, &[5, 15, 16])];
    let rest = unpack(records, Aggregation::Deliver, low_half(), Some(&at(1, 0)));
    assert_eq!((places(&rest).len(), misplaced(&rest)), (2, (0, 0)));
}

#[test]
fn nothing_is_delivered_beyond_an_unreadable_record() {
    let records = || vec![plain(1), corrupt(2), plain(3)];
    let unpacked = unpack(records(), Aggregation::Deliver, low_half(), None);
    assert_eq!(places(&unpacked), ["1"]);
    let unreadable = unpacked.unreadable.unwrap();
    assert_eq!((unreadable.position, *unreadable.record), (at(2, 0), corrupt(2)));
    let raw = unpack(records(), Aggregation::Raw, low_half(), None);
    assert_eq!(raw.records.len(), 3);
}

#[test]
fn unreadable_record_stops_nobody_who_is_past() {
    let records = || vec![corrupt(2), plain(3)];
    // As left by a worker that took it raw, or by the Java KCL.
    let past = unpack(records(), Aggregation::Deliver, low_half(), Some(&at(2, 0)));
    assert_eq!((places(&past), past.unreadable), (vec!["3".to_owned()], None));
    let mixed = || vec![aggregate(1, &[5, 15, 6])];
    let begun = unpack(mixed(), Aggregation::Fail, low_half(), Some(&at(1, 0)));
    assert_eq!(places(&begun), ["1/1", "1/2"]);
    assert_eq!(begun.unreadable, None);
}

#[test]
fn raw_delivers_aggregate_again_unless_all_is_done() {
    let records = || vec![plain(1), aggregate(2, &[1, 2, 3]), plain(3)];
    let rest = |done| places(&unpack(records(), Aggregation::Raw, low_half(), Some(&done)));
    assert_eq!(rest(at(1, 0)), ["2", "3"]);
    // Whether the first is that of the aggregate or of its first user record nobody knows.
    for within in 0..2 {
        assert_eq!(rest(at(2, within)), ["2", "3"]);
    }
    assert_eq!(rest(at(2, 2)), ["3"]);
    assert_eq!(rest(at(3, 0)), [""; 0]);
    // What this worker delivered itself is done.
    let own = FinishedRecord {
        position: at(2, 0),
        is_exact: true,
    };
    let mut left = records();
    leave_out_done(&mut left, Aggregation::Raw, &own);
    assert_eq!(left, [plain(3)]);
    let single = vec![aggregate(2, &[1]), corrupt(3)];
    assert_eq!(
        places(&unpack(single.clone(), Aggregation::Raw, None, Some(&at(2, 0)))),
        ["3"]
    );
    assert_eq!(
        places(&unpack(single, Aggregation::Raw, None, Some(&at(3, 0)))),
        [""; 0]
    );
}

#[test]
fn aggregate_is_unpacked_in_parts() {
    let mut unpacker = Deaggregator::new(
        vec![plain(1), aggregate(2, &[1; 5]), plain(3)],
        Aggregation::Deliver,
        low_half(),
        None,
    );
    let mut parts = Vec::new();
    while !unpacker.is_empty() {
        parts.push(positions(&unpacker.unpack(3)));
    }
    assert_eq!(
        parts,
        [vec!["1", "2", "2/1"], vec!["2/2", "2/3", "2/4"], vec!["3"]]
    );
}

proptest! {
    /// In whatever pieces a shard is read, each user record comes once and in order.
    #[test]
    fn every_cut_gives_the_same_records(
        shapes in proptest::collection::vec(0_usize..5, 1..10),
        part in 1_usize..6,
        cuts in proptest::collection::vec(0_usize..40, 0..5),
    ) {
        let shard: Vec<_> = shapes
            .iter()
            .enumerate()
            .map(|(n, size)| match *size {
                0 => plain(n as u128),
                size => aggregate(n as u128, &vec![3; size]),
            })
            .collect();
        let whole = unpack(shard.clone(), Aggregation::Deliver, low_half(), None);
        let mut done: Option<RecordPosition> = None;
        let mut seen = Vec::new();
        for cut in cuts.into_iter().chain([usize::MAX]) {
            // As a source that is opened at the record that is done in part.
            let from = done.as_ref().map_or(0, |done| {
                shard.partition_point(|record| record.sequence_number() < &done.sequence)
            });
            let read = shard[from..].to_vec();
            let read = unpack_by(part, read, Aggregation::Deliver, low_half(), done.as_ref());
            let taken: Vec<_> = read.records.into_iter().take(cut).collect();
            done = taken.last().map(|record| record.position().clone()).or(done);
            seen.extend(taken);
        }
        prop_assert_eq!(seen, whole.records);
    }

    /// An answer is unpacked as its records are one by one, up to one that cannot be read.
    #[test]
    fn answer_is_unpacked_as_its_records_alone(
        shapes in proptest::collection::vec(0_usize..40, 1..60),
        corrupt_at in proptest::option::of(0_usize..60),
        done in proptest::option::of((0_u128..60, 0_u64..6)),
    ) {
        let answer: Vec<_> = shapes
            .iter()
            .enumerate()
            .map(|(n, size)| match *size {
                _ if corrupt_at == Some(n) => corrupt(n as u128),
                0 => plain(n as u128),
                1 => broken(n as u128),
                size => aggregate(n as u128, &vec![3 * size as u128 % 17; size]),
            })
            .collect();
        let done = done.map(|(number, sub_sequence)| at(number, sub_sequence));
        for how in [Aggregation::Deliver, Aggregation::FilterRecords, Aggregation::Fail] {
            let mut alone = Unpacked::default();
            for record in answer.clone() {
                let next = unpack(vec![record], how, low_half(), done.as_ref());
                alone.records.extend(next.records);
                alone.faults.outside += next.faults.outside;
                alone.faults.withheld += next.faults.withheld;
                alone.unreadable = next.unreadable;
                if alone.unreadable.is_some() {
                    break;
                }
            }
            prop_assert_eq!(unpack(answer.clone(), how, low_half(), done.as_ref()), alone);
        }
    }
}
