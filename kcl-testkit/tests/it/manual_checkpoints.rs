//! Manual checkpoints: a record is finished once the user's code says so, also at the end of a shard, in the status and in a drain.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::processor::{
    EndOfShard, ProcessorError, RecordBatch, RecordProcessor, RecordProcessorFactory, ShardContext,
};
use kcl_core::settings::{CheckpointMode, Settings};
use kcl_core::status::{ConsumerState, HealthIssue, LeaseStatus, WaitReason, WorkerStatus};
use kcl_core::types::Position;
use kcl_testkit::fleet::{Fleet, Member, Simulation, View};

const SECOND: Duration = Duration::from_secs(1);

/// When a collector checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    Never,
    /// Never, but it says that the end of the shard need not wait.
    NeverAndSaysSo,
    InShardEnded,
    InShutdown,
    /// At each tick.
    InTick,
}

/// Collects batches, and keeps the last one for its checkpoint.
struct Collector {
    habit: Habit,
    last: Arc<Mutex<Option<RecordBatch>>>,
}

impl Collector {
    async fn flush_if(&self, habit: Habit) -> Result<(), ProcessorError> {
        let last = self.last.lock().unwrap().take();
        match last {
            Some(batch) if self.habit == habit => Ok(batch.checkpoint().await?),
            last => {
                *self.last.lock().unwrap() = last;
                Ok(())
            }
        }
    }
}

#[async_trait]
impl RecordProcessor for Collector {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        *self.last.lock().unwrap() = Some(batch);
        Ok(())
    }

    async fn tick(&mut self, _: &ShardContext) -> Result<(), ProcessorError> {
        self.flush_if(Habit::InTick).await
    }

    async fn shutdown_requested(&mut self, _: &ShardContext) -> Result<(), ProcessorError> {
        self.flush_if(Habit::InShutdown).await
    }

    async fn shard_ended(&mut self, _: &ShardContext) -> Result<(), ProcessorError> {
        self.flush_if(Habit::InShardEnded).await
    }

    fn end_of_shard(&self) -> EndOfShard {
        match self.habit {
            Habit::NeverAndSaysSo => EndOfShard::AllFinished,
            Habit::Never | Habit::InShardEnded | Habit::InShutdown | Habit::InTick => {
                EndOfShard::WhenFinished
            }
        }
    }
}

fn manual() -> Settings {
    let mut settings = Settings::default();
    settings.leases.failover_time = 4 * SECOND;
    settings.checkpoints.mode = CheckpointMode::Manual;
    settings.checkpoints.slow_after = 120 * SECOND;
    settings
}

fn one_shard<T>(scenario: impl AsyncFnOnce(Fleet) -> T) -> T {
    Simulation::new(1).shards(1).settings(manual()).run(scenario)
}

/// Starts a worker whose processors have this habit. Returns the batch that the last of them has collected.
fn start(fleet: &Fleet, name: &str, habit: Habit) -> Arc<Mutex<Option<RecordBatch>>> {
    let last = Arc::<Mutex<Option<RecordBatch>>>::default();
    let kept = Arc::clone(&last);
    let collector = move |_: &ShardContext| Collector {
        habit,
        last: Arc::clone(&kept),
    };
    fleet.start(Member::named(name).processor(collector));
    last
}

fn status_of(fleet: &Fleet, name: &str) -> WorkerStatus {
    fleet.view().status(name).expect("it lives")
}

/// The status of the only lease that the worker holds.
fn lease(fleet: &Fleet, name: &str) -> LeaseStatus {
    let status = status_of(fleet, name);
    status.leases.values().next().expect("it holds a lease").clone()
}

fn delivered(count: u64) -> impl Fn(&View<'_>) -> bool {
    move |view| view.tally().delivered >= count
}

/// Puts ten records into one shard, lets a worker process them, and splits the shard.
async fn process_ten_and_split(fleet: &Fleet, habit: Habit) -> Arc<Mutex<Option<RecordBatch>>> {
    let last = start(fleet, "a", habit);
    fleet.put(10);
    fleet
        .wait_until("all is delivered", 60 * SECOND, delivered(10))
        .await;
    let shard = fleet.open_shards().first().unwrap().clone();
    fleet.split(&shard).unwrap();
    last
}

