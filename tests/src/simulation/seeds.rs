//! Runs many stories on all cores.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Account, run};

/// A story that did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What was wrong.
    pub message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "seed {seed}: {message}\nreplay it: cargo run --release -p kcl-tests --bin simulate -- --seed {seed} --trace",
            seed = self.seed,
            message = self.message
        )
    }
}

/// Runs the stories of these seeds on so many threads. After a failure no new one begins.
pub fn run_seeds(seeds: Range<u64>, threads: usize, trace_lines: usize) -> (Account, Vec<Failure>) {
    let next = AtomicU64::new(seeds.start);
    let all = Mutex::new((Account::default(), Vec::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| run(seed, trace_lines)));
            let mut all = all.lock().unwrap();
            match outcome {
                Ok(account) => all.0.add(account),
                Err(panic) => {
                    next.store(seeds.end, Ordering::Relaxed);
                    let message = text(panic.as_ref());
                    all.1.push(Failure { seed, message });
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

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
