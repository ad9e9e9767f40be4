//! Lets the Java KCL 3.1.3 and this library take turns on one application of three tables: cut-over, restarts, and the way back, after
//! SIGTERM and after `kill -9`: `cargo run -p kcl-tests --bin java-cutover`. Needs Java 17, Python 3 and about ten minutes.

use std::process::ExitCode;

use kcl_tests::java_conformance::cutover;
use kcl_tests::testbed::Testbed;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let testbed = match Testbed::get().await {
        Ok(testbed) => testbed,
        Err(left_out) => {
            eprintln!("java-cutover: {left_out}");
            return ExitCode::FAILURE;
        }
    };
    match cutover::run(&testbed).await {
        Ok(turns) => {
            for turn in turns {
                println!("{turn}");
            }
            println!(
                "Nothing was lost, and the lease table held nothing but leases after each turn of this library."
            );
            ExitCode::SUCCESS
        }
        Err(missing) => {
            eprintln!("java-cutover: {missing}");
            ExitCode::FAILURE
        }
    }
}