fn ended_leases(fleet: &Fleet) -> usize {
    let leases = fleet.view().leases();
    leases
        .iter()
        .filter(|lease| lease.checkpoint == Position::ShardEnd)
        .count()
}

/// Makes processors that never checkpoint, and that need manual checkpoints.
struct NeedsManual;

impl RecordProcessorFactory for NeedsManual {
    fn create(&self, _: &ShardContext) -> Box<dyn RecordProcessor> {
        Box::new(Collector {
            habit: Habit::Never,
            last: Arc::default(),
        })
    }

    fn checkpoint_mode(&self) -> Option<CheckpointMode> {
        Some(CheckpointMode::Manual)
    }
}

#[test]
fn factory_decides_over_the_checkpoint_mode_set() {
    let mut automatic = manual();
    automatic.checkpoints.mode = CheckpointMode::Automatic;
    one_shard(async |fleet| {
        fleet.start(
            Member::named("a")
                .processor(NeedsManual)
                .settings(automatic.clone()),
        );
        fleet.put(10);
        fleet
            .wait_until("all is delivered", 60 * SECOND, delivered(10))
            .await;
        fleet.sleep(60 * SECOND).await;
        assert_eq!(lease(&fleet, "a").unfinished, 10, "nothing was checkpointed");
    });
}

#[test]
fn end_waits_for_manual_checkpoints() {
    one_shard(async |fleet| {
        let last = process_ten_and_split(&fleet, Habit::Never).await;
        fleet.sleep(30 * SECOND).await;
        assert_eq!(ended_leases(&fleet), 0, "nothing was checkpointed");
        let waiting = lease(&fleet, "a");
        assert_eq!(waiting.state, ConsumerState::AwaitingCheckpoints);
        assert_eq!(waiting.waiting.unwrap().0, WaitReason::Checkpoints);
        assert_eq!((waiting.unfinished, waiting.concern), (10, None));
        fleet.sleep(120 * SECOND).await;
        assert_eq!(lease(&fleet, "a").concern, Some(HealthIssue::NotCheckpointed));

        // The user's code comes round to it, whichever task that is.
        let batch = last.lock().unwrap().take().unwrap();
        batch.checkpoint().await.unwrap();
        fleet
            .wait_until("the children are read", 10 * SECOND, |view| {
                view.held("a").len() == 2
            })
            .await;
        fleet.settle().await;
        assert_eq!(fleet.view().tally().redelivered, 0);
    });
}

#[test]
fn checkpoint_of_part_does_not_end_shard() {
    one_shard(async |fleet| {
        let last = process_ten_and_split(&fleet, Habit::Never).await;
        let batch = last.lock().unwrap().take().unwrap();
        batch.checkpoint_through(batch.len() - 2).await.unwrap();
        fleet.sleep(30 * SECOND).await;
        assert_eq!((ended_leases(&fleet), lease(&fleet, "a").unfinished), (0, 1));
        batch.checkpoint().await.unwrap();
        fleet
            .wait_until("the children are read", 10 * SECOND, |view| {
                view.held("a").len() == 2
            })
            .await;
    });
}

#[test]
fn shard_ends_at_once_when_checkpointed_in_time() {
    for habit in [Habit::InShardEnded, Habit::InTick] {
        one_shard(async |fleet| {
            process_ten_and_split(&fleet, habit).await;
            let children = |view: &View<'_>| view.held("a").len() == 2;
            fleet
                .wait_until("the children are read", 10 * SECOND, children)
                .await;
            fleet.settle().await;
            assert_eq!(fleet.view().tally().finished, 10);
        });
    }
}

#[test]
fn processor_may_end_shard_without_checkpoints() {
    one_shard(async |fleet| {
        process_ten_and_split(&fleet, Habit::NeverAndSaysSo).await;
        fleet
            .wait_until("the children are read", 10 * SECOND, |view| {
                view.held("a").len() == 2
            })
            .await;
        assert_eq!(ended_leases(&fleet), 1);
        assert!(fleet.drain("a").await.unwrap().is_clean());
    });
}

