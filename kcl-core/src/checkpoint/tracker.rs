use std::collections::VecDeque;
use std::sync::Arc;

use crate::budget::Records;
use crate::model::RecordPosition;

/// Names a batch among those that one ownership of a shard delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(u64);

/// Knows which delivered records are finished, and so how far the shard may be checkpointed.
///
/// Batches are delivered in order. Their records may be finished in any order; the position to store is that of the last
/// record before the first unfinished one. Nothing is allocated per record: a batch whose records are finished as a whole
/// costs one entry, and only one that is finished piecemeal gets a mark per record. The records of a batch are kept until they are
/// finished or [released](Tracker::release).
///
/// ```
/// use std::sync::Arc;
/// use kcl_core::checkpoint::Tracker;
/// use kcl_core::model::{Record, SequenceNumber};
///
/// let record = |n: u128| Record::new(SequenceNumber::from(n), "payload");
/// let mut tracker = Tracker::default();
/// let first = tracker.deliver(Arc::new(vec![record(1), record(2)].into()));
/// let second = tracker.deliver(Arc::new(vec![record(3)].into()));
/// tracker.finish_batch(second);
/// assert_eq!(tracker.finished(), None);
/// tracker.finish_batch(first);
/// assert_eq!(tracker.finished().unwrap().sequence, SequenceNumber::from(3));
/// ```
#[derive(Debug, Default)]
pub struct Tracker {
    next_id: u64,
    open: VecDeque<Segment>,
    finished: Option<RecordPosition>,
    last_delivered: Option<RecordPosition>,
}

#[derive(Debug)]
enum Segment {
    Batch(Batch),
    Released(Released),
}

#[derive(Debug)]
struct Batch {
    id: BatchId,
    records: Arc<Records>,
    marks: Marks,
}

/// Batches one after the other whose records are not kept: they can be finished from the beginning on only.
#[derive(Debug)]
struct Released {
    first: RecordPosition,
    last: RecordPosition,
    /// Up to where they are finished.
    through: Option<RecordPosition>,
}

#[derive(Debug)]
enum Marks {
    None,
    Some { finished: Vec<bool>, count: usize },
    All,
}

impl Tracker {
    /// Takes in the next batch. Its records stand after all those delivered before.
    pub fn deliver(&mut self, records: Arc<Records>) -> BatchId {
        let id = BatchId(self.next_id);
        self.next_id += 1;
        if let Some(last) = records.last() {
            // Detached: what is remembered outlives the batch.
            self.last_delivered = Some(last.position().detached());
            self.open.push_back(Segment::Batch(Batch {
                id,
                records,
                marks: Marks::None,
            }));
        }
        id
    }

