//! Streams that outlive the server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_sdk_kinesis::types::{
    EncryptionType, MetricsName, ShardIteratorType, StreamMode, StreamModeDetails, StreamStatus,
};
use kcl_lease_memory::MemoryStream;
use kcl_testkit::clock::ManualClock;
use kinesis_local::{WireOptions, WireServer};

use crate::wire_server::support::{NAME, Served, client, shard};

fn options(file: &Path) -> WireOptions {
    WireOptions {
        data_file: Some(file.to_owned()),
        ..WireOptions::unlimited()
    }
}

/// A file in the folder for tests that is not there yet.
fn fresh_file(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // It is there only after a former run.
    let _ = std::fs::remove_file(&path);
    path
}

#[tokio::test]
async fn everything_of_a_stream_comes_back() {
    let file = fresh_file("everything.json");
    let served = Served::with(2, options(&file)).await;
    let (sdk, arn) = (&served.sdk, served.arn().await);
    for number in 0..20 {
        served
            .stream
            .put(format!("key {number}"), format!("record {number}"))
            .unwrap();
    }
    served.stream.split(&shard(1)).unwrap();
    served.stream.reshard_to(2).unwrap();
    let retention = sdk.increase_stream_retention_period().stream_name(NAME);
    retention.retention_period_hours(48).send().await.unwrap();
    let mode = StreamModeDetails::builder()
        .stream_mode(StreamMode::OnDemand)
        .build()
        .unwrap();
    let update = sdk
        .update_stream_mode()
        .stream_arn(&arn)
        .stream_mode_details(mode);
    update.send().await.unwrap();
    let resize = sdk
        .update_max_record_size()
        .stream_arn(&arn)
        .max_record_size_in_kib(2048);
    resize.send().await.unwrap();
    let encrypt = sdk
        .start_stream_encryption()
        .stream_name(NAME)
        .key_id("alias/mine");
    encrypt.encryption_type(EncryptionType::Kms).send().await.unwrap();
    let metrics = sdk.enable_enhanced_monitoring().stream_name(NAME);
    metrics
        .shard_level_metrics(MetricsName::OutgoingBytes)
        .send()
        .await
        .unwrap();
    let register = sdk
        .register_stream_consumer()
        .stream_arn(&arn)
        .consumer_name("app");
    let consumer = register.tags("a", "b").send().await.unwrap().consumer.unwrap();
    for resource in [&arn, &consumer.consumer_arn] {
        let policy = sdk.put_resource_policy().resource_arn(resource).policy("{}");
        policy.send().await.unwrap();
    }
    let iterator = served.iterator(&shard(0), ShardIteratorType::TrimHorizon).await;
    let summary = async |sdk: &aws_sdk_kinesis::Client| {
        let call = sdk.describe_stream_summary().stream_name(NAME).send();
        call.await.unwrap().stream_description_summary.unwrap()
    };
    let (before, shards) = (summary(sdk).await, served.stream.shards_snapshot());
    let log = served.stream.put_log();
    served.server.stop().await;

    let clock = Arc::new(ManualClock::new());
    let again = WireServer::start_with_clock([], options(&file), clock)
        .await
        .unwrap();
    let sdk = client(again.endpoint());
    assert_eq!(summary(&sdk).await, before);
    assert_eq!(before.stream_status, StreamStatus::Active);
    let stream = again.stream(NAME).unwrap();
    assert_eq!(stream.shards_snapshot(), shards);
    assert_eq!(stream.put_log(), log);
    let call = sdk
        .describe_stream_consumer()
        .stream_arn(&arn)
        .consumer_name("app");
    let found = call.send().await.unwrap().consumer_description.unwrap();
    assert_eq!(found.consumer_arn, consumer.consumer_arn);
    let tags = sdk.list_tags_for_resource().resource_arn(&found.consumer_arn);
    assert_eq!(tags.send().await.unwrap().tags()[0].key, "a");
    for resource in [&arn, &found.consumer_arn] {
        let policy = sdk
            .get_resource_policy()
            .resource_arn(resource)
            .send()
            .await
            .unwrap();
        assert_eq!(policy.policy, "{}");
    }
    // An iterator of before goes on, and new records come after the old ones.
    let read = sdk.get_records().shard_iterator(iterator).send().await.unwrap();
    assert!(!read.records.is_empty());
    let (_, number) = stream.put("key", "later").unwrap();
    assert!(log.iter().all(|(_, record)| *record.sequence_number() < number));
}

#[tokio::test]
async fn changes_are_written_while_the_server_runs() {
    let file = fresh_file("while_running.json");
    let served = Served::with(1, options(&file)).await;
    served.stream.put("key", "precious").unwrap();
    let clock = kcl_core::clock::TokioClock::new();
    let deadline = kcl_core::clock::Clock::now(&clock) + crate::wire_server::support::PATIENCE;
    // In base64.
    while !std::fs::read_to_string(&file).unwrap().contains("cHJlY2lvdXM=") {
        assert!(kcl_core::clock::Clock::now(&clock) < deadline);
        served.advance(1000);
        tokio::task::yield_now().await;
    }
    served.server.save().unwrap();
}

#[tokio::test]
async fn deleted_stream_stays_deleted_after_a_stop() {
    let file = fresh_file("deleted.json");
    let options = WireOptions {
        data_file: Some(file.clone()),
        ..WireOptions::default()
    };
    let served = Served::with(1, options.clone()).await;
    let delete = served.sdk.delete_stream().stream_name(NAME);
    delete.send().await.unwrap();
    served.advance(60_000);
    served.server.stop().await;
    let clock = Arc::new(ManualClock::new());
    let again = WireServer::start_with_clock([], options, clock).await.unwrap();
    let listed = client(again.endpoint()).list_streams().send().await.unwrap();
    assert_eq!(listed.stream_names, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn saves_at_once_leave_a_whole_file() {
    let file = fresh_file("at_once.json");
    let options = WireOptions {
        data_file: Some(file.clone()),
        ..WireOptions::unlimited()
    };
    let stream = MemoryStream::builder(NAME).build();
    let server = WireServer::start([stream.clone()], options).await.unwrap();
    let failures: Vec<String> = std::thread::scope(|scope| {
        let savers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut failures = Vec::new();
                    for round in 0..60 {
                        stream.put("key", vec![7_u8; 1 + round * 997]).unwrap();
                        if let Err(error) = server.save() {
                            failures.push(error.to_string());
                        }
                        let text = std::fs::read(&file).unwrap();
                        if let Err(error) = serde_json::from_slice::<serde_json::Value>(&text) {
                            failures.push(error.to_string());
                        }
                    }
                    failures
                })
            })
            .collect();
        savers
            .into_iter()
            .flat_map(|saver| saver.join().unwrap())
            .collect()
    });
    assert_eq!(failures, Vec::<String>::new());
}
