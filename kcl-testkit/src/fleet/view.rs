use std::collections::{BTreeMap, BTreeSet};

#[cfg(doc)]
use crate::invariant::Checker;
use crate::invariant::{Held, Tally};
use kcl_core::lease_store::{LeaderLock, Lease};
use kcl_core::processor::FencingToken;
use kcl_core::status::WorkerStatus;
use kcl_core::types::{LeaseKey, ShardId, WorkerId};

use super::Fleet;
use super::history::{Handover, History, LeaseMove, Overlap};

/// The state of a fleet at one moment, as seen from outside and at once.
#[derive(Debug)]
pub struct View<'a> {
    pub(super) fleet: &'a Fleet,
}

impl View<'_> {
    /// The counts of the oracle.
    pub fn tally(&self) -> Tally {
        self.fleet.oracle().ask(|checker| checker.tally())
    }

    /// The rows of the lease table.
    pub fn leases(&self) -> Vec<Lease> {
        self.fleet
            .oracle()
            .ask(|checker| checker.rows().cloned().collect())
    }

    /// The shards that are not ended, and the worker that processes each according to the table.
    pub fn owners(&self) -> BTreeMap<ShardId, Option<WorkerId>> {
        let leases = self.leases().into_iter().filter(|lease| !lease.is_ended());
        leases
            .map(|lease| (lease.shard.clone(), lease.actual_owner().cloned()))
            .collect()
    }

    /// The member's own status; `None` once a caller waits for its end.
    pub fn status(&self, name: &str) -> Option<WorkerStatus> {
        self.fleet.status(name)
    }

    /// The living members by name, and what each says of itself.
    pub fn living(&self) -> BTreeMap<String, WorkerStatus> {
        self.fleet.living()
    }

    /// The leases that the member holds; none when it does not live.
    pub fn held(&self, name: &str) -> BTreeSet<LeaseKey> {
        let status = self.fleet.living().remove(name);
        status.map_or_else(BTreeSet::new, |status| status.leases.into_keys().collect())
    }

    /// The leases that each living member holds, by the id of its worker.
    pub fn holders(&self) -> Held {
        let living = self.fleet.living().into_values();
        living
            .map(|status| (status.worker, status.leases.into_keys().collect()))
            .collect()
    }

    /// Returns the shards that should have a lease by now and have none, as [`Checker::lacking`] does.
    pub fn lacking(&self) -> Vec<LeaseKey> {
        self.fleet
            .oracle()
            .ask(|checker| checker.lacking().cloned().collect())
    }

    /// The leader lock, as the last accepted change left it.
    pub fn lock(&self) -> Option<LeaderLock> {
        self.fleet.oracle().ask(|checker| checker.lock().cloned())
    }

    /// The tokens under which the member holds its leases.
    pub fn tokens(&self, name: &str) -> BTreeMap<LeaseKey, FencingToken> {
        let status = self.fleet.living().remove(name);
        let leases = status.into_iter().flat_map(|status| status.leases);
        leases.map(|(key, lease)| (key, lease.token)).collect()
    }

    /// The run of a member that started the last batch of the shard: the member's name, and from the second run on its number.
    pub fn busy_with(&self, shard: &LeaseKey) -> Option<String> {
        self.fleet
            .oracle()
            .recall(|history| history.busy_with(shard).map(ToString::to_string))
    }

    /// Every change of a lease's owner so far, in order.
    pub fn moves(&self) -> Vec<LeaseMove> {
        self.fleet.oracle().recall(|history| history.moves.clone())
    }

    /// Every time that a shard went on at another worker so far, in order.
    pub fn handovers(&self) -> Vec<Handover> {
        self.fleet.oracle().recall(|history| history.handovers.clone())
    }

    /// Returns every owner so far that still did something with a shard after the next had started.
    pub fn overlaps(&self) -> Vec<Overlap> {
        self.fleet.oracle().recall(History::overlaps)
    }

    /// The living member that leads; the first of them while two believe so.
    pub fn leader(&self) -> Option<String> {
        self.leaders().into_iter().next()
    }

    /// The living members that believe to lead. One that was replaced without knowing, since it was frozen or cut off, believes so
    /// for a while.
    pub fn leaders(&self) -> Vec<String> {
        let living = self.fleet.living().into_iter();
        let leaders = living.filter(|(_, status)| status.is_leader);
        leaders.map(|(name, _)| name).collect()
    }

    /// The state of the table and of the living members, for a person to read.
    pub(super) fn describe(&self) -> String {
        let mut lines = vec!["the lease table:".to_owned()];
        lines.extend(self.leases().into_iter().map(|lease| {
            let (key, version, checkpoint) = (&lease.key, lease.version(), &lease.checkpoint);
            format!("  {key} {version:?} checkpoint {checkpoint}")
        }));
        lines.extend(self.fleet.oracle().ask(|checker| {
            let unfinished = checker.unfinished();
            unfinished
                .map(|(key, first)| format!("  {key} is not finished from {first}"))
                .collect::<Vec<_>>()
        }));
        lines.push("the living members:".to_owned());
        for (name, status) in self.fleet.living() {
            lines.push(format!("  {name} {:?} leads {}", status.phase, status.is_leader));
            lines.extend(status.leases.into_iter().map(|(key, lease)| {
                let (state, waiting, trouble) = (lease.state, lease.waiting, lease.trouble);
                format!(
                    "    {key} {state} waiting {waiting:?} trouble {trouble:?} failures {}",
                    lease.failures
                )
            }));
        }
        lines.join("\n")
    }

    /// Whether everything that was put is processed and checkpointed, every closed shard is ended or cleaned up, and every other
    /// one is held by a living member.
    pub fn is_settled(&self) -> bool {
        if self
            .fleet
            .oracle()
            .ask(|checker| checker.unfinished().next().is_some())
        {
            return false;
        }
        let waits_for_answer = |lease: &Lease| lease.is_unanswered() && !lease.is_ended();
        if self.leases().iter().any(waits_for_answer) {
            return false;
        }
        let holders: BTreeMap<LeaseKey, WorkerId> = self
            .fleet
            .living()
            .into_values()
            .flat_map(|status| {
                let worker = status.worker;
                status.leases.into_keys().map(move |key| (key, worker.clone()))
            })
            .collect();
        let rows: BTreeMap<ShardId, Lease> = self
            .leases()
            .into_iter()
            .map(|lease| (lease.shard.clone(), lease))
            .collect();
        self.fleet
            .stream()
            .shards_snapshot()
            .into_iter()
            .filter(|shard| !shard.forgotten)
            .all(|shard| {
                let row = rows.get(&shard.shard.id);
                if shard.shard.closed {
                    // What is finished may be cleaned up; whether it is finished was asked above.
                    return row.is_none_or(Lease::is_ended);
                }
                row.is_some_and(|row| {
                    let stored = self.fleet.oracle().ask(|checker| {
                        let last = checker.last_put(&row.key);
                        last.is_none_or(|last| row.checkpoint.covers(last))
                    });
                    let held = holders
                        .get(&row.key)
                        .is_some_and(|holder| row.owner.as_ref() == Some(holder));
                    stored && held && !row.is_in_handoff()
                })
            })
    }
}
