//! The command line.

mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kcl_core::types::{ApplicationName, WorkerId};
use regex::Regex;

use crate::failure::EXIT_CODES;
pub(crate) use values::TailStart;
use values::{datetime, positive, price, seconds, tail_start};

/// Looks at a running fleet of Kinesis consumers, says what it does and why, and gives it orders.
///
/// Region, credentials and endpoints are found as by every AWS tool: options, AWS_* variables, profiles, roles. Looking writes nothing; an order is one
/// conditional write to the row that it is about.
#[derive(Debug, Parser)]
#[command(name = "kcl", version, after_help = EXIT_CODES, max_term_width = 120)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) common: CommonOptions,
}

/// The options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct CommonOptions {
    /// How the answer is printed; csv and json have the fields that docs/kcl.md lists.
    #[arg(short, long, value_enum, default_value_t, global = true)]
    pub(crate) output: Format,
    /// Look again every so many seconds, until interrupted.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, global = true)]
    pub(crate) watch: Option<Duration>,
    /// The region.
    #[arg(long, global = true)]
    pub(crate) region: Option<String>,
    /// The profile of the AWS configuration files.
    #[arg(long, global = true)]
    pub(crate) profile: Option<String>,
    /// The endpoint of both services, as for an emulator; AWS_ENDPOINT_URL_DYNAMODB and AWS_ENDPOINT_URL_KINESIS name one each.
    #[arg(long, value_name = "URL", global = true)]
    pub(crate) endpoint_url: Option<String>,
    /// The lease table, where it is not named as the application.
    #[arg(long, global = true)]
    pub(crate) table: Option<String>,
    /// How long each call to AWS may take.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "10", global = true)]
    pub(crate) timeout: Duration,
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For people with a wide terminal.
    Wide,
    /// For programs.
    Json,
    /// For spreadsheets.
    Csv,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists the applications of the account and region: state, workers, shards, lag, streams.
    List(ListOptions),
    /// Shows the shards of an application: state, owner, checkpoint, lag, rate, time to catch up.
    Status(StatusOptions),
    /// Shows the workers of an application: leases, throughput, failover time, leader and standby.
    Workers(LookOptions),
    /// Says in sentences how a shard came to its state: owner, what it waits for, parents, the record it is held at.
    Why(WhyOptions),
    /// Lists the records at which shards are held, and dead letters.
    Held(HeldOptions),
    /// Puts dead letters into a stream again; shows what it would do unless --execute is given.
    Redrive(RedriveOptions),
    /// Shows shards and workers live.
    Top(LookOptions),
    /// Serves the dashboard: shards over the hash range with their splits and merges, workers, and orders where --allow-orders is given.
    Serve(ServeOptions),
    /// Says how far the application is behind, and how many workers it should have; with --scaler for KEDA.
    Lag(LagOptions),
    /// Estimates shards and cost of a stream, and what coordination costs.
    Estimate(EstimateOptions),
    /// Examines credentials, rights, table, streams, limits, clock and versions; each finding says what to do.
    Doctor(DoctorOptions),
    /// Shows records as they come: key, arrival, size.
    Tail(TailOptions),
    /// Reads a bounded window of a stream again, beside the live traffic and with a share of the read limit; it ends by itself.
    Replay(ReplayOptions),
    /// Puts test records into a stream.
    Put(PutOptions),
    /// Prints the place from which each shard is read; the exit code is 1 if a row holds none.
    Export(LookOptions),
    /// Orders that shards start no further batch. Their leases are kept.
    Pause(ShardOrderOptions),
    /// Ends a pause; a shard that is held after a failure is tried again at once.
    Resume(ResumeOptions),
    /// Orders that shards are read no faster than this.
    Limit(LimitOptions),
    /// Orders that shards belong to a worker for as long as it lives.
    Move(MoveOptions),
    /// Ends what `move` ordered: the leader may move the shards as it sees fit.
    Release(ShardOrderOptions),
    /// Orders that the record at which a shard is held is left out, as the last resort of an error policy would.
    Skip(SkipOptions),
    /// Makes reading begin elsewhere, while the fleet runs; shows what it would do unless --execute is given.
    Reset(ResetOptions),
    /// Restores the places of before the last reset.
    Undo(UndoOptions),
    /// Resets every shard to the place that `export -o json` wrote into a file, of the same stream.
    Import(ImportOptions),
    /// Orders that a worker gets no further lease; it keeps what it has.
    Exclude(WorkerOrderOptions),
    /// Orders that a worker gets no further lease, and that its leases are handed to others.
    Drain(WorkerOrderOptions),
    /// Ends what `exclude` or `drain` ordered.
    Include(WorkerOrderOptions),
}

