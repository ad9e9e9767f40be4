//! A panic in each kind of task: the worker goes on without a record lost, or ends and says so. No shard is stuck in silence.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::lease_store::{Lease, LeaseStore as _};
use kcl_core::metrics::{SHARDS_OF_CONCERN, TASK_PANICS};
use kcl_core::processor::{
    Decision, ErrorPolicy, Failure, ProcessorError, RecordBatch, RecordProcessor, ShardContext, StartFrom,
};
use kcl_core::settings::Settings;
use kcl_core::source::SourceErrorKind;
use kcl_core::status::{HealthIssue, Phase};
use kcl_core::{ErrorKind, WorkerHandle};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use kcl_testkit::faults::{Fault, Operation};
use kcl_testkit::faulty_stream::{StreamCall, StreamFault, StreamFaultRule};

use crate::stalls::bench::{Bench, SECOND};
use crate::workers;

async fn owned(bench: &Bench) -> Vec<Lease> {
    let leases = bench.leases.scan().await.unwrap().leases;
    leases.into_iter().filter(|lease| lease.owner.is_some()).collect()
}

// ------------------------------------------------------------------ tasks that are restarted

/// Whatever of a shard broke, it goes on, and nothing is lost.
async fn goes_on(bench: Bench, task: &str) {
    bench.put(40);
    bench.all_is_processed().await;
    assert!(bench.meters.of(TASK_PANICS, task) >= 1.0, "{task} has panicked");
    bench.holds(2).await;
    bench.sleep(10 * SECOND).await;
    let status = bench.worker.status();
    assert!(
        status.is_healthy() && status.phase == Phase::Running,
        "{status:?}"
    );
    assert_eq!(bench.worker.status().leases.len(), 2);
    bench.stops_cleanly().await;
}

#[tokio::test(start_paused = true)]
async fn shard_goes_on_after_panic_of_any_task() {
    for task in ["fetcher", "renewer", "consumer", "store"] {
        let bench = Bench::running(2).await;
        bench.put(20);
        bench.scope.panic_in(task);
        bench.sleep(20 * SECOND).await;
        assert_eq!(bench.meters.of(TASK_PANICS, task), 1.0, "{task}");
        goes_on(bench, task).await;
    }
}

#[tokio::test(start_paused = true)]
async fn shard_goes_on_after_repeated_panics() {
    for task in ["fetcher", "renewer", "consumer", "store"] {
        let bench = Bench::running(2).await;
        for _ in 0..20 {
            bench.put(5);
            bench.scope.panic_in(task);
            bench.sleep(3 * SECOND).await;
        }
        goes_on(bench, task).await;
    }
}

#[tokio::test(start_paused = true)]
async fn lease_is_taken_after_panic_of_taker() {
    let panics = Fault::Panic;
    let bench = Bench::starting(2, Settings::default(), |_, store| {
        store.once(Operation::Read, panics);
        store.once(Operation::Read, panics);
    });
    goes_on(bench, "grant").await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_is_read_again() {
    for call in [StreamCall::Open, StreamCall::Next] {
        let bench = Bench::starting(2, Settings::default(), |source, _| {
            source.add(StreamFaultRule::next(3, call, StreamFault::Panic));
        });
        goes_on(bench, "fetcher").await;
    }
}

#[tokio::test(start_paused = true)]
async fn panicking_source_is_a_concern_until_it_works() {
    let bench = Bench::running(1).await;
    let panics = StreamFaultRule::every(StreamCall::Next, StreamFault::Panic);
    bench.source.add(panics);
    bench.put(10);
    bench.sleep(50 * SECOND).await;
    assert_eq!(bench.lease().concern, Some(HealthIssue::Unreachable));
    assert_eq!(bench.meters.of(SHARDS_OF_CONCERN, "unreachable"), 1.0);
    let panics = bench.meters.of(TASK_PANICS, "fetcher");
    assert!((5.0..20.0).contains(&panics), "{panics} in 50 s");
    // Nothing of this is progress, so the shard is opened once more, and in the end given to a worker that may do better.
    bench.sleep(30 * SECOND).await;
    assert_eq!(bench.lease().concern, Some(HealthIssue::Stalled));
    bench.source.clear();
    assert_eq!(bench.all_is_processed().await, 0);
    bench.sleep(10 * SECOND).await;
    assert!(bench.worker.status().is_healthy());
    bench.stops_cleanly().await;
}

#[tokio::test(start_paused = true)]
async fn store_panicking_on_writes_suspends_lease_until_fixed() {
    let bench = Bench::running(2).await;
    bench.store.always(Operation::Change, Fault::Panic);
    bench.put(20);
    bench.sleep(60 * SECOND).await;
    assert!(!bench.worker.status().is_healthy());
    bench.store.clear();
    goes_on(bench, "store").await;
}

// ------------------------------------------------------------------ tasks that end the worker

/// The worker ends because this task panicked, says so, and has given its leases up.
async fn ends(bench: Bench, task: &str) {
    let (clock, scope, leases) = (bench.clock, bench.scope.clone(), bench.leases.clone());
    let stopped = clock.timeout(120 * SECOND, bench.worker.join()).await;
    let error = stopped.expect("the worker ends").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "{task}: {error}");
    assert!(bench.meters.of(TASK_PANICS, task) >= 1.0, "{task}");
    assert_eq!(scope.running(), Vec::<String>::new(), "{task}");
    let leases = leases.scan().await.unwrap().leases;
    assert!(!leases.is_empty());
    let owned: Vec<_> = leases.iter().filter(|lease| lease.owner.is_some()).collect();
    assert!(owned.is_empty(), "{task}: {owned:?}");
}

