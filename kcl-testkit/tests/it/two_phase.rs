//! Checkpoints in two phases: what is prepared survives its owner, and the next one commits or discards it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::lease_store::{Lease, LeaseChange, PendingCheckpoint};
use kcl_core::processor::{
    CheckpointError, ProcessorError, RecordBatch, RecordProcessor, ShardContext, StartFrom,
};
use kcl_core::settings::{CheckpointMode, Settings};
use kcl_core::types::{Position, RecordPosition};
use kcl_testkit::ProcessorBench;
use kcl_testkit::faults::{Fault, Operation, StoreCall, StoreEvent};
use kcl_testkit::fleet::{Fleet, Member, Simulation, View};

const SECOND: Duration = Duration::from_secs(1);

/// A transaction of the sink: its records, and whether they can be seen.
#[derive(Debug, Clone, Default)]
struct Transaction {
    records: Vec<RecordPosition>,
    is_committed: bool,
}

/// A sink with transactions that outlive the process.
#[derive(Debug, Clone, Default)]
struct Sink(Arc<Mutex<BTreeMap<String, Transaction>>>);

impl Sink {
    fn begin(&self, batch: &RecordBatch, shard: &ShardContext) -> String {
        let mut transactions = self.0.lock().unwrap();
        let id = format!(
            "{}-{}-{}",
            shard.shard(),
            shard.fencing_token(),
            transactions.len()
        );
        let records = batch.iter().map(|record| record.position().clone()).collect();
        let written = Transaction {
            records,
            is_committed: false,
        };
        transactions.insert(id.clone(), written);
        id
    }

    fn commit(&self, id: &str) {
        self.0.lock().unwrap().get_mut(id).unwrap().is_committed = true;
    }

    fn is_committed(&self, id: &str) -> bool {
        let transactions = self.0.lock().unwrap();
        transactions
            .get(id)
            .is_some_and(|transaction| transaction.is_committed)
    }

    /// Every record that can be seen, in order.
    fn visible(&self) -> Vec<RecordPosition> {
        let transactions = self.0.lock().unwrap();
        let committed = transactions
            .values()
            .filter(|transaction| transaction.is_committed);
        let mut visible: Vec<_> = committed
            .flat_map(|transaction| transaction.records.clone())
            .collect();
        visible.sort();
        visible
    }
}

fn name_of(pending: &PendingCheckpoint) -> String {
    String::from_utf8(pending.state.clone().unwrap_or_default().to_vec()).unwrap()
}

/// Writes each batch in one transaction, and each checkpoint in two phases.
#[derive(Clone)]
struct Transactional(Sink);

#[async_trait]
impl RecordProcessor for Transactional {
    async fn initialize(&mut self, shard: &ShardContext) -> Result<StartFrom, ProcessorError> {
        Ok(match shard.pending_checkpoint() {
            Some(pending) if self.0.is_committed(&name_of(&pending)) => StartFrom::CommitPending,
            Some(_) => StartFrom::DiscardPending,
            None => StartFrom::Checkpoint,
        })
    }

    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        let transaction = self.0.begin(&batch, shard);
        let prepared = batch.prepare(transaction.clone()).await?;
        self.0.commit(&transaction);
        prepared.commit().await?;
        Ok(())
    }
}

/// Prepares each batch and leaves it at that. A new one answers `initialize` like this.
#[derive(Clone)]
struct Preparing {
    starts: StartFrom,
    batches: Arc<Mutex<Vec<RecordBatch>>>,
    pending: Arc<Mutex<Vec<Option<PendingCheckpoint>>>>,
}

impl Preparing {
    fn new(starts: StartFrom) -> Self {
        Self {
            starts,
            batches: Arc::default(),
            pending: Arc::default(),
        }
    }

    fn last_batch(&self) -> RecordBatch {
        self.batches.lock().unwrap().last().unwrap().clone()
    }
}

#[async_trait]
impl RecordProcessor for Preparing {
    async fn initialize(&mut self, shard: &ShardContext) -> Result<StartFrom, ProcessorError> {
        self.pending.lock().unwrap().push(shard.pending_checkpoint());
        Ok(self.starts.clone())
    }

    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        assert_eq!(shard.pending_checkpoint(), None, "it is for initialize");
        drop(batch.prepare("transaction").await?);
        self.batches.lock().unwrap().push(batch);
        Ok(())
    }
}

fn manual() -> Settings {
    let mut settings = Settings::default();
    settings.leases.failover_time = 4 * SECOND;
    settings.checkpoints.mode = CheckpointMode::Manual;
    settings
}

