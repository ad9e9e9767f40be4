//! Trucks send their positions into a stream, until interrupted: `trucks_producer --stream truck-positions`.
//!
//! Region, credentials and endpoints come from the standard AWS environment. The partition key is the truck's id, and a truck's
//! next position is sent only after the one before was taken, so the positions of a truck are in order in its shard.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use kinesis_client::aws_config::timeout::TimeoutConfig;
use kinesis_client::aws_config::{self, BehaviorVersion};
use kinesis_client::aws_sdk_kinesis::primitives::Blob;
use kinesis_client::aws_sdk_kinesis::types::PutRecordsRequestEntry;
use kinesis_client::aws_sdk_kinesis::{self, Client};
use kinesis_client::clock::{Clock, ClockExt, TokioClock};
use kinesis_client::types::Timestamp;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

const TICK: Duration = Duration::from_millis(100);
const TICKS_PER_SECOND: usize = 10;

#[derive(Debug, Parser)]
#[command(about = "Sends positions of trucks into a Kinesis stream until interrupted")]
struct Arguments {
    /// The stream to send to.
    #[arg(long)]
    stream: String,
    /// How many trucks there are: as many partition keys.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    trucks: u32,
    /// Positions per second, of all trucks together.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=5000))]
    rate: u32,
    /// Ends after this many positions instead of waiting for an interrupt.
    #[arg(long)]
    count: Option<u64>,
    /// Appends a JSON line for each position that the stream has taken.
    #[arg(long)]
    log: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let mut producer = Producer::new(&arguments).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut due = producer.clock.now();
    loop {
        due = due + TICK;
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = producer.clock.sleep_until(due) => {}
        }
        // Outside of the select, so that a tick that started is finished and logged.
        producer.tick().await?;
        if arguments.count.is_some_and(|count| producer.sent >= count) {
            break;
        }
    }
    println!("{} positions sent", producer.sent);
    Ok(())
}

struct Producer {
    client: Client,
    clock: TokioClock,
    stream: String,
    trucks: u64,
    per_tick: usize,
    count: u64,
    sent: u64,
    log: Option<File>,
}

impl Producer {
    async fn new(arguments: &Arguments) -> Result<Self, Box<dyn Error>> {
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(Duration::from_secs(5))
            .build();
        let config = aws_config::defaults(BehaviorVersion::latest())
            .timeout_config(timeouts)
            .load()
            .await;
        let open = |path: &PathBuf| OpenOptions::new().create(true).append(true).open(path);
        Ok(Self {
            client: Client::new(&config),
            clock: TokioClock::new(),
            stream: arguments.stream.clone(),
            trucks: u64::from(arguments.trucks),
            per_tick: arguments.rate as usize / TICKS_PER_SECOND,
            count: arguments.count.unwrap_or(u64::MAX),
            sent: 0,
            log: arguments.log.as_ref().map(open).transpose()?,
        })
    }

    /// Sends what is due, at most one position per truck and call, and repeats what was refused.
    async fn tick(&mut self) -> Result<(), Box<dyn Error>> {
        let mut due = self.per_tick;
        while due > 0 && self.sent < self.count {
            let trucks = usize::try_from(self.trucks)?;
            let left = usize::try_from(self.count - self.sent).unwrap_or(usize::MAX);
            let size = due.min(trucks).min(500).min(left);
            let batch = (0..size as u64)
                .map(|offset| self.position(self.sent + offset))
                .collect::<Result<Vec<_>, _>>()?;
            self.put(batch).await?;
            self.sent += size as u64;
            due -= size;
        }
        Ok(())
    }

    fn position(&self, number: u64) -> Result<PutRecordsRequestEntry, Box<dyn Error>> {
        let (truck, round) = (number % self.trucks, number / self.trucks);
        let position = json!({
            "truck": truck,
            "round": round,
            "latitude": 48.0 + truck as f64 / 100.0,
            "longitude": 11.0 + round as f64 / 10_000.0,
        });
        let entry = PutRecordsRequestEntry::builder()
            .partition_key(format!("truck-{truck}"))
            .data(Blob::new(position.to_string()))
            .build()?;
        Ok(entry)
    }

    /// A stream that is being resharded or is throttled refuses for a moment: tries until every entry is taken.
    async fn put(&mut self, mut entries: Vec<PutRecordsRequestEntry>) -> Result<(), Box<dyn Error>> {
        const TRIES: usize = 300;
        let began = self.clock.wall();
        let mut problem = String::new();
        for _ in 0..TRIES {
            let outcome = self
                .client
                .put_records()
                .stream_name(&self.stream)
                .set_records(Some(entries.clone()))
                .send()
                .await;
            match outcome {
                Ok(taken) => {
                    let mut refused = Vec::new();
                    for (entry, result) in entries.into_iter().zip(taken.records()) {
                        match (result.shard_id(), result.sequence_number()) {
                            (Some(shard), Some(sequence)) => self.log(began, &entry, shard, sequence)?,
                            _ => {
                                problem = result.error_message().unwrap_or("refused").to_owned();
                                refused.push(entry);
                            }
                        }
                    }
                    entries = refused;
                }
                Err(error) => {
                    let error = error.into_service_error();
                    if error.is_resource_not_found_exception() {
                        return Err(format!("there is no stream {}: create it first", self.stream).into());
                    }
                    problem = aws_sdk_kinesis::error::DisplayErrorContext(&error).to_string();
                }
            }
            if entries.is_empty() {
                return Ok(());
            }
            self.clock.sleep(TICK).await;
        }
        Err(format!("the stream {} takes nothing: {problem}", self.stream).into())
    }

    /// `t` is when the position was sent for the first time.
    fn log(
        &mut self,
        began: Timestamp,
        entry: &PutRecordsRequestEntry,
        shard: &str,
        sequence: &str,
    ) -> Result<(), Box<dyn Error>> {
        if let Some(log) = &mut self.log {
            let seconds = began.as_millis() as f64 / 1000.0;
            let line = json!({ "t": seconds, "event": "put", "shard": shard, "key": entry.partition_key(), "seq": sequence });
            log.write_all(format!("{line}\n").as_bytes())?;
        }
        Ok(())
    }
}
