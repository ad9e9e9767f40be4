//! An answer of the source, handed on in parts that fit the room that is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use crate::limits::byte_budget::{BudgetPermit, Records, ShardBudget};
use crate::limits::fetch_sizer::{FetchSizer, RECORD};
use crate::ownership::Ownership;
use crate::ownership::backlog::SourceAnswer;
use crate::retrieval::deaggregate::{Deaggregated, Deaggregator, MisplacedRecords, UnreadableRecord};
use crate::runtime::clock::ClockExt as _;
use crate::runtime::lock::Locked;
use crate::source::{Arrival, ShardEnd};
use crate::status::WaitReason;
use crate::types::Gap;

/// The most room that one part of an answer asks for: as much as 10,000 plain records of 256 bytes take.
const LARGEST_PART: u64 = 4 * 1024 * 1024;
/// The fewest records that are unpacked at a time. So many are unpacked without room where nothing else of the answer is in use: the answer
/// takes room already, and gives none back until it is delivered.
const SMALLEST_PART: u64 = 64;

/// The portion that the fetcher has read: records, and what comes after them if that is no record.
#[derive(Debug)]
pub(crate) struct FetchedBatch {
    pub(crate) records: Records,
    pub(crate) behind: Option<Duration>,
    /// The gap before the records.
    pub(crate) gap: Option<Gap>,
    pub(crate) end: Option<ShardEnd>,
    /// The record that comes next and cannot be read, with the room that its answer takes.
    pub(crate) unreadable: Option<(UnreadableRecord, Arc<BudgetPermit>)>,
}

/// An answer that was fetched and is not handed on yet.
pub(crate) struct PendingFetch {
    unpacker: Deaggregator,
    /// Set until it is handed on with the last part.
    end: Option<ShardEnd>,
    /// Whether there was room for all of the answer; what there was none for is read again.
    is_part: bool,
    /// The backlog report of each part.
    answer: SourceAnswer,
    behind: Option<Duration>,
    /// The room of the answer, which is held as long as a part is in use.
    room: Arc<BudgetPermit>,
}

/// One part of an answer.
pub(crate) struct Portion {
    pub(crate) fetched: FetchedBatch,
    pub(crate) answer: SourceAnswer,
    pub(crate) misplaced: Vec<MisplacedRecords>,
    pub(crate) invalid_hash_keys: usize,
    pub(crate) is_last: bool,
}

impl Portion {
    /// Whether the consumer needs to know.
    pub(crate) fn brings_something(&self) -> bool {
        !self.fetched.records.is_empty() || self.ends()
    }

    /// Whether nothing is read after this.
    pub(crate) fn ends(&self) -> bool {
        self.fetched.end.is_some() || self.fetched.unreadable.is_some()
    }
}

impl PendingFetch {
    pub(crate) fn new(unpacker: Deaggregator, room: BudgetPermit, answer: SourceAnswer) -> Self {
        Self {
            unpacker,
            end: None,
            is_part: false,
            answer,
            behind: None,
            room: Arc::new(room),
        }
    }

    /// The answer, with so much about its shard.
    pub(crate) fn with(self, behind: Option<Duration>, end: Option<ShardEnd>, is_part: bool) -> Self {
        Self {
            behind,
            end: end.filter(|_| !is_part),
            is_part,
            ..self
        }
    }

    /// Whether the next part waits for no room: its records take none beside the answer.
    pub(crate) fn is_plain(&self) -> bool {
        self.unpacker.is_plain()
    }

    /// Waits for room to unpack the next records. Where nothing of the answer is in use there is always some.
    pub(crate) async fn room(&self, account: &ShardBudget) -> BudgetPermit {
        let known = self.unpacker.left() as u64;
        let least = SMALLEST_PART.min(known.max(1)) * RECORD;
        let is_only_user = || Arc::strong_count(&self.room) == 1;
        account
            .reserve_unless(LARGEST_PART.max(least), least, is_only_user)
            .await
    }

