//! Two ways to read all shards and count what comes: the SDK in a loop, and the worker.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::ShardIteratorType;
use clap::ValueEnum;
use kcl_core::clock::{Clock as _, ClockExt as _, TokioClock};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::{ByteSize, Settings};
use kcl_core::{Worker, WorkerHandle};
use kcl_kinesis::{KinesisStream, PollingSettings, RecordFormat};
use kcl_lease_memory::MemoryLeaseStore;
use tokio::task::JoinSet;

use super::prefill::{Body, Prefill, STREAM, aws};
use super::window::{Counter, Spent, Window};
use crate::figures::child::{Child, tell};

/// No measurement takes longer.
const LIFETIME: Duration = Duration::from_secs(300);

/// How records are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// The SDK's GetRecords in a loop, a task for each shard.
    Loop,
    /// The worker, in CBOR.
    Cbor,
    /// The worker, in JSON.
    Json,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Reading {
    /// Where the server answers.
    #[arg(long)]
    pub endpoint: String,
    /// How records are read.
    #[arg(long, value_enum)]
    pub way: Way,
    /// The content of the server.
    #[command(flatten)]
    pub prefill: Prefill,
    /// How many answers of each shard to measure, on average.
    #[arg(long)]
    pub measured: u32,
    /// Calls per second and shard. As fast as the server answers if it is not given.
    #[arg(long)]
    pub pace: Option<u32>,
}

impl Reading {
    /// Reads in a process of its own.
    pub async fn spent(&self) -> Spent {
        let Self {
            endpoint,
            way,
            prefill,
            measured,
            pace,
        } = self;
        let way = way.to_possible_value().expect("each way has a name");
        let mut arguments = vec![
            "read".to_owned(),
            format!("--endpoint={endpoint}"),
            format!("--way={}", way.get_name()),
            format!("--shards={}", prefill.shards),
            format!("--body={}", prefill.body),
            format!("--answers={}", prefill.answers),
            format!("--measured={measured}"),
        ];
        arguments.extend(pace.map(|pace| format!("--pace={pace}")));
        let mut child = Child::start(arguments);
        let spent = child.tells(LIFETIME).await;
        child.end().await;
        spent
    }

    fn window(&self) -> Arc<Window> {
        let Prefill { shards, body, .. } = self.prefill;
        let volume = u64::from(shards) * u64::from(self.measured) * body.payload();
        Arc::new(Window::new(shards, volume))
    }

    fn records_per_shard(&self) -> u64 {
        u64::from(self.prefill.answers) * u64::from(self.prefill.body.records)
    }
}

/// Reads until the window ends, reports what it took, and ends the process.
pub async fn read(reading: Reading) {
    let window = reading.window();
    let (mut loops, mut worker) = (JoinSet::new(), None);
    match reading.way {
        Way::Loop => loops = start_loops(&reading, &window),
        Way::Cbor => worker = Some(start_worker(&reading, &window, RecordFormat::Cbor)),
        Way::Json => worker = Some(start_worker(&reading, &window, RecordFormat::Json)),
    };
    let measured = async {
        tokio::select! {
            biased;
            // None of them ends by itself.
            Some(ended) = loops.join_next() => panic!("a loop ended: {ended:?}"),
            spent = window.spent() => spent,
        }
    };
    let spent = TokioClock::new().timeout(LIFETIME, measured).await;
    tell(&spent.expect("it is read in time"));
    drop(worker);
    // What still runs is of no interest.
    std::process::exit(0);
}

fn start_loops(reading: &Reading, window: &Arc<Window>) -> JoinSet<()> {
    let client = Client::new(&aws(&reading.endpoint));
    let mut tasks = JoinSet::new();
    for number in 0..reading.prefill.shards {
        let counter = Counter::new(Arc::clone(window), reading.records_per_shard());
        let shard = format!("shardId-{number:012}");
        let pause = reading.pace.map(|pace| Duration::from_secs(1) / pace);
        tasks.spawn(read_in_a_loop(
            client.clone(),
            shard,
            reading.prefill.body,
            pause,
            counter,
        ));
    }
    tasks
}

async fn read_in_a_loop(
    client: Client,
    shard: String,
    body: Body,
    pause: Option<Duration>,
    mut counter: Counter,
) {
    let clock = TokioClock::new();
    let made = client
        .get_shard_iterator()
        .stream_name(STREAM)
        .shard_id(shard)
        .shard_iterator_type(ShardIteratorType::TrimHorizon)
        .send()
        .await;
    let mut iterator = made.expect("the server answers").shard_iterator;
    loop {
        let asked = clock.now();
        let answer = client
            .get_records()
            .set_shard_iterator(iterator)
            .limit(body.records as i32)
            .send()
            .await
            .expect("the server answers");
        let bytes = answer
            .records()
            .iter()
            .map(|record| record.data().as_ref().len() as u64);
        counter.took(answer.records().len(), bytes.sum()).await;
        iterator = answer.next_shard_iterator;
        if let Some(pause) = pause {
            clock.sleep_until(asked + pause).await;
        }
    }
}

struct Counting(Counter);

#[async_trait]
impl RecordProcessor for Counting {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.0.took(batch.len(), batch.payload_bytes()).await;
        Ok(())
    }
}

/// A worker with the defaults, but for the pace: it reads as fast as the loop, and has room for answers that are as large.
fn start_worker(reading: &Reading, window: &Arc<Window>, format: RecordFormat) -> WorkerHandle {
    let polling = PollingSettings {
        reads_per_second: reading.pace.unwrap_or(1_000_000),
        bytes_per_second: u64::MAX,
        format,
        ..PollingSettings::default()
    };
    let mut settings = Settings::default();
    settings.reading.max_batch_records = reading.prefill.body.records;
    settings.memory.budget = ByteSize::mib(1024);
    let (window, records) = (Arc::clone(window), reading.records_per_shard());
    let worker = Worker::builder("figures")
        .stream(KinesisStream::new(&aws(&reading.endpoint), STREAM).with_polling(polling))
        .lease_store(MemoryLeaseStore::new())
        .processor(move |_: &ShardContext| Counting(Counter::new(Arc::clone(&window), records)))
        .settings(settings)
        .build();
    worker.expect("the worker is complete").start()
}
