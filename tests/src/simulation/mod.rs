//! Whole fleets under everything that can go wrong, in virtual time: the same seed gives the same run, event by event.
//!
//! A [`Story`] says what happens and when, and follows from the seed alone. [`outcome`] lets it happen to a fleet of real workers, whose
//! every step is checked against the [invariants](kcl_testkit::invariant), then heals everything and asks that the fleet is whole again
//! in bounded time. [`Account`] is what was seen meanwhile, and adds up over seeds.

mod account;
mod conditions;
mod failure;
mod moods;
mod performer;
mod recovery;
mod seeds;
mod story;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use kcl_lease_memory::memory_stream::Pace;
use kcl_testkit::fleet::{Fleet, Simulation};

pub use account::{Account, Spread};
pub use failure::Failure;
pub use seeds::run_seeds;
pub use story::{Story, Stroke, Turn};

/// A reader that has read everything asks again after a second, as the Java KCL does.
const PACE: Pace = Pace {
    behind: Duration::ZERO,
    idle: Duration::from_secs(1),
};

/// Lets the story of this seed happen on the calling thread, and tells what was seen. It prints nothing but what a panic does.
///
/// # Errors
///
/// When an invariant is broken, or the fleet is not whole again in time.
pub fn outcome(seed: u64) -> Result<Account, Failure> {
    outcome_of(&Story::of(seed), 0, |_| {})
}

/// As [`outcome`], for any story. One that fails prints its last `trace_lines` events, and what is left of the fleet; one that
/// ends well goes on with `then`.
///
/// # Errors
///
/// As [`outcome`].
pub fn outcome_of(story: &Story, trace_lines: usize, then: impl FnOnce(&Fleet)) -> Result<Account, Failure> {
    let run = || {
        Simulation::new(story.seed)
            .settings(story.settings.clone())
            .shards(story.shards)
            .pace(PACE)
            .trace_lines(trace_lines)
            .attempt(async |fleet| {
                let mut performer = performer::Performer::new(fleet.clone(), story);
                performer.begin();
                for turn in &story.script {
                    performer.perform(*turn).await;
                }
                let (mut account, newcomer) = performer.heal();
                recovery::recover(&fleet, story, newcomer, &mut account).await;
                account.close(&fleet);
                then(&fleet);
                account
            })
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(account)) => Ok(account),
        Ok(Err(violation)) => Err(Failure::of_violation(story.seed, &violation)),
        Err(panic) => Err(Failure::of_panic(story.seed, panic.as_ref())),
    }
}
