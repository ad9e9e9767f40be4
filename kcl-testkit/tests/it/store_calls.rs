//! The calls of the lease store as a worker counts them, beside those that the store saw.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::lease_store::{Expect, Lease, LeaseChange, LeaseStore as _};
use kcl_core::metrics::{MetricsLevel, STORE_CALLS, STORE_PAGES, STORE_SECONDS};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::{MetricsSettings, Settings};
use kcl_core::types::{Incarnation, Position};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use kcl_testkit::faults::{FaultyLeaseStore, Happened, Operation, StoreEvent};
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use crate::workers;

/// Keeps the counters, by the name and the label, and of the histograms how many values each got.
#[derive(Default)]
struct Ledger(Mutex<BTreeMap<(String, String), Arc<AtomicU64>>>);

/// Counts the values of a histogram.
struct Values(Arc<AtomicU64>);

impl HistogramFn for Values {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Recorder for Ledger {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.number(key))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Values(self.number(key))))
    }
}

impl Ledger {
    fn number(&self, key: &Key) -> Arc<AtomicU64> {
        let label = key.labels().find(|label| label.key() != "worker");
        let label = label.map_or("", |label| label.value());
        let name = (key.name().to_owned(), label.to_owned());
        Arc::clone(self.0.lock().unwrap().entry(name).or_default())
    }

