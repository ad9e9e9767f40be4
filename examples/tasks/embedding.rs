//! Feeds another engine, which pulls records, works on them in an order of its own, and acknowledges them later.
//!
//! `cargo run -p kcl-examples --example embedding`: the engine owns every thread, and the worker runs where the engine puts it.

#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::collections::BTreeMap;
use std::error::Error;
use std::thread;

use kinesis_client::dead_letter::{DeadLetterFiles, DeadLetterSink};
use kinesis_client::processor::{Delivered, DeliveredRecords, FencingToken, LastResort, Policy, handed_on};
use kinesis_client::types::{RecordPosition, ShardId};
use kinesis_client::{
    Concurrency, Coordination, MemoryLeaseStore, MemoryStream, ProcessorError, Record, ShardContext, Worker,
};
use tokio::runtime::{Builder, Handle};

/// The most records that the engine works on together.
const PAGE: usize = 200;

/// An engine that keeps an amount for each record.
#[derive(Debug, Default)]
struct Engine {
    /// Each with the token of the ownership that wrote it.
    rows: BTreeMap<(ShardId, RecordPosition), (FencingToken, u64)>,
    /// How many rows were taken back.
    undone: usize,
}

impl Engine {
    /// Pulls records until the worker has stopped. `pull` waits for a future on any thread: no runtime is needed for that.
    fn run(&mut self, mut records: DeliveredRecords, pull: &Handle) {
        loop {
            let mut page = pull.block_on(records.next_many(PAGE));
            if page.is_empty() {
                return;
            }
            // The largest first: the order in which records are acknowledged is the engine's own.
            page.sort_by_key(|record| std::cmp::Reverse(record.data().len()));
            for record in page {
                self.finish(record);
            }
        }
    }

    /// Works on a record and acknowledges it, at any time after it was pulled.
    fn finish(&mut self, record: Delivered<Record>) {
        let amount = std::str::from_utf8(record.data())
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let Some(amount) = amount else {
            // The error policy decides. Where the lease has moved, the next owner is given the record anyway.
            let _ = record.fail(ProcessorError::poison("no amount"));
            return;
        };
        let row = (record.shard().shard().clone(), record.position().clone());
        let token = record.shard().fencing_token();
        let owner = |rows: &BTreeMap<_, (FencingToken, u64)>| rows.get(&row).map(|(by, _)| *by);
        // A later owner of the shard may have written the row already.
        if owner(&self.rows).is_none_or(|by| by <= token) {
            self.rows.insert(row.clone(), (token, amount));
        }
        if record.ack().is_err() {
            // The lease has moved, and the record comes again at its next owner: take back what this owner did, and no more than that.
            if owner(&self.rows) == Some(token) {
                self.rows.remove(&row);
                self.undone += 1;
            }
        }
    }
}

