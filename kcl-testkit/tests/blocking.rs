//! Processors that block the threads they run on, in real time: blocked threads do not wait for virtual time.
//!
//! A program of its own: it counts the threads of the process and keeps the log of the process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods
)]

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kcl_core::internals::TaskScope;
use kcl_core::lease_store::{
    Capabilities, Expect, LeaderLock, Lease, LeaseChange, LeaseStore, LockChange, LockExpect, LockOutcome,
    Outcome, Preparation, Scan, StoreError, WorkerChange, WorkerOutcome,
};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::Settings;
use kcl_core::status::{ConsumerEnd, Phase, WorkerStatus};
use kcl_core::types::{Incarnation, LeaseKey, Position, ShardId, WorkerId};
use kcl_core::{Coordination, ErrorKind, Worker, WorkerBuilder, WorkerHandle};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use tokio::runtime::Runtime;

const SECOND: Duration = Duration::from_secs(1);
const FAILOVER: Duration = Duration::from_millis(1500);
const DRAIN: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(30);

/// Which worker was given each record.
type Seen = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// Blocks its thread at each batch, on the shards that it is to.
#[derive(Clone)]
struct Blocking {
    seen: Seen,
    /// How many times a thread was blocked.
    blocks: Arc<AtomicUsize>,
    /// The only shard or worker that blocks; all do if there is none.
    only: Option<&'static str>,
    block: Duration,
}

#[async_trait]
impl RecordProcessor for Blocking {
    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        if self
            .only
            .is_none_or(|only| [shard.shard().as_str(), shard.worker().as_str()].contains(&only))
        {
            self.blocks.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(self.block);
        }
        let mut seen = self.seen.lock().unwrap();
        for record in &batch {
            let text = String::from_utf8_lossy(record.data()).into_owned();
            seen.entry(text).or_default().push(shard.worker().to_string());
        }
        Ok(())
    }
}

/// Workers of one application, each with a runtime of its own, as in processes of their own.
struct Bench {
    stream: MemoryStream,
    leases: MemoryLeaseStore,
    processor: Blocking,
    coordination: Coordination,
    drain: Duration,
}

impl Bench {
    fn new(shards: u32) -> Self {
        Self {
            stream: MemoryStream::builder("trucks").shards(shards).build(),
            leases: MemoryLeaseStore::new(),
            processor: Blocking {
                seen: Seen::default(),
                blocks: Arc::default(),
                only: None,
                block: 2 * FAILOVER,
            },
            coordination: Coordination::default(),
            // Batches are cut to fit into it.
            drain: 60 * SECOND,
        }
    }

    fn worker(&self, id: &str) -> WorkerBuilder {
        let processor = self.processor.clone();
        let mut settings = Settings::default();
        settings.leases.failover_time = FAILOVER;
        settings.leases.discovery_interval = SECOND / 5;
        settings.reading.max_batch_records = 20;
        settings.shutdown.drain_timeout = self.drain;
        Worker::builder("blocking")
            .worker_id(id)
            .stream(self.stream.clone())
            .lease_store(self.leases.clone())
            .settings(settings)
            .coordination(self.coordination)
            .processor(move |_: &ShardContext| processor.clone())
    }

    fn start(&self, id: &str, runtime: &Runtime) -> WorkerHandle {
        let worker = self.worker(id).build().unwrap();
        runtime.block_on(async { worker.start() })
    }

    fn put(&self, from: u32, to: u32) {
        for n in from..to {
            self.stream.put(format!("truck {n}"), format!("{n:04}")).unwrap();
        }
    }

    /// How many records were seen, and how often one was seen again.
    fn seen(&self) -> (usize, usize) {
        let seen = self.processor.seen.lock().unwrap();
        (seen.len(), seen.values().map(|by| by.len() - 1).sum())
    }
}

fn runtime(threads: usize) -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).enable_all().build().unwrap()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The tokens of what a worker holds: another token is another ownership.
fn tokens(status: &WorkerStatus) -> BTreeMap<String, u64> {
    let leases = status.leases.iter();
    leases
        .map(|(key, lease)| (key.to_string(), lease.token.as_u64()))
        .collect()
}

