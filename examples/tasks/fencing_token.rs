//! A sink that refuses what a former owner of a shard still writes, by the fencing token of the ownership.
//!
//! `cargo run -p kcl-examples --example fencing_token`

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kinesis_client::{
    FencingToken, MemoryLeaseStore, MemoryStream, ProcessorError, RecordBatch, RecordProcessor, ShardContext,
    Worker, async_trait,
};

/// Stands for a database with a conditional write: a row of a shard takes a value only with a token that is not older than its last.
#[derive(Debug, Default)]
struct Sink {
    totals: Mutex<BTreeMap<String, (FencingToken, u64)>>,
}

impl Sink {
    fn add(&self, shard: &str, token: FencingToken, amount: u64) -> Result<(), String> {
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, total) = totals.entry(shard.to_owned()).or_insert((token, 0));
        if token < *last {
            return Err(format!("a later owner has written to {shard}"));
        }
        (*last, *total) = (token, *total + amount);
        Ok(())
    }
}

struct Counter(Arc<Sink>);

#[async_trait]
impl RecordProcessor for Counter {
    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        let (shard, token) = (shard.shard().as_str(), shard.fencing_token());
        Ok(self.0.add(shard, token, batch.len() as u64)?)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stream = MemoryStream::builder("truck-positions").shards(1).build();
    stream.put("truck-7", "position")?;
    let sink = Arc::new(Sink::default());
    let shared = Arc::clone(&sink);
    let worker = Worker::builder("counter")
        .stream(stream)
        .lease_store(MemoryLeaseStore::new())
        .processor(move |_: &ShardContext| Counter(Arc::clone(&shared)))
        .build()?
        .start();
    worker
        .wait_for(|status| status.leases.values().any(|lease| lease.records == 1))
        .await;
    worker.shutdown();
    worker.join().await?;
    println!("{sink:?}");
    // What a worker would do that was paused before its write, and wakes up when the shard has moved on.
    let late = sink.add("shardId-000000000000", FencingToken::new(0), 1);
    println!("a write of a former owner: {late:?}");
    Ok(())
}