    /// Unpacks the next records, into this room if they take any.
    pub(crate) fn next(&mut self, room: Option<BudgetPermit>) -> Portion {
        let most = room.as_ref().map_or(usize::MAX, |room| {
            usize::try_from((room.bytes() / RECORD).max(1)).unwrap_or(usize::MAX)
        });
        let Deaggregated {
            mut records,
            unreadable,
            misplaced,
            invalid_hash_keys,
        } = self.unpacker.next(most);
        let room = room.map(|mut room| {
            records.shrink_to_fit();
            let overhead = self.unpacker.overhead() as u64;
            room.set(records.len() as u64 * RECORD + overhead);
            room
        });
        let is_last = self.unpacker.is_empty();
        let is_whole = is_last && !self.is_part && unreadable.is_none();
        let answer = SourceAnswer {
            brings: !records.is_empty(),
            is_whole,
            ..self.answer
        };
        // Nothing is read beyond a record that cannot be read.
        let end = self.end.take_if(|_| is_whole);
        Portion {
            fetched: FetchedBatch {
                records: Records::held(records, Arc::clone(&self.room), room),
                behind: self.behind,
                gap: None,
                end,
                unreadable: unreadable.map(|unreadable| (unreadable, Arc::clone(&self.room))),
            },
            answer,
            misplaced,
            invalid_hash_keys,
            is_last,
        }
    }
}

/// Makes room for an answer that begins to arrive.
pub(crate) struct ArrivalRoom<'a> {
    own: &'a Ownership,
    account: &'a ShardBudget,
    /// The most records that were asked for.
    limit: u32,
    room: Locked<BudgetPermit>,
    /// The room for the answer, once it was announced.
    announced: AtomicU64,
}

impl<'a> ArrivalRoom<'a> {
    /// For an answer of at most so many records, with this room held already.
    pub(crate) fn new(own: &'a Ownership, account: &'a ShardBudget, limit: u32, room: BudgetPermit) -> Self {
        Self {
            own,
            account,
            limit,
            room: Locked::new(room),
            announced: AtomicU64::new(0),
        }
    }

    /// The room that is held now, and what was announced, if anything was.
    pub(crate) fn into_room(self) -> (BudgetPermit, Option<u64>) {
        let announced = self.announced.into_inner();
        let room = self.room.into_inner();
        (room, (announced > 0).then_some(announced))
    }

    /// Takes more room if there is some now, and gives back what there is if not: a task that waits holds nothing that others wait for.
    fn has_room(&self, bytes: u64) -> bool {
        let mut room = self.room.lock();
        if bytes <= room.bytes() || room.settle(bytes) {
            return true;
        }
        room.set(0);
        false
    }
}

#[async_trait]
impl Arrival for ArrivalRoom<'_> {
    async fn announced(&self, bytes: u64, records: Option<usize>) {
        let bytes = FetchSizer::announced(bytes, records, self.limit);
        self.announced.store(bytes, Ordering::Relaxed);
        if self.has_room(bytes) {
            return;
        }
        let room = wait_for_room(self.own, self.account.reserve(bytes, bytes)).await;
        *self.room.lock() = room;
        self.progressed();
    }

    fn progressed(&self) {
        self.own.step();
    }
}

/// Waits for room, and says so where it takes long.
pub(crate) async fn wait_for_room(
    own: &Ownership,
    reserved: impl Future<Output = BudgetPermit> + Send,
) -> BudgetPermit {
    let worker = &own.worker;
    let mut reserved = std::pin::pin!(reserved);
    tokio::select! {
        biased;
        room = &mut reserved => return room,
        () = std::future::ready(()) => {}
    }
    own.fetcher_waits(WaitReason::ByteBudget);
    let patience = worker.settings.stall_timeout;
    let room = match worker.clock.timeout(patience, &mut reserved).await {
        Ok(room) => room,
        Err(_) => {
            let (held, holders) = worker.budget.holders(3);
            worker.metrics.starved();
            tracing::warn!(waited = ?patience, held, ?holders,
                "not read, because others hold the worker's budget of bytes: raise memory_budget, or see what holds them up");
            reserved.await
        }
    };
    own.fetcher_goes_on();
    room
}