/// Two workers read four shards. One of them blocks each of its threads for twice the failover time at each batch; the other watches.
fn blocks_cost_nothing(threads: usize) {
    let mut bench = Bench::new(4);
    bench.processor.only = Some("blocked");
    let (blocked, free) = (runtime(threads), runtime(1));
    let handles = [bench.start("blocked", &blocked), bench.start("free", &free)];
    let held = || handles.each_ref().map(|handle| tokens(&handle.status()));
    until("each has two shards", || {
        held().iter().all(|held| held.len() == 2)
    });
    let before = held();
    for wave in 0..3 {
        let before = bench.processor.blocks.load(Ordering::SeqCst);
        bench.put(wave * 12, (wave + 1) * 12);
        until("a thread blocks at records of this wave", || {
            bench.processor.blocks.load(Ordering::SeqCst) > before
        });
    }
    until("all records are seen", || bench.seen().0 == 36);
    assert_eq!(bench.seen(), (36, 0), "nothing comes again");
    assert_eq!(held(), before, "every lease is held as before");
    handles.iter().for_each(WorkerHandle::shutdown);
    for handle in handles {
        assert!(free.block_on(handle.join()).unwrap().is_clean());
    }
}

#[test]
fn blocking_all_threads_costs_no_lease() {
    blocks_cost_nothing(2);
}

#[test]
fn blocking_the_only_thread_costs_no_lease() {
    blocks_cost_nothing(1);
}

/// The log of the process, kept.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Keeps what every worker of this process logs. A log of one thread would miss what others logged first: their silence is remembered.
    fn of_process() -> Self {
        let log = Self::default();
        let writer = log.clone();
        let logs = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone());
        tracing::subscriber::set_global_default(logs.finish()).unwrap();
        log
    }

    /// The lines at WARN of the worker of this name.
    fn warnings(&self, worker: &str) -> Vec<String> {
        let log = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let of_worker = |line: &&str| line.contains(" WARN ") && line.contains(&format!("worker={worker} "));
        log.lines().filter(of_worker).map(str::to_owned).collect()
    }
}

#[test]
fn a_standstill_is_said_once_with_its_shard() {
    let mut bench = Bench::new(2);
    bench.processor.only = Some("shardId-000000000001");
    // Long enough to be seen by the look that comes every second.
    bench.processor.block = 3 * SECOND;
    let log = Log::of_process();
    let runtime = runtime(1);
    let handle = bench.start("teller", &runtime);
    until("it has both shards", || handle.status().leases.len() == 2);
    assert!(handle.status().standstill.is_none());
    for wave in 0..2 {
        bench.put(wave * 8, (wave + 1) * 8);
        until("the standstill shows", || handle.status().standstill.is_some());
        assert!(!handle.status().is_healthy());
        until("the standstill is over", || {
            handle.status().standstill.is_none() && bench.seen().0 == 8 * (wave as usize + 1)
        });
    }
    handle.shutdown();
    runtime.block_on(handle.join()).unwrap();
    let warnings = log.warnings("teller");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for part in [
        "spawn_blocking",
        "lease=shardId-000000000001",
        "call=\"process_records\"",
    ] {
        assert!(warnings[0].contains(part), "{part} in {}", warnings[0]);
    }
}

#[test]
fn drain_ends_while_only_thread_is_blocked() {
    let mut bench = Bench::new(2);
    bench.processor.block = 2 * DRAIN;
    bench.drain = DRAIN;
    let (blocked, elsewhere) = (runtime(1), runtime(1));
    let handle = bench.start("a", &blocked);
    until("it has both shards", || handle.status().leases.len() == 2);
    bench.put(0, 8);
    until("a callback blocks", || handle.status().standstill.is_some());
    let begun = Instant::now();
    handle.shutdown();
    let report = elsewhere.block_on(handle.join()).unwrap();
    assert!(begun.elapsed() < DRAIN + SECOND, "{:?}", begun.elapsed());
    assert!(!report.is_clean());
    assert!(report.leases.values().any(|end| *end == ConsumerEnd::Expires));
    blocked.shutdown_background();
}

/// How many threads of this process coordinate for the worker of this name.
#[cfg(target_os = "linux")]
fn threads(worker: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name =
        |task: io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("comm")).ok();
    let names = tasks.filter_map(name);
    names
        .filter(|name| name.trim() == format!("kcl {worker}"))
        .count()
}

