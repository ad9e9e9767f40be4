//! Counts the records of each minute, by the time at which the stream received them. A crash changes no count.
//!
//! `cargo run -p kcl-examples --example counts_per_minute`

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kinesis_client::processor::{TumblingWindows, Window, WindowProcessor};
use kinesis_client::types::{Record, Timestamp};
use kinesis_client::{MemoryLeaseStore, MemoryStream, ProcessorError, ShardContext, Worker, async_trait};

const MINUTE: Duration = Duration::from_secs(60);

/// Stands for a table with the pane as its key, and the minute and the count as columns: a pane that comes again overwrites its row.
#[derive(Clone, Default)]
struct Table(Arc<Mutex<BTreeMap<String, (Timestamp, u64)>>>);

impl Table {
    /// The sum of the panes of each minute.
    fn per_minute(&self) -> BTreeMap<Timestamp, u64> {
        let mut minutes = BTreeMap::new();
        for (minute, count) in self.0.lock().unwrap_or_else(PoisonError::into_inner).values() {
            *minutes.entry(*minute).or_default() += count;
        }
        minutes
    }
}

struct Counts(Table);

#[async_trait]
impl WindowProcessor for Counts {
    type State = u64;

    fn open(&mut self, _: &Window) -> u64 {
        0
    }

    fn record(&mut self, count: &mut u64, _: &Record) -> Result<(), ProcessorError> {
        *count += 1;
        Ok(())
    }

    async fn window_closed(
        &mut self,
        count: &mut u64,
        window: &Window,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        let mut rows = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.insert(window.pane_key(shard), (window.start, *count));
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stream = MemoryStream::builder("truck-positions").shards(1).build();
    for number in 0..250 {
        stream.put("truck-7", format!("position {number}"))?;
    }
    let table = Table::default();
    let written = table.clone();
    let counts = TumblingWindows::new(MINUTE, move |_: &ShardContext| Counts(written.clone()))?;
    let worker = Worker::builder("counts")
        .stream(stream.clone())
        .lease_store(MemoryLeaseStore::new())
        .processor(counts)
        .build()?
        .start();
    worker
        .wait_for(|status| status.leases.values().any(|lease| lease.records == 250))
        .await;
    // The minute is not over. The end of a shard closes its windows.
    if let Some(shard) = stream.shards_snapshot().first() {
        stream.split(&shard.shard.id)?;
    }
    worker
        .wait_for(|_| table.per_minute().values().sum::<u64>() == 250)
        .await;
    worker.shutdown();
    worker.join().await?;
    for (minute, count) in table.per_minute() {
        println!("{minute}: {count} records");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kcl_testkit::ProcessorBench;

    use super::*;

    /// Puts a record each second for five minutes, and kills the worker so often. Returns the counts, and what they should be.
    fn count(kills: u64) -> [BTreeMap<Timestamp, u64>; 2] {
        let table = Table::default();
        let written = table.clone();
        let counts = TumblingWindows::new(MINUTE, move |_: &ShardContext| Counts(written.clone()));
        let mut bench = ProcessorBench::of(counts.unwrap()).start();
        for second in 0..300 {
            bench.put("truck-7", "position");
            bench.run(Duration::from_secs(1));
            if kills > 0 && second % (300 / kills) == 0 {
                bench.kill();
            }
        }
        bench.until_finished();
        let mut expected = BTreeMap::new();
        for (_, record) in bench.stream().put_log() {
            let seconds = record.approximate_arrival().unwrap().as_secs();
            let minute = Timestamp::from_millis(seconds.div_euclid(60) * 60_000);
            *expected.entry(minute).or_default() += 1;
        }
        [table.per_minute(), expected]
    }

    #[test]
    fn kills_change_no_count() {
        for kills in [0, 10] {
            let [counted, expected] = count(kills);
            assert_eq!(counted, expected);
            assert!(counted.len() >= 5, "{counted:?}");
        }
    }
}
