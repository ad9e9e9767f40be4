//! The edges of a worker's life: replies that come late, stops that come early, callbacks that do not return.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{Clock as _, ClockExt as _, Moment, TokioClock};
use kcl_core::lease_store::{Lease, LeaseStore as _};
use kcl_core::processor::{
    CheckpointError, ProcessorError, RecordBatch, RecordProcessor, ShardContext, StartFrom,
};
use kcl_core::settings::{CheckpointMode, Settings};
use kcl_core::status::ConsumerEnd;
use kcl_core::types::{LeaseKey, Position, WorkerId};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use kcl_testkit::clock::{Skew, SkewedClock};
use kcl_testkit::faults::{Fault, FaultyLeaseStore, Link, Operation};
use kcl_testkit::fleet::{Fleet, Member};
use kcl_testkit::simulate_fleet;

use crate::workers;

const SECOND: Duration = Duration::from_secs(1);

async fn held_by(fleet: &Fleet, name: &str, leases: usize) {
    fleet
        .wait_until("the worker holds its leases", 60 * SECOND, |view| {
            view.held(name).len() == leases
        })
        .await;
}

fn owned(fleet: &Fleet) -> Vec<Lease> {
    let leases = fleet.view().leases().into_iter();
    leases.filter(|lease| lease.owner.is_some()).collect()
}

/// Sends a checkpoint, waits for something else for a long time, and only then for the reply.
struct Dawdler {
    clock: TokioClock,
    pause: Duration,
}

#[async_trait]
impl RecordProcessor for Dawdler {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        let mut checkpoint = Box::pin(batch.checkpoint_through(0));
        tokio::select! {
            biased;
            stored = &mut checkpoint => return stored.map_err(ProcessorError::from),
            () = std::future::ready(()) => {}
        }
        self.clock.sleep(self.pause).await;
        checkpoint.await.map_err(ProcessorError::from)
    }
}

#[tokio::test(start_paused = true)]
async fn checkpoint_polled_late_does_not_cost_lease() {
    let clock = TokioClock::new();
    let mut settings = Settings::default();
    settings.leases.failover_time = 3 * SECOND;
    settings.checkpoints.mode = CheckpointMode::Manual;
    settings.reading.max_batch_records = 1;
    let pause = 2 * settings.leases.failover_time;
    let stream = MemoryStream::builder("trucks")
        .shards(1)
        .clock(Arc::new(clock))
        .build();
    for n in 0..3 {
        stream.put("truck", format!("{n}")).unwrap();
    }
    let worker = workers::builder("edges")
        .worker_id("a")
        .stream(stream)
        .lease_store(MemoryLeaseStore::new())
        .processor(move |_: &ShardContext| Dawdler { clock, pause })
        .settings(settings)
        .clock(Arc::new(clock))
        .build()
        .unwrap()
        .start();
    let started = worker.wait_for(|status| !status.leases.is_empty()).await;
    clock.sleep(5 * pause).await;
    let status = worker.status();
    let (key, lease) = started.leases.first_key_value().unwrap();
    let now = status.leases.get(key).expect("the lease is still held");
    assert_eq!(
        (now.token, now.failures),
        (lease.token, 0),
        "the same ownership, and no checkpoint failed"
    );
    assert_eq!(now.records, 3);
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn dropped_run_releases_its_leases_at_once() {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(2)
        .clock(Arc::new(clock))
        .build();
    let store = MemoryLeaseStore::new();
    let pause = SECOND / 10;
    let worker = workers::builder("edges")
        .worker_id("a")
        .stream(stream)
        .lease_store(store.clone())
        .processor(move |_: &ShardContext| Dawdler { clock, pause })
        .clock(Arc::new(clock))
        .build()
        .unwrap();
    let owned = async || {
        let leases = store.scan().await.unwrap().leases;
        leases.iter().filter(|lease| lease.owner.is_some()).count()
    };
    let all_owned = async {
        while owned().await < 2 {
            clock.sleep(pause).await;
        }
    };
    tokio::select! {
        ended = worker.run(std::future::pending()) => panic!("nothing ends it: {ended:?}"),
        () = all_owned => {}
    }
    let dropped = clock.now();
    while owned().await > 0 {
        clock.sleep(pause).await;
        assert!(clock.now() < dropped + SECOND, "the leases were not released");
    }
}

/// Panics in each batch, and writes down when.
struct Panics {
    at: Arc<Mutex<Vec<Moment>>>,
    clock: SkewedClock,
}

#[async_trait]
impl RecordProcessor for Panics {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.at.lock().unwrap().push(self.clock.now());
        panic!("a bug of the user's");
    }
}

