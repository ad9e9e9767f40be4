//! A processor under test: records in, calls and checkpoints out, in virtual time and without a runtime of the test's own.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kcl_core::clock::{Clock, ClockExt as _, Moment, Rng, TokioClock};
use kcl_core::dead_letter::DeadLetterSink;
use kcl_core::internals::TaskScope;
use kcl_core::lease_store::{Lease, LeaseStore as _};
use kcl_core::processor::{
    Concurrency, EndOfShard, ErrorPolicy, FencingToken, ProcessorError, RecordBatch, RecordCalls,
    RecordProcessor, RecordProcessorFactory, ShardContext, StartFrom,
};
use kcl_core::settings::{CheckpointMode, Settings};
use kcl_core::status::WorkerStatus;
use kcl_core::types::{Position, Record, RecordPosition, SequenceNumber, ShardId};
use kcl_core::{Error, ShutdownReport, Worker, WorkerHandle};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use tokio::runtime::{Builder, Runtime};

use crate::dead_letters::MemoryDeadLetters;

/// How long, in virtual time, a bench waits for records to be finished.
const PATIENCE: Duration = Duration::from_secs(3600);
const LOOK: Duration = Duration::from_millis(100);

/// A processor that a real worker runs on a stream in memory, in virtual time: an hour takes milliseconds, and nothing happens while the
/// test does something else.
///
/// ```
/// use async_trait::async_trait;
/// use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
/// use kcl_testkit::ProcessorBench;
///
/// struct Parser;
///
/// #[async_trait]
/// impl RecordProcessor for Parser {
///     async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
///         for record in &batch {
///             std::str::from_utf8(record.data())?.parse::<u64>()?;
///         }
///         Ok(())
///     }
/// }
///
/// let mut bench = ProcessorBench::of(|_: &ShardContext| Parser).start();
/// bench.put("truck-7", "42");
/// bench.until_finished();
/// assert_eq!(bench.finished(), bench.put_records());
/// ```
pub struct ProcessorBench {
    parts: BenchBuilder,
    runtime: Runtime,
    clock: TokioClock,
    stream: MemoryStream,
    leases: MemoryLeaseStore,
    letters: MemoryDeadLetters,
    calls: Calls,
    workers: Vec<(WorkerHandle, TaskScope)>,
    started: u64,
}

/// Makes a [`ProcessorBench`]; everything has a default.
#[derive(Clone)]
#[must_use]
pub struct BenchBuilder {
    factory: Arc<dyn RecordProcessorFactory>,
    policy: Option<Arc<dyn ErrorPolicy>>,
    sink: Option<Arc<dyn DeadLetterSink>>,
    settings: Settings,
    shards: u32,
    seed: u64,
}

/// A call of the processor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BenchCall {
    /// The shard.
    pub shard: ShardId,
    /// The ownership in which it was called: a later one has a larger token.
    pub token: FencingToken,
    /// The name of the method.
    pub method: &'static str,
    /// The positions of the records that it was given.
    pub records: Vec<RecordPosition>,
    /// The text of the error that it returned. A call that panicked or was dropped has no entry.
    pub error: Option<String>,
}

type Calls = Arc<Mutex<Vec<BenchCall>>>;

impl fmt::Debug for ProcessorBench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessorBench")
            .field("calls", &self.calls)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for BenchBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BenchBuilder")
            .field("shards", &self.shards)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

impl BenchBuilder {
    /// The error policy of the worker. Default: the worker's.
    pub fn error_policy(mut self, policy: impl ErrorPolicy) -> Self {
        self.policy = Some(Arc::new(policy));
        self
    }

    /// The dead-letter sink of the worker. Default: one in memory. Either can be made to [fail](ProcessorBench::dead_letters).
    pub fn dead_letters(mut self, sink: impl DeadLetterSink) -> Self {
        self.sink = Some(Arc::new(sink));
        self
    }

    /// The settings of the worker. Default: the worker's, with a failover time of 4 s.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// How many shards the stream begins with. Default: 1.
    pub fn shards(mut self, count: u32) -> Self {
        self.shards = count;
        self
    }

