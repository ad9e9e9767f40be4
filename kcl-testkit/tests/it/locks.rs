//! How many locks of the worker a batch costs on its way from the source to the stored checkpoint.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::Worker;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::internals::locks_taken;
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::Settings;
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};

/// Enough for a steady state; the renewals, checkpoints and scans of that time count too.
const BATCHES: usize = 200;
const WARM_UP: usize = 20;
/// The records of a batch.
const RECORDS: u32 = 10;

/// Notes how many locks were taken when each call began, and the size of the call.
struct Counts(Arc<Mutex<Vec<(u64, usize)>>>);

#[async_trait]
impl RecordProcessor for Counts {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.0.lock().unwrap().push((locks_taken(), batch.len()));
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn delivered_batch_costs_few_locks() {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks").clock(Arc::new(clock)).build();
    for n in 0..(BATCHES + WARM_UP) * RECORDS as usize {
        stream.put("truck", format!("{n}")).unwrap();
    }
    let counts = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&counts);
    let worker = Worker::builder("locks")
        .worker_id("a")
        .stream(stream)
        .lease_store(MemoryLeaseStore::new())
        .processor(move |_: &ShardContext| Counts(Arc::clone(&noted)))
        .settings({
            let mut settings = Settings::default();
            settings.reading.max_batch_records = RECORDS;
            settings
        })
        .clock(Arc::new(clock))
        .build()
        .unwrap()
        .start();
    while counts.lock().unwrap().len() < BATCHES + WARM_UP {
        clock.sleep(Duration::from_secs(1)).await;
    }
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
    let counts = counts.lock().unwrap();
    let steady = &counts[WARM_UP..];
    assert!(
        steady.iter().all(|(_, size)| *size == RECORDS as usize),
        "whole batches"
    );
    let (first, last) = (steady[0].0, steady[BATCHES - 1].0);
    let (taken, batches) = (last - first, BATCHES as u64 - 1);
    assert!(taken <= MOST * batches, "{taken} locks for {batches} batches");
    println!("{taken} locks for {batches} batches");
}

/// The most locks that a batch may cost.
const MOST: u64 = 15;
