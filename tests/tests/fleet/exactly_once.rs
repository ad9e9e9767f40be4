//! Workers that are killed and frozen while they write into a database or files: these equal the stream.
//!
//! `cargo run -p kcl-tests --bin exactly-once -- --kills 200` does the same with more kills.

use std::path::Path;

use kcl_core::clock::Rng;
use kcl_tests::chaos::fleet::say;
use kcl_tests::exactly_once::Sink;
use kcl_tests::exactly_once::drive::{KillPlan, run};
use kcl_tests::testbed_or_skip;

const KILLS: u32 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_table_equals_stream_after_kills() {
    kill(Sink::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_table_equals_stream_after_kills() {
    kill(Sink::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_equal_stream_after_kills() {
    kill(Sink::Files).await;
}

async fn kill(sink: Sink) {
    let _alone = crate::ONE_AT_A_TIME.lock().await;
    let testbed = testbed_or_skip!();
    let program = Path::new(env!("CARGO_BIN_EXE_exactly-once"));
    let seed = Rng::from_entropy().below(1_000_000);
    let plan = KillPlan {
        sink,
        kills: KILLS,
        seed,
    };
    match run(&testbed, program, plan).await {
        Ok(counts) => say(&format!("{sink}, seed {seed}: equal to the stream: {counts}")),
        Err(left_out) => left_out.report(&format!("exactly once, {sink}")),
    }
}