#[tokio::test(start_paused = true)]
async fn panic_of_vital_task_ends_worker() {
    for task in ["membership", "discovery", "streams", "coordinator", "health"] {
        let bench = Bench::running(2).await;
        bench.scope.panic_in(task);
        // Somebody wants to know which stream it is, or nothing would wake who finds out.
        bench.source.add(StreamFaultRule::next(
            1,
            StreamCall::Next,
            StreamFault::Fail(SourceErrorKind::NotFound),
        ));
        ends(bench, task).await;
    }
}

#[tokio::test(start_paused = true)]
async fn store_panic_in_vital_task_ends_worker() {
    for (operation, task) in [
        (Operation::ChangeWorker, "membership"),
        (Operation::OwnedBy, "discovery"),
        (Operation::Scan, "coordinator"),
        (Operation::ChangeLock, "coordinator"),
    ] {
        let bench = Bench::running(2).await;
        bench.store.once(operation, Fault::Panic);
        ends(bench, task).await;
    }
}

#[tokio::test(start_paused = true)]
async fn source_panic_in_vital_task_ends_worker() {
    let bench = Bench::running(2).await;
    bench
        .source
        .add(StreamFaultRule::every(StreamCall::Shards, StreamFault::Panic));
    ends(bench, "coordinator").await;

    let bench = Bench::running(2).await;
    bench
        .source
        .add(StreamFaultRule::next(1, StreamCall::Identity, StreamFault::Panic));
    let is_gone = StreamFault::Fail(SourceErrorKind::NotFound);
    bench
        .source
        .add(StreamFaultRule::next(1, StreamCall::Next, is_gone));
    ends(bench, "streams").await;
}

// ------------------------------------------------------------------ the task that leads them all

