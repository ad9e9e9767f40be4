//! Records on their way from the source to the processor, with the room that they take.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::limits::byte_budget::BudgetPermit;
use crate::source::ShardEnd;
use crate::types::{Gap, Record, RecordPosition};

/// Records that were fetched, as the user's code sees them, and what comes after them if that is no record. Their room in the budget is held
/// for as long as they are kept.
#[derive(Debug)]
pub struct FetchedBatch {
    pub(crate) records: Vec<Record>,
    /// How far behind the newest record of the shard they were when they were fetched.
    pub(crate) behind: Option<Duration>,
    /// The gap before the records.
    pub(crate) gap: Option<Gap>,
    pub(crate) end: Option<ShardEnd>,
    /// The record that comes next and cannot be read, with the room that its answer takes.
    pub(crate) unreadable: Option<(UnreadableRecord, Option<Arc<BudgetPermit>>)>,
    /// The room of the answer that the records are slices of. Dropped before the other room, which wakes the tasks that wait for either.
    pub(crate) answer_room: Option<Arc<BudgetPermit>>,
    /// The room of the records themselves, where they were unpacked from the answer.
    pub(crate) own_room: Option<BudgetPermit>,
    /// The room of the fetches that the records were gathered from.
    pub(crate) gathered: Vec<Arc<FetchRoom>>,
    /// How many fetches end in it: 1, unless it was gathered.
    pub(crate) fetches: usize,
}

/// The room of a fetch whose records were moved into other batches. It is held until the last of these is gone.
#[derive(Debug)]
pub(crate) struct FetchRoom {
    _answer: Option<Arc<BudgetPermit>>,
    _own: Option<BudgetPermit>,
}

impl Default for FetchedBatch {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            behind: None,
            gap: None,
            end: None,
            unreadable: None,
            answer_room: None,
            own_room: None,
            gathered: Vec::new(),
            fetches: 1,
        }
    }
}

/// A record that cannot be offered to the user's code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnreadableRecord {
    pub(crate) position: RecordPosition,
    pub(crate) why: String,
    /// The Kinesis record, as it came.
    pub(crate) record: Box<Record>,
    /// Whether nothing of the Kinesis record can be delivered. Of one with a single user record that cannot be read, the others can.
    pub(crate) is_whole: bool,
}

impl UnreadableRecord {
    /// How far the shard is finished once this is set aside.
    pub(crate) fn finished_position(&self) -> RecordPosition {
        match self.is_whole {
            true => RecordPosition {
                sequence: self.position.sequence.clone(),
                sub_sequence: RecordPosition::LAST_SUB_SEQUENCE,
            },
            false => self.position.clone(),
        }
    }
}

impl FetchedBatch {
    /// The end of a shard, without records before it.
    pub(crate) fn ended(end: ShardEnd) -> Self {
        Self {
            end: Some(end),
            ..Self::default()
        }
    }

    /// Takes the room that is held for the records, to hold it elsewhere.
    pub(crate) fn take_room(&mut self) -> FetchRoom {
        FetchRoom {
            _answer: self.answer_room.take(),
            _own: self.own_room.take(),
        }
    }

    /// Whether nothing is read after this.
    pub(crate) fn is_last(&self) -> bool {
        self.end.is_some() || self.unreadable.is_some()
    }
}

impl From<Vec<Record>> for FetchedBatch {
    /// Records that no budget knows of, as a test makes them.
    fn from(records: Vec<Record>) -> Self {
        Self {
            records,
            ..Self::default()
        }
    }
}

impl Deref for FetchedBatch {
    type Target = [Record];

    fn deref(&self) -> &[Record] {
        &self.records
    }
}
