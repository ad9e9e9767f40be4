//! Collects records across batches, writes them out together, and checkpoints only then.
//!
//! `cargo run -p kcl-examples --example manual_checkpoints`

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kinesis_client::MemoryStream;
use kinesis_client::settings::{CheckpointMode, Settings};
use kinesis_client::types::Record;
use kinesis_client::{
    MemoryLeaseStore, ProcessorError, RecordBatch, RecordProcessor, ShardContext, Worker, async_trait,
};

/// How many records are written together.
const FULL: usize = 100;

/// The sizes of the writes, in order.
type Archive = Arc<Mutex<Vec<usize>>>;

struct Collector {
    archive: Archive,
    collected: Vec<Record>,
    /// The batch that brought the last of them: checkpoints are made through a batch.
    last: Option<RecordBatch>,
}

impl Collector {
    /// Stands for one write to a store.
    fn write(&mut self) {
        let mut archive = self.archive.lock().unwrap_or_else(PoisonError::into_inner);
        archive.push(self.collected.len());
        self.collected.clear();
    }

    async fn flush(&mut self) -> Result<(), ProcessorError> {
        let Some(batch) = self.last.take() else {
            return Ok(());
        };
        self.write();
        batch.checkpoint().await?;
        Ok(())
    }
}

#[async_trait]
impl RecordProcessor for Collector {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        // Detached, because a record shares the memory of the answer that it came in.
        self.collected.extend(batch.iter().map(Record::detached));
        self.last = Some(batch);
        if self.collected.len() >= FULL {
            self.flush().await?;
        }
        Ok(())
    }

    /// Called while no records come, so that the last ones do not wait for others.
    async fn tick(&mut self, _: &ShardContext) -> Result<(), ProcessorError> {
        self.flush().await
    }

    async fn shutdown_requested(&mut self, _: &ShardContext) -> Result<(), ProcessorError> {
        self.flush().await
    }

    async fn shard_ended(&mut self, _: &ShardContext) -> Result<(), ProcessorError> {
        self.flush().await
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stream = MemoryStream::builder("truck-positions").shards(1).build();
    for number in 0..250 {
        stream.put("truck-7", format!("position {number}"))?;
    }
    let archive = Archive::default();
    let written = Arc::clone(&archive);
    let mut settings = Settings::default();
    settings.checkpoints.mode = CheckpointMode::Manual;
    settings.processing.tick_interval = Duration::from_millis(200);
    let worker = Worker::builder("collector")
        .stream(stream)
        .lease_store(MemoryLeaseStore::new())
        .settings(settings)
        .processor(move |_: &ShardContext| Collector {
            archive: Arc::clone(&written),
            collected: Vec::new(),
            last: None,
        })
        .build()?
        .start();
    worker
        .wait_for(|status| {
            let mut leases = status.leases.values();
            leases.any(|lease| lease.records == 250 && lease.unfinished == 0)
        })
        .await;
    worker.shutdown();
    let report = worker.join().await?;
    println!(
        "writes: {:?}",
        archive.lock().unwrap_or_else(PoisonError::into_inner)
    );
    println!("clean: {}", report.is_clean());
    Ok(())
}
