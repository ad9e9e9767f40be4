use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::{Record, RecordPosition};

/// Names a batch among those that one ownership of a shard delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(u64);

/// Knows which delivered records are finished, and so how far the shard may be checkpointed.
///
/// Batches are delivered in order. Their records may be finished in any order; the position to store is that of the last
/// record before the first unfinished one. Nothing is allocated per record: a batch whose records are finished as a whole
/// costs one entry, and only one that is finished piecemeal gets a mark per record.
///
/// ```
/// use std::sync::Arc;
/// use kcl_core::checkpoint::Tracker;
/// use kcl_core::model::{Record, SequenceNumber};
///
/// let record = |n: u128| Record::new(SequenceNumber::from(n), "payload");
/// let mut tracker = Tracker::default();
/// let first = tracker.deliver(Arc::new(vec![record(1), record(2)]));
/// let second = tracker.deliver(Arc::new(vec![record(3)]));
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
struct Segment {
    id: BatchId,
    records: Arc<Vec<Record>>,
    marks: Marks,
}

#[derive(Debug)]
enum Marks {
    None,
    Some { finished: Vec<bool>, count: usize },
    All,
}

impl Tracker {
    /// Takes in the next batch. Its records stand after all those delivered before.
    pub fn deliver(&mut self, records: Arc<Vec<Record>>) -> BatchId {
        let id = BatchId(self.next_id);
        self.next_id += 1;
        if let Some(last) = records.last() {
            self.last_delivered = Some(last.position().clone());
            self.open.push_back(Segment {
                id,
                records,
                marks: Marks::None,
            });
        }
        id
    }

    /// Every record of the batch is finished.
    pub fn finish_batch(&mut self, id: BatchId) {
        if let Some(segment) = self.segment(id) {
            segment.marks = Marks::All;
        }
        self.advance();
    }

    /// One record of the batch, by its index, is finished.
    pub fn finish(&mut self, id: BatchId, index: usize) {
        if let Some(segment) = self.segment(id) {
            segment.finish(index);
        }
        self.advance();
    }

    /// Every record up to and including this one is finished, in whatever batch it was delivered.
    pub fn finish_through(&mut self, record: &RecordPosition) {
        for segment in &mut self.open {
            match segment
                .records
                .partition_point(|other| other.position() <= record)
            {
                0 => break,
                done if done == segment.records.len() => segment.marks = Marks::All,
                done => (0..done).for_each(|index| segment.finish(index)),
            }
        }
        self.advance();
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

    fn segment(&mut self, id: BatchId) -> Option<&mut Segment> {
        let at = self.open.binary_search_by_key(&id, |segment| segment.id).ok()?;
        self.open.get_mut(at)
    }

    fn advance(&mut self) {
        while let Some(segment) = self.open.front() {
            match &segment.marks {
                Marks::All => {
                    self.finished = segment.records.last().map(|record| record.position().clone());
                    self.open.pop_front();
                }
                Marks::Some { finished, .. } => {
                    let prefix = finished.iter().take_while(|finished| **finished).count();
                    if let Some(last) = prefix.checked_sub(1).and_then(|last| segment.records.get(last)) {
                        self.finished = Some(last.position().clone());
                    }
                    return;
                }
                Marks::None => return,
            }
        }
    }
}

impl Segment {
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
    use crate::model::SequenceNumber;

    fn records(range: std::ops::Range<u128>) -> Arc<Vec<Record>> {
        Arc::new(range.map(|n| Record::new(SequenceNumber::from(n), "")).collect())
    }

    fn number(position: &RecordPosition) -> u128 {
        position.sequence.as_str().parse().unwrap()
    }

    proptest! {
        /// Whatever the order, the stored position is exactly the longest finished prefix, and it never falls.
        #[test]
        fn the_position_is_the_longest_finished_prefix(
            sizes in prop::collection::vec(0_usize..6, 1..8),
            steps in prop::collection::vec((0_usize..8, 0_usize..6, 0_u8..3), 0..60),
        ) {
            let mut tracker = Tracker::default();
            let (mut next, mut batches) = (1_u128, Vec::new());
            for size in sizes {
                let range = next..next + size as u128;
                next = range.end;
                batches.push((tracker.deliver(records(range.clone())), range));
            }
            let mut finished = BTreeSet::new();
            let mut last = 0;
            for (batch, index, kind) in steps {
                let Some((id, range)) = batches.get(batch) else { continue };
                let of_index = range.start + index as u128;
                match kind {
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
    fn an_empty_batch_changes_nothing() {
        let mut tracker = Tracker::default();
        let id = tracker.deliver(records(1..1));
        tracker.finish_batch(id);
        assert_eq!(tracker.finished(), None);
        assert!(tracker.is_all_finished());
    }
}
