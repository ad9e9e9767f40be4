//! Workers on a lease store that fails while they start, take leases and stop.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::ErrorKind;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::lease_store::{
    Capabilities, Expect, LeaderLock, Lease, LeaseChange, LeaseStore, LockChange, LockExpect, LockOutcome,
    Outcome, Preparation, Scan, StoreError, StoreErrorKind, WorkerChange, WorkerOutcome,
};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::status::ConsumerEnd;
use kcl_core::types::{Incarnation, LeaseKey, WorkerId};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use kcl_testkit::faults::{Fault, Operation};
use kcl_testkit::fleet::Fleet;
use kcl_testkit::simulate_fleet;

use crate::workers;

const SECOND: Duration = Duration::from_secs(1);

fn owned(fleet: &Fleet) -> Vec<Lease> {
    let leases = fleet.view().leases().into_iter();
    leases.filter(|lease| lease.owner.is_some()).collect()
}

#[test]
fn aborted_worker_is_no_candidate_before_its_release() {
    for seed in 0..5 {
        simulate_fleet(seed, async |fleet| {
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
fn leaving_worker_deletes_its_row_until_it_succeeds() {
    simulate_fleet(7, async |fleet| {
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
fn leaving_worker_with_undeletable_row_returns_new_leases() {
    for step in 0..40 {
        simulate_fleet(step, async |fleet| {
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

/// A user's store with a bug: the first read of a lease panics.
#[derive(Debug)]
struct PanicsOnce {
    inner: MemoryLeaseStore,
    has_panicked: AtomicBool,
}

#[async_trait]
impl LeaseStore for PanicsOnce {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn prepare(&self, preparation: &Preparation) -> Result<(), StoreError> {
        self.inner.prepare(preparation).await
    }

    async fn scan(&self) -> Result<Scan, StoreError> {
        self.inner.scan().await
    }

    async fn read(&self, key: &LeaseKey) -> Result<Option<Lease>, StoreError> {
        assert!(
            self.has_panicked.swap(true, Ordering::Relaxed),
            "a bug of the store's"
        );
        self.inner.read(key).await
    }

    async fn owned_by(&self, worker: &WorkerId) -> Result<Option<Vec<LeaseKey>>, StoreError> {
        self.inner.owned_by(worker).await
    }

    async fn change(
        &self,
        key: &LeaseKey,
        expect: &Expect,
        change: &LeaseChange,
        incarnation: Incarnation,
    ) -> Result<Outcome, StoreError> {
        self.inner.change(key, expect, change, incarnation).await
    }

    async fn change_worker(&self, change: &WorkerChange) -> Result<WorkerOutcome, StoreError> {
        self.inner.change_worker(change).await
    }

    async fn read_lock(&self) -> Result<Option<LeaderLock>, StoreError> {
        self.inner.read_lock().await
    }

    async fn change_lock(&self, expect: &LockExpect, change: &LockChange) -> Result<LockOutcome, StoreError> {
        self.inner.change_lock(expect, change).await
    }
}

struct Ignores;

#[async_trait]
impl RecordProcessor for Ignores {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn lease_is_taken_despite_panic_of_first_try() {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(1)
        .clock(Arc::new(clock))
        .build();
    let worker = workers::builder("edges")
        .worker_id("a")
        .stream(stream)
        .lease_store(PanicsOnce {
            inner: MemoryLeaseStore::new(),
            has_panicked: AtomicBool::new(false),
        })
        .processor(move |_: &ShardContext| Ignores)
        .clock(Arc::new(clock))
        .build()
        .unwrap()
        .start();
    clock.sleep(10 * SECOND).await;
    assert_eq!(worker.status().leases.len(), 1);
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
}

#[test]
fn worker_that_may_not_write_its_row_fails() {
    for (fault, kind) in [
        (StoreErrorKind::Denied, ErrorKind::Denied),
        (StoreErrorKind::Missing, ErrorKind::Mismatch),
        (StoreErrorKind::Invalid, ErrorKind::Configuration),
    ] {
        simulate_fleet(8, async |fleet| {
            fleet.start_worker("a", fleet.settings());
            fleet
                .store_faults("a")
                .always(Operation::ChangeWorker, Fault::Fail(fault));
            let begun = fleet.now();
            let error = fleet.stopped("a").await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(
                error.to_string().contains("cannot write the worker's row"),
                "{error}"
            );
            assert!(fleet.now().saturating_since(begun) < SECOND);
        });
    }
}

#[test]
fn whole_start_takes_no_longer_than_start_timeout() {
    simulate_fleet(9, async |fleet| {
        let mut settings = fleet.settings();
        settings.start.timeout = 10 * SECOND;
        fleet.start_worker("a", settings);
        let faults = fleet.store_faults("a");
        faults.always(Operation::Scan, Fault::DelayReply(4 * SECOND));
        faults.always(Operation::ChangeWorker, Fault::Fail(StoreErrorKind::Throttled));
        let begun = fleet.now();
        let error = fleet.stopped("a").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let took = fleet.now().saturating_since(begun);
        assert!((5 * SECOND..=10 * SECOND).contains(&took), "{took:?}");
    });
}

/// A write is still on its way when it is tried again, and the second try is refused as one too many: nobody knows about the first yet.
#[test]
fn throttled_late_write_counts_from_its_first_try() {
    for throttled in 1..=12 {
        simulate_fleet(throttled, async |fleet| {
            fleet.start_worker("a", fleet.settings());
            fleet.produce(Duration::from_millis(200), 1);
            fleet
                .wait_until("the worker holds its leases", 60 * SECOND, |view| {
                    view.held("a").len() == 4
                })
                .await;
            fleet.sleep(5 * SECOND).await;
            let faults = fleet.store_faults("a");
            let attempt = fleet.settings().leases.failover_time / 6;
            for _ in 0..4 {
                faults.once(Operation::Change, Fault::DelayRequest(attempt * 3 / 2));
            }
            for _ in 0..4 * throttled {
                faults.once(Operation::Change, Fault::Fail(StoreErrorKind::Throttled));
            }
            // The oracle compares what the worker believes with what the store has accepted (I6).
            fleet.sleep(30 * SECOND).await;
            fleet.stop_producing();
            fleet.settle().await;
        });
    }
}