    /// The counts of a metric, by its label.
    fn counts(&self, metric: &str) -> BTreeMap<String, u64> {
        let numbers = self.0.lock().unwrap();
        let counts = numbers.iter().filter(|((name, _), _)| name == metric);
        let counts = counts.map(|((_, label), count)| (label.clone(), count.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

fn label(operation: Operation) -> &'static str {
    match operation {
        Operation::Prepare => "prepare",
        Operation::Scan => "scan",
        Operation::Read => "read",
        Operation::OwnedBy => "owned_by",
        Operation::Change => "change",
        Operation::ChangeWorker => "change_worker",
        Operation::ReadLock => "read_lock",
        Operation::ChangeLock => "change_lock",
    }
}

struct Idle;

#[async_trait::async_trait]
impl RecordProcessor for Idle {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }
}

/// Keeps the values of the label `worker`.
#[derive(Default)]
struct Labels(Mutex<BTreeSet<String>>);

impl Labels {
    fn note(&self, key: &Key) {
        let labels = key.labels().filter(|label| label.key() == "worker");
        let labels = labels.map(|label| label.value().to_owned());
        self.0.lock().unwrap().extend(labels);
    }
}

impl Recorder for Labels {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.note(key);
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.note(key);
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.note(key);
        Histogram::noop()
    }
}

#[test]
fn worker_label_is_the_same_at_each_start() {
    let labels = |id: Option<&str>, label: Option<&str>| {
        let seen = Arc::new(Labels::default());
        for _ in 0..2 {
            let metrics = MetricsSettings {
                worker_label: label.map(str::to_owned),
                ..MetricsSettings::default()
            };
            let settings = Settings {
                metrics,
                ..Settings::default()
            };
            let builder = workers::builder("counted")
                .stream(MemoryStream::builder("trucks").build())
                .lease_store(MemoryLeaseStore::new())
                .processor(|_: &ShardContext| Idle)
                .settings(settings)
                .metrics_recorder(Arc::clone(&seen) as Arc<_>);
            let builder = match id {
                Some(id) => builder.worker_id(id),
                None => builder,
            };
            builder.build().unwrap();
        }
        let seen = seen.0.lock().unwrap().clone();
        seen.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(labels(None, None), ["counted"]);
    assert_eq!(labels(Some("a"), None), ["a"]);
    assert_eq!(labels(Some("a"), Some("blue")), ["blue"]);
    assert_eq!(labels(None, Some("blue")), ["blue"]);
}

#[tokio::test(start_paused = true)]
async fn worker_counts_every_call_that_its_store_saw() {
    let clock = TokioClock::new();
    let seen = Arc::new(Mutex::new(BTreeMap::<_, u64>::new()));
    let sees = Arc::clone(&seen);
    let store = FaultyLeaseStore::new(Arc::new(MemoryLeaseStore::new()), Arc::new(clock)).with_recorder(
        move |event: &StoreEvent| {
            let outcome = match &event.happened {
                Happened::Answered | Happened::Applied(_) => "done",
                Happened::Refused => "refused",
                Happened::Nothing | Happened::Failed { .. } => panic!("{event:?}"),
            };
            let operation = label(event.call.operation()).to_owned();
            *sees
                .lock()
                .unwrap()
                .entry((operation, outcome.to_owned()))
                .or_default() += 1;
        },
    );
    let ledger = Arc::new(Ledger::default());
    let stream = MemoryStream::builder("trucks")
        .shards(3)
        .clock(Arc::new(clock))
        .build();
    for n in 0..20 {
        stream.put(format!("truck-{n}"), "here").unwrap();
    }
    let worker = workers::builder("counted")
        .worker_id("a")
        .stream(stream)
        .lease_store(store)
        .processor(|_: &ShardContext| Idle)
        .settings({
            let mut settings = Settings::default();
            settings.metrics.level = MetricsLevel::Detailed;
            settings
        })
        .clock(Arc::new(clock))
        .metrics_recorder(Arc::clone(&ledger) as Arc<_>)
        .build()
        .unwrap()
        .start();
    worker.wait_for(|status| status.leases.len() == 3).await;
    clock.sleep(Duration::from_secs(60)).await;
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
    let seen = seen.lock().unwrap().clone();
    let by = |label: fn(&(String, String)) -> &String| {
        let mut sums = BTreeMap::<_, u64>::new();
        for (labels, count) in &seen {
            *sums.entry(label(labels).clone()).or_default() += count;
        }
        sums
    };
    assert_eq!(ledger.counts(STORE_SECONDS), by(|(operation, _)| operation));
    assert_eq!(ledger.counts(STORE_CALLS), by(|(_, outcome)| outcome));
    for operation in [
        "prepare",
        "scan",
        "change",
        "change_worker",
        "read_lock",
        "change_lock",
    ] {
        assert!(
            seen.contains_key(&(operation.to_owned(), "done".to_owned())),
            "{operation}"
        );
    }
    // A small table in memory is read in one page.
    assert_eq!(
        ledger.counts(STORE_PAGES)[""],
        seen[&("scan".to_owned(), "done".to_owned())]
    );
}

#[tokio::test(start_paused = true)]
async fn rows_that_java_ended_cost_few_reads() {
    let (clock, memory) = (TokioClock::new(), MemoryLeaseStore::new());
    let stream = MemoryStream::builder("trucks")
        .shards(1)
        .clock(Arc::new(clock))
        .build();
    for n in 100..150 {
        let ended = Lease {
            owner: Some("a".parse().unwrap()),
            ..Lease::unowned(format!("shardId-{n:012}").parse().unwrap(), Position::ShardEnd)
        };
        let (key, incarnation) = (ended.key.clone(), Incarnation::from_random_bytes([1; 16]));
        let create = LeaseChange::Create(Box::new(ended));
        memory
            .change(&key, &Expect::Absent, &create, incarnation)
            .await
            .unwrap();
    }
    let store = FaultyLeaseStore::new(Arc::new(memory.clone()), Arc::new(clock));
    let faults = store.faults();
    let worker = workers::builder("calls")
        .worker_id("a")
        .stream(stream)
        .lease_store(store)
        .processor(|_: &ShardContext| Idle)
        .settings({
            let mut settings = Settings::default();
            settings.leases.cleanup = false;
            settings
        })
        .clock(Arc::new(clock))
        .build()
        .unwrap()
        .start();
    clock.sleep(Duration::from_secs(3600)).await;
    let before = faults.counts().of(Operation::Read);
    clock.sleep(Duration::from_secs(600)).await;
    let reads = faults.counts().of(Operation::Read) - before;
    assert!(reads <= 150, "{reads} reads in ten minutes, of 50 rows");
    assert_eq!(worker.status().leases.len(), 1);
    worker.shutdown();
    worker.join().await.unwrap();
}
