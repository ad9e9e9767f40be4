//! Reads several streams with one application. Streams come and go while the worker runs.
//!
//! `cargo run -p kcl-examples --example many_streams`

use kinesis_client::{
    InitialPosition, MemoryLeaseStore, MemoryStream, ProcessorError, RecordBatch, RecordProcessor,
    ShardContext, StreamSet, TrackedStream, Worker, async_trait,
};

struct Printer;

#[async_trait]
impl RecordProcessor for Printer {
    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        println!("{} of {}: {} records", shard.shard(), shard.stream(), batch.len());
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stream = |name: &str| MemoryStream::builder(name).shards(1).build();
    let (orders, returns) = (stream("orders"), stream("returns"));
    orders.put("customer-1", "a book")?;
    returns.put("customer-1", "the book")?;

    // A set that is shared: clones are the same one. A tracker of your own reads the list from elsewhere.
    let streams = StreamSet::new([TrackedStream::new(orders)]);
    let worker = Worker::builder("shop")
        .streams(streams.clone())
        .lease_store(MemoryLeaseStore::new())
        .processor(|_: &ShardContext| Printer)
        .build()?
        .start();
    streams.add(TrackedStream::new(returns).starting_at(InitialPosition::TrimHorizon));
    worker
        .wait_for(|status| status.leases.values().map(|lease| lease.records).sum::<u64>() == 2)
        .await;
    worker.shutdown();
    worker.join().await?;
    Ok(())
}
