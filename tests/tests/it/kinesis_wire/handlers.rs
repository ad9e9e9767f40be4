//! Handlers over the wire: order by key past a reshard in each way of reading, and streams that have no such order.

use std::collections::BTreeMap;
use std::time::Duration;

use kcl_aggregation::{Aggregator, hash_key_of};
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::lease_store::LeaseStore as _;
use kcl_core::processor::{Concurrency, ShardContext};
use kcl_core::streams::{StreamSet, TrackedStream};
use kcl_core::types::{SequenceNumber, ShardId};
use kcl_core::{ErrorKind, Worker, WorkerBuilder, WorkerHandle};
use kcl_kinesis::KinesisStream;
use kcl_lease_memory::memory_stream::{RecordDistribution, StreamMode};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use kcl_tests::handlers::{KEYLESS, KeyCaller};
use kinesis_local::{EndStyle, WireOptions, WireServer};
use tokio::task::JoinSet;

use crate::kinesis_wire::one_worker::{PATIENCE, settings};
use crate::kinesis_wire::served::{Read, Served, aws};

const KEYS: u32 = 40;
/// How many records of each key one aggregated record holds.
const PACKED: u32 = 3;

fn builder(caller: &KeyCaller, concurrency: Concurrency, leases: &MemoryLeaseStore) -> WorkerBuilder {
    let caller = caller.clone();
    Worker::builder("suite")
        .worker_id("a")
        .lease_store(leases.clone())
        .settings(settings())
        .handler(concurrency, move |_: &ShardContext| caller.clone())
}

fn keys() -> impl Iterator<Item = String> {
    (0..KEYS).map(|n| format!("truck-{n}"))
}

/// How records are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Aggregated,
}

/// A stream on a wire server, and how much was put into it.
struct Scene {
    served: Served,
    leases: MemoryLeaseStore,
    caller: KeyCaller,
    form: Form,
    rounds: u32,
}

impl Scene {
    async fn new(shards: u32, read: Read, form: Form, end_style: EndStyle) -> Self {
        let options = WireOptions {
            end_style,
            heartbeat: Duration::from_secs(1),
            ..WireOptions::unlimited()
        };
        Self {
            served: Served::new(shards, options, read).await,
            leases: MemoryLeaseStore::new(),
            caller: KeyCaller::default(),
            form,
            rounds: 0,
        }
    }

    /// As [`new`](Self::new), of a stream whose records the service distributes.
    async fn automatic(read: Read) -> Self {
        let scene = Self::new(3, read, Form::Plain, EndStyle::Kinesis).await;
        distribute(&scene.served.stream);
        scene
    }

    fn start(&self, concurrency: Concurrency) -> WorkerHandle {
        let builder = builder(&self.caller, concurrency, &self.leases);
        builder
            .stream(self.served.source.clone())
            .build()
            .unwrap()
            .start()
    }

    /// Puts records of each key.
    fn put(&mut self, rounds: u32) {
        let first = self.rounds;
        self.rounds += rounds;
        match self.form {
            Form::Plain => put_rounds(&self.served.stream, first..self.rounds),
            Form::Aggregated => {
                for from in (first..self.rounds).step_by(PACKED as usize) {
                    self.put_packed(from..self.rounds.min(from + PACKED));
                }
            }
        }
    }

    /// Puts one aggregated record into each open shard, of the keys that are the shard's.
    fn put_packed(&self, rounds: std::ops::Range<u32>) {
        let stream = &self.served.stream;
        for open in stream.shards_snapshot() {
            let range = open.shard.hash_range;
            let mut aggregator = Aggregator::new();
            let mine = keys().filter(|key| range.contains(hash_key_of(key)));
            let mine: Vec<String> = mine.filter(|_| !open.shard.closed).collect();
            for round in rounds.clone() {
                for key in &mine {
                    let full = aggregator.add(key, None, round.to_string().as_bytes());
                    assert_eq!(full, Ok(None));
                }
            }
            if let Some(packed) = aggregator.finish() {
                let put = stream.put_with_hash_key(packed.partition_key, range.start(), packed.data);
                assert_eq!(put.unwrap().0, open.shard.id);
            }
        }
    }

