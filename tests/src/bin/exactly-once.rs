//! Kills workers at random moments while they write into a database or files, and compares these with the stream:
//! `cargo run -p kcl-tests --bin exactly-once -- --kills 200 --sink postgres`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kcl_core::clock::Rng;
use kcl_tests::exactly_once::Sink;
use kcl_tests::exactly_once::drive::{self, KillPlan};
use kcl_tests::exactly_once::worker::{self, WorkerArguments};
use kcl_tests::testbed::Testbed;
use tracing_subscriber::EnvFilter;

/// Compares a table or files with the stream that they were written from, after kills. Exit code 1: it could not run here; 101: they differ.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// How many workers are killed.
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// Where they write; all by default.
    #[arg(long)]
    sink: Vec<Sink>,
    /// When and which; random by default.
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// One worker of the fleet: the program starts itself so.
    Worker(WorkerArguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    if let Some(Part::Worker(arguments)) = arguments.part {
        return match worker::run(arguments).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("exactly-once: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let testbed = match Testbed::get().await {
        Ok(testbed) => testbed,
        Err(left_out) => {
            eprintln!("exactly-once: {left_out}");
            return ExitCode::FAILURE;
        }
    };
    let Ok(program) = std::env::current_exe() else {
        eprintln!("exactly-once: it does not know its own path, and cannot start itself as a worker");
        return ExitCode::FAILURE;
    };
    let sinks = match arguments.sink {
        sinks if sinks.is_empty() => vec![Sink::Sqlite, Sink::Postgres, Sink::Files],
        sinks => sinks,
    };
    // Short enough to be typed.
    let seed = arguments
        .seed
        .unwrap_or_else(|| Rng::from_entropy().below(1_000_000));
    let mut code = ExitCode::SUCCESS;
    for sink in sinks {
        let kills = arguments.kills;
        println!("{sink}: {kills} kills, seed {seed}");
        match drive::run(&testbed, &program, KillPlan { sink, kills, seed }).await {
            Ok(counts) => println!("{sink}: equal to the stream: {counts}"),
            Err(left_out) => {
                left_out.report(&format!("exactly-once, {sink}"));
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}
