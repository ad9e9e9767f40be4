//! The size of a model of the elections, and its times.

use std::time::Duration;

use crate::broken::Broken;
use crate::fixtures::TICK;

/// The failover time: five ticks, so that a tick is how often the lock is read.
pub const FAILOVER: Duration = Duration::from_secs(5);
const FAILOVER_TICKS: u8 = 5;

/// How often a worker means to read the lock.
pub(crate) const POLL: Duration = TICK;

/// How large the model is, and what may go wrong.
#[derive(Debug, Clone, Copy)]
pub struct ElectionsConfig {
    pub name: &'static str,
    pub workers: u8,
    /// The ticks before the first fault, in which leader and standby are elected.
    pub quiet: u8,
    /// The ticks in which there may be faults.
    pub window: u8,
    /// The ticks after that, until everything must be in order.
    pub calm: u8,
    pub faults: ElectionsBudget,
    pub broken: Option<Broken>,
}

/// How many of each fault may still happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ElectionsBudget {
    pub crashes: u8,
    pub freezes: u8,
    /// Writes of the lock whose reply is lost.
    pub lost: u8,
    /// Writes of the lock that hang, and may be made later.
    pub late: u8,
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
