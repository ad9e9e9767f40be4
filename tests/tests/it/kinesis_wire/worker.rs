//! A whole worker by enhanced fan-out, over the wire.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{Clock as _, ClockExt as _, Moment, TokioClock};
use kcl_core::lease_store::LeaseStore as _;
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::Settings;
use kcl_core::source::StreamSource as _;
use kcl_core::types::{Record, ShardId};
use kcl_core::{ErrorKind, Worker};
use kcl_kinesis::{FanOut, KinesisStream};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use kinesis_local::{Operation, WireOptions, WireServer};

use crate::kinesis_wire::served::{PATIENCE, Read, Served, aws};

/// The processed records of each shard, in order, and when.
type Seen = Arc<Mutex<BTreeMap<ShardId, Vec<(Record, Moment)>>>>;

struct Notes {
    seen: Seen,
    clock: TokioClock,
}

#[async_trait]
impl RecordProcessor for Notes {
    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        let now = self.clock.now();
        let noted = batch.iter().map(|record| (record.detached(), now));
        let mut seen = self.seen.lock().unwrap();
        seen.entry(shard.shard().clone()).or_default().extend(noted);
        Ok(())
    }
}

#[tokio::test]
async fn worker_by_fan_out_follows_split_and_merge() {
    let served = Served::new(1, WireOptions::default(), Read::FanOut).await;
    let (seen, clock) = (Seen::default(), served.clock);
    let noted = Arc::clone(&seen);
    let worker = Worker::builder("suite")
        .worker_id("a")
        .stream(served.source.clone())
        .lease_store(MemoryLeaseStore::new())
        .processor(move |_: &ShardContext| Notes {
            seen: Arc::clone(&noted),
            clock,
        })
        .build()
        .unwrap()
        .start();
    let mut put = BTreeMap::<String, Moment>::new();
    let mut put_some = async |from: u32| {
        for n in from..from + 50 {
            put.insert(format!("{n}"), clock.now());
            served.stream.put(format!("truck-{n}"), format!("{n}")).unwrap();
            clock.sleep(Duration::from_millis(10)).await;
        }
    };
    worker.wait_for(|status| status.leases.len() == 1).await;
    clock.sleep(Duration::from_secs(2)).await;
    put_some(0).await;
    let [low, high] = served.stream.split(&served.shard()).unwrap();
    worker.wait_for(|status| status.leases.len() == 2).await;
    put_some(50).await;
    served.stream.merge(&low, &high).unwrap();
    worker.wait_for(|status| status.leases.len() == 1).await;
    put_some(100).await;

    let all = async {
        while seen.lock().unwrap().values().map(Vec::len).sum::<usize>() < 150 {
            clock.sleep(Duration::from_millis(20)).await;
        }
    };
    clock.timeout(PATIENCE, all).await.expect("all is processed");
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());

    let mut expected = BTreeMap::<ShardId, Vec<Record>>::new();
    for (shard, record) in served.stream.put_log() {
        expected.entry(shard).or_default().push(record);
    }
    let seen = seen.lock().unwrap();
    let got: BTreeMap<_, Vec<_>> = seen
        .iter()
        .map(|(shard, records)| {
            (
                shard.clone(),
                records
                    .iter()
                    .map(|(record, _)| record.sequence_number())
                    .collect(),
            )
        })
        .collect();
    let wanted: BTreeMap<_, Vec<_>> = expected
        .iter()
        .map(|(shard, records)| {
            (
                shard.clone(),
                records.iter().map(Record::sequence_number).collect(),
            )
        })
        .collect();
    assert_eq!(got, wanted, "each record once, in order");

    // The first of each shard wait for its subscription; the others are pushed.
    let mut waits: Vec<_> = seen
        .values()
        .flatten()
        .map(|(record, at)| at.saturating_since(put[std::str::from_utf8(record.data()).unwrap()]))
        .collect();
    waits.sort();
    println!("put to processed: p50 {:?}, p99 {:?}", waits[75], waits[148]);
    assert!(waits[75] < Duration::from_millis(100), "{waits:?}");
    assert_eq!(served.server.requests().count(Operation::GetRecords), 0);
    // Four shards, each of one subscription.
    assert_eq!(served.server.requests().count(Operation::SubscribeToShard), 4);
}

#[tokio::test]
async fn a_consumer_of_another_stream_delivers_nothing() {
    let [trucks, ships] = ["trucks", "ships"].map(|name| MemoryStream::builder(name).build());
    let streams = [trucks.clone(), ships.clone()];
    let server = WireServer::start(streams, WireOptions::unlimited())
        .await
        .unwrap();
    let config = aws(&server);
    let arn = KinesisStream::new(&config, "ships").identity().await.unwrap().arn;
    let registration = aws_sdk_kinesis::Client::new(&config).register_stream_consumer();
    let registration = registration.stream_arn(arn).consumer_name("app");
    let registered = registration.send().await.unwrap().consumer.unwrap();
    trucks.put("k", "truck").unwrap();
    ships.put("k", "ship").unwrap();
    let fan_out = FanOut::consumer_arn(registered.consumer_arn);
    let (leases, seen) = (MemoryLeaseStore::new(), Seen::default());
    let noted = Arc::clone(&seen);
    let worker = Worker::builder("suite")
        .worker_id("a")
        .stream(KinesisStream::new(&config, "trucks").with_fan_out(fan_out))
        .lease_store(leases.clone())
        .processor(move |_: &ShardContext| Notes {
            seen: Arc::clone(&noted),
            clock: TokioClock::new(),
        })
        .build()
        .unwrap()
        .start();
    let error = TokioClock::new()
        .timeout(PATIENCE, worker.join())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(
        error.to_string().contains("is a consumer of the stream"),
        "{error}"
    );
    assert!(seen.lock().unwrap().is_empty() && leases.scan().await.unwrap().leases.is_empty());
}

#[tokio::test]
async fn idle_subscription_is_no_stall() {
    let served = Served::new(1, WireOptions::default(), Read::FanOut).await;
    let mut settings = Settings::default();
    settings.leases.failover_time = Duration::from_secs(2);
    settings.reading.stall_timeout = Duration::from_secs(2);
    let (seen, clock) = (Seen::default(), served.clock);
    let worker = Worker::builder("suite")
        .worker_id("a")
        .stream(served.source.clone())
        .lease_store(MemoryLeaseStore::new())
        .settings(settings)
        .processor(move |_: &ShardContext| Notes {
            seen: Arc::clone(&seen),
            clock,
        })
        .build()
        .unwrap()
        .start();
    worker.wait_for(|status| status.leases.len() == 1).await;
    for _ in 0..80 {
        clock.sleep(Duration::from_millis(100)).await;
        let status = worker.status();
        assert!(
            status.leases.values().all(|lease| lease.stalls == 0),
            "{status:?}"
        );
    }
    worker.shutdown();
    worker.join().await.unwrap();
}