    /// The seed of everything random in the worker. Default: 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Starts the worker.
    ///
    /// # Panics
    ///
    /// When the settings contradict each other.
    #[expect(clippy::expect_used, reason = "a bench fails as tests do")]
    pub fn start(self) -> ProcessorBench {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        let runtime = runtime.expect("a runtime without sockets can be made");
        let clock = runtime.block_on(async { TokioClock::new() });
        let stream = MemoryStream::builder("bench")
            .shards(self.shards)
            .clock(Arc::new(clock))
            .build();
        let letters = match &self.sink {
            Some(sink) => MemoryDeadLetters::in_front_of(Arc::clone(sink)),
            None => MemoryDeadLetters::default(),
        };
        let mut bench = ProcessorBench {
            parts: self,
            runtime,
            clock,
            stream,
            leases: MemoryLeaseStore::new(),
            letters,
            calls: Calls::default(),
            workers: Vec::new(),
            started: 0,
        };
        bench.start_worker();
        bench
    }
}

impl ProcessorBench {
    /// Begins to build a bench for the processors of this factory: a closure from a [`ShardContext`] to a processor is one.
    pub fn of(factory: impl RecordProcessorFactory) -> BenchBuilder {
        let mut settings = Settings::default();
        settings.leases.failover_time = Duration::from_secs(4);
        BenchBuilder {
            factory: Arc::new(factory),
            policy: None,
            sink: None,
            settings,
            shards: 1,
            seed: 0,
        }
    }

    /// Puts a record on the stream, and returns its number.
    ///
    /// # Panics
    ///
    /// When Kinesis would refuse the record: an empty key, or more than 10 MiB.
    #[expect(clippy::expect_used, reason = "a bench fails as tests do")]
    pub fn put(&mut self, key: &str, data: impl Into<Bytes>) -> SequenceNumber {
        // Outside of its runtime a clock shows that of the machine, and the record would arrive then.
        let _inside = self.runtime.enter();
        let (_, number) = self
            .stream
            .put(key, data.into())
            .expect("a record that Kinesis takes");
        number
    }

    /// The stream, for what the bench has no method for, such as retention.
    pub fn stream(&self) -> &MemoryStream {
        &self.stream
    }

    /// The dead letters that were sent, and the failures of their sink.
    pub fn dead_letters(&self) -> &MemoryDeadLetters {
        &self.letters
    }

    /// The shards that take records now.
    pub fn open_shards(&self) -> Vec<ShardId> {
        let shards = self.stream.shards_snapshot().into_iter();
        let open = shards.filter(|shard| !shard.shard.closed && !shard.forgotten);
        open.map(|shard| shard.shard.id).collect()
    }

    /// Splits a shard in the middle, and returns its children.
    ///
    /// # Panics
    ///
    /// When Kinesis would refuse that: the shard is closed, or there is none of this id.
    #[expect(clippy::expect_used, reason = "a bench fails as tests do")]
    pub fn split(&mut self, shard: &ShardId) -> [ShardId; 2] {
        self.stream.split(shard).expect("an open shard")
    }

    /// Merges two adjacent shards, and returns their child.
    ///
    /// # Panics
    ///
    /// When Kinesis would refuse that: one is closed, or they are not adjacent.
    #[expect(clippy::expect_used, reason = "a bench fails as tests do")]
    pub fn merge(&mut self, a: &ShardId, b: &ShardId) -> ShardId {
        self.stream.merge(a, b).expect("two adjacent open shards")
    }

    /// Lets so much virtual time pass.
    pub fn run(&mut self, time: Duration) {
        let clock = self.clock;
        self.runtime.block_on(async move { clock.sleep(time).await });
    }

    /// Lets time pass until every record that was put is finished, and its checkpoint stored.
    ///
    /// # Panics
    ///
    /// When that takes more than an hour of virtual time; the message is the status of the worker.
    pub fn until_finished(&mut self) {
        let until = self.now() + PATIENCE;
        while self.finished() != self.put_records() {
            assert!(
                self.now() < until,
                "{} of {} records are finished: {:#?}",
                self.finished().len(),
                self.put_records().len(),
                self.status()
            );
            self.run(LOOK);
        }
    }

    /// Makes the worker vanish, as `kill -9` would, and starts another. It takes the lease over after the failover time.
    pub fn kill(&mut self) {
        for (_, scope) in self.workers.drain(..) {
            scope.kill();
        }
        self.start_worker();
    }

