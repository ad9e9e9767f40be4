//! The elections: who leads, who stands in, and that no lease waits for either of them.
//!
//! Every worker keeps the core's own view of the leader lock and of the table, and acts as a coordinator does: it looks at the lock
//! once per tick and does what its view asks for, and while it leads or is the standby it scans and gives leases away. Each worker has
//! a lease in the beginning, which it renews while it runs. The properties are about who believes to lead, and for how long a lease is
//! without a live owner, whoever dies.

mod node;
mod properties;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use kcl_core::lease_store::{
    Expect, LeaderLock, LeaseChange, LockChange, LockExpect, LockOutcome, Outcome, RowFacts,
};
use stateright::{Model, Property};

use crate::broken::Broken;
use crate::fixtures::{Fixtures, Lineage, TICK};
use crate::fleet::Row;
use crate::store;

pub use node::Node;

/// The failover time: five ticks, so that a tick is how often the lock is read.
pub const FAILOVER: Duration = Duration::from_secs(5);
const FAILOVER_TICKS: u8 = 5;

/// How large the model is, and what may go wrong.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    pub name: &'static str,
    pub workers: u8,
    /// The ticks before the first fault, in which leader and standby are elected.
    pub quiet: u8,
    /// The ticks in which there may be faults.
    pub window: u8,
    /// The ticks after that, until everything must be in order.
    pub calm: u8,
    pub faults: Budget,
    pub broken: Option<Broken>,
}

/// How many of each fault may still happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    pub crashes: u8,
    pub freezes: u8,
    /// Writes of the lock whose reply is lost.
    pub lost: u8,
    /// Writes of the lock that hang, and may be made later.
    pub late: u8,
}

/// The model of the elections.
#[derive(Debug, Clone)]
pub struct Elections {
    pub fixtures: Fixtures,
    pub config: Config,
}

#[derive(Clone)]
pub struct State {
    pub now: u8,
    pub lock: Option<LeaderLock>,
    pub rows: Vec<Row>,
    pub nodes: Vec<Node>,
    /// Writes of the lock that may yet be made.
    pub network: Vec<(LockExpect, LeaderLock)>,
    pub left: Budget,
    /// When a worker last crashed or began to stand still.
    pub last_fault: u8,
    /// Events on the way here; not a part of the state.
    pub seen: Seen,
}

/// The states that are worth reaching.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    pub stood_in: bool,
    pub succeeded: bool,
    pub reassigned: bool,
}

impl State {
    fn parts(&self) -> impl PartialEq + Hash + '_ {
        let text = |lock: &LeaderLock| (lock.owner.clone(), lock.version.clone(), lock.standby.clone());
        let network: Vec<_> = self.network.iter().map(|(_, lock)| text(lock)).collect();
        (
            self.now,
            self.lock.as_ref().map(text),
            &self.rows,
            &self.nodes,
            network,
            (self.left, self.last_fault),
        )
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.parts().hash(hasher);
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "tick {}", self.now)?;
        if let Some(lock) = &self.lock {
            writeln!(f, "  {} leads, standby {:?}", lock.owner, lock.standby)?;
        }
        for row in &self.rows {
            writeln!(f, "  {row:?}")?;
        }
        for node in &self.nodes {
            writeln!(f, "  {node:?}")?;
        }
        Ok(())
    }
}

/// How a write of the lock fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    Prompt,
    LostReply,
    Hangs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Tick,
    CalmTick,
    /// A worker looks at the lock and does what its view asks for.
    Looks(usize, Fate),
    /// A worker scans, and gives leases away if that is its part.
    Scans(usize),
    /// A write of the lock that hung is made, if its condition holds.
    Lands(usize),
    Crashes(usize),
    Freezes(usize),
    Thaws(usize),
}

impl Elections {
    pub fn new(config: Config) -> Self {
        let fixtures = Fixtures::new(config.workers, Lineage::Open(config.workers), 1);
        Self { fixtures, config }
    }

    fn is_broken(&self, how: Broken) -> bool {
        self.config.broken == Some(how)
    }

    pub fn is_over(&self, state: &State) -> bool {
        state.now >= self.config.quiet + self.config.window + self.config.calm
    }

    fn is_quiet(&self, state: &State) -> bool {
        let faulty = self.config.quiet..self.config.quiet + self.config.window;
        !faulty.contains(&state.now)
    }

