//! Leases are spread evenly at once, and then stay where they are.

use std::time::Duration;

use kcl_core::settings::Settings;
use kcl_testkit::fleet::{Fleet, Simulation};

use crate::coordination::support::{SECOND, balanced, start};

/// A hundred rounds of a leader whose table is one page.
const HUNDRED_ROUNDS: Duration = Duration::from_secs(50);
async fn stands_still(fleet: &Fleet, seed: u64) {
    let before = fleet.view().moves();
    fleet.sleep(HUNDRED_ROUNDS).await;
    assert_eq!(fleet.view().moves(), before, "seed {seed}");
}

fn simulation(seed: u64, shards: u32) -> Simulation {
    let mut settings = Settings::default();
    settings.leases.failover_time = 10 * SECOND;
    Simulation::new(seed).shards(shards).settings(settings)
}

#[test]
fn three_joining_workers_share_in_fewest_moves() {
    for seed in 0..10 {
        simulation(seed, 40).run(async |fleet| {
            start(&fleet, &["a"]).await;
            fleet.produce(SECOND / 10, 40);
            fleet.sleep(2 * SECOND).await;
            for name in ["b", "c", "d"] {
                fleet.start_worker(name, fleet.settings());
            }
            let took = balanced(&fleet, &["a", "b", "c", "d"]).await;
            assert!(took < 10 * SECOND, "seed {seed}: {took:?}");
            assert_eq!(
                fleet.view().moves().len(),
                30,
                "seed {seed}: no more than are needed"
            );
            stands_still(&fleet, seed).await;
            fleet.stop_producing();
            fleet.settle().await;
            assert_eq!(fleet.view().tally().redelivered, 0);
        });
    }
}
