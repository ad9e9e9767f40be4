//! Held shards whose records retention is about to take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::processor::{LastResort, Policy, ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::status::{HealthIssue, LeaseStatus};
use kcl_testkit::ProcessorBench;

const HOUR: Duration = Duration::from_secs(3600);

/// Fails until it is cured.
#[derive(Clone, Default)]
struct Failing(Arc<AtomicBool>);

#[async_trait]
impl RecordProcessor for Failing {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        match self.0.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err(ProcessorError::transient("the database is down")),
        }
    }
}

/// The only lease, and how long it takes until retention takes what it has not finished.
fn shard(bench: &ProcessorBench) -> (LeaseStatus, Option<Duration>) {
    let status = bench.status();
    let lease = status.leases.into_values().next().unwrap();
    let left = lease.expires.map(|when| when.saturating_since(status.at));
    (lease, left)
}

#[test]
fn held_shard_expires_from_half_of_time_left() {
    let processor = Failing::default();
    let cured = Arc::clone(&processor.0);
    let mut bench = ProcessorBench::of(move |_: &ShardContext| processor.clone()).start();
    bench
        .stream()
        .configure(|settings| settings.retention = Some(24 * HOUR));
    bench.put("truck", "here");
    bench.run(11 * HOUR);
    let (held, left) = shard(&bench);
    assert_eq!((held.concern, left), (Some(HealthIssue::Failing), None));
    bench.run(2 * HOUR);
    let (held, left) = shard(&bench);
    assert_eq!(held.concern, Some(HealthIssue::Expiring));
    let left = left.unwrap();
    assert!(left > 10 * HOUR && left < 12 * HOUR, "{left:?}");
    cured.store(true, Ordering::SeqCst);
    bench.until_finished();
    bench.run(Duration::from_secs(5));
    let (held, left) = shard(&bench);
    assert_eq!((held.concern, left), (None, None));
}

#[test]
fn failing_sink_is_warned_of_as_well() {
    let policy = Policy::new(LastResort::DeadLetter)
        .transient(kcl_core::processor::Retries::at_most(1), LastResort::DeadLetter);
    let mut bench = ProcessorBench::of(|_: &ShardContext| Failing::default())
        .error_policy(policy)
        .start();
    bench.dead_letters().fail();
    bench
        .stream()
        .configure(|settings| settings.retention = Some(24 * HOUR));
    bench.put("truck", "here");
    bench.run(13 * HOUR);
    assert_eq!(shard(&bench).0.concern, Some(HealthIssue::Expiring));
}

#[test]
fn stream_without_retention_is_never_warned_of() {
    let mut bench = ProcessorBench::of(|_: &ShardContext| Failing::default()).start();
    bench.put("truck", "here");
    bench.run(100 * HOUR);
    let (held, left) = shard(&bench);
    assert_eq!((held.concern, left), (Some(HealthIssue::Failing), None));
}
