//! A callback that takes long: no stall, but said.

use std::cell::RefCell;
use std::sync::Arc;

use async_trait::async_trait;

use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::metrics::{SHARDS_OF_CONCERN, STALLS, WAIT_SECONDS};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext, StartFrom};
use kcl_core::status::{HealthIssue, WaitReason};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use kcl_testkit::processors::Misbehaviour;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::stalls::bench::{Bench, SECOND};
use crate::stalls::meters::Meters;
use crate::workers;

thread_local! {
    /// The messages of all warnings on this thread, which is that of one test; none before the test asks for them.
    static WARNINGS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Collects the warnings of one thread, but listens for the whole program: a listener of one thread misses a line that another thread
/// logged first. It wants neither spans nor other levels, so the other tests of the program lose no time by it.
struct Listener;

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::WARN
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn event(&self, event: &Event<'_>) {
        WARNINGS.with_borrow_mut(|warnings| {
            if let Some(warnings) = warnings {
                let mut message = Message(String::new());
                event.record(&mut message);
                warnings.push(message.0);
            }
        });
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn warnings_of_callbacks() -> usize {
    let of_callbacks = |line: &&String| line.contains("callback has not returned");
    WARNINGS.with_borrow(|warnings| warnings.iter().flatten().filter(of_callbacks).count())
}

#[tokio::test(start_paused = true)]
async fn callback_that_never_returns_keeps_its_lease() {
    // No other test of this program listens.
    tracing::subscriber::set_global_default(Listener).unwrap();
    WARNINGS.set(Some(Vec::new()));
    let bench = Bench::running(2).await;
    let token = bench.lease().token;
    bench.journal.misbehave(Misbehaviour::Hang);
    bench.put(20);
    bench.sleep(58 * SECOND).await;
    assert!(bench.worker.status().is_healthy());
    assert_eq!(warnings_of_callbacks(), 0);

    let red = bench.worker.wait_for(|status| !status.is_healthy()).await;
    let concerns: Vec<_> = red.leases.values().filter_map(|lease| lease.concern).collect();
    assert_eq!(concerns, [HealthIssue::SlowCallback]);
    bench.sleep(2 * SECOND).await;
    assert_eq!(warnings_of_callbacks(), 1);
    assert_eq!(bench.meters.of(SHARDS_OF_CONCERN, "slow_callback"), 1.0);

    bench.sleep(3 * 3600 * SECOND).await;
    // Doubling from a minute on: the last after 7680 s.
    assert_eq!(warnings_of_callbacks(), 8);
    let age = bench.meters.of(WAIT_SECONDS, "callback");
    assert!((10_860.0..10_870.0).contains(&age), "{age}");
    assert_eq!(bench.meters.read(STALLS), 0.0);
    assert_eq!(bench.worker.status().leases.len(), 2);
    assert_eq!(bench.lease().token, token, "the same ownership");
    bench.worker.abort();
    bench.worker.join().await.unwrap();
    assert_eq!(bench.meters.of(SHARDS_OF_CONCERN, "slow_callback"), 0.0);
    assert_eq!(bench.meters.of(WAIT_SECONDS, "callback"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn late_callback_is_no_concern_once_it_returns() {
    let bench = Bench::running(1).await;
    bench.journal.misbehave(Misbehaviour::TakeTime(600 * SECOND));
    bench.put(1);
    bench.worker.wait_for(|status| !status.is_healthy()).await;
    bench.worker.wait_for(|status| status.is_healthy()).await;
    assert_eq!(bench.all_is_processed().await, 0);
    bench.sleep(2 * SECOND).await;
    assert_eq!(bench.meters.of(SHARDS_OF_CONCERN, "slow_callback"), 0.0);
    assert_eq!(bench.meters.of(WAIT_SECONDS, "callback"), 0.0);
    bench.stops_cleanly().await;
}

/// Takes an hour to begin.
struct SlowStart(TokioClock);

#[async_trait]
impl RecordProcessor for SlowStart {
    async fn initialize(&mut self, _: &ShardContext) -> Result<StartFrom, ProcessorError> {
        self.0.sleep(3600 * SECOND).await;
        Ok(StartFrom::Checkpoint)
    }

    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn initialize_of_an_hour_keeps_its_lease() {
    let (clock, meters) = (TokioClock::new(), Meters::default());
    let stream = MemoryStream::builder("trucks")
        .shards(1)
        .clock(Arc::new(clock))
        .build();
    let worker = workers::builder("stalls")
        .worker_id("a")
        .stream(stream)
        .lease_store(MemoryLeaseStore::new())
        .processor(move |_: &ShardContext| SlowStart(clock))
        .metrics_recorder(Arc::new(meters.clone()))
        .clock(Arc::new(clock))
        .build()
        .unwrap()
        .start();
    worker.wait_for(|status| !status.leases.is_empty()).await;
    clock.sleep(3000 * SECOND).await;
    let status = worker.status();
    let lease = status.leases.values().next().unwrap();
    let (reason, age) = lease.waited(status.at).unwrap();
    assert_eq!((reason, age.as_secs()), (WaitReason::Initialize, 3000));
    assert_eq!(lease.concern, Some(HealthIssue::SlowCallback));
    let measured = meters.of(WAIT_SECONDS, "initialize");
    assert!((2999.0..=3000.0).contains(&measured), "{measured}");
    assert_eq!(meters.read(STALLS), 0.0);
    let token = lease.token;
    clock.sleep(700 * SECOND).await;
    let status = worker.status();
    assert!(status.is_healthy());
    assert_eq!(status.leases.values().next().unwrap().token, token);
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
}
