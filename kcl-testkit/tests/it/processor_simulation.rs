//! Processors of users in seeded fleets: those with a bug fail, and say how to see it again.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::processor::{LastResort, Policy, ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::{CheckpointMode, Settings};
use kcl_core::types::{Record, RecordPosition};
use kcl_testkit::{MemoryDeadLetters, ProcessorSimulation, simulate};

type Written = Arc<Mutex<BTreeSet<RecordPosition>>>;

/// When a processor says that its records are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// After it has written them.
    Sound,
    /// It checkpoints them, and then writes them.
    CheckpointsEarly,
    /// It returns, and writes them with the next call.
    ReturnsEarly,
}

struct Writer {
    habit: Habit,
    written: Written,
    left: Vec<RecordPosition>,
}

impl Writer {
    async fn write(&mut self, positions: Vec<RecordPosition>) {
        for position in positions {
            // A sink takes its time, and a process may end meanwhile.
            TokioClock::new().sleep(Duration::from_millis(20)).await;
            self.written.lock().unwrap().insert(position);
        }
    }
}

#[async_trait]
impl RecordProcessor for Writer {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        let positions: Vec<_> = batch.iter().map(|record| record.position().clone()).collect();
        match self.habit {
            Habit::Sound => self.write(positions).await,
            Habit::CheckpointsEarly => {
                drop(batch.checkpoint().await);
                self.write(positions).await;
            }
            Habit::ReturnsEarly => {
                let left = std::mem::replace(&mut self.left, positions);
                self.write(left).await;
            }
        }
        if self.habit != Habit::CheckpointsEarly {
            drop(batch.checkpoint().await);
        }
        Ok(())
    }
}

/// Asks at the end of each seed that everything was written.
fn simulation(habit: Habit, mode: CheckpointMode) -> ProcessorSimulation {
    let written = Written::default();
    let seen = Arc::clone(&written);
    let mut settings = Settings::default();
    settings.leases.failover_time = Duration::from_secs(4);
    settings.checkpoints.mode = mode;
    let writer = move |_: &ShardContext| Writer {
        habit,
        written: Arc::clone(&written),
        left: Vec::new(),
    };
    ProcessorSimulation::of(writer)
        .settings(settings)
        .check(move |end| {
            let written = std::mem::take(&mut *seen.lock().unwrap());
            let lost = end.records.iter().map(|(_, record)| record.position());
            let lost = lost.filter(|position| !written.contains(position)).count();
            assert_eq!(lost, 0, "records were never written");
        })
}

/// The message with which the seeds fail.
fn failure(simulation: ProcessorSimulation) -> String {
    let run = || simulation.run(0..20);
    let payload = catch_unwind(AssertUnwindSafe(run)).expect_err("a bug that is found");
    payload.downcast_ref::<String>().expect("a message").clone()
}

#[test]
fn sound_processor_survives_its_fleets() {
    for mode in [CheckpointMode::Automatic, CheckpointMode::Manual] {
        let report = simulation(Habit::Sound, mode).run(0..5);
        assert_eq!(report.seeds, 5);
        assert!(report.violent >= 5 && report.reshards >= 5, "{report}");
    }
}

#[test]
fn early_checkpoint_is_found_with_its_command() {
    let message = failure(simulation(Habit::CheckpointsEarly, CheckpointMode::Manual));
    assert!(message.contains("records were never written"), "{message}");
    let seed = message
        .strip_prefix("seed ")
        .and_then(|rest| rest.split(':').next());
    // With one thread for all tests it is the one of the program.
    let name = match std::thread::current().name() {
        Some("main") | None => String::new(),
        Some(name) => format!(" {name}"),
    };
    let command = format!("replay it: KCL_SEED={} cargo test{name}", seed.unwrap());
    assert!(message.ends_with(&command), "{message}");
}

#[test]
fn return_before_work_is_done_is_found() {
    let message = failure(simulation(Habit::ReturnsEarly, CheckpointMode::Automatic));
    assert!(message.contains("records were never written"), "{message}");
    assert!(message.contains("replay it: KCL_SEED="), "{message}");
}

/// Fails on one order in forty.
struct Picky;

#[async_trait]
impl RecordProcessor for Picky {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        match batch.iter().find(|record| is_bad(record)) {
            Some(bad) => Err(ProcessorError::poison("no amount").at(bad)),
            None => Ok(()),
        }
    }
}

fn is_bad(record: &Record) -> bool {
    record.data().ends_with(b"bad")
}

fn order(number: u64) -> (String, String) {
    let kind = if number.is_multiple_of(40) { "bad" } else { "good" };
    (format!("customer-{}", number % 9), format!("{number} {kind}"))
}

#[test]
fn sink_of_a_user_has_every_bad_record() {
    let sink = MemoryDeadLetters::default();
    let letters = sink.clone();
    let report = ProcessorSimulation::of(|_: &ShardContext| Picky)
        .error_policy(Policy::new(LastResort::DeadLetter))
        .dead_letters(sink)
        .records(order)
        .check(move |end| {
            let bad = end.records.iter().filter(|(_, record)| is_bad(record));
            let bad: BTreeSet<_> = bad.map(|(_, record)| record.position().clone()).collect();
            let seen = end
                .dead_letters
                .iter()
                .map(|letter| letter.record.position().clone());
            assert_eq!(seen.collect::<BTreeSet<_>>(), bad);
            let stored: BTreeSet<_> = letters
                .letters()
                .iter()
                .map(|letter| letter.record.position().clone())
                .collect();
            assert!(bad.is_subset(&stored));
        })
        .run(0..10);
    assert!(report.sink_failures > 0 && report.set_aside > 0, "{report}");
}

#[test]
fn shard_that_is_held_for_ever_is_found() {
    // Without a policy that sets it aside, a bad record holds its shard.
    let message = failure(ProcessorSimulation::of(|_: &ShardContext| Picky).records(order));
    assert!(message.contains("was never processed"), "{message}");
}

#[test]
fn same_seed_gives_same_fleet() {
    let run = |seed| simulate(|_: &ShardContext| Idle, [seed]).trace_hash;
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

struct Idle;

#[async_trait]
impl RecordProcessor for Idle {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }
}
