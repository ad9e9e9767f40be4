//! What a worker makes of a lease store that fails while it starts, takes leases up and stops.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::time::Duration;

use kcl_core::lease::LeaseStore as _;
use kcl_core::lifecycle::ConsumerEnd;
use kcl_testkit::simulate;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_worker_stopped_at_once_is_no_candidate_any_more_before_it_releases_its_leases() {
    for seed in 0..5 {
        simulate(seed, async |fleet| {
            for name in ["a", "b", "c"] {
                fleet.start_worker(name, fleet.settings());
            }
            fleet
                .wait_until("everybody has a shard", 60 * SECOND, |view| {
                    ["a", "b", "c"].iter().all(|name| !view.held(name).is_empty())
                })
                .await;
            fleet.sleep(5 * SECOND).await;
            let leader = fleet.view().leader().unwrap();
            let stopped = ["a", "b", "c"].into_iter().find(|name| *name != leader).unwrap();
            let report = fleet.stop_now(stopped).await.unwrap();
            let ends: BTreeSet<_> = report.leases.values().copied().collect();
            assert_eq!(ends, BTreeSet::from([ConsumerEnd::Released]));
            let rows = fleet.store().scan().await.unwrap().workers;
            assert!(
                rows.iter().all(|row| row.id.as_str() != stopped),
                "seed {seed}: {rows:?}"
            );
            let took = fleet
                .wait_until("the others hold everything", 60 * SECOND, |view| {
                    let others = ["a", "b", "c"].into_iter().filter(|name| *name != stopped);
                    others.map(|name| view.held(name).len()).sum::<usize>() == 4
                })
                .await;
            assert!(took < 2 * SECOND, "seed {seed}: {took:?}");
        });
    }
}
