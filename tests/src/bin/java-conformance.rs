//! Lets the Java KCL 3.1.3 read from the wire server of the test kit, by polling and by enhanced fan-out, through a split and
//! a merge: `cargo run -p kcl-tests --bin java-conformance`. Needs Java 17, Python 3 and about five minutes.

use std::process::ExitCode;

use kcl_tests::java_conformance;
use kcl_tests::testbed::Testbed;

#[tokio::main]
async fn main() -> ExitCode {
    let testbed = match Testbed::get().await {
        Ok(testbed) => testbed,
        Err(left_out) => {
            eprintln!("java-conformance: {left_out}");
            return ExitCode::FAILURE;
        }
    };
    match java_conformance::run(&testbed).await {
        Ok(verdicts) => {
            for verdict in verdicts {
                println!("{verdict}");
            }
            println!("The Java KCL read everything that was put, and ended every shard that was closed.");
            ExitCode::SUCCESS
        }
        Err(missing) => {
            eprintln!("java-conformance: {missing}");
            ExitCode::FAILURE
        }
    }
}
