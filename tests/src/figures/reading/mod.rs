//! The cost of reading: the worker beside a bare loop of the SDK.
//!
//! Both read the same answers of the same server, one call after the other on each shard with no pause in between: the calls for a GB are
//! then the same, neither pays for waiting, and both go as fast as the server lets them. Server and clients are processes of their own. The clients
//! take turns, each measures its own CPU time, and the pairs are compared one by one, so that what slows the machine down for a
//! while does not favour one or the other.

pub mod clients;
pub mod prefill;
pub mod summary;
pub mod window;

use clients::{Reading, Way};
use prefill::{Beside, Body, Prefill, PrefilledServer};
use summary::{Pairs, cells};
use window::{Spent, WARM_UP};

use super::verdict::Verdicts;

/// At most so much of the loop's CPU time should the worker take, reading CBOR.
const MOST_WITH_CBOR: f64 = 0.45;
/// The same, reading JSON.
const MOST_WITH_JSON: f64 = 1.05;

/// The content of an answer, and how many answers of all shards together to measure: enough for a second of CPU time or two.
const BODIES: [(Body, u32); 2] = [
    (
        Body {
            records: 1000,
            bytes: 1024,
        },
        1024,
    ),
    (
        Body {
            records: 10_000,
            bytes: 100,
        },
        384,
    ),
];

/// The measurement.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Plan {
    /// How many pairs of measurements to take.
    #[arg(long, default_value_t = 9)]
    pub pairs: u32,
    /// Numbers of shards.
    #[arg(long, value_delimiter = ',', default_value = "8,64")]
    pub shards: Vec<u32>,
    /// Calls per second and shard. As fast as the server answers if it is not given.
    #[arg(long)]
    pub pace: Option<u32>,
}

/// Measures and prints. Progress is printed on standard error.
pub async fn measure(plan: &Plan, verdicts: &mut Verdicts) {
    println!(
        "| shards, records per answer | client | CPU seconds per GB | 1000 records/s | peak MiB | of the loop's CPU time | target |"
    );
    println!("|---|---|---|---:|---:|---|---|");
    for (body, answers) in BODIES {
        for shards in &plan.shards {
            compare(plan, body, *shards, answers / shards, verdicts).await;
        }
    }
}

async fn compare(plan: &Plan, body: Body, shards: u32, measured: u32, verdicts: &mut Verdicts) {
    let prefill = Prefill {
        shards,
        body,
        // Some shards are read faster than others.
        answers: WARM_UP + measured + measured / 2 + 4,
        beside: Beside::Nothing,
        limits: false,
    };
    eprintln!(
        "figures: {shards} shards of {} answers of {body}",
        prefill.answers
    );
    let server = PrefilledServer::start(prefill).await;
    let reading = |way| Reading {
        endpoint: server.endpoint.clone(),
        way,
        prefill,
        measured,
        pace: plan.pace,
    };
    let (mut cbor, mut json) = (Pairs::default(), Pairs::default());
    for pair in 1..=plan.pairs {
        for (way, pairs) in [(Way::Cbor, &mut cbor), (Way::Json, &mut json)] {
            let a = reading(Way::Loop).spent().await;
            let b = reading(way).spent().await;
            eprintln!(
                "figures: pair {pair} of {}: {}; {way:?}: {}",
                plan.pairs,
                brief(&a),
                brief(&b)
            );
            pairs.0.push((a, b));
        }
    }
    server.end().await;

    let what = format!("{shards}, {} × {} B", body.records, body.bytes);
    let loops = cbor.0.iter().chain(&json.0).map(|(a, _)| a);
    println!("| {what} | SDK in a loop | {} | 1 | |", cells(loops));
    for (name, pairs, most) in [
        ("worker, CBOR", cbor, MOST_WITH_CBOR),
        ("worker, JSON", json, MOST_WITH_JSON),
    ] {
        let ratio = pairs.ratio();
        let verdict = verdicts.at_most(ratio.median, most);
        let worker = cells(pairs.0.iter().map(|(_, b)| b));
        println!("| {what} | {name} | {worker} | {ratio} | ≤ {most}: {verdict} |");
    }
}

fn brief(spent: &Spent) -> String {
    format!(
        "{:.2} s CPU in {:.2} s, {:.2} per GB, {:.0} records per answer, {:.0} MiB",
        spent.cpu_seconds,
        spent.seconds,
        spent.cpu_seconds_per_gb(),
        spent.records as f64 / spent.answers as f64,
        spent.peak_mib,
    )
}
