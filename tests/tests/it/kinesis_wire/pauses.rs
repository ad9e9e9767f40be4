//! A worker that is paused for longer than iterators and subscriptions live: no error, and it goes on exactly where it was.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::ClockExt as _;
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::status::WaitReason;
use kcl_core::{FlowScope, Worker, WorkerHandle};
use kcl_lease_memory::MemoryLeaseStore;
use kinesis_local::WireOptions;

use crate::kinesis_wire::served::{PATIENCE, Read, Served};

const SECOND: Duration = Duration::from_secs(1);

type Seen = Arc<Mutex<Vec<String>>>;

struct Notes(Seen);

#[async_trait]
impl RecordProcessor for Notes {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        let text = batch
            .iter()
            .map(|record| String::from_utf8_lossy(record.data()).into_owned());
        self.0.lock().unwrap().extend(text);
        Ok(())
    }
}

fn start(served: &Served) -> (WorkerHandle, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let worker = Worker::builder("suite")
        .worker_id("a")
        .stream(served.source.clone())
        .lease_store(MemoryLeaseStore::new())
        .processor(move |_: &ShardContext| Notes(Arc::clone(&noted)))
        .build()
        .unwrap()
        .start();
    (worker, seen)
}

async fn seen_up_to(served: &Served, seen: &Seen, number: usize) {
    let all = async {
        while seen.lock().unwrap().len() < number {
            served.clock.sleep(Duration::from_millis(10)).await;
        }
    };
    let in_time = served.clock.timeout(PATIENCE, all).await;
    assert!(in_time.is_ok(), "{:?} of {number}", seen.lock().unwrap());
}

async fn survives_a_long_pause(read: Read) {
    let lifetime = 3 * SECOND / 2;
    let options = WireOptions {
        iterator_lifetime: lifetime,
        subscription_lifetime: lifetime,
        resubscribe_after: Duration::ZERO,
        ..WireOptions::default()
    };
    let served = Served::new(1, options, read).await;
    let (worker, seen) = start(&served);
    let put = |numbers: std::ops::Range<usize>| numbers.for_each(|number| served.put(&number.to_string()));
    let scenario = async {
        put(0..3);
        seen_up_to(&served, &seen, 3).await;
        for round in 1..3 {
            worker.flow().pause(FlowScope::Worker);
            let paused = worker.wait_for(|status| {
                let waits = status.leases.values().filter_map(|lease| lease.waiting);
                waits.map(|(reason, _)| reason).eq([WaitReason::Paused])
            });
            served
                .clock
                .timeout(PATIENCE, paused)
                .await
                .expect("it says that it is paused");
            put(round * 3..round * 3 + 2);
            // Longer than anything lives, and than a subscription is kept that nobody reads.
            served.clock.sleep(4 * lifetime).await;
            put(round * 3 + 2..round * 3 + 3);
            assert!(
                seen.lock().unwrap().len() <= round * 3 + 1,
                "what was on its way, if anything"
            );
            worker.flow().resume(FlowScope::Worker);
            seen_up_to(&served, &seen, round * 3 + 3).await;
        }
    };
    let trouble = worker.wait_for(|status| {
        let mut leases = status.leases.values();
        leases.any(|lease| lease.trouble.is_some() || lease.concern.is_some())
    });
    tokio::select! {
        biased;
        status = trouble => panic!("an error surfaced: {status:?}"),
        () = scenario => {}
    }
    let numbers: Vec<_> = (0..9).map(|number: usize| number.to_string()).collect();
    assert_eq!(*seen.lock().unwrap(), numbers, "each once, and in order");
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
}

#[tokio::test]
async fn pause_beyond_iterators_surfaces_no_error() {
    survives_a_long_pause(Read::Cbor).await;
}

#[tokio::test]
async fn pause_beyond_subscriptions_surfaces_no_error() {
    survives_a_long_pause(Read::FanOut).await;
}
