//! Workers that stand still, in processes of their own: because there is nothing to read, or because their code does not return.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext, StartFrom};
use kcl_core::source::StreamSource;
use kcl_core::{Worker, WorkerHandle};
use kcl_kinesis::{KinesisStream, PollingSettings};
use kcl_lease_memory::memory_stream::Pace;
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::child::{Child, tell};
use super::process::{ProcessCost, own_cost};
use super::reading::prefill::{Prefill, PrefilledServer, STREAM, aws};

/// No worker needs longer to start.
const STARTED_WITHIN: Duration = Duration::from_secs(120);
/// And no measurement takes longer than this.
const LIFETIME: Duration = Duration::from_secs(600);

/// A worker on a server.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct IdleWorker {
    /// Where the server answers.
    #[arg(long)]
    pub endpoint: String,
    /// Shards of the stream.
    #[arg(long)]
    pub shards: u32,
    /// Take a batch of each shard and never return, instead of waiting for one.
    #[arg(long)]
    pub stalled: bool,
}

/// Every lease taken, and every shard waiting for records; what a while of that costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Idle {
    /// At the end.
    pub cost: ProcessCost,
    /// CPU time as a part of the time that passed.
    pub cpu_share: f64,
}

/// A worker with nothing to read, once it has settled, for this long.
pub async fn idle(shards: u32, settle: Duration, over: Duration) -> Idle {
    let (server, worker) = start(shards, false, Prefill::empty(shards)).await;
    let clock = TokioClock::new();
    clock.sleep(settle).await;
    let before = cost(&worker);
    clock.sleep(over).await;
    let after = cost(&worker);
    worker.end().await;
    server.end().await;
    Idle {
        cost: after,
        cpu_share: (after.cpu_seconds - before.cpu_seconds) / over.as_secs_f64(),
    }
}

/// A worker whose code does not return, this long after it took its first batch.
pub async fn stalled(prefill: Prefill, over: Duration) -> ProcessCost {
    let (server, worker) = start(prefill.shards, true, prefill).await;
    TokioClock::new().sleep(over).await;
    let cost = cost(&worker);
    worker.end().await;
    server.end().await;
    cost
}

async fn start(shards: u32, stalled: bool, prefill: Prefill) -> (PrefilledServer, Child) {
    let server = PrefilledServer::start(prefill).await;
    let mut arguments = vec![
        "stand".to_owned(),
        format!("--endpoint={}", server.endpoint),
        format!("--shards={shards}"),
    ];
    arguments.extend(stalled.then(|| "--stalled".to_owned()));
    let mut worker = Child::start(arguments);
    let _: u32 = worker.tells(STARTED_WITHIN).await;
    (server, worker)
}

fn cost(worker: &Child) -> ProcessCost {
    super::process::cost(worker.id()).expect("the worker runs")
}

/// Runs the worker until it is killed; reports when all its shards are idle, or the first one is stalled.
pub async fn stand(options: IdleWorker) {
    let polling = PollingSettings {
        reads_per_second: 1000,
        bytes_per_second: u64::MAX,
        ..PollingSettings::default()
    };
    let mut stream = KinesisStream::new(&aws(&options.endpoint), STREAM);
    if options.stalled {
        stream = stream.with_polling(polling);
    }
    let begun = Begun::default();
    let worker = start_worker(stream, &begun, options.stalled);
    // There may be room for a batch of some shards only.
    let enough = if options.stalled { 1 } else { options.shards };
    begun.wait_for(enough).await;
    tell(&enough);
    TokioClock::new().sleep(LIFETIME).await;
    drop(worker);
}

/// The cost of many idle shards, stream and leases in the same process.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Many {
    /// When there was a stream and no worker.
    pub before: ProcessCost,
    /// With the worker on all shards.
    pub after: ProcessCost,
}

/// Measures a worker on so many idle shards in memory, in a process of its own.
pub async fn many(shards: u32) -> Many {
    let mut worker = Child::start(["many".to_owned(), format!("--shards={shards}")]);
    let many = worker.tells(STARTED_WITHIN + SETTLE).await;
    worker.end().await;
    many
}

/// How long many shards are left alone before they are measured.
const SETTLE: Duration = Duration::from_secs(20);

/// Runs the worker on many shards, and reports what it takes.
pub async fn stand_on_many(shards: u32) {
    let stream = MemoryStream::builder(STREAM).shards(shards).build();
    stream.set_pace(Pace {
        idle: Duration::from_secs(1),
        ..Pace::default()
    });
    let before = own_cost();
    let begun = Begun::default();
    let worker = start_worker(stream, &begun, false);
    begun.wait_for(shards).await;
    TokioClock::new().sleep(SETTLE).await;
    let after = own_cost();
    tell(&Many { before, after });
    drop(worker);
}

/// The number of shards that have started.
#[derive(Debug, Clone, Default)]
struct Begun(Arc<watch::Sender<u32>>);

impl Begun {
    fn add(&self) {
        self.0.send_modify(|begun| *begun += 1);
    }

    async fn wait_for(&self, shards: u32) {
        let mut begun = self.0.subscribe();
        let all = begun.wait_for(|begun| *begun >= shards);
        let all = TokioClock::new().timeout(STARTED_WITHIN, all).await;
        let _ = all.expect("all shards begin in time");
    }
}

struct Still {
    begun: Begun,
    stalled: bool,
}

#[async_trait]
impl RecordProcessor for Still {
    async fn initialize(&mut self, _: &ShardContext) -> Result<StartFrom, ProcessorError> {
        if !self.stalled {
            self.begun.add();
        }
        Ok(StartFrom::Checkpoint)
    }

    async fn process_records(&mut self, _batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.begun.add();
        std::future::pending().await
    }
}

fn start_worker(stream: impl StreamSource, begun: &Begun, stalled: bool) -> WorkerHandle {
    let begun = begun.clone();
    let worker = Worker::builder("figures")
        .stream(stream)
        .lease_store(MemoryLeaseStore::new())
        .processor(move |_: &ShardContext| Still {
            begun: begun.clone(),
            stalled,
        })
        .build();
    worker.expect("the worker is complete").start()
}
