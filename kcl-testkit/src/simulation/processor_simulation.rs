//! A user's own processor through the seeded schedules of fleets.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use kcl_core::dead_letter::{DeadLetter, DeadLetterSink};
use kcl_core::processor::{ErrorPolicy, RecordProcessorFactory};
use kcl_core::settings::Settings;
use kcl_core::types::{Record, ShardId};

use super::given_processor::GivenProcessor;
use super::report::Report;
use super::run::run;
use super::script::Scenario;
use crate::dead_letters::MemoryDeadLetters;
use crate::fleet::{Fleet, Simulation};
use crate::invariant::Tally;

/// The environment variable with the one seed to run.
const SEED: &str = "KCL_SEED";
/// How many of the last events a seed that fails prints: of many seeds, and of the one that was asked for.
const LINES: usize = 60;
const LINES_OF_REPLAY: usize = 2000;

/// Runs your processor in a fleet of workers for each of these seeds, in virtual time, and returns what happened.
///
/// Workers are killed, frozen, drained and started again; shards are split and merged; the lease store and the stream fail and lose
/// answers: a function of the seed. After every step the [invariants](crate::invariant) are checked, and at the end every record must be
/// finished. [`ProcessorSimulation`] has the records, the policy and a check of your own.
///
/// ```
/// use async_trait::async_trait;
/// use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
///
/// struct Parser;
///
/// #[async_trait]
/// impl RecordProcessor for Parser {
///     async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
///         for record in &batch {
///             std::str::from_utf8(record.data())?.parse::<u64>()?;
///         }
///         Ok(())
///     }
/// }
///
/// let report = kcl_testkit::simulate(|_: &ShardContext| Parser, 0..3);
/// assert!(report.faults > 0 && report.put > 0);
/// ```
///
/// # Panics
///
/// When a seed fails. The message has the command that runs it again: `KCL_SEED=42 cargo test the_test`. With that variable set only this
/// seed is run. The last events of the fleet are printed before.
pub fn simulate(processor: impl RecordProcessorFactory, seeds: impl IntoIterator<Item = u64>) -> Report {
    ProcessorSimulation::of(processor).run(seeds)
}

/// A processor that is run through the schedules of [`simulate`], with everything that may be said about it.
///
/// ```
/// use std::collections::BTreeSet;
/// use std::sync::{Arc, Mutex};
///
/// use async_trait::async_trait;
/// use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
/// use kcl_testkit::ProcessorSimulation;
///
/// type Table = Arc<Mutex<BTreeSet<String>>>;
///
/// struct Writer(Table);
///
/// #[async_trait]
/// impl RecordProcessor for Writer {
///     async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
///         for record in &batch {
///             let row = String::from_utf8(record.data().to_vec())?;
///             self.0.lock().unwrap().insert(row);
///         }
///         Ok(())
///     }
/// }
///
/// let table = Table::default();
/// let written = Arc::clone(&table);
/// ProcessorSimulation::of(move |_: &ShardContext| Writer(Arc::clone(&table)))
///     .records(|number| (format!("truck-{}", number % 20), format!("position {number}")))
///     .check(move |end| {
///         // The next seed begins with an empty table.
///         let rows = std::mem::take(&mut *written.lock().unwrap());
///         assert_eq!(rows.len(), end.records.len());
///     })
///     .run(0..3);
/// ```
#[derive(Clone)]
#[must_use]
pub struct ProcessorSimulation {
    given: GivenProcessor,
    settings: Option<Settings>,
    sink: Option<Arc<dyn DeadLetterSink>>,
    records: Option<Records>,
    check: Option<Check>,
}

type Records = Arc<dyn Fn(u64) -> (String, Bytes) + Send + Sync>;
type Check = Arc<dyn Fn(&SimulationEnd) + Send + Sync>;

/// The state of a simulated application at the end of a seed: every record is finished.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SimulationEnd {
    /// The seed.
    pub seed: u64,
    /// Every record that was put, with the shard that it went to.
    pub records: Vec<(ShardId, Record)>,
    /// The dead letters in the order in which the sink stored them. One may be there more than once.
    pub dead_letters: Vec<DeadLetter>,
    /// The counts of the oracle.
    pub tally: Tally,
}

