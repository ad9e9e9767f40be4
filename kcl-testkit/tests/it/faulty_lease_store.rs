//! The wrapper that fails on request does as requested, and reports the true effect.

use std::sync::Arc;
use std::time::Duration;

use kcl_core::clock::{Clock as _, ClockExt as _, Rng, TokioClock};
use kcl_core::internals::{TaskPolicy, TaskScope};
use kcl_core::lease_store::{Certainty, Expect, Lease, LeaseChange, LeaseStore, StoreError, StoreErrorKind};
use kcl_core::types::{Incarnation, Position, ShardId};
use kcl_lease_memory::MemoryLeaseStore;
use kcl_testkit::faults::{
    Fault, FaultRates, FaultyLeaseStore, Happened, Link, Operation, StoreFaults, StoreHistory,
};

const SECOND: Duration = Duration::from_secs(1);

struct Bench {
    memory: MemoryLeaseStore,
    clock: TokioClock,
    server: TaskScope,
    history: StoreHistory,
    store: Arc<FaultyLeaseStore>,
    faults: StoreFaults,
}

fn bench() -> Bench {
    let (memory, clock, server) = (MemoryLeaseStore::new(), TokioClock::new(), TaskScope::new());
    let history = StoreHistory::new(100);
    let heard = history.clone();
    let store = FaultyLeaseStore::new(Arc::new(memory.clone()), Arc::new(clock))
        .on_server(server.clone())
        .with_timeout(SECOND)
        .with_recorder(move |event| heard.push(event));
    Bench {
        faults: store.faults(),
        store: Arc::new(store),
        memory,
        clock,
        server,
        history,
    }
}

fn lease() -> Lease {
    Lease::unowned(
        ShardId::new("shardId-000000000001").unwrap(),
        Position::TrimHorizon,
    )
}

async fn create(store: &FaultyLeaseStore) -> Result<(), StoreError> {
    let change = LeaseChange::Create(Box::new(lease()));
    let incarnation = Incarnation::from_random_bytes([1; 16]);
    store
        .change(&lease().key, &Expect::Absent, &change, incarnation)
        .await
        .map(|_| ())
}

impl Bench {
    async fn is_created(&self) -> bool {
        self.memory.read(&lease().key).await.unwrap().is_some()
    }

    fn happened(&self) -> Vec<(Happened, bool)> {
        let events = self.history.events().into_iter();
        events.map(|event| (event.happened, event.reply_lost)).collect()
    }
}

fn applied() -> Happened {
    Happened::Applied(Some(Box::new(lease())))
}

#[tokio::test(start_paused = true)]
async fn lost_reply_is_unknown_and_write_is_made() {
    let bench = bench();
    bench.faults.once(Operation::Change, Fault::LoseReply);
    let error = create(&bench.store).await.unwrap_err();
    assert_eq!(error.certainty(), Certainty::Unknown);
    assert_eq!(bench.clock.now().since_origin(), Duration::ZERO);
    assert!(bench.is_created().await);
    assert_eq!(bench.happened(), [(applied(), true)]);
}

#[tokio::test(start_paused = true)]
async fn faults_strike_in_order_by_their_operation() {
    let bench = bench();
    bench
        .faults
        .once(Operation::Change, Fault::Fail(StoreErrorKind::Throttled));
    bench
        .faults
        .once(Operation::Change, Fault::Fail(StoreErrorKind::Denied));
    bench.store.scan().await.unwrap();
    for kind in [StoreErrorKind::Throttled, StoreErrorKind::Denied] {
        let error = create(&bench.store).await.unwrap_err();
        assert_eq!((error.kind(), error.certainty()), (kind, Certainty::Definite));
        assert!(!bench.is_created().await);
    }
    create(&bench.store).await.unwrap();
    let nothing = (Happened::Nothing, false);
    let answered = (Happened::Answered, false);
    assert_eq!(
        bench.happened(),
        [answered, nothing.clone(), nothing, (applied(), false)]
    );
    let counts = bench.faults.counts();
    assert_eq!((counts.of(Operation::Change), counts.of(Operation::Scan)), (3, 1));
    assert_eq!((counts.of(Operation::Read), counts.total()), (0, 4));
}

#[tokio::test(start_paused = true)]
async fn lasting_fault_ends_when_cleared_and_counts_stay() {
    let bench = bench();
    bench
        .faults
        .always(Operation::Change, Fault::Fail(StoreErrorKind::Unavailable));
    for _ in 0..3 {
        create(&bench.store).await.unwrap_err();
    }
    bench.faults.clear();
    create(&bench.store).await.unwrap();
    assert_eq!(bench.faults.counts().of(Operation::Change), 4);
}

