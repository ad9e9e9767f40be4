//! Measures the figures that the README carries: `cargo run --release -p kcl-tests --bin figures -- coordination`,
//! or `-- cost`, which needs no servers.

use std::process::ExitCode;

use kcl_tests::bed::TestBed;
use kcl_tests::figures::{coordination, cost};

fn main() -> ExitCode {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    if cfg!(debug_assertions) {
        eprintln!("figures: this is a debug build; add --release for figures that mean something");
    }
    match asked[..] {
        ["coordination"] => measure_coordination(),
        ["cost"] => {
            println!("{}", cost::measure());
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: figures coordination | cost");
            ExitCode::from(2)
        }
    }
}

#[tokio::main]
async fn measure_coordination() -> ExitCode {
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
