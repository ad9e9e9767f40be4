//! Many streams in one application: they come and go, are missing, deleted and created again.

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
use kcl_core::{ErrorKind, Worker, WorkerBuilder, WorkerHandle};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use kcl_testkit::faults::{Fault, FaultyLeaseStore, Operation, StoreCall, StoreFaults};
use kcl_testkit::faulty_stream::{FaultyStream, StreamCall, StreamFault, StreamFaultRule};

const SECOND: Duration = Duration::from_secs(1);

/// What was processed: the stream, and what the record says.
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

/// What the workers of a test share.
struct Bed {
    clock: TokioClock,
    store: MemoryLeaseStore,
    log: Log,
    settings: Settings,
}

impl Bed {
    fn new() -> Self {
        Self {
            clock: TokioClock::new(),
            store: MemoryLeaseStore::new(),
            log: Log::default(),
            settings: Settings {
                failover_time: 4 * SECOND,
                start_timeout: 10 * SECOND,
                ..Settings::default()
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
        Worker::builder("fleet")
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
async fn several_streams_are_shared_by_one_fleet_and_each_record_is_processed_once() {
    let bed = Bed::new();
    let (trucks, ships) = (bed.stream("trucks", 2), bed.stream("ships", 4));
    put(&trucks, 0..50);
    put(&ships, 0..70);
    let streams = tracked(&[&trucks, &ships]);
    let (a, b) = (bed.start("a", &streams), bed.start("b", &streams));
    bed.sleep(10 * SECOND).await;
    assert_eq!(bed.processed(), counts([("trucks", 50), ("ships", 70)]));
    assert_eq!((a.status().leases.len(), b.status().leases.len()), (3, 3));
    for lease in bed.leases().await {
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
    bed.sleep(5 * SECOND).await;
    assert_eq!(bed.processed(), counts([("trucks", 50), ("ships", 100)]));
    assert!(bed.leases().await.iter().any(Lease::is_ended));
    a.shutdown();
    assert!(a.join().await.unwrap().is_clean());
    put(&trucks, 50..60);
    bed.sleep(3 * SECOND).await;
    assert_eq!(bed.processed(), counts([("trucks", 60), ("ships", 100)]));
    assert_eq!(b.status().leases.len(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_read_soon_after_it_is_added_given_up_when_removed_and_resumed_when_added_again() {
    let bed = Bed::new();
    let (trucks, ships) = (bed.stream("trucks", 2), bed.stream("ships", 2));
    put(&trucks, 0..10);
    put(&ships, 0..10);
    let streams = tracked(&[&trucks]);
    let workers = [bed.start("a", &streams), bed.start("b", &streams)];
    bed.sleep(5 * SECOND).await;
    assert_eq!(bed.processed(), counts([("trucks", 10)]));

    streams.add(TrackedStream::new(ships.clone()));
    bed.sleep(3 * SECOND).await;
    assert_eq!(bed.processed(), counts([("trucks", 10), ("ships", 10)]));

    assert!(streams.remove("ships"));
    assert!(!streams.remove("ships"));
    bed.sleep(3 * SECOND).await;
    assert_eq!(
        bed.owners("ships").await,
        BTreeSet::from([None]),
        "its leases are given up"
    );
    put(&ships, 10..20);
    bed.sleep(20 * SECOND).await;
    assert_eq!(bed.processed(), counts([("trucks", 10), ("ships", 10)]));
    assert_eq!(
        bed.owners("ships").await,
        BTreeSet::from([None]),
        "and nobody is given them"
    );

    streams.add(TrackedStream::new(ships.clone()));
    bed.sleep(5 * SECOND).await;
    assert_eq!(
        bed.processed(),
        counts([("trucks", 10), ("ships", 20)]),
        "from the checkpoints on"
    );
    for worker in workers {
        worker.shutdown();
        assert!(worker.join().await.unwrap().is_clean());
    }
}

#[tokio::test(start_paused = true)]
async fn while_workers_know_different_streams_each_stream_is_read_by_those_that_know_it() {
    let bed = Bed::new();
    let (trucks, ships) = (bed.stream("trucks", 3), bed.stream("ships", 3));
    put(&trucks, 0..30);
    put(&ships, 0..30);
    // The one that starts first leads; either may be the one that knows less.
    for (first, second) in [("old", "new"), ("new", "old")] {
        let bed = Bed {
            store: MemoryLeaseStore::new(),
            log: Log::default(),
            settings: bed.settings.clone(),
            ..bed
        };
        let known = |id: &str| match id {
            "old" => tracked(&[&trucks]),
            _ => tracked(&[&trucks, &ships]),
        };
        let _first = bed.start(first, &known(first));
        bed.sleep(2 * SECOND).await;
        let _second = bed.start(second, &known(second));
        bed.sleep(40 * SECOND).await;
        let ships_owners = bed.owners("ships").await;
        match first {
            "new" => assert_eq!(ships_owners, owned_by(["new"])),
            // The leader does not know the stream: it is not read until one leads that does, and nothing of it is lost.
            _ => assert_eq!(ships_owners, BTreeSet::new()),
        }
        assert_eq!(bed.processed().get("trucks"), Some(&30));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_missing_is_read_once_it_is_there_and_keeps_nobody_from_the_others() {
    let bed = Bed::new();
    let (trucks, ships) = (bed.stream("trucks", 1), bed.stream("ships", 1));
    ships.delete();
    put(&trucks, 0..10);
    let _worker = bed.start("a", &tracked(&[&trucks, &ships]));
    bed.sleep(5 * SECOND).await;
    assert_eq!(bed.processed(), counts([("trucks", 10)]));
    ships.recreate(2);
    put(&ships, 0..10);
    bed.sleep(5 * SECOND).await;
    assert_eq!(bed.processed(), counts([("trucks", 10), ("ships", 10)]));
}

#[tokio::test(start_paused = true)]
async fn a_start_without_any_of_its_streams_fails_and_says_which_is_missing() {
    let bed = Bed::new();
    let ships = bed.stream("ships", 1);
    ships.delete();
    let error = bed.start("a", &tracked(&[&ships])).join().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("\"ships\""), "{error}");
    assert_eq!(bed.store.scan().await.unwrap().workers, [], "nothing was written");
}

#[tokio::test(start_paused = true)]
async fn an_application_of_one_stream_and_one_of_many_refuse_each_others_table() {
    let bed = Bed::new();
    let trucks = bed.stream("trucks", 2);
    for one_first in [true, false] {
        let bed = Bed {
            store: MemoryLeaseStore::new(),
            log: Log::default(),
            settings: bed.settings.clone(),
            ..bed
        };
        let one = |id: &str| bed.builder(id).stream(trucks.clone()).build().unwrap().start();
        let many = |id: &str| bed.start(id, &tracked(&[&trucks]));
        let first = if one_first { one("a") } else { many("a") };
        bed.sleep(2 * SECOND).await;
        first.shutdown();
        first.join().await.unwrap();
        let second = if one_first { many("b") } else { one("b") };
        let error = second.join().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(
            error.to_string().contains("set it up for one") || error.to_string().contains("list its streams"),
            "{error}"
        );
        assert_eq!(bed.store.scan().await.unwrap().workers, [], "nothing was written");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_created_again_is_another_stream_to_an_application_of_many() {
    let mut bed = Bed::new();
    bed.settings.forget_streams_after = Some(600 * SECOND);
    let (trucks, ships) = (bed.stream("trucks", 1), bed.stream("ships", 1));
    put(&ships, 0..10);
    let worker = bed.start("a", &tracked(&[&trucks, &ships]));
    bed.sleep(5 * SECOND).await;
    assert_eq!(bed.processed(), counts([("ships", 10)]));

    ships.delete();
    bed.sleep(10 * SECOND).await;
    let held = worker.status().leases;
    assert_eq!(held.len(), 2, "a stream that is gone ends no shard");
    assert!(
        held.values()
            .any(|lease| lease.trouble == Some(SourceErrorKind::NotFound))
    );

    ships.recreate(1);
    put(&ships, 0..5);
    bed.sleep(20 * SECOND).await;
    assert_eq!(
        bed.processed(),
        counts([("ships", 15)]),
        "read from its beginning"
    );
    let of_ships = bed
        .leases()
        .await
        .into_iter()
        .filter(|lease| lease.key.as_str().contains("ships"));
    let (old, new): (Vec<_>, Vec<_>) = of_ships.partition(|lease| lease.owner.is_none());
    assert_eq!(
        (old.len(), new.len()),
        (1, 1),
        "the leases of the old one are kept for a while"
    );
    bed.sleep(640 * SECOND).await;
    let left: Vec<_> = bed.leases().await.into_iter().map(|lease| lease.key).collect();
    assert!(
        !left.contains(&old[0].key) && left.contains(&new[0].key),
        "{left:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_deleted_and_created_again_stops_the_worker_that_reads_only_that_one() {
    let bed = Bed::new();
    let trucks = bed.stream("trucks", 2);
    put(&trucks, 0..10);
    let worker = bed.builder("a").stream(trucks.clone()).build().unwrap().start();
    bed.sleep(5 * SECOND).await;
    trucks.delete();
    bed.sleep(60 * SECOND).await;
    assert_eq!(
        worker.status().leases.len(),
        2,
        "while it is gone the shards are held"
    );
    trucks.recreate(2);
    put(&trucks, 0..10);
    let error = worker.join().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("created again"), "{error}");
    assert_eq!(
        bed.processed(),
        counts([("trucks", 10)]),
        "nothing of the new stream was read with the old positions"
    );
}

#[tokio::test(start_paused = true)]
async fn the_leases_of_a_former_stream_are_kept_unless_the_settings_say_for_how_long() {
    for grace in [None, Some(600 * SECOND)] {
        let mut bed = Bed::new();
        bed.settings.forget_streams_after = grace;
        let (trucks, ships) = (bed.stream("trucks", 1), bed.stream("ships", 2));
        put(&ships, 0..10);
        let streams = tracked(&[&trucks, &ships]);
        let _worker = bed.start("a", &streams);
        bed.sleep(5 * SECOND).await;
        streams.remove("ships");
        bed.sleep(595 * SECOND).await;
        assert_eq!(bed.leases().await.len(), 3);
        bed.sleep(100 * SECOND).await;
        assert_eq!(bed.leases().await.len(), if grace.is_some() { 1 } else { 3 });
    }
}

#[tokio::test(start_paused = true)]
async fn the_leases_of_a_former_stream_are_forgotten_though_they_name_a_worker_that_died() {
    let mut bed = Bed::new();
    bed.settings.forget_streams_after = Some(600 * SECOND);
    let (trucks, ships) = (bed.stream("trucks", 1), bed.stream("ships", 2));
    let scope = TaskScope::new();
    let first = bed.builder("a").streams(tracked(&[&trucks, &ships]));
    let _dead = first.task_scope(scope.clone()).build().unwrap().start();
    bed.sleep(5 * SECOND).await;
    scope.kill();
    let _worker = bed.start("b", &tracked(&[&trucks]));
    bed.sleep(590 * SECOND).await;
    assert_eq!(bed.owners("ships").await, owned_by(["a"]));
    bed.sleep(60 * SECOND).await;
    assert_eq!(bed.owners("ships").await, BTreeSet::new());
    assert_eq!(bed.owners("trucks").await, owned_by(["b"]));
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_time_is_over_forgets_no_more_leases() {
    let mut bed = Bed::new();
    bed.settings.forget_streams_after = Some(600 * SECOND);
    let (trucks, ships) = (bed.stream("trucks", 1), bed.stream("ships", 30));
    let streams = tracked(&[&trucks, &ships]);
    let deletions: Arc<Mutex<Vec<Moment>>> = Arc::default();
    let (faults, seen) = (StoreFaults::new(), Arc::clone(&deletions));
    let spoiled = faults.clone();
    let store = FaultyLeaseStore::new(Arc::new(bed.store.clone()), Arc::new(bed.clock))
        .with_faults(faults)
        .with_recorder(move |event| {
            let change = LeaseChange::Delete;
            if matches!(&event.call, StoreCall::Change { change: asked, .. } if *asked == change) {
                // From the first one on they take long, and the lock cannot be kept.
                spoiled.always(Operation::Change, Fault::DelayReply(SECOND / 2));
                spoiled.always(Operation::ChangeLock, Fault::Fail(StoreErrorKind::Unavailable));
                seen.lock().unwrap().push(event.at);
            }
        });
    let worker = bed.builder("a").streams(streams.clone()).lease_store(store);
    let _worker = worker.build().unwrap().start();
    bed.sleep(10 * SECOND).await;
    streams.remove("ships");
    bed.sleep(700 * SECOND).await;
    let deletions = deletions.lock().unwrap();
    let took = deletions[deletions.len() - 1].saturating_since(deletions[0]);
    assert!(took <= bed.settings.failover_time, "{took:?}");
    assert!(deletions.len() < 30, "{}", deletions.len());
}

#[tokio::test(start_paused = true)]
async fn each_stream_may_begin_where_it_wants() {
    let bed = Bed::new();
    let (trucks, ships) = (bed.stream("trucks", 1), bed.stream("ships", 1));
    put(&trucks, 0..10);
    put(&ships, 0..10);
    bed.sleep(60 * SECOND).await;
    let streams = StreamSet::new([
        TrackedStream::new(trucks.clone()),
        TrackedStream::new(ships.clone()).starting_at(InitialPosition::Latest),
    ]);
    let _worker = bed.start("a", &streams);
    bed.sleep(5 * SECOND).await;
    put(&ships, 10..13);
    bed.sleep(5 * SECOND).await;
    assert_eq!(bed.processed(), counts([("trucks", 10), ("ships", 3)]));
}

#[tokio::test(start_paused = true)]
async fn while_one_stream_is_gone_others_come_and_it_is_given_up_once_it_is_removed() {
    let bed = Bed::new();
    let [trucks, ships, planes] = ["trucks", "ships", "planes"].map(|name| bed.stream(name, 2));
    let streams = tracked(&[&trucks, &ships]);
    let worker = bed.start("a", &streams);
    bed.sleep(5 * SECOND).await;
    ships.delete();
    bed.sleep(30 * SECOND).await;

    put(&planes, 0..10);
    streams.add(TrackedStream::new(planes.clone()));
    bed.sleep(5 * SECOND).await;
    assert_eq!(bed.processed(), counts([("planes", 10)]));

    assert_eq!(bed.owners("ships").await, owned_by(["a"]), "the shards are held");
    assert!(streams.remove("ships"));
    bed.sleep(5 * SECOND).await;
    assert_eq!(bed.owners("ships").await, BTreeSet::from([None]));
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn what_a_leader_saw_in_an_earlier_tenure_does_not_make_a_stream_a_former_one() {
    let mut bed = Bed::new();
    bed.settings.forget_streams_after = Some(600 * SECOND);
    let (trucks, ships) = (bed.stream("trucks", 1), bed.stream("ships", 2));
    put(&ships, 0..10);
    let known = ["a", "b"].map(|_| tracked(&[&trucks, &ships]));
    let faults = ["a", "b"].map(|_| StoreFaults::new());
    let start = |n: usize, id: &str| {
        let store = FaultyLeaseStore::new(Arc::new(bed.store.clone()), Arc::new(bed.clock));
        let worker = bed.builder(id).streams(known[n].clone());
        worker
            .lease_store(store.with_faults(faults[n].clone()))
            .build()
            .unwrap()
            .start()
    };
    let no_scan = Fault::Fail(StoreErrorKind::Unavailable);
    let (a, b) = (start(0, "a"), start(1, "b"));
    a.wait_for(|status| status.is_leader).await;
    // The leader reads the ships no more, and sees their leases without an owner; then the other leads and reads them.
    known[1].remove("ships");
    known[0].remove("ships");
    bed.sleep(40 * SECOND).await;
    assert_eq!(bed.owners("ships").await, BTreeSet::from([None]));
    faults[0].always(Operation::Scan, no_scan);
    b.wait_for(|status| status.is_leader).await;
    known[1].add(TrackedStream::new(ships.clone()));
    bed.sleep(700 * SECOND).await;
    assert_eq!(bed.owners("ships").await, owned_by(["b"]));
    // The first leads again, just when the ships are given up.
    faults[0].clear();
    known[1].remove("ships");
    bed.sleep(2 * SECOND).await;
    faults[1].always(Operation::Scan, no_scan);
    a.wait_for(|status| status.is_leader).await;
    bed.sleep(580 * SECOND).await;
    assert_eq!(
        bed.leases().await.len(),
        3,
        "nobody has read them for less than the time that is set"
    );
    bed.sleep(80 * SECOND).await;
    assert_eq!(bed.leases().await.len(), 1);
}

/// Knows all streams but for those that it has lost.
#[derive(Debug, Clone)]
struct Forgetful {
    all: StreamSet,
    known: StreamSet,
    is_lost: Arc<AtomicBool>,
    fails: Arc<AtomicBool>,
}

#[async_trait]
impl StreamTracker for Forgetful {
    async fn streams(&self) -> Result<Vec<TrackedStream>, SourceError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(SourceError::new(
                SourceErrorKind::Unavailable,
                "the directory is down",
            ));
        }
        match self.is_lost.load(Ordering::Relaxed) {
            true => self.known.streams().await,
            false => self.all.streams().await,
        }
    }

    fn interval(&self) -> Duration {
        SECOND
    }
}

#[tokio::test(start_paused = true)]
async fn tracker_that_loses_a_stream_deletes_no_checkpoints() {
    let mut bed = Bed::new();
    bed.settings.forget_streams_after = Some(Duration::ZERO);
    assert!(bed.settings.validate().is_err(), "no time at all is an accident");
    bed.settings.forget_streams_after = Some(600 * SECOND);
    let (trucks, ships) = (bed.stream("trucks", 1), bed.stream("ships", 2));
    put(&ships, 0..10);
    let tracker = Forgetful {
        all: tracked(&[&trucks, &ships]),
        known: tracked(&[&trucks]),
        is_lost: Arc::default(),
        fails: Arc::default(),
    };
    let _worker = bed.builder("a").streams(tracker.clone()).build().unwrap().start();
    bed.sleep(5 * SECOND).await;
    tracker.is_lost.store(true, Ordering::Relaxed);
    bed.sleep(60 * SECOND).await;
    assert_eq!(bed.leases().await.len(), 3);
    // It knows that it does not know, for as long as that lasts.
    tracker.fails.store(true, Ordering::Relaxed);
    bed.sleep(2000 * SECOND).await;
    assert_eq!(bed.leases().await.len(), 3);
    tracker.fails.store(false, Ordering::Relaxed);
    tracker.is_lost.store(false, Ordering::Relaxed);
    put(&ships, 10..20);
    bed.sleep(20 * SECOND).await;
    assert_eq!(
        bed.processed(),
        counts([("ships", 20)]),
        "reading went on at the checkpoints"
    );
}

#[tokio::test(start_paused = true)]
async fn stream_that_cannot_be_opened_is_not_forgotten() {
    let mut bed = Bed::new();
    bed.settings.forget_streams_after = Some(600 * SECOND);
    let (trucks, ships) = (bed.stream("trucks", 1), bed.stream("ships", 2));
    let streams = tracked(&[&trucks, &ships]);
    let first = bed.start("a", &streams);
    bed.sleep(5 * SECOND).await;
    first.shutdown();
    first.join().await.unwrap();
    // It is listed, and its service does not say which it is.
    let ships = FaultyStream::new(ships, Arc::new(bed.clock));
    let denied = StreamFault::Fail(SourceErrorKind::NotFound);
    ships
        .faults()
        .add(StreamFaultRule::every(StreamCall::Identity, denied));
    let streams = StreamSet::new([TrackedStream::new(trucks.clone()), TrackedStream::new(ships)]);
    let _second = bed.start("b", &streams);
    bed.sleep(2000 * SECOND).await;
    assert_eq!(bed.leases().await.len(), 3);
}

/// A stream of which one shard is not found, and a hash key that belongs to the other.
async fn with_a_bad_shard(bed: &Bed) -> FaultyStream<MemoryStream> {
    let trucks = FaultyStream::new(bed.stream("trucks", 2), Arc::new(bed.clock));
    let bad = trucks.inner().shards_snapshot()[1].shard.id.clone();
    for call in [StreamCall::Open, StreamCall::Next] {
        let fault = StreamFault::Fail(SourceErrorKind::NotFound);
        let rule = StreamFaultRule::every(call, fault).on_shard(bad.clone());
        trucks.faults().add(rule);
    }
    trucks
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_not_found_holds_up_the_others_of_its_stream_only_until_the_stream_is_known_to_be_there()
 {
    let bed = Bed::new();
    let trucks = with_a_bad_shard(&bed).await;
    let worker = bed.builder("a").stream(trucks.clone()).build().unwrap().start();
    bed.sleep(20 * SECOND).await;
    let asked = trucks.faults().calls(StreamCall::Identity);
    for n in 1..=180 {
        trucks
            .inner()
            .put_with_hash_key("truck", 0, n.to_string())
            .unwrap();
        bed.sleep(SECOND).await;
        assert_eq!(bed.processed(), counts([("trucks", n)]), "second {n}");
    }
    let asked = trucks.faults().calls(StreamCall::Identity) - asked;
    assert!((2..=20).contains(&asked), "{asked} questions in three minutes");
    let leases = worker.status().leases;
    assert_eq!(
        leases
            .values()
            .filter_map(|lease| lease.trouble)
            .collect::<Vec<_>>(),
        [SourceErrorKind::NotFound]
    );
    trucks.faults().clear();
    trucks
        .inner()
        .put_with_hash_key("truck", u128::MAX, "of the other")
        .unwrap();
    bed.sleep(45 * SECOND).await;
    assert_eq!(bed.processed(), counts([("trucks", 181)]));
}

#[tokio::test(start_paused = true)]
async fn a_stream_created_again_is_recognised_however_lately_it_was_known_to_be_there() {
    let bed = Bed::new();
    let trucks = with_a_bad_shard(&bed).await;
    let worker = bed.builder("a").stream(trucks.clone()).build().unwrap().start();
    bed.sleep(20 * SECOND).await;
    trucks.faults().clear();
    trucks.inner().delete();
    bed.sleep(20 * SECOND).await;
    assert_eq!(worker.status().leases.len(), 2);
    trucks.inner().recreate(2);
    put(trucks.inner(), 0..10);
    let error = worker.join().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert_eq!(
        bed.processed(),
        counts([]),
        "nothing of the new stream was read with the old positions"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_comes_while_others_are_synced_waits_for_no_audit() {
    let bed = Bed::new();
    let (trucks, ships) = (bed.stream("trucks", 1), bed.stream("ships", 1));
    put(&ships, 0..10);
    let slow = FaultyStream::new(trucks, Arc::new(bed.clock));
    let delay = StreamFault::Delay(2 * SECOND);
    slow.faults()
        .add(StreamFaultRule::every(StreamCall::Shards, delay));
    let faults = slow.faults().clone();
    let streams = StreamSet::new([TrackedStream::new(slow)]);
    let _worker = bed.start("a", &streams);
    while faults.struck(StreamCall::Shards) == 0 {
        bed.sleep(SECOND / 10).await;
    }
    streams.add(TrackedStream::new(ships));
    bed.sleep(15 * SECOND).await;
    assert_eq!(bed.processed(), counts([("ships", 10)]));
}