#[test]
fn batch_that_always_panics_is_retried_more_slowly() {
    simulate_fleet(1, async |fleet| {
        let at = Arc::<Mutex<Vec<Moment>>>::default();
        let (seen, clock) = (Arc::clone(&at), SkewedClock::new(Skew::default()));
        fleet.start(Member::named("a").processor(move |_: &ShardContext| Panics {
            at: Arc::clone(&seen),
            clock,
        }));
        held_by(&fleet, "a", 4).await;
        fleet.put(1);
        fleet.sleep(60 * SECOND).await;
        let at = at.lock().unwrap();
        assert!((5..20).contains(&at.len()), "{} tries in a minute", at.len());
        let pauses: Vec<_> = at.windows(2).map(|two| two[1].saturating_since(two[0])).collect();
        assert!(pauses.windows(2).all(|two| two[0] < two[1]), "{pauses:?}");
        let view = fleet.view();
        let failures = view
            .status("a")
            .unwrap()
            .leases
            .values()
            .map(|lease| lease.failures)
            .max();
        assert_eq!(failures, u32::try_from(at.len()).ok(), "the status counts them");
    });
}

/// Takes its time over `shutdown_requested`.
struct SlowGoodbye {
    takes: Duration,
}

#[async_trait]
impl RecordProcessor for SlowGoodbye {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }

    async fn shutdown_requested(&mut self, _: &ShardContext) -> Result<(), ProcessorError> {
        TokioClock::new().sleep(self.takes).await;
        Ok(())
    }
}

#[test]
fn handoff_is_not_declined_after_request_to_finish() {
    simulate_fleet(2, async |fleet| {
        let mut settings = fleet.settings();
        settings.leases.handoff_timeout = SECOND;
        let takes = 5 * SECOND;
        let slow = |name: &str| {
            Member::named(name)
                .settings(settings.clone())
                .processor(move |_: &ShardContext| SlowGoodbye { takes })
        };
        fleet.start(slow("a"));
        held_by(&fleet, "a", 4).await;
        fleet.produce(SECOND / 10, 10);
        fleet.start(slow("b"));
        held_by(&fleet, "b", 2).await;
        fleet.sleep(20 * SECOND).await;
        fleet.stop_producing();
        fleet.settle().await;
        assert!(
            !fleet.trace().iter().any(|line| line.contains("cancel_handoff")),
            "a processor that has said goodbye is not used again"
        );
        assert_eq!(fleet.view().tally().redelivered, 0);
        assert_eq!(
            (fleet.view().held("a").len(), fleet.view().held("b").len()),
            (2, 2)
        );
    });
}

#[test]
fn leaving_worker_releases_leases_it_was_taking() {
    for delay in [Fault::DelayRequest(SECOND / 3), Fault::DelayReply(SECOND / 3)] {
        for step in 0..40 {
            simulate_fleet(step, async |fleet| {
                fleet.start_worker("a", fleet.settings());
                fleet.store_faults("a").always(Operation::Change, delay);
                fleet.sleep(SECOND / 20 * u32::try_from(step).unwrap()).await;
                let report = fleet.drain("a").await.unwrap();
                assert!(report.is_clean(), "step {step}: {report:?}");
                assert_eq!(owned(&fleet), [], "step {step}: {report:?}");
            });
        }
    }
}

#[test]
fn leaving_worker_releases_leases_assigned_meanwhile() {
    for step in 0..40 {
        simulate_fleet(step, async |fleet| {
            fleet.start_worker("a", fleet.settings());
            held_by(&fleet, "a", 4).await;
            fleet.produce(SECOND / 20, 10);
            fleet.start_worker("b", fleet.settings());
            fleet.sleep(SECOND / 20 * u32::try_from(step).unwrap()).await;
            let report = fleet.drain("b").await.unwrap();
            assert!(report.is_clean(), "step {step}: {report:?}");
            let took = fleet
                .wait_until("a holds everything again", 60 * SECOND, |view| {
                    view.held("a").len() == 4
                })
                .await;
            assert!(took < 2 * SECOND, "step {step}: {took:?}");
            fleet.stop_producing();
            fleet.settle().await;
            assert_eq!(fleet.view().tally().redelivered, 0, "step {step}");
        });
    }
}