/// How an application is looked at.
#[derive(Debug, Clone, Args)]
pub(crate) struct LookOptions {
    /// The application.
    pub(crate) application: ApplicationName,
    /// The stream, where the rows do not name it, as rows of the Java KCL.
    #[arg(long, value_name = "NAME|ARN")]
    pub(crate) stream: Option<String>,
    /// Ask the stream how far each checkpoint is behind. It takes two reads a shard from its limit of five per second.
    #[arg(long)]
    pub(crate) measure_lag: bool,
    /// From which lag on a shard is LAGGING, in seconds.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "60")]
    pub(crate) lagging_after: Duration,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ServeOptions {
    /// The applications; --table goes with one only.
    #[arg(required = true, num_args = 1..=16, value_name = "APPLICATION")]
    pub(crate) applications: Vec<ApplicationName>,
    /// Where to serve; 0 is a free port. All that reach another address than that of this host alone can read the page.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9465")]
    pub(crate) listen: SocketAddr,
    /// Another name by which browsers reach the page, as behind a proxy. May be repeated.
    #[arg(long = "allow-host", value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
    /// How long after a look at the table the next one follows; there is none while no browser watches.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "2")]
    pub(crate) interval: Duration,
    /// Let the page give orders, to all that reach it.
    #[arg(long)]
    pub(crate) allow_orders: bool,
    /// The author that rows keep of orders; by default the user of this host.
    #[arg(long)]
    pub(crate) author: Option<String>,
    /// How long the answers to orders are awaited.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "30")]
    pub(crate) wait: Duration,
    /// The stream, where the rows do not name it, as rows of the Java KCL.
    #[arg(long, value_name = "NAME|ARN")]
    pub(crate) stream: Option<String>,
    /// Ask the stream at every look how far each checkpoint is behind. It takes two reads a shard from its limit of five per second.
    #[arg(long)]
    pub(crate) measure_lag: bool,
    /// From which lag on a shard is LAGGING, in seconds.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "60")]
    pub(crate) lagging_after: Duration,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ListOptions {
    /// Only tables whose names match this regular expression.
    pub(crate) tables: Option<Regex>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct StatusOptions {
    #[command(flatten)]
    pub(crate) look: LookOptions,
    /// Only leases whose keys match this regular expression.
    pub(crate) shards: Option<Regex>,
    /// Only shards that do not go on: UNOWNED, STALLED, HELD. The exit code is 1 if there are any.
    #[arg(long)]
    pub(crate) stuck: bool,
    /// Ended shards too.
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct WhyOptions {
    #[command(flatten)]
    pub(crate) look: LookOptions,
    /// The shard or lease key, or a regular expression that matches lease keys.
    pub(crate) shard: String,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct HeldOptions {
    #[command(flatten)]
    pub(crate) look: LookOptions,
    /// A folder of dead letters, as DeadLetterFiles writes it, of the same application.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) dead_letters: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RedriveOptions {
    /// The application whose dead letters they are.
    pub(crate) application: ApplicationName,
    /// Only letters from shards that match this regular expression.
    pub(crate) shards: Option<Regex>,
    /// The folder of dead letters. Those that were put are noted there in redriven.log, and are not put again.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) dead_letters: PathBuf,
    /// Put them into this stream; by default each into the one that it came from.
    #[arg(long, value_name = "NAME|ARN")]
    pub(crate) to_stream: Option<String>,
    /// The most letters.
    #[arg(long, value_name = "LETTERS")]
    pub(crate) max: Option<u64>,
    /// The most letters per second; a shard takes 1,000 from all its producers.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rate: u32,
    /// Do it.
    #[arg(long)]
    pub(crate) execute: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LagOptions {
    #[command(flatten)]
    pub(crate) look: LookOptions,
    /// How long the fleet may take to catch up.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "300")]
    pub(crate) catch_up_within: Duration,
    /// How many shards one worker handles when nothing lags; without it a fleet never shrinks.
    #[arg(long, value_name = "SHARDS")]
    pub(crate) shards_per_worker: Option<u32>,
    /// The fewest workers.
    #[arg(long, value_name = "WORKERS", default_value_t = 1)]
    pub(crate) min_workers: u32,
    /// The most workers; never more than there are shards.
    #[arg(long, value_name = "WORKERS")]
    pub(crate) max_workers: Option<u32>,
    /// Exit with 1 if a shard is further behind than so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) max_lag: Option<Duration>,
    /// Serve KEDA's external scaler (gRPC) at this address until interrupted. It needs --shards-per-worker: counted from the workers that live, a
    /// deploy or an outage would move the fleet for good.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        conflicts_with = "watch",
        requires = "shards_per_worker"
    )]
    pub(crate) scaler: Option<SocketAddr>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct EstimateOptions {
    /// Records per second, at the peak.
    #[arg(long, value_name = "NUMBER", value_parser = positive)]
    pub(crate) records_per_second: f64,
    /// Bytes of a record with its partition key, on average.
    #[arg(long, value_name = "BYTES", value_parser = positive)]
    pub(crate) record_size: f64,
    /// Applications that poll.
    #[arg(long, default_value_t = 1)]
    pub(crate) consumers: u32,
    /// Applications that read by enhanced fan-out.
    #[arg(long, default_value_t = 0)]
    pub(crate) fan_out_consumers: u32,
    /// How long records are kept, in hours.
    #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u32).range(24..=8760))]
    pub(crate) retention: u32,
    /// Workers of one application.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) workers: u32,
    /// The failover time of that application.
    #[arg(long, value_name = "SECONDS", value_parser = positive, default_value = "10")]
    pub(crate) failover_time: f64,
    /// Another price than the list price of us-east-1, as `shard_hour=0.018`; docs/kcl.md lists the names. May be repeated.
    #[arg(long = "price", value_name = "NAME=DOLLARS", value_parser = price)]
    pub(crate) prices: Vec<(String, f64)>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DoctorOptions {
    /// The application.
    pub(crate) application: ApplicationName,
    /// A stream to examine beside those that the rows name. May be repeated.
    #[arg(long = "stream", value_name = "NAME|ARN")]
    pub(crate) streams: Vec<String>,
    /// The application needs records of one key in order, or state by key.
    #[arg(long)]
    pub(crate) needs_keys: bool,
    /// The ARN of a fan-out consumer whose subscription is tried as a dry run.
    #[arg(long, value_name = "ARN")]
    pub(crate) consumer: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct TailOptions {
    /// The stream, by name or ARN.
    pub(crate) stream: String,
    /// Only shards whose ids match this regular expression.
    pub(crate) shards: Option<Regex>,
    /// Where to begin: latest, earliest, a time as 2027-01-31T12:00:00Z, or a while ago as 10m.
    #[arg(long, default_value = "latest", value_parser = tail_start)]
    pub(crate) from: TailStart,
    /// End after so many records.
    #[arg(long, value_name = "RECORDS")]
    pub(crate) max: Option<u64>,
    /// Print payloads: as text where they are, in base64 elsewhere. Without it no payload is shown.
    #[arg(long)]
    pub(crate) payload: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ReplayOptions {
    /// The stream, by name or ARN.
    pub(crate) stream: String,
    /// The first moment of the window: a time as 2027-01-31T12:00:00Z, a while ago as 2h, or earliest.
    #[arg(long, value_name = "TIME", value_parser = tail_start)]
    pub(crate) from: TailStart,
    /// The moment behind the window: a time, a while ago, or latest, which is now. It may lie ahead.
    #[arg(long, value_name = "TIME", value_parser = tail_start)]
    pub(crate) to: TailStart,
    /// Keep the place in a lease table, as the application replay-NAME: the same command goes on where it was stopped. Delete the table when
    /// it is needed no more. Without it a replay that was stopped begins again.
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// How much of each shard's read limit it may use, of 5 reads and 2 MiB per second.
    #[arg(long, value_name = "PERCENT", default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) share: u8,
    /// Put the records into this stream, each with its partition key, instead of printing them.
    #[arg(long, value_name = "NAME|ARN", conflicts_with = "payload")]
    pub(crate) to_stream: Option<String>,
    /// Print payloads: as text where they are, in base64 elsewhere. Without it no payload is shown.
    #[arg(long)]
    pub(crate) payload: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct PutOptions {
    /// The stream, by name or ARN.
    pub(crate) stream: String,
    /// The payload; without it each line of the standard input is a record.
    #[arg(long)]
    pub(crate) data: Option<String>,
    /// A file whose content is the payload.
    #[arg(long, conflicts_with = "data")]
    pub(crate) file: Option<PathBuf>,
    /// The partition key; `{}` in it is the number of the record. By default the records spread over the shards.
    #[arg(long, default_value = "kcl-put-{}")]
    pub(crate) key: String,
    /// How often --data or --file is put.
    #[arg(long, default_value_t = 1)]
    pub(crate) count: u64,
}

/// How an order is given.
#[derive(Debug, Clone, Args)]
pub(crate) struct OrderOptions {
    /// The application.
    pub(crate) application: ApplicationName,
    /// The author that the row keeps; by default the user of this host.
    #[arg(long)]
    pub(crate) author: Option<String>,
    /// Why, for the next operator who looks.
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// How long answers are awaited.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "30")]
    pub(crate) wait: Duration,
    /// Say what would be ordered, and write nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ShardOrderOptions {
    #[command(flatten)]
    pub(crate) order: OrderOptions,
    /// The shards: a regular expression that matches lease keys.
    pub(crate) shards: Option<Regex>,
    /// All shards that are not ended.
    #[arg(long, conflicts_with = "shards")]
    pub(crate) all: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ResumeOptions {
    #[command(flatten)]
    pub(crate) shards: ShardOrderOptions,
    /// Gives up the reset that holds the shards until their ancestors are reset, too.
    #[arg(long)]
    pub(crate) end_hold: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LimitOptions {
    #[command(flatten)]
    pub(crate) shards: ShardOrderOptions,
    /// The most records per second of each shard.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) records: Option<u32>,
    /// The most KiB per second of each shard.
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) kib: Option<u32>,
    /// End the limit.
    #[arg(long, conflicts_with_all = ["records", "kib"])]
    pub(crate) off: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct MoveOptions {
    #[command(flatten)]
    pub(crate) shards: ShardOrderOptions,
    /// The worker.
    #[arg(long, value_name = "WORKER")]
    pub(crate) to: WorkerId,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct SkipOptions {
    #[command(flatten)]
    pub(crate) order: OrderOptions,
    /// The shard, or its lease key.
    pub(crate) shard: String,
    /// The record, as `kcl why` shows it; by default the one that its owner reports.
    #[arg(long, value_name = "SEQUENCE[/INDEX]")]
    pub(crate) record: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ResetOptions {
    #[command(flatten)]
    pub(crate) order: OrderOptions,
    /// The shards: a regular expression that matches lease keys.
    pub(crate) shards: Option<Regex>,
    /// All shards.
    #[arg(long, conflicts_with = "shards")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) to: ResetTarget,
    /// The stream, where the rows do not name it, as rows of the Java KCL.
    #[arg(long, value_name = "NAME|ARN")]
    pub(crate) stream: Option<String>,
    /// Do it.
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) execute: bool,
}

/// Where reading begins.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ResetTarget {
    /// The oldest records that are kept.
    #[arg(long)]
    pub(crate) to_earliest: bool,
    /// Records that arrive from now on, by this host's clock.
    #[arg(long)]
    pub(crate) to_latest: bool,
    /// Records that arrived at this time or later, as 2027-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = datetime)]
    pub(crate) to_datetime: Option<kcl_core::types::Timestamp>,
    /// Records that arrived at most so long ago, as 90m.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) by_duration: Option<Duration>,
    /// The record behind this one, which counts as processed: of one shard.
    #[arg(long, value_name = "SEQUENCE[/INDEX]")]
    pub(crate) to_sequence: Option<String>,
    /// Where another application of the same stream reads, each shard.
    #[arg(long, value_name = "APP")]
    pub(crate) to_checkpoint_of: Option<ApplicationName>,
    /// Where this file says, each shard; `kcl export -o json` writes it.
    #[arg(long, value_name = "FILE")]
    pub(crate) from_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct UndoOptions {
    #[command(flatten)]
    pub(crate) order: OrderOptions,
    /// The shards: a regular expression that matches lease keys.
    pub(crate) shards: Option<Regex>,
    /// All shards that were reset.
    #[arg(long, conflicts_with = "shards")]
    pub(crate) all: bool,
    /// Do it.
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) execute: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ImportOptions {
    #[command(flatten)]
    pub(crate) order: OrderOptions,
    /// The file.
    pub(crate) file: PathBuf,
    /// The stream, where the rows do not name it, as rows of the Java KCL.
    #[arg(long, value_name = "NAME|ARN")]
    pub(crate) stream: Option<String>,
    /// Do it.
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) execute: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct WorkerOrderOptions {
    #[command(flatten)]
    pub(crate) order: OrderOptions,
    /// The worker.
    pub(crate) worker: WorkerId,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