fn one_shard<T>(scenario: impl AsyncFnOnce(Fleet) -> T) -> T {
    Simulation::new(1).shards(1).settings(manual()).run(scenario)
}

fn start(fleet: &Fleet, name: &str, processor: impl RecordProcessor + Clone + Sync) {
    let factory = move |_: &ShardContext| processor.clone();
    fleet.start(Member::named(name).processor(factory));
}

fn row(view: &View<'_>) -> Lease {
    view.leases().remove(0)
}

async fn prepared(fleet: &Fleet) {
    fleet
        .wait_until("the batch is prepared", 60 * SECOND, |view| {
            view.tally().delivered >= 10 && row(view).pending.is_some()
        })
        .await;
}

/// Everything that was put can be seen in the sink, once.
fn assert_exactly_once(fleet: &Fleet, sink: &Sink, what: &str) {
    let put = fleet.stream().put_log().into_iter();
    let mut put: Vec<_> = put.map(|(_, record)| record.position().clone()).collect();
    put.sort();
    assert_eq!(sink.visible(), put, "{what}");
}

async fn killed_after(fleet: Fleet, polls: u64) {
    let sink = Sink::default();
    start(&fleet, "a", Transactional(sink.clone()));
    fleet.produce(SECOND / 4, 5);
    fleet
        .wait_until("it works", 60 * SECOND, |view| view.tally().delivered > 0)
        .await;
    fleet.kill_after_polls("a", polls);
    fleet.sleep(3 * SECOND).await;
    start(&fleet, "b", Transactional(sink.clone()));
    fleet.sleep(10 * SECOND).await;
    fleet.put(0);
    fleet.settle().await;
    assert_exactly_once(&fleet, &sink, &format!("killed after {polls} polls"));
}

#[test]
fn kill_anywhere_leaves_every_record_in_sink_once() {
    for polls in (0..200).step_by(3) {
        one_shard(async |fleet| killed_after(fleet, polls).await);
    }
}

/// The store makes the change with this verb at most so often; then the worker that asked is killed, before it knows.
fn kill_at(fleet: &Fleet, verb: &'static str, times: u64) {
    let (killer, seen) = (fleet.clone(), Mutex::new(0));
    fleet.on_store_event(move |process, event: &StoreEvent| {
        let StoreCall::Change { change, .. } = &event.call else {
            return;
        };
        if change.verb() == verb && process == "a" {
            let mut seen = seen.lock().unwrap();
            *seen += 1;
            if *seen == times {
                killer.kill("a");
            }
        }
    });
}

#[test]
fn kill_at_any_write_is_settled_by_successor() {
    for verb in ["prepare_checkpoint", "checkpoint"] {
        for times in 1..4 {
            one_shard(async |fleet| {
                let sink = Sink::default();
                start(&fleet, "a", Transactional(sink.clone()));
                kill_at(&fleet, verb, times);
                fleet.produce(SECOND / 4, 5);
                fleet.sleep(5 * SECOND).await;
                assert_eq!(fleet.view().held("a").len(), 0, "it was killed");
                start(&fleet, "b", Transactional(sink.clone()));
                fleet.sleep(15 * SECOND).await;
                fleet.settle().await;
                assert_exactly_once(&fleet, &sink, verb);
            });
        }
    }
}

#[test]
fn prepared_checkpoint_does_not_move_stored_one() {
    one_shard(async |fleet| {
        let processor = Preparing::new(StartFrom::Checkpoint);
        start(&fleet, "a", processor.clone());
        fleet.put(10);
        prepared(&fleet).await;
        fleet.sleep(30 * SECOND).await;
        let shown = row(&fleet.view());
        let last = processor.last_batch().last().unwrap().position().clone();
        assert_eq!(shown.checkpoint, Position::TrimHorizon);
        let pending = shown.pending.unwrap();
        assert_eq!(pending.position, Position::Record(last.clone()));
        assert_eq!(name_of(&pending), "transaction");
        let again = processor.last_batch().prepare("transaction").await.unwrap();
        assert_eq!(again.position(), &last);
        again.commit().await.unwrap();
        again.commit().await.unwrap();
        let shown = row(&fleet.view());
        assert_eq!((shown.checkpoint, shown.pending), (Position::Record(last), None));
    });
}

