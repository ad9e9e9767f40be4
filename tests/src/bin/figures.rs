//! Measures the figures that the README carries: `cargo run --release -p kcl-tests --bin figures -- coordination`.

use std::process::ExitCode;

use kcl_tests::bed::TestBed;
use kcl_tests::figures::coordination;

#[tokio::main]
async fn main() -> ExitCode {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if asked != ["coordination"] {
        eprintln!("usage: figures coordination");
        return ExitCode::from(2);
    }
    if cfg!(debug_assertions) {
        eprintln!("figures: this is a debug build; add --release for figures that mean something");
    }
    match TestBed::get().await {
        Ok(bed) => {
            println!("{}", coordination::measure(&bed).await);
            println!("On {} with {}.", bed.kind(), bed.dynamo_name());
            ExitCode::SUCCESS
        }
        Err(left_out) => {
            eprintln!("figures: {left_out}");
            ExitCode::FAILURE
        }
    }
}
