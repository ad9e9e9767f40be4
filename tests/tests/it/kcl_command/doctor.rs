//! Each finding that a server can show, found by the command itself.

use std::sync::Arc;
use std::time::Duration;

use kcl_core::lease_store::{LeaseStore as _, WorkerChange};
use kcl_core::types::Incarnation;
use kcl_lease_memory::MemoryStream;
use kcl_tests::command::{Kcl, worker_row};
use kcl_tests::testbed_or_skip;
use kinesis_local::{WireOptions, WireServer};
use serde_json::{Value, json};

use super::kcl;
use super::scripted::{Answer, serve};
use crate::lease_conformance::backends::Backend;

/// The codes of the findings.
fn codes(kcl: &Kcl, arguments: &[&str]) -> Vec<String> {
    let found = kcl.run(&[&["doctor", "-o", "json"], arguments].concat());
    let document: Value =
        serde_json::from_str(&found.output).unwrap_or_else(|error| panic!("{error}: {found:?}"));
    let findings = document["findings"].as_array().unwrap();
    assert!(
        findings
            .iter()
            .all(|finding| finding["advice"].as_str().is_some_and(|text| !text.is_empty()))
    );
    findings
        .iter()
        .map(|finding| finding["code"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_tables_are_examined_on_servers() {
    let testbed = testbed_or_skip!();
    let backend = Backend::all(&testbed, "kcl-doctor").into_iter().next().unwrap();
    backend.prepared().await;
    let app = backend.table.as_str();
    let trucks = MemoryStream::builder("trucks").shards(2).build();
    let server = WireServer::start([trucks], WireOptions::default()).await.unwrap();
    let kcl = kcl(&testbed, "kcl-doctor").with("AWS_ENDPOINT_URL_KINESIS", server.endpoint());

    assert_eq!(
        codes(&kcl, &[app, "--stream", "trucks"]),
        [] as [&str; 0],
        "all is well"
    );
    assert_eq!(codes(&kcl, &[app, "--stream", "lorries"]), ["stream-missing"]);
    let elsewhere = "arn:aws:kinesis:eu-west-1:000000000000:stream/trucks";
    assert_eq!(codes(&kcl, &[app, "--stream", elsewhere]), ["wrong-region"]);
    assert_eq!(codes(&kcl, &[&testbed.unique("none")]), ["table-missing"]);
    let other = testbed.unique("kcl-doctor-other");
    backend.create_table(&other, "id").await;
    assert_eq!(codes(&kcl, &[&other]), ["table-foreign"]);
    assert_eq!(
        codes(&kcl, &["another-application", "--table", app]),
        ["table-foreign"]
    );

    let late = MemoryStream::builder("trucks")
        .service_time_offset_millis(60_000)
        .build();
    let late = WireServer::start([late], WireOptions::default()).await.unwrap();
    let behind = kcl.with("AWS_ENDPOINT_URL_KINESIS", late.endpoint());
    assert_eq!(codes(&behind, &[app, "--stream", "trucks"]), ["clock-off"]);

    // Consumers of the stream, up to the limit.
    let (_, config) = testbed.dynamo_configs().into_iter().next().unwrap();
    let config = config
        .into_builder()
        .endpoint_url(server.endpoint().to_string())
        .build();
    let client = kcl_kinesis::aws_sdk_kinesis::Client::new(&config);
    let summary = client
        .describe_stream_summary()
        .stream_name("trucks")
        .send()
        .await
        .unwrap();
    let arn = summary.stream_description_summary.unwrap().stream_arn;
    for number in 0..20 {
        let register = client.register_stream_consumer().stream_arn(&arn);
        let registered = register.consumer_name(format!("consumer-{number}")).send().await;
        // The service allows five at once to be created.
        if registered.is_err() {
            kcl_tests::wait::eventually(Duration::from_secs(60), async || {
                let register = client.register_stream_consumer().stream_arn(&arn);
                register
                    .consumer_name(format!("consumer-{number}"))
                    .send()
                    .await
                    .map_err(|error| format!("{error:?}"))
            })
            .await;
        }
    }
    assert_eq!(codes(&kcl, &[app, "--stream", "trucks"]), ["consumers-used-up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn java_worker_beside_ours_is_found() {
    let testbed = testbed_or_skip!();
    let backend = Backend::all(&testbed, "kcl-doctor-java")
        .into_iter()
        .next()
        .unwrap();
    let store = backend.prepared().await;
    let run = Incarnation::from_random_bytes([1; 16]);
    let now = kcl_core::clock::Clock::wall(&kcl_core::clock::TokioClock::new());
    let row = worker_row(&"ours".parse().unwrap(), run, now);
    store.change_worker(&WorkerChange::Announce(row)).await.unwrap();
    let java = [
        ("leaseKey", json!({ "S": "java-1" })),
        ("entityType", json!({ "S": "WORKER_METRIC_STATS" })),
        ("lut", json!({ "N": now.as_secs().to_string() })),
    ];
    let java = java.map(|(name, value)| {
        crate::lease_conformance::backend_specific::attribute((&name.to_owned(), &value))
    });
    backend.put(java).await;
    let kcl = kcl(&testbed, "kcl-doctor-java");
    assert_eq!(codes(&kcl, &[&backend.table]), ["java-workers", "no-leader"]);
}

fn error(code: &str) -> Answer {
    (400, json!({ "__type": code, "message": "said by the script" }))
}

#[tokio::test(flavor = "multi_thread")]
async fn denials_and_keys_are_found_by_dry_runs() {
    let testbed = testbed_or_skip!();
    let backend = Backend::all(&testbed, "kcl-doctor-denied")
        .into_iter()
        .next()
        .unwrap();
    backend.prepared().await;
    let script = Arc::new(|operation: &str, input: &Value| match operation {
        "DescribeStreamSummary" => (
            200,
            json!({ "StreamDescriptionSummary": {
                "StreamName": "trucks", "StreamARN": "arn:aws:kinesis:us-east-1:000000000000:stream/trucks", "StreamStatus": "ACTIVE",
                "RetentionPeriodHours": 24, "StreamCreationTimestamp": 1_700_000_000.0, "EnhancedMonitoring": [], "OpenShardCount": 1,
                "StreamModeDetails": { "StreamMode": "ON_DEMAND" }, "RecordDistributionStrategy": "AUTO",
            }}),
        ),
        "ListShards" => (
            200,
            json!({ "Shards": [{
                "ShardId": "shardId-000000000000", "HashKeyRange": { "StartingHashKey": "0", "EndingHashKey": "340282366920938463463374607431768211455" },
                "SequenceNumberRange": { "StartingSequenceNumber": "1" },
            }]}),
        ),
        "GetShardIterator" if input["DryRun"] == true => error("DryRunOperationException"),
        "GetShardIterator" => (200, json!({ "ShardIterator": "here" })),
        "GetRecords" => error("AccessDeniedException"),
        other => panic!("{other} was not expected"),
    });
    let kcl = kcl(&testbed, "kcl-doctor-denied").with("AWS_ENDPOINT_URL_KINESIS", &serve(script));
    let app = backend.table.as_str();
    assert_eq!(
        codes(&kcl, &[app, "--stream", "trucks"]),
        ["missing-right", "auto-keys"]
    );
    assert_eq!(
        codes(&kcl, &[app, "--stream", "trucks", "--needs-keys"]),
        ["auto-keys", "missing-right"]
    );

    let denied = kcl.with(
        "AWS_ENDPOINT_URL_DYNAMODB",
        &serve(Arc::new(|_, _| error("AccessDeniedException"))),
    );
    let looked = denied.run(&["status", app]);
    assert!(
        looked.code == 3 && looked.complaint.contains("dynamodb:Scan"),
        "{looked:?}"
    );
    assert_eq!(codes(&denied, &[app]), ["no-access"]);
}
