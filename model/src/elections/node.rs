//! One worker of the model, with the core's views of the lock and of the table.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use kcl_core::clock::{Moment, Rng};
use kcl_core::internals::{
    Candidate, ElectionAction, LeaderElection, TableView, pick_standby, plan_assignment, plan_overdue,
    plan_placement,
};
use kcl_core::lease_store::{Lease, LockExpect, LockOutcome, Outcome, Scan, WorkerRow};
use kcl_core::types::{Timestamp, WorkerId};

use super::{Elections, FAILOVER, Fate, POLL, State};
use crate::broken::Broken;
use crate::fixtures::{TICK, at};
use crate::fleet::{Row, fingerprint};
use crate::store;

/// One worker.
#[derive(Clone)]
pub struct Node {
    pub(super) life: Life,
    /// Since when it does not run.
    pub(super) out_since: Option<u8>,
    pub(super) touches: u8,
    pub(super) looked: Option<u8>,
    pub(super) scanned: Option<u8>,
    pub(super) election: Viewed<LeaderElection>,
    /// Its knowledge of the table, for as long as it is its part to scan.
    observer: Option<Viewed<TableView>>,
    standby: Option<WorkerId>,
    /// How many versions of the lock it has made.
    versions: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Life {
    Up,
    Frozen,
    Down,
}

/// The role of a worker in the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Leader,
    StandIn,
    Standby,
    Follower,
}

/// A view of the core's, compared by all that it shows of itself.
#[derive(Clone)]
pub(super) struct Viewed<T> {
    value: Arc<T>,
    print: u64,
}

impl<T: Clone + fmt::Debug> Viewed<T> {
    fn new(value: T) -> Self {
        let print = fingerprint(&value);
        Self {
            value: Arc::new(value),
            print,
        }
    }

    fn learn<R>(&mut self, how: impl FnOnce(&mut T) -> R) -> R {
        let learnt = how(Arc::make_mut(&mut self.value));
        self.print = fingerprint(&self.value);
        learnt
    }
}

impl Node {
    pub(super) fn new(me: &WorkerId) -> Self {
        Self {
            life: Life::Up,
            out_since: None,
            touches: 0,
            looked: None,
            scanned: None,
            election: Viewed::new(LeaderElection::new(me.clone(), FAILOVER, POLL)),
            observer: None,
            standby: None,
            versions: 0,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.life == Life::Up
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.life == Life::Frozen
    }

    pub(super) fn goes(&mut self, life: Life, now: u8) {
        self.life = life;
        self.out_since = Some(now);
    }

    pub(super) fn thaws(&mut self) {
        self.life = Life::Up;
        self.out_since = None;
    }

    pub(super) fn leads(&self, now: Moment) -> bool {
        self.election.value.leads(now)
    }

    fn parts(&self) -> impl PartialEq + Hash + '_ {
        let views = (
            self.election.print,
            self.observer.as_ref().map(|observer| observer.print),
        );
        let duties = (self.touches, self.looked, self.scanned, self.versions);
        (self.life, self.out_since, views, duties, &self.standby)
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Hash for Node {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.parts().hash(hasher);
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("life", &self.life)
            .field("leads_until", &self.election.value.leads_until())
            .field("is_standby", &self.election.value.is_standby())
            .field("scanned", &self.scanned)
            .finish_non_exhaustive()
    }
}

impl Elections {
    pub(super) fn role(&self, state: &State, n: usize) -> Role {
        let election = &state.nodes[n].election.value;
        if self.leads(state, n) {
            Role::Leader
        } else if self.is_broken(Broken::NoStandby) {
            Role::Follower
        } else if election.stands_in() {
            Role::StandIn
        } else if election.is_standby() {
            Role::Standby
        } else {
            Role::Follower
        }
    }

    pub(super) fn leads(&self, state: &State, n: usize) -> bool {
        let node = &state.nodes[n];
        if self.is_broken(Broken::LeadsForEver) {
            return node.election.value.leads_until().is_some();
        }
        node.leads(at(state.now))
    }

