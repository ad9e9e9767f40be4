//! Many streams in one application: they come and go, are missing, deleted and created again.

mod former;
mod membership;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{ClockExt as _, Moment, TokioClock};
use kcl_core::internals::TaskScope;
use kcl_core::lease_store::{Lease, LeaseChange, LeaseStore as _, StoreErrorKind};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::Settings;
use kcl_core::source::{SourceError, SourceErrorKind};
use kcl_core::streams::{StreamSet, StreamTracker, TrackedStream};
use kcl_core::types::InitialPosition;
use kcl_core::{ErrorKind, WorkerBuilder, WorkerHandle};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use kcl_testkit::faults::{Fault, FaultyLeaseStore, Operation, StoreCall, StoreFaults};
use kcl_testkit::faulty_stream::{FaultyStream, StreamCall, StreamFault, StreamFaultRule};

use crate::workers;

const SECOND: Duration = Duration::from_secs(1);

/// The processed records: the stream, and the text of the record.
type Log = Arc<Mutex<Vec<(String, String)>>>;

struct Writes(Log);

#[async_trait]
impl RecordProcessor for Writes {
    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        let arn = shard.stream_arn().expect("a worker says which stream it is");
        assert!(arn.ends_with(shard.stream()), "{arn}");
        for record in &batch {
            let text = String::from_utf8(record.data().to_vec())?;
            self.0.lock().unwrap().push((shard.stream().to_owned(), text));
        }
        Ok(())
    }
}

/// The parts that the workers of a test share.
struct Bench {
    clock: TokioClock,
    store: MemoryLeaseStore,
    log: Log,
    settings: Settings,
}

impl Bench {
    fn new() -> Self {
        Self {
            clock: TokioClock::new(),
            store: MemoryLeaseStore::new(),
            log: Log::default(),
            settings: {
                let mut settings = Settings::default();
                settings.leases.failover_time = 4 * SECOND;
                settings.start.timeout = 10 * SECOND;
                settings
            },
        }
    }

    fn stream(&self, name: &str, shards: u32) -> MemoryStream {
        MemoryStream::builder(name)
            .shards(shards)
            .clock(Arc::new(self.clock))
            .build()
    }

    fn builder(&self, id: &str) -> WorkerBuilder {
        let log = Arc::clone(&self.log);
        workers::builder("fleet")
            .worker_id(id)
            .lease_store(self.store.clone())
            .processor(move |_: &ShardContext| Writes(Arc::clone(&log)))
            .settings(self.settings.clone())
            .clock(Arc::new(self.clock))
    }

    fn start(&self, id: &str, streams: &StreamSet) -> WorkerHandle {
        self.builder(id).streams(streams.clone()).build().unwrap().start()
    }

    async fn sleep(&self, time: Duration) {
        self.clock.sleep(time).await;
    }

    async fn leases(&self) -> Vec<Lease> {
        self.store.scan().await.unwrap().leases
    }

    /// How many records of each stream were processed, repetitions included.
    fn processed(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (stream, _) in self.log.lock().unwrap().iter() {
            *counts.entry(stream.clone()).or_default() += 1;
        }
        counts
    }

    async fn owners(&self, stream: &str) -> BTreeSet<Option<String>> {
        let leases = self.leases().await.into_iter();
        let of_stream = leases.filter(|lease| {
            let key = lease.stream.as_ref().map(ToString::to_string).unwrap_or_default();
            key.split(':').nth(1) == Some(stream)
        });
        of_stream
            .map(|lease| lease.owner.map(|owner| owner.to_string()))
            .collect()
    }
}

fn put(stream: &MemoryStream, records: std::ops::Range<u32>) {
    for n in records {
        stream.put(format!("key-{n}"), n.to_string()).unwrap();
    }
}

fn tracked(streams: &[&MemoryStream]) -> StreamSet {
    StreamSet::new(streams.iter().map(|stream| TrackedStream::new((*stream).clone())))
}

fn counts<const N: usize>(expected: [(&str, usize); N]) -> BTreeMap<String, usize> {
    expected
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
}

