//! The parts of a state of the elections.

use std::fmt;
use std::hash::{Hash, Hasher};

use kcl_core::lease_store::{LeaderLock, LockExpect};

use super::config::ElectionsBudget;
use super::node::Node;
use crate::fleet::Row;

#[derive(Clone)]
pub struct ElectionsState {
    pub now: u8,
    pub lock: Option<LeaderLock>,
    pub rows: Vec<Row>,
    pub nodes: Vec<Node>,
    /// Writes of the lock that may yet be made.
    pub network: Vec<(LockExpect, LeaderLock)>,
    pub left: ElectionsBudget,
    /// When a worker last crashed or began to stand still.
    pub last_fault: u8,
    /// Events on the way here; not a part of the state.
    pub seen: ElectionsSeen,
}

/// The states that are worth reaching.
#[derive(Debug, Clone, Copy, Default)]
pub struct ElectionsSeen {
    pub stood_in: bool,
    pub succeeded: bool,
    pub reassigned: bool,
}

impl ElectionsState {
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

impl PartialEq for ElectionsState {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Hash for ElectionsState {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.parts().hash(hasher);
    }
}

impl fmt::Debug for ElectionsState {
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
