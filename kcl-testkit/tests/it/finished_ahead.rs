//! Records that a former owner finished ahead of its checkpoint are not delivered again, and all others are.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::lease_store::{Expect, FinishedAhead, Lease, LeaseChange, LeaseStore as _};
use kcl_core::processor::{
    Concurrency, ProcessorError, RecordBatch, RecordHandler, RecordHandlers, RecordProcessor,
    RecordProcessorFactory, ShardContext, StartFrom,
};
use kcl_core::settings::{CheckpointMode, Settings};
use kcl_core::types::{Incarnation, Position, Record, RecordPosition};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};

use crate::workers;

/// The reaction to the first batch of all. Every later one is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    Note,
    Panic,
    /// It fails, and so does every one after it.
    FailAlways,
}

#[derive(Clone)]
struct Notes {
    starts: StartFrom,
    first: First,
    calls: Arc<AtomicU32>,
    seen: Arc<Mutex<Vec<u64>>>,
}

#[async_trait]
impl RecordProcessor for Notes {
    async fn initialize(&mut self, _: &ShardContext) -> Result<StartFrom, ProcessorError> {
        Ok(self.starts.clone())
    }

    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        let is_first = self.calls.fetch_add(1, Ordering::Relaxed) == 0;
        assert!(!is_first || self.first != First::Panic, "a bug of the user's");
        if self.first == First::FailAlways {
            return Err(ProcessorError::transient("the sink is down"));
        }
        let number = |data: &[u8]| String::from_utf8_lossy(data).parse::<u64>().unwrap();
        self.seen
            .lock()
            .unwrap()
            .extend(batch.iter().map(|record| number(record.data())));
        Ok(())
    }
}

/// Notes what it is called for. The record 3 is called for without end.
struct NotesCalls(Arc<Mutex<Vec<u64>>>);

impl RecordHandler for NotesCalls {
    async fn handle(&self, record: &Record, _: &ShardContext) -> Result<(), ProcessorError> {
        let number = std::str::from_utf8(record.data())?.parse()?;
        self.0.lock().unwrap().push(number);
        match number {
            3 => std::future::pending().await,
            _ => Ok(()),
        }
    }
}

/// A shard with the records 0 to 9, and its row.
struct World {
    clock: TokioClock,
    stream: MemoryStream,
    leases: MemoryLeaseStore,
    positions: Vec<RecordPosition>,
    row: Lease,
}

impl World {
    fn new() -> Self {
        let clock = TokioClock::new();
        let stream = MemoryStream::builder("trucks")
            .shards(1)
            .clock(Arc::new(clock))
            .build();
        for number in 0..10_u64 {
            stream.put("truck", number.to_string()).unwrap();
        }
        let log = stream.put_log().into_iter();
        let positions = log.map(|(_, record)| record.position().clone()).collect();
        let shard = stream.shards_snapshot().remove(0).shard.id;
        Self {
            clock,
            stream,
            leases: MemoryLeaseStore::new(),
            positions,
            row: Lease::unowned(shard, Position::TrimHorizon),
        }
    }

    /// These records behind the base are finished.
    fn ahead(&self, base: &Position, finished: &[usize]) -> Option<FinishedAhead> {
        let records = self.positions.iter().enumerate();
        let delivered = records.map(|(number, position)| (position, finished.contains(&number)));
        FinishedAhead::of(base, true, delivered)
    }

    /// Runs a worker for a minute on the row as it is described. Returns what its processors saw, and the row while it still runs.
    async fn run(&self, notes: Notes, settings: Settings) -> (Vec<u64>, Lease) {
        let seen = Arc::clone(&notes.seen);
        let row = self
            .run_with(move |_: &ShardContext| notes.clone(), settings)
            .await;
        let seen = seen.lock().unwrap().clone();
        (seen, row)
    }

    async fn run_with(&self, code: impl RecordProcessorFactory, settings: Settings) -> Lease {
        let create = LeaseChange::Create(Box::new(self.row.clone()));
        let incarnation = Incarnation::from_random_bytes([1; 16]);
        self.leases
            .change(&self.row.key, &Expect::Absent, &create, incarnation)
            .await
            .unwrap();
        let worker = workers::builder("ahead")
            .worker_id("a")
            .stream(self.stream.clone())
            .lease_store(self.leases.clone())
            .settings(settings)
            .processor(code)
            .clock(Arc::new(self.clock))
            .build()
            .unwrap()
            .start();
        self.clock.sleep(Duration::from_secs(60)).await;
        let row = self.stored().await;
        worker.shutdown();
        worker.join().await.unwrap();
        row
    }

    async fn stored(&self) -> Lease {
        self.leases.read(&self.row.key).await.unwrap().unwrap()
    }
}

