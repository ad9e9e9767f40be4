//! Splits and merges, and what is made of them.

use std::collections::BTreeSet;

use kcl_core::types::{HashKeyRange, ShardId, Timestamp};

use super::State;
use crate::memory_stream::ReshardError;
use crate::memory_stream::uniform::{Step, plan};

impl State {
    fn open_range(&self, id: &ShardId) -> Result<HashKeyRange, ReshardError> {
        let shard = self.shards.get(id).filter(|shard| !shard.forgotten);
        let shard = shard.ok_or_else(|| ReshardError::NoSuchShard(id.clone()))?;
        match shard.closed {
            Some(_) => Err(ReshardError::Closed(id.clone())),
            None => Ok(shard.hash_range),
        }
    }

    fn close(&mut self, id: &ShardId, at: Timestamp) {
        let tick = self.tick();
        if let Some(shard) = self.shards.get_mut(id) {
            shard.closed = Some((tick, at));
        }
    }

    /// Splits a shard at this hash key, or in the middle.
    pub(in crate::memory_stream) fn split(
        &mut self,
        id: &ShardId,
        new_start: Option<u128>,
        at: Timestamp,
    ) -> Result<[ShardId; 2], ReshardError> {
        let range = self.open_range(id)?;
        let outside = || ReshardError::HashKeyOutside(id.clone());
        let (low, high) = match new_start {
            None => range.halves().ok_or_else(outside)?,
            Some(key) if key > range.start() && key <= range.end() => (
                HashKeyRange::new(range.start(), key - 1).map_err(|_| outside())?,
                HashKeyRange::new(key, range.end()).map_err(|_| outside())?,
            ),
            Some(_) => return Err(outside()),
        };
        self.close(id, at);
        let parents = BTreeSet::from([id.clone()]);
        let low = self.open_shard(parents.clone(), low, at).ok_or_else(outside)?;
        let high = self.open_shard(parents, high, at).ok_or_else(outside)?;
        Ok([low, high])
    }

    pub(in crate::memory_stream) fn merge(
        &mut self,
        a: &ShardId,
        b: &ShardId,
        at: Timestamp,
    ) -> Result<ShardId, ReshardError> {
        let (first, second) = (self.open_range(a)?, self.open_range(b)?);
        let (low, high) = (first.min(second), first.max(second));
        let apart = || ReshardError::NotAdjacent(a.clone(), b.clone());
        if !low.is_followed_by(&high) {
            return Err(apart());
        }
        let whole = HashKeyRange::new(low.start(), high.end()).map_err(|_| apart())?;
        self.close(a, at);
        self.close(b, at);
        self.open_shard(BTreeSet::from([a.clone(), b.clone()]), whole, at)
            .ok_or_else(apart)
    }

    /// Splits and merges until there are `count` open shards of equal size. Returns them in the order of their hash keys.
    pub(in crate::memory_stream) fn reshard_to(
        &mut self,
        count: u32,
        at: Timestamp,
    ) -> Result<Vec<ShardId>, ReshardError> {
        let ranges: Vec<HashKeyRange> = self.open_in_order().into_iter().map(|(range, _)| range).collect();
        for step in plan(&ranges, count) {
            match step {
                Step::SplitAt(key) => {
                    if let Some(holder) = self.holder_of(key) {
                        self.split(&holder, Some(key), at)?;
                    }
                }
                Step::MergeAt(key) => {
                    if let (Some(low), Some(high)) = (self.holder_of(key - 1), self.holder_of(key)) {
                        self.merge(&low, &high, at)?;
                    }
                }
            }
        }
        Ok(self.open_in_order().into_iter().map(|(_, id)| id).collect())
    }

    fn open_in_order(&self) -> Vec<(HashKeyRange, ShardId)> {
        let open = self.shards.iter().filter(|(_, shard)| shard.closed.is_none());
        let mut open: Vec<_> = open.map(|(id, shard)| (shard.hash_range, id.clone())).collect();
        open.sort_by_key(|(range, _)| range.start());
        open
    }

    /// The open shard that holds a hash key.
    pub(super) fn holder_of(&self, key: u128) -> Option<ShardId> {
        let mut open = self.shards.iter().filter(|(_, shard)| shard.closed.is_none());
        open.find(|(_, shard)| shard.hash_range.contains(key))
            .map(|(id, _)| id.clone())
    }
}
