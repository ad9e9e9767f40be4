//! The owners of each lease and each shard, one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::invariant::{Observation, Process};
use kcl_core::clock::Moment;
use kcl_core::lease_store::LeaseChange;
use kcl_core::processor::FencingToken;
use kcl_core::types::{LeaseKey, WorkerId};

/// One change of a lease's owner, according to the table. A lease that comes back to the worker that had it has not moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseMove {
    /// The lease.
    pub lease: LeaseKey,
    /// The worker that had it before.
    pub from: WorkerId,
    /// The worker that has it now.
    pub to: WorkerId,
    /// When the store accepted that, by the true time.
    pub at: Moment,
}

/// A shard that went on at another worker: the records stopped at one and flowed again at the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// The shard.
    pub shard: LeaseKey,
    /// The run of the member that was busy with it before; from a member's second run on with its number.
    pub from: String,
    /// The run of the member that is busy with it now.
    pub to: String,
    /// When the first last began, finished or gave up a batch, by the true time.
    pub last: Moment,
    /// When the second began its first batch, by the true time.
    pub first: Moment,
}

impl Handover {
    /// How long nobody worked on the shard.
    pub fn gap(&self) -> Duration {
        self.first.saturating_since(self.last)
    }
}

/// An owner that still did something with a shard after the next had started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The shard.
    pub shard: LeaseKey,
    /// The run of the member that was late; from a member's second run on with its number.
    pub late: String,
    /// Whether that run was ever frozen.
    pub paused: bool,
    /// Whether it began a batch so late, and did not only finish one that was under way.
    pub began: bool,
    /// The time from the next owner's first batch to its own last action.
    pub time: Duration,
}

#[derive(Debug, Default)]
pub(super) struct History {
    paused: BTreeSet<Process>,
    /// The largest token under which a batch was started, and when the first one was.
    newest: BTreeMap<LeaseKey, (FencingToken, Moment)>,
    /// Under which token each process began its last batch of each shard.
    working: BTreeMap<(LeaseKey, Process), FencingToken>,
    overlaps: BTreeMap<(LeaseKey, Process, FencingToken), Overlap>,
    /// The process that did the last thing with a batch of each shard, and when.
    busy: BTreeMap<LeaseKey, (Process, Moment)>,
    owners: BTreeMap<LeaseKey, WorkerId>,
    pub(super) moves: Vec<LeaseMove>,
    pub(super) handovers: Vec<Handover>,
}

impl History {
    pub(super) fn observe(&mut self, observation: &Observation, now: Moment) {
        match observation {
            Observation::BatchStarted {
                process,
                shard,
                token,
                ..
            }
            | Observation::CallStarted {
                process,
                shard,
                token,
                ..
            } => {
                self.started(process, shard, now);
                let newest = self.newest.entry(shard.clone()).or_insert((*token, now));
                if newest.0 < *token {
                    *newest = (*token, now);
                }
                self.working
                    .insert((shard.clone(), Process::clone(process)), *token);
                self.overlap(process, shard, now, true);
            }
            Observation::Paused { process } => {
                self.paused.insert(Process::clone(process));
            }
            Observation::BatchFinished { process, shard, .. }
            | Observation::BatchReturned { process, shard, .. }
            | Observation::BatchFailed { process, shard, .. }
            | Observation::CallEnded { process, shard, .. } => {
                self.overlap(process, shard, now, false);
                if let Some((busy, last)) = self.busy.get_mut(shard)
                    && busy == process
                {
                    *last = now;
                }
            }
            Observation::Written(written) if written.change != LeaseChange::Delete => {
                if let Some(owner) = written.after.actual_owner() {
                    self.owned(&written.key, owner, now);
                }
            }
            Observation::Written(_)
            | Observation::Removed { .. }
            | Observation::LockWritten { .. }
            | Observation::ShardOpened { .. }
            | Observation::ShardForgotten { .. }
            | Observation::Put { .. }
            | Observation::Trimmed { .. }
            | Observation::Checkpointed { .. }
            | Observation::PendingCommitted { .. }
            | Observation::SetAside { .. }
            | Observation::Started { .. }
            | Observation::GapTold { .. } => {}
        }
    }

    pub(super) fn busy_with(&self, shard: &LeaseKey) -> Option<&Process> {
        self.busy.get(shard).map(|(process, _)| process)
    }

    fn started(&mut self, process: &Process, shard: &LeaseKey, now: Moment) {
        let before = self.busy.insert(shard.clone(), (Process::clone(process), now));
        if let Some((from, last)) = before
            && from != *process
        {
            self.handovers.push(Handover {
                shard: shard.clone(),
                from: from.to_string(),
                to: process.to_string(),
                last,
                first: now,
            });
        }
    }

    /// Takes note if the process works on the shard under a token that is no longer the newest.
    fn overlap(&mut self, process: &Process, shard: &LeaseKey, now: Moment, began: bool) {
        let place = (shard.clone(), Process::clone(process));
        let (Some(token), Some((newest, since))) = (self.working.get(&place), self.newest.get(shard)) else {
            return;
        };
        if token >= newest {
            return;
        }
        let paused = self.paused.contains(process);
        let known = self.overlaps.entry((place.0, place.1, *token));
        let overlap = known.or_insert_with(|| Overlap {
            shard: shard.clone(),
            late: process.to_string(),
            paused,
            began,
            time: Duration::ZERO,
        });
        overlap.began |= began;
        overlap.time = overlap.time.max(now.saturating_since(*since));
    }

    pub(super) fn overlaps(&self) -> Vec<Overlap> {
        self.overlaps.values().cloned().collect()
    }

    fn owned(&mut self, lease: &LeaseKey, owner: &WorkerId, now: Moment) {
        if self.owners.get(lease) == Some(owner) {
            return;
        }
        if let Some(from) = self.owners.insert(lease.clone(), owner.clone()) {
            self.moves.push(LeaseMove {
                lease: lease.clone(),
                from,
                to: owner.clone(),
                at: now,
            });
        }
    }
}
