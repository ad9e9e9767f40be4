//! Shows what a worker is doing as JSON, for a health endpoint or a dashboard, while the worker runs elsewhere.
//!
//! `cargo run -p kcl-examples --example health_endpoint`

use kinesis_client::{
    MemoryLeaseStore, MemoryStream, ProcessorError, RecordBatch, RecordProcessor, ShardContext, StatusReader,
    Worker, async_trait,
};

struct Writer;

#[async_trait]
impl RecordProcessor for Writer {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }
}

/// Makes the answer of an HTTP server: 200 or 503, and a body.
///
/// For dashboards and alarms. It is no liveness probe: what a worker waits for is as slow after a restart.
fn health(reader: &StatusReader) -> Result<(u16, String), serde_json::Error> {
    let status = reader.status();
    let code = if status.is_healthy() { 200 } else { 503 };
    Ok((code, serde_json::to_string_pretty(&status)?))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stream = MemoryStream::builder("truck-positions").shards(1).build();
    stream.put("truck-7", "position")?;
    let worker = Worker::builder("writer")
        .stream(stream)
        .lease_store(MemoryLeaseStore::new())
        .processor(|_: &ShardContext| Writer)
        .build()?
        .start();
    let reader = worker.status_reader();
    reader
        .wait_for(|status| status.leases.values().any(|lease| lease.records == 1))
        .await;
    let (code, body) = health(&reader)?;
    println!("{code}\n{body}");
    worker.shutdown();
    worker.join().await?;
    Ok(())
}