    /// Starts another worker and shuts this one down: its leases are handed over.
    ///
    /// # Panics
    ///
    /// When the worker ends with an error.
    #[expect(clippy::expect_used, reason = "a bench fails as tests do")]
    pub fn hand_over(&mut self) {
        let before: Vec<_> = self.workers.drain(..).collect();
        self.start_worker();
        for (worker, _) in before {
            worker.shutdown();
            let ended = self.runtime.block_on(worker.join());
            ended.expect("the worker ends without an error");
        }
    }

    /// Waits until the worker has ended by itself, and returns how: a policy may stop it. There is no worker afterwards.
    ///
    /// # Errors
    ///
    /// The error with which the worker ended.
    ///
    /// # Panics
    ///
    /// When the worker has ended already.
    #[expect(clippy::expect_used, reason = "a bench fails as tests do")]
    pub fn end(&mut self) -> Result<ShutdownReport, Error> {
        let (worker, _) = self.workers.pop().expect("a worker that was not ended before");
        self.runtime.block_on(worker.join())
    }

    /// The status of the worker.
    #[expect(clippy::expect_used, reason = "a bench fails as tests do")]
    pub fn status(&self) -> WorkerStatus {
        let (_inside, newest) = (self.runtime.enter(), self.workers.last());
        newest
            .map(|(worker, _)| worker.status())
            .expect("a bench has a worker")
    }

    /// The virtual time. Outside of its runtime a clock shows that of the machine.
    fn now(&self) -> Moment {
        let _inside = self.runtime.enter();
        self.clock.now()
    }

    /// Waits until the status is like this, and returns it.
    ///
    /// # Panics
    ///
    /// When that takes more than an hour of virtual time.
    pub fn wait_for(&mut self, predicate: impl Fn(&WorkerStatus) -> bool) -> WorkerStatus {
        let until = self.now() + PATIENCE;
        loop {
            let status = self.status();
            if predicate(&status) {
                return status;
            }
            assert!(self.now() < until, "{status:#?}");
            self.run(LOOK);
        }
    }

    /// The calls of the processors so far.
    pub fn calls(&self) -> Vec<BenchCall> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets the calls so far.
    pub fn forget_calls(&mut self) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The rows of the leases.
    #[expect(clippy::expect_used, reason = "a bench fails as tests do")]
    pub fn leases(&self) -> Vec<Lease> {
        let scan = self.runtime.block_on(self.leases.scan());
        scan.expect("the store in memory answers").leases
    }

    /// The stored checkpoint of each shard that has a lease.
    pub fn checkpoints(&self) -> BTreeMap<ShardId, Position> {
        let leases = self.leases().into_iter();
        leases.map(|lease| (lease.shard, lease.checkpoint)).collect()
    }

    /// Every record that was put, in the order of the shards and in each of them.
    pub fn put_records(&self) -> Vec<(ShardId, RecordPosition)> {
        let mut put: Vec<_> = self.stream.put_log().into_iter().map(place).collect();
        put.sort();
        put
    }

    /// The records of [`put_records`](Self::put_records) that the stored checkpoints cover.
    pub fn finished(&self) -> Vec<(ShardId, RecordPosition)> {
        let leases = self.leases();
        // The row of a finished shard is deleted once its children are being processed.
        let closed = self
            .stream
            .shards_snapshot()
            .into_iter()
            .filter(|shard| shard.shard.closed);
        let closed: Vec<_> = closed.map(|shard| shard.shard.id).collect();
        let is_finished = |shard: &ShardId, position: &RecordPosition| {
            let row = leases.iter().find(|lease| &lease.shard == shard);
            row.map_or(closed.contains(shard), |row| match &row.checkpoint {
                Position::ShardEnd => true,
                Position::Record(stored) => position <= stored,
                Position::TrimHorizon | Position::Latest | Position::AtTimestamp => false,
            })
        };
        let mut put = self.put_records();
        put.retain(|(shard, position)| is_finished(shard, position));
        put
    }

