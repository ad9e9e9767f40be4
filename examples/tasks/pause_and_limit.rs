//! Stops reading while a database is down, and goes on slowly. The worker keeps its leases meanwhile.
//!
//! `cargo run -p kcl-examples --example pause_and_limit`

use std::num::NonZeroU32;
use std::time::Duration;

use kinesis_client::MemoryStream;
use kinesis_client::clock::{Clock, TokioClock};
use kinesis_client::{
    FlowScope, MemoryLeaseStore, ProcessorError, Rate, RecordBatch, RecordProcessor, ShardContext, Worker,
    async_trait,
};

struct Writer;

#[async_trait]
impl RecordProcessor for Writer {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stream = MemoryStream::builder("truck-positions").shards(1).build();
    let worker = Worker::builder("writer")
        .stream(stream.clone())
        .lease_store(MemoryLeaseStore::new())
        .processor(|_: &ShardContext| Writer)
        .build()?
        .start();
    let flow = worker.flow();

    flow.pause(FlowScope::Worker);
    for number in 0..100 {
        stream.put("truck-7", format!("position {number}"))?;
    }
    let paused = worker.wait_for(|status| !status.leases.is_empty()).await;
    println!("leases held during the pause: {}", paused.leases.len());

    let gentle = Rate {
        records: NonZeroU32::new(50),
        ..Rate::default()
    };
    flow.limit(FlowScope::Worker, Some(gentle));
    flow.resume(FlowScope::Worker);
    let clock = TokioClock::new();
    worker
        .wait_for(|status| status.leases.values().any(|lease| lease.records == 100))
        .await;
    println!(
        "100 records at 50 per second: more than a second: {}",
        clock.now().since_origin() > Duration::from_millis(900)
    );
    worker.shutdown();
    worker.join().await?;
    Ok(())
}