#[test]
fn shutdown_takes_no_longer_than_its_timeout() {
    for link in [Link::Refusing, Link::RequestsLost, Link::RepliesLost] {
        for (drain_timeout, stops_now) in [(SECOND / 2, false), (4 * SECOND, false), (40 * SECOND, true)] {
            simulate_fleet(3, async |fleet| {
                let mut settings = fleet.settings();
                settings.shutdown.drain_timeout = drain_timeout;
                fleet.start_worker("a", settings.clone());
                fleet.start_worker("b", settings);
                held_by(&fleet, "a", 2).await;
                fleet.put(100);
                fleet.settle().await;
                fleet.store_faults("a").set_link(link);
                let begun = fleet.now();
                let report = match stops_now {
                    true => fleet.stop_now("a").await,
                    false => fleet.drain("a").await,
                };
                let took = fleet.now().saturating_since(begun);
                let limit = match stops_now {
                    true => fleet.settings().leases.failover_time,
                    false => drain_timeout,
                };
                assert!(took <= limit, "{link:?}: {took:?} of {limit:?}");
                let expires = ConsumerEnd::Expires;
                let ends = report.unwrap().leases;
                assert!(ends.values().all(|end| *end == expires), "{link:?}: {ends:?}");
                fleet.sleep(SECOND / 10).await;
                assert_eq!(fleet.tasks("a"), Vec::<String>::new());
                fleet.settle().await;
            });
        }
    }
}

#[test]
fn worker_whose_shutdown_is_over_writes_nothing_more() {
    simulate_fleet(4, async |fleet| {
        let mut settings = fleet.settings();
        settings.shutdown.drain_timeout = SECOND;
        fleet.start_worker("a", settings);
        held_by(&fleet, "a", 4).await;
        fleet.store_faults("a").set_link(Link::Refusing);
        assert!(!fleet.drain("a").await.unwrap().is_clean());
        fleet.store_faults("a").set_link(Link::Up);
        let before = fleet.view().leases();
        fleet.sleep(5 * fleet.settings().leases.failover_time).await;
        assert_eq!(fleet.view().leases(), before);
    });
}

#[test]
fn stop_during_first_write_of_row_is_heeded() {
    for fault in [
        Fault::DelayRequest(20 * SECOND),
        Fault::DelayReply(20 * SECOND),
        Fault::Fail(kcl_core::lease_store::StoreErrorKind::Throttled),
    ] {
        simulate_fleet(5, async |fleet| {
            fleet.start_worker("a", fleet.settings());
            fleet.store_faults("a").always(Operation::ChangeWorker, fault);
            fleet.sleep(2 * SECOND).await;
            let begun = fleet.now();
            assert!(fleet.drain("a").await.unwrap().is_clean());
            assert!(fleet.now().saturating_since(begun) < SECOND, "{fault:?}");
            fleet.sleep(SECOND).await;
            assert_eq!(fleet.tasks("a"), Vec::<String>::new());
        });
    }
}

#[test]
fn end_stored_during_abort_is_reported_as_end() {
    simulate_fleet(6, async |fleet| {
        let mut settings = fleet.settings();
        settings.shutdown.drain_timeout = 4 * SECOND;
        fleet.start_worker("a", settings);
        held_by(&fleet, "a", 4).await;
        let parent = fleet.open_shards()[0].clone();
        let late = Fault::DelayReply(SECOND / 5);
        fleet.store_faults("a").always(Operation::Change, late);
        fleet.split(&parent).unwrap();
        fleet
            .wait_until("the end is stored", 60 * SECOND, |view| {
                view.leases().iter().any(Lease::is_ended)
            })
            .await;
        let report = fleet.stop_now("a").await.unwrap();
        let end = report.leases.get(&LeaseKey::single_stream(&parent));
        assert_eq!(end, Some(&ConsumerEnd::ShardEnded), "{report:?}");
    });
}

/// Blocks its thread until the test lets it go.
struct Blocks {
    go: Arc<Mutex<mpsc::Receiver<()>>>,
    blocked: tokio::sync::watch::Sender<bool>,
}

#[async_trait]
impl RecordProcessor for Blocks {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.blocked.send_replace(true);
        // An error says that the test is over.
        let _ = self.go.lock().unwrap().recv();
        Ok(())
    }
}

/// In real time: a thread that is blocked does not stop virtual time, it stops the test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callback_that_blocks_its_thread_lets_lease_expire() {
    let mut settings = Settings::default();
    settings.leases.failover_time = SECOND;
    settings.shutdown.drain_timeout = SECOND / 2;
    settings.leases.discovery_interval = SECOND / 10;
    let stream = MemoryStream::builder("trucks").shards(1).build();
    stream.put("truck", "1").unwrap();
    let store = MemoryLeaseStore::new();
    let (let_go, go) = mpsc::channel::<()>();
    let (blocked, mut is_blocked) = tokio::sync::watch::channel(false);
    let go = Arc::new(Mutex::new(go));
    let worker = workers::builder("edges")
        .worker_id("a")
        .stream(stream)
        .lease_store(store.clone())
        .processor(move |_: &ShardContext| Blocks {
            go: Arc::clone(&go),
            blocked: blocked.clone(),
        })
        .settings(settings.clone())
        .build()
        .unwrap()
        .start();
    is_blocked.wait_for(|blocked| *blocked).await.unwrap();
    worker.shutdown();
    let report = worker.join().await.unwrap();
    let ends: BTreeSet<_> = report.leases.values().copied().collect();
    assert_eq!(ends, BTreeSet::from([ConsumerEnd::Expires]));
    assert_eq!(report.aborted.len(), 1);
    let counters = async || {
        let leases = store.scan().await.unwrap().leases;
        leases
            .into_iter()
            .map(|lease| (lease.owner, lease.counter))
            .collect::<Vec<_>>()
    };
    let at_the_end = counters().await;
    TokioClock::new().sleep(2 * settings.leases.failover_time).await;
    assert_eq!(counters().await, at_the_end, "nobody renews it any more");
    assert_eq!(at_the_end[0].0, Some(WorkerId::new("a").unwrap()));
    drop(let_go);
}

