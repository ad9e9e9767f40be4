//! Lets the Java KCL 3.1.3 read from the wire server of the test kit, by polling and by enhanced fan-out, through a split and
//! a merge: `cargo run -p kcl-tests --bin java-judge`. Needs Java 17, Python 3 and about five minutes.

use std::process::ExitCode;

use kcl_tests::bed::TestBed;
use kcl_tests::judge;

#[tokio::main]
async fn main() -> ExitCode {
    let bed = match TestBed::get().await {
        Ok(bed) => bed,
        Err(left_out) => {
            eprintln!("java-judge: {left_out}");
            return ExitCode::FAILURE;
        }
    };
    match judge::run(&bed).await {
        Ok(verdicts) => {
            for verdict in verdicts {
                println!("{verdict}");
            }
            println!("The Java KCL read everything that was put, and ended every shard that was closed.");
            ExitCode::SUCCESS
        }
        Err(missing) => {
            eprintln!("java-judge: {missing}");
            ExitCode::FAILURE
        }
    }
}
