//! Whole fleets under everything that can go wrong, in virtual time: the same seed gives the same run, event by event.
//!
//! A [`Story`] says what happens and when, and follows from the seed alone. [`run`] lets it happen to a fleet of real workers, whose
//! every step is checked against the [invariants](kcl_core::invariant), then heals everything and asks that the fleet is whole again
//! in bounded time. [`Account`] is what was seen meanwhile, and adds up over seeds.

mod account;
mod moods;
mod performer;
mod recovery;
mod seeds;
mod story;

use std::time::Duration;

use kcl_core::settings::Settings;
use kcl_testkit::fleet::{Fleet, Simulation};

pub use account::{Account, Spread};
pub use seeds::{Failure, run_seeds};
pub use story::{Story, Stroke, Turn};

/// The settings of every worker: short enough that all limits are met within a story.
fn settings() -> Settings {
    Settings {
        failover_time: Duration::from_secs(4),
        stall_timeout: Duration::from_secs(5),
        stall_tries: 2,
        handoff_timeout: Duration::from_secs(6),
        drain_timeout: Duration::from_secs(8),
        ..Settings::default()
    }
}

/// Lets the story of this seed happen, and tells what was seen. A run that fails prints its last `trace_lines` events.
///
/// # Panics
///
/// When an invariant is broken, or the fleet is not whole again in time.
pub fn run(seed: u64, trace_lines: usize) -> Account {
    run_and(seed, trace_lines, |_| {})
}

/// As [`run`], and then something more with the fleet.
///
/// # Panics
///
/// As [`run`].
pub fn run_and(seed: u64, trace_lines: usize, then: impl FnOnce(&Fleet)) -> Account {
    let story = Story::of(seed);
    Simulation::new(seed)
        .settings(settings())
        .shards(story.shards)
        .trace_lines(trace_lines)
        .run(async |fleet| {
            let mut performer = performer::Performer::new(fleet.clone(), &story);
            performer.begin();
            for turn in &story.script {
                performer.perform(*turn).await;
            }
            let mut account = performer.heal();
            recovery::recover(&fleet, &mut account).await;
            account.close(&fleet);
            then(&fleet);
            account
        })
}
