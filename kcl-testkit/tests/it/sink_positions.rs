//! Sinks that keep their own positions, with whole workers: the lease and the sink may disagree, and each record is in the sink once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_aggregation::Aggregator;
use kcl_core::WorkerHandle;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::lease_store::LeaseStore as _;
use kcl_core::processor::{
    Decision, ErrorPolicy, Failure, Policy, ProcessorError, RecordBatch, RecordProcessor, ShardContext,
    SinkPosition, SinkPositionError, StartFrom, StoredPosition,
};
use kcl_core::settings::Settings;
use kcl_core::types::{Position, RecordPosition, ShardId};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};

use crate::workers;

const SECOND: Duration = Duration::from_secs(1);

/// Rows and positions, as a database has them. A clone is a backup.
#[derive(Debug, Clone, Default)]
struct Database {
    positions: BTreeMap<String, StoredPosition>,
    rows: Vec<(String, RecordPosition)>,
}

type Sink = Arc<Mutex<Database>>;

impl Database {
    fn claim(&mut self, position: &SinkPosition) -> Option<StoredPosition> {
        let (_, _, shard, token) = position.claim_values();
        let row = self.positions.entry(shard.to_owned()).or_insert((token, None, 0));
        if row.0 > token {
            return None;
        }
        row.0 = token;
        Some(row.clone())
    }

    fn write(&mut self, position: &mut SinkPosition, batch: &RecordBatch) -> Result<(), ProcessorError> {
        let new = position.unwritten(batch);
        let Some(last) = new.last() else { return Ok(()) };
        let (_, _, shard, token, sequence, sub, before, before_sub) = position.advance_values(last);
        let row = self.positions.get_mut(shard);
        match row {
            Some(row) if (row.0, row.1.as_deref(), row.2) == (token, before, before_sub) => {
                *row = (token, Some(sequence.to_owned()), sub);
                let written = new
                    .iter()
                    .map(|record| (shard.to_owned(), record.position().clone()));
                self.rows.extend(written);
            }
            row => {
                let row = row.cloned();
                return Err(position.refused(row));
            }
        }
        position.advanced(last);
        Ok(())
    }
}

/// Writes records into the sink. One that panics does so once, after the transaction with the third record of a shard and before its reply.
struct Orders {
    sink: Sink,
    position: SinkPosition,
    panics: Arc<Mutex<bool>>,
}

#[async_trait]
impl RecordProcessor for Orders {
    async fn initialize(&mut self, _: &ShardContext) -> Result<StartFrom, ProcessorError> {
        let row = self.sink.lock().unwrap().claim(&self.position);
        self.position.claimed(row)
    }

    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        let rows = {
            let mut sink = self.sink.lock().unwrap();
            sink.write(&mut self.position, &batch)?;
            sink.rows.len()
        };
        let panics = rows >= 3 && std::mem::take(&mut *self.panics.lock().unwrap());
        assert!(!panics, "a bug after the commit");
        Ok(())
    }
}

/// Lets another ownership fill what the sink has lost.
#[derive(Debug, Default)]
struct ReleaseAtHoles(Policy);

impl ErrorPolicy for ReleaseAtHoles {
    fn decide(&self, failure: &Failure<'_>) -> Decision {
        match failure.error.downcast_ref() {
            Some(SinkPositionError::WentBack { .. } | SinkPositionError::Unclaimed { .. }) => {
                Decision::Release
            }
            _ => self.0.decide(failure),
        }
    }
}

struct Bed {
    stream: MemoryStream,
    leases: MemoryLeaseStore,
    sink: Sink,
    runs: u32,
}

impl Bed {
    fn new() -> Self {
        let clock = Arc::new(TokioClock::new());
        Self {
            stream: MemoryStream::builder("orders").shards(1).clock(clock).build(),
            leases: MemoryLeaseStore::new(),
            sink: Sink::default(),
            runs: 0,
        }
    }

    /// Puts plain records, and one aggregated record with three in it.
    fn put(&self) {
        let mut aggregator = Aggregator::new();
        for n in 0..3 {
            aggregator.add("order", None, &[n]).unwrap();
        }
        let packed = aggregator.finish().unwrap();
        self.stream.put("order", "first").unwrap();
        self.stream.put(packed.partition_key, packed.data).unwrap();
        self.stream.put("order", "last").unwrap();
    }

    /// Lets a worker live for a while, with or without a panic.
    async fn run(&mut self, panics: bool) {
        let worker = self.start(panics);
        TokioClock::new().sleep(30 * SECOND).await;
        worker.shutdown();
        assert!(worker.join().await.unwrap().is_clean());
    }

    fn start(&mut self, panics: bool) -> WorkerHandle {
        self.runs += 1;
        let (sink, panics) = (Arc::clone(&self.sink), Arc::new(Mutex::new(panics)));
        let mut settings = Settings::default();
        settings.leases.failover_time = SECOND;
        settings.reading.max_batch_records = 2;
        workers::builder("sink")
            .worker_id(format!("worker-{}", self.runs))
            .stream(self.stream.clone())
            .lease_store(self.leases.clone())
            .processor(move |shard: &ShardContext| Orders {
                sink: Arc::clone(&sink),
                position: SinkPosition::new(shard),
                panics: Arc::clone(&panics),
            })
            .settings(settings)
            .error_policy(ReleaseAtHoles::default())
            .clock(Arc::new(TokioClock::new()))
            .build()
            .unwrap()
            .start()
    }