#[cfg(target_os = "linux")]
#[test]
fn the_thread_ends_with_its_worker() {
    let bench = Bench::new(1);
    let (first, second) = (runtime(1), runtime(1));
    let start = |id: &str| {
        let handle = bench.start(id, &first);
        until("it runs", || handle.status().phase == Phase::Running);
        assert_eq!(threads(id), 1);
        handle
    };
    let ends = |id: &str| until("its thread is gone", || threads(id) == 0);

    let drained = start("drained");
    drained.shutdown();
    second.block_on(drained.join()).unwrap();
    ends("drained");

    let handle = start("handleless");
    let stopper = handle.shutdown_handle();
    drop(handle);
    stopper.abort();
    ends("handleless");

    let scope = TaskScope::new();
    let killed = bench.worker("killed").task_scope(scope.clone()).build().unwrap();
    let killed = first.block_on(async { killed.start() });
    until("it runs", || killed.status().phase == Phase::Running);
    scope.kill();
    assert_eq!(
        second.block_on(killed.join()).unwrap_err().kind(),
        ErrorKind::Internal
    );
    ends("killed");

    let run = bench.worker("run").build().unwrap();
    first.block_on(run.run(std::future::ready(()))).unwrap();
    ends("run");

    let orphan = start("orphan");
    drop(first);
    let error = second.block_on(orphan.join()).unwrap_err();
    assert!(error.to_string().contains("runtime"), "{error}");
    ends("orphan");
}

#[test]
fn worker_without_thread_of_its_own_has_none() {
    let mut bench = Bench::new(1);
    bench.coordination = Coordination::SameRuntime;
    let runtime = runtime(1);
    let handle = bench.start("guest", &runtime);
    until("it has its shard", || handle.status().leases.len() == 1);
    #[cfg(target_os = "linux")]
    assert_eq!(threads("guest"), 0);
    handle.shutdown();
    runtime.block_on(handle.join()).unwrap();
}

/// Notes the thread of every call.
#[derive(Debug)]
struct Noting {
    inner: MemoryLeaseStore,
    threads: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl Noting {
    fn note(&self) -> &MemoryLeaseStore {
        let thread = std::thread::current().name().unwrap_or("none").to_owned();
        *self.threads.lock().unwrap().entry(thread).or_default() += 1;
        &self.inner
    }
}

#[async_trait]
impl LeaseStore for Noting {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn prepare(&self, preparation: &Preparation) -> Result<(), StoreError> {
        self.note().prepare(preparation).await
    }

    async fn scan(&self) -> Result<Scan, StoreError> {
        self.note().scan().await
    }

    async fn read(&self, key: &LeaseKey) -> Result<Option<Lease>, StoreError> {
        self.note().read(key).await
    }

    async fn owned_by(&self, worker: &WorkerId) -> Result<Option<Vec<LeaseKey>>, StoreError> {
        self.note().owned_by(worker).await
    }

    async fn change(
        &self,
        key: &LeaseKey,
        expect: &Expect,
        change: &LeaseChange,
        incarnation: Incarnation,
    ) -> Result<Outcome, StoreError> {
        self.note().change(key, expect, change, incarnation).await
    }

    async fn change_worker(&self, change: &WorkerChange) -> Result<WorkerOutcome, StoreError> {
        self.note().change_worker(change).await
    }

    async fn read_lock(&self) -> Result<Option<LeaderLock>, StoreError> {
        self.note().read_lock().await
    }

    async fn change_lock(&self, expect: &LockExpect, change: &LockChange) -> Result<LockOutcome, StoreError> {
        self.note().change_lock(expect, change).await
    }
}

/// Checkpoints each batch by itself.
struct Checkpoints;

#[async_trait]
impl RecordProcessor for Checkpoints {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        Ok(batch.checkpoint().await?)
    }
}

#[test]
fn every_store_call_is_made_on_one_thread() {
    let bench = Bench::new(1);
    let threads = Arc::default();
    let store = Noting {
        inner: bench.leases.clone(),
        threads: Arc::clone(&threads),
    };
    let runtime = runtime(2);
    let worker = bench
        .worker("caller")
        .lease_store(store)
        .processor(|_: &ShardContext| Checkpoints)
        .build()
        .unwrap();
    let handle = runtime.block_on(async { worker.start() });
    until("it has its shard", || handle.status().leases.len() == 1);
    bench.put(0, 8);
    // The children wait for their parent, whose end is stored.
    bench
        .stream
        .split(&ShardId::new("shardId-000000000000").unwrap())
        .unwrap();
    until("it has both children", || handle.status().leases.len() == 2);
    bench.put(8, 16);
    until("the children are checkpointed", || {
        let leases = handle.status().leases;
        leases.len() == 2
            && leases
                .values()
                .any(|lease| matches!(lease.checkpoint, Position::Record(_)))
    });
    handle.shutdown();
    runtime.block_on(handle.join()).unwrap();
    let threads = threads.lock().unwrap();
    assert!(threads.keys().eq(["kcl caller"]), "{threads:?}");
}
