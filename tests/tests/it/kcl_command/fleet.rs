//! A worker that runs, and a fleet on paper.

use std::time::Duration;

use async_trait::async_trait;
use kcl_core::Worker;
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_kinesis::KinesisStream;
use kcl_lease_dynamo::DynamoLeaseStore;
use kcl_tests::command::PaperFleet;
use kcl_tests::testbed_or_skip;
use kcl_tests::wait::eventually;

use super::{PATIENCE, kcl, prepared};

struct Nothing;

#[async_trait]
impl RecordProcessor for Nothing {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_look_shows_the_running_worker() {
    let testbed = testbed_or_skip!();
    let kcl = kcl(&testbed, "kcl-fleet");
    let (app, stream) = (testbed.unique("kcl-app"), testbed.unique("kcl-stream"));
    testbed.create_stream(&stream, 2).await;
    let worker = Worker::builder(&app)
        .worker_id("worker-1")
        .stream(KinesisStream::new(&testbed.kinesis_config(), &stream))
        .lease_store(DynamoLeaseStore::new(&testbed.dynamo_config(), &app))
        .processor(|_: &ShardContext| Nothing)
        .build()
        .unwrap()
        .start();
    worker.wait_for(|status| status.leases.len() == 2).await;

    let put = kcl.run(&["put", &stream, "--data", "hello", "--count", "4", "-o", "json"]);
    assert_eq!((put.code, put.output.lines().count()), (0, 4), "{put:?}");
    let status = eventually(PATIENCE, async || {
        let status = kcl.json(&["status", &app, "--measure-lag"], 0);
        let is_checkpointed = |shard: &serde_json::Value| shard["checkpoint"] != "LATEST";
        let shards = status["shards"].as_array().unwrap();
        match shards.iter().any(is_checkpointed) {
            true => Ok(status),
            false => Err(format!("{status}")),
        }
    })
    .await;
    assert_eq!(status["summary"]["state"], "OK", "{status:#}");
    assert_eq!(status["summary"]["leader"], "worker-1");
    assert_eq!(status["summary"]["streams"][0], stream.as_str());
    for shard in status["shards"].as_array().unwrap() {
        assert_eq!(
            (&shard["owner"], &shard["state"]),
            (&"worker-1".into(), &"OK".into()),
            "{shard:#}"
        );
    }

    let workers = kcl.json(&["workers", &app], 0);
    assert_eq!(workers["workers"][0]["leases"], 2, "{workers:#}");
    assert_eq!(workers["workers"][0]["is_leader"], true);
    let listed = kcl.json(&["list", &format!("^{app}$")], 0);
    assert_eq!(listed[0]["application"], app.as_str(), "{listed:#}");
    assert_eq!(listed[0]["summary"]["live_workers"], 1);
    let why = kcl.run(&["why", &app, "shardId-000000000000", "--measure-lag"]);
    assert!(
        why.code == 0 && why.output.contains("worker-1 has it, the leader."),
        "{why:?}"
    );
    let lag = kcl.json(&["lag", &app, "--measure-lag", "--max-lag", "60"], 0);
    assert_eq!(
        (&lag["workers_wanted"], &lag["catch_up"]),
        (&1.into(), &"done".into()),
        "{lag:#}"
    );
    let export = kcl.json(&["export", &app], 0);
    assert_eq!(export["checkpoints"].as_array().unwrap().len(), 2);

    let tail = kcl.run(&["tail", &stream, "--from", "earliest", "--max", "4", "-o", "json"]);
    assert_eq!((tail.code, tail.output.lines().count()), (0, 4), "{tail:?}");
    assert!(
        !tail.output.contains("hello"),
        "no payload unless asked for: {tail:?}"
    );
    let shown = kcl.run(&["tail", &stream, "--from", "earliest", "--max", "1", "--payload"]);
    assert!(shown.output.contains("hello"), "{shown:?}");

    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
    let stuck = kcl.json(&["status", &app, "--stuck"], 1);
    assert_eq!(stuck["shards"][0]["state"], "UNOWNED", "{stuck:#}");
    testbed.delete_stream(&stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_have_exit_codes_and_advice() {
    let testbed = testbed_or_skip!();
    let kcl = kcl(&testbed, "kcl-exits");
    let usage = kcl.run(&["status"]);
    assert_eq!(usage.code, 2, "{usage:?}");
    let missing = kcl.run(&["status", &testbed.unique("nothing")]);
    assert!(
        missing.code == 4 && missing.complaint.contains("another region or account"),
        "{missing:?}"
    );
    let deaf = kcl.with("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:1");
    let unreachable = deaf.run(&["status", "app", "--timeout", "2"]);
    assert!(
        unreachable.code == 5 && unreachable.complaint.contains("is the endpoint reachable?"),
        "{unreachable:?}"
    );
    let no_stream = kcl.run(&["tail", &testbed.unique("nothing"), "--max", "1"]);
    assert_eq!(no_stream.code, 4, "{no_stream:?}");
    let estimate = kcl.json(
        &["estimate", "--records-per-second", "2500", "--record-size", "500"],
        0,
    );
    assert_eq!(estimate["shards"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_shards_are_shown_in_a_second() {
    let testbed = testbed_or_skip!();
    let kcl = kcl(&testbed, "kcl-many");
    let app = testbed.unique("kcl-many-app");
    let store = prepared(&testbed, &app).await;
    let fleet = PaperFleet {
        shards: 1000,
        workers: 50,
        stream: "trucks".to_owned(),
    };
    fleet.write(&store).await;
    let status = kcl.json(&["status", &app], 0);
    assert_eq!(status["summary"]["live_workers"], 50);
    assert_eq!(status["shards"].as_array().unwrap().len(), 1000);
    // The fastest of three: others use this machine as well.
    let runs = [0; 3].map(|_| kcl.run(&["status", &app]));
    let fastest = runs.iter().map(|ran| ran.took).min().unwrap();
    let largest = runs.iter().map(|ran| ran.peak_mib).fold(0.0, f64::max);
    println!("kcl status of 1,000 shards and 50 workers: {fastest:?}, {largest:.1} MiB");
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
    assert!(largest < 50.0 && largest > 1.0, "{largest} MiB");
}
