//! The most that a worker may take while it stands still.

use std::thread::available_parallelism;
use std::time::Duration;

use super::idle_cost::{Idle, Many, idle as idle_worker, many, stalled};
use super::reading::prefill::{Beside, Body, Prefill};
use super::verdict::Verdicts;

const IDLE_SHARDS: u32 = 64;
/// By then the shards are quiet.
const SETTLE: Duration = Duration::from_secs(35);
const IDLE_FOR: Duration = Duration::from_secs(30);
const STALLED_SHARDS: u32 = 500;
const STALLED_FOR: Duration = Duration::from_secs(30);
/// The default of the settings, in MiB.
const MEMORY_BUDGET: f64 = 256.0;
/// The allowance on top, in MiB: 64 MB.
const BESIDE_BUDGET: f64 = 61.0;
const MANY_SHARDS: u32 = 10_000;

/// Ten MB or nearly, in small records and in those that a producer usually writes at most; then small ones with the largest that there
/// are among them, and with aggregates that take many times their size when they are unpacked.
const STALLED_BODIES: [(Body, Beside, &str); 4] = [
    (
        Body {
            records: 10_000,
            bytes: 1024,
        },
        Beside::Nothing,
        "",
    ),
    (
        Body {
            records: 10,
            bytes: 1024 * 1024,
        },
        Beside::Nothing,
        "",
    ),
    (
        Body {
            records: 50,
            bytes: 1024,
        },
        Beside::Large,
        ", each answer with one of 10 MiB",
    ),
    (
        Body {
            records: 1,
            bytes: 1024,
        },
        Beside::Aggregate,
        ", then one aggregate of 10 MB",
    ),
];

fn most_threads() -> f64 {
    available_parallelism().map_or(0.0, |cores| cores.get() as f64) + 4.0
}

/// Measures an idle worker, and prints.
pub async fn idle(verdicts: &mut Verdicts) {
    eprintln!("figures: an idle worker");
    let Idle { cost, cpu_share } = idle_worker(IDLE_SHARDS, SETTLE, IDLE_FOR).await;
    println!();
    println!("| idle worker, {IDLE_SHARDS} shards | measured | target |");
    println!("|---|---:|---|");
    let cpu = 100.0 * cpu_share;
    println!("| CPU | {cpu:.1} % | ≤ 1.5 %: {} |", verdicts.at_most(cpu, 1.5));
    println!(
        "| memory | {:.0} MiB | ≤ 30 MiB: {} |",
        cost.resident_mib,
        verdicts.at_most(cost.resident_mib, 30.0)
    );
    threads(cost.threads, verdicts);
}

/// Measures the memory of stalled and of idle shards, and prints.
pub async fn memory(verdicts: &mut Verdicts) {
    println!("| memory | measured | target |");
    println!("|---|---:|---|");
    for (body, beside, text) in STALLED_BODIES {
        eprintln!("figures: {STALLED_SHARDS} stalled shards of {body}{text}");
        let prefill = Prefill {
            shards: STALLED_SHARDS,
            body,
            answers: if beside == Beside::Large { 4 } else { 1 },
            beside,
            limits: false,
        };
        let peak = stalled(prefill, STALLED_FOR).await.peak_mib;
        let bound = MEMORY_BUDGET + BESIDE_BUDGET;
        println!(
            "| {STALLED_SHARDS} shards of {} × {} B{text}, code stalled, budget {MEMORY_BUDGET} MiB | {peak:.0} MiB at the peak | ≤ {bound} MiB: {} |",
            body.records,
            body.bytes,
            verdicts.at_most(peak, bound),
        );
    }
    eprintln!("figures: {MANY_SHARDS} idle shards");
    let Many { before, after } = many(MANY_SHARDS).await;
    let per_shard = (after.resident_mib - before.resident_mib) * 1024.0 / f64::from(MANY_SHARDS);
    println!("| {MANY_SHARDS} idle shards in memory, of each | {per_shard:.1} KiB | |");
    threads(after.threads, verdicts);
}

fn threads(threads: u64, verdicts: &mut Verdicts) {
    let most = most_threads();
    let verdict = verdicts.at_most(threads as f64, most);
    println!("| threads | {threads} | ≤ {most}: {verdict} |");
}
