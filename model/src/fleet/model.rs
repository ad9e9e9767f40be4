//! The model of a fleet: how large it is, and what may go wrong.

use super::state::{Budget, State};
use crate::broken::Broken;
use crate::fixtures::{Fixtures, Lineage, VALID_FOR, at};

/// How large the model is, and what may go wrong.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    pub name: &'static str,
    pub workers: u8,
    /// So many of them scan and plan, each as if it alone led.
    pub planners: u8,
    pub lineage: Lineage,
    /// How many records each shard has.
    pub records: u8,
    /// The worker that has all leases in the beginning, or nobody.
    pub owner: Option<u8>,
    /// Whether planners delete the leases that nobody needs.
    pub cleanup: bool,
    /// The ticks in which there may be faults, and everything happens in every order.
    pub window: u8,
    /// The ticks after that, until the fleet must be at rest.
    pub calm: u8,
    pub faults: Budget,
    /// A deliberate mistake.
    pub broken: Option<Broken>,
}

/// For how long a callback may keep the owner from handing its lease over before it declines.
pub(super) const HANDOFF_TIMEOUT: u8 = 1;

/// The model of a fleet.
#[derive(Debug, Clone)]
pub struct Fleet {
    pub fixtures: Fixtures,
    pub config: Config,
}

/// How a write fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It is made, and the reply is there.
    Prompt,
    /// It is made, and the reply is lost.
    LostReply,
    /// It hangs in the network.
    Hangs,
}

impl Fleet {
    pub fn new(config: Config) -> Self {
        let fixtures = Fixtures::new(config.workers, config.lineage, config.records);
        Self { fixtures, config }
    }

    pub(crate) fn is_broken(&self, how: Broken) -> bool {
        self.config.broken == Some(how)
    }

    /// The last tick: nothing happens any more.
    pub fn is_over(&self, state: &State) -> bool {
        state.now >= self.config.window + self.config.calm
    }
}

/// Until when an owner may start batches that renewed at this tick.
pub(crate) fn until(renewed: u8) -> kcl_core::clock::Moment {
    let belief = kcl_core::internals::LeaseValidity {
        renewed: at(renewed),
        refused: false,
    };
    belief.until(*VALID_FOR)
}