/// Keeps its first batch and panics on the second. The next processor checkpoints the first before it was given anything.
struct Heir {
    kept: Arc<Mutex<Vec<RecordBatch>>>,
    said: Arc<Mutex<Vec<Result<(), CheckpointError>>>>,
}

#[async_trait]
impl RecordProcessor for Heir {
    async fn initialize(&mut self, _: &ShardContext) -> Result<StartFrom, ProcessorError> {
        let first = self.kept.lock().unwrap().first().cloned();
        if let Some(first) = first {
            let said = first.checkpoint().await;
            self.said.lock().unwrap().push(said);
        }
        Ok(StartFrom::Checkpoint)
    }

    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        let batches = {
            let mut kept = self.kept.lock().unwrap();
            kept.push(batch);
            kept.len()
        };
        assert!(batches != 2, "a bug of the user's");
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn checkpoint_of_broken_processor_is_refused_not_lost() {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(1)
        .clock(Arc::new(clock))
        .build();
    for n in 0..3 {
        stream.put("truck", format!("{n}")).unwrap();
    }
    let (kept, said) = (Arc::default(), Arc::<Mutex<Vec<_>>>::default());
    let (theirs, noted) = (Arc::clone(&kept), Arc::clone(&said));
    let worker = workers::builder("edges")
        .worker_id("a")
        .stream(stream)
        .lease_store(MemoryLeaseStore::new())
        .processor(move |_: &ShardContext| Heir {
            kept: Arc::clone(&theirs),
            said: Arc::clone(&noted),
        })
        .settings({
            let mut settings = Settings::default();
            settings.checkpoints.mode = CheckpointMode::Manual;
            settings.reading.max_batch_records = 1;
            settings
        })
        .clock(Arc::new(clock))
        .build()
        .unwrap()
        .start();
    clock.sleep(30 * SECOND).await;
    let said = said.lock().unwrap().pop();
    assert!(matches!(said, Some(Err(CheckpointError::Fenced))), "{said:?}");
    assert_eq!(worker.status().leases.values().next().unwrap().records, 4);
    worker.shutdown();
    worker.join().await.unwrap();
}

/// Keeps what it is given.
struct Keeps {
    kept: Arc<Mutex<Vec<RecordBatch>>>,
}

#[async_trait]
impl RecordProcessor for Keeps {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.kept.lock().unwrap().push(batch);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn checkpoint_during_release_is_fenced() {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(1)
        .clock(Arc::new(clock))
        .build();
    stream.put("truck", "1").unwrap();
    let leases = MemoryLeaseStore::new();
    let store = FaultyLeaseStore::new(Arc::new(leases.clone()), Arc::new(clock));
    let faults = store.faults();
    let kept = Arc::<Mutex<Vec<RecordBatch>>>::default();
    let theirs = Arc::clone(&kept);
    let worker = workers::builder("edges")
        .worker_id("a")
        .stream(stream)
        .lease_store(store)
        .processor(move |_: &ShardContext| Keeps {
            kept: Arc::clone(&theirs),
        })
        .settings({
            let mut settings = Settings::default();
            settings.checkpoints.mode = CheckpointMode::Manual;
            settings
        })
        .clock(Arc::new(clock))
        .build()
        .unwrap()
        .start();
    clock.sleep(10 * SECOND).await;
    let batch = kept.lock().unwrap().pop().unwrap();
    faults.once(Operation::Change, Fault::DelayRequest(SECOND / 2));
    worker.shutdown();
    clock.sleep(SECOND / 10).await;
    let said = batch.checkpoint().await;
    assert!(matches!(said, Err(CheckpointError::Fenced)), "{said:?}");
    assert!(worker.join().await.unwrap().is_clean());
    let rows = leases.scan().await.unwrap().leases;
    assert!(rows.iter().all(|row| row.owner.is_none()));
    assert_eq!(rows[0].checkpoint, Position::TrimHorizon, "nobody owns it");
}
