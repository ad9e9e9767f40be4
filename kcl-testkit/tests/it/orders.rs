//! Orders that operators give to running workers through the lease table.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::lease_store::{LeaseOrder, LeaseStore as _, OrderAuthor, ResetPosition, WorkerOrder};
use kcl_core::processor::{
    LastResort, Policy, ProcessorError, RecordBatch, RecordProcessor, ShardContext, StartFrom,
};
use kcl_core::settings::Settings;
use kcl_core::types::{Incarnation, LeaseKey, Rate, RecordPosition, ShardId, WorkerId};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use kcl_operations::{Operator, OrderError, ResetPlan};
use kcl_testkit::clock::SIMULATION_START;
use kcl_testkit::fleet::{Fleet, Simulation};

use crate::workers;

const SECOND: Duration = Duration::from_secs(1);
const F: Duration = Duration::from_secs(9);

fn simulate(shards: u32, scenario: impl AsyncFnOnce(Fleet)) {
    let mut settings = Settings::default();
    settings.leases.failover_time = F;
    Simulation::new(7).shards(shards).settings(settings).run(scenario);
}

async fn all_held(fleet: &Fleet, names: &[&str]) {
    let shards = fleet.open_shards().len();
    fleet
        .wait_until("every lease is held", 120 * SECOND, |view| {
            names.iter().map(|name| view.held(name).len()).sum::<usize>() == shards
        })
        .await;
}

fn key(shard: u32) -> LeaseKey {
    LeaseKey::single_stream(&ShardId::new(format!("shardId-{shard:012}")).unwrap())
}