#[test]
fn unfinished_end_is_left_to_next_owner() {
    one_shard(async |fleet| {
        process_ten_and_split(&fleet, Habit::Never).await;
        fleet.sleep(5 * SECOND).await;
        assert_eq!(lease(&fleet, "a").state, ConsumerState::AwaitingCheckpoints);
        let report = fleet.drain("a").await.unwrap();
        assert_eq!(report.unfinished.values().copied().collect::<Vec<_>>(), [10]);
        assert!(!report.is_clean() && report.aborted.is_empty(), "{report:?}");
        start(&fleet, "b", Habit::InShardEnded);
        let children = |view: &View<'_>| view.held("b").len() == 2;
        fleet
            .wait_until("the children are read", 60 * SECOND, children)
            .await;
        fleet.settle().await;
        assert_eq!(fleet.view().tally().redelivered, 10);
    });
}

#[test]
fn handoff_at_unfinished_end_moves_shard() {
    one_shard(async |fleet| {
        process_ten_and_split(&fleet, Habit::InShutdown).await;
        fleet.sleep(5 * SECOND).await;
        start(&fleet, "b", Habit::InShardEnded);
        fleet.sleep(5 * SECOND).await;
        let report = fleet.drain("a").await.unwrap();
        assert!(
            report.is_clean(),
            "flushed when it was asked to finish: {report:?}"
        );
        let children = |view: &View<'_>| view.held("b").len() == 2;
        fleet
            .wait_until("the children are read", 60 * SECOND, children)
            .await;
        fleet.settle().await;
        assert_eq!(fleet.view().tally().redelivered, 0);
    });
}

#[test]
fn lost_lease_at_unfinished_end_is_taken_over() {
    one_shard(async |fleet| {
        process_ten_and_split(&fleet, Habit::Never).await;
        fleet.sleep(5 * SECOND).await;
        fleet.freeze("a");
        start(&fleet, "b", Habit::InShardEnded);
        let children = |view: &View<'_>| view.held("b").len() == 2;
        fleet
            .wait_until("the children are read", 60 * SECOND, children)
            .await;
        fleet.thaw("a");
        fleet.settle().await;
        fleet
            .wait_until("the former owner lets go", 30 * SECOND, |view| {
                view.held("a").len() + view.held("b").len() == 2
            })
            .await;
    });
}

#[test]
fn processor_without_checkpoints_is_stale_and_unclean() {
    one_shard(async |fleet| {
        start(&fleet, "a", Habit::Never);
        fleet.put(10);
        fleet
            .wait_until("all is delivered", 60 * SECOND, delivered(10))
            .await;
        let begun = fleet.now();
        fleet.sleep(100 * SECOND).await;
        fleet.put(7);
        fleet.sleep(19 * SECOND).await;
        let (status, stale) = (status_of(&fleet, "a"), lease(&fleet, "a"));
        assert!(status.is_healthy());
        assert!(stale.freshness.at(status.at) >= 119 * SECOND, "{stale:?}");
        assert!(stale.behind.at(status.at) <= 3 * SECOND, "{stale:?}");
        assert_eq!((stale.records, stale.unfinished), (17, 17));
        fleet.sleep(3 * SECOND).await;
        assert!(fleet.now().saturating_since(begun) >= 120 * SECOND);
        let status = status_of(&fleet, "a");
        assert!(!status.is_healthy());
        assert_eq!(lease(&fleet, "a").concern, Some(HealthIssue::NotCheckpointed));
        let report = fleet.drain("a").await.unwrap();
        assert!(!report.is_clean());
        assert_eq!(report.unfinished.values().sum::<u64>(), 17);
    });
}

#[test]
fn checkpoints_make_shard_fresh_and_drain_clean() {
    one_shard(async |fleet| {
        let last = start(&fleet, "a", Habit::Never);
        fleet.put(10);
        fleet
            .wait_until("all is delivered", 60 * SECOND, delivered(10))
            .await;
        fleet.sleep(200 * SECOND).await;
        assert_eq!(lease(&fleet, "a").concern, Some(HealthIssue::NotCheckpointed));
        let batch = last.lock().unwrap().take().unwrap();
        batch.checkpoint().await.unwrap();
        let (status, fresh) = (status_of(&fleet, "a"), lease(&fleet, "a"));
        assert_eq!((fresh.unfinished, fresh.unfinished_since), (0, None));
        assert!(fresh.freshness.at(status.at) <= 3 * SECOND, "{fresh:?}");
        assert!(status.is_healthy());
        assert!(fleet.drain("a").await.unwrap().is_clean());
    });
}
