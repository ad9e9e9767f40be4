//! Aggregated records become the user records in them.

use kcl_aggregation::{OutsideShard, OwnedRecords, UserRecord, seems_aggregated};

use crate::invariant::check_counted;
use crate::runtime::failpoint::failpoint;
use crate::settings::Aggregation;
use crate::types::{HashKeyRange, Record, RecordPosition, SequenceNumber};

/// Records as the user's code sees them: a part of those of one answer, or all.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Deaggregated {
    pub(crate) records: Vec<Record>,
    /// Where it went no further, if it did not.
    pub(crate) unreadable: Option<UnreadableRecord>,
    /// The aggregates with user records that do not belong to the shard.
    pub(crate) misplaced: Vec<MisplacedRecords>,
    /// How many of the records have an explicit hash key that is no number.
    pub(crate) invalid_hash_keys: usize,
}

/// An aggregate with user records that do not belong to the shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MisplacedRecords {
    /// How many do not, and how many of the aggregate were left out for that.
    pub(crate) outside: usize,
    pub(crate) withheld: usize,
}

/// A record that cannot be offered to the user's code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnreadableRecord {
    pub(crate) position: RecordPosition,
    pub(crate) why: String,
    /// The Kinesis record, as it came.
    pub(crate) record: Box<Record>,
}

/// The last record that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FinishedRecord {
    pub(crate) position: RecordPosition,
    /// Whether the position means the same to this worker as to the one that finished the record. A stored checkpoint may come from a
    /// worker that unpacked, to which the first position of an aggregate is that of its first user record.
    pub(crate) is_exact: bool,
}

impl FinishedRecord {
    /// Everything of the Kinesis record of this number.
    pub(crate) fn whole(sequence: SequenceNumber) -> Self {
        let position = RecordPosition {
            sequence,
            sub_sequence: u64::MAX,
        };
        Self {
            position,
            is_exact: true,
        }
    }

    /// Whether nothing of the record is left to deliver.
    fn covers(&self, record: &Record, how: Aggregation) -> bool {
        if record.sequence_number() != &self.position.sequence {
            return record.position() < &self.position;
        }
        let is_whole = self.is_exact && (how == Aggregation::Raw || self.position.sub_sequence == u64::MAX);
        if is_whole || !seems_aggregated(record.data()) || failpoint!(RestOfAggregateDropped) {
            return true;
        }
        let last = self.position.sub_sequence.saturating_add(1);
        match kcl_aggregation::unpack(record.data()) {
            Ok(Some(aggregate)) => last >= aggregate.len() as u64,
            // A worker that got past it, with another setting or another library, is not stopped at it again.
            Ok(None) | Err(_) => true,
        }
    }
}

/// Removes the records of which nothing is left to deliver.
///
/// A worker that delivers aggregates raw cannot go on inside of one: it delivers the whole aggregate again.
pub(crate) fn leave_out_done(records: &mut Vec<Record>, how: Aggregation, done: &FinishedRecord) {
    let first_new = records
        .iter()
        .position(|record| !done.covers(record, how))
        .unwrap_or(records.len());
    let too_many = usize::from(first_new > 0 && failpoint!(ResumeTooLate));
    records.drain(..(first_new + too_many).min(records.len()));
}

/// Unpacks the records of one answer, in parts as large as wanted: what is not asked for yet takes no memory beside the answer.
///
/// It ends at the first record that cannot be read: what comes after it must not be delivered before it.
pub(crate) struct Deaggregator {
    records: std::vec::IntoIter<Record>,
    how: Aggregation,
    /// The shard's range of hash keys, where that is known.
    shard: Option<HashKeyRange>,
    done: Option<RecordPosition>,
    current: Option<OpenAggregate>,
}

/// An aggregate that is delivered in part.
struct OpenAggregate {
    record: Record,
    users: OwnedRecords,
    /// Whether it was started at its first user record, and how many of its records were delivered.
    is_whole: bool,
    delivered: usize,
}

impl Deaggregator {
    /// Begins with the first of these records of which something is [left](leave_out_done).
    pub(crate) fn new(
        records: Vec<Record>,
        how: Aggregation,
        shard: Option<HashKeyRange>,
        done: Option<RecordPosition>,
    ) -> Self {
        Self {
            records: records.into_iter(),
            how,
            shard,
            done,
            current: None,
        }
    }

    /// Whether the records that are left are delivered as they are, for which they take no more memory than they do.
    pub(crate) fn is_plain(&self) -> bool {
        let is_plain = |record: &Record| self.how == Aggregation::Raw || !seems_aggregated(record.data());
        self.current.is_none() && self.records.as_slice().iter().all(is_plain)
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.current.is_none() && self.records.as_slice().is_empty()
    }

    /// How many records are left that are known of: an aggregate that was not looked into counts as one.
    pub(crate) fn left(&self) -> usize {
        let current = self.current.as_ref().map_or(0, |current| current.users.left());
        self.records.as_slice().len() + current
    }

    /// The memory that an aggregate under way takes beside its record.
    pub(crate) fn overhead(&self) -> usize {
        self.current
            .as_ref()
            .map_or(0, |current| current.users.overhead())
    }

    /// The next records, at most so many, unless all that are left are delivered as they are.
    pub(crate) fn next(&mut self, most: usize) -> Deaggregated {
        let mut unpacked = Deaggregated::default();
        if self.is_plain() {
            unpacked.records = std::mem::take(&mut self.records).collect();
            return unpacked;
        }
        while unpacked.records.len() < most && !self.is_empty() {
            if let Err(unreadable) = self.take(most, &mut unpacked) {
                unpacked.unreadable = Some(unreadable);
                self.current = None;
                self.records = Vec::new().into_iter();
            }
        }
        unpacked
    }