    /// Looks at the lock, and does what the election asks for.
    pub(super) fn looks(&self, state: &mut State, n: usize, fate: Fate) {
        let now = at(state.now);
        let lock = state.lock.clone();
        let node = &mut state.nodes[n];
        node.looked = Some(state.now);
        node.versions += 1;
        let seed = u64::from(node.versions) * 16 + n as u64;
        let standby = node.standby.clone();
        let step = node.election.learn(|election| {
            election.look(now, lock);
            let mut step = election.step(now, standby.as_ref(), &mut Rng::from_seed(seed));
            if self.is_broken(Broken::TakesTheLockAtOnce)
                && step == ElectionAction::Follow
                && let Some(lock) = election.lock().cloned()
            {
                let version = format!("stolen at {now:?} by {n}");
                let owner = self.fixtures.workers[n].clone();
                let expect = LockExpect::Version {
                    version: lock.version.clone(),
                    owner: lock.owner.clone(),
                };
                step = ElectionAction::Take {
                    expect,
                    row: kcl_core::lease_store::LeaderLock {
                        owner,
                        version,
                        ..lock
                    },
                };
            }
            match &step {
                ElectionAction::Heartbeat { row, .. } | ElectionAction::Take { row, .. } => {
                    election.sending(now, row)
                }
                ElectionAction::StepDown => {
                    election.step_down(now);
                }
                ElectionAction::Lead | ElectionAction::Follow => {}
            }
            step
        });
        let (ElectionAction::Heartbeat { expect, row } | ElectionAction::Take { expect, row }) = step else {
            return;
        };
        match fate {
            Fate::Prompt => {
                let outcome = self.write_lock(state, &expect, &row);
                state.nodes[n].election.learn(|election| match outcome {
                    LockOutcome::Applied => election.written(row),
                    LockOutcome::Refused => election.refused(&row.version),
                });
            }
            Fate::LostReply => {
                state.left.lost -= 1;
                self.write_lock(state, &expect, &row);
            }
            Fate::Hangs => {
                state.left.late -= 1;
                state.network.push((expect, row));
            }
        }
    }

    /// One round of the half that scans: looks, chooses the standby, plans and performs.
    pub(super) fn scans(&self, state: &mut State, n: usize) {
        state.nodes[n].scanned = Some(state.now);
        let role = self.role(state, n);
        if role == Role::Follower {
            state.nodes[n].observer = None;
            state.nodes[n].standby = None;
            return;
        }
        let scan = Scan {
            leases: state.rows.iter().map(|row| (**row).clone()).collect(),
            workers: self.worker_rows(state),
            pages: 1,
            ..Scan::default()
        };
        let me = &self.fixtures.workers[n];
        let now = at(state.now);
        let node = &mut state.nodes[n];
        let observer = node.observer.get_or_insert_with(|| {
            let me = Candidate {
                id: me.clone(),
                max_leases: None,
                max_throughput: None,
                leaving: false,
                proven: true,
            };
            Viewed::new(TableView::new(me, FAILOVER, TICK))
        });
        observer.learn(|observer| observer.look(now, scan));
        let view = Arc::clone(&observer.value);
        let mut candidates = view.candidates();
        let leader = node.election.value.lock().map(|lock| lock.owner.clone());
        candidates.retain(|candidate| Some(&candidate.id) != leader.as_ref());
        node.standby = pick_standby(&candidates, me, node.standby.as_ref());

        let snapshot = view.snapshot(1);
        let plan = match role {
            Role::Leader => plan_assignment(&snapshot),
            Role::StandIn => plan_placement(&snapshot),
            Role::Standby => plan_overdue(&snapshot, |key| view.is_overdue(key, TICK / 2)),
            Role::Follower => return,
        };
        for step in plan.moves {
            let shard = self.fixtures.shard(&step.key);
            let row = &state.rows[shard];
            let incarnation = self.fixtures.incarnation(n, 0);
            let outcome = store::change(Some(&**row), &step.key, &step.expect, &step.change, incarnation);
            if let Outcome::Applied(after) = outcome {
                state.rows[shard] = Row::new((*after).clone());
                state.seen.reassigned = true;
                state.seen.stood_in |= role == Role::StandIn;
                let before = view.row(&step.key).map(Lease::version);
                if let (Some(observer), Some(before)) = (&mut state.nodes[n].observer, before) {
                    observer.learn(|observer| observer.wrote(before, *after));
                }
            }
        }
    }

    fn worker_rows(&self, state: &State) -> Vec<WorkerRow> {
        let nodes = state.nodes.iter().enumerate();
        nodes
            .map(|(n, node)| WorkerRow {
                id: self.fixtures.workers[n].clone(),
                incarnation: Some(self.fixtures.incarnation(n, 0)),
                touches: u64::from(node.touches),
                failover: Some(FAILOVER),
                max_leases: None,
                max_throughput: None,
                updated: Timestamp::from_millis(0),
            })
            .collect()
    }
}
