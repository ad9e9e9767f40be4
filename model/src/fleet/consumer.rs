//! Actions of a worker of its own accord.

use std::collections::BTreeSet;

use kcl_core::internals::{
    ChildPlan, ConsumerEvent, LeaseValidity, ShardFamily, Validity, judge_validity, plan_children,
};
use kcl_core::lease_store::Lease;
use kcl_core::processor::FencingToken;
use kcl_core::status::ConsumerState;
use kcl_testkit::invariant::Observation;

use super::model::{Fate, Fleet, HANDOFF_TIMEOUT, until};
use super::state::{Change, Own, Seen, State, Write};
use crate::broken::Broken;
use crate::fixtures::{VALID_FOR, at};

/// A step of a worker; most are about one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Renews for the first time a lease that names it, or gives it back if it leaves.
    TakeUp(usize),
    /// The parents are finished: the processor starts.
    Begin(usize),
    /// Hands the next record to the processor.
    Start(usize),
    /// The processor is done with it.
    Finish(usize),
    /// Renews, or stores what is finished.
    Keep(usize),
    /// Stops processing, because the lease is to be given up.
    Drain(usize),
    /// Stores the last checkpoint, then gives the lease up.
    GiveUp(usize),
    /// The last record of the shard is finished.
    Exhaust(usize),
    /// Creates the lease of the next child, or stores the end when all have one.
    StoreEnd(usize),
    /// A callback still runs: the handoff is declined.
    Decline(usize),
    /// Scans the table and plans.
    Scan,
    /// Does the next thing that it has planned.
    Perform,
}

impl Step {
    fn needs_no_store(self) -> bool {
        matches!(
            self,
            Self::Start(_) | Self::Finish(_) | Self::Drain(_) | Self::Exhaust(_)
        )
    }

    /// Whether it is a write of the worker's own, which may fare badly.
    pub(super) fn writes(self) -> bool {
        matches!(
            self,
            Self::TakeUp(_) | Self::Keep(_) | Self::GiveUp(_) | Self::StoreEnd(_) | Self::Decline(_)
        )
    }
}

impl Fleet {
    /// The steps that a worker may take now, and whether each must be taken before time goes on.
    pub(super) fn steps(&self, state: &State, worker: usize) -> Vec<(Step, bool)> {
        let mut steps = Vec::new();
        let known = &state.workers[worker];
        for (slot, lease) in known.slots.iter().enumerate() {
            if lease.call.is_some() {
                continue;
            }
            match &lease.own {
                None if self.is_named(state, worker, slot) => steps.push((Step::TakeUp(slot), true)),
                None => {}
                Some(own) => self.steps_of_owner(state, worker, slot, own, &mut steps),
            }
        }
        if let Some(planner) = &known.planner {
            if !planner.pending.is_empty() {
                steps.push((Step::Perform, true));
            } else if planner.scanned != Some(state.now) {
                steps.push((Step::Scan, true));
            }
        }
        if known.cut_off {
            steps.retain(|(step, _)| step.needs_no_store());
        }
        steps
    }

    fn is_named(&self, state: &State, worker: usize, slot: usize) -> bool {
        let me = Some(&self.fixtures.workers[worker]);
        let hasty = self.is_broken(Broken::NextOwnerDoesNotWait);
        state.row(slot).is_some_and(|row| {
            !row.is_ended() && (row.actual_owner() == me || (hasty && row.owner.as_ref() == me))
        })
    }

    fn steps_of_owner(
        &self,
        state: &State,
        worker: usize,
        slot: usize,
        own: &Own,
        steps: &mut Vec<(Step, bool)>,
    ) {
        let gives_up = own.asked.is_some() || state.workers[worker].leaving;
        if let Some(started) = own.started {
            steps.push((Step::Finish(slot), started < state.now));
            let waited = own
                .asked
                .is_some_and(|asked| state.now >= asked + HANDOFF_TIMEOUT);
            if waited && !own.refused && own.row.is_in_handoff() && !state.workers[worker].leaving {
                steps.push((Step::Decline(slot), false));
            }
        }
        if own.refused {
            return;
        }
        if self.may_start(state, worker, slot) {
            steps.push((Step::Start(slot), false));
        }
        match own.state {
            ConsumerState::AwaitingParents if gives_up => steps.push((Step::Drain(slot), true)),
            ConsumerState::AwaitingParents if self.parents_are_finished(state, slot) => {
                steps.push((Step::Begin(slot), true));
            }
            ConsumerState::Running if own.started.is_none() && gives_up => {
                steps.push((Step::Drain(slot), true));
            }
            ConsumerState::Running if own.started.is_none() && self.is_exhausted(slot, own) => {
                steps.push((Step::Exhaust(slot), true));
            }
            ConsumerState::StoringEnd => steps.push((Step::StoreEnd(slot), true)),
            ConsumerState::Leaving => steps.push((Step::GiveUp(slot), true)),
            _ => {}
        }
        let is_due = state.now > own.renewed;
        if is_due || self.unstored(own).is_some() {
            steps.push((Step::Keep(slot), is_due));
        }
    }

