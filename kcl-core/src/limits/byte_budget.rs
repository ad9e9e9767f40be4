//! One budget of bytes per worker for the records that were fetched and are not finished.
//!
//! Half of the budget is assured: every shard that reads has a small part of that half, whatever the others do. The other half is lent to whoever
//! asks first, so that one busy shard among idle ones reads in full batches. A shard asks before it fetches, for as much as its recent
//! records say that a batch will take; what a batch keeps in memory counts until its last clone is dropped.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::Gauge;

use crate::limits::budget_allocator::{BudgetAllocator, QueueTicket};
use crate::runtime::watched::Watched;
use crate::types::LeaseKey;

/// The budget of one worker.
pub(crate) struct ByteBudget {
    allocator: Watched<BudgetAllocator>,
    gauge: Gauge,
    /// The size of a record where one was seen last; zero before.
    per_record: AtomicU64,
}

impl ByteBudget {
    /// A budget of so many bytes, which shows in the gauge how many are held.
    pub(crate) fn new(limit: u64, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self {
            allocator: Watched::new(BudgetAllocator::new(limit)),
            gauge,
            per_record: AtomicU64::new(0),
        })
    }

    /// An account for a shard that is being read. Its part is assured until the account is dropped.
    pub(crate) fn open(self: &Arc<Self>, shard: &LeaseKey) -> ShardBudget {
        // The parts of the others become smaller, which frees nothing.
        self.allocator.modify_quietly(|allocator| allocator.open(shard));
        ShardBudget {
            budget: Arc::clone(self),
            shard: shard.clone(),
        }
    }

    /// How many bytes are held, and by which shards the most of them, at most `top` of these.
    pub(crate) fn holders(&self, top: usize) -> (u64, Vec<(LeaseKey, u64)>) {
        self.allocator
            .read(|allocator| (allocator.held(), allocator.holders(top)))
    }

    /// Changes the allocator in a way that may let somebody else have something.
    fn free(&self, change: impl FnOnce(&mut BudgetAllocator)) {
        self.allocator.modify(|allocator| {
            change(allocator);
            self.show(allocator);
        });
    }

    /// Shows what is held now. Called while nobody else changes it: of two who do, the last to show it shows both.
    fn show(&self, allocator: &BudgetAllocator) {
        // Far from 2^53, up to which every whole number is exact.
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        self.gauge.set(allocator.held() as f64);
    }
}

impl fmt::Debug for ByteBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteBudget").finish_non_exhaustive()
    }
}

/// A shard's right to its part of the budget.
#[derive(Debug)]
pub(crate) struct ShardBudget {
    budget: Arc<ByteBudget>,
    shard: LeaseKey,
}

impl ShardBudget {
    /// The size of a record in the shard where one was seen last.
    pub(crate) fn per_record_elsewhere(&self) -> Option<u64> {
        let per_record = self.budget.per_record.load(Ordering::Relaxed);
        (per_record > 0).then_some(per_record)
    }

    /// Shares the size of a record in this shard with the other shards.
    pub(crate) fn tell_per_record(&self, per_record: u64) {
        self.budget.per_record.store(per_record, Ordering::Relaxed);
    }

    /// Waits for room: up to `want` bytes, and at least `least`.
    ///
    /// The first to come is served first, except for assured bytes: they are there at once.
    pub(crate) async fn reserve(&self, want: u64, least: u64) -> BudgetPermit {
        self.reserve_unless(want, least, || false).await
    }

    /// The same, but takes `least` without room once `must_go_on` holds, of which it is asked whenever something is given back.
    pub(crate) async fn reserve_unless(
        &self,
        want: u64,
        least: u64,
        must_go_on: impl Fn() -> bool + Send,
    ) -> BudgetPermit {
        let mut place = QueueSlot {
            account: self,
            ticket: None,
        };
        let attempt = |allocator: &mut BudgetAllocator| {
            let mut granted = allocator.grant(&self.shard, want, least, &mut place.ticket);
            if granted.is_none() && must_go_on() {
                allocator.change(&self.shard, 0, least);
                granted = Some(least);
            }
            self.budget.show(allocator);
            granted
        };
        BudgetPermit {
            bytes: self.budget.allocator.wait_until(attempt).await,
            budget: Arc::clone(&self.budget),
            shard: self.shard.clone(),
        }
    }
}

impl Drop for ShardBudget {
    fn drop(&mut self) {
        self.budget.free(|allocator| allocator.close(&self.shard));
    }
}

/// A place among those who wait. It is given up when the waiter is dropped.
struct QueueSlot<'a> {
    account: &'a ShardBudget,
    ticket: Option<QueueTicket>,
}

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.account.budget.free(|allocator| allocator.leave(ticket));
        }
    }
}

/// Bytes that a shard holds, until this is dropped.
pub(crate) struct BudgetPermit {
    budget: Arc<ByteBudget>,
    shard: LeaseKey,
    bytes: u64,
}

impl BudgetPermit {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes it what is really held, if that is less, or if there is room for more. Returns `true` if it is now.
    pub(crate) fn settle(&mut self, bytes: u64) -> bool {
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            self.bytes += self.budget.allocator.modify_quietly(|allocator| {
                let grown = allocator.grow(&self.shard, more);
                self.budget.show(allocator);
                grown
            });
            return self.bytes == bytes;
        }
        self.set(bytes);
        true
    }

    /// Makes it what is really held, a little beyond the budget if need be. Returns `true` if it is now.
    pub(crate) fn overdraw(&mut self, bytes: u64) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let taken = self.budget.allocator.modify_quietly(|allocator| {
            let taken = allocator.overdraw(&self.shard, more);
            self.budget.show(allocator);
            taken
        });
        if taken {
            self.bytes += more;
        }
        taken
    }

    /// Makes it what is really held, room or not.
    pub(crate) fn set(&mut self, bytes: u64) {
        let old = std::mem::replace(&mut self.bytes, bytes);
        if old != bytes {
            self.budget
                .free(|allocator| allocator.change(&self.shard, old, bytes));
        }
    }
}

