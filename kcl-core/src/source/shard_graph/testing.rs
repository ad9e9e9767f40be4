//! Shards for the tests of this module.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::source::Shard;
use crate::types::{HashKeyRange, SequenceNumber, ShardId, StreamIdentity, Timestamp};

pub(crate) fn id(n: u128) -> ShardId {
    ShardId::new(format!("shardId-{n:012}")).unwrap()
}

/// A closed shard of all hash keys.
pub(crate) fn shard(n: u128, parents: &[u128], sequence: u128) -> Shard {
    Shard {
        id: id(n),
        parents: parents.iter().copied().map(id).collect(),
        hash_range: HashKeyRange::WHOLE,
        starting_sequence: SequenceNumber::from(sequence),
        closed: true,
    }
}

pub(crate) fn identity() -> StreamIdentity {
    StreamIdentity {
        name: "trucks".to_owned(),
        arn: "arn:aws:kinesis:eu-west-1:111122223333:stream/trucks".to_owned(),
        created: Timestamp::from_millis(1_000_000),
    }
}

/// A stream that splits and merges its shards, and forgets old ones.
#[derive(Debug, Clone)]
pub(crate) struct History {
    /// The listed shards, in the order of their creation.
    pub(crate) shards: Vec<Shard>,
    next: u128,
}

impl History {
    /// A stream with this many shards of about the same size.
    pub(crate) fn new(count: u128) -> Self {
        let step = u128::MAX / count;
        let mut history = Self {
            shards: vec![],
            next: 0,
        };
        for n in 0..count {
            let end = if n + 1 == count {
                u128::MAX
            } else {
                step * (n + 1) - 1
            };
            history.put(BTreeSet::new(), HashKeyRange::new(step * n, end).unwrap());
        }
        history
    }

    fn put(&mut self, parents: BTreeSet<ShardId>, hash_range: HashKeyRange) {
        self.shards.push(Shard {
            id: id(self.next),
            parents,
            hash_range,
            // Several shards begin with the same number after a split.
            starting_sequence: SequenceNumber::from(100 + self.next / 2),
            closed: false,
        });
        self.next += 1;
    }

    fn open(&self) -> Vec<Shard> {
        let mut open: Vec<_> = self
            .shards
            .iter()
            .filter(|shard| !shard.closed)
            .cloned()
            .collect();
        open.sort_by_key(|shard| shard.hash_range);
        open
    }

    fn close(&mut self, shard: &ShardId) {
        for listed in &mut self.shards {
            listed.closed |= listed.id == *shard;
        }
    }

    pub(crate) fn split(&mut self, pick: usize) {
        let open = self.open();
        let parent = &open[pick % open.len()];
        if let Some((low, high)) = parent.hash_range.halves() {
            self.close(&parent.id);
            self.put(BTreeSet::from([parent.id.clone()]), low);
            self.put(BTreeSet::from([parent.id.clone()]), high);
        }
    }

    pub(crate) fn merge(&mut self, pick: usize) {
        let open = self.open();
        if open.len() < 2 {
            return;
        }
        let at = pick % (open.len() - 1);
        let (low, high) = (&open[at], &open[at + 1]);
        self.close(&low.id);
        self.close(&high.id);
        let whole = HashKeyRange::new(low.hash_range.start(), high.hash_range.end()).unwrap();
        self.put(BTreeSet::from([low.id.clone(), high.id.clone()]), whole);
    }

    /// Retention takes a closed shard whose parents are gone already: the oldest go first.
    pub(crate) fn trim(&mut self, pick: usize) {
        let listed: BTreeSet<_> = self.shards.iter().map(|shard| shard.id.clone()).collect();
        let old: Vec<_> = self
            .shards
            .iter()
            .filter(|shard| shard.closed && shard.parents.is_disjoint(&listed))
            .map(|shard| shard.id.clone())
            .collect();
        if !old.is_empty() {
            let gone = &old[pick % old.len()];
            self.shards.retain(|shard| shard.id != *gone);
        }
    }
}

/// The listing of a stream after a few splits, merges and trims.
pub(crate) fn any_history() -> impl Strategy<Value = Vec<Shard>> {
    (
        1_u128..5,
        proptest::collection::vec((0_u8..5, any::<usize>()), 0..12),
    )
        .prop_map(|(count, steps)| {
            let mut history = History::new(count);
            for (kind, pick) in steps {
                match kind {
                    0 | 1 => history.split(pick),
                    2 | 3 => history.merge(pick),
                    _ => history.trim(pick),
                }
            }
            history.shards
        })
}
