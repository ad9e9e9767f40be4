//! Batches that are gathered across fetches.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::FlowScope;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::{Batching, ByteSize, Settings};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use kcl_testkit::ProcessorBench;
use kcl_testkit::fleet::{Fleet, Member, Simulation};

use crate::workers;

const SECOND: Duration = Duration::from_secs(1);

/// The sizes of the batches that processors were given.
type Sizes = Arc<Mutex<Vec<usize>>>;

/// Notes the sizes of its batches, and takes so long for each record.
struct Notes {
    sizes: Sizes,
    each: Duration,
    clock: TokioClock,
}

#[async_trait]
impl RecordProcessor for Notes {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.sizes.lock().unwrap().push(batch.len());
        let records = u32::try_from(batch.len()).unwrap();
        self.clock.sleep(self.each * records).await;
        Ok(())
    }
}

fn gathering(max_records: u32, max_wait: Duration) -> Settings {
    let mut settings = Settings::default();
    settings.leases.failover_time = 4 * SECOND;
    settings.processing.batching = Some(Batching {
        max_records,
        max_wait,
        ..Batching::default()
    });
    settings
}

/// A bench of a processor that does nothing.
fn bench(settings: Settings) -> ProcessorBench {
    let processor = |_: &ShardContext| Notes {
        sizes: Sizes::default(),
        each: Duration::ZERO,
        clock: TokioClock::new(),
    };
    let mut bench = ProcessorBench::of(processor).settings(settings).start();
    bench.run(2 * SECOND);
    bench
}

/// Puts so many records, one each half second.
fn put_slowly(bench: &mut ProcessorBench, records: usize) {
    for _ in 0..records {
        bench.put("truck-7", "x");
        bench.run(SECOND / 2);
    }
}

/// The calls so far: how many records each of `process_records` had, and the names of the others.
fn calls(bench: &ProcessorBench) -> Vec<String> {
    let calls = bench.calls().into_iter();
    let named = calls.map(|call| match call.method {
        "process_records" => call.records.len().to_string(),
        other => other.to_owned(),
    });
    named.collect()
}

#[test]
fn gathered_rest_is_offered_before_handover() {
    let mut bench = bench(gathering(10, 1000 * SECOND));
    put_slowly(&mut bench, 25);
    assert_eq!(calls(&bench), ["initialize", "10", "10"]);
    bench.hand_over();
    assert_eq!(
        calls(&bench)[3..5],
        ["5", "shutdown_requested"],
        "{:?}",
        calls(&bench)
    );
    bench.until_finished();
    let processed = bench.calls().into_iter().map(|call| call.records.len());
    assert_eq!(processed.sum::<usize>(), 25, "no record came again");
}

#[test]
fn batch_waits_no_longer_than_allowed() {
    let mut bench = bench(gathering(1000, 5 * SECOND));
    put_slowly(&mut bench, 3);
    bench.run(2 * SECOND);
    assert_eq!(calls(&bench), ["initialize"]);
    bench.run(2 * SECOND);
    assert_eq!(calls(&bench), ["initialize", "3"]);
}

#[test]
fn end_of_shard_ends_the_gathering() {
    let mut bench = bench(gathering(1000, 1000 * SECOND));
    put_slowly(&mut bench, 3);
    let shard = bench.open_shards().remove(0);
    bench.split(&shard);
    bench.until_finished();
    assert_eq!(calls(&bench)[..3], ["initialize", "3", "shard_ended"]);
}

#[test]
fn killed_worker_loses_no_gathered_record() {
    let mut bench = bench(gathering(10, 1000 * SECOND));
    put_slowly(&mut bench, 15);
    bench.kill();
    bench.run(20 * SECOND);
    put_slowly(&mut bench, 5);
    bench.until_finished();
    assert_eq!(calls(&bench), ["initialize", "10", "initialize", "10"]);
}

#[tokio::test(start_paused = true)]
async fn pause_offers_what_was_gathered_once() {
    let (clock, sizes) = (TokioClock::new(), Sizes::default());
    let stream = MemoryStream::builder("trucks")
        .shards(1)
        .clock(Arc::new(clock))
        .build();
    let noted = Arc::clone(&sizes);
    let worker = workers::builder("batching")
        .stream(stream.clone())
        .lease_store(MemoryLeaseStore::new())
        .processor(move |_: &ShardContext| Notes {
            sizes: Arc::clone(&noted),
            each: Duration::ZERO,
            clock,
        })
        .settings(gathering(1000, 1000 * SECOND))
        .clock(Arc::new(clock))
        .build()
        .unwrap()
        .start();
    let put = || stream.put("truck-7", "x").unwrap();
    (0..3).for_each(|_| drop(put()));
    clock.sleep(10 * SECOND).await;
    assert_eq!(*sizes.lock().unwrap(), [0; 0]);
    worker.flow().pause(FlowScope::Worker);
    clock.sleep(2000 * SECOND).await;
    assert_eq!(*sizes.lock().unwrap(), [3]);
    (0..4).for_each(|_| drop(put()));
    clock.sleep(2000 * SECOND).await;
    assert_eq!(*sizes.lock().unwrap(), [3], "a paused shard is not read");
    worker.flow().resume(FlowScope::Worker);
    clock.sleep(1010 * SECOND).await;
    assert_eq!(*sizes.lock().unwrap(), [3, 4]);
    worker.shutdown();
    worker.join().await.unwrap();
}

/// Starts a worker whose processors take so long for each record.
fn start_noting(fleet: &Fleet, each: Duration) -> Sizes {
    let sizes = Sizes::default();
    let noted = Arc::clone(&sizes);
    fleet.start(Member::named("a").processor(move |_: &ShardContext| Notes {
        sizes: Arc::clone(&noted),
        each,
        clock: TokioClock::new(),
    }));
    sizes
}

#[test]
fn slow_processor_is_given_gathered_batches_whole() {
    let simulation = Simulation::new(1).shards(1).settings(gathering(100, SECOND));
    simulation.run(async |fleet| {
        fleet.put(300);
        let sizes = start_noting(&fleet, SECOND);
        fleet.sleep(400 * SECOND).await;
        assert_eq!(*sizes.lock().unwrap(), [100, 100, 100]);
    });
}

#[test]
fn gathering_gives_way_to_full_budget() {
    let mut settings = gathering(1000, 3600 * SECOND);
    settings.memory.budget = ByteSize::mib(32);
    if let Some(batching) = &mut settings.processing.batching {
        batching.max_bytes = ByteSize::mib(16);
    }
    let megabyte = |number: u64| (format!("truck-{number}"), vec![0_u8; 1 << 20].into());
    let simulation = Simulation::new(1).shards(8).settings(settings).records(megabyte);
    simulation.run(async |fleet| {
        fleet.put(200);
        start_noting(&fleet, Duration::ZERO);
        fleet.sleep(120 * SECOND).await;
        let finished = fleet.view().tally().finished;
        assert!(finished > 150, "{finished} of 200 records of 1 MiB are finished");
    });
}
