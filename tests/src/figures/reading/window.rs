//! The records that are read between two moments, and their cost.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kcl_core::clock::{Clock as _, TokioClock};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use crate::figures::process::own_cost;

/// How many answers of each shard are read before anything is measured: connections are open then, and what reads ahead is as far ahead
/// as it will be.
pub const WARM_UP: u32 = 6;

/// The cost of reading.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// CPU time of the process, in seconds.
    pub cpu_seconds: f64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Answers, or batches.
    pub answers: u64,
    /// Records.
    pub records: u64,
    /// Their payload, in bytes.
    pub bytes: u64,
    /// The most resident memory that the process had, in MiB.
    pub peak_mib: f64,
}

impl Spent {
    /// CPU seconds for each 10⁹ bytes of payload.
    pub fn cpu_seconds_per_gb(&self) -> f64 {
        self.cpu_seconds / (self.bytes as f64 / 1e9)
    }

    /// Records in a second.
    pub fn records_per_second(&self) -> f64 {
        self.records as f64 / self.seconds
    }

    fn since(&self, start: &Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - start.cpu_seconds,
            seconds: self.seconds - start.seconds,
            answers: self.answers - start.answers,
            records: self.records - start.records,
            bytes: self.bytes - start.bytes,
            peak_mib: self.peak_mib,
        }
    }
}

/// Begins when every shard is warm, and ends when so much was read.
#[derive(Debug)]
pub struct Window {
    clock: TokioClock,
    shards: u32,
    volume: u64,
    state: Mutex<State>,
    /// The number of shards that have started.
    begun: watch::Sender<u32>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    warm: u32,
    answers: u64,
    records: u64,
    bytes: u64,
    start: Option<Spent>,
    spent: Option<Spent>,
}

impl Window {
    /// A window over so many shards that ends after `volume` bytes of payload.
    pub fn new(shards: u32, volume: u64) -> Self {
        Self {
            clock: TokioClock::new(),
            shards,
            volume,
            state: Mutex::default(),
            begun: watch::Sender::new(0),
            ended: Notify::new(),
        }
    }

    /// Returns what was spent, once the window has ended.
    pub async fn spent(&self) -> Spent {
        loop {
            let ended = self.ended.notified();
            if let Some(spent) = self.state().spent {
                return spent;
            }
            ended.await;
        }
    }

    /// Waits until all shards have started: then they go on together.
    async fn begin(&self) {
        self.begun.send_modify(|begun| *begun += 1);
        let mut begun = self.begun.subscribe();
        // The sender lives as long as the window.
        let _ = begun.wait_for(|begun| *begun >= self.shards).await;
    }

    fn took(&self, is_warm_now: bool, records: usize, bytes: u64) {
        let mut state = self.state();
        state.answers += 1;
        state.records += records as u64;
        state.bytes += bytes;
        state.warm += u32::from(is_warm_now);
        if state.start.is_none() && state.warm == self.shards {
            state.start = Some(self.now(&state));
        }
        let read = |start: &Spent| state.bytes - start.bytes;
        if let Some(start) = state.start
            && state.spent.is_none()
            && read(&start) >= self.volume
        {
            state.spent = Some(self.now(&state).since(&start));
            self.ended.notify_waiters();
        }
    }

    fn now(&self, state: &State) -> Spent {
        let cost = own_cost();
        Spent {
            cpu_seconds: cost.cpu_seconds,
            seconds: self.clock.now().since_origin().as_secs_f64(),
            answers: state.answers,
            records: state.records,
            bytes: state.bytes,
            peak_mib: cost.peak_mib,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts what comes of one shard.
#[derive(Debug)]
pub struct Counter {
    window: std::sync::Arc<Window>,
    answers: u32,
    left: u64,
}

impl Counter {
    /// A counter for a shard that holds so many records.
    pub fn new(window: std::sync::Arc<Window>, records: u64) -> Self {
        Self {
            window,
            answers: 0,
            left: records,
        }
    }

    /// Counts an answer.
    ///
    /// # Panics
    ///
    /// When nothing is left in the shard: what follows would be another measurement.
    pub async fn took(&mut self, records: usize, bytes: u64) {
        if self.answers == 0 {
            self.window.begin().await;
        }
        self.answers += 1;
        self.window.took(self.answers == WARM_UP, records, bytes);
        self.left = self.left.saturating_sub(records as u64);
        if self.left == 0 && self.window.state().spent.is_none() {
            eprintln!("figures: a shard was read to its end before enough was read of all");
            std::process::exit(1);
        }
    }
}
