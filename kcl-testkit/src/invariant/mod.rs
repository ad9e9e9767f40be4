//! The oracle: the invariants of a fleet as predicates over an observer's view.
//!
//! `kcl-core` has the catalogue, [`Invariant`]. A [`Checker`] receives every [`Observation`] in the order in which things happened and finds
//! the first one that breaks an invariant. It knows no runtime: simulation, tests on real servers and a model checker feed the same one.
//!
//! An invariant about a span of time is a function of its own, of what an observer has counted in it: [`check_cover`] and [`Lineage`] (I10),
//! [`check_owned`] (I12), [`check_balance`], [`check_band`], [`check_moves`] and [`check_rest`] (I13), [`check_led`] (I14). I15 is about a
//! single row or record, and production calls its checks. A [`DeliveryLog`] asks the same checker about a fleet that was seen from outside. A worker checks of itself what it can see: see
//! [`INVARIANT_VIOLATIONS`](kcl_core::metrics::INVARIANT_VIOLATIONS).

mod checker;
mod delivery;
mod delivery_log;
mod lineage;
mod lock;
mod observation;
mod ownership;
mod recovery;
mod table;

pub use checker::{Checker, Tally};
pub use delivery_log::DeliveryLog;
pub use kcl_core::invariant::{Invariant, Violation};
pub use lineage::{Lineage, check_cover};
pub use observation::{Observation, Process, Written};
pub use recovery::{
    Held, check_balance, check_band, check_led, check_moves, check_owned, check_rest, least_moves,
    led_within, owned_within,
};

#[cfg(test)]
mod lineage_tests;
#[cfg(test)]
mod set_aside_tests;
#[cfg(test)]
mod tests;
