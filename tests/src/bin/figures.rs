//! Measures the figures of docs/benchmarks.md: `cargo run --release -p kcl-tests --bin figures -- coordination`,
//! or another of its commands, which need no servers.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kcl_tests::figures::idle_cost::{IdleWorker, stand, stand_on_many};
use kcl_tests::figures::reading::clients::{Reading, read};
use kcl_tests::figures::reading::prefill::{Prefill, serve};
use kcl_tests::figures::reading::{self, Plan};
use kcl_tests::figures::verdict::Verdicts;
use kcl_tests::figures::{bounds, coordination, cost, series, status};
use kcl_tests::testbed::Testbed;

/// Measures the figures of docs/benchmarks.md.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    figures: Figures,
    /// Fail if a figure is not what it should be.
    #[arg(long, global = true)]
    check: bool,
}

#[derive(Debug, Subcommand)]
enum Figures {
    /// Cold start, failover, latency: on servers of Kinesis and DynamoDB.
    Coordination,
    /// Calls and money of an idle fleet, counted in virtual time.
    Cost,
    /// CPU time of reading, beside the SDK in a loop.
    Reading(Plan),
    /// The cost of an idle worker.
    Idle,
    /// Memory with stalled code, and with many idle shards.
    Memory,
    /// Series of metrics, beside those of the Java KCL.
    Series,
    /// Time and memory of `kcl status`: on a server of DynamoDB.
    Status,
    /// Serves records. For the other commands, in a process of its own.
    #[command(hide = true)]
    Serve(Prefill),
    /// Reads records. For the other commands, in a process of its own.
    #[command(hide = true)]
    Read(Reading),
    /// Stands still. For the other commands, in a process of its own.
    #[command(hide = true)]
    Stand(IdleWorker),
    /// Stands still on many shards in memory. For the other commands, in a process of its own.
    #[command(hide = true)]
    Many {
        /// How many.
        #[arg(long)]
        shards: u32,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if cfg!(debug_assertions) {
        eprintln!("figures: this is a debug build; add --release for figures that mean something");
    }
    let mut verdicts = Verdicts::default();
    match arguments.figures {
        Figures::Coordination => return run(measure_coordination()),
        Figures::Cost => println!("{}", cost::measure()),
        Figures::Reading(plan) => run(async {
            reading::measure(&plan, &mut verdicts).await;
            bounds::idle(&mut verdicts).await;
        }),
        Figures::Idle => run(bounds::idle(&mut verdicts)),
        Figures::Memory => run(bounds::memory(&mut verdicts)),
        Figures::Series => println!("{}", run(series::measure())),
        Figures::Status => {
            let measured = run(measure_status(&mut verdicts));
            if measured != ExitCode::SUCCESS {
                return measured;
            }
        }
        Figures::Serve(prefill) => run(serve(prefill)),
        Figures::Read(reading) => run(read(reading)),
        Figures::Stand(worker) => run(stand(worker)),
        Figures::Many { shards } => run(stand_on_many(shards)),
    }
    match verdicts.missed {
        0 => ExitCode::SUCCESS,
        _ if !arguments.check => ExitCode::SUCCESS,
        missed => {
            eprintln!("figures: {missed} figures are not what they should be");
            ExitCode::FAILURE
        }
    }
}

/// On a runtime as most programs have it.
#[expect(clippy::expect_used, reason = "without threads nothing can be measured")]
fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Runtime::new().expect("there are threads for a runtime");
    runtime.block_on(future)
}

async fn measure_coordination() -> ExitCode {
    match Testbed::get().await {
        Ok(testbed) => {
            println!("{}", coordination::measure(&testbed).await);
            println!("On {} with {}.", testbed.kind(), testbed.dynamo_name());
            ExitCode::SUCCESS
        }
        Err(left_out) => {
            eprintln!("figures: {left_out}");
            ExitCode::FAILURE
        }
    }
}

async fn measure_status(verdicts: &mut Verdicts) -> ExitCode {
    match Testbed::get().await {
        Ok(testbed) => {
            status::measure(&testbed, verdicts).await;
            println!("\nOn {}.", testbed.dynamo_name());
            ExitCode::SUCCESS
        }
        Err(left_out) => {
            eprintln!("figures: {left_out}");
            ExitCode::FAILURE
        }
    }
}