    /// Waits until all that was put is handled.
    async fn handled(&self) {
        self.caller.returns((self.rounds * KEYS) as usize, PATIENCE).await;
    }

    /// Stops the worker. Nothing that was put is left to a successor.
    async fn stop(&self, worker: WorkerHandle) {
        worker.shutdown();
        let stopped = TokioClock::new().timeout(PATIENCE, worker.join()).await;
        assert!(stopped.unwrap().unwrap().is_clean());
        let mut last = BTreeMap::<ShardId, SequenceNumber>::new();
        for (shard, record) in self.served.stream.put_log() {
            last.insert(shard, record.sequence_number().clone());
        }
        for open in self.served.stream.shards_snapshot() {
            if let Some(last) = last.get(&open.shard.id).filter(|_| !open.shard.closed) {
                let rows = self.leases.scan().await.unwrap().leases;
                let row = rows.iter().find(|row| row.shard == open.shard.id);
                let checkpoint = row.and_then(|row| row.checkpoint.record().cloned());
                assert_eq!(
                    checkpoint.map(|record| record.sequence).as_ref(),
                    Some(last),
                    "{rows:?}"
                );
            }
        }
    }
}

fn put_rounds(stream: &MemoryStream, rounds: std::ops::Range<u32>) {
    for round in rounds {
        for key in keys() {
            stream.put(key, round.to_string()).unwrap();
        }
    }
}

fn distribute(stream: &MemoryStream) {
    stream.configure(|settings| {
        settings.mode = StreamMode::OnDemand;
        settings.distribution = RecordDistribution::Automatic;
    });
}

/// Through a split and a merge, with records on both sides of each that wait.
async fn walk(read: Read, form: Form, end_style: EndStyle) {
    println!("{read:?}, {form:?}, {end_style:?}");
    let mut scene = Scene::new(1, read, form, end_style).await;
    scene.put(7);
    let worker = scene.start(Concurrency::PerKey(16));
    worker.wait_for(|status| status.leases.len() == 1).await;
    // There a reshard deletes the records that were not read.
    let keeps_unread = end_style != EndStyle::Ministack;
    if !keeps_unread {
        scene.handled().await;
    }
    let [low, high] = scene.served.stream.split(&scene.served.shard()).unwrap();
    scene.put(7);
    worker.wait_for(|status| status.leases.len() == 2).await;
    if !keeps_unread {
        scene.handled().await;
    }
    scene.served.stream.merge(&low, &high).unwrap();
    scene.put(7);
    scene.handled().await;
    worker.wait_for(|status| status.is_healthy()).await;
    scene.stop(worker).await;
    scene.caller.kept_order(keys(), scene.rounds);
    let most = scene.caller.calls().most;
    assert!(
        (8..=32).contains(&most),
        "{most} calls at once of at most two shards"
    );
}

const MODES: [Read; 3] = [Read::Cbor, Read::Json, Read::FanOut];

