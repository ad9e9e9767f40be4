//! The smallest worker on AWS: `cargo run -p kcl-examples-minimal -- STREAM`.
//!
//! Region, credentials and endpoints come from the standard AWS environment. The lease table is created if it is not there.

use kinesis_client::{
    DynamoLeaseStore, KinesisStream, ProcessorError, RecordBatch, RecordProcessor, ShardContext, Worker,
    async_trait, aws_config,
};

struct Printer;

#[async_trait]
impl RecordProcessor for Printer {
    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        for record in &batch {
            let key = record.partition_key().unwrap_or_default();
            println!("{}: {key}, {} bytes", shard.shard(), record.data().len());
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stream = std::env::args().nth(1).ok_or("name the stream to read")?;
    let aws = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
    let worker = Worker::builder("printer")
        .stream(KinesisStream::new(&aws, stream))
        .lease_store(DynamoLeaseStore::new(&aws, "printer"))
        .processor(|_: &ShardContext| Printer)
        .build()?;
    worker.run_until_signal().await?;
    Ok(())
}
