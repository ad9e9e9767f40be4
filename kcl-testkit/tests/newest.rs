//! A lease that begins at the newest record, without the time when that was: as the Java KCL leaves it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::lease::{Expect, Lease, LeaseChange, LeaseStore as _};
use kcl_core::model::{Incarnation, Position};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::Settings;
use kcl_core::shard_sync::InitialPosition;
use kcl_core::time::{ClockExt as _, TokioClock};
use kcl_core::worker::Worker;
use kcl_lease_memory::MemoryLeaseStore;
use kcl_testkit::MemoryStream;

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
async fn what_came_first_comes_again_after_a_panic_though_nothing_was_stored_yet() {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(1)
        .clock(Arc::new(clock))
        .build();
    stream.put("truck", "before anybody came").unwrap();
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
    let worker = Worker::builder("newest")
        .worker_id("a")
        .stream(stream.clone())
        .leases(leases)
        .settings(Settings {
            initial_position: InitialPosition::Latest,
            ..Settings::default()
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
    worker.drain();
    assert!(worker.stopped().await.unwrap().is_clean());
}
