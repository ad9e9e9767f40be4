//! One worker of the model, with the core's views of the lock and of the table.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use kcl_core::clock::Moment;
use kcl_core::internals::{LeaderElection, TableView};
use kcl_core::types::WorkerId;

use super::config::{FAILOVER, POLL};
use crate::fleet::fingerprint;

/// One worker.
#[derive(Clone)]
pub struct Node {
    pub(super) life: NodeLife,
    /// Since when it does not run.
    pub(super) out_since: Option<u8>,
    pub(super) touches: u8,
    pub(super) looked: Option<u8>,
    pub(super) scanned: Option<u8>,
    pub(super) election: Viewed<LeaderElection>,
    /// Its knowledge of the table, for as long as it is its part to scan.
    pub(super) observer: Option<Viewed<TableView>>,
    pub(super) standby: Option<WorkerId>,
    /// How many versions of the lock it has made.
    pub(super) versions: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum NodeLife {
    Up,
    Frozen,
    Down,
}

/// The role of a worker in the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeRole {
    Leader,
    StandIn,
    Standby,
    Follower,
}

/// A view of the core's, compared by all that it shows of itself.
#[derive(Clone)]
pub(super) struct Viewed<T> {
    pub(super) value: Arc<T>,
    print: u64,
}

impl<T: Clone + fmt::Debug> Viewed<T> {
    pub(super) fn new(value: T) -> Self {
        let print = fingerprint(&value);
        Self {
            value: Arc::new(value),
            print,
        }
    }

    pub(super) fn learn<R>(&mut self, how: impl FnOnce(&mut T) -> R) -> R {
        let learnt = how(Arc::make_mut(&mut self.value));
        self.print = fingerprint(&self.value);
        learnt
    }
}

impl Node {
    pub(super) fn new(me: &WorkerId) -> Self {
        Self {
            life: NodeLife::Up,
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
        self.life == NodeLife::Up
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.life == NodeLife::Frozen
    }

    pub(super) fn goes(&mut self, life: NodeLife, now: u8) {
        self.life = life;
        self.out_since = Some(now);
    }

    pub(super) fn thaws(&mut self) {
        self.life = NodeLife::Up;
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
