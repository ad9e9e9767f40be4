//! Decides which record may be handled next: of each lane one at a time, the oldest record of all lanes first.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use slab::Slab;

use crate::processor::Concurrency;
use crate::runtime::failpoint::failpoint;
use crate::types::Record;

/// Names a record in the lanes, from [`push`](Lanes::push) to [`finish`](Lanes::finish).
pub(crate) type LaneEntry = usize;

/// The records of a shard that are not finished, in the order in which they may be handled.
///
/// With an order per key, each key is a lane: its records follow each other. Two keys of one hash share a lane, which costs them a little
/// concurrency and no order. Nothing is allocated for a record, once there was room for as many.
#[derive(Debug)]
pub(crate) struct Lanes {
    per_key: bool,
    entries: Slab<LaneRecord>,
    /// The last record of each lane that has any.
    lanes: BTreeMap<u64, LaneEntry>,
    /// The records at the head of their lanes that no call has, by their numbers.
    ready: BinaryHeap<Reverse<(u64, LaneEntry)>>,
}

#[derive(Debug, Clone, Copy)]
struct LaneRecord {
    place: RecordPlace,
    lane: u64,
    next: Option<LaneEntry>,
}

/// Where a record is among those that were delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordPlace {
    /// Its number among all that the ownership delivered.
    pub(crate) number: u64,
    /// Its batch, by the name that the holder of the batches gives it.
    pub(crate) batch: usize,
    /// Its index in the batch.
    pub(crate) index: usize,
}

impl Lanes {
    pub(crate) fn new(concurrency: Concurrency) -> Self {
        Self {
            per_key: !matches!(concurrency, Concurrency::Unordered(_)),
            entries: Slab::new(),
            lanes: BTreeMap::new(),
            ready: BinaryHeap::new(),
        }
    }

    /// The next record of the shard.
    pub(crate) fn push(&mut self, place: RecordPlace, record: &Record) {
        let lane = if self.per_key { lane_of(record) } else { 0 };
        let next = None;
        let entry = self.entries.insert(LaneRecord { place, lane, next });
        if self.per_key && !failpoint!(KeyOrderIgnored) {
            match self.lanes.entry(lane) {
                Entry::Occupied(mut last) => {
                    if let Some(last) = self.entries.get_mut(*last.get()) {
                        last.next = Some(entry);
                    }
                    last.insert(entry);
                    return;
                }
                Entry::Vacant(lane) => {
                    lane.insert(entry);
                }
            }
        }
        self.ready.push(Reverse((place.number, entry)));
    }

    /// Takes the oldest record that may be handled now.
    pub(crate) fn take(&mut self) -> Option<LaneEntry> {
        self.ready.pop().map(|Reverse((_, entry))| entry)
    }

    /// Gives back a record that was taken: it may be handled another time.
    pub(crate) fn give_back(&mut self, entry: LaneEntry) {
        if let Some(place) = self.place(entry) {
            self.ready.push(Reverse((place.number, entry)));
        }
    }

    /// A record that was taken is finished: the next of its lane may be handled.
    pub(crate) fn finish(&mut self, entry: LaneEntry) {
        let Some(finished) = self.entries.try_remove(entry) else {
            return;
        };
        match finished.next {
            Some(next) => self.give_back(next),
            None => {
                if self.lanes.get(&finished.lane) == Some(&entry) {
                    self.lanes.remove(&finished.lane);
                }
            }
        }
    }

    pub(crate) fn place(&self, entry: LaneEntry) -> Option<RecordPlace> {
        self.entries.get(entry).map(|record| record.place)
    }

    /// Whether a record may be handled now.
    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether every record is finished.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The lane of the record's key. The hash is the same in each run, so that a simulation replays.
fn lane_of(record: &Record) -> u64 {
    let mut hasher = DefaultHasher::new();
    record.partition_key().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::SequenceNumber;

    fn record(number: u64, key: Option<u8>) -> Record {
        let record = Record::new(SequenceNumber::from(u128::from(number) + 1), "payload");
        match key {
            Some(key) => record.with_partition_key(key.to_string()),
            None => record,
        }
    }

    fn place(number: u64) -> RecordPlace {
        RecordPlace {
            number,
            batch: 0,
            index: 0,
        }
    }

    fn numbers(lanes: &mut Lanes) -> Vec<(u64, LaneEntry)> {
        let mut taken = Vec::new();
        while let Some(entry) = lanes.take() {
            taken.push((lanes.place(entry).unwrap().number, entry));
        }
        taken
    }

    #[test]
    fn key_waits_for_its_record_before() {
        let mut lanes = Lanes::new(Concurrency::PerKey(9));
        for (number, key) in [(0, Some(1)), (1, Some(1)), (2, Some(2)), (3, None), (4, None)] {
            lanes.push(place(number), &record(number, key));
        }
        let taken = numbers(&mut lanes);
        assert_eq!(
            taken.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
            [0, 2, 3]
        );
        lanes.finish(taken[2].1);
        assert_eq!(numbers(&mut lanes)[0].0, 4);
        lanes.give_back(taken[0].1);
        assert_eq!(
            numbers(&mut lanes)[0].0,
            0,
            "a failed record is before those behind it"
        );
    }

    #[test]
    fn unordered_records_wait_for_nothing() {
        let mut lanes = Lanes::new(Concurrency::Unordered(9));
        for number in 0..5 {
            lanes.push(place(number), &record(number, Some(1)));
        }
        assert_eq!(numbers(&mut lanes).len(), 5);
    }

    proptest! {
        /// However calls end, the records of a key are handled in their order, one at a time, and each once.
        #[test]
        fn keys_keep_their_order(
            keys in prop::collection::vec(prop::option::of(0_u8..4), 0..60),
            choices in prop::collection::vec(any::<prop::sample::Index>(), 200),
        ) {
            let mut lanes = Lanes::new(Concurrency::PerKey(4));
            let (mut running, mut taken) = (Vec::new(), BTreeMap::<_, Vec<u64>>::new());
            let mut keys_left = keys.iter().copied().enumerate();
            for choice in choices {
                if let Some((number, key)) = keys_left.next() {
                    lanes.push(place(number as u64), &record(number as u64, key));
                }
                if running.len() < 4 && let Some(entry) = lanes.take() {
                    let number = lanes.place(entry).unwrap().number;
                    let key = keys[usize::try_from(number).unwrap()];
                    prop_assert!(running.iter().all(|(_, of)| *of != key), "{key:?} twice at once");
                    taken.entry(key).or_default().push(number);
                    running.push((entry, key));
                } else if !running.is_empty() {
                    let (entry, _) = running.swap_remove(choice.index(running.len()));
                    lanes.finish(entry);
                }
            }
            for numbers in taken.values() {
                prop_assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
            }
            let count: usize = taken.values().map(Vec::len).sum();
            prop_assert_eq!(count, keys.len(), "all were taken");
            while let Some((entry, _)) = running.pop() {
                lanes.finish(entry);
            }
            prop_assert!(lanes.is_empty() && lanes.lanes.is_empty());
        }
    }
}
