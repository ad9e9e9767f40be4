//! Decides how far a shard may be checkpointed: the longest finished prefix of what was delivered.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::processor::fetched_batch::FetchedBatch;
use crate::types::RecordPosition;

/// Names a batch among those that one ownership of a shard delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId {
    id: u64,
    first: u64,
}

impl BatchId {
    /// The number of the batch's first record among all records that the tracker was given. The others follow it.
    pub fn first_number(self) -> u64 {
        self.first
    }
}

/// Knows which delivered records are finished, and so how far the shard may be checkpointed.
///
/// Batches are delivered in order. Their records may be finished in any order; the position to store is that of the last
/// record before the first unfinished one. Nothing is allocated per record: a batch whose records are finished in order
/// costs one entry, and only one that is finished out of order gets a mark per record. The records of a batch are kept until they are
/// finished or [released](CheckpointTracker::release).
///
/// ```
/// use std::sync::Arc;
/// use kcl_core::internals::CheckpointTracker;
/// use kcl_core::types::{Record, SequenceNumber};
///
/// let record = |n: u128| Record::new(SequenceNumber::from(n), "payload");
/// let mut tracker = CheckpointTracker::default();
/// let first = tracker.deliver(Arc::new(vec![record(1), record(2)].into()));
/// let second = tracker.deliver(Arc::new(vec![record(3)].into()));
/// tracker.finish_batch(second);
/// assert_eq!(tracker.finished(), None);
/// tracker.finish_batch(first);
/// assert_eq!(tracker.finished().unwrap().sequence, SequenceNumber::from(3));
/// ```
#[derive(Debug, Default)]
pub struct CheckpointTracker {
    next_id: u64,
    /// The number of the next record that is delivered. It never falls, so that a number names one delivery of one record.
    next_number: u64,
    /// The records with lower numbers were offered to the processor.
    offered: u64,
    /// The deliveries with lower numbers were forgotten.
    forgotten: u64,
    open: VecDeque<TrackedSegment>,
    finished: Option<RecordPosition>,
    last_delivered: Option<RecordPosition>,
}

#[derive(Debug)]
enum TrackedSegment {
    Batch(TrackedBatch),
    Released(ReleasedBatches),
}

#[derive(Debug)]
struct TrackedBatch {
    id: u64,
    first: u64,
    records: Arc<FetchedBatch>,
    marks: FinishedMarks,
}

/// Batches one after the other whose records are not kept: they can be finished from the beginning on only.
#[derive(Debug)]
struct ReleasedBatches {
    first: RecordPosition,
    last: RecordPosition,
    /// Up to where they are finished.
    through: Option<RecordPosition>,
    first_number: u64,
    records: u64,
    /// How many of them are finished, as far as that is known: never too many.
    done: u64,
}

#[derive(Debug)]
enum FinishedMarks {
    /// So many from the beginning on are finished, and not all.
    First(usize),
    Some {
        finished: Vec<bool>,
        count: usize,
    },
    All,
}

/// Records of a batch, of which those before `finished_to` are finished and the others are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FinishedRun {
    from: usize,
    finished_to: usize,
    to: usize,
}

impl FinishedMarks {
    /// The runs of so many records.
    fn runs(&self, len: usize) -> Vec<FinishedRun> {
        let run = |finished_to| FinishedRun {
            from: 0,
            finished_to,
            to: len,
        };
        let finished = match self {
            Self::First(count) => return vec![run(*count)],
            Self::All => return vec![run(len)],
            Self::Some { finished, .. } => finished,
        };
        let mut runs: Vec<FinishedRun> = Vec::new();
        for (index, is_finished) in finished.iter().enumerate() {
            match runs.last_mut() {
                Some(run) if !is_finished => run.to = index + 1,
                Some(run) if run.finished_to == index => (run.finished_to, run.to) = (index + 1, index + 1),
                _ => runs.push(FinishedRun {
                    from: index,
                    finished_to: index + usize::from(*is_finished),
                    to: index + 1,
                }),
            }
        }
        runs
    }
}

