//! Publishes each batch in one step, and prepares its checkpoint before: a successor finds out whether that step was taken.
//!
//! `cargo run -p kcl-examples --example two_phase_checkpoint`

#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::collections::BTreeMap;
use std::error::Error;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kinesis_client::MemoryStream;
use kinesis_client::processor::StartFrom;
use kinesis_client::{
    MemoryLeaseStore, ProcessorError, RecordBatch, RecordProcessor, ShardContext, Worker, async_trait,
};
use tokio_util::sync::CancellationToken;

const RECORDS: usize = 250;

/// Stands for a store that publishes what was staged under a name, in one step and once.
#[derive(Debug, Default)]
struct Warehouse {
    staged: BTreeMap<String, Vec<String>>,
    published: BTreeMap<String, Vec<String>>,
}

impl Warehouse {
    fn publish(&mut self, name: &str) {
        if let Some(lines) = self.staged.remove(name) {
            self.published.insert(name.to_owned(), lines);
        }
    }

    fn lines(&self) -> Vec<String> {
        self.published.values().flatten().cloned().collect()
    }
}

/// Where the first worker stops, as one does that is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    BeforePublishing,
    AfterPublishing,
}

#[derive(Clone)]
struct Publisher {
    warehouse: Arc<Mutex<Warehouse>>,
    stop: Option<Stop>,
    stopped: CancellationToken,
}

impl Publisher {
    fn warehouse(&self) -> MutexGuard<'_, Warehouse> {
        self.warehouse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn stop_at(&self, point: Stop) {
        if self.stop == Some(point) {
            self.stopped.cancel();
            pending().await
        }
    }
}

#[async_trait]
impl RecordProcessor for Publisher {
    async fn initialize(&mut self, shard: &ShardContext) -> Result<StartFrom, ProcessorError> {
        let Some(pending) = shard.pending_checkpoint() else {
            return Ok(StartFrom::Checkpoint);
        };
        let name = String::from_utf8(pending.state.unwrap_or_default().to_vec())?;
        let mut warehouse = self.warehouse();
        if warehouse.published.contains_key(&name) {
            println!("{name} was published: its checkpoint is committed");
            return Ok(StartFrom::CommitPending);
        }
        println!("{name} was not published: its records come again");
        warehouse.staged.remove(&name);
        Ok(StartFrom::DiscardPending)
    }

    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        let name = format!("{}-{}", shard.shard(), batch[0].sequence_number());
        let lines = batch
            .iter()
            .map(|record| String::from_utf8_lossy(record.data()).into_owned());
        let lines = lines.collect();
        self.warehouse().staged.insert(name.clone(), lines);
        let prepared = batch.prepare(name.clone()).await?;
        self.stop_at(Stop::BeforePublishing).await;
        self.warehouse().publish(&name);
        self.stop_at(Stop::AfterPublishing).await;
        prepared.commit().await?;
        Ok(())
    }
}

/// Two workers one after the other, of which the first stops at this point. Returns what they have published.
async fn run(stop: Stop) -> Result<Vec<String>, Box<dyn Error>> {
    let stream = MemoryStream::builder("orders").shards(1).build();
    let mut last = None;
    for number in 0..RECORDS {
        last = Some(stream.put("truck-7", format!("order {number}"))?.1);
    }
    let leases = MemoryLeaseStore::new();
    let publisher = Publisher {
        warehouse: Arc::default(),
        stop: Some(stop),
        stopped: CancellationToken::new(),
    };
    let start = |publisher: Publisher| {
        let worker = Worker::builder("publisher")
            .stream(stream.clone())
            .lease_store(leases.clone())
            .processor(move |_: &ShardContext| publisher.clone())
            .build();
        worker.map(Worker::start)
    };
    let first = start(publisher.clone())?;
    publisher.stopped.cancelled().await;
    first.abort();
    first.join().await?;

    let second = start(Publisher {
        stop: None,
        ..publisher.clone()
    })?;
    second
        .wait_for(|status| {
            let mut leases = status.leases.values();
            leases.any(|lease| lease.checkpoint.record().map(|record| &record.sequence) == last.as_ref())
        })
        .await;
    second.shutdown();
    second.join().await?;
    Ok(publisher.warehouse().lines())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    for stop in [Stop::BeforePublishing, Stop::AfterPublishing] {
        let lines = run(stop).await?;
        println!(
            "{stop:?}: {} of {RECORDS} orders were published, each once",
            lines.len()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[tokio::test]
    async fn every_order_is_published_once() {
        for stop in [Stop::BeforePublishing, Stop::AfterPublishing] {
            let lines = run(stop).await.unwrap();
            let distinct: BTreeSet<_> = lines.iter().collect();
            assert_eq!((lines.len(), distinct.len()), (RECORDS, RECORDS), "{stop:?}");
        }
    }
}
