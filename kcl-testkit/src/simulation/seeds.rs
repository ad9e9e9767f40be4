use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{FailedScenario, Report, Scenario, outcome_of};

/// Runs the scenarios of these seeds on so many threads. After a failure no new one begins, unless all of them are wanted.
pub fn run_seeds(
    scenario: fn(u64) -> Scenario,
    seeds: Range<u64>,
    threads: usize,
    trace_lines: usize,
    go_on: bool,
) -> (Report, Vec<FailedScenario>) {
    let next = AtomicU64::new(seeds.start);
    let all = Mutex::new((Report::none(), Vec::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let outcome = outcome_of(&scenario(seed), trace_lines, |_| {});
            let mut all = all.lock().unwrap();
            match outcome {
                Ok(report) => all.0.add(report),
                Err(failure) => {
                    if !go_on {
                        next.store(seeds.end, Ordering::Relaxed);
                    }
                    all.1.push(failure);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
    all.into_inner().unwrap()
}
