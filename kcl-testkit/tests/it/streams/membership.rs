//! Streams that come and go while a fleet reads.

use super::*;

#[tokio::test(start_paused = true)]
async fn stream_is_read_when_added_or_added_again() {
    let bench = Bench::new();
    let (trucks, ships) = (bench.stream("trucks", 2), bench.stream("ships", 2));
    put(&trucks, 0..10);
    put(&ships, 0..10);
    let streams = tracked(&[&trucks]);
    let workers = [bench.start("a", &streams), bench.start("b", &streams)];
    bench.sleep(5 * SECOND).await;
    assert_eq!(bench.processed(), counts([("trucks", 10)]));

    streams.add(TrackedStream::new(ships.clone()));
    bench.sleep(3 * SECOND).await;
    assert_eq!(bench.processed(), counts([("trucks", 10), ("ships", 10)]));

    assert!(streams.remove("ships"));
    assert!(!streams.remove("ships"));
    bench.sleep(3 * SECOND).await;
    assert_eq!(
        bench.owners("ships").await,
        BTreeSet::from([None]),
        "its leases are given up"
    );
    put(&ships, 10..20);
    bench.sleep(20 * SECOND).await;
    assert_eq!(bench.processed(), counts([("trucks", 10), ("ships", 10)]));
    assert_eq!(
        bench.owners("ships").await,
        BTreeSet::from([None]),
        "and nobody is given them"
    );

    streams.add(TrackedStream::new(ships.clone()));
    bench.sleep(5 * SECOND).await;
    assert_eq!(
        bench.processed(),
        counts([("trucks", 10), ("ships", 20)]),
        "from the checkpoints on"
    );
    for worker in workers {
        worker.shutdown();
        assert!(worker.join().await.unwrap().is_clean());
    }
}

#[tokio::test(start_paused = true)]
async fn stream_is_read_by_workers_that_know_it() {
    let bench = Bench::new();
    let (trucks, ships) = (bench.stream("trucks", 3), bench.stream("ships", 3));
    put(&trucks, 0..30);
    put(&ships, 0..30);
    // The one that starts first leads; either may be the one that knows less.
    for (first, second) in [("old", "new"), ("new", "old")] {
        let bench = Bench {
            store: MemoryLeaseStore::new(),
            log: Log::default(),
            settings: bench.settings.clone(),
            ..bench
        };
        let known = |id: &str| match id {
            "old" => tracked(&[&trucks]),
            _ => tracked(&[&trucks, &ships]),
        };
        let _first = bench.start(first, &known(first));
        bench.sleep(2 * SECOND).await;
        let _second = bench.start(second, &known(second));
        bench.sleep(40 * SECOND).await;
        let ships_owners = bench.owners("ships").await;
        match first {
            "new" => assert_eq!(ships_owners, owned_by(["new"])),
            // The leader does not know the stream: it is not read until a worker leads that does, and no record is lost.
            _ => assert_eq!(ships_owners, BTreeSet::new()),
        }
        assert_eq!(bench.processed().get("trucks"), Some(&30));
    }
}

#[tokio::test(start_paused = true)]
async fn missing_stream_is_read_later_and_blocks_none() {
    let bench = Bench::new();
    let (trucks, ships) = (bench.stream("trucks", 1), bench.stream("ships", 1));
    ships.delete();
    put(&trucks, 0..10);
    let _worker = bench.start("a", &tracked(&[&trucks, &ships]));
    bench.sleep(5 * SECOND).await;
    assert_eq!(bench.processed(), counts([("trucks", 10)]));
    ships.recreate(2);
    put(&ships, 0..10);
    bench.sleep(5 * SECOND).await;
    assert_eq!(bench.processed(), counts([("trucks", 10), ("ships", 10)]));
}

#[tokio::test(start_paused = true)]
async fn start_without_any_stream_fails_with_its_name() {
    let bench = Bench::new();
    let ships = bench.stream("ships", 1);
    ships.delete();
    let error = bench.start("a", &tracked(&[&ships])).join().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("\"ships\""), "{error}");
    assert_eq!(
        bench.store.scan().await.unwrap().workers,
        [],
        "nothing was written"
    );
}

#[tokio::test(start_paused = true)]
async fn stream_gone_is_given_up_once_removed() {
    let bench = Bench::new();
    let [trucks, ships, planes] = ["trucks", "ships", "planes"].map(|name| bench.stream(name, 2));
    let streams = tracked(&[&trucks, &ships]);
    let worker = bench.start("a", &streams);
    bench.sleep(5 * SECOND).await;
    ships.delete();
    bench.sleep(30 * SECOND).await;

    put(&planes, 0..10);
    streams.add(TrackedStream::new(planes.clone()));
    bench.sleep(5 * SECOND).await;
    assert_eq!(bench.processed(), counts([("planes", 10)]));

    assert_eq!(
        bench.owners("ships").await,
        owned_by(["a"]),
        "the shards are held"
    );
    assert!(streams.remove("ships"));
    bench.sleep(5 * SECOND).await;
    assert_eq!(bench.owners("ships").await, BTreeSet::from([None]));
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn unknown_shard_blocks_others_until_stream_is_known() {
    let bench = Bench::new();
    let trucks = with_a_bad_shard(&bench).await;
    let worker = bench.builder("a").stream(trucks.clone()).build().unwrap().start();
    bench.sleep(20 * SECOND).await;
    let asked = trucks.faults().calls(StreamCall::Identity);
    for n in 1..=180 {
        trucks
            .inner()
            .put_with_hash_key("truck", 0, n.to_string())
            .unwrap();
        bench.sleep(SECOND).await;
        assert_eq!(bench.processed(), counts([("trucks", n)]), "second {n}");
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
    bench.sleep(45 * SECOND).await;
    assert_eq!(bench.processed(), counts([("trucks", 181)]));
}

#[tokio::test(start_paused = true)]
async fn stream_added_during_sync_waits_for_no_audit() {
    let bench = Bench::new();
    let (trucks, ships) = (bench.stream("trucks", 1), bench.stream("ships", 1));
    put(&ships, 0..10);
    let slow = FaultyStream::new(trucks, Arc::new(bench.clock));
    let delay = StreamFault::Delay(2 * SECOND);
    slow.faults()
        .add(StreamFaultRule::every(StreamCall::Shards, delay));
    let faults = slow.faults().clone();
    let streams = StreamSet::new([TrackedStream::new(slow)]);
    let _worker = bench.start("a", &streams);
    while faults.struck(StreamCall::Shards) == 0 {
        bench.sleep(SECOND / 10).await;
    }
    streams.add(TrackedStream::new(ships));
    bench.sleep(15 * SECOND).await;
    assert_eq!(bench.processed(), counts([("ships", 10)]));
}
