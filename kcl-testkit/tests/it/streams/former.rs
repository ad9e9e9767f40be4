//! Streams that are deleted, or created once more under their name, and the leases of former ones.

use super::*;

#[tokio::test(start_paused = true)]
async fn recreated_stream_is_another_stream_among_many() {
    let mut bench = Bench::new();
    bench.settings.leases.forget_streams_after = Some(600 * SECOND);
    let (trucks, ships) = (bench.stream("trucks", 1), bench.stream("ships", 1));
    put(&ships, 0..10);
    let worker = bench.start("a", &tracked(&[&trucks, &ships]));
    bench.sleep(5 * SECOND).await;
    assert_eq!(bench.processed(), counts([("ships", 10)]));

    ships.delete();
    bench.sleep(10 * SECOND).await;
    let held = worker.status().leases;
    assert_eq!(held.len(), 2, "a stream that is gone ends no shard");
    assert!(
        held.values()
            .any(|lease| lease.trouble == Some(SourceErrorKind::NotFound))
    );

    ships.recreate(1);
    put(&ships, 0..5);
    bench.sleep(20 * SECOND).await;
    assert_eq!(
        bench.processed(),
        counts([("ships", 15)]),
        "read from its beginning"
    );
    let of_ships = bench
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
    bench.sleep(640 * SECOND).await;
    let left: Vec<_> = bench.leases().await.into_iter().map(|lease| lease.key).collect();
    assert!(
        !left.contains(&old[0].key) && left.contains(&new[0].key),
        "{left:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn recreated_stream_stops_worker_that_reads_only_it() {
    let bench = Bench::new();
    let trucks = bench.stream("trucks", 2);
    put(&trucks, 0..10);
    let worker = bench.builder("a").stream(trucks.clone()).build().unwrap().start();
    bench.sleep(5 * SECOND).await;
    trucks.delete();
    bench.sleep(60 * SECOND).await;
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
        bench.processed(),
        counts([("trucks", 10)]),
        "nothing of the new stream was read with the old positions"
    );
}

#[tokio::test(start_paused = true)]
async fn leases_of_former_stream_are_kept_by_default() {
    for grace in [None, Some(600 * SECOND)] {
        let mut bench = Bench::new();
        bench.settings.leases.forget_streams_after = grace;
        let (trucks, ships) = (bench.stream("trucks", 1), bench.stream("ships", 2));
        put(&ships, 0..10);
        let streams = tracked(&[&trucks, &ships]);
        let _worker = bench.start("a", &streams);
        bench.sleep(5 * SECOND).await;
        streams.remove("ships");
        bench.sleep(595 * SECOND).await;
        assert_eq!(bench.leases().await.len(), 3);
        bench.sleep(100 * SECOND).await;
        assert_eq!(bench.leases().await.len(), if grace.is_some() { 1 } else { 3 });
    }
}

#[tokio::test(start_paused = true)]
async fn former_leases_of_dead_owner_are_forgotten() {
    let mut bench = Bench::new();
    bench.settings.leases.forget_streams_after = Some(600 * SECOND);
    let (trucks, ships) = (bench.stream("trucks", 1), bench.stream("ships", 2));
    let scope = TaskScope::new();
    let first = bench.builder("a").streams(tracked(&[&trucks, &ships]));
    let _dead = first.task_scope(scope.clone()).build().unwrap().start();
    bench.sleep(5 * SECOND).await;
    scope.kill();
    let _worker = bench.start("b", &tracked(&[&trucks]));
    bench.sleep(590 * SECOND).await;
    assert_eq!(bench.owners("ships").await, owned_by(["a"]));
    bench.sleep(60 * SECOND).await;
    assert_eq!(bench.owners("ships").await, BTreeSet::new());
    assert_eq!(bench.owners("trucks").await, owned_by(["b"]));
}

#[tokio::test(start_paused = true)]
async fn leader_whose_term_is_over_forgets_no_leases() {
    let mut bench = Bench::new();
    bench.settings.leases.forget_streams_after = Some(600 * SECOND);
    let (trucks, ships) = (bench.stream("trucks", 1), bench.stream("ships", 30));
    let streams = tracked(&[&trucks, &ships]);
    let deletions: Arc<Mutex<Vec<Moment>>> = Arc::default();
    let (faults, seen) = (StoreFaults::new(), Arc::clone(&deletions));
    let spoiled = faults.clone();
    let store = FaultyLeaseStore::new(Arc::new(bench.store.clone()), Arc::new(bench.clock))
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
    let worker = bench.builder("a").streams(streams.clone()).lease_store(store);
    let _worker = worker.build().unwrap().start();
    bench.sleep(10 * SECOND).await;
    streams.remove("ships");
    bench.sleep(700 * SECOND).await;
    let deletions = deletions.lock().unwrap();
    let took = deletions[deletions.len() - 1].saturating_since(deletions[0]);
    assert!(took <= bench.settings.leases.failover_time, "{took:?}");
    assert!(deletions.len() < 30, "{}", deletions.len());
}

