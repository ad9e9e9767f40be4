//! The fixtures of a model: times, workers, shards.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use kcl_core::clock::Moment;
use kcl_core::internals::{ShardGraph, Timing};
use kcl_core::lease_store::Lease;
use kcl_core::source::{ChildShard, Shard, ShardEnd};
use kcl_core::types::{
    HashKeyRange, Incarnation, LeaseKey, Position, RecordPosition, SequenceNumber, ShardId, WorkerId,
};
use kcl_testkit::invariant::Process;

/// The unit of the abstract time: a renewal is due every one of them.
pub const TICK: Duration = Duration::from_secs(1);
/// The failover time F: three ticks, so that two renewals may be missed.
pub const FAILOVER: Duration = Duration::from_secs(3);

/// How long after a renewal the owner may start batches.
pub static VALID_FOR: LazyLock<Duration> = LazyLock::new(|| Timing::of(FAILOVER).validity);

/// The moment of this tick. All workers of a model share one rate of time; that rates may differ is covered by the
/// property test of `kcl_core::ownership::validity`.
pub fn at(tick: u8) -> Moment {
    Moment::from_origin(TICK * u32::from(tick))
}

/// The shards of a model and how they come from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lineage {
    /// So many open shards that stay.
    Open(u8),
    /// One shard that became two.
    Split,
    /// Two shards that became one.
    Merge,
    /// One shard that became two, which became one again.
    SplitAndMerge,
}

/// One shard of a model.
#[derive(Debug, Clone)]
pub struct Role {
    pub shard: ShardId,
    pub key: LeaseKey,
    pub parents: Vec<usize>,
    pub children: Vec<usize>,
    pub range: HashKeyRange,
}

/// Every name that a model uses, made once.
#[derive(Debug, Clone)]
pub struct Fixtures {
    pub workers: Vec<WorkerId>,
    pub shards: Vec<Role>,
    /// The records of every shard, by their place.
    pub records: Vec<RecordPosition>,
    pub graph: ShardGraph,
    processes: Vec<Vec<Process>>,
}

/// How often a worker may be started again.
const RUNS: u8 = 3;

impl Fixtures {
    pub fn new(workers: u8, lineage: Lineage, records: u8) -> Self {
        let whole = HashKeyRange::WHOLE;
        let (low, high) = whole.halves().expect("more than one key");
        let links: Vec<(Vec<usize>, HashKeyRange)> = match lineage {
            Lineage::Open(1) => vec![(vec![], whole)],
            Lineage::Open(2) => vec![(vec![], low), (vec![], high)],
            Lineage::Open(_) => {
                let (first, second) = low.halves().expect("more than one key");
                vec![(vec![], first), (vec![], second), (vec![], high)]
            }
            Lineage::Split => vec![(vec![], whole), (vec![0], low), (vec![0], high)],
            Lineage::Merge => vec![(vec![], low), (vec![], high), (vec![0, 1], whole)],
            Lineage::SplitAndMerge => {
                vec![
                    (vec![], whole),
                    (vec![0], low),
                    (vec![0], high),
                    (vec![1, 2], whole),
                ]
            }
        };
        let children_of = |parent: usize| {
            let all = links.iter().enumerate();
            let children = all.filter(|(_, (parents, _))| parents.contains(&parent));
            children.map(|(child, _)| child).collect()
        };
        let shards: Vec<Role> = links
            .iter()
            .enumerate()
            .map(|(n, (parents, range))| {
                let shard = ShardId::new(format!("shard-{n}")).expect("a good name");
                Role {
                    key: LeaseKey::single_stream(&shard),
                    shard,
                    parents: parents.clone(),
                    children: children_of(n),
                    range: *range,
                }
            })
            .collect();
        let listed = shards.iter().enumerate().map(|(n, role)| Shard {
            id: role.shard.clone(),
            parents: role
                .parents
                .iter()
                .map(|parent| shards[*parent].shard.clone())
                .collect(),
            hash_range: role.range,
            starting_sequence: SequenceNumber::from(n as u128 * 100 + 1),
            closed: !role.children.is_empty(),
        });
        let graph = ShardGraph::new(listed);
        let name = |worker: u8| format!("worker-{}", worker + 1);
        let runs = |worker: u8| {
            (0..RUNS)
                .map(|run| Arc::from(format!("{} run {run}", name(worker))))
                .collect()
        };
        Self {
            workers: (0..workers)
                .map(|n| WorkerId::new(name(n)).expect("a good name"))
                .collect(),
            records: (1..=u128::from(records))
                .map(|n| RecordPosition::plain(SequenceNumber::from(n)))
                .collect(),
            graph,
            shards,
            processes: (0..workers).map(runs).collect(),
        }
    }

    pub fn worker(&self, id: &WorkerId) -> usize {
        self.workers
            .iter()
            .position(|known| known == id)
            .expect("a worker of the model")
    }

    pub fn shard(&self, key: &LeaseKey) -> usize {
        self.shards
            .iter()
            .position(|role| role.key == *key)
            .expect("a shard of the model")
    }

    /// A run of a worker's process.
    pub fn process(&self, worker: usize, run: u8) -> Process {
        Arc::clone(&self.processes[worker][usize::from(run)])
    }

    pub fn may_run_again(&self, run: u8) -> bool {
        run + 1 < RUNS
    }

    /// The incarnation of a run of a worker's process.
    pub fn incarnation(&self, worker: usize, run: u8) -> Incarnation {
        let mut bytes = [0; 16];
        bytes[0] = u8::try_from(worker).expect("few workers") + 1;
        bytes[1] = run;
        Incarnation::from_random_bytes(bytes)
    }

    /// The lease of a shard that no worker has started.
    pub fn lease(&self, shard: usize) -> Lease {
        let role = &self.shards[shard];
        Lease {
            parents: role
                .parents
                .iter()
                .map(|parent| self.shards[*parent].shard.clone())
                .collect(),
            hash_range: Some(role.range),
            ..Lease::unowned(role.shard.clone(), Position::TrimHorizon)
        }
    }

    /// The answer of the source when the shard is read to its end.
    pub fn end_of(&self, shard: usize) -> ShardEnd {
        let child = |n: &usize| {
            let role = &self.shards[*n];
            ChildShard {
                id: role.shard.clone(),
                parents: role
                    .parents
                    .iter()
                    .map(|parent| self.shards[*parent].shard.clone())
                    .collect(),
                hash_range: role.range,
            }
        };
        ShardEnd {
            children: self.shards[shard].children.iter().map(child).collect(),
        }
    }

    /// How many records of the shard this position covers.
    pub fn covered(&self, position: &Position) -> u8 {
        let covered = self
            .records
            .iter()
            .filter(|record| position.covers(record))
            .count();
        u8::try_from(covered).expect("few records")
    }

    /// The checkpoint after so many records.
    pub fn checkpoint(&self, done: u8) -> Position {
        match done.checked_sub(1) {
            None => Position::TrimHorizon,
            Some(last) => Position::Record(self.records[usize::from(last)].clone()),
        }
    }
}
