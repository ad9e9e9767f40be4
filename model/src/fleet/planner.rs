//! The workers that scan the table: each with its own observer, as if it alone led.

use kcl_core::internals::{Candidate, Hold, TableView, plan_assignment, plan_cleanup};
use kcl_core::lease_store::{Expect, Lease, LeaseChange, Outcome, Scan, WorkerRow};
use kcl_core::types::Timestamp;
use kcl_testkit::invariant::{Observation, Written};

use super::model::Fleet;
use super::state::{Planned, PlannedStep, Planner, Row, Seen, State};
use crate::broken::Broken;
use crate::fixtures::{FAILOVER, TICK, at};
use crate::store;

impl Fleet {
    pub(super) fn new_planner(&self, worker: usize) -> Option<Planner> {
        let me = Candidate {
            id: self.fixtures.workers[worker].clone(),
            max_leases: None,
            max_throughput: None,
            leaving: false,
            proven: true,
        };
        let plans = worker >= usize::from(self.config.workers - self.config.planners);
        plans.then(|| Planner::new(TableView::new(me, FAILOVER, TICK)))
    }

    /// The rows of the workers. One that leaves has deleted its own.
    fn worker_rows(&self, state: &State) -> Vec<WorkerRow> {
        let workers = state
            .workers
            .iter()
            .enumerate()
            .filter(|(_, worker)| !worker.leaving);
        workers
            .map(|(n, worker)| WorkerRow {
                id: self.fixtures.workers[n].clone(),
                incarnation: Some(self.fixtures.incarnation(n, worker.run)),
                touches: u64::from(worker.touches),
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

    pub(super) fn scan(&self, state: &mut State, worker: usize) {
        let now = state.now;
        let leases: Vec<Lease> = state.rows.iter().flatten().map(|row| (**row).clone()).collect();
        let scan = Scan {
            leases: leases.clone(),
            workers: self.worker_rows(state),
            pages: 1,
            ..Scan::default()
        };
        let Some(planner) = &mut state.workers[worker].planner else {
            return;
        };
        planner.scanned = Some(now);
        planner.learn(|observer| observer.look(at(now), scan));
        let mut snapshot = planner.observer.snapshot(1);
        if self.is_broken(Broken::ExpiryWithoutObservation) {
            let held = snapshot
                .leases
                .iter_mut()
                .filter(|lease| lease.hold == Hold::Held);
            held.for_each(|lease| lease.hold = Hold::Expired);
        }
        let mut pending = if self.config.cleanup {
            self.cleanup(&leases)
        } else {
            Vec::new()
        };
        for step in plan_assignment(&snapshot).moves {
            let before = planner
                .observer
                .row(&step.key)
                .expect("a lease of the scan")
                .clone();
            let to = self.fixtures.worker(&step.to);
            let planned = match step.change {
                LeaseChange::Assign { .. } => PlannedStep::Assign(to),
                LeaseChange::BeginHandoff { .. } if state.left.handoffs == 0 => continue,
                LeaseChange::BeginHandoff { .. } => PlannedStep::BeginHandoff(to),
                change => panic!("a plan with a {}", change.verb()),
            };
            let planned = Planned {
                shard: self.fixtures.shard(&step.key),
                step: planned,
                before: Row::new(before),
            };
            assert_eq!(
                self.spell_planned(&planned),
                (step.expect, step.change),
                "the condition is the plan's"
            );
            pending.push(planned);
        }
        let planner = state.workers[worker]
            .planner
            .as_mut()
            .expect("it has just looked");
        planner.pending = pending;
        let plans = state.workers.iter().filter(|worker| {
            worker
                .planner
                .as_ref()
                .is_some_and(|planner| !planner.pending.is_empty())
        });
        if plans.count() > 1 {
            state.saw(Seen::TwoPlans);
        }
    }

    fn cleanup(&self, leases: &[Lease]) -> Vec<Planned> {
        let planned = |lease: &Lease| Planned {
            shard: self.fixtures.shard(&lease.key),
            step: PlannedStep::Delete,
            before: Row::new(lease.clone()),
        };
        if self.is_broken(Broken::DeletesWhatIsUnowned) {
            return leases
                .iter()
                .filter(|lease| lease.owner.is_none())
                .map(planned)
                .collect();
        }
        let deletions = plan_cleanup(&self.fixtures.graph, true, leases);
        let row = |key: &kcl_core::types::LeaseKey| leases.iter().find(|lease| lease.key == *key);
        deletions
            .iter()
            .filter_map(|deletion| row(&deletion.key).map(planned))
            .collect()
    }

    fn spell_planned(&self, planned: &Planned) -> (Expect, LeaseChange) {
        let before = &planned.before;
        let version = Expect::Version(before.version());
        let id = |worker: usize| self.fixtures.workers[worker].clone();
        match planned.step {
            PlannedStep::Assign(to) => (version, LeaseChange::Assign { to: id(to) }),
            PlannedStep::BeginHandoff(to) => {
                let owners = Expect::Owners {
                    owner: before.owner.clone(),
                    checkpoint_owner: before.checkpoint_owner.clone(),
                };
                (owners, LeaseChange::BeginHandoff { to: id(to) })
            }
            PlannedStep::Delete => (version, LeaseChange::Delete),
        }
    }

    pub(super) fn perform(&self, state: &mut State, worker: usize) {
        let run = state.workers[worker].run;
        let Some(planner) = &mut state.workers[worker].planner else {
            return;
        };
        let planned = planner.pending.remove(0);
        if planned.step == PlannedStep::Delete && !self.witnesses_confirm(state, &planned) {
            return;
        }
        if let PlannedStep::BeginHandoff(_) = planned.step {
            match state.left.handoffs.checked_sub(1) {
                Some(left) => state.left.handoffs = left,
                None => return,
            }
        }
        let (expect, change) = self.spell_planned(&planned);
        let incarnation = self.fixtures.incarnation(worker, run);
        let key = &self.fixtures.shards[planned.shard].key;
        let row = state.row(planned.shard).map(|row| &*row.0);
        let Outcome::Applied(after) = store::change(row, key, &expect, &change, incarnation) else {
            return state.saw(Seen::Fenced);
        };
        if planned.step == PlannedStep::Delete {
            state.rows[planned.shard] = None;
            state.saw(Seen::Deleted);
        } else {
            state.rows[planned.shard] = Some(Row::new((*after).clone()));
            let planner = state.workers[worker]
                .planner
                .as_mut()
                .expect("it has just planned");
            planner.learn(|observer| observer.wrote(planned.before.version(), (*after).clone()));
        }
        state.observe(&Observation::Written(Box::new(Written {
            process: self.fixtures.process(worker, run),
            worker: self.fixtures.workers[worker].clone(),
            failover: FAILOVER,
            key: key.clone(),
            expect,
            change,
            incarnation,
            after: *after,
            now: at(state.now),
        })));
    }

    /// Reads again the rows that a deletion rests on.
    fn witnesses_confirm(&self, state: &State, planned: &Planned) -> bool {
        if self.is_broken(Broken::DeletesWhatIsUnowned) {
            return true;
        }
        let leases: Vec<Lease> = state.rows.iter().flatten().map(|row| (**row).clone()).collect();
        let key = &planned.before.key;
        let deletions = plan_cleanup(&self.fixtures.graph, true, &leases);
        let witnesses = deletions
            .iter()
            .find(|deletion| deletion.key == *key)
            .map(|deletion| &deletion.witnesses);
        witnesses.is_some_and(|witnesses| {
            witnesses.iter().all(|witness| {
                let row = state.row(self.fixtures.shard(&witness.key));
                witness.is_confirmed_by(row.map(|row| &**row))
            })
        })
    }
}