    async fn checkpoints(&self) -> Vec<Position> {
        let leases = self.leases.scan().await.unwrap().leases;
        leases.into_iter().map(|lease| lease.checkpoint).collect()
    }

    /// Each record that was put, in order: those of a shard in theirs, aggregated ones with their sub-sequence numbers.
    fn expected(&self) -> Vec<(String, RecordPosition)> {
        let mut expected = Vec::new();
        let shards = self.stream.shards_snapshot();
        let ids: Vec<ShardId> = shards.iter().map(|shard| shard.shard.id.clone()).collect();
        for shard in ids {
            for record in self.stream.records(&shard) {
                let unpacked = kcl_aggregation::unpack(record.data()).unwrap();
                let records = unpacked.map_or(1, |aggregate| aggregate.len() as u64);
                for sub_sequence in 0..records {
                    let sequence = record.sequence_number().clone();
                    let position = RecordPosition {
                        sequence,
                        sub_sequence,
                    };
                    expected.push((shard.to_string(), position));
                }
            }
        }
        expected
    }

    fn rows(&self) -> Vec<(String, RecordPosition)> {
        self.sink.lock().unwrap().rows.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn sink_ahead_of_checkpoint_gets_nothing_twice() {
    let mut bed = Bed::new();
    bed.put();
    bed.run(false).await;
    assert_eq!(bed.rows(), bed.expected());
    // The leases are lost and made again; the sink knows better. Its tokens are the former table's.
    bed.leases = MemoryLeaseStore::new();
    for row in bed.sink.lock().unwrap().positions.values_mut() {
        row.0 = 0;
    }
    bed.put();
    bed.run(false).await;
    assert_eq!(bed.rows(), bed.expected());
}

#[tokio::test(start_paused = true)]
async fn sink_behind_checkpoint_is_read_again() {
    for kept in 1..5 {
        let mut bed = Bed::new();
        bed.put();
        bed.run(false).await;
        let checkpoints = bed.checkpoints().await;
        assert!(
            matches!(checkpoints[..], [Position::Record(_)]),
            "{checkpoints:?}"
        );
        // A backup with the first rows is restored: up to the first record, inside the aggregated one, up to its end.
        {
            let mut sink = bed.sink.lock().unwrap();
            sink.rows.truncate(kept);
            let (shard, last) = sink.rows.last().unwrap().clone();
            let sub = i64::try_from(last.sub_sequence).unwrap();
            let row = (1, Some(last.sequence.to_string()), sub);
            sink.positions.insert(shard, row);
        }
        bed.run(false).await;
        assert_eq!(bed.rows(), bed.expected(), "{kept} rows were kept");
        assert_eq!(bed.checkpoints().await, checkpoints, "it does not go back");
    }
}

#[tokio::test(start_paused = true)]
async fn empty_sink_of_checkpointed_shard_holds_it() {
    let mut bed = Bed::new();
    bed.put();
    bed.run(false).await;
    *bed.sink.lock().unwrap() = Database::default();
    bed.put();
    bed.run(false).await;
    assert_eq!(
        bed.rows(),
        [],
        "nothing is written until your code says where to begin"
    );
}

#[tokio::test(start_paused = true)]
async fn processor_that_panics_after_commit_repeats_nothing() {
    let mut bed = Bed::new();
    bed.put();
    bed.run(true).await;
    assert_eq!(bed.rows(), bed.expected());
}

#[tokio::test(start_paused = true)]
async fn sink_that_loses_rows_is_filled_again() {
    // With a claim that it had before, and with none.
    for keeps_claim in [true, false] {
        let mut bed = Bed::new();
        let worker = bed.start(false);
        let clock = TokioClock::new();
        bed.put();
        clock.sleep(10 * SECOND).await;
        let mut backup = bed.sink.lock().unwrap().clone();
        bed.put();
        clock.sleep(10 * SECOND).await;
        assert_eq!(bed.rows(), bed.expected());
        if !keeps_claim {
            backup.positions.values_mut().for_each(|row| row.0 = 0);
        }
        *bed.sink.lock().unwrap() = backup;
        bed.put();
        clock.sleep(60 * SECOND).await;
        assert_eq!(bed.rows(), bed.expected(), "with its claim: {keeps_claim}");
        worker.shutdown();
        assert!(worker.join().await.unwrap().is_clean());
    }
}

#[tokio::test(start_paused = true)]
async fn children_begin_with_rows_of_their_own() {
    let mut bed = Bed::new();
    bed.put();
    let parent = bed.expected()[0].0.clone();
    bed.stream.split(&ShardId::new(&parent).unwrap()).unwrap();
    bed.put();
    bed.put();
    bed.run(false).await;
    bed.run(false).await;
    let (mut rows, mut expected) = (bed.rows(), bed.expected());
    let of_parent = rows.iter().take_while(|(shard, _)| *shard == parent).count();
    assert_eq!(
        of_parent, 5,
        "all of the parent come before those of its children"
    );
    rows.sort();
    expected.sort();
    assert_eq!(rows, expected);
}