    /// Takes the next record, or as much of the aggregate under way as is wanted.
    fn take(&mut self, most: usize, unpacked: &mut Deaggregated) -> Result<(), UnreadableRecord> {
        let mut current = match self.current.take() {
            Some(current) => current,
            None => {
                let Some(record) = self.records.next() else {
                    return Ok(());
                };
                match self.open(record, unpacked)? {
                    Some(current) => current,
                    None => return Ok(()),
                }
            }
        };
        let wanted = most.saturating_sub(unpacked.records.len());
        let before = unpacked.records.len();
        unpacked.records.reserve(wanted.min(current.users.left()));
        for user in current.users.by_ref().take(wanted) {
            let user = user.map_err(|error| {
                let position = RecordPosition {
                    sequence: current.record.sequence_number().clone(),
                    sub_sequence: error.sub_sequence_number,
                };
                unreadable(&current.record, &position, error.to_string())
            })?;
            unpacked.invalid_hash_keys += usize::from(user.has_invalid_hash_key);
            unpacked.records.push(of_user(&current.record, user));
        }
        current.delivered += unpacked.records.len() - before;
        if current.users.left() > 0 {
            self.current = Some(current);
        } else if current.is_whole {
            let (all, withheld) = (current.users.total(), current.users.withheld());
            debug_assert_eq!(check_counted(all, current.delivered, withheld), Ok(()));
        }
        Ok(())
    }

    /// Looks into a record: an aggregate is returned, a plain one is delivered.
    fn open(
        &self,
        record: Record,
        unpacked: &mut Deaggregated,
    ) -> Result<Option<OpenAggregate>, UnreadableRecord> {
        let done = self.done.as_ref();
        let within = done.filter(|done| &done.sequence == record.sequence_number());
        let aggregate = kcl_aggregation::unpack(record.data())
            .map_err(|error| unreadable(&record, record.position(), error.to_string()))?;
        let Some(aggregate) = aggregate else {
            unpacked.records.push(record);
            return Ok(None);
        };
        let policy = match self.how {
            Aggregation::Deliver | Aggregation::Raw => OutsideShard::Deliver,
            Aggregation::Filter => OutsideShard::FilterAggregate,
            Aggregation::FilterRecords => OutsideShard::FilterRecords,
            // What was started is continued: the decision about it was made before.
            Aggregation::Fail if within.is_some() => OutsideShard::Deliver,
            Aggregation::Fail => OutsideShard::Fail,
        };
        let shard = self.shard.map(|range| range.start()..=range.end());
        let users = aggregate
            .into_records(shard, policy)
            .map_err(|error| unreadable(&record, record.position(), error.to_string()))?;
        let is_whole = within.is_none();
        // Counted when it comes first, not again when reading goes on inside.
        if is_whole && users.outside() > 0 {
            unpacked.misplaced.push(MisplacedRecords {
                outside: users.outside(),
                withheld: users.withheld(),
            });
        }
        let users = match within {
            Some(done) => users.after(done.sub_sequence),
            None => users,
        };
        Ok((users.left() > 0).then_some(OpenAggregate {
            record,
            users,
            is_whole,
            delivered: 0,
        }))
    }
}

fn unreadable(record: &Record, position: &RecordPosition, why: String) -> UnreadableRecord {
    UnreadableRecord {
        position: position.detached(),
        why,
        record: Box::new(record.clone()),
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
    match record.approximate_arrival() {
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

    /// Unpacks in parts of this many records, as a worker that begins at a stored checkpoint.
    fn unpack_by(
        part: usize,
        mut records: Vec<Record>,
        how: Aggregation,
        shard: Option<HashKeyRange>,
        done: Option<&RecordPosition>,
    ) -> Deaggregated {
        if let Some(done) = done {
            let stored = FinishedRecord {
                position: done.clone(),
                is_exact: false,
            };
            leave_out_done(&mut records, how, &stored);
        }
        let mut unpacker = Deaggregator::new(records, how, shard, done.cloned());
        let mut all = Deaggregated::default();
        while !unpacker.is_empty() {
            let is_plain = unpacker.is_plain();
            let next = unpacker.next(part);
            assert!(next.records.len() <= part || is_plain);
            all.records.extend(next.records);
            all.misplaced.extend(next.misplaced);
            all.invalid_hash_keys += next.invalid_hash_keys;
            all.unreadable = next.unreadable;
        }
        all
    }

    fn unpack(
        records: Vec<Record>,
        how: Aggregation,
        shard: Option<HashKeyRange>,
        done: Option<&RecordPosition>,
    ) -> Deaggregated {
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

    fn at(number: u128, sub_sequence: u64) -> RecordPosition {
        RecordPosition {
            sequence: SequenceNumber::from(number),
            sub_sequence,
        }
    }

    fn misplaced(unpacked: &Deaggregated) -> (usize, usize) {
        let all = unpacked.misplaced.iter();
        all.fold((0, 0), |(outside, withheld), one| {
            (outside + one.outside, withheld + one.withheld)
        })
    }

    fn places(unpacked: &Deaggregated) -> Vec<String> {
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
        let unreadable = unpacked.unreadable.unwrap();
        assert_eq!((unreadable.position, *unreadable.record), (at(2, 0), corrupt(2)));
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
            parts.push(places(&unpacker.next(3)));
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
    }
}
