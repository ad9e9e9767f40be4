//! The fleet: leases, handoffs, and parents before children.
//!
//! Workers hold leases, process records, store checkpoints, end shards and create the leases of their children; some or all of
//! them also scan the table and plan. All of that in every order within a tick, and under crashes, pauses, lost replies and
//! late writes. Each decision is the core's own: what a write does, what became of that write, until when a holder goes on, who is
//! expired, who gets what, what follows in a consumer's life, what to create at a shard's end, what may be deleted.
//!
//! Time goes by in ticks. Whatever is due is done before the next tick begins, unless a fault keeps a worker from it: being slow
//! is a fault too, and its name is freeze. After the last tick in which there may be faults the rest is calm: everything is
//! done in one order, until the fleet must be at rest.

mod consumer;
mod model;
mod planner;
mod properties;
mod state;
mod write;

use std::sync::Arc;

use kcl_testkit::invariant::{Checker, Observation};
use stateright::{Model, Property};

pub use consumer::Step;
pub use model::{Config, Fate, Fleet};
pub(crate) use state::fingerprint;
pub use state::{
    At, Budget, Call, Change, Ghost, Life, Own, Planned, PlannedStep, Planner, Request, Row, Seen, Slot,
    State, Worker, Write,
};

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Time goes on.
    Tick,
    /// A whole tick without a fault.
    CalmTick,
    /// A worker takes a step; of a write, how it fares.
    Step(usize, Step, Fate),
    /// A write that hung reaches the store.
    Lands(usize),
    /// A caller waits no longer.
    TimesOut(usize, usize),
    /// A caller finds out by a strong read.
    Resolves(usize, usize),
    /// A caller that stood still sees the answer.
    Receives(usize, usize),
    Crashes(usize),
    Restarts(usize),
    /// It stands still; perhaps between the decision to start a batch of this shard and the start.
    Freezes(usize, Option<usize>),
    Thaws(usize),
    /// It runs on, and cannot reach the store.
    IsCutOff(usize),
    IsBack(usize),
    Leaves(usize),
}

impl Fleet {
    fn is_calm(&self, state: &State) -> bool {
        state.now >= self.config.window
    }

    fn first(&self) -> State {
        let fixtures = &self.fixtures;
        let shards = fixtures.shards.len();
        let is_root = |shard: usize| fixtures.shards[shard].parents.is_empty();
        let row = |shard: usize| {
            let mut lease = fixtures.lease(shard);
            lease.owner = self
                .config
                .owner
                .map(|owner| fixtures.workers[usize::from(owner)].clone());
            Row::new(lease)
        };
        let worker = |n: usize| Worker {
            run: 0,
            life: Life::Up,
            cut_off: false,
            leaving: false,
            touches: 0,
            slots: vec![Slot::default(); shards],
            cleared: None,
            planner: self.new_planner(n),
        };
        let mut state = State {
            now: 0,
            rows: (0..shards)
                .map(|shard| is_root(shard).then(|| row(shard)))
                .collect(),
            workers: (0..fixtures.workers.len()).map(worker).collect(),
            network: Vec::new(),
            left: self.config.faults,
            ghost: Ghost {
                delivered: vec![0; shards],
                finished: vec![0; shards],
                granted: vec![None; shards],
                started: vec![None; shards],
                written: vec![0; shards],
                paused: Vec::new(),
                again: false,
            },
            checker: Arc::new(Checker::default()),
            violation: None,
            seen: 0,
        };
        for role in &fixtures.shards {
            let parents = role
                .parents
                .iter()
                .map(|parent| fixtures.shards[*parent].key.clone());
            state.observe(&Observation::ShardOpened {
                shard: role.key.clone(),
                parents: parents.collect(),
            });
            for position in &fixtures.records {
                state.observe(&Observation::Put {
                    shard: role.key.clone(),
                    position: position.clone(),
                    arrival: None,
                });
            }
        }
        state
    }

    /// Everything of the present tick that is still to be done before time may go on.
    fn is_due(&self, state: &State) -> bool {
        let waits = |worker: &Worker| {
            worker
                .slots
                .iter()
                .flat_map(|slot| &slot.call)
                .any(|call| match call.at {
                    At::Network => call.sent < state.now,
                    At::Unknown => !worker.cut_off,
                    At::Replied { .. } => true,
                })
        };
        let up = state
            .workers
            .iter()
            .enumerate()
            .filter(|(_, worker)| worker.life == Life::Up);
        up.into_iter()
            .any(|(n, worker)| waits(worker) || self.steps(state, n).iter().any(|(_, due)| *due))
    }

    fn tick(state: &mut State) {
        state.now += 1;
        for worker in &mut state.workers {
            if worker.life == Life::Up && !worker.cut_off && !worker.leaving {
                worker.touches += 1;
            }
        }
    }

    /// Does everything that there is to do, in one order, and lets time go on.
    fn calm_tick(&self, state: &mut State) {
        for _ in 0..500 {
            let next = self.calm_actions(state).into_iter().next();
            match next {
                Some(action) => self.act(state, action),
                None => return Self::tick(state),
            }
            if state.violation.is_some() {
                return;
            }
        }
        panic!("the fleet finds no end within one tick: {state:?}");
    }