impl CheckpointTracker {
    /// Observes the next batch. Its records stand after all those delivered before.
    pub fn deliver(&mut self, records: Arc<FetchedBatch>) -> BatchId {
        let id = BatchId {
            id: self.next_id,
            first: self.next_number,
        };
        self.next_id += 1;
        self.next_number += records.len() as u64;
        if let Some(last) = records.last() {
            // Detached: what is remembered outlives the batch.
            self.last_delivered = Some(last.position().detached());
            self.open.push_back(TrackedSegment::Batch(TrackedBatch {
                id: id.id,
                first: id.first,
                records,
                marks: FinishedMarks::First(0),
            }));
        }
        id
    }

    /// The processor is given this many records of the batch, from its beginning on.
    pub fn offer(&mut self, id: BatchId, records: usize) {
        self.offered = self.offered.max(id.first + records as u64);
    }

    /// The processor did not begin with the record at this index of the batch, nor with those after it.
    pub fn withdraw_offer(&mut self, id: BatchId, index: usize) {
        self.offered = self.offered.min(id.first + index as u64);
    }

    /// Forgets what was delivered: it will be delivered again, under other numbers.
    pub fn forget(&mut self) {
        *self = Self {
            next_id: self.next_id,
            next_number: self.next_number,
            offered: self.next_number,
            forgotten: self.next_number,
            ..Self::default()
        };
    }

    /// Whether the record was delivered under this number before the deliveries were [forgotten](Self::forget).
    pub fn is_forgotten(&self, number: u64) -> bool {
        number < self.forgotten
    }

    /// Every record of the batch is finished.
    pub fn finish_batch(&mut self, id: BatchId) {
        if let Some(batch) = self.batch(id) {
            batch.marks = FinishedMarks::All;
        }
        self.advance();
    }

    /// One record of the batch, by its index, is finished.
    pub fn finish(&mut self, id: BatchId, index: usize) {
        if let Some(batch) = self.batch(id) {
            batch.finish(index);
        }
        self.advance();
    }

    /// Every record up to and including this one is finished, in whatever batch it was delivered.
    pub fn finish_through(&mut self, record: &RecordPosition) {
        self.finish_numbered(record, None);
    }

    /// As [`finish_through`](Self::finish_through), with the number under which the record was delivered, where that is known: the records
    /// of released batches are counted by it. A number from before the deliveries were [forgotten](Self::forget) finishes nothing.
    pub fn finish_numbered(&mut self, record: &RecordPosition, number: Option<u64>) {
        if number.is_some_and(|number| self.is_forgotten(number)) {
            return;
        }
        for segment in &mut self.open {
            if !segment.finish_through(record, number) {
                break;
            }
        }
        self.advance();
    }

    /// The records of the batch are not kept any longer than the user's code keeps them.
    ///
    /// They can still be finished, with [`finish_through`](Self::finish_through). Of a batch that was finished out of order each run of records
    /// that are finished, or are not, has an entry.
    pub fn release(&mut self, id: BatchId) {
        let Ok(at) = self.find(id) else { return };
        let Some(TrackedSegment::Batch(batch)) = self.open.get(at) else {
            return;
        };
        let runs = batch.released();
        if runs.is_empty() {
            return;
        }
        let behind = self.open.split_off(at + 1);
        self.open.pop_back();
        for run in runs {
            // One entry stands for all that were released one after the other, so that their number does not matter.
            match self.open.back_mut() {
                Some(TrackedSegment::Released(before)) if run.done == 0 => {
                    before.last = run.last;
                    before.records += run.records;
                }
                _ => self.open.push_back(TrackedSegment::Released(run)),
            }
        }
        self.open.extend(behind);
    }

    /// The last record of the longest finished prefix; `None` while the first record delivered is unfinished.
    pub fn finished(&self) -> Option<&RecordPosition> {
        self.finished.as_ref()
    }