    fn is_exhausted(&self, slot: usize, own: &Own) -> bool {
        own.done >= self.config.records && !self.fixtures.shards[slot].children.is_empty()
    }

    fn parents_are_finished(&self, state: &State, slot: usize) -> bool {
        let mut parents = self.fixtures.shards[slot].parents.iter();
        self.is_broken(Broken::NoParentWait)
            || parents.all(|parent| Lease::is_finished(state.row(*parent).map(|row| &**row)))
    }

    /// The position that is finished and not stored.
    fn unstored(&self, own: &Own) -> Option<u8> {
        let mut done = own.done;
        if self.is_broken(Broken::CheckpointBeforeFinish) && own.started.is_some() {
            done += 1;
        }
        (done > self.fixtures.covered(&own.row.checkpoint)).then_some(done)
    }

    /// Whether the worker may decide to start a batch.
    pub(super) fn may_start(&self, state: &State, worker: usize, slot: usize) -> bool {
        let known = &state.workers[worker];
        let Some(own) = &known.slots[slot].own else {
            return false;
        };
        let belief = LeaseValidity {
            renewed: at(own.renewed),
            refused: own.refused,
        };
        let verdict = judge_validity(belief, at(state.now), *VALID_FOR);
        own.state == ConsumerState::Running
            && own.started.is_none()
            && own.asked.is_none()
            && !known.leaving
            && own.done < self.config.records
            && match verdict {
                Validity::GoOn { .. } => true,
                Validity::Suspended => self.is_broken(Broken::NoDeadline),
                Validity::Lost => false,
            }
    }

    pub(super) fn step(&self, state: &mut State, worker: usize, step: Step, fate: Fate) {
        match step {
            Step::TakeUp(slot) => self.take_up(state, worker, slot, fate),
            Step::Begin(slot) => {
                self.follow(
                    state,
                    worker,
                    slot,
                    &[ConsumerEvent::ParentsFinished, ConsumerEvent::CallReturned],
                );
                self.started(state, worker, slot);
            }
            Step::Start(slot) => self.start_batch(state, worker, slot, state.now),
            Step::Finish(slot) => self.finish_batch(state, worker, slot),
            Step::Keep(slot) => self.write(state, worker, slot, fate, |own| {
                self.unstored(own).map_or(Change::Renew, Change::Checkpoint)
            }),
            Step::Drain(slot) => self.drain(state, worker, slot),
            Step::GiveUp(slot) => self.write(state, worker, slot, fate, |own| {
                let unstored = self
                    .unstored(own)
                    .filter(|_| !self.is_broken(Broken::HandsOverWithoutCheckpoint));
                match (unstored, own.row.is_in_handoff()) {
                    (Some(done), _) => Change::Checkpoint(done),
                    (None, true) => Change::Complete,
                    (None, false) => Change::Release,
                }
            }),
            Step::Exhaust(slot) => {
                self.follow(
                    state,
                    worker,
                    slot,
                    &[
                        ConsumerEvent::Exhausted,
                        ConsumerEvent::CallReturned,
                        ConsumerEvent::AllFinished,
                    ],
                );
            }
            Step::StoreEnd(slot) => self.store_end(state, worker, slot, fate),
            Step::Decline(slot) => self.write(state, worker, slot, fate, |_| Change::Cancel),
            Step::Scan => self.scan(state, worker),
            Step::Perform => self.perform(state, worker),
        }
    }

    fn take_up(&self, state: &mut State, worker: usize, slot: usize, fate: Fate) {
        let before = state.row(slot).cloned();
        if self.is_broken(Broken::StartsBeforeItsRenewal)
            && let Some(row) = before
        {
            return self.begin_ownership(state, worker, slot, row, state.now);
        }
        let change = if state.workers[worker].leaving {
            Change::GiveBack
        } else {
            Change::TakeUp
        };
        self.send(
            state,
            worker,
            slot,
            Write {
                shard: slot,
                change,
                before,
            },
            fate,
        );
    }

