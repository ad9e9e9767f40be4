//! Aggregated records become the user records in them.

use kcl_aggregation::{Admitted, OutsideShard, UserRecord, seems_aggregated};

use crate::invariant::check_counted;
use crate::model::{HashKeyRange, Record, RecordPosition, SequenceNumber};
use crate::mutant::{self, Mutant};
use crate::settings::Aggregation;

/// Records as the user's code sees them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    pub(crate) records: Vec<Record>,
    /// Where it went no further, if it did not.
    pub(crate) unreadable: Option<Unreadable>,
    /// The aggregates with user records that do not belong to the shard.
    pub(crate) misplaced: Vec<Misplaced>,
}

/// An aggregate with user records that do not belong to the shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misplaced {
    pub(crate) sequence: SequenceNumber,
    /// How many do not, and how many of the aggregate were left out for that.
    pub(crate) outside: usize,
    pub(crate) withheld: usize,
}

/// A record that cannot be offered to the user's code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) position: RecordPosition,
    pub(crate) why: String,
}

/// Unpacks what is aggregated and leaves out what is done, up to the first record that cannot be read: what comes after it must not be
/// delivered before it. `shard` is the shard's range of hash keys, where that is known.
pub(crate) fn unpack(
    mut records: Vec<Record>,
    how: Aggregation,
    shard: Option<HashKeyRange>,
    done: Option<&RecordPosition>,
) -> Unpacked {
    let is_plain = |record: &Record| how == Aggregation::Raw || !seems_aggregated(record.data());
    if records.iter().all(is_plain) {
        if let Some(done) = done {
            let first_new = records.partition_point(|record| record.position() <= done);
            let too_many = usize::from(first_new > 0 && mutant::active(Mutant::ResumeTooLate));
            records.drain(..(first_new + too_many).min(records.len()));
        }
        return Unpacked {
            records,
            ..Unpacked::default()
        };
    }
    let mut unpacked = Unpacked::default();
    for record in records {
        if let Err(unreadable) = unpacked.take(record, how, shard, done) {
            unpacked.unreadable = Some(unreadable);
            break;
        }
    }
    unpacked
}

impl Unpacked {
    fn take(
        &mut self,
        record: Record,
        how: Aggregation,
        shard: Option<HashKeyRange>,
        done: Option<&RecordPosition>,
    ) -> Result<(), Unreadable> {
        if done.is_some_and(|done| record.sequence_number() < &done.sequence) {
            return Ok(());
        }
        let at = |position: &RecordPosition, why: String| Unreadable {
            position: position.detached(),
            why,
        };
        let within = done.filter(|done| &done.sequence == record.sequence_number());
        let aggregate = match kcl_aggregation::unpack(record.data()) {
            Ok(aggregate) => aggregate,
            // Whoever got past it, with another setting or another library, is not stopped at it again.
            Err(_) if within.is_some() => return Ok(()),
            Err(error) => return Err(at(record.position(), error.to_string())),
        };
        let Some(aggregate) = aggregate else {
            if done.is_none_or(|done| done < record.position()) {
                self.records.push(record);
            }
            return Ok(());
        };
        let policy = match how {
            Aggregation::Deliver | Aggregation::Raw => OutsideShard::Deliver,
            Aggregation::Filter => OutsideShard::FilterAggregate,
            Aggregation::FilterRecords => OutsideShard::FilterRecords,
            // What was begun is gone on with: somebody decided about it already.
            Aggregation::Fail if within.is_some() => OutsideShard::Deliver,
            Aggregation::Fail => OutsideShard::Fail,
        };
        let admitted = match shard {
            Some(range) => aggregate
                .admit(range.start()..=range.end(), policy)
                .map_err(|error| at(record.position(), error.to_string()))
                .map(Some)?,
            None => None,
        };
        // Counted when it is met first, not again when reading goes on inside of it.
        if let Some(admitted) = admitted.as_ref().filter(|_| within.is_none()) {
            let (outside, withheld) = (admitted.outside(), admitted.withheld());
            if outside > 0 {
                let sequence = record.sequence_number().detached();
                self.misplaced.push(Misplaced {
                    sequence,
                    outside,
                    withheld,
                });
            }
        }
        let users = match (&admitted, within) {
            (Some(admitted), None) => admitted.records(),
            (Some(admitted), Some(done)) => admitted.records_after(done.sub_sequence),
            (None, None) => aggregate.records(),
            (None, Some(done)) => aggregate.records_after(done.sub_sequence),
        };
        let before = self.records.len();
        for user in users {
            let user = user.map_err(|error| {
                let position = RecordPosition {
                    sequence: record.sequence_number().clone(),
                    sub_sequence: error.sub_sequence_number,
                };
                at(&position, error.to_string())
            })?;
            self.records.push(of_user(&record, user));
        }
        if within.is_none() {
            let withheld = || admitted.as_ref().map_or(0, Admitted::withheld);
            let delivered = self.records.len() - before;
            debug_assert_eq!(check_counted(aggregate.len(), delivered, withheld()), Ok(()));
        }
        Ok(())
    }
}

