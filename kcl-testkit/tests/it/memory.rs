//! The worker's budget of bytes: never exceeded, shared fairly, and missed loudly.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kcl_core::WorkerHandle;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::metrics::{BYTES_HELD, STARVED};
use kcl_core::processor::{
    Concurrency, ProcessorError, RecordBatch, RecordHandler, RecordHandlers, RecordProcessor,
    RecordProcessorFactory, ShardContext,
};
use kcl_core::settings::{ByteSize, Settings};
use kcl_core::source::StreamSource;
use kcl_core::status::{HealthIssue, WaitReason};
use kcl_core::types::{Record, ShardId};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use tokio::sync::Semaphore;

use crate::altered::Altered;
use crate::workers;

const SECOND: Duration = Duration::from_secs(1);
const KIB: usize = 1024;
const BUDGET: u64 = 32 * 1024 * 1024;

/// The most bytes that were ever held, and how many shards starved.
#[derive(Default, Clone)]
struct Meters {
    most: Arc<AtomicU64>,
    starved: Arc<AtomicU64>,
}

struct Highest(Arc<AtomicU64>);

impl GaugeFn for Highest {
    fn increment(&self, _: f64) {}
    fn decrement(&self, _: f64) {}
    fn set(&self, value: f64) {
        self.0.fetch_max(value as u64, Ordering::Relaxed);
    }
}

struct Count(Arc<AtomicU64>);

impl CounterFn for Count {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }
    fn absolute(&self, _: u64) {}
}

impl Recorder for Meters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match key.name() {
            STARVED => Counter::from_arc(Arc::new(Count(Arc::clone(&self.starved)))),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match key.name() {
            BYTES_HELD => Gauge::from_arc(Arc::new(Highest(Arc::clone(&self.most)))),
            _ => Gauge::noop(),
        }
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

type Seen = Arc<Mutex<BTreeMap<ShardId, Vec<Record>>>>;

/// Notes what it is given, and goes on when the gate is open.
struct Gated {
    seen: Seen,
    gate: Arc<Semaphore>,
}

#[async_trait]
impl RecordProcessor for Gated {
    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        let copies = batch.iter().map(Record::detached);
        self.seen
            .lock()
            .unwrap()
            .entry(shard.shard().clone())
            .or_default()
            .extend(copies);
        let _open = self.gate.acquire().await?;
        Ok(())
    }
}

struct Bench {
    stream: MemoryStream,
    worker: WorkerHandle,
    meters: Meters,
    clock: TokioClock,
    seen: Seen,
    gate: Arc<Semaphore>,
}

/// A worker that reads a stream of so many shards, filled by `fill`, with its gate closed.
fn bench(shards: u32, fill: impl Fn(&MemoryStream, u128)) -> Bench {
    bench_with(shards, fill, MemoryStream::clone)
}

/// As [`bench`], through another source that has the records of the stream.
fn bench_with<S: StreamSource>(
    shards: u32,
    fill: impl Fn(&MemoryStream, u128),
    source: impl FnOnce(&MemoryStream) -> S,
) -> Bench {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(shards)
        .clock(Arc::new(clock))
        .build();
    for key in keys(shards) {
        fill(&stream, key);
    }
    let (meters, seen, gate) = (Meters::default(), Seen::default(), Arc::new(Semaphore::new(0)));
    let (noted, closed) = (Arc::clone(&seen), Arc::clone(&gate));
    let gated = move |_: &ShardContext| Gated {
        seen: Arc::clone(&noted),
        gate: Arc::clone(&closed),
    };
    let worker = start(source(&stream), gated, &meters);
    Bench {
        stream,
        worker,
        meters,
        clock,
        seen,
        gate,
    }
}

/// Starts a worker with a budget of 32 MiB.
fn start(source: impl StreamSource, processor: impl RecordProcessorFactory, meters: &Meters) -> WorkerHandle {
    let mut settings = Settings::default();
    settings.memory.budget = ByteSize::mib(32);
    let builder = workers::builder("memory")
        .worker_id("a")
        .stream(source)
        .lease_store(MemoryLeaseStore::new())
        .processor(processor)
        .settings(settings)
        .metrics_recorder(Arc::new(meters.clone()));
    builder.build().unwrap().start()
}

/// A hash key in the middle of each shard.
fn keys(shards: u32) -> Vec<u128> {
    let width = u128::MAX / u128::from(shards);
    let middle = |n: u32| u128::from(n) * width + width / 2;
    (0..shards).map(middle).collect()
}

impl Bench {
    /// Waits until every record was seen, and checks that none was left out.
    async fn all_is_seen(&self) {
        let put = self.stream.put_log();
        let all = async {
            while self.seen.lock().unwrap().values().map(Vec::len).sum::<usize>() < put.len() {
                self.clock.sleep(SECOND).await;
            }
        };
        self.clock
            .timeout(3600 * SECOND, all)
            .await
            .expect("all records are seen");
        let mut expected = BTreeMap::<_, Vec<_>>::new();
        for (shard, record) in put {
            expected.entry(shard).or_default().push(record);
        }
        let numbers = |seen: &BTreeMap<ShardId, Vec<Record>>| -> Vec<_> {
            let of_shard = |records: &Vec<Record>| {
                records
                    .iter()
                    .map(|record| record.sequence_number().clone())
                    .collect::<Vec<_>>()
            };
            seen.values().map(of_shard).collect()
        };
        assert_eq!(numbers(&self.seen.lock().unwrap()), numbers(&expected));
    }

