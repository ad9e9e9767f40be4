//! One worker of a fleet that tracks trucks: run as many processes as you like, each with its own `--worker-id`.
//!
//! Region, credentials and endpoints come from the standard AWS environment. It works on any stream, whatever the payloads.
//! With `--log FILE` it appends one JSON line per event, written before the batch counts as processed: what a process that
//! dies has logged is what its successors may be given again, never less.
//!
//! With `--broken FILE` it fails as code does that has a bug for some records: those of the partition keys in the file. Failures, dead
//! letters and their repair can be tried so, with a fleet that runs.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use kinesis_client::aws_config::{self, BehaviorVersion};
use kinesis_client::aws_sdk_kinesis::primitives::{DateTime, DateTimeFormat};
use kinesis_client::clock::{Clock, TokioClock};
use kinesis_client::dead_letter::DeadLetterFiles;
use kinesis_client::processor::{
    LastResort, Policy, ProcessorError, RecordBatch, RecordProcessor, ShardContext, StartFrom,
};
use kinesis_client::types::{InitialPosition, Record, Timestamp};
use kinesis_client::{
    DynamoLeaseStore, FanOut, KinesisStream, Settings, ShutdownReport, StreamSet, TableLayout, TableOptions,
    TrackedStream, Worker, async_trait,
};
use serde_json::{Value, json};
use tracing_subscriber::EnvFilter;

