use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use async_trait::async_trait;
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use super::*;
use crate::lease::store::Capabilities;
use crate::metrics::{MetricsLevel, STORE_CALLS, STORE_PAGES, STORE_SECONDS};
use crate::runtime::clock::TokioClock;
use crate::types::{ApplicationName, Position, ShardId};

const SECOND: Duration = Duration::from_secs(1);
const LIMITS: CallLimits = CallLimits {
    attempt: Duration::from_secs(10),
    resolve: Duration::from_secs(60),
    pause: SECOND,
};

/// A store that loses every change, and takes a second to say that no row is there.
#[derive(Debug, Default)]
struct Lossy {
    changes: AtomicU32,
}

#[async_trait]
impl LeaseStore for Lossy {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            owner_index: false,
            refusal_shows_row: false,
        }
    }

    async fn prepare(&self, _: &Preparation) -> Result<(), StoreError> {
        unreachable!("nothing is prepared")
    }

    async fn scan(&self) -> Result<Scan, StoreError> {
        unreachable!("nothing is scanned")
    }

    async fn read(&self, _: &LeaseKey) -> Result<Option<Lease>, StoreError> {
        TokioClock::new().sleep(SECOND).await;
        Ok(None)
    }

    async fn owned_by(&self, _: &WorkerId) -> Result<Option<Vec<LeaseKey>>, StoreError> {
        unreachable!("no index is asked")
    }

    async fn change(
        &self,
        _: &LeaseKey,
        _: &Expect,
        _: &LeaseChange,
        _: Incarnation,
    ) -> Result<Outcome, StoreError> {
        self.changes.fetch_add(1, Ordering::SeqCst);
        Err(StoreError::unknown(StoreErrorKind::Unavailable, "lost"))
    }

    async fn change_worker(&self, _: &WorkerChange) -> Result<WorkerOutcome, StoreError> {
        unreachable!("only leases are written")
    }

    async fn read_lock(&self) -> Result<Option<LeaderLock>, StoreError> {
        unreachable!("only leases are written")
    }

    async fn change_lock(&self, _: &LockExpect, _: &LockChange) -> Result<LockOutcome, StoreError> {
        unreachable!("only leases are written")
    }
}

/// Creates a lease that should be there after so long, and returns how certain its absence is, and how often it was tried.
async fn create_within(time: Duration) -> (Certainty, u32) {
    let (store, clock) = (Arc::new(Lossy::default()), Arc::new(TokioClock::new()));
    let client = StoreClient::new(
        Arc::clone(&store) as Arc<dyn LeaseStore>,
        Arc::clone(&clock) as Arc<dyn Clock>,
        TaskScope::new(),
        Incarnation::from_random_bytes([1; 16]),
        LIMITS,
        Metrics::register(None, "client", MetricsLevel::Detailed),
    );
    let lease = Lease::unowned(ShardId::new("child").unwrap(), Position::TrimHorizon);
    let created = client.create(lease, clock.now() + time).await;
    (
        created.unwrap_err().certainty(),
        store.changes.load(Ordering::SeqCst),
    )
}

#[tokio::test(start_paused = true)]
async fn create_is_not_sent_again_after_its_deadline() {
    assert_eq!(create_within(Duration::ZERO).await, (Certainty::Definite, 0));
    assert_eq!(create_within(SECOND).await, (Certainty::Unknown, 1));
    assert_eq!(create_within(3 * SECOND).await, (Certainty::Unknown, 2));
}

/// Keeps what is recorded, by the name and the labels.
#[derive(Debug, Default)]
struct Recorded {
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

impl Recorder for Recorded {
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

impl Recorded {
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
        let row = Lease::unowned(ShardId::new("shardId-1").unwrap(), Position::TrimHorizon);
        let current = Some(Box::new(row));
        self.answer(Ok(Outcome::Refused { current })).await
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

fn counted() -> (StoreClient, Arc<Recorded>) {
    let recorded = Arc::new(Recorded::default());
    let metrics = Metrics::register(
        Some(Arc::clone(&recorded) as Arc<_>),
        "w-1",
        MetricsLevel::Detailed,
    );
    let clock = TokioClock::new();
    let slow = Arc::new(Slow(clock));
    let incarnation = Incarnation::from_random_bytes([1; 16]);
    let client = StoreClient::new(
        slow,
        Arc::new(clock),
        TaskScope::new(),
        incarnation,
        LIMITS,
        metrics,
    );
    (client, recorded)
}

#[tokio::test(start_paused = true)]
async fn every_call_counts_and_its_time_by_operation() {
    let (client, recorded) = counted();
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
    let denied = client.prepare(&preparation).await.unwrap_err();
    assert_eq!(denied.kind(), StoreErrorKind::Denied);
    assert_eq!(client.scan(SECOND).await.unwrap().pages, 3);
    client.scan(SECOND).await.unwrap();
    client.read(&key).await.unwrap_err();
    client.owned_by(&worker, SECOND).await.unwrap();
    client
        .change(&key, None, Expect::Present, LeaseChange::Delete)
        .await
        .unwrap();
    client.change_worker(&leave).await.unwrap();
    client.read_lock().await.unwrap();
    client
        .change_lock(&LockExpect::Absent, &LockChange::Release)
        .await
        .unwrap_err();
    let expected = [
        ("done", 5),
        ("failed", 1),
        ("refused", 1),
        ("throttled", 1),
        ("unknown", 1),
    ];
    assert_eq!(
        recorded.calls(),
        expected.map(|(name, count)| (name.to_owned(), count))
    );
    let pages = Arc::clone(&recorded.counters.lock().unwrap()[STORE_PAGES]);
    assert_eq!(pages.load(Ordering::Relaxed), 6);
    assert_eq!(recorded.times("scan"), [0.25, 0.25]);
    for operation in [
        "change",
        "change_lock",
        "change_worker",
        "owned_by",
        "prepare",
        "read",
        "read_lock",
    ] {
        assert_eq!(recorded.times(operation).len(), 1, "{operation}");
    }
}

#[tokio::test(start_paused = true)]
async fn call_out_of_time_is_counted_as_abandoned() {
    let (client, recorded) = counted();
    let waited = client.scan(Duration::from_millis(100)).await;
    assert_eq!(waited.unwrap_err().certainty(), Certainty::Unknown);
    assert_eq!(recorded.calls(), [("abandoned".to_owned(), 1)]);
    assert_eq!(recorded.times("scan"), [0.1]);
}
