//! How many allocations a record costs on its way from the source to the stored checkpoint.

use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use async_trait::async_trait;
use kcl_core::Worker;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::processor::{
    ErrorPolicy, LastResort, Policy, ProcessorError, RecordBatch, RecordProcessor, ShardContext,
};
use kcl_core::settings::Settings;
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};

struct Ignores;

#[async_trait]
impl RecordProcessor for Ignores {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }
}

/// The allocations of a worker that finishes so many records in so many batches.
fn allocations(batches: u32, records: u32, policy: impl ErrorPolicy) -> u64 {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    let measured = runtime.block_on(async {
        let clock = TokioClock::new();
        let stream = MemoryStream::builder("trucks")
            .shards(1)
            .clock(Arc::new(clock))
            .build();
        for n in 0..batches * records {
            stream.put("truck", format!("{n}")).unwrap();
        }
        (clock, stream)
    });
    let (clock, stream) = measured;
    let all = u64::from(batches * records);
    let run = || {
        runtime.block_on(async {
            let worker = Worker::builder("allocations")
                .worker_id("a")
                .stream(stream)
                .lease_store(MemoryLeaseStore::new())
                .processor(|_: &ShardContext| Ignores)
                .error_policy(policy)
                .settings({
                    let mut settings = Settings::default();
                    settings.reading.max_batch_records = records;
                    settings
                })
                .clock(Arc::new(clock))
                .build()
                .unwrap()
                .start();
            while worker
                .status()
                .leases
                .values()
                .map(|lease| lease.records)
                .sum::<u64>()
                < all
            {
                clock.sleep(Duration::from_secs(1)).await;
            }
            worker.abort();
            worker.join().await.unwrap();
        });
    };
    measure(run).count_total
}

/// Twenty batches each, of which one kind has ten times the records: what more they cost is the cost of records.
#[test]
fn record_costs_no_allocation() {
    let (small, large, batches) = (100, 1000, 20);
    for policy in [Policy::default(), Policy::new(LastResort::Hold)] {
        let few = allocations(batches, small, policy.clone());
        let many = allocations(batches, large, policy);
        let records = u64::from(batches * (large - small));
        let more = many.saturating_sub(few);
        println!(
            "{few} allocations for {} records, {more} more for {records} more",
            batches * small
        );
        assert!(more * 20 < records, "{more} allocations for {records} records");
    }
}