#[tokio::test(start_paused = true)]
async fn panic_of_first_task_ends_worker() {
    let bench = Bench::running(2).await;
    bench.put(10);
    bench.all_is_processed().await;
    bench.sleep(2 * SECOND).await;
    bench.scope.panic_in("worker");
    // Any end of any task wakes it; a write is one.
    let stopped = bench.worker.wait_for(|status| status.phase == Phase::Stopped);
    let status = bench.clock.timeout(60 * SECOND, stopped).await.expect("it stops");
    assert!(!status.is_healthy());
    bench.sleep(SECOND).await;
    assert_eq!(
        bench.scope.running(),
        Vec::<String>::new(),
        "nobody renews anything"
    );
    assert_eq!(bench.meters.of(TASK_PANICS, "worker"), 1.0);

    let (clock, stream, store) = (bench.clock, bench.stream.clone(), bench.leases.clone());
    let other = workers::builder("stalls")
        .worker_id("b")
        .stream(stream)
        .lease_store(store)
        .processor(bench.journal.clone())
        .clock(Arc::new(clock))
        .build()
        .unwrap()
        .start();
    let failover = Settings::default().leases.failover_time;
    let takes_over = other.wait_for(|status| status.leases.len() == 2);
    clock
        .timeout(failover + 2 * SECOND, takes_over)
        .await
        .expect("it takes over");
    bench.put(10);
    bench.all_is_processed().await;
    let error = bench.worker.join().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
    other.shutdown();
    assert!(other.join().await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn panic_before_run_ends_worker_with_its_reason() {
    for operation in [Operation::Prepare, Operation::ChangeWorker] {
        let bench = Bench::starting(2, Settings::default(), |_, store| {
            store.once(operation, Fault::Panic);
        });
        let stopped = bench.worker.wait_for(|status| status.phase == Phase::Stopped);
        bench.clock.timeout(SECOND, stopped).await.expect("it stops");
        assert_eq!(bench.meters.of(TASK_PANICS, "worker"), 1.0);
        assert_eq!(owned(&bench).await, []);
        let error = bench.worker.join().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(error.to_string().contains("was made to panic"), "{error}");
        bench.clock.sleep(SECOND).await;
        assert_eq!(bench.scope.running(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn leases_are_released_despite_store_panics_at_shutdown() {
    for operation in [Operation::ChangeWorker, Operation::Scan, Operation::ChangeLock] {
        let bench = Bench::running(2).await;
        bench.put(10);
        bench.store.always(operation, Fault::Panic);
        bench.worker.shutdown();
        let (clock, scope, leases) = (bench.clock, bench.scope.clone(), bench.leases.clone());
        let stopped = clock.timeout(60 * SECOND, bench.worker.join()).await;
        stopped.expect("it stops").ok();
        let leases = leases.scan().await.unwrap().leases;
        assert!(
            leases.iter().all(|lease| lease.owner.is_none()),
            "{operation:?}: {leases:?}"
        );
        assert_eq!(scope.running(), Vec::<String>::new());
    }
}

// ------------------------------------------------------------------ the user's code

/// In which call the processor panics, the first time that any processor gets there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Creation,
    Initialize,
    Process,
    Policy,
    ShardEnded,
    ShutdownRequested,
    Drop,
}

#[derive(Debug, Clone)]
struct Trap {
    at: Where,
    sprung: Arc<AtomicU32>,
    seen: Arc<AtomicU32>,
}

impl Trap {
    fn step_on(&self, at: Where) {
        if self.at == at && self.sprung.fetch_add(1, Ordering::Relaxed) == 0 {
            panic!("a bug in {at:?}");
        }
    }
}

struct Trapped(Trap);

#[async_trait]
impl RecordProcessor for Trapped {
    async fn initialize(&mut self, _: &ShardContext) -> Result<StartFrom, ProcessorError> {
        self.0.step_on(Where::Initialize);
        Ok(StartFrom::Checkpoint)
    }

    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.0.step_on(Where::Process);
        // So that the policy is asked.
        if self.0.at == Where::Policy && self.0.sprung.load(Ordering::Relaxed) == 0 {
            return Err(ProcessorError::transient("ask the policy"));
        }
        self.0
            .seen
            .fetch_add(u32::try_from(batch.len()).unwrap(), Ordering::Relaxed);
        Ok(())
    }

    async fn shutdown_requested(&mut self, _: &ShardContext) -> Result<(), ProcessorError> {
        self.0.step_on(Where::ShutdownRequested);
        Ok(())
    }

    async fn shard_ended(&mut self, _: &ShardContext) -> Result<(), ProcessorError> {
        self.0.step_on(Where::ShardEnded);
        Ok(())
    }
}

impl Drop for Trapped {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.0.step_on(Where::Drop);
        }
    }
}

impl ErrorPolicy for Trap {
    fn decide(&self, _: &Failure<'_>) -> Decision {
        self.step_on(Where::Policy);
        Decision::Retry { after: SECOND }
    }
}

fn trapped(at: Where) -> (MemoryStream, WorkerHandle, Trap, TokioClock) {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(1)
        .clock(Arc::new(clock))
        .build();
    let trap = Trap {
        at,
        sprung: Arc::default(),
        seen: Arc::default(),
    };
    let theirs = trap.clone();
    let worker = workers::builder("stalls")
        .worker_id("a")
        .stream(stream.clone())
        .lease_store(MemoryLeaseStore::new())
        .processor(move |_: &ShardContext| {
            theirs.step_on(Where::Creation);
            Trapped(theirs.clone())
        })
        .error_policy(trap.clone())
        .clock(Arc::new(clock))
        .build()
        .unwrap()
        .start();
    (stream, worker, trap, clock)
}

#[tokio::test(start_paused = true)]
async fn panic_of_user_code_costs_only_its_processor() {
    for at in [
        Where::Creation,
        Where::Initialize,
        Where::Process,
        Where::Policy,
        Where::ShardEnded,
        Where::ShutdownRequested,
        Where::Drop,
    ] {
        let (stream, worker, trap, clock) = trapped(at);
        let tokens = || {
            worker
                .status()
                .leases
                .values()
                .map(|lease| lease.token)
                .collect::<Vec<_>>()
        };
        worker.wait_for(|status| !status.leases.is_empty()).await;
        let before = tokens();
        for n in 0..10 {
            stream.put(format!("truck-{n}"), "x").unwrap();
        }
        clock.sleep(20 * SECOND).await;
        assert_eq!(tokens(), before, "{at:?} costs no lease");
        let shard = stream.shards_snapshot()[0].shard.id.clone();
        stream.split(&shard).unwrap();
        let children = worker.wait_for(|status| status.leases.len() == 2);
        clock
            .timeout(60 * SECOND, children)
            .await
            .expect("the children begin");
        stream.put("truck", "x").unwrap();
        clock.sleep(5 * SECOND).await;
        worker.shutdown();
        let report = clock.timeout(60 * SECOND, worker.join()).await.unwrap().unwrap();
        assert!(trap.sprung.load(Ordering::Relaxed) > 0, "{at:?} has panicked");
        assert!(trap.seen.load(Ordering::Relaxed) >= 11, "{at:?}");
        assert!(report.is_clean(), "{at:?}: {report:?}");
    }
}