    /// Every record of the batch is finished.
    pub fn finish_batch(&mut self, id: BatchId) {
        if let Some(batch) = self.batch(id) {
            batch.marks = Marks::All;
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
        for segment in &mut self.open {
            if !segment.finish_through(record) {
                break;
            }
        }
        self.advance();
    }

    /// The records of the batch are not kept any longer than the user's code keeps them.
    ///
    /// They can still be finished, with [`finish_through`](Self::finish_through). A batch that was finished in part is kept.
    pub fn release(&mut self, id: BatchId) {
        let Ok(at) = self.find(id) else { return };
        let released = match self.open.get(at) {
            Some(Segment::Batch(batch)) if matches!(batch.marks, Marks::None) => {
                let ends = batch.records.first().zip(batch.records.last());
                ends.map(|(first, last)| (first.position().detached(), last.position().detached()))
            }
            Some(Segment::Batch(_) | Segment::Released(_)) | None => None,
        };
        let Some((first, last)) = released else { return };
        // One entry stands for all that were released one after the other, so that their number does not matter.
        let before = at.checked_sub(1).and_then(|before| self.open.get_mut(before));
        if let Some(Segment::Released(before)) = before {
            before.last = last;
            self.open.remove(at);
        } else if let Some(segment) = self.open.get_mut(at) {
            *segment = Segment::Released(Released {
                first,
                last,
                through: None,
            });
        }
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

    /// Where the batch stands, unless it is finished or released. Few batches are open at a time, the newest last.
    fn find(&self, id: BatchId) -> Result<usize, ()> {
        let is_it = |segment: &Segment| matches!(segment, Segment::Batch(batch) if batch.id == id);
        self.open.iter().rposition(is_it).ok_or(())
    }

    fn batch(&mut self, id: BatchId) -> Option<&mut Batch> {
        let at = self.find(id).ok()?;
        match self.open.get_mut(at) {
            Some(Segment::Batch(batch)) => Some(batch),
            Some(Segment::Released(_)) | None => None,
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

impl Segment {
    /// Finishes what stands at or before the record. Says whether anything does.
    fn finish_through(&mut self, record: &RecordPosition) -> bool {
        match self {
            Self::Batch(batch) => {
                let before = |other: &crate::model::Record| other.position() <= record;
                let done = batch.records.partition_point(before);
                if done == batch.records.len() {
                    batch.marks = Marks::All;
                } else {
                    (0..done).for_each(|index| batch.finish(index));
                }
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
                true
            }
        }
    }

    /// The last record of its longest finished prefix, and whether that is all of it.
    fn finished(&self) -> (Option<&RecordPosition>, bool) {
        match self {
            Self::Batch(batch) => match &batch.marks {
                Marks::All => (batch.records.last().map(|last| last.position()), true),
                Marks::Some { finished, .. } => {
                    let prefix = finished.iter().take_while(|finished| **finished).count();
                    let last = prefix.checked_sub(1).and_then(|last| batch.records.get(last));
                    (last.map(|last| last.position()), false)
                }
                Marks::None => (None, false),
            },
            Self::Released(released) => {
                let is_all = released.through.as_ref() == Some(&released.last);
                (released.through.as_ref(), is_all)
            }
        }
    }
}

impl Batch {
    fn finish(&mut self, index: usize) {
        let len = self.records.len();
        if index >= len || matches!(self.marks, Marks::All) {
            return;
        }
        if let Marks::None = self.marks {
            self.marks = Marks::Some {
                finished: vec![false; len],
                count: 0,
            };
        }
        if let Marks::Some { finished, count } = &mut self.marks {
            if let Some(mark) = finished.get_mut(index)
                && !*mark
            {
                *mark = true;
                *count += 1;
            }
            if *count == len {
                self.marks = Marks::All;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{Record, SequenceNumber};

    fn records(range: std::ops::Range<u128>) -> Arc<Records> {
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
            steps in prop::collection::vec((0_usize..8, 0_usize..6, 0_u8..4), 0..60),
        ) {
            let mut tracker = Tracker::default();
            let (mut next, mut batches) = (1_u128, Vec::new());
            for size in sizes {
                let range = next..next + size as u128;
                next = range.end;
                batches.push((tracker.deliver(records(range.clone())), range));
            }
            let (mut finished, mut released) = (BTreeSet::new(), BTreeSet::new());
            let mut last = 0;
            for (batch, index, kind) in steps {
                let Some((id, range)) = batches.get(batch) else { continue };
                let of_index = range.start + index as u128;
                match kind {
                    3 if range.clone().any(|n| finished.contains(&n)) => {}
                    3 => { tracker.release(*id); released.insert(*id); }
                    // What is not kept can be finished by its position only.
                    0 | 1 if released.contains(id) => {
                        tracker.finish_batch(*id);
                        tracker.finish(*id, index);
                    }
                    0 => { tracker.finish_batch(*id); finished.extend(range.clone()); }
                    1 => { tracker.finish(*id, index); if range.contains(&of_index) { finished.insert(of_index); } }
                    _ => {
                        tracker.finish_through(&RecordPosition::plain(SequenceNumber::from(of_index)));
                        finished.extend(1..=of_index.min(next - 1));
                    }
                }
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
        let mut tracker = Tracker::default();
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
    fn an_empty_batch_changes_nothing() {
        let mut tracker = Tracker::default();
        let id = tracker.deliver(records(1..1));
        tracker.finish_batch(id);
        assert_eq!(tracker.finished(), None);
        assert!(tracker.is_all_finished());
    }
}
