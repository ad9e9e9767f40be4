//! Counts every call of a lease store: what coordination costs is what the user pays for the table.

use std::sync::Arc;

use async_trait::async_trait;

use crate::lease::change::{Expect, LeaseChange};
use crate::lease::row::Lease;
use crate::lease::store::{
    Capabilities, Certainty, LeaseStore, Outcome, Preparation, Scan, StoreError, StoreErrorKind,
};
use crate::lease::worker_row::{
    LeaderLock, LockChange, LockExpect, LockOutcome, WorkerChange, WorkerOutcome,
};
use crate::metrics::{Metrics, StoreOperation, StoreOutcome};
use crate::runtime::clock::{Clock, Moment};
use crate::types::{Incarnation, LeaseKey, WorkerId};

/// A lease store whose calls are counted and timed. It changes nothing else about them.
#[derive(Debug)]
pub(crate) struct MeteredStore {
    inner: Arc<dyn LeaseStore>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

impl MeteredStore {
    pub(crate) fn new(inner: Arc<dyn LeaseStore>, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        Self {
            inner,
            clock,
            metrics,
        }
    }

    /// Waits for the call and counts it by how it ended.
    async fn count<T>(
        &self,
        operation: StoreOperation,
        call: impl Future<Output = Result<T, StoreError>> + Send,
        judge: impl Fn(&T) -> StoreOutcome + Send,
    ) -> Result<T, StoreError> {
        let pending = PendingCall {
            store: self,
            operation,
            begun: self.clock.now(),
            outcome: StoreOutcome::Abandoned,
        };
        let ended = call.await;
        pending.end(match &ended {
            Ok(answer) => judge(answer),
            Err(error) => verdict(error),
        });
        ended
    }
}

/// A call under way. One whose future is dropped reached the store even so, and is counted as abandoned.
struct PendingCall<'a> {
    store: &'a MeteredStore,
    operation: StoreOperation,
    begun: Moment,
    outcome: StoreOutcome,
}

impl PendingCall<'_> {
    fn end(mut self, outcome: StoreOutcome) {
        self.outcome = outcome;
    }
}

impl Drop for PendingCall<'_> {
    fn drop(&mut self) {
        let took = self.store.clock.now().saturating_since(self.begun);
        self.store.metrics.store_call(self.operation, self.outcome, took);
    }
}

fn verdict(error: &StoreError) -> StoreOutcome {
    match (error.kind(), error.certainty()) {
        (StoreErrorKind::Throttled, _) => StoreOutcome::Throttled,
        (_, Certainty::Unknown) => StoreOutcome::Unknown,
        (_, Certainty::Definite) => StoreOutcome::Failed,
    }
}

