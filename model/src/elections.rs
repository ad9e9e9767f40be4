//! The elections: who leads, who stands in, and that no lease waits for either of them.
//!
//! Every worker keeps the core's own view of the leader lock and of the table, and acts as a coordinator does: it looks at the lock
//! once per tick and does what its view asks for, and while it leads or is the standby it scans and gives leases away. Each worker has
//! a lease in the beginning, which it renews while it runs. The properties are about who believes to lead, and for how long a lease is
//! without a live owner, whoever dies.

mod config;
mod node;
mod properties;
mod state;
mod turns;

use std::sync::Arc;

use kcl_core::lease_store::{Expect, LeaseChange, Outcome, OwnerNotes, RowFacts};
use stateright::{Model, Property};

use crate::fleet::Row;
use crate::store;
use node::NodeLife;

pub use config::{ElectionsBudget, ElectionsConfig, FAILOVER};
pub use node::Node;
pub use state::{ElectionsSeen, ElectionsState};
pub use turns::{Elections, LockFate};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElectionsAction {
    Tick,
    CalmTick,
    /// A worker looks at the lock and does what its view asks for.
    Looks(usize, LockFate),
    /// A worker scans, and gives leases away if that is its part.
    Scans(usize),
    /// A write of the lock that hung is made, if its condition holds.
    Lands(usize),
    Crashes(usize),
    Freezes(usize),
    Thaws(usize),
}

impl Elections {
    fn is_quiet(&self, state: &ElectionsState) -> bool {
        let faulty = self.config.quiet..self.config.quiet + self.config.window;
        !faulty.contains(&state.now)
    }

    /// The workers that run, and what each has still to do in this tick.
    fn duties(&self, state: &ElectionsState) -> Vec<ElectionsAction> {
        let mut duties = Vec::new();
        for (n, node) in state.nodes.iter().enumerate().filter(|(_, node)| node.is_up()) {
            if node.looked != Some(state.now) {
                duties.push(ElectionsAction::Looks(n, LockFate::Prompt));
            } else if node.scanned != Some(state.now) {
                duties.push(ElectionsAction::Scans(n));
            }
        }
        duties
    }

    fn act(&self, state: &mut ElectionsState, action: ElectionsAction) {
        match action {
            ElectionsAction::Tick => self.tick(state),
            ElectionsAction::CalmTick => {
                while let Some(duty) = self.duties(state).into_iter().next() {
                    self.act(state, duty);
                }
                self.tick(state);
            }
            ElectionsAction::Looks(n, fate) => self.looks(state, n, fate),
            ElectionsAction::Scans(n) => self.scans(state, n),
            ElectionsAction::Lands(n) => {
                let (expect, row) = state.network.remove(n);
                self.write_lock(state, &expect, &row);
            }
            ElectionsAction::Crashes(n) => {
                state.left.crashes -= 1;
                state.last_fault = state.now;
                state.nodes[n].goes(NodeLife::Down, state.now);
            }
            ElectionsAction::Freezes(n) => {
                state.left.freezes -= 1;
                state.last_fault = state.now;
                state.nodes[n].goes(NodeLife::Frozen, state.now);
            }
            ElectionsAction::Thaws(n) => state.nodes[n].thaws(),
        }
    }

    /// Time goes on. Each running worker touches its row and renews what is its own.
    fn tick(&self, state: &mut ElectionsState) {
        state.now += 1;
        for (n, node) in state
            .nodes
            .iter_mut()
            .enumerate()
            .filter(|(_, node)| node.is_up())
        {
            node.touches += 1;
            for row in &mut state.rows {
                if row.owner.as_ref() == Some(&self.fixtures.workers[n]) {
                    let renew = LeaseChange::Renew {
                        notes: OwnerNotes::NONE,
                        facts: RowFacts::NONE,
                    };
                    let expect = Expect::Version(row.version());
                    let incarnation = self.fixtures.incarnation(n, 0);
                    if let Outcome::Applied(after) =
                        store::change(Some(&**row), &row.key, &expect, &renew, incarnation)
                    {
                        *row = Row::new(*after);
                    }
                }
            }
        }
    }
}

impl Model for Elections {
    type State = ElectionsState;
    type Action = ElectionsAction;

    fn init_states(&self) -> Vec<ElectionsState> {
        let row = |n: usize| {
            let mut lease = self.fixtures.lease(n);
            lease.owner = Some(self.fixtures.workers[n].clone());
            Row(Arc::new(lease))
        };
        let workers = self.fixtures.workers.len();
        vec![ElectionsState {
            now: 0,
            lock: None,
            rows: (0..workers).map(row).collect(),
            nodes: (0..workers)
                .map(|n| Node::new(&self.fixtures.workers[n]))
                .collect(),
            network: Vec::new(),
            left: self.config.faults,
            last_fault: 0,
            seen: ElectionsSeen::default(),
        }]
    }

    fn actions(&self, state: &ElectionsState, actions: &mut Vec<ElectionsAction>) {
        if self.is_over(state) {
            return;
        }
        if self.is_quiet(state) {
            return actions.push(ElectionsAction::CalmTick);
        }
        let duties = self.duties(state);
        if duties.is_empty() {
            actions.push(ElectionsAction::Tick);
        }
        for duty in duties {
            actions.push(duty);
            if let ElectionsAction::Looks(n, _) = duty {
                if state.left.lost > 0 {
                    actions.push(ElectionsAction::Looks(n, LockFate::LostReply));
                }
                if state.left.late > 0 {
                    actions.push(ElectionsAction::Looks(n, LockFate::Hangs));
                }
            }
        }
        actions.extend((0..state.network.len()).map(ElectionsAction::Lands));
        let up = state.nodes.iter().filter(|node| node.is_up()).count();
        for (n, node) in state.nodes.iter().enumerate() {
            if node.is_frozen() {
                actions.push(ElectionsAction::Thaws(n));
            }
            // Somebody is left to take over.
            if node.is_up() && up > 1 {
                if state.left.crashes > 0 {
                    actions.push(ElectionsAction::Crashes(n));
                }
                if state.left.freezes > 0 {
                    actions.push(ElectionsAction::Freezes(n));
                }
            }
        }
    }

    fn next_state(&self, state: &ElectionsState, action: ElectionsAction) -> Option<ElectionsState> {
        let mut next = state.clone();
        self.act(&mut next, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(&self.config)
    }
}