fn notes(first: First, starts: StartFrom) -> Notes {
    Notes {
        starts,
        first,
        calls: Arc::default(),
        seen: Arc::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn records_finished_ahead_are_not_delivered_again() {
    for (first, batch) in [
        (First::Note, 10_000),
        (First::Note, 2),
        (First::Panic, 10_000),
        (First::Panic, 3),
    ] {
        let mut world = World::new();
        world.row.finished_ahead = world.ahead(&Position::TrimHorizon, &[2, 4, 5]);
        let mut settings = Settings::default();
        settings.reading.max_batch_records = batch;
        let (seen, row) = world.run(notes(first, StartFrom::Checkpoint), settings).await;
        assert_eq!(seen, [0, 1, 3, 6, 7, 8, 9], "{first:?} with {batch}");
        assert_eq!(row.checkpoint, Position::Record(world.positions[9].clone()));
        assert_eq!(row.finished_ahead, None);
    }
}

#[tokio::test(start_paused = true)]
async fn void_attribute_leaves_no_record_out() {
    let mut world = World::new();
    world.row.checkpoint = Position::Record(world.positions[0].clone());
    world.row.finished_ahead = world.ahead(&Position::TrimHorizon, &[2, 4, 5]);
    let notes = notes(First::Note, StartFrom::Checkpoint);
    let (seen, _) = world.run(notes, Settings::default()).await;
    assert_eq!(seen, (1..10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn void_attribute_is_removed_by_renewal() {
    let mut world = World::new();
    world.row.checkpoint = Position::Record(world.positions[0].clone());
    world.row.finished_ahead = world.ahead(&Position::TrimHorizon, &[2, 4, 5]);
    let notes = notes(First::FailAlways, StartFrom::Checkpoint);
    let (_, row) = world.run(notes, Settings::default()).await;
    assert_eq!(row.finished_ahead, None);
    assert_eq!(row.checkpoint, world.row.checkpoint);
}

#[tokio::test(start_paused = true)]
async fn processor_with_own_start_gets_every_record() {
    let mut world = World::new();
    world.row.finished_ahead = world.ahead(&Position::TrimHorizon, &[2, 4, 5]);
    let notes = notes(First::Note, StartFrom::After(world.positions[0].clone()));
    let (seen, _) = world.run(notes, Settings::default()).await;
    assert_eq!(seen, (1..10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn owner_that_has_not_read_on_keeps_attribute() {
    for batch in [2, 10_000] {
        let mut world = World::new();
        let found = world.ahead(&Position::TrimHorizon, &[2, 4, 5]);
        world.row.finished_ahead = found.clone();
        let mut settings = Settings::default();
        settings.reading.max_batch_records = batch;
        let notes = notes(First::FailAlways, StartFrom::Checkpoint);
        let (_, row) = world.run(notes, settings).await;
        assert!(row.counter > 5, "it was renewed");
        assert_eq!(row.finished_ahead, found, "with {batch}");
        let row = world.stored().await;
        assert_eq!((row.owner, row.finished_ahead), (None, found), "given up");
    }
}

/// Without automatic checkpoints the records that the row called finished are not in the way of the first checkpoint.
#[tokio::test(start_paused = true)]
async fn manual_checkpoint_passes_records_left_out() {
    let mut world = World::new();
    world.row.finished_ahead = world.ahead(&Position::TrimHorizon, &[0, 1, 3]);
    let mut settings = Settings::default();
    settings.checkpoints.mode = CheckpointMode::Manual;
    let (seen, row) = world
        .run(notes(First::Note, StartFrom::Checkpoint), settings)
        .await;
    assert_eq!(seen, [2, 4, 5, 6, 7, 8, 9]);
    assert_eq!(row.checkpoint, Position::Record(world.positions[1].clone()));
}

/// The first owner leaves the records 2, 4 and 5 out, and stores what it has finished around the one that hangs.
#[tokio::test(start_paused = true)]
async fn handler_is_called_for_unfinished_records_only() {
    let mut world = World::new();
    world.row.finished_ahead = world.ahead(&Position::TrimHorizon, &[2, 4, 5]);
    let mut settings = Settings::default();
    settings.reading.max_batch_records = 4;
    let seen = Arc::<Mutex<Vec<u64>>>::default();
    let notes = Arc::clone(&seen);
    let handlers = RecordHandlers::new(Concurrency::Unordered(4), move |_: &ShardContext| {
        NotesCalls(Arc::clone(&notes))
    });
    let row = world.run_with(handlers, settings).await;
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 3, 6, 7, 8, 9]);
    let base = Position::Record(world.positions[2].clone());
    assert_eq!(row.checkpoint, base);
    assert_eq!(row.finished_ahead, world.ahead(&base, &[4, 5, 6, 7, 8, 9]));
}
