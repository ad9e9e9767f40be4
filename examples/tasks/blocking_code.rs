//! Runs code that blocks, such as a client without async, on a thread that is there for it.
//!
//! `cargo run -p kcl-examples --example blocking_code`

use std::io::Write;

use kinesis_client::{
    MemoryLeaseStore, MemoryStream, ProcessorError, RecordBatch, RecordProcessor, ShardContext, Worker,
    async_trait,
};

struct Archive;

fn write(batch: &RecordBatch) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for record in batch {
        writeln!(out, "{} bytes", record.data().len())?;
    }
    Ok(())
}

#[async_trait]
impl RecordProcessor for Archive {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        #[expect(
            clippy::disallowed_methods,
            reason = "the ban is for the core: a processor may block a thread that is there for it"
        )]
        // A batch can be moved to another thread, and its clones are cheap.
        tokio::task::spawn_blocking(move || write(&batch)).await??;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stream = MemoryStream::builder("truck-positions").shards(1).build();
    stream.put("truck-7", "position")?;
    let worker = Worker::builder("archive")
        .stream(stream)
        .lease_store(MemoryLeaseStore::new())
        .processor(|_: &ShardContext| Archive)
        .build()?
        .start();
    worker
        .wait_for(|status| status.leases.values().any(|lease| lease.records == 1))
        .await;
    worker.shutdown();
    worker.join().await?;
    Ok(())
}