/// Reads the stream whole, with two threads that are the engine's: one for the worker, and one that works on the records.
fn read(
    stream: &MemoryStream,
    letters: impl DeadLetterSink,
    expected: u64,
) -> Result<Engine, Box<dyn Error + Send + Sync>> {
    let (handler, records) = handed_on(PAGE);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let worker = Worker::builder("engine")
        .stream(stream.clone())
        .lease_store(MemoryLeaseStore::new())
        .error_policy(Policy::new(LastResort::DeadLetter))
        .dead_letters(letters)
        // The worker starts no thread of its own. The thread that it is given must not be blocked for longer than the failover time.
        .coordination(Coordination::SameRuntime)
        .handler(Concurrency::Unordered(PAGE), move |_: &ShardContext| {
            handler.clone()
        })
        .build()?;
    let pull = runtime.handle().clone();
    let mut engine = Engine::default();
    thread::scope(|threads| {
        let host = threads.spawn(move || {
            runtime.block_on(async {
                let worker = worker.start();
                worker
                    .wait_for(|status| {
                        let leases = status.leases.values();
                        leases
                            .map(|lease| lease.records + lease.dead_letters)
                            .sum::<u64>()
                            == expected
                    })
                    .await;
                // It waits for the records that the engine has, and the queue ends after that.
                worker.shutdown();
                worker.join().await
            })
        });
        engine.run(records, &pull);
        host.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    Ok(engine)
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let folder = std::env::temp_dir().join(format!("embedding-{}", std::process::id()));
    let stream = MemoryStream::builder("amounts").shards(2).build();
    for amount in 0..5000 {
        stream.put(format!("customer-{}", amount % 100), amount.to_string())?;
    }
    let engine = read(&stream, DeadLetterFiles::open(&folder)?, 5000)?;
    let sum: u64 = engine.rows.values().map(|(_, amount)| amount).sum();
    println!("{} rows, whose sum is {sum}", engine.rows.len());
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use kcl_testkit::{MemoryDeadLetters, ProcessorBench};
    use kinesis_client::dead_letter::{DeadLetter, DeadLetterError};
    use kinesis_client::processor::RecordHandlers;
    use kinesis_client::{Settings, async_trait};

    use super::*;

    /// Keeps the letters, and the names of the threads that there are meanwhile. Only Linux shows them.
    #[derive(Debug, Clone, Default)]
    struct Letters {
        kept: MemoryDeadLetters,
        threads: Arc<Mutex<BTreeSet<String>>>,
    }

    #[async_trait]
    impl DeadLetterSink for Letters {
        async fn send(&self, letter: &DeadLetter) -> Result<(), DeadLetterError> {
            let threads = std::fs::read_dir("/proc/self/task")
                .into_iter()
                .flatten()
                .flatten();
            let names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
            self.threads.lock().unwrap().extend(names);
            self.kept.send(letter).await
        }
    }

    #[test]
    fn every_record_is_a_row_or_letter() {
        let stream = MemoryStream::builder("amounts").shards(2).build();
        for amount in 0..2000 {
            let text = if amount % 100 == 7 {
                "none".to_owned()
            } else {
                amount.to_string()
            };
            stream.put(format!("customer-{}", amount % 40), text).unwrap();
        }
        let letters = Letters::default();
        let engine = read(&stream, letters.clone(), 2000).unwrap();
        let mut amounts: Vec<_> = engine.rows.into_values().map(|(_, amount)| amount).collect();
        amounts.sort_unstable();
        assert!(
            amounts
                .into_iter()
                .eq((0..2000).filter(|amount| amount % 100 != 7))
        );
        assert_eq!((letters.kept.letters().len(), engine.undone), (20, 0));
        let threads = letters.threads.lock().unwrap();
        assert!(!threads.iter().any(|name| name.starts_with("kcl")), "{threads:?}");
    }

    #[test]
    fn refused_acknowledgement_takes_its_row_back() {
        let (handler, mut records) = handed_on(10);
        let handlers = RecordHandlers::new(Concurrency::Unordered(10), move |_: &ShardContext| {
            handler.clone()
        });
        let mut settings = Settings::default();
        settings.leases.failover_time = Duration::from_secs(4);
        settings.shutdown.drain_timeout = Duration::from_secs(5);
        let mut bench = ProcessorBench::of(handlers).settings(settings).start();
        bench.put("customer-1", "42");
        bench.put("customer-2", "43");
        let held = [
            bench.block_on(records.next()).unwrap(),
            bench.block_on(records.next()).unwrap(),
        ];
        bench.hand_over();
        let mut engine = Engine::default();
        let [first, second] = held;
        engine.finish(first);
        assert_eq!((engine.rows.len(), engine.undone), (0, 1));
        // The next owner writes its row before the former one is late: that row stays.
        for _ in 0..2 {
            engine.finish(bench.block_on(records.next()).unwrap());
        }
        engine.finish(second);
        let amounts: Vec<_> = engine.rows.values().map(|(_, amount)| *amount).collect();
        assert_eq!(amounts, [42, 43]);
        bench.until_finished();
    }
}
