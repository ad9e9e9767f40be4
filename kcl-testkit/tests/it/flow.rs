//! Pauses and rates, from the handle of a running worker.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::status::WaitReason;
use kcl_core::{FlowScope, Rate, WorkerHandle};
use kcl_lease_memory::memory_stream::Pace;
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};

use crate::workers;

const SECOND: Duration = Duration::from_secs(1);

struct Counts(Arc<AtomicUsize>);

#[async_trait]
impl RecordProcessor for Counts {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.0.fetch_add(batch.len(), Ordering::Relaxed);
        Ok(())
    }
}

fn start(shards: u32) -> (MemoryStream, WorkerHandle, Arc<AtomicUsize>, TokioClock) {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(shards)
        .clock(Arc::new(clock))
        .build();
    let count = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&count);
    let worker = workers::builder("flow")
        .worker_id("a")
        .stream(stream.clone())
        .lease_store(MemoryLeaseStore::new())
        .processor(move |_: &ShardContext| Counts(Arc::clone(&counted)))
        .clock(Arc::new(clock))
        .build()
        .unwrap()
        .start();
    (stream, worker, count, clock)
}

fn put(stream: &MemoryStream, records: usize) {
    for n in 0..records {
        stream.put(format!("truck-{n}"), "x").unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn paused_worker_keeps_its_leases_for_hours() {
    let (stream, worker, count, clock) = start(4);
    put(&stream, 100);
    clock.sleep(10 * SECOND).await;
    assert_eq!(count.load(Ordering::Relaxed), 100);
    worker.flow().pause(FlowScope::Worker);
    let tokens = |worker: &WorkerHandle| -> Vec<_> {
        worker.status().leases.values().map(|lease| lease.token).collect()
    };
    let before = tokens(&worker);
    put(&stream, 100);
    clock.sleep(2 * 3600 * SECOND).await;
    assert_eq!(count.load(Ordering::Relaxed), 100);
    let status = worker.status();
    assert!(
        status.leases.values().all(|lease| lease
            .waiting
            .is_some_and(|(reason, _)| reason == WaitReason::Paused)),
        "{status:?}"
    );
    assert_eq!(tokens(&worker), before);
    worker.flow().resume(FlowScope::Worker);
    clock.sleep(2 * SECOND).await;
    assert_eq!(count.load(Ordering::Relaxed), 200);
    assert!(
        worker
            .status()
            .leases
            .values()
            .all(|lease| lease.trouble.is_none() && lease.failures == 0)
    );
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn paused_shard_holds_up_no_other() {
    let (stream, worker, count, clock) = start(2);
    clock.sleep(5 * SECOND).await;
    let first = worker.status().leases.keys().next().cloned().unwrap();
    worker.flow().pause(FlowScope::Shard(first));
    put(&stream, 200);
    clock.sleep(10 * SECOND).await;
    let half = count.load(Ordering::Relaxed);
    assert!((1..200).contains(&half), "{half}");
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn the_shards_of_a_stream_share_its_rate() {
    let (stream, worker, count, clock) = start(4);
    clock.sleep(5 * SECOND).await;
    let rate = Rate {
        records: NonZeroU32::new(20),
        ..Rate::default()
    };
    worker
        .flow()
        .limit(FlowScope::Stream("trucks".to_owned()), Some(rate));
    put(&stream, 5000);
    clock.sleep(60 * SECOND).await;
    let read = count.load(Ordering::Relaxed);
    // A second's worth for each shard is on its way at most.
    assert!((1100..=1200 + 4 * 20).contains(&read), "{read}");
    worker.flow().limit(FlowScope::Stream("trucks".to_owned()), None);
    clock.sleep(10 * SECOND).await;
    assert_eq!(count.load(Ordering::Relaxed), 5000);
    worker.shutdown();
    worker.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn source_read_every_few_minutes_is_not_stuck() {
    let (stream, worker, count, clock) = start(2);
    clock.sleep(5 * SECOND).await;
    let tokens = |worker: &WorkerHandle| -> Vec<_> {
        worker.status().leases.values().map(|lease| lease.token).collect()
    };
    let before = tokens(&worker);
    stream.set_pace(Pace {
        idle: 300 * SECOND,
        ..Pace::default()
    });
    for _ in 0..6 {
        put(&stream, 10);
        clock.sleep(600 * SECOND).await;
    }
    assert_eq!(count.load(Ordering::Relaxed), 60);
    assert_eq!(tokens(&worker), before);
    let status = worker.status();
    let reason = |(reason, _)| reason == WaitReason::RateLimit;
    assert!(
        status
            .leases
            .values()
            .all(|lease| lease.waiting.is_some_and(reason)),
        "{status:?}"
    );
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_rate_of_bytes_bounds_each_batch_too() {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(1)
        .clock(Arc::new(clock))
        .build();
    let sizes = Arc::<Mutex<Vec<usize>>>::default();
    let noted = Arc::clone(&sizes);
    let worker = workers::builder("flow")
        .worker_id("a")
        .stream(stream.clone())
        .lease_store(MemoryLeaseStore::new())
        .processor(move |_: &ShardContext| Sizes(Arc::clone(&noted)))
        .clock(Arc::new(clock))
        .build()
        .unwrap()
        .start();
    let kib = NonZeroU32::new(100);
    worker.flow().limit(
        FlowScope::Worker,
        Some(Rate {
            kib,
            ..Rate::default()
        }),
    );
    for _ in 0..1000 {
        stream.put("truck", vec![0; 1024]).unwrap();
    }
    clock.sleep(60 * SECOND).await;
    let sizes = sizes.lock().unwrap().clone();
    assert_eq!(sizes.iter().sum::<usize>(), 1000);
    assert!(sizes.iter().all(|size| *size <= 100), "{sizes:?}");
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
}

struct Sizes(Arc<Mutex<Vec<usize>>>);

#[async_trait]
impl RecordProcessor for Sizes {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.0.lock().unwrap().push(batch.len());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn pause_of_a_shard_ends_with_its_ownership() {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(4)
        .clock(Arc::new(clock))
        .build();
    let leases = MemoryLeaseStore::new();
    let count = Arc::<AtomicUsize>::default();
    let start = |id: &str| {
        let counted = Arc::clone(&count);
        workers::builder("flow")
            .worker_id(id)
            .stream(stream.clone())
            .lease_store(leases.clone())
            .processor(move |_: &ShardContext| Counts(Arc::clone(&counted)))
            .clock(Arc::new(clock))
            .build()
            .unwrap()
            .start()
    };
    let a = start("a");
    clock.sleep(5 * SECOND).await;
    let shards: Vec<_> = a.status().leases.keys().cloned().collect();
    assert_eq!(shards.len(), 4);
    for shard in &shards {
        a.flow().pause(FlowScope::Shard(shard.clone()));
    }
    let b = start("b");
    b.wait_for(|status| status.leases.len() == 2).await;
    b.shutdown();
    b.join().await.unwrap();
    a.wait_for(|status| status.leases.len() == 4).await;
    put(&stream, 400);
    clock.sleep(10 * SECOND).await;
    let paused = a.status().leases.into_values().filter(|lease| {
        let waiting = lease.waiting.map(|(reason, _)| reason);
        waiting == Some(WaitReason::Paused)
    });
    assert_eq!(paused.count(), 2, "those that never left");
    let read = count.load(Ordering::Relaxed);
    assert!((1..400).contains(&read), "{read}");
    for shard in shards {
        a.flow().resume(FlowScope::Shard(shard));
    }
    clock.sleep(10 * SECOND).await;
    assert_eq!(count.load(Ordering::Relaxed), 400);
}