    fn calm_actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::new();
        for (n, worker) in state.workers.iter().enumerate() {
            if worker.life != Life::Up {
                continue;
            }
            actions.extend(worker.slots.iter().enumerate().filter_map(|(slot, known)| {
                Some(match known.call.as_ref()?.at {
                    At::Network => Action::TimesOut(n, slot),
                    At::Unknown if worker.cut_off => return None,
                    At::Unknown => Action::Resolves(n, slot),
                    At::Replied { .. } => Action::Receives(n, slot),
                })
            }));
            let steps = self.steps(state, n).into_iter();
            actions.extend(steps.map(|(step, _)| Action::Step(n, step, Fate::Prompt)));
        }
        actions
    }

    fn act(&self, state: &mut State, action: Action) {
        match action {
            Action::Tick => Self::tick(state),
            Action::CalmTick => self.calm_tick(state),
            Action::Step(worker, step, fate) => self.step(state, worker, step, fate),
            Action::Lands(request) => self.lands(state, request),
            Action::TimesOut(worker, slot) => {
                if let Some(call) = &mut state.workers[worker].slots[slot].call {
                    call.at = At::Unknown;
                }
            }
            Action::Resolves(worker, slot) => self.resolves(state, worker, slot),
            Action::Receives(worker, slot) => self.receives(state, worker, slot),
            Action::Crashes(worker) => {
                state.left.crashes -= 1;
                let gone = &mut state.workers[worker];
                gone.life = Life::Down;
                gone.slots = vec![Slot::default(); gone.slots.len()];
                gone.cut_off = false;
                gone.cleared = None;
                gone.planner = None;
            }
            Action::Restarts(worker) => {
                state.left.restarts -= 1;
                let planner = self.new_planner(worker);
                let new = &mut state.workers[worker];
                new.life = Life::Up;
                new.leaving = false;
                new.run += 1;
                new.touches += 1;
                new.planner = planner;
            }
            Action::Freezes(worker, cleared) => {
                state.left.freezes -= 1;
                state.workers[worker].life = Life::Frozen;
                state.workers[worker].cleared = cleared.map(|slot| (slot, state.now));
                let process = (worker, state.workers[worker].run);
                state.ghost.paused.push(process);
                state.observe(&Observation::Paused {
                    process: self.fixtures.process(process.0, process.1),
                });
            }
            Action::Thaws(worker) => {
                state.workers[worker].life = Life::Up;
                if let Some((slot, since)) = state.workers[worker].cleared.take() {
                    self.start_batch(state, worker, slot, since);
                }
            }
            Action::IsCutOff(worker) => {
                state.left.cuts -= 1;
                state.workers[worker].cut_off = true;
            }
            Action::IsBack(worker) => state.workers[worker].cut_off = false,
            Action::Leaves(worker) => {
                state.left.leaves -= 1;
                state.workers[worker].leaving = true;
                state.workers[worker].planner = None;
            }
        }
    }

    /// The faults that may happen to a worker.
    fn faults(&self, state: &State, n: usize, actions: &mut Vec<Action>) {
        let (worker, left) = (&state.workers[n], &state.left);
        // The last worker is spared, so that somebody is there to take over.
        let is_spared = n + 1 == state.workers.len();
        match worker.life {
            Life::Up => {
                if left.crashes > 0 && !is_spared {
                    actions.push(Action::Crashes(n));
                }
                if left.freezes > 0 && !is_spared {
                    actions.push(Action::Freezes(n, None));
                    let clear = (0..worker.slots.len()).filter(|slot| self.may_start(state, n, *slot));
                    actions.extend(clear.map(|slot| Action::Freezes(n, Some(slot))));
                }
                if worker.cut_off {
                    actions.push(Action::IsBack(n));
                } else if left.cuts > 0 && !is_spared {
                    actions.push(Action::IsCutOff(n));
                }
                if left.leaves > 0 && !worker.leaving && !is_spared {
                    actions.push(Action::Leaves(n));
                }
            }
            Life::Frozen => actions.push(Action::Thaws(n)),
            Life::Down if left.restarts > 0 && self.fixtures.may_run_again(worker.run) => {
                actions.push(Action::Restarts(n));
            }
            Life::Down => {}
        }
    }
}

impl Model for Fleet {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.first()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.violation.is_some() || self.is_over(state) {
            return;
        }
        if self.is_calm(state) {
            return actions.push(Action::CalmTick);
        }
        for (n, worker) in state.workers.iter().enumerate() {
            self.faults(state, n, actions);
            if worker.life != Life::Up {
                continue;
            }
            for (slot, known) in worker.slots.iter().enumerate() {
                match known.call.as_ref().map(|call| &call.at) {
                    None => {}
                    Some(At::Network) => actions.push(Action::TimesOut(n, slot)),
                    Some(At::Unknown) if worker.cut_off => {}
                    Some(At::Unknown) => actions.push(Action::Resolves(n, slot)),
                    Some(At::Replied { .. }) => actions.push(Action::Receives(n, slot)),
                }
            }
            for (step, _) in self.steps(state, n) {
                actions.push(Action::Step(n, step, Fate::Prompt));
                if step.writes() && state.left.lost > 0 {
                    actions.push(Action::Step(n, step, Fate::LostReply));
                }
                if step.writes() && state.left.late > 0 {
                    actions.push(Action::Step(n, step, Fate::Hangs));
                }
            }
        }
        actions.extend((0..state.network.len()).map(Action::Lands));
        if !self.is_due(state) {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.act(&mut next, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(&self.config)
    }
}