    /// The last record delivered.
    pub fn last_delivered(&self) -> Option<&RecordPosition> {
        self.last_delivered.as_ref()
    }

    /// Whether everything delivered is finished.
    pub fn is_all_finished(&self) -> bool {
        self.open.is_empty()
    }

    /// How many records were [offered](Self::offer) to the processor and are not finished. Never too few; too many only where
    /// the number of a finished record was not known.
    pub fn unfinished(&self) -> u64 {
        self.open
            .iter()
            .map(|segment| segment.unfinished(self.offered))
            .sum()
    }

    /// Where the batch stands, unless it is finished or released. Few batches are open at a time, the newest last.
    fn find(&self, id: BatchId) -> Result<usize, ()> {
        let is_it =
            |segment: &TrackedSegment| matches!(segment, TrackedSegment::Batch(batch) if batch.id == id.id);
        self.open.iter().rposition(is_it).ok_or(())
    }

    fn batch(&mut self, id: BatchId) -> Option<&mut TrackedBatch> {
        let at = self.find(id).ok()?;
        match self.open.get_mut(at) {
            Some(TrackedSegment::Batch(batch)) => Some(batch),
            Some(TrackedSegment::Released(_)) | None => None,
        }
    }

    fn advance(&mut self) {
        while let Some(segment) = self.open.front() {
            let (finished, is_all) = segment.finished();
            if let Some(finished) = finished {
                self.finished = Some(finished.detached());
            }
            if !is_all {
                return;
            }
            self.open.pop_front();
        }
    }
}

impl TrackedSegment {
    /// Finishes what stands at or before the record. Returns `true` if anything does.
    fn finish_through(&mut self, record: &RecordPosition, number: Option<u64>) -> bool {
        match self {
            Self::Batch(batch) => {
                let before = |other: &crate::types::Record| other.position() <= record;
                let done = batch.records.partition_point(before);
                batch.finish_first(done);
                done > 0
            }
            Self::Released(released) => {
                if *record < released.first {
                    return false;
                }
                let through = record.min(&released.last);
                if released.through.as_ref().is_none_or(|old| old < through) {
                    released.through = Some(through.detached());
                }
                let count = number.and_then(|number| number.checked_sub(released.first_number));
                if *record >= released.last {
                    released.done = released.records;
                } else if let Some(count) = count.filter(|count| *count < released.records) {
                    released.done = released.done.max(count + 1);
                }
                true
            }
        }
    }

    /// The last record of its longest finished prefix, and whether that is the whole.
    fn finished(&self) -> (Option<&RecordPosition>, bool) {
        match self {
            Self::Batch(batch) => match &batch.marks {
                FinishedMarks::All => (batch.records.last().map(|last| last.position()), true),
                FinishedMarks::Some { finished, .. } => {
                    let prefix = finished.iter().take_while(|finished| **finished).count();
                    let last = prefix.checked_sub(1).and_then(|last| batch.records.get(last));
                    (last.map(|last| last.position()), false)
                }
                FinishedMarks::First(count) => {
                    let last = count.checked_sub(1).and_then(|last| batch.records.get(last));
                    (last.map(|last| last.position()), false)
                }
            },
            Self::Released(released) => {
                let is_all = released.through.as_ref() == Some(&released.last);
                (released.through.as_ref(), is_all)
            }
        }
    }

    /// How many of its records have a number below this one and are not finished.
    fn unfinished(&self, below: u64) -> u64 {
        match self {
            Self::Batch(batch) => batch.unfinished(below),
            Self::Released(released) => released.records - released.done,
        }
    }
}

impl TrackedBatch {
    /// The records before this index are finished.
    fn finish_first(&mut self, count: usize) {
        match &mut self.marks {
            FinishedMarks::All => {}
            _ if count == self.records.len() => self.marks = FinishedMarks::All,
            FinishedMarks::First(before) => *before = count.max(*before),
            FinishedMarks::Some { .. } => (0..count).for_each(|index| self.finish(index)),
        }
    }