#[derive(Debug, Parser)]
#[command(about = "One worker of a fleet that consumes a Kinesis stream")]
struct Arguments {
    /// Name of the fleet.
    #[arg(long, default_value = "truck-tracker")]
    application: String,
    /// Name or ARN of the lease table, which is created if absent; by default the application's name.
    #[arg(long)]
    table: Option<String>,
    /// The stream to consume, by name or ARN. Given more than once, the application is one of many streams from then on.
    #[arg(long, required_unless_present = "prepare_for_java")]
    stream: Vec<String>,
    /// Name of this worker, different from every other's; by default the application's name with random digits.
    #[arg(long)]
    worker_id: Option<String>,
    /// Where a new application starts: trim-horizon, latest, or a time as 2026-01-31T12:00:00Z.
    #[arg(long, default_value = "trim-horizon", value_parser = initial_position)]
    initial_position: InitialPosition,
    /// How long a worker must be silent before its shards are given to others.
    #[arg(long, default_value_t = 10_000)]
    failover_ms: u64,
    /// The most shards for this worker.
    #[arg(long)]
    max_leases: Option<u32>,
    /// How shards are read: each worker asks for records, or Kinesis pushes them to a consumer that the fleet registers.
    #[arg(long, value_enum, default_value_t = Read::Polling)]
    read: Read,
    /// The consumer to read as, registered by somebody else: with `--read fan-out` and one stream.
    #[arg(long)]
    consumer_arn: Option<String>,
    /// Takes over the table of a Java application, all of whose workers are stopped. Needed for one start: the table remembers it.
    #[arg(long)]
    take_over_java: bool,
    /// How many tables a new application has.
    #[arg(long, value_enum, default_value_t = Layout::AsFound)]
    table_layout: Layout,
    /// Instead of working: leaves nothing but leases in the lease table of an application whose workers are all stopped, as a Java
    /// KCL before 3.5 needs it.
    #[arg(long)]
    prepare_for_java: bool,
    /// Appends one JSON line per event to this file.
    #[arg(long)]
    log: Option<PathBuf>,
    /// Sets records that still fail after their attempts aside, in files in this folder, and goes on. Without it the shard is held.
    #[arg(long, value_name = "FOLDER")]
    dead_letters: Option<PathBuf>,
    /// Holds the shard at a record that fails. It is set aside once an operator orders `kcl skip`.
    #[arg(long, requires = "dead_letters")]
    hold: bool,
    /// Fails, as at poison, on records whose partition keys stand in this file, a line each. It is read before each batch.
    #[arg(long, value_name = "FILE")]
    broken: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Read {
    Polling,
    FanOut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Layout {
    AsFound,
    OneTable,
    ThreeTables,
}

impl Arguments {
    /// The lease table.
    fn table(&self) -> &str {
        self.table.as_ref().unwrap_or(&self.application)
    }

    fn table_options(&self) -> TableOptions {
        TableOptions {
            layout: match self.table_layout {
                Layout::AsFound => TableLayout::AsFound,
                Layout::OneTable => TableLayout::OneTable,
                Layout::ThreeTables => TableLayout::ThreeTables,
            },
            ..TableOptions::default()
        }
    }

    /// The consumer to read as, or none where shards are polled.
    fn fan_out(&self) -> Result<Option<FanOut>, String> {
        match (self.read, &self.consumer_arn) {
            (Read::Polling, None) => Ok(None),
            (Read::Polling, Some(_)) => Err("--consumer-arn goes with --read fan-out".to_owned()),
            (Read::FanOut, None) => Ok(Some(FanOut::consumer(&self.application))),
            (Read::FanOut, Some(arn)) if self.stream.len() == 1 => Ok(Some(FanOut::consumer_arn(arn))),
            (Read::FanOut, Some(_)) => {
                Err("--consumer-arn goes with one --stream: a consumer belongs to a stream".to_owned())
            }
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let arguments = Arguments::parse();
    let outcome = if arguments.prepare_for_java {
        prepare_for_java(&arguments).await
    } else {
        run(arguments)
            .await
            .map(|report| tracing::info!(?report, "stopped"))
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trucks_worker: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn prepare_for_java(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let aws = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let leases = DynamoLeaseStore::new(&aws, arguments.table());
    let report = leases.prepare_for_java(&arguments.application.parse()?).await?;
    println!("removed: {}", report.removed.join(", "));
    if !report.left.is_empty() {
        println!(
            "left, and in the way of a Java KCL before 3.5: {}",
            report.left.join(", ")
        );
    }
    Ok(())
}

async fn run(arguments: Arguments) -> Result<ShutdownReport, Box<dyn Error>> {
    let aws = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let leases = DynamoLeaseStore::new(&aws, arguments.table()).table_options(arguments.table_options());
    let journal = Arc::new(Journal::open(arguments.log.as_ref())?);
    let mut settings = Settings::default();
    settings.leases.failover_time = Duration::from_millis(arguments.failover_ms);
    settings.reading.initial_position = arguments.initial_position;
    settings.assignment.max_leases = arguments.max_leases;
    settings.start.take_over_java = arguments.take_over_java;
    let fan_out = arguments.fan_out()?;
    let mut streams = arguments.stream.iter().map(|stream| {
        let stream = KinesisStream::new(&aws, stream);
        match &fan_out {
            None => stream,
            Some(fan_out) => stream.with_fan_out(fan_out.clone()),
        }
    });
    let builder = Worker::builder(&arguments.application);
    let builder = match (streams.next(), streams.len()) {
        (Some(stream), 0) => builder.stream(stream),
        (first, _) => builder.streams(StreamSet::new(
            first.into_iter().chain(streams).map(TrackedStream::new),
        )),
    };
    let builder = match &arguments.dead_letters {
        None => builder,
        Some(folder) => {
            builder
                .dead_letters(DeadLetterFiles::open(folder)?)
                .error_policy(match arguments.hold {
                    true => Policy::default(),
                    false => Policy::new(LastResort::DeadLetter),
                })
        }
    };
    let broken = arguments.broken;
    let mut builder = builder
        .lease_store(leases)
        .settings(settings)
        .processor(move |_: &ShardContext| TruckTracker {
            journal: Arc::clone(&journal),
            broken: broken.clone(),
        });
    if let Some(id) = arguments.worker_id {
        builder = builder.worker_id(id);
    }
    Ok(builder.build()?.run_until_signal().await?)
}

fn initial_position(text: &str) -> Result<InitialPosition, String> {
    match text {
        "trim-horizon" => Ok(InitialPosition::TrimHorizon),
        "latest" => Ok(InitialPosition::Latest),
        time => {
            let time = DateTime::from_str(time, DateTimeFormat::DateTime);
            let millis = time.ok().and_then(|time| time.to_millis().ok());
            let millis = millis.ok_or("give trim-horizon, latest, or a time as 2026-01-31T12:00:00Z")?;
            Ok(InitialPosition::AtTimestamp(Timestamp::from_millis(millis)))
        }
    }
}

struct TruckTracker {
    journal: Arc<Journal>,
    /// The file of the partition keys for which there is a bug.
    broken: Option<PathBuf>,
}

impl TruckTracker {
    /// The partition keys for which there is a bug just now.
    fn broken_keys(&self) -> Result<BTreeSet<String>, ProcessorError> {
        let Some(file) = &self.broken else {
            return Ok(BTreeSet::new());
        };
        let text = std::fs::read_to_string(file).map_err(ProcessorError::transient)?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

#[async_trait]
impl RecordProcessor for TruckTracker {
    async fn initialize(&mut self, shard: &ShardContext) -> Result<StartFrom, ProcessorError> {
        self.journal.began(shard)?;
        Ok(StartFrom::Checkpoint)
    }

    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        let broken = self.broken_keys()?;
        let is_broken = |record: &&Record| record.partition_key().is_some_and(|key| broken.contains(key));
        let poison = batch.iter().find(is_broken);
        let sound = batch
            .iter()
            .take_while(|record| poison.is_none_or(|poison| poison.position() != record.position()));
        self.journal.records(shard, sound)?;
        match poison {
            None => Ok(()),
            Some(record) => Err(ProcessorError::poison("no position in the payload").at(record)),
        }
    }

    async fn shutdown_requested(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        self.journal.event(shard, "shutdown_requested")?;
        Ok(())
    }

    async fn shard_ended(&mut self, shard: &ShardContext) -> Result<(), ProcessorError> {
        self.journal.event(shard, "shard_ended")?;
        Ok(())
    }

    async fn lease_lost(&mut self, shard: &ShardContext) {
        if let Err(error) = self.journal.event(shard, "lease_lost") {
            tracing::warn!(%error, "the log cannot be written");
        }
    }
}

/// The log of events, if one was asked for.
struct Journal {
    file: Option<File>,
    clock: TokioClock,
}

impl Journal {
    fn open(path: Option<&PathBuf>) -> Result<Self, String> {
        let open = |path: &PathBuf| {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.map_err(|error| format!("the log {} cannot be opened: {error}", path.display()))
        };
        Ok(Self {
            file: path.map(open).transpose()?,
            clock: TokioClock::new(),
        })
    }

    fn event(&self, shard: &ShardContext, event: &str) -> std::io::Result<()> {
        self.append(&self.line(shard, event).to_string())
    }

    /// Logs the token, which differs from that of every other ownership of the shard.
    fn began(&self, shard: &ShardContext) -> std::io::Result<()> {
        let mut line = self.line(shard, "initialized");
        line["token"] = json!(shard.fencing_token().as_u64());
        self.append(&line.to_string())
    }

    fn records<'a>(
        &self,
        shard: &ShardContext,
        records: impl Iterator<Item = &'a Record>,
    ) -> std::io::Result<()> {
        let lines = records.map(|record| {
            let mut line = self.line(shard, "record");
            line["key"] = json!(record.partition_key());
            line["seq"] = json!(record.sequence_number().to_string());
            line["sub"] = json!(record.sub_sequence_number());
            line.to_string()
        });
        let lines: Vec<_> = lines.collect();
        match lines.is_empty() {
            true => Ok(()),
            false => self.append(&lines.join("\n")),
        }
    }

    fn line(&self, shard: &ShardContext, event: &str) -> Value {
        let seconds = self.clock.wall().as_millis() as f64 / 1000.0;
        json!({
            "t": seconds,
            "worker": shard.worker().as_str(),
            "stream": shard.stream(),
            "shard": shard.shard().as_str(),
            "event": event,
        })
    }

    /// One write for all lines of a batch: the shards of a worker share the file.
    fn append(&self, lines: &str) -> std::io::Result<()> {
        let Some(mut file) = self.file.as_ref() else {
            return Ok(());
        };
        file.write_all(format!("{lines}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_sentinel_or_a_time() {
        assert_eq!(initial_position("trim-horizon"), Ok(InitialPosition::TrimHorizon));
        assert_eq!(initial_position("latest"), Ok(InitialPosition::Latest));
        let time = InitialPosition::AtTimestamp(Timestamp::from_millis(1_769_860_800_500));
        assert_eq!(initial_position("2026-01-31T12:00:00.5Z"), Ok(time));
        assert!(initial_position("yesterday").is_err());
    }

    #[test]
    fn consumer_goes_with_fan_out_and_one_stream() {
        let parse = |flags: &str| Arguments::parse_from(format!("worker {flags}").split(' ')).fan_out();
        assert_eq!(parse("--stream a"), Ok(None));
        let ours = FanOut::consumer("truck-tracker");
        assert_eq!(parse("--stream a --stream b --read fan-out"), Ok(Some(ours)));
        let given = FanOut::consumer_arn("arn:x");
        assert_eq!(
            parse("--stream a --read fan-out --consumer-arn arn:x"),
            Ok(Some(given))
        );
        assert!(parse("--stream a --consumer-arn arn:x").is_err());
        assert!(parse("--stream a --stream b --read fan-out --consumer-arn arn:x").is_err());
    }

    #[test]
    fn java_flags_go_with_and_without_a_stream() {
        let parse = |flags: &str| Arguments::try_parse_from(format!("worker {flags}").split(' '));
        let taking_over = parse("--stream a --take-over-java --table-layout three-tables").unwrap();
        assert!(taking_over.take_over_java && !taking_over.prepare_for_java);
        assert_eq!(taking_over.table_options().layout, TableLayout::ThreeTables);
        assert!(parse("--prepare-for-java").unwrap().prepare_for_java);
        assert!(parse("--take-over-java").is_err());
    }

    #[test]
    fn holding_goes_with_dead_letters() {
        let parse = |flags: &str| Arguments::try_parse_from(format!("worker --stream a {flags}").split(' '));
        assert!(parse("--dead-letters letters --hold --broken keys").is_ok());
        assert!(parse("--hold").is_err());
    }

    #[test]
    fn the_flags_are_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
