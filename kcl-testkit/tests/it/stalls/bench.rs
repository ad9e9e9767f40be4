//! One worker in virtual time, with everything that can go wrong at hand.

use std::sync::Arc;
use std::time::Duration;

use kcl_core::WorkerHandle;
use kcl_core::clock::{Clock as _, ClockExt as _, TokioClock};
use kcl_core::internals::TaskScope;
use kcl_core::settings::Settings;
use kcl_core::status::LeaseStatus;
use kcl_core::types::Record;
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use kcl_testkit::faults::{FaultyLeaseStore, StoreFaults};
use kcl_testkit::faulty_stream::{FaultyStream, StreamFaults};
use kcl_testkit::processors::Journal;

use crate::stalls::meters::Meters;
use crate::workers;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) struct Bench {
    pub(crate) clock: TokioClock,
    pub(crate) stream: MemoryStream,
    pub(crate) source: StreamFaults,
    pub(crate) store: StoreFaults,
    pub(crate) leases: MemoryLeaseStore,
    pub(crate) journal: Journal,
    pub(crate) meters: Meters,
    pub(crate) scope: TaskScope,
    pub(crate) worker: WorkerHandle,
}

impl Bench {
    /// A worker that holds the leases of all shards.
    pub(crate) async fn running(shards: u32) -> Self {
        let bench = Self::starting(shards, Settings::default(), |_, _| {});
        bench.holds(shards).await;
        bench.clock.sleep(5 * SECOND).await;
        bench
    }

    /// A worker that was started, after the faults were prepared.
    pub(crate) fn starting(
        shards: u32,
        settings: Settings,
        prepare: impl FnOnce(&StreamFaults, &StoreFaults),
    ) -> Self {
        let clock = TokioClock::new();
        let stream = MemoryStream::builder("trucks")
            .shards(shards)
            .clock(Arc::new(clock))
            .build();
        let faulty = FaultyStream::new(stream.clone(), Arc::new(clock));
        let (source, store) = (faulty.faults().clone(), StoreFaults::new());
        let leases = MemoryLeaseStore::new();
        let connection =
            FaultyLeaseStore::new(Arc::new(leases.clone()), Arc::new(clock)).with_faults(store.clone());
        let (journal, meters, scope) = (Journal::new(Arc::new(clock)), Meters::default(), TaskScope::new());
        prepare(&source, &store);
        let worker = workers::builder("stalls")
            .worker_id("a")
            .stream(faulty)
            .lease_store(connection)
            .processor(journal.clone())
            .settings(settings)
            .clock(Arc::new(clock))
            .task_scope(scope.clone())
            .metrics_recorder(Arc::new(meters.clone()))
            .build()
            .unwrap()
            .start();
        Self {
            clock,
            stream,
            source,
            store,
            leases,
            journal,
            meters,
            scope,
            worker,
        }
    }

    pub(crate) async fn holds(&self, leases: u32) {
        let holds = self
            .worker
            .wait_for(|status| status.leases.len() == leases as usize);
        self.clock
            .timeout(120 * SECOND, holds)
            .await
            .expect("the leases are held");
    }

    /// Puts so many records, spread over the shards.
    pub(crate) fn put(&self, records: usize) {
        for n in 0..records {
            self.stream.put(format!("truck-{n}"), format!("{n}")).unwrap();
        }
    }

    /// Waits until every record that was put is processed, and checks that each was, in order, and returns how many came twice.
    pub(crate) async fn all_is_processed(&self) -> usize {
        let numbers = |records: Vec<(_, Record)>| -> Vec<_> {
            let number = |(shard, record): (_, Record)| (shard, record.sequence_number().clone());
            records.into_iter().map(number).collect()
        };
        let mut put = numbers(self.stream.put_log());
        put.sort();
        let processed = || {
            let mut processed = numbers(self.journal.processed());
            let all = processed.len();
            processed.sort();
            processed.dedup();
            (all - processed.len(), processed)
        };
        let all = async {
            while processed().1 != put {
                self.clock.sleep(SECOND / 10).await;
            }
        };
        let in_time = self.clock.timeout(600 * SECOND, all).await;
        assert!(
            in_time.is_ok(),
            "{} of {} are processed; {:?}",
            processed().1.len(),
            put.len(),
            self.worker.status()
        );
        processed().0
    }

    /// The one lease, or the first.
    pub(crate) fn lease(&self) -> LeaseStatus {
        self.worker.status().leases.into_values().next().expect("a lease")
    }

    pub(crate) async fn sleep(&self, time: Duration) {
        self.clock.sleep(time).await;
    }

    /// How far behind the first shard is, in reading and in processing, as the status says.
    pub(crate) fn lateness(&self) -> (Duration, Duration) {
        let (lease, now) = (self.lease(), self.clock.now());
        (lease.behind.at(now), lease.freshness.at(now))
    }

    pub(crate) async fn stops_cleanly(self) {
        self.worker.shutdown();
        assert!(self.worker.join().await.unwrap().is_clean());
    }
}
