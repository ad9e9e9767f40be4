//! The turns of a worker in the elections: it looks at the lock, and it scans.

use std::sync::Arc;

use kcl_core::clock::Rng;
use kcl_core::internals::{
    Candidate, ElectionAction, TableView, pick_standby, plan_assignment, plan_overdue, plan_placement,
};
use kcl_core::lease_store::{
    LeaderLock, Lease, LockChange, LockExpect, LockOutcome, Outcome, Scan, WorkerRow,
};
use kcl_core::types::Timestamp;

use super::config::{ElectionsConfig, FAILOVER};
use super::node::{NodeRole, Viewed};
use super::state::ElectionsState;
use crate::broken::Broken;
use crate::fixtures::{Fixtures, Lineage, TICK, at};
use crate::fleet::Row;
use crate::store;

/// The model of the elections.
#[derive(Debug, Clone)]
pub struct Elections {
    pub fixtures: Fixtures,
    pub config: ElectionsConfig,
}

/// How a write of the lock fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockFate {
    Prompt,
    LostReply,
    Hangs,
}

impl Elections {
    pub fn new(config: ElectionsConfig) -> Self {
        let fixtures = Fixtures::new(config.workers, Lineage::Open(config.workers), 1);
        Self { fixtures, config }
    }

    fn is_broken(&self, how: Broken) -> bool {
        self.config.broken == Some(how)
    }

    pub fn is_over(&self, state: &ElectionsState) -> bool {
        state.now >= self.config.quiet + self.config.window + self.config.calm
    }

    pub(super) fn write_lock(
        &self,
        state: &mut ElectionsState,
        expect: &LockExpect,
        row: &LeaderLock,
    ) -> LockOutcome {
        let former = state.lock.as_ref().map(|lock| lock.owner.clone());
        let change = LockChange::Hold(row.clone());
        let (outcome, lock) = store::change_lock(state.lock.as_ref(), expect, &change);
        state.lock = lock;
        state.seen.succeeded |=
            outcome == LockOutcome::Applied && former.is_some_and(|former| former != row.owner);
        outcome
    }

    pub(super) fn role(&self, state: &ElectionsState, n: usize) -> NodeRole {
        let election = &state.nodes[n].election.value;
        if self.leads(state, n) {
            NodeRole::Leader
        } else if self.is_broken(Broken::NoStandby) {
            NodeRole::Follower
        } else if election.stands_in() {
            NodeRole::StandIn
        } else if election.is_standby() {
            NodeRole::Standby
        } else {
            NodeRole::Follower
        }
    }

    pub(super) fn leads(&self, state: &ElectionsState, n: usize) -> bool {
        let node = &state.nodes[n];
        if self.is_broken(Broken::LeadsForEver) {
            return node.election.value.leads_until().is_some();
        }
        node.leads(at(state.now))
    }

    /// Looks at the lock, and does what the election asks for.
    pub(super) fn looks(&self, state: &mut ElectionsState, n: usize, fate: LockFate) {
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
                    row: LeaderLock {
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
            LockFate::Prompt => {
                let outcome = self.write_lock(state, &expect, &row);
                state.nodes[n].election.learn(|election| match outcome {
                    LockOutcome::Applied => election.written(row),
                    LockOutcome::Refused => election.refused(&row.version),
                });
            }
            LockFate::LostReply => {
                state.left.lost -= 1;
                self.write_lock(state, &expect, &row);
            }
            LockFate::Hangs => {
                state.left.late -= 1;
                state.network.push((expect, row));
            }
        }
    }

    /// One round of the half that scans: looks, chooses the standby, plans and performs.
    pub(super) fn scans(&self, state: &mut ElectionsState, n: usize) {
        state.nodes[n].scanned = Some(state.now);
        let role = self.role(state, n);
        if role == NodeRole::Follower {
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
            NodeRole::Leader => plan_assignment(&snapshot),
            NodeRole::StandIn => plan_placement(&snapshot),
            NodeRole::Standby => plan_overdue(&snapshot, |key| view.is_overdue(key, TICK / 2)),
            NodeRole::Follower => return,
        };
        for step in plan.moves {
            let shard = self.fixtures.shard(&step.key);
            let row = &state.rows[shard];
            let incarnation = self.fixtures.incarnation(n, 0);
            let outcome = store::change(Some(&**row), &step.key, &step.expect, &step.change, incarnation);
            if let Outcome::Applied(after) = outcome {
                state.rows[shard] = Row::new((*after).clone());
                state.seen.reassigned = true;
                state.seen.stood_in |= role == NodeRole::StandIn;
                let before = view.row(&step.key).map(Lease::version);
                if let (Some(observer), Some(before)) = (&mut state.nodes[n].observer, before) {
                    observer.learn(|observer| observer.wrote(before, *after));
                }
            }
        }
    }

    fn worker_rows(&self, state: &ElectionsState) -> Vec<WorkerRow> {
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
                started: None,
                version: None,
                orders: None,
            })
            .collect()
    }
}