    /// Runs a future in the bench's virtual time, as for a client that the processor shares with the test.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    #[expect(clippy::expect_used, reason = "a bench fails as tests do")]
    fn start_worker(&mut self) {
        self.started += 1;
        let (factory, calls) = (Arc::clone(&self.parts.factory), Arc::clone(&self.calls));
        let scope = TaskScope::new();
        let mut builder = Worker::builder("bench")
            .worker_id(format!("worker-{}", self.started))
            .stream(self.stream.clone())
            .lease_store(self.leases.clone())
            .settings(self.parts.settings.clone())
            .clock(Arc::new(self.clock))
            .rng(Rng::from_seed(self.parts.seed.wrapping_add(self.started << 32)))
            .task_scope(scope.clone())
            .dead_letters(self.letters.clone())
            .processor(NotingFactory { factory, calls });
        if let Some(policy) = &self.parts.policy {
            builder = builder.error_policy(Arc::clone(policy));
        }
        let worker = builder.build().expect("settings that can be built");
        let handle = self.runtime.block_on(async { worker.start() });
        self.workers.push((handle, scope));
    }
}

fn place((shard, record): (ShardId, Record)) -> (ShardId, RecordPosition) {
    (shard, record.position().clone())
}

/// Makes processors whose calls are noted.
struct NotingFactory {
    factory: Arc<dyn RecordProcessorFactory>,
    calls: Calls,
}

impl RecordProcessorFactory for NotingFactory {
    fn create(&self, shard: &ShardContext) -> Box<dyn RecordProcessor> {
        Box::new(Noting {
            inner: self.factory.create(shard),
            calls: Arc::clone(&self.calls),
        })
    }

    fn checkpoint_mode(&self) -> Option<CheckpointMode> {
        self.factory.checkpoint_mode()
    }

    fn concurrency(&self) -> Concurrency {
        self.factory.concurrency()
    }
}

/// Notes the calls of another processor.
struct Noting {
    inner: Box<dyn RecordProcessor>,
    calls: Calls,
}

impl Noting {
    fn note<T>(
        &self,
        method: &'static str,
        shard: &ShardContext,
        records: Vec<RecordPosition>,
        returned: &Result<T, ProcessorError>,
    ) {
        note_call(&self.calls, method, shard, records, returned);
    }
}

fn note_call<T>(
    calls: &Calls,
    method: &'static str,
    shard: &ShardContext,
    records: Vec<RecordPosition>,
    returned: &Result<T, ProcessorError>,
) {
    let call = BenchCall {
        shard: shard.shard().clone(),
        token: shard.fencing_token(),
        method,
        records,
        error: returned.as_ref().err().map(ToString::to_string),
    };
    calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
}

#[async_trait]
impl RecordProcessor for Noting {
    async fn initialize(&mut self, shard: &ShardContext) -> Result<StartFrom, ProcessorError> {
        let returned = self.inner.initialize(shard).await;
        self.note("initialize", shard, Vec::new(), &returned);
        returned
    }

    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        let records = batch.iter().map(|record| record.position().clone()).collect();
        let returned = self.inner.process_records(batch, shard).await;
        self.note("process_records", shard, records, &returned);
        returned
    }

    async fn tick(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        self.inner.tick(shard).await
    }

    async fn shutdown_requested(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        let returned = self.inner.shutdown_requested(shard).await;
        self.note("shutdown_requested", shard, Vec::new(), &returned);
        returned
    }

    async fn shard_ended(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        let returned = self.inner.shard_ended(shard).await;
        self.note("shard_ended", shard, Vec::new(), &returned);
        returned
    }

    fn end_of_shard(&self) -> EndOfShard {
        self.inner.end_of_shard()
    }

    fn record_calls(&self) -> Option<RecordCalls> {
        let noted = Arc::clone(&self.calls);
        let calls = self.inner.record_calls()?;
        Some(calls.wrapped(move |record, shard, call| {
            let (noted, shard, position) = (Arc::clone(&noted), shard.clone(), record.position().clone());
            Box::pin(async move {
                let returned = call.await;
                note_call(&noted, "handle", &shard, vec![position], &returned);
                returned
            })
        }))
    }

    async fn lease_lost(&mut self, shard: &ShardContext) {
        self.inner.lease_lost(shard).await;
        self.note("lease_lost", shard, Vec::new(), &Ok(()));
    }
}