/// The user record, at its place in the Kinesis record.
fn of_user(record: &Record, user: UserRecord) -> Record {
    let mut taken = Record::new(record.sequence_number().clone(), user.data)
        .with_sub_sequence(user.sub_sequence_number)
        .with_partition_key(user.partition_key);
    if let Some(key) = user.explicit_hash_key {
        taken = taken.with_explicit_hash_key(key);
    }
    match record.arrived() {
        Some(arrived) => taken.with_arrival(arrived),
        None => taken,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kcl_aggregation::Aggregator;
    use proptest::prelude::*;

    use super::*;

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

    fn at(number: u128, sub_sequence: u64) -> RecordPosition {
        RecordPosition {
            sequence: SequenceNumber::from(number),
            sub_sequence,
        }
    }

    fn misplaced(unpacked: &Unpacked) -> (usize, usize) {
        let all = unpacked.misplaced.iter();
        all.fold((0, 0), |(outside, withheld), one| {
            (outside + one.outside, withheld + one.withheld)
        })
    }

    fn places(unpacked: &Unpacked) -> Vec<String> {
        unpacked
            .records
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
    fn what_is_outside_the_shard_is_counted_whatever_becomes_of_it() {
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
    fn what_is_outside_is_counted_once_though_reading_goes_on_inside() {
        let records = vec![aggregate(1, &[5, 15, 16])];
        let rest = unpack(records, Aggregation::Deliver, low_half(), Some(&at(1, 0)));
        assert_eq!((places(&rest).len(), misplaced(&rest)), (2, (0, 0)));
    }

    #[test]
    fn nothing_is_delivered_beyond_a_record_that_cannot_be_read() {
        let records = || vec![plain(1), corrupt(2), plain(3)];
        let unpacked = unpack(records(), Aggregation::Deliver, low_half(), None);
        assert_eq!(places(&unpacked), ["1"]);
        assert_eq!(unpacked.unreadable.unwrap().position, at(2, 0));
        let raw = unpack(records(), Aggregation::Raw, low_half(), None);
        assert_eq!(raw.records.len(), 3);
    }

    #[test]
    fn what_cannot_be_read_stops_nobody_who_is_past_it() {
        let records = || vec![corrupt(2), plain(3)];
        // As left by a worker that took it raw, or by the Java KCL.
        let past = unpack(records(), Aggregation::Deliver, low_half(), Some(&at(2, 0)));
        assert_eq!((places(&past), past.unreadable), (vec!["3".to_owned()], None));
        let mixed = || vec![aggregate(1, &[5, 15, 6])];
        let begun = unpack(mixed(), Aggregation::Fail, low_half(), Some(&at(1, 0)));
        assert_eq!(places(&begun), ["1/1", "1/2"]);
        assert_eq!(begun.unreadable, None);
    }

    proptest! {
        /// In whatever pieces a shard is read, each user record comes once and in order.
        #[test]
        fn every_cut_gives_the_same_records(
            shapes in proptest::collection::vec(0_usize..5, 1..10),
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
                let read = unpack(shard[from..].to_vec(), Aggregation::Deliver, low_half(), done.as_ref());
                let taken: Vec<_> = read.records.into_iter().take(cut).collect();
                done = taken.last().map(|record| record.position().clone()).or(done);
                seen.extend(taken);
            }
            prop_assert_eq!(seen, whole.records);
        }
    }
}
