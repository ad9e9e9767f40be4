//! The room in the budget for what a fetcher reads and unpacks.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use crate::limits::byte_budget::{BudgetPermit, ShardBudget};
use crate::limits::fetch_sizer::{FetchSizer, RECORD};
use crate::ownership::Ownership;
use crate::retrieval::deaggregate::Deaggregator;
use crate::runtime::clock::ClockExt as _;
use crate::runtime::lock::Locked;
use crate::source::Arrival;
use crate::status::WaitReason;

/// The most room that one part of an answer asks for: as much as 10,000 plain records of 256 bytes take.
const LARGEST_PART: u64 = 4 * 1024 * 1024;
/// The fewest records that are unpacked at a time. So many are unpacked without room where nothing else of the answer is in use: the answer
/// takes room already, and gives none back until it is delivered.
const SMALLEST_PART: u64 = 64;

/// Waits for room to unpack the next records. Where nothing of the answer is in use there is always some.
pub(crate) async fn room_to_unpack(
    own: &Ownership,
    account: &ShardBudget,
    answer: &Deaggregator,
) -> BudgetPermit {
    let known = answer.left() as u64;
    let least = SMALLEST_PART.min(known.max(1)) * RECORD;
    let is_only_user = || answer.is_only_user();
    let room = account.reserve_unless(LARGEST_PART.max(least), least, is_only_user);
    wait_for_room(own, room).await
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
    own.fetcher_starves.notify_one();
    let patience = worker.settings.reading.stall_timeout;
    let room = match worker.clock.timeout(patience, &mut reserved).await {
        Ok(room) => room,
        Err(_) => {
            let (held, holders) = worker.budget.holders(3);
            worker.metrics.starved();
            tracing::warn!(waited = ?patience, held, ?holders,
                "not read, because others hold the worker's budget of bytes: raise memory.budget, or see what holds them up");
            reserved.await
        }
    };
    own.fetcher_goes_on();
    room
}
