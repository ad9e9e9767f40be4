//! Lets whole fleets live through everything that can go wrong, in virtual time:
//! `cargo run --release -p kcl-tests --bin simulate -- --seeds 1000`, or the one scenario of a seed with everything that happens in
//! it, `-- --seed 42 --trace`.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use kcl_testkit::simulation::{Scenario, outcome_of, run_seeds};
use tracing_subscriber::EnvFilter;

/// How many events of a scenario that fails are shown.
const LINES: usize = 60;

/// Lets whole fleets live through everything that can go wrong, in virtual time.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many scenarios. 1000, or one when a seed is given.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed. 0 when nothing is said.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the one scenario of the seed, with everything that happens in it.
    #[arg(long, requires = "seed", conflicts_with = "seeds")]
    trace: bool,
    /// Scenarios with records that fail, policies that set them aside, and a dead-letter sink that fails.
    #[arg(long)]
    failing_records: bool,
    /// Scenarios with a handler that is called for many records at once; in half of them records fail, too.
    #[arg(long, conflicts_with = "failing_records")]
    handlers: bool,
    /// Scenarios with operators who pause, limit, move, drain and reset meanwhile.
    #[arg(long, conflicts_with_all = ["failing_records", "handlers"])]
    operators: bool,
    /// How many threads. One per core when nothing is said.
    #[arg(long)]
    threads: Option<usize>,
    /// Go on with other seeds after a failure.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let first = arguments.seed.unwrap_or(0);
    let scenario = match () {
        () if arguments.failing_records => Scenario::with_failing_records,
        () if arguments.handlers => Scenario::with_handlers,
        () if arguments.operators => Scenario::with_operators,
        () => Scenario::of,
    };
    if arguments.trace {
        return print_events(&scenario(first));
    }
    let count = arguments.seeds.unwrap_or(arguments.seed.map_or(1000, |_| 1));
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.threads.unwrap_or_else(cores);
    let begun = now();
    let seeds = first..first.saturating_add(count);
    let (report, failures) = run_seeds(scenario, seeds, threads, LINES, arguments.keep_going);
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    println!("{report}");
    println!(
        "{minutes:.1} real minutes on {threads} threads: {:.1} simulated hours a minute, {:.1} seeds a second and thread",
        report.simulated / 3600.0 / minutes,
        report.seeds as f64 / minutes / 60.0 / threads as f64
    );
    for failure in &failures {
        println!("FAILED {failure}");
    }
    ExitCode::from(u8::from(!failures.is_empty()))
}

/// Prints one scenario from its beginning to its end, and what the workers log meanwhile if `RUST_LOG` asks for it.
fn print_events(scenario: &Scenario) -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .without_time()
        .with_writer(std::io::stderr)
        .init();
    println!("{scenario}");
    let outcome = outcome_of(scenario, usize::MAX, |fleet| {
        for event in fleet.trace() {
            println!("{event}");
        }
    });
    match outcome {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("FAILED {failure}");
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a run takes is a matter of real time"
)]
fn now() -> Instant {
    Instant::now()
}
