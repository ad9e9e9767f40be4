use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::invariant::Violation;
use bytes::Bytes;
use kcl_core::internals::TaskScope;
use kcl_core::settings::Settings;
use kcl_lease_memory::memory_stream::Pace;

use super::{Fleet, RecordMaker};
use crate::dead_letters::MemoryDeadLetters;

/// Runs a scenario with a fleet over a stream of four shards, and the defaults of [`Simulation`].
///
/// # Panics
///
/// When the scenario panics, or an invariant is broken.
pub fn simulate_fleet<T>(seed: u64, scenario: impl AsyncFnOnce(Fleet) -> T) -> T {
    Simulation::new(seed).run(scenario)
}

/// The beginning of a scenario.
#[derive(Clone)]
pub struct Simulation {
    pub(super) seed: u64,
    pub(super) shards: u32,
    pub(super) settings: Settings,
    pub(super) latency: Duration,
    pub(super) pace: Pace,
    pub(super) trace_lines: usize,
    pub(super) letters: MemoryDeadLetters,
    pub(super) records: Option<RecordMaker>,
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("seed", &self.seed)
            .field("shards", &self.shards)
            .finish_non_exhaustive()
    }
}

impl Simulation {
    /// Four shards, a failover time of 4 s, all else as the [defaults](Settings) say, and up to 3 ms for each request to the
    /// lease store.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            shards: 4,
            settings: {
                let mut settings = Settings::default();
                settings.leases.failover_time = Duration::from_secs(4);
                settings
            },
            latency: Duration::from_millis(3),
            pace: Pace::default(),
            trace_lines: 60,
            letters: MemoryDeadLetters::default(),
            records: None,
        }
    }

    /// How many shards the stream begins with.
    #[must_use]
    pub fn shards(mut self, count: u32) -> Self {
        self.shards = count;
        self
    }

    /// The settings of every worker that has none of its own.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// The longest time that a request to the lease store is on its way.
    #[must_use]
    pub fn latency(mut self, longest: Duration) -> Self {
        self.latency = longest;
        self
    }

    /// How often readers ask the stream for records.
    #[must_use]
    pub fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// The dead-letter sink of every worker. In memory when nothing is said.
    #[must_use]
    pub fn dead_letters(mut self, sink: MemoryDeadLetters) -> Self {
        self.letters = sink;
        self
    }

    /// The partition key and the payload of the record with each number, from 1 on, that [`Fleet::put`] puts. When nothing is said,
    /// the payload is the number as text, and the key is drawn from a hundred.
    #[must_use]
    pub fn records(mut self, make: impl Fn(u64) -> (String, Bytes) + Send + Sync + 'static) -> Self {
        self.records = Some(Arc::new(make));
        self
    }

    /// How many of the last events are kept, and printed when the scenario fails. 60 when nothing is said; with 0 nothing is printed.
    #[must_use]
    pub fn trace_lines(mut self, count: usize) -> Self {
        self.trace_lines = count;
        self
    }

    /// Runs the scenario in a runtime of its own, in virtual time.
    ///
    /// # Panics
    ///
    /// When the scenario panics, an invariant is broken, or the system cannot make a runtime.
    #[expect(clippy::panic, reason = "a simulation fails as tests do")]
    pub fn run<T>(self, scenario: impl AsyncFnOnce(Fleet) -> T) -> T {
        match self.attempt(scenario) {
            Ok(outcome) => outcome,
            Err(violation) => panic!("{violation}"),
        }
    }

    /// As [`run`](Self::run), for whoever wants to know which invariant was broken.
    ///
    /// # Errors
    ///
    /// The first invariant that was broken. The scenario ended there.
    ///
    /// # Panics
    ///
    /// When the scenario panics, or the system cannot make a runtime.
    #[expect(clippy::expect_used, reason = "a simulation fails as tests do")]
    pub fn attempt<T>(self, scenario: impl AsyncFnOnce(Fleet) -> T) -> Result<T, Violation> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime for the simulation");
        runtime.block_on(async {
            let fleet = Fleet::new(self);
            let mut end = End {
                fleet: fleet.clone(),
                well: false,
            };
            let outcome = tokio::select! {
                biased;
                violation = fleet.oracle().violated() => Err(violation),
                outcome = scenario(fleet.clone()) => Ok(outcome),
            };
            let outcome = match fleet.oracle().violation() {
                Some(violation) => Err(violation),
                None => outcome,
            };
            end.well = outcome.is_ok();
            outcome
        })
    }
}

/// The end of a scenario: nobody works any more, and if it failed, the reader learns how to repeat it.
struct End {
    fleet: Fleet,
    well: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        let fleet = &self.fleet;
        // It may hold the fleet.
        fleet.oracle().listen(None);
        let trace = fleet.trace();
        if !self.well && !trace.is_empty() {
            let (seed, state) = (fleet.shared.seed, fleet.view().describe());
            let trace = trace.join("\n");
            eprintln!("the last events of the simulation with the seed {seed}:\n{trace}\n{state}");
        }
        let members: Vec<_> = fleet
            .lock()
            .members
            .values()
            .map(|member| member.scope.clone())
            .collect();
        members.iter().for_each(TaskScope::kill);
        fleet.shared.services.kill();
    }
}
