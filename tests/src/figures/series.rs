//! The series of metrics that a worker makes, beside those of the Java KCL.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use kcl_core::Worker;
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_http::prometheus_builder;
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};

use crate::exposition::Exposition;

/// The metrics that the Java KCL 2.5.8 and 3.1.3 send for each shard, with their defaults.
pub const JAVA_PER_SHARD: usize = 12;
/// The fewest and the most that it sends for each worker.
pub const JAVA_PER_WORKER: (usize, usize) = (13, 21);
/// The shards of the larger worker.
const SHARDS: u32 = 64;
/// Each shard has records.
const RECORDS: u64 = 2000;

struct Reader;

#[async_trait]
impl RecordProcessor for Reader {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }
}

/// Lets a worker with the default settings read so many shards, and returns the scrape of its metrics then.
///
/// # Panics
///
/// When the worker fails, or its scrape breaks a rule.
pub async fn scrape(shards: u32) -> Exposition {
    let recorder = prometheus_builder().build_recorder();
    let metrics = recorder.handle();
    let stream = MemoryStream::builder("trucks").shards(shards).build();
    for number in 0..RECORDS {
        stream
            .put(format!("truck-{number}"), "position")
            .expect("the stream takes records");
    }
    let worker = Worker::builder("trucks")
        .stream(stream)
        .lease_store(MemoryLeaseStore::new())
        .metrics_recorder(Arc::new(recorder))
        .processor(|_: &ShardContext| Reader)
        .build()
        .expect("the settings are right")
        .start();
    worker
        .wait_for(|status| status.leases.values().map(|lease| lease.records).sum::<u64>() == RECORDS)
        .await;
    let scrape = Exposition::parse(&metrics.render()).expect("the metrics follow the format");
    worker.shutdown();
    worker.join().await.expect("the worker stops");
    scrape
}

/// The series of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Series {
    /// The metrics of a worker with one shard, and with 64, as CloudWatch counts them.
    pub metrics: (usize, usize),
    /// The lines in the scrapes of the same workers, as Prometheus counts them.
    pub lines: (usize, usize),
}

impl Series {
    /// The fewest that a Java worker makes for 64 shards.
    pub fn java() -> usize {
        SHARDS as usize * JAVA_PER_SHARD + JAVA_PER_WORKER.0
    }
}

/// Counts them.
///
/// # Panics
///
/// As [`scrape`].
pub async fn measure() -> Series {
    let (few, many) = (scrape(1).await, scrape(SHARDS).await);
    Series {
        metrics: (few.metrics(), many.metrics()),
        lines: (few.lines(), many.lines()),
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (metrics, lines) = (self.metrics, self.lines);
        let (fewest, most) = JAVA_PER_WORKER;
        let more = usize::try_from(SHARDS - 1).unwrap_or(1);
        let per_shard = |(few, many): (usize, usize)| (many - few) / more;
        writeln!(
            f,
            "| | metrics | lines for Prometheus | Java KCL 2.5.8 and 3.1.3 |"
        )?;
        writeln!(f, "|---|---|---|---|")?;
        writeln!(
            f,
            "| for each shard | {} | {} | {JAVA_PER_SHARD} |",
            per_shard(metrics),
            per_shard(lines)
        )?;
        writeln!(
            f,
            "| for a worker, without its shards | {} | {} | {fewest}–{most} |",
            metrics.0, lines.0
        )?;
        write!(
            f,
            "| for a worker with {SHARDS} shards | {} | {} | {}–{} |",
            metrics.1,
            lines.1,
            Self::java(),
            Self::java() - fewest + most
        )
    }
}