fn owned_by<const N: usize>(names: [&str; N]) -> BTreeSet<Option<String>> {
    names.into_iter().map(|name| Some(name.to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn several_streams_are_processed_once_by_one_fleet() {
    let bench = Bench::new();
    let (trucks, ships) = (bench.stream("trucks", 2), bench.stream("ships", 4));
    put(&trucks, 0..50);
    put(&ships, 0..70);
    let streams = tracked(&[&trucks, &ships]);
    let (a, b) = (bench.start("a", &streams), bench.start("b", &streams));
    bench.sleep(10 * SECOND).await;
    assert_eq!(bench.processed(), counts([("trucks", 50), ("ships", 70)]));
    assert_eq!((a.status().leases.len(), b.status().leases.len()), (3, 3));
    for lease in bench.leases().await {
        let stream = lease
            .stream
            .expect("a row of many streams names its stream")
            .to_string();
        let parts: Vec<_> = stream.split(':').collect();
        assert_eq!((parts.len(), parts[0]), (3, "000000000000"));
        assert_eq!(lease.key.as_str(), format!("{stream}:{}", lease.shard));
    }
    // A split, and the death of the worker that notices it.
    let shard = ships.shards_snapshot()[0].shard.id.clone();
    ships.split(&shard).unwrap();
    put(&ships, 70..100);
    bench.sleep(5 * SECOND).await;
    assert_eq!(bench.processed(), counts([("trucks", 50), ("ships", 100)]));
    assert!(bench.leases().await.iter().any(Lease::is_ended));
    a.shutdown();
    assert!(a.join().await.unwrap().is_clean());
    put(&trucks, 50..60);
    bench.sleep(3 * SECOND).await;
    assert_eq!(bench.processed(), counts([("trucks", 60), ("ships", 100)]));
    assert_eq!(b.status().leases.len(), 7);
}

#[tokio::test(start_paused = true)]
async fn applications_of_one_and_many_refuse_each_other() {
    let bench = Bench::new();
    let trucks = bench.stream("trucks", 2);
    for one_first in [true, false] {
        let bench = Bench {
            store: MemoryLeaseStore::new(),
            log: Log::default(),
            settings: bench.settings.clone(),
            ..bench
        };
        let one = |id: &str| bench.builder(id).stream(trucks.clone()).build().unwrap().start();
        let many = |id: &str| bench.start(id, &tracked(&[&trucks]));
        let first = if one_first { one("a") } else { many("a") };
        bench.sleep(2 * SECOND).await;
        first.shutdown();
        first.join().await.unwrap();
        let second = if one_first { many("b") } else { one("b") };
        let error = second.join().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(
            error.to_string().contains("set it up for one") || error.to_string().contains("list its streams"),
            "{error}"
        );
        assert_eq!(
            bench.store.scan().await.unwrap().workers,
            [],
            "nothing was written"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn each_stream_may_begin_where_it_wants() {
    let bench = Bench::new();
    let (trucks, ships) = (bench.stream("trucks", 1), bench.stream("ships", 1));
    put(&trucks, 0..10);
    put(&ships, 0..10);
    bench.sleep(60 * SECOND).await;
    let streams = StreamSet::new([
        TrackedStream::new(trucks.clone()),
        TrackedStream::new(ships.clone()).starting_at(InitialPosition::Latest),
    ]);
    let _worker = bench.start("a", &streams);
    bench.sleep(5 * SECOND).await;
    put(&ships, 10..13);
    bench.sleep(5 * SECOND).await;
    assert_eq!(bench.processed(), counts([("trucks", 10), ("ships", 3)]));
}

/// A stream of which one shard is not found, and a hash key that belongs to the other.
async fn with_a_bad_shard(bench: &Bench) -> FaultyStream<MemoryStream> {
    let trucks = FaultyStream::new(bench.stream("trucks", 2), Arc::new(bench.clock));
    let bad = trucks.inner().shards_snapshot()[1].shard.id.clone();
    for call in [StreamCall::Open, StreamCall::Next] {
        let fault = StreamFault::Fail(SourceErrorKind::NotFound);
        let rule = StreamFaultRule::every(call, fault).on_shard(bad.clone());
        trucks.faults().add(rule);
    }
    trucks
}