#[test]
fn handoff_passes_prepared_checkpoint_on() {
    for (starts, redelivered) in [
        (StartFrom::CommitPending, 0),
        (StartFrom::DiscardPending, 10),
        (StartFrom::Checkpoint, 10),
    ] {
        one_shard(async |fleet| {
            start(&fleet, "a", Preparing::new(StartFrom::Checkpoint));
            fleet.put(10);
            prepared(&fleet).await;
            let pending = row(&fleet.view()).pending;
            fleet.drain("a").await.unwrap();
            assert_eq!(row(&fleet.view()).pending, pending);
            let next = Preparing::new(starts.clone());
            start(&fleet, "b", next.clone());
            fleet.sleep(20 * SECOND).await;
            assert_eq!(*next.pending.lock().unwrap(), [pending], "{starts:?}");
            assert_eq!(fleet.view().tally().redelivered, redelivered, "{starts:?}");
            let shown = row(&fleet.view());
            let is_committed = starts == StartFrom::CommitPending;
            assert_eq!(shown.checkpoint.record().is_some(), is_committed);
            assert_eq!(
                shown.pending.is_some(),
                !is_committed,
                "the records were prepared again"
            );
        });
    }
}

#[test]
fn commit_of_successor_survives_failing_store() {
    one_shard(async |fleet| {
        start(&fleet, "a", Preparing::new(StartFrom::Checkpoint));
        fleet.put(10);
        prepared(&fleet).await;
        fleet.drain("a").await.unwrap();
        start(&fleet, "b", Preparing::new(StartFrom::CommitPending));
        let (spoiler, count) = (fleet.clone(), Mutex::new(0));
        fleet.on_store_event(move |_, event: &StoreEvent| {
            if matches!(
                &event.call,
                StoreCall::Change {
                    change: LeaseChange::Renew { .. },
                    ..
                }
            ) {
                let mut count = count.lock().unwrap();
                *count += 1;
                if *count == 1 {
                    let unavailable = kcl_core::lease_store::StoreErrorKind::Unavailable;
                    let faults = spoiler.store_faults("b");
                    faults.once(Operation::Change, Fault::Fail(unavailable));
                    faults.once(Operation::Change, Fault::LoseReply);
                }
            }
        });
        fleet
            .wait_until("it is committed", 60 * SECOND, |view| {
                row(view).checkpoint.record().is_some()
            })
            .await;
        fleet.sleep(10 * SECOND).await;
        assert_eq!(fleet.view().tally().redelivered, 0);
    });
}

#[test]
fn lost_reply_of_prepare_is_found_out() {
    one_shard(async |fleet| {
        let sink = Sink::default();
        start(&fleet, "a", Transactional(sink.clone()));
        let spoiler = fleet.clone();
        let lost = Mutex::new(0);
        // The write before it is a renewal or a checkpoint: what comes next, or the one after, is prepared.
        fleet.on_store_event(move |_, event: &StoreEvent| {
            if let StoreCall::Change { change, .. } = &event.call
                && change.verb() == "prepare_checkpoint"
            {
                let mut lost = lost.lock().unwrap();
                *lost += 1;
                if *lost % 2 == 1 {
                    let faults = spoiler.store_faults("a");
                    faults.once(Operation::Change, Fault::LoseReply);
                    faults.once(Operation::Change, Fault::LoseReply);
                }
            }
        });
        fleet.produce(SECOND / 4, 5);
        fleet.sleep(20 * SECOND).await;
        fleet.settle().await;
        assert_exactly_once(&fleet, &sink, "no write is taken for another");
        assert_eq!(fleet.view().tally().redelivered, 0);
    });
}

#[test]
fn former_owner_neither_prepares_nor_discards() {
    one_shard(async |fleet| {
        let former = Preparing::new(StartFrom::Checkpoint);
        start(&fleet, "a", former.clone());
        fleet.put(10);
        prepared(&fleet).await;
        let batch = former.last_batch();
        let kept = batch.prepare("of the former owner").await.unwrap();
        fleet.freeze("a");
        start(&fleet, "b", Preparing::new(StartFrom::CommitPending));
        fleet
            .wait_until("the next owner goes on", 60 * SECOND, |view| {
                row(view).checkpoint.record().is_some()
            })
            .await;
        fleet.put(1);
        fleet
            .wait_until("it prepares", 60 * SECOND, |view| row(view).pending.is_some())
            .await;
        let before = row(&fleet.view()).pending;
        fleet.thaw("a");
        let is_fenced =
            |error: CheckpointError| matches!(error, CheckpointError::Fenced | CheckpointError::Suspended);
        assert!(batch.prepare("late").await.is_err_and(is_fenced));
        fleet.sleep(10 * SECOND).await;
        assert!(batch.prepare("later").await.is_err_and(is_fenced));
        assert!(matches!(kept.discard().await, Err(CheckpointError::Fenced)));
        assert_eq!(row(&fleet.view()).pending, before);
    });
}