    fn most(&self) -> u64 {
        self.meters.most.load(Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn held_up_shards_share_the_budget() {
    let payload = Bytes::from(vec![0; 100 * KIB]);
    let bench = bench(40, |stream, key| {
        for _ in 0..50 {
            stream.put_with_hash_key("truck", key, payload.clone()).unwrap();
        }
    });
    bench.clock.sleep(30 * SECOND).await;
    assert_eq!(
        bench.seen.lock().unwrap().len(),
        40,
        "every shard was given a batch"
    );
    assert!(
        (BUDGET / 2..=BUDGET).contains(&bench.most()),
        "{} bytes",
        bench.most()
    );
    let held = bench.worker.status().leases;
    assert!(held.values().all(|lease| lease.waiting.is_some()), "{held:?}");
    bench.gate.add_permits(1000);
    bench.all_is_seen().await;
    assert!(bench.most() <= BUDGET, "{} bytes", bench.most());
    bench.worker.shutdown();
    assert!(bench.worker.join().await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn suddenly_large_records_stay_within_budget() {
    let (small, large) = (Bytes::from(vec![0; 100]), Bytes::from(vec![0; 900 * KIB]));
    let bench = bench(30, |stream, key| {
        for n in 0..2000 {
            let payload = if n % 1000 < 990 { &small } else { &large };
            stream.put_with_hash_key("truck", key, payload.clone()).unwrap();
        }
    });
    bench.gate.add_permits(1000);
    bench.all_is_seen().await;
    // A record that no room can be found for is kept alone.
    assert!(
        bench.most() <= BUDGET + 30 * 900 * KIB as u64,
        "{} bytes",
        bench.most()
    );
    bench.worker.shutdown();
    assert!(bench.worker.join().await.unwrap().is_clean());
}

/// Keeps every batch of one shard for ever.
struct Hoarder {
    of: ShardId,
    kept: Vec<RecordBatch>,
    seen: Seen,
}

#[async_trait]
impl RecordProcessor for Hoarder {
    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        if *shard.shard() == self.of {
            self.kept.push(batch);
        } else {
            self.seen
                .lock()
                .unwrap()
                .entry(shard.shard().clone())
                .or_default()
                .extend(batch.to_vec());
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn processor_that_keeps_batches_starves_itself() {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(2)
        .clock(Arc::new(clock))
        .build();
    let [hoarded, other] = keys(2)[..] else {
        unreachable!()
    };
    let payload = Bytes::from(vec![0; 500 * KIB]);
    let put = |key| stream.put_with_hash_key("truck", key, payload.clone()).unwrap().0;
    let mut hoarded = (0..200).map(|_| put(hoarded)).collect::<Vec<_>>();
    let hoarded = hoarded.remove(0);
    let seen = Seen::default();
    let (noted, meters, of) = (Arc::clone(&seen), Meters::default(), hoarded.clone());
    let hoarder = move |_: &ShardContext| Hoarder {
        of: of.clone(),
        kept: Vec::new(),
        seen: Arc::clone(&noted),
    };
    let worker = start(stream.clone(), hoarder, &meters);
    clock.sleep(300 * SECOND).await;
    let status = worker.status();
    let lease = status
        .leases
        .values()
        .find(|lease| lease.waiting.is_some())
        .expect("one waits");
    let (reason, since) = lease.waiting.unwrap();
    assert_eq!(reason, WaitReason::ByteBudget);
    assert!(since.saturating_since(kcl_core::clock::Moment::ZERO) < 60 * SECOND);
    assert_eq!(lease.concern, Some(HealthIssue::Starved));
    assert_eq!(meters.starved.load(Ordering::Relaxed), 1);
    assert!(meters.most.load(Ordering::Relaxed) <= BUDGET);
    // It stays the owner, and the other shard does not suffer.
    assert_eq!(status.leases.len(), 2);
    put(other);
    clock.sleep(5 * SECOND).await;
    assert_eq!(seen.lock().unwrap().len(), 1);
    worker.abort();
    worker.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn records_larger_than_a_part_come_once() {
    let payload = Bytes::from(vec![0; 1024 * KIB]);
    let bench = bench(40, |stream, key| {
        for _ in 0..3 {
            stream.put_with_hash_key("truck", key, payload.clone()).unwrap();
        }
    });
    bench.clock.sleep(120 * SECOND).await;
    assert!(bench.most() <= BUDGET, "{} were held", bench.most());
    bench.gate.add_permits(100_000);
    bench.all_is_seen().await;
    assert!(bench.most() <= BUDGET, "{} were held", bench.most());
    bench.worker.shutdown();
    assert!(bench.worker.join().await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn shard_begins_while_others_hold_all_lent_bytes() {
    let large = Bytes::from(vec![0; 1024 * KIB]);
    // More shards than half the budget has parts of 64 KiB: ten of them large and held up, the others small.
    let bench = bench(400, |stream, key| {
        let is_large = key < u128::MAX / 40;
        for _ in 0..if is_large { 10 } else { 1 } {
            let payload = if is_large {
                large.clone()
            } else {
                Bytes::from_static(b"small")
            };
            stream.put_with_hash_key("truck", key, payload).unwrap();
        }
    });
    bench.clock.sleep(600 * SECOND).await;
    let begun = bench.seen.lock().unwrap().len();
    assert!(begun >= 390, "{begun} of 400 shards were begun");
    assert!(bench.most() <= BUDGET, "{} were held", bench.most());
    bench.gate.add_permits(100_000);
    bench.all_is_seen().await;
    bench.worker.shutdown();
    assert!(bench.worker.join().await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn bytes_beside_an_answer_count_until_source_pauses() {
    let few = 4 * 1024 * KIB;
    for (bytes, is_paused) in [(few, false), (BUDGET as usize, true)] {
        let paused = Arc::<AtomicBool>::default();
        let put_five = |stream: &MemoryStream, key| {
            for _ in 0..5 {
                stream.put_with_hash_key("truck", key, "somewhere").unwrap();
            }
        };
        let noted = Arc::clone(&paused);
        let bench = bench_with(1, put_five, |stream| {
            // It keeps so much beside every answer, until it is asked to pause.
            let keeps = Altered::of(stream.clone()).fetching(move |fetch| {
                fetch.kept = if fetch.records.is_empty() { 0 } else { bytes };
            });
            keeps.pausing(move || noted.store(true, Ordering::Relaxed))
        });
        bench.gate.add_permits(10);
        bench.all_is_seen().await;
        assert_eq!(paused.load(Ordering::Relaxed), is_paused, "{bytes} bytes");
        assert!((few as u64..=BUDGET).contains(&bench.most()), "{}", bench.most());
        bench.worker.shutdown();
        assert!(bench.worker.join().await.unwrap().is_clean());
    }
}

#[tokio::test(start_paused = true)]
async fn mixed_sizes_are_fetched_once_and_fit() {
    let (small, large) = (Bytes::from(vec![0; KIB]), Bytes::from(vec![0; 10 * 1024 * KIB]));
    let put_mixed = |stream: &MemoryStream, key| {
        for n in 0..40 {
            let payload = if n % 20 == 13 { &large } else { &small };
            stream.put_with_hash_key("truck", key, payload.clone()).unwrap();
        }
    };
    let fetched = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&fetched);
    let bench = bench_with(12, put_mixed, |stream| {
        Altered::of(stream.clone()).fetching(move |fetch| {
            counted.fetch_add(fetch.records.len(), Ordering::Relaxed);
        })
    });
    // All shards have taken what they can while nothing is finished.
    bench.clock.sleep(60 * SECOND).await;
    assert!(bench.most() <= BUDGET, "{} bytes", bench.most());
    assert_eq!(bench.seen.lock().unwrap().len(), 12, "every shard has begun");
    bench.gate.add_permits(100_000);
    bench.all_is_seen().await;
    assert!(bench.most() <= BUDGET, "{} bytes", bench.most());
    assert_eq!(fetched.load(Ordering::Relaxed), 12 * 40, "none is read twice");
    bench.worker.shutdown();
    assert!(bench.worker.join().await.unwrap().is_clean());
}

/// Counts what it handles, and fails for one key.
struct Counting(Arc<AtomicUsize>);

impl RecordHandler for Counting {
    async fn handle(&self, record: &Record, _: &ShardContext) -> Result<(), ProcessorError> {
        if record.partition_key() == Some("parked") {
            return Err("not yet".into());
        }
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn million_records_pass_one_that_is_parked() {
    const MILLION: usize = 1_000_000;
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(1)
        .clock(Arc::new(clock))
        .build();
    let payload = Bytes::from(vec![0; 100]);
    stream.put("parked", payload.clone()).unwrap();
    for n in 0..MILLION {
        stream
            .put(format!("truck-{}", n % 1000), payload.clone())
            .unwrap();
    }
    let (meters, count) = (Meters::default(), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&count);
    let counting = move |_: &ShardContext| Counting(Arc::clone(&counted));
    let handlers = RecordHandlers::new(Concurrency::PerKey(64), counting);
    let worker = start(stream, handlers, &meters);
    let all = async {
        while count.load(Ordering::Relaxed) < MILLION {
            clock.sleep(SECOND).await;
        }
    };
    clock.timeout(3600 * SECOND, all).await.expect("all go by");
    let most = meters.most.load(Ordering::Relaxed);
    assert!(most <= BUDGET, "{most} bytes");
    let status = worker.status();
    let lease = status.leases.values().next().unwrap();
    assert_eq!((lease.parked, lease.unfinished), (1, 1));
    assert!(lease.failing.is_some());
    worker.abort();
    worker.join().await.unwrap();
}