async fn all(walks: impl IntoIterator<Item = impl Future<Output = ()> + Send + 'static>) {
    let mut all = JoinSet::new();
    for walk in walks {
        all.spawn(walk);
    }
    while let Some(walked) = all.join_next().await {
        walked.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_keep_order_by_key_past_reshards() {
    let forms = [Form::Plain, Form::Aggregated];
    let walks = forms.into_iter().flat_map(|form| MODES.map(|read| (read, form)));
    all(walks.map(|(read, form)| walk(read, form, EndStyle::Kinesis))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_keep_order_past_every_end_style() {
    let styles = [
        EndStyle::LocalStack,
        EndStyle::Ferrokinesis,
        EndStyle::KinesisMock,
        EndStyle::Ministack,
    ];
    let walks = styles
        .into_iter()
        .flat_map(|style| MODES.map(|read| (read, style)));
    all(walks.map(|(read, style)| walk(read, Form::Plain, style))).await;
}

#[tokio::test]
async fn order_by_key_is_refused_with_automatic_distribution() {
    for read in [Read::Cbor, Read::FanOut] {
        let mut scene = Scene::automatic(read).await;
        scene.put(1);
        let worker = scene.start(Concurrency::PerKey(16));
        let ended = TokioClock::new().timeout(PATIENCE, worker.join()).await;
        let error = ended.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let text = error.to_string();
        for part in [
            "trucks",
            "AUTO",
            "no order by key",
            "Concurrency::Unordered",
            "PerKey(16)",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(scene.caller.calls().count(), 0);
        assert!(scene.leases.scan().await.unwrap().leases.is_empty());
    }
}

#[tokio::test]
async fn refused_stream_keeps_no_other_from_handlers() {
    let [trucks, ships, planes] =
        ["trucks", "ships", "planes"].map(|name| MemoryStream::builder(name).shards(2).build());
    distribute(&trucks);
    distribute(&planes);
    let streams = [trucks.clone(), ships.clone(), planes.clone()];
    let server = WireServer::start(streams, WireOptions::unlimited())
        .await
        .unwrap();
    let config = aws(&server);
    let tracked = |name| TrackedStream::new(KinesisStream::new(&config, name));
    put_rounds(&trucks, 100..101);
    put_rounds(&planes, 100..101);
    let set = StreamSet::new([tracked("trucks"), tracked("ships")]);
    let (caller, leases) = (KeyCaller::default(), MemoryLeaseStore::new());
    let builder = builder(&caller, Concurrency::PerKey(16), &leases).streams(set.clone());
    let worker = builder.build().unwrap().start();
    put_rounds(&ships, 0..3);
    caller.returns(3 * KEYS as usize, PATIENCE).await;
    // One that comes later is refused as well, and asked again as long as it is there.
    set.add(tracked("planes"));
    TokioClock::new().sleep(Duration::from_secs(3)).await;
    put_rounds(&ships, 3..6);
    caller.returns(6 * KEYS as usize, PATIENCE).await;
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
    caller.kept_order(keys(), 6);
    let rows = leases.scan().await.unwrap().leases;
    assert!(
        rows.iter().all(|row| row.key.as_str().contains("ships")),
        "{rows:?}"
    );
}

#[tokio::test]
async fn unordered_handler_reads_automatic_distribution_whole() {
    for read in [Read::Cbor, Read::Json, Read::FanOut] {
        let mut scene = Scene::automatic(read).await;
        let stream = scene.served.stream.clone();
        let keyless = |numbers: std::ops::Range<u32>| {
            numbers.for_each(|n| drop(stream.put_without_key(n.to_string()).unwrap()));
        };
        let worker = scene.start(Concurrency::Unordered(16));
        scene.put(3);
        keyless(0..100);
        worker.wait_for(|status| status.leases.len() == 3).await;
        stream.split(&scene.served.shard()).unwrap();
        scene.put(3);
        keyless(100..200);
        scene
            .caller
            .returns((scene.rounds * KEYS) as usize + 200, PATIENCE)
            .await;
        scene.stop(worker).await;
        let mut calls = scene.caller.calls();
        calls
            .handled
            .values_mut()
            .for_each(|numbers| numbers.sort_unstable());
        let without = calls.handled.remove(KEYLESS).unwrap();
        assert!(without.into_iter().eq(0..200), "{read:?}");
        let with: BTreeMap<_, Vec<u32>> = keys().map(|key| (key, (0..scene.rounds).collect())).collect();
        assert_eq!(calls.handled, with, "{read:?}");
    }
}