#[tokio::test(start_paused = true)]
async fn earlier_term_does_not_make_a_stream_former() {
    let mut bench = Bench::new();
    bench.settings.leases.forget_streams_after = Some(600 * SECOND);
    let (trucks, ships) = (bench.stream("trucks", 1), bench.stream("ships", 2));
    put(&ships, 0..10);
    let known = ["a", "b"].map(|_| tracked(&[&trucks, &ships]));
    let faults = ["a", "b"].map(|_| StoreFaults::new());
    let start = |n: usize, id: &str| {
        let store = FaultyLeaseStore::new(Arc::new(bench.store.clone()), Arc::new(bench.clock));
        let worker = bench.builder(id).streams(known[n].clone());
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
    bench.sleep(40 * SECOND).await;
    assert_eq!(bench.owners("ships").await, BTreeSet::from([None]));
    faults[0].always(Operation::Scan, no_scan);
    b.wait_for(|status| status.is_leader).await;
    known[1].add(TrackedStream::new(ships.clone()));
    bench.sleep(700 * SECOND).await;
    assert_eq!(bench.owners("ships").await, owned_by(["b"]));
    // The first leads again, just when the ships are given up.
    faults[0].clear();
    known[1].remove("ships");
    bench.sleep(2 * SECOND).await;
    faults[1].always(Operation::Scan, no_scan);
    a.wait_for(|status| status.is_leader).await;
    bench.sleep(580 * SECOND).await;
    assert_eq!(
        bench.leases().await.len(),
        3,
        "nobody has read them for less than the time that is set"
    );
    bench.sleep(80 * SECOND).await;
    assert_eq!(bench.leases().await.len(), 1);
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
    let mut bench = Bench::new();
    bench.settings.leases.forget_streams_after = Some(Duration::ZERO);
    assert!(
        bench.settings.validate().is_err(),
        "no time at all is an accident"
    );
    bench.settings.leases.forget_streams_after = Some(600 * SECOND);
    let (trucks, ships) = (bench.stream("trucks", 1), bench.stream("ships", 2));
    put(&ships, 0..10);
    let tracker = Forgetful {
        all: tracked(&[&trucks, &ships]),
        known: tracked(&[&trucks]),
        is_lost: Arc::default(),
        fails: Arc::default(),
    };
    let _worker = bench
        .builder("a")
        .streams(tracker.clone())
        .build()
        .unwrap()
        .start();
    bench.sleep(5 * SECOND).await;
    tracker.is_lost.store(true, Ordering::Relaxed);
    bench.sleep(60 * SECOND).await;
    assert_eq!(bench.leases().await.len(), 3);
    // It knows that it does not know, for as long as that lasts.
    tracker.fails.store(true, Ordering::Relaxed);
    bench.sleep(2000 * SECOND).await;
    assert_eq!(bench.leases().await.len(), 3);
    tracker.fails.store(false, Ordering::Relaxed);
    tracker.is_lost.store(false, Ordering::Relaxed);
    put(&ships, 10..20);
    bench.sleep(20 * SECOND).await;
    assert_eq!(
        bench.processed(),
        counts([("ships", 20)]),
        "reading went on at the checkpoints"
    );
}

#[tokio::test(start_paused = true)]
async fn stream_that_cannot_be_opened_is_not_forgotten() {
    let mut bench = Bench::new();
    bench.settings.leases.forget_streams_after = Some(600 * SECOND);
    let (trucks, ships) = (bench.stream("trucks", 1), bench.stream("ships", 2));
    let streams = tracked(&[&trucks, &ships]);
    let first = bench.start("a", &streams);
    bench.sleep(5 * SECOND).await;
    first.shutdown();
    first.join().await.unwrap();
    // It is listed, and its service does not say which it is.
    let ships = FaultyStream::new(ships, Arc::new(bench.clock));
    let denied = StreamFault::Fail(SourceErrorKind::NotFound);
    ships
        .faults()
        .add(StreamFaultRule::every(StreamCall::Identity, denied));
    let streams = StreamSet::new([TrackedStream::new(trucks.clone()), TrackedStream::new(ships)]);
    let _second = bench.start("b", &streams);
    bench.sleep(2000 * SECOND).await;
    assert_eq!(bench.leases().await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn recreated_stream_is_recognised_however_lately_known() {
    let bench = Bench::new();
    let trucks = with_a_bad_shard(&bench).await;
    let worker = bench.builder("a").stream(trucks.clone()).build().unwrap().start();
    bench.sleep(20 * SECOND).await;
    trucks.faults().clear();
    trucks.inner().delete();
    bench.sleep(20 * SECOND).await;
    assert_eq!(worker.status().leases.len(), 2);
    trucks.inner().recreate(2);
    put(trucks.inner(), 0..10);
    let error = worker.join().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert_eq!(
        bench.processed(),
        counts([]),
        "nothing of the new stream was read with the old positions"
    );
}
