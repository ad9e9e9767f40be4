//! A checkpoint that is older than what the stream keeps, by polling and by fan-out.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::{RetentionGap, Settings};
use kcl_core::source::StreamSource as _;
use kcl_core::status::{HealthIssue, WaitReason};
use kcl_core::types::Gap;
use kcl_core::{FlowScope, Worker, WorkerHandle};
use kcl_lease_memory::MemoryLeaseStore;
use kcl_lease_memory::memory_stream::Trim;
use kinesis_local::WireOptions;

use crate::kinesis_wire::served::{Read, Served};

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Seen {
    payloads: Vec<String>,
    gaps: Vec<Gap>,
}

struct Notes(Arc<Mutex<Seen>>);

#[async_trait]
impl RecordProcessor for Notes {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        let mut seen = self.0.lock().unwrap();
        seen.gaps.extend(batch.gap().cloned());
        let texts = batch.iter().map(|record| record.data().to_vec());
        seen.payloads
            .extend(texts.map(|text| String::from_utf8(text).unwrap()));
        Ok(())
    }
}

struct Bench {
    served: Served,
    leases: MemoryLeaseStore,
    seen: Arc<Mutex<Seen>>,
}

impl Bench {
    fn start(&self, retention_gap: RetentionGap) -> WorkerHandle {
        let seen = Arc::clone(&self.seen);
        let mut settings = Settings::default();
        settings.leases.failover_time = Duration::from_secs(3);
        settings.reading.retention_gap = retention_gap;
        Worker::builder("suite")
            .worker_id("a")
            .stream(self.served.source.clone())
            .lease_store(self.leases.clone())
            .settings(settings)
            .processor(move |_: &ShardContext| Notes(Arc::clone(&seen)))
            .build()
            .unwrap()
            .start()
    }

    async fn processes(&self, expected: &[&str]) {
        let clock = TokioClock::new();
        let all = async {
            while self.seen.lock().unwrap().payloads.len() < expected.len() {
                clock.sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = clock.timeout(PATIENCE, all).await;
        let seen = self.seen.lock().unwrap();
        assert!(in_time.is_ok() && seen.payloads == expected, "{seen:?}");
    }
}

async fn stop(worker: WorkerHandle) {
    worker.shutdown();
    let stopped = TokioClock::new().timeout(PATIENCE, worker.join()).await;
    assert!(stopped.unwrap().unwrap().is_clean());
}

async fn meets_gap(read: Read) {
    let options = WireOptions {
        heartbeat: Duration::from_secs(1),
        ..WireOptions::unlimited()
    };
    let bench = Bench {
        served: Served::new(1, options, read).await,
        leases: MemoryLeaseStore::new(),
        seen: Arc::default(),
    };
    let stream = &bench.served.stream;
    stream.put("truck", "0").unwrap();
    let worker = bench.start(RetentionGap::Hold);
    bench.processes(&["0"]).await;
    let told = bench.served.source.description().retention;
    assert_eq!(
        told,
        Some(Duration::from_secs(24 * 3600)),
        "of the call that is made anyway"
    );
    stop(worker).await;
    for payload in ["1", "2", "3", "4"] {
        stream.put("truck", payload).unwrap();
    }
    stream.trim(&Trim::KeepLast(2));
    let worker = bench.start(RetentionGap::Hold);
    let waits = |status: &kcl_core::status::WorkerStatus| {
        let mut leases = status.leases.values();
        leases.any(|lease| lease.waiting.is_some_and(|(reason, _)| reason == WaitReason::Gap))
    };
    let held = TokioClock::new().timeout(PATIENCE, worker.wait_for(waits)).await;
    let held = held.unwrap();
    let concerns: Vec<_> = held.leases.values().map(|lease| lease.concern).collect();
    assert_eq!(concerns, [Some(HealthIssue::HeldAtGap)], "{read:?}");
    assert_eq!(bench.seen.lock().unwrap().payloads, ["0"], "{read:?}");
    worker.flow().accept_gap(FlowScope::Worker);
    bench.processes(&["0", "3", "4"]).await;
    assert_eq!(bench.seen.lock().unwrap().gaps.len(), 1, "{read:?}");
    stop(worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gap_holds_shard_however_it_is_read() {
    let mut all = tokio::task::JoinSet::new();
    for read in [Read::Cbor, Read::Json, Read::FanOut] {
        all.spawn(meets_gap(read));
    }
    while let Some(met) = all.join_next().await {
        met.unwrap();
    }
}
