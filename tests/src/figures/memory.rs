//! The same fleet in one process, on a stream and leases in memory.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::Worker;
use kcl_core::clock::{Clock, ClockExt, TokioClock};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use tokio::sync::mpsc;

const SHARDS: u32 = 4;
const WORKERS: usize = 3;
const RECORDS: usize = 100;

/// Reports when a record arrives, as long as a receiver listens.
struct Reporter(mpsc::Sender<()>);

#[async_trait]
impl RecordProcessor for Reporter {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        // Full means that an earlier record was reported and not looked at yet: the first is enough.
        let _ = self.0.try_send(());
        Ok(())
    }
}

/// Three workers started together, the table absent, records waiting: from the start to anybody's first record, in seconds.
pub async fn cold_starts(rounds: usize) -> Vec<f64> {
    let mut took = Vec::new();
    for _ in 0..rounds {
        took.push(cold_start().await.as_secs_f64());
    }
    took
}

async fn cold_start() -> Duration {
    let clock = Arc::new(TokioClock::new());
    let stream = MemoryStream::builder("trucks")
        .shards(SHARDS)
        .clock(clock.clone())
        .build();
    for number in 0..RECORDS {
        stream
            .put(format!("truck-{number}"), "somewhere")
            .expect("the stream takes records");
    }
    let leases = MemoryLeaseStore::new();
    let (report, mut reports) = mpsc::channel(1);
    let started = clock.now();
    let workers: Vec<_> = (1..=WORKERS)
        .map(|number| {
            let report = report.clone();
            let worker = Worker::builder("figures")
                .stream(stream.clone())
                .lease_store(leases.clone())
                .worker_id(format!("worker-{number}"))
                .processor(move |_: &ShardContext| Reporter(report.clone()))
                .build();
            worker.expect("the worker is complete").start()
        })
        .collect();
    let first = clock.timeout(Duration::from_secs(60), reports.recv()).await;
    first
        .expect("a record within a minute")
        .expect("the workers live");
    let took = clock.now().saturating_since(started);
    for worker in workers {
        worker.shutdown();
        worker.join().await.expect("the worker drains");
    }
    took
}
