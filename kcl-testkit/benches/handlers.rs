//! The cost of handlers, and the rates that they reach, all in one run: `cargo bench -p kcl-testkit --bench handlers`.
//!
//! It fails when a promise of docs/handlers.md is broken.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program of its own")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kcl_core::Worker;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::processor::{
    Concurrency, ProcessorError, RecordBatch, RecordHandler, RecordHandlers, RecordProcessor,
    RecordProcessorFactory, ShardContext,
};
use kcl_core::settings::Settings;
use kcl_core::types::Record;
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};

type Count = Arc<AtomicU64>;

/// Counts the records of each batch.
struct Batches(Count);

#[async_trait]
impl RecordProcessor for Batches {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        for record in &batch {
            self.0
                .fetch_add(record.data().len() as u64 / 100, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Counts each record.
struct Records(Count);

impl RecordHandler for Records {
    async fn handle(&self, record: &Record, _: &ShardContext) -> Result<(), ProcessorError> {
        self.0
            .fetch_add(record.data().len() as u64 / 100, Ordering::Relaxed);
        Ok(())
    }
}

/// Takes 50 ms for each record, and a second for those of the slow key.
struct Calls {
    count: Count,
    clock: TokioClock,
}

const SLOW: &str = "slow";

impl RecordHandler for Calls {
    async fn handle(&self, record: &Record, _: &ShardContext) -> Result<(), ProcessorError> {
        if record.partition_key() == Some(SLOW) {
            self.clock.sleep(Duration::from_secs(1)).await;
            return Ok(());
        }
        self.clock.sleep(Duration::from_millis(50)).await;
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// One shard with so many records of 100 bytes and a thousand keys, one of them named by `slow`.
fn stream(records: u64, slow: bool) -> MemoryStream {
    let stream = MemoryStream::builder("trucks").shards(1).build();
    for n in 0..records {
        let key = match n % 1000 {
            7 if slow => SLOW.to_owned(),
            n => format!("truck-{n}"),
        };
        stream.put(key, format!("{n:0100}")).unwrap();
    }
    stream
}

fn runtime() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().build().unwrap()
}

/// Starts a worker, and returns what `measure` does while it runs.
fn measured<T>(
    stream: MemoryStream,
    factory: impl RecordProcessorFactory,
    measure: impl AsyncFnOnce(TokioClock) -> T,
) -> T {
    runtime().block_on(async {
        let worker = Worker::builder("bench")
            .worker_id("a")
            .stream(stream)
            .lease_store(MemoryLeaseStore::new())
            .processor(factory)
            .settings(Settings::default())
            .build()
            .unwrap()
            .start();
        let measured = measure(TokioClock::new()).await;
        worker.abort();
        worker.join().await.unwrap();
        measured
    })
}

#[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
fn now() -> Instant {
    Instant::now()
}

const RECORDS: u64 = 400_000;

/// The nanoseconds for each record, from the second that is counted to the last but few.
fn nanos(factory: impl FnOnce(Count) -> Box<dyn RecordProcessorFactory>) -> f64 {
    let count = Count::default();
    let factory = factory(Arc::clone(&count));
    let took = measured(stream(RECORDS, false), Boxed(factory), async |clock| {
        while count.load(Ordering::Relaxed) == 0 {
            clock.sleep(Duration::from_millis(1)).await;
        }
        let (begun, first) = (now(), count.load(Ordering::Relaxed));
        while count.load(Ordering::Relaxed) < RECORDS {
            clock.sleep(Duration::from_millis(1)).await;
        }
        begun.elapsed().as_secs_f64() / (RECORDS - first) as f64
    });
    took * 1e9
}

struct Boxed(Box<dyn RecordProcessorFactory>);

impl RecordProcessorFactory for Boxed {
    fn create(&self, shard: &ShardContext) -> Box<dyn RecordProcessor> {
        self.0.create(shard)
    }

    fn concurrency(&self) -> Concurrency {
        self.0.concurrency()
    }
}

fn handlers(concurrency: Concurrency) -> impl Fn(Count) -> Box<dyn RecordProcessorFactory> {
    move |count| {
        let make = move |_: &ShardContext| Records(Arc::clone(&count));
        Box::new(RecordHandlers::new(concurrency, make))
    }
}

/// How many records a second the handlers of 50 ms return from, those of the slow key left out.
fn rate(concurrency: Concurrency, slow: bool, time: Duration) -> f64 {
    let count = Count::default();
    let counted = Arc::clone(&count);
    let make = move |_: &ShardContext| Calls {
        count: Arc::clone(&counted),
        clock: TokioClock::new(),
    };
    let factory = RecordHandlers::new(concurrency, make);
    measured(stream(60_000, slow), factory, async |clock| {
        while count.load(Ordering::Relaxed) == 0 {
            clock.sleep(Duration::from_millis(1)).await;
        }
        let (begun, first) = (now(), count.load(Ordering::Relaxed));
        clock.sleep(time).await;
        (count.load(Ordering::Relaxed) - first) as f64 / begun.elapsed().as_secs_f64()
    })
}

fn main() {
    let mut broken = 0;
    let mut row = |what: &str, measured: String, holds: bool, promise: &str| {
        broken += u32::from(!holds);
        println!(
            "| {what} | {measured} | {promise}: {} |",
            if holds { "yes" } else { "NO" }
        );
    };
    println!("| | measured | promised |");
    println!("|---|---:|---|");
    let (mut batches, mut ordered, mut per_key, mut unordered) = (f64::MAX, f64::MAX, f64::MAX, f64::MAX);
    // One after the other, so that a slower moment of the machine meets all of them.
    for _ in 0..7 {
        batches = batches.min(nanos(|count| {
            Box::new(move |_: &ShardContext| Batches(Arc::clone(&count)))
        }));
        ordered = ordered.min(nanos(handlers(Concurrency::Ordered)));
        per_key = per_key.min(nanos(handlers(Concurrency::PerKey(16))));
        unordered = unordered.min(nanos(handlers(Concurrency::Unordered(16))));
    }
    row(
        "a batch processor",
        format!("{batches:.0} ns a record"),
        true,
        "the measure",
    );
    let ratio = |nanos: f64| format!("{nanos:.0} ns, {:.2} times", nanos / batches);
    row(
        "Ordered",
        ratio(ordered),
        ordered <= 1.3 * batches,
        "at most 1.3 times",
    );
    row(
        "PerKey(16)",
        ratio(per_key),
        per_key <= 3.0 * batches,
        "at most 3 times",
    );
    row(
        "Unordered(16)",
        ratio(unordered),
        unordered <= 3.0 * batches,
        "at most 3 times",
    );

    let time = Duration::from_secs(10);
    let one = rate(Concurrency::Ordered, false, time);
    row(
        "Ordered, 50 ms each",
        format!("{one:.1} a second"),
        (18.0..=20.5).contains(&one),
        "20 a second",
    );
    let most = 64.0 * 20.0;
    let uniform = rate(Concurrency::PerKey(64), false, time);
    let share = uniform / most;
    row(
        "PerKey(64), 50 ms each, 1,000 keys",
        format!("{uniform:.0} a second, {share:.3} of what is possible"),
        share >= 0.95,
        "at least 0.95",
    );
    let beside_slow = rate(Concurrency::PerKey(64), true, time);
    // Of a thousand keys 999 are counted.
    let lost = 1.0 - beside_slow / (uniform * 0.999);
    row(
        "the same, one key with 1 s each",
        format!(
            "{beside_slow:.0} a second, {:.1} % less for the others",
            lost * 100.0
        ),
        lost < 0.05,
        "less than 5 % less",
    );
    assert_eq!(broken, 0, "promises are broken");
}
