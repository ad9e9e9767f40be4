//! The shares of the shards: arithmetic, without waiting.

use std::collections::BTreeMap;

use crate::types::LeaseKey;

/// The bytes that a shard is assured of. Not more, even where there is more: shards come one by one, and the first ones must not take what
/// those after them will be assured of.
const ASSURED: u64 = 256 * 1024;

/// How far beyond the limit all shards together may go with answers whose size was not known before they came.
const OVERDRAFT: u64 = 32 * 1024 * 1024;

/// A place among those who wait; lower ones came earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QueueTicket(u64);

/// The bytes that each shard holds, and the queue of those that wait.
///
/// Each shard is assured of [`ASSURED`], or of its part of half the limit if that is less. Bytes beyond that are lent to it, from the
/// other half. When so many shards come that the parts shrink, what was assured may become lent; then nobody is lent anything until
/// enough has come back.
#[derive(Debug)]
pub(crate) struct BudgetAllocator {
    limit: u64,
    held: u64,
    /// The bytes that shards hold beyond their assured parts.
    lent: u64,
    /// How many accounts are open.
    open: u64,
    accounts: BTreeMap<LeaseKey, ShardEntry>,
    waiting: BTreeMap<QueueTicket, LeaseKey>,
    next_ticket: u64,
}

#[derive(Debug, Default)]
struct ShardEntry {
    held: u64,
    /// How often the account is open. One that is closed stays for as long as it holds something.
    open: u32,
}

