//! Lets whole fleets live through everything that can go wrong, in virtual time:
//! `cargo run --release -p kcl-tests --bin simulate -- --seeds 1000`, from the seed `--seed S` on, which is 0 when nothing is said;
//! or the one story of a seed with everything that happens in it, `-- --seed 42 --trace`.

use std::process::ExitCode;
use std::time::Instant;

use kcl_tests::simulation::{Story, run_and, run_seeds};

const USAGE: &str = "usage: simulate [--seeds N] [--seed S] [--trace]";
/// How many events of one that fails are shown.
const LINES: usize = 60;

fn main() -> ExitCode {
    let Some(Asked { first, count, trace }) = asked(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    if trace {
        return tell(first);
    }
    let begun = now();
    let (account, failures) = run_seeds(first..first + count, threads, LINES);
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    println!("{account}");
    let pace = account.simulated / 3600.0 / minutes;
    println!("{minutes:.1} real minutes on {threads} threads, {pace:.1} simulated hours a minute");
    for failure in &failures {
        println!("FAILED {failure}");
    }
    ExitCode::from(u8::from(!failures.is_empty()))
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a run takes is a matter of real time"
)]
fn now() -> Instant {
    Instant::now()
}

struct Asked {
    first: u64,
    count: u64,
    trace: bool,
}

fn asked(mut words: impl Iterator<Item = String>) -> Option<Asked> {
    let (mut first, mut count, mut trace) = (None, None, false);
    while let Some(word) = words.next() {
        let mut number = || words.next()?.parse::<u64>().ok();
        match word.as_str() {
            "--seed" => first = Some(number()?),
            "--seeds" => count = Some(number()?),
            "--trace" => trace = true,
            _ => return None,
        }
    }
    // One seed alone is one story.
    let count = count.unwrap_or(if first.is_some() { 1 } else { 1000 });
    Some(Asked {
        first: first.unwrap_or(0),
        count,
        trace,
    })
}
