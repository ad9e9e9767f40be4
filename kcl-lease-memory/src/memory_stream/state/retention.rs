//! Trims records that are older than the retention.

use std::time::Duration;

use kcl_core::types::{ShardId, Timestamp};

use super::{ShardState, State};
use crate::memory_stream::Trim;

impl State {
    pub(in crate::memory_stream) fn trim(&mut self, trim: &Trim) -> usize {
        let mut removed = 0;
        for (id, shard) in &mut self.shards {
            let records = &shard.records;
            let doomed = match trim {
                Trim::ArrivedBefore(time) => records.partition_point(|(_, arrived, _)| arrived < time),
                Trim::KeepLast(keep) => records.len().saturating_sub(*keep),
                Trim::Through(only, last) if only == id => {
                    records.partition_point(|(_, _, record)| record.sequence_number() <= last)
                }
                Trim::Through(..) => 0,
            };
            shard.trim(doomed);
            removed += doomed;
        }
        removed
    }

    /// Does what the retention of the stream asks for at this time: old records go, and the closed shards that hold none.
    pub(in crate::memory_stream) fn expire(&mut self, now: Timestamp) {
        let Some(retention) = self.settings.retention else {
            return;
        };
        let horizon = horizon(now, retention);
        for shard in self.shards.values_mut() {
            shard.expire(horizon);
        }
    }

    pub(in crate::memory_stream) fn forget_closed_shards(&mut self) -> Vec<ShardId> {
        self.shards
            .iter_mut()
            .filter(|(_, shard)| !shard.forgotten && shard.closed.is_some() && shard.records.is_empty())
            .map(|(id, shard)| {
                shard.forgotten = true;
                id.clone()
            })
            .collect()
    }
}

/// The time before which nothing is kept.
fn horizon(now: Timestamp, retention: Duration) -> Timestamp {
    now.minus(retention)
}

impl ShardState {
    /// Lets retention take the oldest records.
    fn trim(&mut self, records: usize) {
        let last = self.records.drain(..records).next_back();
        self.trimmed = last.map(|(tick, ..)| tick).or(self.trimmed);
    }

    fn expire(&mut self, horizon: Timestamp) {
        let doomed = self.records.partition_point(|(_, arrived, _)| *arrived < horizon);
        self.trim(doomed);
        if self.closed.is_some_and(|(_, closed)| closed < horizon) && self.records.is_empty() {
            self.forgotten = true;
        }
    }
}