#[test]
fn state_beyond_limit_and_index_are_refused() {
    one_shard(async |fleet| {
        let processor = Preparing::new(StartFrom::Checkpoint);
        start(&fleet, "a", processor.clone());
        fleet.put(10);
        prepared(&fleet).await;
        let batch = processor.last_batch();
        let limit = PendingCheckpoint::LARGEST_STATE;
        drop(batch.prepare(vec![1; limit]).await.unwrap());
        let error = batch.prepare(vec![1; limit + 1]).await.unwrap_err();
        assert!(matches!(error, CheckpointError::StateTooLarge(bytes) if bytes == limit + 1));
        assert!(error.to_string().contains("4097 bytes"), "{error}");
        let error = batch.prepare_through(batch.len(), "").await.unwrap_err();
        assert!(matches!(error, CheckpointError::NotInBatch));
        let empty = batch.prepare("").await.unwrap();
        assert_eq!(row(&fleet.view()).pending.unwrap().state, None);
        empty.discard().await.unwrap();
        let shown = row(&fleet.view());
        assert_eq!((shown.pending, shown.checkpoint), (None, Position::TrimHorizon));
    });
}

/// As in the Java KCL: any checkpoint of user code settles what is prepared.
#[test]
fn lower_checkpoint_of_user_discards_prepared_one() {
    one_shard(async |fleet| {
        let processor = Preparing::new(StartFrom::Checkpoint);
        start(&fleet, "a", processor.clone());
        fleet.put(10);
        prepared(&fleet).await;
        let batch = processor.last_batch();
        batch.checkpoint_through(0).await.unwrap();
        let shown = row(&fleet.view());
        assert_eq!(shown.checkpoint, Position::Record(batch[0].position().clone()));
        assert_eq!(shown.pending, None);
        let below = batch.prepare_through(0, "nothing to prepare").await.unwrap();
        below.commit().await.unwrap();
        assert_eq!(row(&fleet.view()).pending, None);
    });
}

/// Fails or panics between the two phases until it is cured.
#[derive(Clone)]
struct Stumbling {
    panics: bool,
    cured: Arc<AtomicBool>,
    pending: Arc<Mutex<Vec<Option<PendingCheckpoint>>>>,
}

impl Stumbling {
    fn new(panics: bool) -> Self {
        Self {
            panics,
            cured: Arc::default(),
            pending: Arc::default(),
        }
    }
}

#[async_trait]
impl RecordProcessor for Stumbling {
    async fn initialize(&mut self, shard: &ShardContext) -> Result<StartFrom, ProcessorError> {
        self.pending.lock().unwrap().push(shard.pending_checkpoint());
        Ok(StartFrom::Checkpoint)
    }

    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        if self.cured.load(Ordering::SeqCst) {
            return Ok(());
        }
        drop(batch.prepare("half done").await?);
        assert!(!self.panics, "made to panic");
        // All but the last are finished.
        Err(ProcessorError::transient("made to fail").at(&batch[batch.len() - 1]))
    }
}

#[test]
fn automatic_checkpoint_leaves_prepared_one_until_it_passes() {
    let processor = Stumbling::new(false);
    let cured = Arc::clone(&processor.cured);
    let mut bench = ProcessorBench::of(move |_: &ShardContext| processor.clone()).start();
    for _ in 0..5 {
        bench.put("truck", "here");
    }
    bench.run(60 * SECOND);
    let held = bench.leases().remove(0);
    let last = bench.put_records().pop().unwrap().1;
    assert_eq!(held.pending.unwrap().position, Position::Record(last));
    assert_eq!(
        bench.finished(),
        [],
        "what is finished before it would discard it"
    );
    cured.store(true, Ordering::SeqCst);
    bench.until_finished();
    assert_eq!(bench.leases().remove(0).pending, None);
}

#[test]
fn processor_after_panic_is_given_pending_checkpoint() {
    let processor = Stumbling::new(true);
    let (pending, cured) = (Arc::clone(&processor.pending), Arc::clone(&processor.cured));
    let mut bench = ProcessorBench::of(move |_: &ShardContext| processor.clone()).start();
    for _ in 0..5 {
        bench.put("truck", "here");
    }
    bench.run(10 * SECOND);
    let seen = pending.lock().unwrap().clone();
    assert_eq!(seen.first(), Some(&None));
    assert!(
        seen.iter().skip(1).all(Option::is_some) && seen.len() > 1,
        "{seen:?}"
    );
    cured.store(true, Ordering::SeqCst);
    bench.until_finished();
}