impl ProcessorSimulation {
    /// The processors of this factory: a closure from a [`ShardContext`](kcl_core::processor::ShardContext) to a processor is one.
    ///
    /// It makes the processors of all workers and all seeds. State that they share is yours: a process that is killed does not lose it.
    pub fn of(processor: impl RecordProcessorFactory) -> Self {
        Self {
            given: GivenProcessor {
                factory: Arc::new(processor),
                policy: None,
            },
            settings: None,
            sink: None,
            records: None,
            check: None,
        }
    }

    /// The error policy of the workers. Default: the worker's.
    pub fn error_policy(mut self, policy: impl ErrorPolicy) -> Self {
        self.given.policy = Some(Arc::new(policy));
        self
    }

    /// The dead-letter sink of the workers; it fails now and then. Default: one in memory.
    pub fn dead_letters(mut self, sink: impl DeadLetterSink) -> Self {
        self.sink = Some(Arc::new(sink));
        self
    }

    /// The settings of the workers. Default: others for each seed, with automatic checkpoints.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = Some(settings);
        self
    }

    /// The partition key and the payload of the record with each number, from 1 on. Default: a hundred keys, and the number as text.
    pub fn records<K, D>(mut self, make: impl Fn(u64) -> (K, D) + Send + Sync + 'static) -> Self
    where
        K: Into<String>,
        D: Into<Bytes>,
    {
        self.records = Some(Arc::new(move |number| {
            let (key, data) = make(number);
            (key.into(), data.into())
        }));
        self
    }

    /// A check of your own at the end of each seed; it panics when something is wrong. State that processors share should be taken away here,
    /// since the next seed begins with it.
    pub fn check(mut self, check: impl Fn(&SimulationEnd) + Send + Sync + 'static) -> Self {
        self.check = Some(Arc::new(check));
        self
    }

    /// Runs these seeds one after the other on the calling thread, or only the one that the environment variable `KCL_SEED` names. Returns
    /// what happened.
    ///
    /// # Panics
    ///
    /// As [`simulate`].
    pub fn run(self, seeds: impl IntoIterator<Item = u64>) -> Report {
        let mut report = Report::none();
        match seed_to_replay() {
            Some(seed) => report.add(self.run_seed(seed, LINES_OF_REPLAY)),
            None => seeds
                .into_iter()
                .for_each(|seed| report.add(self.run_seed(seed, LINES))),
        }
        report
    }

    #[expect(clippy::panic, reason = "a simulation fails as tests do")]
    fn run_seed(&self, seed: u64, lines: usize) -> Report {
        let scenario = Scenario::for_processor(seed, self.settings.as_ref());
        let mut simulation = Simulation::new(seed).trace_lines(lines);
        if let Some(sink) = &self.sink {
            simulation = simulation.dead_letters(MemoryDeadLetters::in_front_of(Arc::clone(sink)));
        }
        if let Some(records) = self.records.clone() {
            simulation = simulation.records(move |number| records(number));
        }
        let ended = |fleet: &Fleet| {
            if let Some(check) = &self.check {
                check(&SimulationEnd {
                    seed,
                    records: fleet.stream().put_log(),
                    dead_letters: fleet.dead_letters().letters(),
                    tally: fleet.view().tally(),
                });
            }
        };
        match run(&scenario, simulation, Some(&self.given), ended) {
            Ok(report) => report,
            Err(failed) => panic!("seed {seed}: {}\nreplay it: {}", failed.message, replay(seed)),
        }
    }
}

impl fmt::Debug for ProcessorSimulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessorSimulation")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

#[expect(clippy::panic, reason = "a simulation fails as tests do")]
fn seed_to_replay() -> Option<u64> {
    let text = std::env::var(SEED).ok()?;
    match text.parse() {
        Ok(seed) => Some(seed),
        Err(error) => panic!("{SEED} is the number of a seed, and not {text:?}: {error}"),
    }
}

/// The command that runs the seed again. The thread of a test has the name of the test.
fn replay(seed: u64) -> String {
    let thread = std::thread::current();
    match thread.name().filter(|name| *name != "main") {
        Some(test) => format!("{SEED}={seed} cargo test {test}"),
        None => format!("{SEED}={seed} cargo test"),
    }
}
