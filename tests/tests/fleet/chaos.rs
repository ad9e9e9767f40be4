//! Chaos with real processes: workers that are killed, frozen and asked to leave, behind a network that delays, loses, resets, refuses and
//! parts, on a stream that is resharded meanwhile. Nothing may be lost, out of order or stuck.
//!
//! `KCL_CHAOS_ROUNDS=20` runs as many rounds; `KCL_CHAOS_SEED=n` begins with that seed instead of a random one.

use std::time::Duration;

use kcl_core::clock::Rng;
use kcl_tests::chaos::fleet::say;
use kcl_tests::chaos::plan::ChaosShape;
use kcl_tests::chaos::report::Totals;
use kcl_tests::chaos::round::round;
use kcl_tests::fleet::drive::Programs;
use kcl_tests::testbed_or_skip;

const SHAPE: ChaosShape = ChaosShape {
    places: 4,
    shards: 6,
    rate: 100,
    failover: Duration::from_secs(3),
    chaos: Duration::from_secs(20),
    disturbances: 12,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_loses_nothing_in_chaos() {
    let _alone = crate::ONE_AT_A_TIME.lock().await;
    let testbed = testbed_or_skip!();
    let programs = Programs::build();
    let rounds = number("KCL_CHAOS_ROUNDS").unwrap_or(1);
    // Short enough to be typed.
    let seed = number("KCL_CHAOS_SEED").unwrap_or_else(|| Rng::from_entropy().below(1_000_000));
    let mut totals = Totals::default();
    for number in 0..rounds {
        let seed = seed + number;
        say(&format!(
            "round {} of {rounds}: KCL_CHAOS_SEED={seed}",
            number + 1
        ));
        let round = round(&testbed, &programs, &SHAPE, seed).await;
        say(&round.to_string());
        totals.add(round);
    }
    say(&totals.to_string());
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("rounds and seeds are numbers"))
}