impl Drop for BudgetPermit {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl fmt::Debug for BudgetPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BudgetPermit").field(&self.bytes).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Waker};

    use super::*;
    use crate::runtime::clock::BoxFuture;
    use crate::runtime::watched::explored::{explore_some, fails, give_up_at_once, run_all};
    use crate::types::ShardId;

    fn key(number: u32) -> LeaseKey {
        LeaseKey::single_stream(&ShardId::new(format!("shardId-{number:012}")).unwrap())
    }

    fn is_ready<T>(future: Pin<&mut impl Future<Output = T>>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test]
    async fn waiters_are_served_in_order_when_room_comes() {
        let budget = ByteBudget::new(1000, Gauge::noop());
        let accounts: Vec<_> = (0..5).map(|n| budget.open(&key(n))).collect();
        // 100 assured for each, 500 to lend.
        let mut first = accounts[0].reserve(600, 600).await;
        let _parts = (
            accounts[1].reserve(100, 100).await,
            accounts[2].reserve(100, 100).await,
        );
        let second = accounts[1].reserve(300, 300);
        let third = accounts[2].reserve(200, 200);
        let mut second = std::pin::pin!(second);
        let mut third = std::pin::pin!(third);
        assert!(!is_ready(second.as_mut()));
        assert!(!is_ready(third.as_mut()));
        // Assured bytes are there even so.
        assert_eq!(accounts[3].reserve(100, 50).await.bytes(), 100);
        // Enough for the third, whose turn it is not.
        first.set(350);
        assert!(!is_ready(third.as_mut()));
        drop(first);
        assert!(is_ready(second.as_mut()));
        assert!(is_ready(third.as_mut()));
    }

    #[tokio::test]
    async fn who_stops_waiting_stands_in_nobodys_way() {
        let budget = ByteBudget::new(1000, Gauge::noop());
        let accounts: Vec<_> = (0..5).map(|n| budget.open(&key(n))).collect();
        let first = accounts[0].reserve(500, 500).await;
        let mut second = Box::pin(accounts[1].reserve(500, 500));
        assert!(!is_ready(second.as_mut()));
        drop(second);
        assert_eq!(accounts[2].reserve(150, 150).await.bytes(), 150);
        drop(first);
        drop(accounts);
        assert_eq!(budget.holders(3), (0, Vec::new()));
    }

    /// Leaves the others in the belief that it still waits.
    struct LeavesUnseen<'a>(QueueSlot<'a>);

    impl Drop for LeavesUnseen<'_> {
        fn drop(&mut self) {
            if let Some(ticket) = self.0.ticket.take() {
                let allocator = &self.0.account.budget.allocator;
                allocator.modify_quietly(|allocator| allocator.leave(ticket));
            }
        }
    }

    impl ShardBudget {
        async fn wait_and_leave_unseen(&self, want: u64) {
            let (account, ticket) = (self, None);
            let mut place = LeavesUnseen(QueueSlot { account, ticket });
            let attempt = |allocator: &mut BudgetAllocator| {
                let ticket = &mut place.0.ticket;
                allocator.grant(&self.shard, want, want, ticket).map(drop)
            };
            give_up_at_once(self.budget.allocator.wait_until(attempt)).await;
        }
    }

    /// Three want so much that only one can have it at a time; one of them gives up if it must wait.
    fn three_want_the_same(leaves_unseen: bool) {
        let budget = ByteBudget::new(1000, Gauge::noop());
        // Open to the end: a part that becomes free would wake those who wait.
        let accounts: Vec<_> = (0..3).map(|n| Arc::new(budget.open(&key(n)))).collect();
        let take = |n: usize| -> BoxFuture<'static, ()> {
            let (account, budget) = (Arc::clone(&accounts[n]), Arc::clone(&budget));
            Box::pin(async move {
                let held = match n {
                    0 if leaves_unseen => return account.wait_and_leave_unseen(500).await,
                    0 => give_up_at_once(account.reserve(500, 500)).await,
                    _ => Some(account.reserve(500, 500).await),
                };
                if let Some(mut held) = held {
                    assert_eq!(budget.holders(3).0, 500);
                    held.set(400);
                }
            })
        };
        run_all(vec![take(0), take(1), take(2)]);
        assert_eq!(budget.holders(3), (0, Vec::new()));
        // Nobody stands in the way of who comes next.
        let next = shuttle::future::block_on(give_up_at_once(accounts[0].reserve(500, 500)));
        assert!(next.is_some());
    }

    #[test]
    fn room_always_wakes_somebody_in_any_order() {
        explore_some(5000, || three_want_the_same(false));
    }

    #[test]
    fn leaving_queue_unseen_is_found_to_strand_next() {
        assert!(fails("deadlock", || three_want_the_same(true)));
    }

    #[tokio::test]
    async fn held_bytes_count_until_last_clone_is_gone() {
        let budget = ByteBudget::new(1000, Gauge::noop());
        let account = budget.open(&key(0));
        let mut held = account.reserve(400, 1).await;
        assert!(held.settle(300) && held.settle(350) && !held.settle(5000));
        held.set(300);
        let held = Arc::new(held);
        let clone = Arc::clone(&held);
        drop((held, account));
        assert_eq!(budget.holders(3), (300, vec![(key(0), 300)]));
        drop(clone);
        assert_eq!(budget.holders(3), (0, Vec::new()));
    }
}
