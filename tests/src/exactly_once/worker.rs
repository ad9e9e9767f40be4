//! One worker of the fleet, as a process of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kcl_core::clock::{ClockExt as _, Rng, TokioClock};
use kcl_core::processor::{SinkPosition, SinkPositionError};
use kcl_core::settings::CheckpointMode;
use kcl_core::types::Position;
use kinesis_client::aws_config::{self, BehaviorVersion};
use kinesis_client::{
    DynamoLeaseStore, KinesisStream, ProcessorError, RecordBatch, RecordProcessor, Settings, ShardContext,
    StartFrom, Worker, async_trait,
};

use super::database::{Address, Database, Writer};
use super::file_faults::FileSink;
use super::journal::{SinkEvent, SinkJournal};

/// The arguments of a worker.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkerArguments {
    /// The application, and its lease table.
    #[arg(long)]
    application: String,
    /// The stream.
    #[arg(long)]
    stream: String,
    /// This worker.
    #[arg(long)]
    worker_id: String,
    /// The failover time.
    #[arg(long)]
    failover_ms: u64,
    /// The longest pause between a batch and its transaction; twice that of a put.
    #[arg(long)]
    work_ms: u64,
    /// The database.
    #[arg(long, required_unless_present = "files")]
    database: Option<String>,
    /// The folder of the files.
    #[arg(long, conflicts_with = "database")]
    files: Option<PathBuf>,
    /// The file for events.
    #[arg(long)]
    log: PathBuf,
}

/// One commit of so many is taken for failed, although it has succeeded.
const LOST_REPLIES: u64 = 10;

/// Works until SIGTERM.
///
/// # Errors
///
/// The worker cannot start, or does not stop in order.
///
/// # Cancel safety
///
/// The worker gives its leases up.
pub async fn run(arguments: WorkerArguments) -> Result<(), Box<dyn std::error::Error>> {
    let aws = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let journal = Arc::new(SinkJournal::open(&arguments.log)?);
    let mut settings = Settings::default();
    settings.leases.failover_time = Duration::from_millis(arguments.failover_ms);
    // Several batches per second and shard, so that there is always one under way.
    settings.reading.max_batch_records = 20;
    let work = Duration::from_millis(arguments.work_ms);
    let files = arguments.files.as_deref();
    let files = files
        .map(|folder| FileSink::new(folder, Arc::clone(&journal), work))
        .transpose()?;
    if files.is_some() {
        settings.checkpoints.mode = CheckpointMode::Manual;
        settings.processing.tick_interval = Duration::from_millis(100);
    }
    let worker = Worker::builder(&arguments.application)
        .worker_id(&arguments.worker_id)
        .stream(KinesisStream::new(&aws, &arguments.stream))
        .lease_store(DynamoLeaseStore::new(&aws, &arguments.application))
        .settings(settings);
    let worker = match files {
        Some(files) => worker.processor(move |shard: &ShardContext| files.processor(shard)),
        None => {
            let address: Address = arguments.database.unwrap_or_default().parse()?;
            worker.processor(move |shard: &ShardContext| Orders {
                database: Database::new(&address),
                position: SinkPosition::new(shard),
                journal: Arc::clone(&journal),
                rng: Rng::from_entropy(),
                work,
            })
        }
    };
    let worker = worker.build()?;
    worker.run_until_signal().await?;
    Ok(())
}

struct Orders {
    database: Database,
    position: SinkPosition,
    journal: Arc<SinkJournal>,
    rng: Rng,
    work: Duration,
}

impl Orders {
    fn pause(&mut self, longest: Duration) -> Duration {
        let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.rng.below(micros.max(1)))
    }

    fn note_refusal(&self, shard: &ShardContext, error: &ProcessorError) -> std::io::Result<()> {
        let token = shard.fencing_token().as_u64();
        let shard = shard.shard().to_string();
        let cause: &(dyn std::error::Error + 'static) = error.cause();
        self.journal.note(&match cause.downcast_ref() {
            Some(SinkPositionError::Fenced { .. }) => SinkEvent::Fenced { shard, token },
            Some(SinkPositionError::Repeated { .. }) => SinkEvent::Repeated { shard },
            _ => SinkEvent::Failed {
                shard,
                why: error.to_string(),
            },
        })
    }
}

#[async_trait]
impl RecordProcessor for Orders {
    async fn initialize(&mut self, shard: &ShardContext) -> Result<StartFrom, ProcessorError> {
        match self.database.claim(&mut self.position).await {
            Ok(start) => {
                let written = self.position.written().cloned().map(Position::Record);
                self.journal.note(&SinkEvent::Claimed {
                    shard: shard.shard().to_string(),
                    token: shard.fencing_token().as_u64(),
                    ahead: written.as_ref() > shard.checkpoint(),
                })?;
                Ok(start)
            }
            Err(error) => {
                let (shard, why) = (shard.shard().to_string(), error.to_string());
                self.journal.note(&SinkEvent::Failed { shard, why })?;
                Err(error)
            }
        }
    }

    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        let clock = TokioClock::new();
        // A process is killed or frozen here most often: with records in its hands, and no transaction.
        let work = self.pause(self.work);
        clock.sleep(work).await;
        let writer = Writer {
            worker: shard.worker().as_str(),
            pause: self.pause(self.work / 20),
            loses_reply: self.rng.one_in(LOST_REPLIES),
        };
        let written = self.database.write(&mut self.position, &batch, &writer).await;
        if let Err(error) = written {
            self.note_refusal(shard, &error)?;
            return Err(error);
        }
        // And here, with records that are written and not checkpointed.
        let work = self.pause(self.work / 4);
        clock.sleep(work).await;
        Ok(())
    }
}
