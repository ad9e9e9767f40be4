//! Aggregated records become the user records in them.

use std::sync::Arc;
use std::time::Duration;

use kcl_aggregation::{Envelope, OutsideShard, OwnedRecords, UserRecord, seems_aggregated};

use crate::invariant::check_counted;
use crate::limits::byte_budget::BudgetPermit;
use crate::limits::fetch_sizer::RECORD;
use crate::processor::fetched_batch::{FetchedBatch, UnreadableRecord};
use crate::runtime::failpoint::failpoint;
use crate::settings::Aggregation;
use crate::source::ShardEnd;
use crate::types::{HashKeyRange, Record, RecordPosition, SequenceNumber};

/// The oddities of user records that are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct AggregateFaults {
    /// How many user records belong to another shard, and how many were left out for that.
    pub(crate) outside: usize,
    pub(crate) withheld: usize,
    /// How many have an explicit hash key that is no number.
    pub(crate) invalid_hash_keys: usize,
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

/// The most records whose envelopes are checked together: enough to check them fast, and few enough that it takes little memory.
const CHECKED_TOGETHER: usize = 1_024;

/// Unpacks the records of one answer, in batches as large as the room that is held for them: what is not asked for yet takes no memory
/// beside the answer.
///
/// It ends at the first record that cannot be read: what comes after it must not be delivered before it.
pub(crate) struct Deaggregator {
    records: std::vec::IntoIter<Record>,
    /// The envelopes of the first of these records: none until one of them is looked into.
    envelopes: std::vec::IntoIter<Envelope>,
    how: Aggregation,
    /// The shard's range of hash keys, where that is known.
    shard: Option<HashKeyRange>,
    done: Option<RecordPosition>,
    current: Option<OpenAggregate>,
    /// Those of the batches so far that nobody has taken.
    faults: AggregateFaults,
    /// The room of the answer, which is held as long as a batch is in use.
    room: Option<Arc<BudgetPermit>>,
    behind: Option<Duration>,
    /// Set until it is handed on with the last batch.
    end: Option<ShardEnd>,
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
            envelopes: Vec::new().into_iter(),
            how,
            shard,
            done,
            current: None,
            faults: AggregateFaults::default(),
            room: None,
            behind: None,
            end: None,
        }
    }

    /// The answer takes this room, is so far behind, and ends the shard if it does.
    pub(crate) fn of_answer(
        self,
        room: BudgetPermit,
        behind: Option<Duration>,
        end: Option<ShardEnd>,
    ) -> Self {
        Self {
            room: Some(Arc::new(room)),
            behind,
            end,
            ..self
        }
    }

    /// Whether no batch of the answer is in use.
    pub(crate) fn is_only_user(&self) -> bool {
        self.room.as_ref().is_none_or(|room| Arc::strong_count(room) == 1)
    }

    /// The faults since this was asked last.
    pub(crate) fn take_faults(&mut self) -> AggregateFaults {
        std::mem::take(&mut self.faults)
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

    /// The next batch, with as many records as there is room for. Without room it has all that are left, which must be
    /// [plain](Self::is_plain).
    pub(crate) fn next(&mut self, room: Option<BudgetPermit>) -> FetchedBatch {
        let mut batch = match &room {
            None => std::mem::take(&mut self.records).collect::<Vec<_>>().into(),
            Some(room) => {
                let most = (room.bytes() / RECORD).max(1);
                self.unpack(usize::try_from(most).unwrap_or(usize::MAX))
            }
        };
        batch.own_room = room.map(|mut room| {
            batch.records.shrink_to_fit();
            let overhead = self
                .current
                .as_ref()
                .map_or(0, |current| current.users.overhead());
            room.set(batch.records.len() as u64 * RECORD + overhead as u64);
            room
        });
        batch.behind = self.behind;
        batch.answer_room = self.room.clone();
        let is_last = self.is_empty() && batch.unreadable.is_none();
        // Nothing is read beyond a record that cannot be read.
        batch.end = self.end.take_if(|_| is_last);
        batch
    }

    /// Unpacks the next records, at most so many.
    fn unpack(&mut self, most: usize) -> FetchedBatch {
        let mut batch = FetchedBatch::default();
        while batch.records.len() < most && !self.is_empty() {
            if let Err(unreadable) = self.take(most, &mut batch.records) {
                batch.unreadable = Some((unreadable, self.room.clone()));
                self.current = None;
                self.records = Vec::new().into_iter();
            }
        }
        batch
    }

    /// Takes the next record, or as much of the aggregate under way as is wanted.
    fn take(&mut self, most: usize, unpacked: &mut Vec<Record>) -> Result<(), UnreadableRecord> {
        let mut current = match self.current.take() {
            Some(current) => current,
            None => {
                let Some(envelope) = self.next_envelope() else {
                    return Ok(());
                };
                let Some(record) = self.records.next() else {
                    return Ok(());
                };
                match self.open(record, envelope, unpacked)? {
                    Some(current) => current,
                    None => return Ok(()),
                }
            }
        };
        let wanted = most.saturating_sub(unpacked.len());
        let before = unpacked.len();
        unpacked.reserve(wanted.min(current.users.left()));
        for user in current.users.by_ref().take(wanted) {
            let user = user.map_err(|error| {
                let position = RecordPosition {
                    sequence: current.record.sequence_number().clone(),
                    sub_sequence: error.sub_sequence_number,
                };
                UnreadableRecord {
                    position: position.detached(),
                    why: error.to_string(),
                    record: Box::new(current.record.clone()),
                    is_whole: false,
                }
            })?;
            self.faults.invalid_hash_keys += usize::from(user.has_invalid_hash_key);
            unpacked.push(of_user(&current.record, user));
        }
        current.delivered += unpacked.len() - before;
        if current.users.left() > 0 {
            self.current = Some(current);
        } else if current.is_whole {
            let (all, withheld) = (current.users.total(), current.users.withheld());
            debug_assert_eq!(check_counted(all, current.delivered, withheld), Ok(()));
        }
        Ok(())
    }

    /// The envelope of the next record, checked together with those after it.
    fn next_envelope(&mut self) -> Option<Envelope> {
        if self.envelopes.as_slice().is_empty() {
            let together = self.records.as_slice().iter().take(CHECKED_TOGETHER);
            self.envelopes = Envelope::of_each(together.map(|record| &record.data()[..])).into_iter();
        }
        self.envelopes.next()
    }

    /// Looks into a record: an aggregate is returned, a plain one is delivered.
    fn open(
        &mut self,
        record: Record,
        envelope: Envelope,
        unpacked: &mut Vec<Record>,
    ) -> Result<Option<OpenAggregate>, UnreadableRecord> {
        let done = self.done.as_ref();
        let within = done.filter(|done| &done.sequence == record.sequence_number());
        let aggregate = envelope
            .unpack(record.data())
            .map_err(|error| unreadable(&record, error.to_string()))?;
        let Some(aggregate) = aggregate else {
            unpacked.push(record);
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
            .map_err(|error| unreadable(&record, error.to_string()))?;
        let is_whole = within.is_none();
        // Counted when it comes first, not again when reading goes on inside.
        if is_whole && users.outside() > 0 {
            self.faults.outside += users.outside();
            self.faults.withheld += users.withheld();
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

/// Unpacks a record that is read by itself, with all its user records or only the one of this index, whichever shard they belong to. A plain
/// record is returned as it is.
pub(crate) fn unpack_alone(record: &Record, only: Option<u64>) -> Result<Vec<Record>, UnreadableRecord> {
    let record = record.clone().with_sub_sequence(0);
    let done = only
        .and_then(|only| only.checked_sub(1))
        .map(|before| RecordPosition {
            sequence: record.sequence_number().clone(),
            sub_sequence: before,
        });
    let most = only.map_or(usize::MAX, |_| 1);
    let batch = Deaggregator::new(vec![record], Aggregation::Deliver, None, done).unpack(most);
    match batch.unreadable {
        Some((unreadable, _)) => Err(unreadable),
        None => Ok(batch.records),
    }
}

/// A Kinesis record of which nothing can be delivered.
fn unreadable(record: &Record, why: String) -> UnreadableRecord {
    UnreadableRecord {
        position: record.position().detached(),
        why,
        record: Box::new(record.clone()),
        is_whole: true,
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
mod tests;
