//! One application, many streams, on real protocol servers: added and removed while the workers run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::primitives::Blob;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::lease_store::{Lease, LeaseStore as _};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::Settings;
use kcl_core::streams::{StreamSet, TrackedStream};
use kcl_core::{Worker, WorkerHandle};
use kcl_kinesis::KinesisStream;
use kcl_lease_dynamo::DynamoLeaseStore;
use kcl_tests::testbed::Testbed;
use kcl_tests::testbed_or_skip;

const PATIENCE: Duration = Duration::from_secs(30);

/// How often each record of each stream was processed.
type Seen = Arc<Mutex<BTreeMap<(String, String), u32>>>;

struct Counts(Seen);

#[async_trait]
impl RecordProcessor for Counts {
    async fn process_records(
        &mut self,
        batch: RecordBatch,
        shard: &ShardContext,
    ) -> Result<(), ProcessorError> {
        for record in &batch {
            let text = String::from_utf8(record.data().to_vec())?;
            let key = (shard.stream().to_owned(), text);
            *self.0.lock().unwrap().entry(key).or_default() += 1;
        }
        Ok(())
    }
}

struct Scene {
    testbed: Testbed,
    application: String,
    seen: Seen,
}

impl Scene {
    fn stream(&self, name: &str) -> TrackedStream {
        TrackedStream::new(KinesisStream::new(&self.testbed.kinesis_config(), name))
    }

    fn start(&self, id: &str, streams: &StreamSet) -> WorkerHandle {
        let seen = Arc::clone(&self.seen);
        let mut settings = Settings::default();
        settings.leases.failover_time = Duration::from_secs(3);
        Worker::builder(&self.application)
            .worker_id(id)
            .streams(streams.clone())
            .lease_store(DynamoLeaseStore::new(
                &self.testbed.dynamo_config(),
                &self.application,
            ))
            .processor(move |_: &ShardContext| Counts(Arc::clone(&seen)))
            .settings(settings)
            .build()
            .unwrap()
            .start()
    }

    async fn put(&self, stream: &str, records: std::ops::Range<u32>) {
        for n in records {
            let put = self.testbed.kinesis().put_record().stream_name(stream);
            put.partition_key(format!("key-{n}"))
                .data(Blob::new(n.to_string()))
                .send()
                .await
                .expect("the record is taken");
        }
    }

    /// Waits until each record up to this number was processed, each once.
    async fn all_seen(&self, stream: &str, records: u32) {
        let clock = TokioClock::new();
        let expected: BTreeMap<String, u32> = (0..records).map(|n| (n.to_string(), 1)).collect();
        let seen = || -> BTreeMap<String, u32> {
            let seen = self.seen.lock().unwrap();
            let of_stream = seen.iter().filter(|((name, _), _)| name == stream);
            of_stream
                .map(|((_, text), count)| (text.clone(), *count))
                .collect()
        };
        let waited = clock
            .timeout(PATIENCE, async {
                while seen() != expected {
                    clock.sleep(Duration::from_millis(50)).await;
                }
            })
            .await;
        assert!(waited.is_ok(), "of {stream} were seen {:?}", seen());
    }

    async fn leases(&self) -> Vec<Lease> {
        let store = DynamoLeaseStore::new(&self.testbed.dynamo_config(), &self.application);
        store.scan().await.unwrap().leases
    }
}

#[tokio::test]
async fn streams_are_shared_under_the_keys_of_java() {
    let testbed = testbed_or_skip!();
    let [trucks, ships] = ["trucks", "ships"].map(|name| testbed.unique(name));
    testbed.create_stream(&trucks, 2).await;
    testbed.create_stream(&ships, 2).await;
    let scene = Scene {
        application: testbed.unique("fleet"),
        seen: Seen::default(),
        testbed,
    };
    scene.put(&trucks, 0..20).await;
    scene.put(&ships, 0..20).await;

    let streams = StreamSet::new([scene.stream(&trucks)]);
    let workers = [scene.start("a", &streams), scene.start("b", &streams)];
    scene.all_seen(&trucks, 20).await;
    streams.add(scene.stream(&ships));
    scene.all_seen(&ships, 20).await;
    for worker in &workers {
        worker.wait_for(|status| status.leases.len() == 2).await;
    }

    streams.remove(&ships);
    for worker in &workers {
        let of_ships = |key: &str| key.contains(&ships);
        worker
            .wait_for(|status| !status.leases.keys().any(|key| of_ships(key.as_str())))
            .await;
    }
    scene.put(&ships, 20..30).await;
    scene.put(&trucks, 20..30).await;
    scene.all_seen(&trucks, 30).await;
    streams.add(scene.stream(&ships));
    scene.all_seen(&ships, 30).await;

    let identifiers: BTreeSet<String> = scene
        .leases()
        .await
        .into_iter()
        .map(|lease| {
            let stream = lease.stream.expect("a row of many streams").to_string();
            assert_eq!(lease.key.as_str(), format!("{stream}:{}", lease.shard));
            stream
        })
        .collect();
    assert_eq!(identifiers.len(), 2);
    for (identifier, name) in identifiers.iter().zip(BTreeSet::from([&ships, &trucks])) {
        let parts: Vec<_> = identifier.split(':').collect();
        assert!(
            parts[0].len() == 12 && parts[1] == name && parts[2].parse::<u64>().unwrap() > 0,
            "{identifier}"
        );
    }
    for worker in workers {
        worker.shutdown();
        assert!(worker.join().await.unwrap().is_clean());
    }
    scene.testbed.delete_stream(&trucks).await;
    scene.testbed.delete_stream(&ships).await;
}
