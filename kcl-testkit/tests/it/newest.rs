//! A lease that begins at the newest record, without the time when that was: as the Java KCL leaves it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::internals::TaskScope;
use kcl_core::lease_store::{Expect, Lease, LeaseChange, LeaseStore as _};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::Settings;
use kcl_core::source::ShardFilter;
use kcl_core::types::{Incarnation, InitialPosition, LeaseKey, Position};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};

use crate::altered::Altered;
use crate::workers;

/// Panics on the first batch of all, and then notes what comes.
struct PanicsOnce {
    calls: Arc<AtomicU32>,
    seen: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl RecordProcessor for PanicsOnce {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        assert!(
            self.calls.fetch_add(1, Ordering::Relaxed) > 0,
            "a bug of the user's"
        );
        let text = |data: &[u8]| String::from_utf8_lossy(data).into_owned();
        let texts = batch.iter().map(|record| text(record.data()));
        self.seen.lock().unwrap().extend(texts);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn first_records_come_again_after_panic() {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(1)
        .clock(Arc::new(clock))
        .build();
    stream.put("truck", "before any worker came").unwrap();
    clock.sleep(Duration::from_secs(5)).await;
    let shard = stream.shards_snapshot().remove(0).shard.id;
    let leases = MemoryLeaseStore::new();
    let row = Lease::unowned(shard, Position::Latest);
    let (key, incarnation) = (row.key.clone(), Incarnation::from_random_bytes([1; 16]));
    let create = LeaseChange::Create(Box::new(row));
    leases
        .change(&key, &Expect::Absent, &create, incarnation)
        .await
        .unwrap();

    let (calls, seen) = (Arc::<AtomicU32>::default(), Arc::<Mutex<Vec<String>>>::default());
    let (counted, noted) = (Arc::clone(&calls), Arc::clone(&seen));
    let worker = workers::builder("newest")
        .worker_id("a")
        .stream(stream.clone())
        .lease_store(leases)
        .settings({
            let mut settings = Settings::default();
            settings.reading.initial_position = InitialPosition::Latest;
            settings
        })
        .processor(move |_: &ShardContext| PanicsOnce {
            calls: Arc::clone(&counted),
            seen: Arc::clone(&noted),
        })
        .clock(Arc::new(clock))
        .build()
        .unwrap()
        .start();
    clock.sleep(Duration::from_secs(10)).await;
    for text in ["one", "two", "three"] {
        stream.put("truck", text).unwrap();
    }
    clock.sleep(Duration::from_secs(60)).await;
    assert!(calls.load(Ordering::Relaxed) > 1);
    assert_eq!(*seen.lock().unwrap(), ["one", "two", "three"]);
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
}

/// Begins a batch and never ends it, or notes what comes.
struct Notes {
    hangs: bool,
    seen: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl RecordProcessor for Notes {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        let text = |data: &[u8]| String::from_utf8_lossy(data).into_owned();
        let texts = batch.iter().map(|record| text(record.data()));
        self.seen.lock().unwrap().extend(texts);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn next_owner_of_a_java_row_skips_nothing() {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(1)
        .clock(Arc::new(clock))
        .build();
    stream.put("truck", "before any worker came").unwrap();
    clock.sleep(Duration::from_secs(5)).await;
    let shard = stream.shards_snapshot().remove(0).shard.id;
    let leases = MemoryLeaseStore::new();
    let row = Lease::unowned(shard, Position::Latest);
    let (key, incarnation) = (row.key.clone(), Incarnation::from_random_bytes([1; 16]));
    let create = LeaseChange::Create(Box::new(row));
    leases
        .change(&key, &Expect::Absent, &create, incarnation)
        .await
        .unwrap();
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let start = |id: &str, hangs: bool, scope: &TaskScope| {
        let noted = Arc::clone(&seen);
        workers::builder("newest")
            .worker_id(id)
            .stream(stream.clone())
            .lease_store(leases.clone())
            .settings({
                let mut settings = Settings::default();
                settings.reading.initial_position = InitialPosition::Latest;
                settings
            })
            .processor(move |_: &ShardContext| Notes {
                hangs,
                seen: Arc::clone(&noted),
            })
            .clock(Arc::new(clock))
            .task_scope(scope.clone())
            .build()
            .unwrap()
            .start()
    };
    // Three owners in turn that store nothing, and records before, during and between them.
    let mut put = Vec::new();
    for owner in 0..3 {
        let scope = TaskScope::new();
        let _worker = start(&format!("dead-{owner}"), true, &scope);
        clock.sleep(Duration::from_secs(30)).await;
        for n in 0..3 {
            let text = format!("{owner}-{n}");
            stream.put("truck", text.clone()).unwrap();
            put.push(text);
        }
        clock.sleep(Duration::from_secs(5)).await;
        scope.kill();
    }
    let worker = start("last", false, &TaskScope::new());
    clock.sleep(Duration::from_secs(60)).await;
    assert_eq!(*seen.lock().unwrap(), put);
    let row = leases.read(&key).await.unwrap().unwrap();
    assert!(row.latest_at.is_some() && row.pinned_start.is_none());
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn merge_around_the_start_is_passed() {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(2)
        .clock(Arc::new(clock))
        .build();
    clock.sleep(Duration::from_secs(60)).await;
    let shards: Vec<_> = stream
        .shards_snapshot()
        .into_iter()
        .map(|shard| shard.shard.id)
        .collect();
    // The service closes the two one after the other, and the application starts in between.
    let closed = shards[0].clone();
    let source = Altered::of(stream.clone()).listing(move |filter, page| {
        if let ShardFilter::FromTimestamp(_) = filter {
            page.shards.retain(|shard| shard.id != closed);
        }
    });
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&seen);
    let worker = workers::builder("newest")
        .worker_id("a")
        .stream(source)
        .lease_store(MemoryLeaseStore::new())
        .settings({
            let mut settings = Settings::default();
            settings.reading.initial_position = InitialPosition::Latest;
            settings
        })
        .processor(move |_: &ShardContext| Notes {
            hangs: false,
            seen: Arc::clone(&noted),
        })
        .clock(Arc::new(clock))
        .build()
        .unwrap()
        .start();
    clock.sleep(Duration::from_secs(10)).await;
    let child = stream.merge(&shards[0], &shards[1]).unwrap();
    stream.put("truck", "of the child").unwrap();
    clock.sleep(Duration::from_secs(60)).await;
    assert_eq!(*seen.lock().unwrap(), ["of the child"]);
    let held: Vec<_> = worker.status().leases.into_keys().collect();
    assert_eq!(held, [LeaseKey::single_stream(&child)]);
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
}