    fn finish(&mut self, index: usize) {
        let len = self.records.len();
        if index >= len || matches!(self.marks, FinishedMarks::All) {
            return;
        }
        if let FinishedMarks::First(count) = self.marks {
            if index == count {
                return self.finish_first(count + 1);
            }
            let finished = (0..len).map(|index| index < count).collect();
            self.marks = FinishedMarks::Some { finished, count };
        }
        if let FinishedMarks::Some { finished, count } = &mut self.marks {
            if let Some(mark) = finished.get_mut(index)
                && !*mark
            {
                *mark = true;
                *count += 1;
            }
            if *count == len {
                self.marks = FinishedMarks::All;
            }
        }
    }

    /// The placeholders for the batch once its records are let go.
    fn released(&self) -> Vec<ReleasedBatches> {
        let runs = self.marks.runs(self.records.len());
        let position = |index: usize| self.records.get(index).map(|record| record.position().detached());
        let released = runs.into_iter().filter_map(|run| {
            let through = run
                .finished_to
                .checked_sub(1)
                .filter(|through| *through >= run.from);
            Some(ReleasedBatches {
                first: position(run.from)?,
                last: position(run.to.checked_sub(1)?)?,
                through: through.and_then(position),
                first_number: self.first + run.from as u64,
                records: (run.to - run.from) as u64,
                done: (run.finished_to - run.from) as u64,
            })
        });
        released.collect()
    }