impl BudgetAllocator {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            held: 0,
            lent: 0,
            open: 0,
            accounts: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_ticket: 0,
        }
    }

    pub(crate) fn open(&mut self, shard: &LeaseKey) {
        let entry = self.accounts.entry(shard.clone()).or_default();
        entry.open += 1;
        if entry.open == 1 {
            self.open += 1;
            self.recount();
        }
    }

    pub(crate) fn close(&mut self, shard: &LeaseKey) {
        let Some(entry) = self.accounts.get_mut(shard) else {
            return;
        };
        entry.open = entry.open.saturating_sub(1);
        if entry.open == 0 {
            self.open = self.open.saturating_sub(1);
            if entry.held == 0 {
                self.accounts.remove(shard);
            }
            self.recount();
        }
    }

    /// Gives the shard a part of what it wants, or a place among those who wait.
    ///
    /// Only who waits longest is lent anything, and of what can be lent never more than a quarter beyond what it needs: the next ones
    /// shall not have to wait for a batch to be finished. A shard that holds nothing is lent a single record even so, as long as nobody is
    /// assured of that room.
    pub(crate) fn grant(
        &mut self,
        shard: &LeaseKey,
        want: u64,
        least: u64,
        place: &mut Option<QueueTicket>,
    ) -> Option<u64> {
        let is_first = match (*place, self.waiting.first_key_value()) {
            (_, None) => true,
            (Some(ticket), Some((first, _))) => ticket == *first,
            (None, Some(_)) => false,
        };
        let held = self.accounts.get(shard).map_or(0, |entry| entry.held);
        let own = self.assured().saturating_sub(held);
        let (want, least) = (want.max(least), least.min(self.limit / 2));
        let common = if is_first { self.lendable() } else { 0 };
        let needed = least.saturating_sub(own);
        // Who holds nothing waits for nobody, where a single record can be lent without touching what others are assured of.
        let common = if held == 0 && needed > common && needed <= self.unassured() {
            needed
        } else {
            common
        };
        let lent = want.saturating_sub(own).min(common).min((common / 4).max(needed));
        let granted = (want.min(own) + lent).min(self.limit.saturating_sub(self.held));
        // Whatever the parts say, a worker that holds nothing must be able to read something.
        let granted = if self.held == 0 {
            granted.max(least)
        } else {
            granted
        };
        if granted < least {
            if place.is_none() {
                let ticket = QueueTicket(self.next_ticket);
                self.next_ticket += 1;
                self.waiting.insert(ticket, shard.clone());
                *place = Some(ticket);
            }
            return None;
        }
        // The place is given up by the waiter, which lets the next one look.
        self.change(shard, 0, granted);
        Some(granted)
    }

    /// As much more as there is room for, for what was fetched already.
    pub(crate) fn grow(&mut self, shard: &LeaseKey, more: u64) -> u64 {
        let held = self.accounts.get(shard).map_or(0, |entry| entry.held);
        let own = self.assured().saturating_sub(held);
        let room = self.limit.saturating_sub(self.held);
        let more = more.min(own + self.lendable()).min(room);
        self.change(shard, 0, more);
        more
    }

    /// So much more, beyond the limit if need be, as far as all shards together are not too far beyond it. Returns `true` if it was taken.
    pub(crate) fn overdraw(&mut self, shard: &LeaseKey, more: u64) -> bool {
        let fits = self.held.saturating_add(more) <= self.limit.saturating_add(OVERDRAFT);
        if fits {
            self.change(shard, 0, more);
        }
        fits
    }

    /// The shard holds `new` bytes where it held `old`.
    pub(crate) fn change(&mut self, shard: &LeaseKey, old: u64, new: u64) {
        let assured = self.assured();
        let entry = self.accounts.entry(shard.clone()).or_default();
        let before = entry.held;
        entry.held = before.saturating_sub(old) + new;
        let after = entry.held;
        if after == 0 && entry.open == 0 {
            self.accounts.remove(shard);
        }
        self.held = self.held.saturating_sub(before) + after;
        let beyond = |held: u64| held.saturating_sub(assured);
        self.lent = self.lent.saturating_sub(beyond(before)) + beyond(after);
    }

    pub(crate) fn leave(&mut self, ticket: QueueTicket) {
        self.waiting.remove(&ticket);
    }

    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// The shards that hold the most, most first.
    pub(crate) fn holders(&self, top: usize) -> Vec<(LeaseKey, u64)> {
        let mut holders: Vec<_> = self
            .accounts
            .iter()
            .filter(|(_, entry)| entry.held > 0)
            .map(|(shard, entry)| (shard.clone(), entry.held))
            .collect();
        holders.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        holders.truncate(top);
        holders
    }

    fn assured(&self) -> u64 {
        let part = (self.limit / 2).checked_div(self.open);
        part.unwrap_or(0).min(ASSURED)
    }

    fn lendable(&self) -> u64 {
        (self.limit / 2).saturating_sub(self.lent)
    }

    /// The bytes that no shard is assured of, and none was lent.
    fn unassured(&self) -> u64 {
        let assured = self.assured().saturating_mul(self.open);
        self.limit.saturating_sub(assured).saturating_sub(self.lent)
    }

    /// After the assured parts have changed.
    fn recount(&mut self) {
        let assured = self.assured();
        let beyond = self
            .accounts
            .values()
            .map(|entry| entry.held.saturating_sub(assured));
        self.lent = beyond.sum();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::ShardId;

    fn key(number: u32) -> LeaseKey {
        LeaseKey::single_stream(&ShardId::new(format!("shardId-{number:012}")).unwrap())
    }

    #[test]
    fn busy_shard_is_lent_part_of_common_half() {
        let mut allocator = BudgetAllocator::new(1000);
        (0..10).for_each(|n| allocator.open(&key(n)));
        // 50 assured, and a quarter of the 500 that can be lent.
        assert_eq!(allocator.grant(&key(0), 900, 1, &mut None), Some(175));
        assert_eq!(allocator.grant(&key(0), 900, 1, &mut None), Some(93));
        // Unless it needs more.
        assert_eq!(allocator.grant(&key(1), 900, 300, &mut None), Some(300));
    }

    #[test]
    fn shard_holding_nothing_always_gets_its_part() {
        let mut allocator = BudgetAllocator::new(1000);
        (0..10).for_each(|n| allocator.open(&key(n)));
        while allocator.grant(&key(0), 1000, 1, &mut None).is_some() {}
        assert_eq!(allocator.held(), 550);
        for n in 1..10 {
            assert_eq!(allocator.grant(&key(n), 1000, 50, &mut None), Some(50));
        }
        assert_eq!(allocator.held(), 1000);
    }

    #[test]
    fn lonely_record_above_half_the_budget_is_fetched() {
        let mut allocator = BudgetAllocator::new(1000);
        (0..1000).for_each(|n| allocator.open(&key(n)));
        assert_eq!(allocator.grant(&key(0), 9000, 9000, &mut None), Some(500));
    }

    #[test]
    fn single_large_record_is_lent_past_those_waiting() {
        let mut allocator = BudgetAllocator::new(4 * 1024 * 1024);
        (0..2).for_each(|n| allocator.open(&key(n)));
        let large = 500 * 1024;
        while allocator.grant(&key(0), large, large, &mut None).is_some() {}
        let mut place = None;
        assert_eq!(allocator.grant(&key(0), large, large, &mut place), None);
        assert_eq!(allocator.grant(&key(1), large, large, &mut None), Some(large));
        // But not twice: it holds something now.
        assert_eq!(allocator.grant(&key(1), large, large, &mut None), None);
    }

    #[test]
    fn overdraft_is_bounded() {
        let mut allocator = BudgetAllocator::new(1000);
        allocator.open(&key(0));
        assert!(allocator.overdraw(&key(0), 900) && allocator.overdraw(&key(0), OVERDRAFT));
        assert!(!allocator.overdraw(&key(0), 101) && allocator.overdraw(&key(0), 100));
        assert_eq!(allocator.held(), 1000 + OVERDRAFT);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Open(u32),
        Close(u32),
        Grant(u32, u64, u64),
        GiveBack(usize),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u32..8).prop_map(Step::Open),
            (0_u32..8).prop_map(Step::Close),
            (0_u32..8, 1_u64..2000, 1_u64..200).prop_map(|(n, want, least)| Step::Grant(n, want, least)),
            (0_usize..20).prop_map(Step::GiveBack),
        ]
    }

    proptest! {
        #[test]
        fn held_bytes_stay_within_limit_and_are_remembered(
            steps in proptest::collection::vec(any_step(), 0..100),
        ) {
            let limit = 1000;
            let mut allocator = BudgetAllocator::new(limit);
            let mut open = BTreeMap::<u32, u32>::new();
            let mut held: Vec<(u32, u64)> = Vec::new();
            for step in steps {
                match step {
                    Step::Open(n) => {
                        allocator.open(&key(n));
                        *open.entry(n).or_default() += 1;
                    }
                    Step::Close(n) => {
                        if let Some(times) = open.get_mut(&n).filter(|times| **times > 0) {
                            *times -= 1;
                            allocator.close(&key(n));
                        }
                    }
                    Step::Grant(n, want, least) if open.get(&n).is_some_and(|times| *times > 0) => {
                        let before = allocator.held();
                        let mut place = None;
                        let granted = allocator.grant(&key(n), want, least, &mut place);
                        if let Some(place) = place {
                            allocator.leave(place);
                        }
                        if let Some(bytes) = granted {
                            prop_assert!(bytes >= least.min(limit / 2) && bytes <= want.max(least));
                            held.push((n, bytes));
                        }
                        let of_shard: u64 = held.iter().filter(|(other, _)| *other == n).map(|(_, bytes)| bytes).sum();
                        if of_shard == 0 && before + least <= limit {
                            prop_assert!(least > limit / 2 / 8, "{least} of its assured part were refused");
                        }
                    }
                    Step::Grant(..) => {}
                    Step::GiveBack(index) => {
                        if let Some((n, bytes)) = (!held.is_empty()).then(|| held.remove(index % held.len())) {
                            allocator.change(&key(n), bytes, 0);
                        }
                    }
                }
                prop_assert_eq!(allocator.held(), held.iter().map(|(_, bytes)| bytes).sum::<u64>());
                prop_assert!(allocator.held() <= limit);
                let lent = allocator.lent;
                allocator.recount();
                prop_assert_eq!(allocator.lent, lent);
            }
        }
    }
}
