//! Connections on which nothing comes: a worker notices within its deadline, says so, and reads on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{Clock as _, ClockExt as _};
use kcl_core::metrics::FETCHES;
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::source::SourceErrorKind;
use kcl_core::status::HealthIssue;
use kcl_core::{Worker, WorkerHandle};
use kcl_kinesis::{FanOut, KinesisStream, PollingSettings};
use kcl_lease_memory::MemoryLeaseStore;
use kinesis_local::{Fault, FaultRule, Operation, WireOptions};
use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use crate::kinesis_wire::served::{NAME, PATIENCE, Read, Served, aws};

const DEADLINE: Duration = Duration::from_secs(2);
const SECOND: Duration = Duration::from_secs(1);

struct Counts(Arc<AtomicUsize>);

#[async_trait]
impl RecordProcessor for Counts {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.0.fetch_add(batch.len(), Ordering::Relaxed);
        Ok(())
    }
}

/// How many fetches have failed.
#[derive(Clone, Default)]
struct FailedFetches(Arc<AtomicU64>);

impl CounterFn for FailedFetches {
    fn increment(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
    fn absolute(&self, _: u64) {}
}

impl Recorder for FailedFetches {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let is_failed = key.labels().any(|label| label.value() == "failed");
        match key.name() {
            FETCHES if is_failed => Counter::from_arc(Arc::new(self.clone())),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// A worker that has read one record, and what it has seen.
struct Reading {
    worker: WorkerHandle,
    count: Arc<AtomicUsize>,
    failed: FailedFetches,
}

async fn reading(served: &Served, source: KinesisStream) -> Reading {
    let count = Arc::<AtomicUsize>::default();
    let failed = FailedFetches::default();
    let counted = Arc::clone(&count);
    let worker = Worker::builder("suite")
        .worker_id("a")
        .stream(source)
        .lease_store(MemoryLeaseStore::new())
        .processor(move |_: &ShardContext| Counts(Arc::clone(&counted)))
        .metrics_recorder(Arc::new(failed.clone()))
        .build()
        .unwrap()
        .start();
    served.put("first");
    counted_up_to(served, &count, 1).await;
    assert_eq!(failed.0.load(Ordering::Relaxed), 0);
    Reading {
        worker,
        count,
        failed,
    }
}

async fn counted_up_to(served: &Served, count: &AtomicUsize, records: usize) {
    let seen = async {
        while count.load(Ordering::Relaxed) < records {
            served.clock.sleep(Duration::from_millis(10)).await;
        }
    };
    served
        .clock
        .timeout(PATIENCE, seen)
        .await
        .expect("the record is processed");
}

/// From the fault to the next record, with the worker in trouble in between.
async fn recovers(served: &Served, reading: Reading, within: Duration) {
    let Reading {
        worker,
        count,
        failed,
    } = reading;
    let begun = served.clock.now();
    served.put("second");
    let red = worker.wait_for(|status| status.leases.values().any(|lease| lease.trouble.is_some()));
    let red = served
        .clock
        .timeout(PATIENCE, red)
        .await
        .expect("the status shows the trouble");
    let lease = red.leases.values().next().unwrap();
    let said = (lease.trouble, lease.concern, red.is_healthy());
    let unreachable = (
        Some(SourceErrorKind::Unavailable),
        Some(HealthIssue::Unreachable),
        false,
    );
    assert_eq!(said, unreachable);
    assert!(failed.0.load(Ordering::Relaxed) > 0, "and so do the metrics");
    counted_up_to(served, &count, 2).await;
    let took = served.clock.now().saturating_since(begun);
    assert!(took <= within, "{took:?}");
    let green = worker.wait_for(|status| status.is_healthy());
    served
        .clock
        .timeout(PATIENCE, green)
        .await
        .expect("the status is well again");
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
}

async fn polling_recovers_from(fault: Fault) {
    let served = Served::new(1, WireOptions::default(), Read::Cbor).await;
    let settings = PollingSettings {
        request_deadline: DEADLINE,
        ..PollingSettings::default()
    };
    let source = served.source.clone().with_polling(settings);
    let reading = reading(&served, source).await;
    let rule = FaultRule::new(fault).on(Operation::GetRecords).times(1);
    served.server.faults().inject(rule);
    recovers(&served, reading, DEADLINE + SECOND).await;
}

#[tokio::test]
async fn unanswered_poll_is_given_up_in_time() {
    polling_recovers_from(Fault::Hang).await;
}

#[tokio::test]
async fn poll_with_half_an_answer_is_given_up() {
    polling_recovers_from(Fault::HalfOpen).await;
}

#[tokio::test]
async fn a_poll_whose_connection_is_reset_is_repeated() {
    polling_recovers_from(Fault::Reset).await;
}

#[tokio::test]
async fn poll_that_fails_in_service_is_repeated() {
    polling_recovers_from(Fault::InternalFailure).await;
}

/// Without the pause between subscriptions that Kinesis demands, which the recovery would otherwise wait for.
async fn by_fan_out() -> (Served, KinesisStream) {
    let options = WireOptions {
        resubscribe_after: Duration::ZERO,
        ..WireOptions::default()
    };
    let served = Served::new(1, options, Read::FanOut).await;
    let fan_out = FanOut::consumer("suite")
        .silence(DEADLINE)
        .spacing(Duration::ZERO);
    let source = KinesisStream::new(&aws(&served.server), NAME).with_fan_out(fan_out);
    (served, source)
}

#[tokio::test]
async fn silent_subscription_is_reopened_in_time() {
    let (served, source) = by_fan_out().await;
    let reading = reading(&served, source).await;
    served.server.silence_subscriptions();
    // And a second of pause after an error, with its jitter.
    recovers(&served, reading, DEADLINE + 2 * SECOND + SECOND).await;
}

#[tokio::test]
async fn reset_subscription_is_reopened_at_once() {
    let (served, source) = by_fan_out().await;
    let reading = reading(&served, source).await;
    served.server.reset_connections();
    recovers(&served, reading, 2 * SECOND + SECOND).await;
}