fn id(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

/// Resets these shards, and waits for the answers.
async fn reset(operator: &Operator, wanted: &[(u32, ResetPosition)]) -> ResetPlan {
    let rows = operator.scan().await.unwrap().leases;
    let wanted = wanted
        .iter()
        .map(|(shard, to)| (key(*shard), to.clone()))
        .collect();
    let plan = ResetPlan::new(&rows, &wanted);
    operator.execute(&plan, 60 * SECOND).await.unwrap();
    plan
}

#[test]
fn pause_is_answered_in_time_and_outlives_owner() {
    simulate(2, async |fleet| {
        fleet.start_worker("a", fleet.settings());
        fleet.start_worker("b", fleet.settings());
        all_held(&fleet, &["a", "b"]).await;
        fleet.produce(SECOND / 2, 6);
        fleet.sleep(20 * SECOND).await;
        let (operator, _) = fleet.operator("ana");
        let begun = fleet.now();
        let given = operator.order(&key(0), LeaseOrder::Pause).await.unwrap();
        operator.answered(&given, 60 * SECOND).await.unwrap();
        let took = fleet.now().saturating_since(begun);
        assert!(took <= F / 3 + SECOND, "{took:?}");
        // Whoever owns the lease from now on: the oracle sees that no batch starts.
        let owner = if fleet.view().held("a").contains(&key(0)) {
            "a"
        } else {
            "b"
        };
        fleet.kill(owner);
        fleet.sleep(40 * SECOND).await;
        let other = if owner == "a" { "b" } else { "a" };
        assert!(fleet.view().held(other).contains(&key(0)));
        fleet.stop_producing();
        fleet.sleep(20 * SECOND).await;
        assert!(!fleet.view().is_settled(), "the paused shard has records");
        let given = operator.order(&key(0), LeaseOrder::Resume).await.unwrap();
        operator.answered(&given, 60 * SECOND).await.unwrap();
        fleet.settle().await;
    });
}

#[test]
fn lease_moves_to_ordered_worker_and_stays() {
    simulate(4, async |fleet| {
        fleet.start_worker("a", fleet.settings());
        fleet.start_worker("b", fleet.settings());
        all_held(&fleet, &["a", "b"]).await;
        fleet.produce(SECOND / 2, 6);
        fleet.sleep(30 * SECOND).await;
        let (operator, _) = fleet.operator("ana");
        for shard in 0..4 {
            operator
                .order(&key(shard), LeaseOrder::Pin(id("b")))
                .await
                .unwrap();
        }
        for shard in 0..4 {
            assert!(operator.moved(&key(shard), &id("b"), 60 * SECOND).await.unwrap());
        }
        let moves = fleet.view().moves().len();
        fleet.sleep(120 * SECOND).await;
        assert_eq!(fleet.view().moves().len(), moves, "balance leaves them there");
        for shard in 0..4 {
            operator.order(&key(shard), LeaseOrder::Unpin).await.unwrap();
        }
        fleet
            .wait_until("they are balanced again", 120 * SECOND, |view| {
                view.held("a").len() == 2
            })
            .await;
        fleet.stop_producing();
        fleet.settle().await;
    });
}

#[test]
fn drained_worker_hands_over_and_excluded_keeps() {
    simulate(4, async |fleet| {
        for name in ["a", "b"] {
            fleet.start_worker(name, fleet.settings());
        }
        all_held(&fleet, &["a", "b"]).await;
        fleet.produce(SECOND / 2, 6);
        fleet.sleep(30 * SECOND).await;
        let (operator, _) = fleet.operator("ana");
        operator.order_worker(&id("a"), WorkerOrder::Drain).await.unwrap();
        assert!(operator.drained(&id("a"), 60 * SECOND).await.unwrap());
        fleet.sleep(60 * SECOND).await;
        assert_eq!(
            (fleet.view().held("a").len(), fleet.view().held("b").len()),
            (0, 4)
        );
        operator
            .order_worker(&id("b"), WorkerOrder::Exclude)
            .await
            .unwrap();
        operator
            .order_worker(&id("a"), WorkerOrder::Include)
            .await
            .unwrap();
        fleet
            .wait_until("a gets its share", 120 * SECOND, |view| view.held("a").len() == 2)
            .await;
        fleet.kill("a");
        fleet.sleep(60 * SECOND).await;
        assert_eq!(fleet.view().held("b").len(), 2, "b gets nothing more");
        operator
            .order_worker(&id("b"), WorkerOrder::Include)
            .await
            .unwrap();
        all_held(&fleet, &["b"]).await;
        let unknown = operator.order_worker(&id("z"), WorkerOrder::Drain).await;
        assert!(matches!(unknown, Err(OrderError::NoWorker(_))), "{unknown:?}");
        fleet.stop_producing();
        fleet.settle().await;
    });
}

#[test]
fn reset_brings_exactly_what_it_says_again() {
    simulate(1, async |fleet| {
        fleet.start_worker("a", fleet.settings());
        all_held(&fleet, &["a"]).await;
        for _ in 0..10 {
            fleet.put(5);
            fleet.sleep(SECOND).await;
        }
        fleet.settle().await;
        let shard = ShardId::new("shardId-000000000000").unwrap();
        let records = fleet.stream().records(&shard);
        let (operator, _) = fleet.operator("ana");
        let again = |fleet: &Fleet| fleet.view().tally().redelivered;
        // The sixth second brought the 26th record.
        let time = records[25].approximate_arrival().unwrap();
        for (to, expected) in [
            (ResetPosition::TrimHorizon, 50),
            (ResetPosition::After(records[39].position().clone()), 10),
            (ResetPosition::AtTimestamp(time), 25),
        ] {
            let before = again(&fleet);
            let begun = fleet.now();
            let plan = reset(&operator, &[(0, to.clone())]).await;
            assert!(plan.held.is_empty());
            fleet.settle().await;
            assert_eq!(again(&fleet) - before, expected, "{to}");
            assert!(fleet.now().saturating_since(begun) < F, "{to}");
        }
        let before = again(&fleet);
        let rows = operator.scan().await.unwrap().leases;
        let undo = ResetPlan::undo(&rows, &BTreeSet::from([key(0)]));
        assert_eq!(
            undo.heads[0].to,
            ResetPosition::After(records[49].position().clone())
        );
        operator.execute(&undo, 60 * SECOND).await.unwrap();
        fleet.sleep(30 * SECOND).await;
        assert_eq!(again(&fleet), before, "all was processed before that reset");
        let since = SIMULATION_START.plus(fleet.now().since_origin());
        fleet.put(3);
        fleet.settle().await;
        reset(&operator, &[(0, ResetPosition::AtTimestamp(since))]).await;
        fleet.settle().await;
        assert_eq!(again(&fleet) - before, 3);
    });
}

#[test]
fn reset_goes_on_inside_an_aggregate() {
    simulate(1, async |fleet| {
        fleet.start_worker("a", fleet.settings());
        all_held(&fleet, &["a"]).await;
        let mut aggregator = kcl_aggregation::Aggregator::new();
        for _ in 0..10 {
            aggregator.add("truck-1", None, b"position").unwrap();
        }
        let packed = aggregator.finish().unwrap();
        fleet.put_packed("truck-1", packed.data, 10);
        fleet.settle().await;
        let shard = ShardId::new("shardId-000000000000").unwrap();
        let sequence = fleet.stream().records(&shard)[0].position().sequence.clone();
        let (operator, _) = fleet.operator("ana");
        let to = ResetPosition::After(RecordPosition {
            sequence,
            sub_sequence: 6,
        });
        reset(&operator, &[(0, to)]).await;
        fleet.settle().await;
        assert_eq!(fleet.view().tally().redelivered, 3, "the last three of ten");
    });
}

#[test]
fn children_wait_while_their_parent_comes_again() {
    simulate(1, async |fleet| {
        fleet.start_worker("a", fleet.settings());
        fleet.start_worker("b", fleet.settings());
        all_held(&fleet, &["a", "b"]).await;
        fleet.produce(SECOND / 2, 6);
        fleet.sleep(10 * SECOND).await;
        fleet
            .split(&ShardId::new("shardId-000000000000").unwrap())
            .unwrap();
        fleet
            .wait_until("the parent is ended", 60 * SECOND, |view| {
                view.leases()
                    .iter()
                    .any(|row| row.key == key(0) && row.is_ended())
            })
            .await;
        let (operator, _) = fleet.operator("ana");
        let before = fleet.view().tally();
        // The oracle sees that no record of a child comes before its parent is finished again.
        let plan = reset(&operator, &[(0, ResetPosition::TrimHorizon)]).await;
        assert_eq!((plan.heads.len(), plan.held.len()), (1, 2));
        fleet.sleep(30 * SECOND).await;
        let rows = operator.scan().await.unwrap().leases;
        assert!(
            rows.iter()
                .all(|row| row.orders.as_ref().is_some_and(|orders| !orders.is_paused()))
        );
        fleet.stop_producing();
        fleet.settle().await;
        let again = fleet.view().tally().redelivered - before.redelivered;
        assert!(again >= before.delivered, "{again} of {}", before.delivered);
    });
}

#[test]
fn order_during_outage_is_obeyed_after_it() {
    simulate(1, async |fleet| {
        fleet.start_worker("a", fleet.settings());
        all_held(&fleet, &["a"]).await;
        let (operator, faults) = fleet.operator("ana");
        faults.once(
            kcl_testkit::faults::Operation::Change,
            kcl_testkit::faults::Fault::LoseReply,
        );
        let given = operator.order(&key(0), LeaseOrder::Pause).await.unwrap();
        assert_eq!(given.revision, 1, "the order whose reply was lost is found");
        operator.answered(&given, 60 * SECOND).await.unwrap();
        let resumed = operator.order(&key(0), LeaseOrder::Resume).await.unwrap();
        operator.answered(&resumed, 60 * SECOND).await.unwrap();
        fleet.kill("a");
        let given = operator.order(&key(0), LeaseOrder::Pause).await.unwrap();
        let unanswered = operator.answered(&given, 5 * SECOND).await.unwrap_err();
        assert!(
            unanswered.to_string().contains("the next owner obeys"),
            "{unanswered}"
        );
        fleet.start_worker("b", fleet.settings());
        operator.answered(&given, 120 * SECOND).await.unwrap();
        let last = operator.order(&key(0), LeaseOrder::Resume).await.unwrap();
        operator.answered(&last, 60 * SECOND).await.unwrap();
        let missing = operator.order(&key(9), LeaseOrder::Pause).await.unwrap_err();
        assert!(missing.to_string().contains("kcl status"), "{missing}");
    });
}

/// Fails on the record with this payload.
struct FailsOn(&'static [u8], Arc<AtomicUsize>);

#[async_trait]
impl RecordProcessor for FailsOn {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        if let Some(record) = batch.iter().find(|record| record.data().as_ref() == self.0) {
            return Err(ProcessorError::poison("no truck").at(record));
        }
        self.1.fetch_add(batch.len(), Ordering::SeqCst);
        Ok(())
    }
}

/// A worker on one shard, that fails on the record "poison".
fn worker_that_fails() -> (
    MemoryStream,
    MemoryLeaseStore,
    kcl_core::WorkerHandle,
    Arc<AtomicUsize>,
) {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(1)
        .clock(Arc::new(clock))
        .build();
    let (store, count) = (MemoryLeaseStore::new(), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&count);
    let worker = workers::builder("orders")
        .worker_id("a")
        .stream(stream.clone())
        .lease_store(store.clone())
        .processor(move |_: &ShardContext| FailsOn(b"poison", Arc::clone(&counted)))
        .error_policy(Policy::new(LastResort::Hold))
        .clock(Arc::new(clock))
        .build()
        .unwrap()
        .start();
    (stream, store, worker, count)
}

fn operator(store: &MemoryLeaseStore) -> Operator {
    let author = OrderAuthor::new("ana").unwrap();
    let incarnation = Incarnation::from_random_bytes([7; 16]);
    Operator::new(
        Arc::new(store.clone()),
        Arc::new(TokioClock::new()),
        incarnation,
        author,
    )
}

#[tokio::test(start_paused = true)]
async fn ordered_record_is_skipped_and_no_other() {
    let (stream, store, worker, count) = worker_that_fails();
    let clock = TokioClock::new();
    for payloads in [["one", "two"], ["poison", "three"]] {
        for payload in payloads {
            stream.put("truck-1", payload).unwrap();
        }
        clock.sleep(10 * SECOND).await;
    }
    clock.sleep(30 * SECOND).await;
    assert_eq!(count.load(Ordering::SeqCst), 2, "held at the third");
    let row = store.read(&key(0)).await.unwrap().unwrap();
    let report = row.report.unwrap();
    let failing = report.failing.clone().unwrap();
    assert!(
        report.attempts > 0 && report.concern.as_deref() == Some("failing"),
        "{report}"
    );
    let operator = operator(&store);
    let records = stream.records(&ShardId::new("shardId-000000000000").unwrap());
    for (other, reason) in [(3, "the shard is held at"), (1, "finished already")] {
        let wrong = LeaseOrder::Skip(records[other].position().clone());
        let given = operator.order(&key(0), wrong).await.unwrap();
        let refused = operator.answered(&given, 60 * SECOND).await.unwrap_err();
        assert!(refused.to_string().contains(reason), "{refused}");
    }
    clock.sleep(60 * SECOND).await;
    assert_eq!(count.load(Ordering::SeqCst), 2);
    let given = operator.order(&key(0), LeaseOrder::Skip(failing)).await.unwrap();
    operator.answered(&given, 60 * SECOND).await.unwrap();
    clock.sleep(SECOND).await;
    assert_eq!(count.load(Ordering::SeqCst), 3);
    let skipped: u64 = worker.status().leases.values().map(|lease| lease.skipped).sum();
    assert_eq!(skipped, 1);
    worker.shutdown();
    worker.join().await.unwrap();
}

/// Begins at a place of its own.
struct OwnPlace;

#[async_trait]
impl RecordProcessor for OwnPlace {
    async fn initialize(&mut self, _: &ShardContext) -> Result<StartFrom, ProcessorError> {
        Ok(StartFrom::TrimHorizon)
    }

    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn reset_is_refused_by_processor_with_own_place() {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(1)
        .clock(Arc::new(clock))
        .build();
    let store = MemoryLeaseStore::new();
    let worker = workers::builder("orders")
        .worker_id("a")
        .stream(stream.clone())
        .lease_store(store.clone())
        .processor(|_: &ShardContext| OwnPlace)
        .clock(Arc::new(clock))
        .build()
        .unwrap()
        .start();
    stream.put("truck-1", "x").unwrap();
    clock.sleep(20 * SECOND).await;
    let operator = operator(&store);
    let rows = operator.scan().await.unwrap().leases;
    let plan = ResetPlan::new(&rows, &[(key(0), ResetPosition::TrimHorizon)].into());
    let given = operator.execute(&plan, 60 * SECOND).await.unwrap();
    let refused = operator.answered(&given[0], 60 * SECOND).await.unwrap_err();
    assert!(refused.to_string().contains("a place of its own"), "{refused}");
    worker.shutdown();
    worker.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn ordered_limit_is_kept_by_next_owner() {
    let (stream, store, worker, count) = worker_that_fails();
    let clock = TokioClock::new();
    clock.sleep(10 * SECOND).await;
    let operator = operator(&store);
    let limit = |records: Option<u32>| {
        LeaseOrder::Limit(records.and_then(NonZeroU32::new).map(|records| Rate {
            records: Some(records),
            kib: None,
        }))
    };
    let given = operator.order(&key(0), limit(Some(10))).await.unwrap();
    operator.answered(&given, 60 * SECOND).await.unwrap();
    worker.shutdown();
    worker.join().await.unwrap();
    let counted = Arc::clone(&count);
    let next = workers::builder("orders")
        .worker_id("b")
        .stream(stream.clone())
        .lease_store(store.clone())
        .processor(move |_: &ShardContext| FailsOn(b"poison", Arc::clone(&counted)))
        .clock(Arc::new(clock))
        .build()
        .unwrap()
        .start();
    clock.sleep(20 * SECOND).await;
    for n in 0..1000 {
        stream.put(format!("truck-{n}"), "x").unwrap();
    }
    clock.sleep(20 * SECOND).await;
    let limited = count.load(Ordering::SeqCst);
    assert!((100..=250).contains(&limited), "{limited} records in 20 s");
    let given = operator.order(&key(0), limit(None)).await.unwrap();
    operator.answered(&given, 60 * SECOND).await.unwrap();
    clock.sleep(10 * SECOND).await;
    assert_eq!(count.load(Ordering::SeqCst), 1000);
    next.shutdown();
    next.join().await.unwrap();
}

#[test]
fn reports_of_shards_show_pace_and_lag() {
    simulate(2, async |fleet| {
        fleet.start_worker("a", fleet.settings());
        all_held(&fleet, &["a"]).await;
        fleet.produce(SECOND, 10);
        fleet.sleep(60 * SECOND).await;
        let (operator, _) = fleet.operator("ana");
        let scan = operator.scan().await.unwrap();
        let reports: BTreeMap<_, _> = scan
            .leases
            .iter()
            .map(|row| (row.key.clone(), row.report.clone().unwrap()))
            .collect();
        let processed: u64 = reports.values().map(|report| report.processed_per_minute).sum();
        assert!((400..=800).contains(&processed), "{processed} a minute");
        assert!(
            reports
                .values()
                .all(|report| report.behind < 3 * SECOND && report.concern.is_none())
        );
        let worker = &scan.workers[0];
        assert_eq!(worker.version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert!(worker.started.is_some());
        fleet.stop_producing();
        fleet.settle().await;
    });
}
