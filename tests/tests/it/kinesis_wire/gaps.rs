//! A checkpoint that is older than what the stream keeps, by polling and by fan-out.

use std::time::Duration;

use kcl_core::FlowScope;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::settings::{RetentionGap, Settings};
use kcl_core::source::StreamSource as _;
use kcl_core::status::{HealthIssue, WaitReason};
use kcl_lease_memory::memory_stream::Trim;
use kinesis_local::WireOptions;

use crate::kinesis_wire::one_worker::{OneWorker, PATIENCE, settings};
use crate::kinesis_wire::served::Read;

fn holding() -> Settings {
    let mut settings = settings();
    settings.reading.retention_gap = RetentionGap::Hold;
    settings
}

async fn meets_gap(read: Read) {
    let options = WireOptions {
        heartbeat: Duration::from_secs(1),
        ..WireOptions::unlimited()
    };
    let bench = OneWorker::new(read, options).await;
    let stream = &bench.served.stream;
    stream.put("truck", "0").unwrap();
    let worker = bench.start(holding());
    bench.processes(&["0"]).await;
    let told = bench.served.source.description().retention;
    assert_eq!(
        told,
        Some(Duration::from_secs(24 * 3600)),
        "of the call that is made anyway"
    );
    bench.stop(worker).await;
    for payload in ["1", "2", "3", "4"] {
        stream.put("truck", payload).unwrap();
    }
    stream.trim(&Trim::KeepLast(2));
    let worker = bench.start(holding());
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
    bench.stop(worker).await;
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