    /// A write of the owner, on the newest row that it knows.
    fn write(
        &self,
        state: &mut State,
        worker: usize,
        slot: usize,
        fate: Fate,
        change: impl FnOnce(&Own) -> Change,
    ) {
        let Some(own) = &state.workers[worker].slots[slot].own else {
            return;
        };
        let write = Write {
            shard: slot,
            change: change(own),
            before: Some(own.row.clone()),
        };
        self.send(state, worker, slot, write, fate);
    }

    fn drain(&self, state: &mut State, worker: usize, slot: usize) {
        self.follow(state, worker, slot, &[ConsumerEvent::DrainRequested]);
        let own = state.workers[worker].slots[slot].own.as_ref();
        if own.is_some_and(|own| own.state == ConsumerState::Draining) {
            self.follow(state, worker, slot, &[ConsumerEvent::CallReturned]);
        }
    }

    fn started(&self, state: &mut State, worker: usize, slot: usize) {
        let run = state.workers[worker].run;
        let Some(own) = &state.workers[worker].slots[slot].own else {
            return;
        };
        let token = FencingToken::new(own.token);
        let shard = self.fixtures.shards[slot].key.clone();
        state.observe(&Observation::Started {
            process: self.fixtures.process(worker, run),
            shard,
            token,
        });
    }

    /// The next record is handed to the processor, on a decision made at the tick `since`.
    pub(super) fn start_batch(&self, state: &mut State, worker: usize, slot: usize, since: u8) {
        let (now, run) = (state.now, state.workers[worker].run);
        let Some(own) = &mut state.workers[worker].slots[slot].own else {
            return;
        };
        own.started = Some(now);
        let (token, next, renewed) = (own.token, own.done, own.renewed);
        let ghost = &mut state.ghost;
        let is_again = ghost.delivered[slot] & (1 << next) != 0;
        ghost.delivered[slot] |= 1 << next;
        ghost.again |= is_again;
        let newer = ghost.started[slot].is_some_and(|(newest, ..)| token < newest);
        if !newer {
            ghost.started[slot] = Some((token, worker, run));
        }
        if is_again {
            state.saw(Seen::Again);
        }
        if newer {
            state.saw(Seen::Overlap);
        }
        state.observe(&Observation::BatchStarted {
            process: self.fixtures.process(worker, run),
            shard: self.fixtures.shards[slot].key.clone(),
            token: FencingToken::new(token),
            records: vec![self.fixtures.records[usize::from(next)].clone()],
            now: at(since),
            valid_until: until(renewed),
            at: at(now),
        });
    }

    fn finish_batch(&self, state: &mut State, worker: usize, slot: usize) {
        let (now, run) = (state.now, state.workers[worker].run);
        let Some(own) = &mut state.workers[worker].slots[slot].own else {
            return;
        };
        own.started = None;
        state.ghost.finished[slot] |= 1 << own.done;
        own.done += 1;
        let is_lost = own.refused;
        state.observe(&Observation::BatchFinished {
            process: self.fixtures.process(worker, run),
            shard: self.fixtures.shards[slot].key.clone(),
            at: at(now),
        });
        if is_lost {
            self.follow(state, worker, slot, &[ConsumerEvent::CallReturned]);
            state.workers[worker].slots[slot].own = None;
        }
    }

    /// One write of those that end a shard: the next child's lease, or the end itself.
    fn store_end(&self, state: &mut State, worker: usize, slot: usize, fate: Fate) {
        let Some(own) = &state.workers[worker].slots[slot].own else {
            return;
        };
        let relatives = 0..self.fixtures.shards.len();
        let leased: BTreeSet<_> = relatives
            .filter(|shard| state.row(*shard).is_some())
            .map(|shard| self.fixtures.shards[shard].shard.clone())
            .collect();
        let family = ShardFamily {
            leased: &leased,
            unlisted: &BTreeSet::new(),
        };
        let me = &self.fixtures.workers[worker];
        let plan = plan_children(&own.row, &self.fixtures.end_of(slot), family, |_| {
            Some(me.clone())
        });
        let ChildPlan::Create { leases, .. } = plan.expect("the model's ends make sense") else {
            panic!("every root has a lease from the beginning");
        };
        let next = leases
            .first()
            .filter(|_| !self.is_broken(Broken::EndBeforeChildren));
        let write = match next {
            Some(child) => Write {
                shard: self.fixtures.shard(&child.key),
                change: Change::Create,
                before: None,
            },
            None => Write {
                shard: slot,
                change: Change::End,
                before: Some(own.row.clone()),
            },
        };
        self.send(state, worker, slot, write, fate);
    }
}
