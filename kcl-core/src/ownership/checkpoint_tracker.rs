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
/// all finished or [released](CheckpointTracker::release): however many are finished behind an unfinished one, those without a gap
/// between them cost one entry.
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
    /// A batch with an unfinished record.
    Batch(TrackedBatch),
    Released(ReleasedRecords),
}

#[derive(Debug)]
struct TrackedBatch {
    id: u64,
    first: u64,
    records: Arc<FetchedBatch>,
    /// So many from the beginning on are finished.
    prefix: usize,
    /// Which of those behind them are; empty until one is.
    ahead: Vec<bool>,
}

/// Records one after the other that are not kept: they can be finished from the beginning on only.
#[derive(Debug)]
struct ReleasedRecords {
    first: RecordPosition,
    last: RecordPosition,
    /// Up to where they are finished.
    through: Option<RecordPosition>,
    first_number: u64,
    records: u64,
    /// How many of them are finished, as far as that is known: never too many.
    done: u64,
}

/// Records of a batch, of which those before `finished_to` are finished and the others are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FinishedRun {
    from: usize,
    finished_to: usize,
    to: usize,
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
                prefix: 0,
                ahead: Vec::new(),
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
        self.finish_in(id, |batch| batch.finish_first(batch.records.len()));
    }

    /// One record of the batch, by its index, is finished.
    pub fn finish(&mut self, id: BatchId, index: usize) {
        self.finish_in(id, |batch| batch.finish(index));
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
        let Some((at, batch)) = self.find(id) else { return };
        let runs = batch.runs();
        let released: Vec<_> = runs.into_iter().filter_map(|run| batch.released(run)).collect();
        self.replace(at, released);
    }

    /// The last record of the longest finished prefix; `None` while the first record delivered is unfinished.
    pub fn finished(&self) -> Option<&RecordPosition> {
        let through = self.open.front().and_then(TrackedSegment::through);
        through.or(self.finished.as_ref())
    }

    /// The number of the first record that is not finished: those with lower ones are.
    pub(crate) fn finished_number(&self) -> u64 {
        self.open
            .front()
            .map_or(self.next_number, TrackedSegment::first_unfinished)
    }

    /// The records from the end of the longest finished prefix on, in order, each with `true` if it is finished. Of finished ones at the
    /// beginning of a batch, and of those that are not kept any longer, only the last comes. No record comes behind an unfinished one that is
    /// not kept.
    pub fn behind_prefix(&self) -> impl Iterator<Item = (&RecordPosition, bool)> {
        let records = |segment| {
            let (from, to) = TrackedSegment::behind_prefix(segment);
            (from..to).map(move |index| TrackedSegment::at(segment, index))
        };
        self.open.iter().flat_map(records).map_while(|record| record)
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

    /// The batch and where it stands, unless it is finished or released.
    fn find(&mut self, id: BatchId) -> Option<(usize, &mut TrackedBatch)> {
        let behind = self
            .open
            .partition_point(|segment| segment.first_number() <= id.first);
        let at = behind.checked_sub(1)?;
        match self.open.get_mut(at) {
            Some(TrackedSegment::Batch(batch)) if batch.id == id.id => Some((at, batch)),
            _ => None,
        }
    }

    /// Finishes records of the batch, and lets it go once all are.
    fn finish_in(&mut self, id: BatchId, finish: impl FnOnce(&mut TrackedBatch)) {
        let Some((at, batch)) = self.find(id) else { return };
        finish(batch);
        let records = batch.records.len();
        if batch.prefix < records {
            return;
        }
        if at == 0 {
            return self.advance();
        }
        let whole = FinishedRun {
            from: 0,
            finished_to: records,
            to: records,
        };
        let released = batch.released(whole);
        self.replace(at, released);
    }

    /// Puts entries in the place of one. Neighbours of which one entry can say as much become one.
    fn replace(&mut self, at: usize, with: impl IntoIterator<Item = ReleasedRecords>) {
        let mut behind = self.open.split_off(at);
        behind.pop_front();
        for released in with {
            self.append(TrackedSegment::Released(released));
        }
        if let Some(next) = behind.pop_front() {
            self.append(next);
        }
        self.open.append(&mut behind);
    }

    fn append(&mut self, segment: TrackedSegment) {
        let segment = match (self.open.back_mut(), segment) {
            (Some(TrackedSegment::Released(before)), TrackedSegment::Released(next)) => {
                before.absorb(next).map(TrackedSegment::Released)
            }
            (_, segment) => Some(segment),
        };
        self.open.extend(segment);
    }

    fn advance(&mut self) {
        while let Some(finished) = self.open.front().and_then(TrackedSegment::finished_whole) {
            self.finished = Some(finished.detached());
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

    fn first_number(&self) -> u64 {
        match self {
            Self::Batch(batch) => batch.first,
            Self::Released(released) => released.first_number,
        }
    }

    /// The index of the last record of its finished prefix, or of its first record, and the one behind its last.
    fn behind_prefix(&self) -> (usize, usize) {
        match self {
            Self::Batch(batch) => (batch.prefix.saturating_sub(1), batch.records.len()),
            Self::Released(released) if released.is_finished() => (0, 1),
            // Its unfinished records are not known one by one.
            Self::Released(released) if released.through.is_none() => (1, 2),
            Self::Released(_) => (0, 2),
        }
    }

    /// The record at an index of [`behind_prefix`](Self::behind_prefix), and whether it is finished; `None` if it is not known.
    fn at(&self, index: usize) -> Option<(&RecordPosition, bool)> {
        match self {
            Self::Batch(batch) => Some((batch.position(index)?, batch.is_finished(index))),
            Self::Released(released) => {
                let through = released.through.as_ref().filter(|_| index == 0)?;
                Some((through, true))
            }
        }
    }

    /// The number of its first unfinished record, as far as that is known: never too high.
    fn first_unfinished(&self) -> u64 {
        match self {
            Self::Batch(batch) => batch.first + batch.prefix as u64,
            Self::Released(released) => released.first_number + released.done,
        }
    }

    /// The last record of its longest finished prefix.
    fn through(&self) -> Option<&RecordPosition> {
        match self {
            Self::Batch(batch) => batch.position(batch.prefix.checked_sub(1)?),
            Self::Released(released) => released.through.as_ref(),
        }
    }

    /// Its last record, if it is finished as a whole.
    fn finished_whole(&self) -> Option<&RecordPosition> {
        let is_whole = match self {
            Self::Batch(batch) => batch.prefix == batch.records.len(),
            Self::Released(released) => released.is_finished(),
        };
        self.through().filter(|_| is_whole)
    }

    /// How many of its records have a number below this one and are not finished.
    fn unfinished(&self, below: u64) -> u64 {
        match self {
            Self::Batch(batch) => batch.unfinished(below),
            Self::Released(released) => released.records - released.done,
        }
    }
}

impl ReleasedRecords {
    fn is_finished(&self) -> bool {
        self.through.as_ref() == Some(&self.last)
    }

    /// Stands for the next ones, too, or returns them: the finished ones of both must come first.
    fn absorb(&mut self, next: Self) -> Option<Self> {
        match next.through {
            None => {}
            Some(_) if self.is_finished() => self.through = next.through,
            Some(_) => return Some(next),
        }
        self.last = next.last;
        self.records += next.records;
        self.done += next.done;
        None
    }
}

impl TrackedBatch {
    /// The records before this index are finished.
    fn finish_first(&mut self, count: usize) {
        if count > self.prefix {
            self.prefix = count;
            while self.ahead.get(self.prefix) == Some(&true) {
                self.prefix += 1;
            }
        }
    }

    fn finish(&mut self, index: usize) {
        if index <= self.prefix && index < self.records.len() {
            return self.finish_first(index + 1);
        }
        if self.ahead.is_empty() {
            self.ahead = vec![false; self.records.len()];
        }
        if let Some(mark) = self.ahead.get_mut(index) {
            *mark = true;
        }
    }

    fn is_finished(&self, index: usize) -> bool {
        index < self.prefix || self.ahead.get(index) == Some(&true)
    }

    fn position(&self, index: usize) -> Option<&RecordPosition> {
        self.records.get(index).map(|record| record.position())
    }

    /// Its runs of records that are finished, each with those behind them that are not.
    fn runs(&self) -> Vec<FinishedRun> {
        let mut runs: Vec<FinishedRun> = Vec::new();
        for index in 0..self.records.len() {
            let is_finished = self.is_finished(index);
            match runs.last_mut() {
                Some(run) if !is_finished => run.to = index + 1,
                Some(run) if run.finished_to == index => (run.finished_to, run.to) = (index + 1, index + 1),
                _ => runs.push(FinishedRun {
                    from: index,
                    finished_to: index + usize::from(is_finished),
                    to: index + 1,
                }),
            }
        }
        runs
    }

    /// The placeholder for the run once the records are let go.
    fn released(&self, run: FinishedRun) -> Option<ReleasedRecords> {
        let position = |index: usize| self.position(index).map(RecordPosition::detached);
        let done = run.finished_to - run.from;
        Some(ReleasedRecords {
            first: position(run.from)?,
            last: position(run.to.checked_sub(1)?)?,
            through: run
                .finished_to
                .checked_sub(1)
                .filter(|_| done > 0)
                .and_then(position),
            first_number: self.first + run.from as u64,
            records: (run.to - run.from) as u64,
            done: done as u64,
        })
    }

    fn unfinished(&self, below: u64) -> u64 {
        let offered = usize::try_from(below.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let offered = offered.min(self.records.len());
        let unfinished = (self.prefix..offered).filter(|index| !self.is_finished(*index));
        unfinished.count() as u64
    }
}

#[cfg(test)]
mod tests;