    /// The workers that run, and what each has still to do in this tick.
    fn duties(&self, state: &State) -> Vec<Action> {
        let mut duties = Vec::new();
        for (n, node) in state.nodes.iter().enumerate().filter(|(_, node)| node.is_up()) {
            if node.looked != Some(state.now) {
                duties.push(Action::Looks(n, Fate::Prompt));
            } else if node.scanned != Some(state.now) {
                duties.push(Action::Scans(n));
            }
        }
        duties
    }

    fn act(&self, state: &mut State, action: Action) {
        match action {
            Action::Tick => self.tick(state),
            Action::CalmTick => {
                while let Some(duty) = self.duties(state).into_iter().next() {
                    self.act(state, duty);
                }
                self.tick(state);
            }
            Action::Looks(n, fate) => self.looks(state, n, fate),
            Action::Scans(n) => self.scans(state, n),
            Action::Lands(n) => {
                let (expect, row) = state.network.remove(n);
                self.write_lock(state, &expect, &row);
            }
            Action::Crashes(n) => {
                state.left.crashes -= 1;
                state.last_fault = state.now;
                state.nodes[n].goes(node::Life::Down, state.now);
            }
            Action::Freezes(n) => {
                state.left.freezes -= 1;
                state.last_fault = state.now;
                state.nodes[n].goes(node::Life::Frozen, state.now);
            }
            Action::Thaws(n) => state.nodes[n].thaws(),
        }
    }

    fn write_lock(&self, state: &mut State, expect: &LockExpect, row: &LeaderLock) -> LockOutcome {
        let former = state.lock.as_ref().map(|lock| lock.owner.clone());
        let change = LockChange::Hold(row.clone());
        let (outcome, lock) = store::change_lock(state.lock.as_ref(), expect, &change);
        state.lock = lock;
        state.seen.succeeded |=
            outcome == LockOutcome::Applied && former.is_some_and(|former| former != row.owner);
        outcome
    }

    /// Time goes on. Each running worker touches its row and renews what is its own.
    fn tick(&self, state: &mut State) {
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
                        throughput: None,
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
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let row = |n: usize| {
            let mut lease = self.fixtures.lease(n);
            lease.owner = Some(self.fixtures.workers[n].clone());
            Row(Arc::new(lease))
        };
        let workers = self.fixtures.workers.len();
        vec![State {
            now: 0,
            lock: None,
            rows: (0..workers).map(row).collect(),
            nodes: (0..workers)
                .map(|n| Node::new(&self.fixtures.workers[n]))
                .collect(),
            network: Vec::new(),
            left: self.config.faults,
            last_fault: 0,
            seen: Seen::default(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if self.is_over(state) {
            return;
        }
        if self.is_quiet(state) {
            return actions.push(Action::CalmTick);
        }
        let duties = self.duties(state);
        if duties.is_empty() {
            actions.push(Action::Tick);
        }
        for duty in duties {
            actions.push(duty);
            if let Action::Looks(n, _) = duty {
                if state.left.lost > 0 {
                    actions.push(Action::Looks(n, Fate::LostReply));
                }
                if state.left.late > 0 {
                    actions.push(Action::Looks(n, Fate::Hangs));
                }
            }
        }
        actions.extend((0..state.network.len()).map(Action::Lands));
        let up = state.nodes.iter().filter(|node| node.is_up()).count();
        for (n, node) in state.nodes.iter().enumerate() {
            if node.is_frozen() {
                actions.push(Action::Thaws(n));
            }
            // Somebody is left to take over.
            if node.is_up() && up > 1 {
                if state.left.crashes > 0 {
                    actions.push(Action::Crashes(n));
                }
                if state.left.freezes > 0 {
                    actions.push(Action::Freezes(n));
                }
            }
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

/// The bound of a failover in ticks: from the moment in which the last of so many was gone to a live owner's name in the row.
///
/// F and one scan, whoever is gone, the leader included. When both leader and standby are, nobody watches the leases until
/// somebody has taken the lock: that takes more than F, and two looks of patience with the standby that the lock names. Another F
/// and a scan pass from there. The bound for both does not hold if it is one tick less.
pub(crate) fn bound(gone: u8) -> u8 {
    let (look, scan, patience) = (1, 1, 2);
    match gone {
        0 | 1 => FAILOVER_TICKS + scan,
        _ => FAILOVER_TICKS + look + patience + FAILOVER_TICKS + scan,
    }
}

/// How often a worker means to read the lock.
pub(crate) const POLL: Duration = TICK;
