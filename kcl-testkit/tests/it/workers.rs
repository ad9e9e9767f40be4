//! Workers on virtual time whose pauses with jitter are the same in each run.

use std::cell::Cell;

use kcl_core::clock::Rng;
use kcl_core::{Worker, WorkerBuilder};

thread_local! {
    static STARTED: Cell<u64> = const { Cell::new(0) };
}

/// Begins a worker with a seed of its own: two workers of one test must not draw the same ids.
///
/// The seeds of a test follow from the order of its workers, since each test has a thread.
pub(crate) fn builder(application: &str) -> WorkerBuilder {
    let seed = STARTED.get() + 1;
    STARTED.set(seed);
    Worker::builder(application).rng(Rng::from_seed(seed))
}
