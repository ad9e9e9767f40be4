//! Processes that share a worker id.

use std::time::Duration;

use kcl_core::ErrorKind;
use kcl_testkit::fleet::{Fleet, Member, Simulation};

use crate::coordination::support::{MILLISECOND, SECOND, balanced};

async fn superseded(fleet: &Fleet, seed: u32) {
    let error = fleet.stopped("older").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Superseded, "seed {seed}: {error}");
    assert!(error.to_string().contains("shared"), "it names the id: {error}");
}

#[test]
fn older_of_two_processes_with_one_id_stops() {
    for seed in 0..15_u32 {
        Simulation::new(u64::from(seed)).shards(6).run(async |fleet| {
            fleet.produce(SECOND / 20, 12);
            fleet.start(Member::named("older").worker_id("shared"));
            fleet.start_worker("b", fleet.settings());
            balanced(&fleet, &["older", "b"]).await;
            fleet.sleep(173 * MILLISECOND * seed).await;
            let begun = fleet.now();
            fleet.start(Member::named("younger").worker_id("shared"));
            superseded(&fleet, seed).await;
            let took = fleet.now().saturating_since(begun);
            // It learns so when it touches its row the next time.
            let limit: Duration = fleet.settings().leases.failover_time / 3 + SECOND;
            assert!(took <= limit, "seed {seed}: {took:?}");
            balanced(&fleet, &["younger", "b"]).await;
            fleet.stop_producing();
            fleet.settle().await;
        });
    }
}
