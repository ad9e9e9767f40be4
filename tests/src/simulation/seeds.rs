use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Account, Failure, Story, outcome_of};

/// Runs the stories of these seeds on so many threads. After a failure no new one begins, unless all of them are wanted.
pub fn run_seeds(
    seeds: Range<u64>,
    threads: usize,
    trace_lines: usize,
    go_on: bool,
) -> (Account, Vec<Failure>) {
    let next = AtomicU64::new(seeds.start);
    let all = Mutex::new((Account::none(), Vec::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let outcome = outcome_of(&Story::of(seed), trace_lines, |_| {});
            let mut all = all.lock().unwrap();
            match outcome {
                Ok(account) => all.0.add(account),
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