#[tokio::test(start_paused = true)]
async fn an_outage_refuses_every_call_at_once() {
    let bench = bench();
    bench.faults.set_link(Link::Refusing);
    let error = create(&bench.store).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.certainty()),
        (StoreErrorKind::Unavailable, Certainty::Definite)
    );
    bench.store.scan().await.unwrap_err();
    bench.store.read_lock().await.unwrap_err();
    assert_eq!(bench.clock.now().since_origin(), Duration::ZERO);
    bench.faults.set_link(Link::Up);
    create(&bench.store).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn partitioned_caller_waits_for_its_deadline() {
    for (link, lands) in [(Link::RequestsLost, false), (Link::RepliesLost, true)] {
        let bench = bench();
        bench.faults.set_link(link);
        let error = create(&bench.store).await.unwrap_err();
        assert_eq!(error.certainty(), Certainty::Unknown);
        assert_eq!(bench.clock.now().since_origin(), SECOND, "{link:?}");
        assert_eq!(bench.is_created().await, lands, "{link:?}");
        bench.server.wait_until_empty().await;
    }
}

#[tokio::test(start_paused = true)]
async fn request_later_than_deadline_is_done_nevertheless() {
    let bench = bench();
    bench
        .faults
        .once(Operation::Change, Fault::DelayRequest(3 * SECOND));
    let error = create(&bench.store).await.unwrap_err();
    assert_eq!(error.certainty(), Certainty::Unknown);
    assert_eq!(bench.clock.now().since_origin(), SECOND);
    assert!(!bench.is_created().await);
    bench.server.wait_until_empty().await;
    assert!(bench.is_created().await);
    assert_eq!(bench.history.events()[0].at.since_origin(), 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn late_reply_delays_caller_and_not_write() {
    let bench = bench();
    bench
        .faults
        .once(Operation::Change, Fault::DelayReply(SECOND / 2));
    create(&bench.store).await.unwrap();
    assert_eq!(bench.clock.now().since_origin(), SECOND / 2);
    assert_eq!(bench.history.events()[0].at.since_origin(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn request_of_killed_caller_is_done() {
    let bench = bench();
    bench
        .faults
        .once(Operation::Change, Fault::DelayRequest(SECOND / 2));
    let (worker, store) = (TaskScope::new(), Arc::clone(&bench.store));
    worker.spawn("caller", TaskPolicy::Job, async move {
        let _ = create(&store).await;
    });
    bench.clock.sleep(SECOND / 4).await;
    worker.kill();
    worker.wait_until_empty().await;
    assert!(!bench.is_created().await);
    bench.server.wait_until_empty().await;
    assert!(bench.is_created().await);
}

#[tokio::test(start_paused = true)]
async fn random_faults_follow_their_seed_and_rate() {
    async fn outcomes(seed: u64) -> Vec<bool> {
        let bench = bench();
        let rates = FaultRates {
            unavailable_one_in: 4,
            ..FaultRates::default()
        };
        bench.faults.at_random(Rng::from_seed(seed), rates);
        let mut outcomes = Vec::new();
        for _ in 0..400 {
            outcomes.push(bench.store.scan().await.is_ok());
        }
        outcomes
    }
    let first = outcomes(1).await;
    assert_eq!(first, outcomes(1).await);
    assert_ne!(first, outcomes(2).await);
    let failed = first.iter().filter(|ok| !**ok).count();
    assert!((60..=140).contains(&failed), "{failed} of 400 failed");
}

#[tokio::test]
async fn a_history_keeps_the_latest_events() {
    let (bench, short) = (bench(), StoreHistory::new(2));
    create(&bench.store).await.unwrap();
    bench.store.scan().await.unwrap();
    bench.store.read_lock().await.unwrap();
    bench.history.events().iter().for_each(|event| short.push(event));
    let kept: Vec<Operation> = short
        .events()
        .iter()
        .map(|event| event.call.operation())
        .collect();
    assert_eq!(kept, [Operation::Scan, Operation::ReadLock]);
}

#[tokio::test(start_paused = true)]
async fn old_rows_are_shown_by_lagging_reads_only() {
    let bench = bench();
    bench.faults.show_old_rows();
    assert_eq!(bench.store.scan().await.unwrap().leases, []);
    create(&bench.store).await.unwrap();
    assert_eq!(bench.store.scan().await.unwrap().leases, []);
    assert_eq!(bench.store.read(&lease().key).await.unwrap(), Some(lease()));
    bench.faults.clear();
    assert_eq!(bench.store.scan().await.unwrap().leases, [lease()]);
}