fn done<T>(_: &T) -> StoreOutcome {
    StoreOutcome::Done
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl LeaseStore for MeteredStore {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn prepare(&self, preparation: &Preparation) -> Result<(), StoreError> {
        self.count(StoreOperation::Prepare, self.inner.prepare(preparation), done)
            .await
    }

    async fn scan(&self) -> Result<Scan, StoreError> {
        let scan = self.count(StoreOperation::Scan, self.inner.scan(), done).await?;
        self.metrics.store_pages(scan.pages);
        Ok(scan)
    }

    async fn read(&self, key: &LeaseKey) -> Result<Option<Lease>, StoreError> {
        self.count(StoreOperation::Read, self.inner.read(key), done).await
    }

    async fn owned_by(&self, worker: &WorkerId) -> Result<Option<Vec<LeaseKey>>, StoreError> {
        self.count(StoreOperation::OwnedBy, self.inner.owned_by(worker), done)
            .await
    }

    async fn change(
        &self,
        key: &LeaseKey,
        expect: &Expect,
        change: &LeaseChange,
        incarnation: Incarnation,
    ) -> Result<Outcome, StoreError> {
        let call = self.inner.change(key, expect, change, incarnation);
        self.count(StoreOperation::Change, call, |outcome| match outcome {
            Outcome::Applied(_) => StoreOutcome::Done,
            Outcome::Refused { .. } => StoreOutcome::Refused,
        })
        .await
    }

    async fn change_worker(&self, change: &WorkerChange) -> Result<WorkerOutcome, StoreError> {
        let call = self.inner.change_worker(change);
        self.count(StoreOperation::ChangeWorker, call, |outcome| match outcome {
            WorkerOutcome::Applied => StoreOutcome::Done,
            WorkerOutcome::Refused => StoreOutcome::Refused,
        })
        .await
    }

    async fn read_lock(&self) -> Result<Option<LeaderLock>, StoreError> {
        self.count(StoreOperation::ReadLock, self.inner.read_lock(), done)
            .await
    }

    async fn change_lock(&self, expect: &LockExpect, change: &LockChange) -> Result<LockOutcome, StoreError> {
        let call = self.inner.change_lock(expect, change);
        self.count(StoreOperation::ChangeLock, call, |outcome| match outcome {
            LockOutcome::Applied => StoreOutcome::Done,
            LockOutcome::Refused => StoreOutcome::Refused,
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use metrics::{
        Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    };

    use super::*;
    use crate::metrics::{STORE_CALLS, STORE_PAGES, STORE_SECONDS};
    use crate::runtime::clock::{ClockExt as _, TokioClock};
    use crate::types::ApplicationName;

    /// Keeps what is recorded, by the name and the labels.
    #[derive(Debug, Default)]
    struct Ledger {
        counters: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
        times: Mutex<BTreeMap<String, Arc<Times>>>,
    }

    #[derive(Debug, Default)]
    struct Times(Mutex<Vec<f64>>);

    impl HistogramFn for Times {
        fn record(&self, value: f64) {
            self.0.lock().unwrap().push(value);
        }
    }

    fn text(key: &Key) -> String {
        let labels = key.labels().filter(|label| label.key() != "worker");
        let values = labels.map(|label| label.value().to_owned());
        let parts = [key.name().to_owned()].into_iter().chain(values);
        parts.collect::<Vec<_>>().join(" ")
    }

    impl Recorder for Ledger {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            let mut counters = self.counters.lock().unwrap();
            Counter::from_arc(Arc::clone(counters.entry(text(key)).or_default()))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            let mut times = self.times.lock().unwrap();
            Histogram::from_arc(Arc::clone(times.entry(text(key)).or_default()))
        }
    }

    impl Ledger {
        /// The calls that were counted, without the name of the metric.
        fn calls(&self) -> Vec<(String, u64)> {
            let counters = self.counters.lock().unwrap();
            let calls = counters.iter().filter_map(|(name, count)| {
                let name = name.strip_prefix(STORE_CALLS)?.trim_start().to_owned();
                Some((name, count.load(Ordering::Relaxed)))
            });
            calls.filter(|(_, count)| *count > 0).collect()
        }

        fn times(&self, operation: &str) -> Vec<f64> {
            let times = self.times.lock().unwrap();
            times[&format!("{STORE_SECONDS} {operation}")]
                .0
                .lock()
                .unwrap()
                .clone()
        }
    }

    /// A store that takes 250 ms for each answer, and answers each kind of call in its own way.
    #[derive(Debug)]
    struct Slow(TokioClock);

    impl Slow {
        async fn answer<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
            self.0.sleep(Duration::from_millis(250)).await;
            answer
        }
    }

    #[async_trait]
    impl LeaseStore for Slow {
        fn capabilities(&self) -> Capabilities {
            Capabilities {
                owner_index: true,
                refusal_shows_row: true,
            }
        }

        async fn prepare(&self, _: &Preparation) -> Result<(), StoreError> {
            self.answer(Err(StoreError::definite(StoreErrorKind::Denied, "no")))
                .await
        }

        async fn scan(&self) -> Result<Scan, StoreError> {
            let pages = 3;
            self.answer(Ok(Scan {
                pages,
                ..Scan::default()
            }))
            .await
        }

        async fn read(&self, _: &LeaseKey) -> Result<Option<Lease>, StoreError> {
            self.answer(Err(StoreError::definite(StoreErrorKind::Throttled, "slow down")))
                .await
        }

        async fn owned_by(&self, _: &WorkerId) -> Result<Option<Vec<LeaseKey>>, StoreError> {
            self.answer(Ok(None)).await
        }

        async fn change(
            &self,
            _: &LeaseKey,
            _: &Expect,
            _: &LeaseChange,
            _: Incarnation,
        ) -> Result<Outcome, StoreError> {
            self.answer(Ok(Outcome::Refused { current: None })).await
        }

        async fn change_worker(&self, _: &WorkerChange) -> Result<WorkerOutcome, StoreError> {
            self.answer(Ok(WorkerOutcome::Applied)).await
        }

        async fn read_lock(&self) -> Result<Option<LeaderLock>, StoreError> {
            self.answer(Ok(None)).await
        }

        async fn change_lock(&self, _: &LockExpect, _: &LockChange) -> Result<LockOutcome, StoreError> {
            self.answer(Err(StoreError::unknown(StoreErrorKind::Unavailable, "lost")))
                .await
        }
    }

    fn counted() -> (MeteredStore, Arc<Ledger>) {
        let ledger = Arc::new(Ledger::default());
        let metrics = Metrics::register(Some(Arc::clone(&ledger) as Arc<_>), "w-1");
        let clock = TokioClock::new();
        let slow = Arc::new(Slow(clock));
        (MeteredStore::new(slow, Arc::new(clock), metrics), ledger)
    }

    #[tokio::test(start_paused = true)]
    async fn every_call_is_counted_under_its_operation_and_outcome() {
        let (store, ledger) = counted();
        let key = "shardId-1".parse().unwrap();
        let incarnation = Incarnation::from_random_bytes([1; 16]);
        let worker = WorkerId::new("w-1").unwrap();
        let preparation = Preparation {
            application: ApplicationName::new("app").unwrap(),
            worker: worker.clone(),
            within: Duration::ZERO,
            take_over_java: false,
        };
        let leave = WorkerChange::Leave {
            id: worker.clone(),
            incarnation,
        };
        let denied = store.prepare(&preparation).await.unwrap_err();
        assert_eq!(denied.kind(), StoreErrorKind::Denied);
        assert_eq!(store.scan().await.unwrap().pages, 3);
        store.scan().await.unwrap();
        store.read(&key).await.unwrap_err();
        store.owned_by(&worker).await.unwrap();
        store
            .change(&key, &Expect::Present, &LeaseChange::Delete, incarnation)
            .await
            .unwrap();
        store.change_worker(&leave).await.unwrap();
        store.read_lock().await.unwrap();
        store
            .change_lock(&LockExpect::Absent, &LockChange::Release)
            .await
            .unwrap_err();
        let expected = [
            ("change refused", 1),
            ("change_lock unknown", 1),
            ("change_worker done", 1),
            ("owned_by done", 1),
            ("prepare failed", 1),
            ("read throttled", 1),
            ("read_lock done", 1),
            ("scan done", 2),
        ];
        assert_eq!(
            ledger.calls(),
            expected.map(|(name, count)| (name.to_owned(), count))
        );
        let pages = Arc::clone(&ledger.counters.lock().unwrap()[STORE_PAGES]);
        assert_eq!(pages.load(Ordering::Relaxed), 6);
        assert_eq!(ledger.times("scan"), [0.25, 0.25]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_whose_answer_nobody_waits_for_is_counted_as_abandoned() {
        let (store, ledger) = counted();
        let clock = TokioClock::new();
        let waited = clock.timeout(Duration::from_millis(100), store.scan()).await;
        assert!(waited.is_err());
        assert_eq!(ledger.calls(), [("scan abandoned".to_owned(), 1)]);
        assert_eq!(ledger.times("scan"), [0.1]);
    }
}
