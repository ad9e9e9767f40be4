//! Slow processors: what they have done is stored when the worker is asked to stop.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::{CheckpointMode, Settings};
use kcl_testkit::fleet::{Fleet, Member, Simulation, View};

const SECOND: Duration = Duration::from_secs(1);

fn one_shard<T>(settings: Settings, scenario: impl AsyncFnOnce(Fleet) -> T) -> T {
    Simulation::new(1).shards(1).settings(settings).run(scenario)
}

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.leases.failover_time = 10 * SECOND;
    settings.shutdown.drain_timeout = 22 * SECOND;
    settings
}

/// Takes this long for each record, and counts what it has done.
struct Slow {
    fleet: Fleet,
    each: Duration,
    done: Arc<AtomicU64>,
    /// The sizes of the batches that it was given.
    sizes: Arc<Mutex<Vec<usize>>>,
}

#[async_trait]
impl RecordProcessor for Slow {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.sizes.lock().unwrap().push(batch.len());
        for _ in &batch {
            self.fleet.sleep(self.each).await;
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Starts a worker with slow processors. Returns how many records they have done, and the sizes of their batches.
fn start_slow(fleet: &Fleet, name: &str, each: Duration) -> (Arc<AtomicU64>, Arc<Mutex<Vec<usize>>>) {
    let (done, sizes) = (Arc::<AtomicU64>::default(), Arc::<Mutex<Vec<usize>>>::default());
    let slow = {
        let (fleet, done, sizes) = (fleet.clone(), Arc::clone(&done), Arc::clone(&sizes));
        move |_: &ShardContext| Slow {
            fleet: fleet.clone(),
            each,
            done: Arc::clone(&done),
            sizes: Arc::clone(&sizes),
        }
    };
    fleet.start(Member::named(name).processor(slow));
    (done, sizes)
}

#[test]
fn slow_processor_keeps_its_work_over_drain() {
    one_shard(settings(), async |fleet| {
        fleet.put(9200);
        let (done, sizes) = start_slow(&fleet, "a", Duration::from_millis(50));
        fleet.sleep(141 * SECOND).await;
        let report = fleet.drain("a").await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        let (done, stored) = (done.load(Ordering::Relaxed), fleet.view().tally().finished);
        assert!(done > 2500, "{done}");
        assert_eq!(stored, done, "all that was done is stored");
        let longest = sizes.lock().unwrap().iter().copied().max().unwrap();
        assert!(longest < 100, "{longest} records in one batch");

        // The next one goes on where this one stopped.
        start_slow(&fleet, "b", Duration::ZERO);
        fleet.settle().await;
        assert_eq!(fleet.view().tally().redelivered, 0);
    });
}

#[test]
fn fast_processor_is_given_whole_batches() {
    one_shard(settings(), async |fleet| {
        fleet.put(30_000);
        let (_, sizes) = start_slow(&fleet, "a", Duration::ZERO);
        fleet.settle().await;
        let sizes = sizes.lock().unwrap();
        assert!(sizes.contains(&10_000) && sizes.len() <= 6, "{sizes:?}");
    });
}

/// Takes a second for each record, and does as requested when the lease is about to be given up.
struct Polite {
    fleet: Fleet,
}

#[async_trait]
impl RecordProcessor for Polite {
    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        let draining = shard.draining();
        for record in &batch {
            if draining.is_cancelled() {
                return Err(ProcessorError::transient("draining").at(record));
            }
            self.fleet.sleep(5 * SECOND).await;
        }
        Ok(())
    }
}

#[test]
fn processor_told_of_drain_stops_between_records() {
    one_shard(settings(), async |fleet| {
        fleet.put(30);
        let polite = {
            let fleet = fleet.clone();
            move |_: &ShardContext| Polite { fleet: fleet.clone() }
        };
        fleet.start(Member::named("a").processor(polite));
        fleet.sleep(42 * SECOND).await;
        let report = fleet.drain("a").await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert!(report.took < 10 * SECOND, "{report:?}");
        let finished = fleet.view().tally().finished;
        assert!((8..=10).contains(&finished), "{finished}");
        start_slow(&fleet, "b", Duration::ZERO);
        fleet.settle().await;
    });
}

/// Checkpoints its third record, and never returns.
struct Stuck;

#[async_trait]
impl RecordProcessor for Stuck {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        let _ = batch.checkpoint_through(2).await;
        std::future::pending().await
    }
}

#[test]
fn dropped_callback_keeps_what_it_checkpointed() {
    let mut settings = settings();
    settings.checkpoints.mode = CheckpointMode::Manual;
    one_shard(settings, async |fleet| {
        fleet.put(10);
        fleet.start(Member::named("a").processor(|_: &ShardContext| Stuck));
        let three = |view: &View<'_>| view.tally().finished == 3;
        fleet.wait_until("three are finished", 60 * SECOND, three).await;
        let report = fleet.drain("a").await.unwrap();
        assert_eq!(report.aborted.len(), 1);
        let unfinished: Vec<_> = report.unfinished.values().copied().collect();
        assert_eq!(unfinished, [7], "{report:?}");
        fleet.start(Member::named("b").processor(|_: &ShardContext| Stuck));
        let six = |view: &View<'_>| view.tally().finished == 6;
        fleet
            .wait_until("the next one goes on after them", 60 * SECOND, six)
            .await;
        assert_eq!(fleet.view().tally().redelivered, 7);
    });
}