    fn unfinished(&self, below: u64) -> u64 {
        let offered = usize::try_from(below.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let offered = offered.min(self.records.len());
        let unfinished = match &self.marks {
            FinishedMarks::All => 0,
            FinishedMarks::First(count) => offered.saturating_sub(*count),
            FinishedMarks::Some { finished, .. } => {
                finished.iter().take(offered).filter(|done| !**done).count()
            }
        };
        unfinished as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::types::{Record, SequenceNumber};

    fn records(range: std::ops::Range<u128>) -> Arc<FetchedBatch> {
        let list: Vec<_> = range.map(|n| Record::new(SequenceNumber::from(n), "")).collect();
        Arc::new(list.into())
    }

    fn number(position: &RecordPosition) -> u128 {
        position.sequence.as_str().parse().unwrap()
    }

    proptest! {
        /// Whatever the order, the stored position is exactly the longest finished prefix, and it never falls.
        #[test]
        fn the_position_is_the_longest_finished_prefix(
            sizes in prop::collection::vec(0_usize..6, 1..8),
            steps in prop::collection::vec((0_usize..8, 0_usize..6, 0_u8..5), 0..60),
        ) {
            let mut tracker = CheckpointTracker::default();
            let (mut next, mut batches) = (1_u128, Vec::new());
            for size in sizes {
                let range = next..next + size as u128;
                next = range.end;
                batches.push((tracker.deliver(records(range.clone())), range));
            }
            let (mut finished, mut released) = (BTreeSet::new(), BTreeSet::new());
            let (mut last, mut offered) = (0, 1);
            for (batch, index, kind) in steps {
                let Some((id, range)) = batches.get(batch) else { continue };
                let of_index = range.start + index as u128;
                match kind {
                    4 => {
                        tracker.offer(*id, index.min(range.clone().count()));
                        offered = offered.max(of_index.min(range.end));
                    }
                    // Only what was offered is released.
                    3 if offered < range.end => {}
                    3 => { tracker.release(*id); released.insert(*id); }
                    // What is not kept can be finished by its position only.
                    0 | 1 if released.contains(id) => {
                        tracker.finish_batch(*id);
                        tracker.finish(*id, index);
                    }
                    0 => { tracker.finish_batch(*id); finished.extend(range.clone()); }
                    1 => { tracker.finish(*id, index); if range.contains(&of_index) { finished.insert(of_index); } }
                    _ => {
                        let number = u64::try_from(of_index - 1).ok();
                        tracker.finish_numbered(&RecordPosition::plain(SequenceNumber::from(of_index)), number);
                        finished.extend(1..=of_index.min(next - 1));
                    }
                }
                let unfinished = (1..offered).filter(|n| !finished.contains(n)).count();
                prop_assert_eq!(tracker.unfinished(), unfinished as u64);
                let prefix = (1..next).take_while(|n| finished.contains(n)).last().unwrap_or(0);
                prop_assert_eq!(tracker.finished().map_or(0, number), prefix);
                prop_assert!(prefix >= last);
                last = prefix;
                prop_assert_eq!(tracker.is_all_finished(), prefix + 1 == next);
            }
        }
    }

    #[test]
    fn released_batches_keep_no_records_and_one_entry() {
        let mut tracker = CheckpointTracker::default();
        for start in 0..1000 {
            let batch = records(start * 10..start * 10 + 10);
            let id = tracker.deliver(Arc::clone(&batch));
            tracker.release(id);
            assert_eq!(Arc::strong_count(&batch), 1);
        }
        assert_eq!(tracker.open.len(), 1);
        tracker.finish_through(&RecordPosition::plain(SequenceNumber::from(4242)));
        assert_eq!(tracker.finished().map(number), Some(4242));
        tracker.finish_through(&RecordPosition::plain(SequenceNumber::from(9999)));
        assert!(tracker.is_all_finished());
    }

    #[test]
    fn records_of_a_forgotten_delivery_are_counted_again() {
        let mut tracker = CheckpointTracker::default();
        let former = tracker.deliver(records(1..4));
        tracker.offer(former, 3);
        assert_eq!(tracker.unfinished(), 3);
        tracker.forget();
        assert_eq!((tracker.unfinished(), tracker.last_delivered()), (0, None));
        let id = tracker.deliver(records(1..4));
        tracker.offer(id, 3);
        tracker.release(id);
        tracker.finish_batch(former);
        // A batch of the former delivery finishes nothing of this one.
        let second = RecordPosition::plain(SequenceNumber::from(2));
        tracker.finish_numbered(&second, Some(former.first_number() + 1));
        assert_eq!((tracker.finished(), tracker.unfinished()), (None, 3));
        tracker.finish_numbered(&second, Some(id.first_number() + 1));
        assert_eq!((tracker.finished(), tracker.unfinished()), (Some(&second), 1));
    }

    #[test]
    fn batch_finished_out_of_order_is_released_too() {
        let mut tracker = CheckpointTracker::default();
        let kept = records(1..6);
        let id = tracker.deliver(Arc::clone(&kept));
        tracker.finish(id, 2);
        tracker.release(id);
        assert_eq!(Arc::strong_count(&kept), 1);
        let at = |n: u128| RecordPosition::plain(SequenceNumber::from(n));
        tracker.finish_numbered(&at(2), Some(1));
        assert_eq!(tracker.finished(), Some(&at(3)), "the third was finished before");
        tracker.finish_numbered(&at(5), Some(4));
        assert!(tracker.is_all_finished());
    }

    #[test]
    fn a_batch_finished_in_part_is_released_too() {
        let mut tracker = CheckpointTracker::default();
        let batch = records(1..10);
        let id = tracker.deliver(Arc::clone(&batch));
        tracker.offer(id, 9);
        tracker.finish_through(&RecordPosition::plain(SequenceNumber::from(4)));
        tracker.release(id);
        assert_eq!(Arc::strong_count(&batch), 1);
        assert_eq!(
            (tracker.finished().map(number), tracker.unfinished()),
            (Some(4), 5)
        );
    }

    #[test]
    fn an_empty_batch_changes_nothing() {
        let mut tracker = CheckpointTracker::default();
        let id = tracker.deliver(records(1..1));
        tracker.finish_batch(id);
        assert_eq!(tracker.finished(), None);
        assert!(tracker.is_all_finished());
    }
}
