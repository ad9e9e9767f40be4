//! A worker through the end of a shard, as each server shows it, and past answers from which the place to go on is missing.

use std::time::Duration;

use kcl_core::WorkerHandle;
use kcl_core::clock::{Clock as _, ClockExt as _, TokioClock};
use kcl_core::lease_store::LeaseStore as _;
use kinesis_local::{EndStyle, Fault, FaultRule, Operation, WireOptions};

use crate::kinesis_wire::one_worker::{OneWorker, PATIENCE, settings};
use crate::kinesis_wire::served::Read;

const MODES: [Read; 3] = [Read::Cbor, Read::Json, Read::FanOut];

/// Nothing was missed, and the worker stops.
async fn ends(bench: &OneWorker, worker: WorkerHandle) {
    assert_eq!(bench.seen.lock().unwrap().gaps, [], "{}", bench.what);
    bench.stop(worker).await;
}

/// Through a split and a merge.
async fn walk(read: Read, end_style: EndStyle) {
    let options = WireOptions {
        end_style,
        heartbeat: Duration::from_secs(1),
        ..WireOptions::unlimited()
    };
    let bench = OneWorker::new(read, options).await;
    let stream = &bench.served.stream;
    let worker = bench.start(settings());
    let clock = TokioClock::new();
    stream.put("truck", "parent").unwrap();
    bench.processes(&["parent"]).await;
    let split = clock.now();
    let [low, high] = stream.split(&bench.served.shard()).unwrap();
    stream.put_with_hash_key("truck", 0, "child").unwrap();
    bench.processes(&["parent", "child"]).await;
    worker.wait_for(|status| status.leases.len() == 2).await;
    let merge = clock.now();
    stream.merge(&low, &high).unwrap();
    stream.put("truck", "grandchild").unwrap();
    bench.processes(&["parent", "child", "grandchild"]).await;
    let [split, merge] = [merge.saturating_since(split), clock.now().saturating_since(merge)];
    println!(
        "{}: {split:?} through the split, {merge:?} through the merge",
        bench.what
    );
    worker.wait_for(|status| status.is_healthy()).await;
    let rows = bench.leases.scan().await.unwrap().leases;
    let open = rows.iter().filter(|row| !row.checkpoint.is_shard_end());
    assert_eq!(open.count(), 1, "{}: {rows:?}", bench.what);
    ends(&bench, worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_style_of_end_is_passed() {
    let styles = [
        EndStyle::Kinesis,
        EndStyle::LocalStack,
        EndStyle::Ferrokinesis,
        EndStyle::KinesisMock,
        EndStyle::Ministack,
    ];
    let walks = styles
        .into_iter()
        .flat_map(|style| MODES.map(|read| (read, style)));
    let mut all = tokio::task::JoinSet::new();
    for (read, style) in walks {
        all.spawn(walk(read, style));
    }
    while let Some(walked) = all.join_next().await {
        walked.unwrap();
    }
}

/// An answer of which the iterator is missing is no end of an open shard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_without_iterator_lose_no_record() {
    for read in [Read::Cbor, Read::Json] {
        for answers in [1, 2, 5] {
            let bench = OneWorker::new(read, WireOptions::unlimited()).await;
            let (server, stream) = (&bench.served.server, &bench.served.stream);
            let worker = bench.start(settings());
            stream.put("truck", "before").unwrap();
            bench.processes(&["before"]).await;
            let rule = FaultRule::new(Fault::WithoutIterator).on(Operation::GetRecords);
            server.faults().inject(rule.times(answers));
            let clock = TokioClock::new();
            let struck = async {
                while server.faults().pending() {
                    clock.sleep(Duration::from_millis(20)).await;
                }
            };
            clock.timeout(PATIENCE, struck).await.unwrap();
            stream.put("truck", "between").unwrap();
            bench.processes(&["before", "between"]).await;
            stream.split(&bench.served.shard()).unwrap();
            stream.put("truck", "child").unwrap();
            bench.processes(&["before", "between", "child"]).await;
            ends(&bench, worker).await;
        }
    }
}

/// An end that hides its children is checked with the listing, and the records before it are read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_shard_is_read_out_without_iterators() {
    let bench = OneWorker::new(Read::Json, WireOptions::unlimited()).await;
    let (server, stream) = (&bench.served.server, &bench.served.stream);
    stream.put("truck", "first").unwrap();
    let worker = bench.start(settings());
    bench.processes(&["first"]).await;
    let rule = FaultRule::new(Fault::WithoutIterator).on(Operation::GetRecords);
    server.faults().inject(rule.times(8));
    stream.put("truck", "last").unwrap();
    stream.split(&bench.served.shard()).unwrap();
    stream.put("truck", "child").unwrap();
    bench.processes(&["first", "last", "child"]).await;
    ends(&bench, worker).await;
}
