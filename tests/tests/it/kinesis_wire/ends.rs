//! A worker through the end of a shard, as each server shows it, and past answers from which the place to go on is missing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{Clock as _, ClockExt as _, TokioClock};
use kcl_core::lease_store::LeaseStore as _;
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::Settings;
use kcl_core::types::Gap;
use kcl_core::{Worker, WorkerHandle};
use kcl_lease_memory::MemoryLeaseStore;
use kinesis_local::{EndStyle, Fault, FaultRule, Operation, WireOptions};

use crate::kinesis_wire::served::{Read, Served};

/// Real time within which a record is processed: a reader looks for an end that it is not shown after ten seconds.
const PATIENCE: Duration = Duration::from_secs(60);
const MODES: [Read; 3] = [Read::Cbor, Read::Json, Read::FanOut];

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
    what: String,
}

impl Bench {
    async fn new(read: Read, options: WireOptions) -> Self {
        let what = format!("{read:?}, {:?}", options.end_style);
        Self {
            served: Served::new(1, options, read).await,
            leases: MemoryLeaseStore::new(),
            seen: Arc::default(),
            what,
        }
    }

    fn start(&self) -> WorkerHandle {
        let seen = Arc::clone(&self.seen);
        Worker::builder("suite")
            .worker_id("a")
            .stream(self.served.source.clone())
            .lease_store(self.leases.clone())
            .settings({
                let mut settings = Settings::default();
                settings.leases.failover_time = Duration::from_secs(3);
                settings
            })
            .processor(move |_: &ShardContext| Notes(Arc::clone(&seen)))
            .build()
            .unwrap()
            .start()
    }

    /// Waits until these were processed, once each and in this order.
    async fn processes(&self, expected: &[&str]) {
        let clock = TokioClock::new();
        let all = async {
            while self.seen.lock().unwrap().payloads.len() < expected.len() {
                clock.sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = clock.timeout(PATIENCE, all).await;
        let seen = self.seen.lock().unwrap();
        assert!(
            in_time.is_ok() && seen.payloads == expected,
            "{}: {seen:?}",
            self.what
        );
        assert_eq!(seen.gaps, [], "{}", self.what);
    }

    async fn ends(&self, worker: WorkerHandle) {
        worker.shutdown();
        let stopped = TokioClock::new().timeout(PATIENCE, worker.join()).await;
        assert!(stopped.unwrap().unwrap().is_clean(), "{}", self.what);
    }
}

/// Through a split and a merge.
async fn walk(read: Read, end_style: EndStyle) {
    let options = WireOptions {
        end_style,
        heartbeat: Duration::from_secs(1),
        ..WireOptions::unlimited()
    };
    let bench = Bench::new(read, options).await;
    let stream = &bench.served.stream;
    let worker = bench.start();
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
    bench.ends(worker).await;
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
            let bench = Bench::new(read, WireOptions::unlimited()).await;
            let (server, stream) = (&bench.served.server, &bench.served.stream);
            let worker = bench.start();
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
            bench.ends(worker).await;
        }
    }
}

/// An end that hides its children is checked with the listing, and the records before it are read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_shard_is_read_out_without_iterators() {
    let bench = Bench::new(Read::Json, WireOptions::unlimited()).await;
    let (server, stream) = (&bench.served.server, &bench.served.stream);
    stream.put("truck", "first").unwrap();
    let worker = bench.start();
    bench.processes(&["first"]).await;
    let rule = FaultRule::new(Fault::WithoutIterator).on(Operation::GetRecords);
    server.faults().inject(rule.times(8));
    stream.put("truck", "last").unwrap();
    stream.split(&bench.served.shard()).unwrap();
    stream.put("truck", "child").unwrap();
    bench.processes(&["first", "last", "child"]).await;
    bench.ends(worker).await;
}
