//! Decides what follows an error: a broken record is retried slowly, a sink that does not answer quickly. No record is skipped.
//!
//! `cargo run -p kcl-examples --example error_policy`

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kinesis_client::MemoryStream;
use kinesis_client::processor::{LastResort, Policy, Retries};
use kinesis_client::status::HealthIssue;
use kinesis_client::{
    MemoryLeaseStore, ProcessorError, RecordBatch, RecordProcessor, ShardContext, Worker, async_trait,
};

/// Looks at a broken record once a minute, so that a fixed deployment finds it. A sink that does not answer is retried from 20 ms up to 5 s.
fn patient() -> Policy {
    let minute = Duration::from_secs(60);
    Policy::default()
        .poison(Retries::forever().pausing(minute, minute), LastResort::Hold)
        .transient(
            Retries::forever().pausing(Duration::from_millis(20), Duration::from_secs(5)),
            LastResort::Hold,
        )
}

/// Fails until its sink is back.
struct Writer {
    sink_is_up: Arc<AtomicBool>,
}

#[async_trait]
impl RecordProcessor for Writer {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        for record in &batch {
            std::str::from_utf8(record.data()).map_err(|error| ProcessorError::poison(error).at(record))?;
        }
        match self.sink_is_up.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err(ProcessorError::transient("the sink does not answer")),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stream = MemoryStream::builder("truck-positions").shards(1).build();
    stream.put("truck-7", "position")?;
    let sink_is_up = Arc::new(AtomicBool::new(false));
    let sink = Arc::clone(&sink_is_up);
    let worker = Worker::builder("writer")
        .stream(stream)
        .lease_store(MemoryLeaseStore::new())
        .error_policy(patient())
        .processor(move |_: &ShardContext| Writer {
            sink_is_up: Arc::clone(&sink),
        })
        .build()?
        .start();
    let failing = worker
        .wait_for(|status| {
            let mut leases = status.leases.values();
            leases.any(|lease| lease.concern == Some(HealthIssue::Failing))
        })
        .await;
    println!("healthy while the sink is down: {}", failing.is_healthy());
    sink_is_up.store(true, Ordering::SeqCst);
    worker
        .wait_for(|status| status.leases.values().any(|lease| lease.records == 1))
        .await;
    println!("the record was delivered again, and nothing was skipped");
    worker.shutdown();
    worker.join().await?;
    Ok(())
}
