//! What a worker makes of a lease store that fails while it starts, takes leases up and stops.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::time::Duration;

use kcl_core::lease::{Lease, LeaseStore as _, StoreErrorKind};
use kcl_core::lifecycle::ConsumerEnd;
use kcl_testkit::faults::{Fault, Operation};
use kcl_testkit::fleet::Fleet;
use kcl_testkit::simulate;

const SECOND: Duration = Duration::from_secs(1);

fn owned(fleet: &Fleet) -> Vec<Lease> {
    let leases = fleet.view().leases().into_iter();
    leases.filter(|lease| lease.owner.is_some()).collect()
}

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

#[test]
fn a_leaving_worker_tries_to_delete_its_row_until_that_succeeds() {
    simulate(7, async |fleet| {
        fleet.start_worker("a", fleet.settings());
        fleet
            .wait_until("the worker holds its leases", 60 * SECOND, |view| {
                view.held("a").len() == 4
            })
            .await;
        let faults = fleet.store_faults("a");
        faults.once(Operation::ChangeWorker, Fault::Fail(StoreErrorKind::Throttled));
        faults.once(Operation::ChangeWorker, Fault::LoseReply);
        assert!(fleet.drain("a").await.unwrap().is_clean());
        assert_eq!(fleet.store().scan().await.unwrap().workers, []);
        assert_eq!(owned(&fleet), []);
    });
}

#[test]
fn a_leaving_worker_whose_row_cannot_be_deleted_gives_back_what_it_was_given_meanwhile() {
    for step in 0..40 {
        simulate(step, async |fleet| {
            fleet.start_worker("a", fleet.settings());
            let faults = fleet.store_faults("a");
            faults.always(Operation::Change, Fault::DelayReply(SECOND / 3));
            fleet.sleep(SECOND / 20 * u32::try_from(step).unwrap()).await;
            faults.always(Operation::ChangeWorker, Fault::Fail(StoreErrorKind::Throttled));
            let report = fleet.drain("a").await.unwrap();
            assert!(report.is_clean(), "step {step}: {report:?}");
            assert_eq!(owned(&fleet), [], "step {step}: {report:?}");
        });
    }
}
