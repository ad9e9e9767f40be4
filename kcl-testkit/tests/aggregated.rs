//! Aggregated records through the whole worker: unpacked, gone on inside of, and never dropped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_aggregation::Aggregator;
use kcl_core::lifecycle::ConsumerState;
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::{Aggregation, Checkpointing, Settings};
use kcl_core::time::{ClockExt as _, TokioClock};
use kcl_core::worker::{Worker, WorkerHandle};
use kcl_lease_memory::MemoryLeaseStore;
use kcl_testkit::MemoryStream;
use md5::{Digest as _, Md5};

const SECOND: Duration = Duration::from_secs(1);

type Seen = Arc<Mutex<Vec<String>>>;

/// Notes payloads, and checkpoints through the one that it is told to, once.
struct Notes {
    seen: Seen,
    stop_at: Option<String>,
}

#[async_trait]
impl RecordProcessor for Notes {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        for record in &batch {
            let payload = String::from_utf8_lossy(record.data()).into_owned();
            let is_last = self.stop_at.as_ref() == Some(&payload);
            self.seen.lock().unwrap().push(payload);
            if is_last {
                batch.checkpoint_through(record).await?;
                // The rest of the aggregate is neither noted nor finished.
                std::future::pending::<()>().await;
            }
        }
        batch.checkpoint().await?;
        Ok(())
    }
}

fn packed(payloads: &[&str]) -> bytes::Bytes {
    let mut aggregator = Aggregator::new();
    for payload in payloads {
        aggregator.add("truck", None, payload.as_bytes()).unwrap();
    }
    aggregator.finish().unwrap().data
}

/// An aggregate whose message makes no sense, in a sound envelope.
fn corrupt() -> Vec<u8> {
    let message = [0xff; 20];
    let envelope = [&[0xf3, 0x89, 0x9a, 0xc2], &message[..], &Md5::digest(message)];
    envelope.concat()
}

fn start(
    stream: &MemoryStream,
    leases: &MemoryLeaseStore,
    settings: Settings,
    notes: impl Fn() -> Notes + Send + Sync + 'static,
) -> WorkerHandle {
    Worker::builder("aggregated")
        .worker_id("a")
        .stream(stream.clone())
        .leases(leases.clone())
        .processor(move |_: &ShardContext| notes())
        .settings(Settings {
            checkpointing: Checkpointing::Manual,
            ..settings
        })
        .clock(Arc::new(TokioClock::new()))
        .build()
        .unwrap()
        .start()
}

fn one_shard() -> (MemoryStream, MemoryLeaseStore) {
    let stream = MemoryStream::builder("trucks")
        .shards(1)
        .clock(Arc::new(TokioClock::new()))
        .build();
    (stream, MemoryLeaseStore::new())
}

#[tokio::test(start_paused = true)]
async fn the_next_owner_goes_on_inside_an_aggregate() {
    let (stream, leases) = one_shard();
    stream.put("truck", "first").unwrap();
    stream.put("truck", packed(&["a", "b", "c", "d"])).unwrap();
    stream.put("truck", "last").unwrap();
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let worker = start(&stream, &leases, Settings::default(), move || Notes {
        seen: Arc::clone(&noted),
        stop_at: Some("b".to_owned()),
    });
    TokioClock::new().sleep(5 * SECOND).await;
    worker.stop_now();
    worker.stopped().await.unwrap();
    assert_eq!(*seen.lock().unwrap(), ["first", "a", "b"]);

    let again = Seen::default();
    let noted = Arc::clone(&again);
    let worker = start(&stream, &leases, Settings::default(), move || Notes {
        seen: Arc::clone(&noted),
        stop_at: None,
    });
    TokioClock::new().sleep(30 * SECOND).await;
    assert_eq!(*again.lock().unwrap(), ["c", "d", "last"]);
    worker.drain();
    assert!(worker.stopped().await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_aggregate_holds_the_shard_until_it_may_be_delivered_raw() {
    let (stream, leases) = one_shard();
    stream.put("truck", "before").unwrap();
    stream.put("truck", corrupt()).unwrap();
    stream.put("truck", "after").unwrap();
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let worker = start(&stream, &leases, Settings::default(), move || Notes {
        seen: Arc::clone(&noted),
        stop_at: None,
    });
    TokioClock::new().sleep(300 * SECOND).await;
    assert_eq!(*seen.lock().unwrap(), ["before"]);
    let status = worker.status();
    let lease = status.leases.values().next().expect("the lease is kept");
    assert_eq!(lease.state, ConsumerState::Holding);
    assert!(lease.failures > 5, "{lease:?}");
    worker.drain();
    assert!(worker.stopped().await.unwrap().is_clean());

    let noted = Arc::clone(&seen);
    let raw = Settings {
        aggregation: Aggregation::Raw,
        ..Settings::default()
    };
    let worker = start(&stream, &leases, raw, move || Notes {
        seen: Arc::clone(&noted),
        stop_at: None,
    });
    TokioClock::new().sleep(30 * SECOND).await;
    assert_eq!(seen.lock().unwrap().len(), 3);
    assert_eq!(seen.lock().unwrap().last().unwrap(), "after");
    worker.drain();
    worker.stopped().await.unwrap();
}
