//! `tail` and `--measure-lag` on streams that reshard and throttle.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kcl_lease_dynamo::DynamoLeaseStore;
use kcl_lease_memory::MemoryStream;
use kcl_tests::command::PaperFleet;
use kcl_tests::testbed_or_skip;
use kcl_tests::wait::eventually;
use kinesis_local::{WireOptions, WireServer};
use serde_json::{Value, json};

use super::scripted::serve;
use super::{PATIENCE, kcl};
use crate::lease_conformance::backends::Backend;

#[tokio::test(flavor = "multi_thread")]
async fn tail_follows_a_shard_to_its_children() {
    let testbed = testbed_or_skip!();
    let trucks = MemoryStream::builder("trucks").shards(1).build();
    let server = WireServer::start([trucks.clone()], WireOptions::default())
        .await
        .unwrap();
    let kcl = kcl(&testbed, "kcl-tail").with("AWS_ENDPOINT_URL_KINESIS", server.endpoint());
    trucks.put("key", "before").unwrap();
    let arguments = ["tail", "trucks", "--from", "earliest", "--max", "2", "--payload"];
    let (mut tail, output, complaint) = kcl.start(&arguments, "tail");
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    eventually(PATIENCE, async || match read(&output) {
        text if text.contains("before") => Ok(()),
        text => Err(text + &read(&complaint)),
    })
    .await;
    let shard = trucks.shards_snapshot()[0].shard.id.clone();
    trucks.split(&shard).unwrap();
    trucks.put("key", "after").unwrap();
    let ended = eventually(PATIENCE, async || match tail.try_wait().unwrap() {
        Some(status) => Ok(status),
        None => Err(read(&output) + &read(&complaint)),
    })
    .await;
    let text = read(&output);
    assert!(ended.success() && text.contains("after"), "{text}");
    let said = read(&complaint);
    assert!(
        said.contains("has ended; following shardId-000000000001 and shardId-000000000002"),
        "{said}"
    );
}

/// A stream of which one shard is throttled so many times; for ever where that is not said.
fn throttling(times: Option<u32>) -> String {
    let asked = AtomicU32::new(0);
    serve(Arc::new(move |operation: &str, input: &Value| match operation {
        "GetShardIterator" if input["ShardId"] == "shardId-000000000001" => {
            let asked = asked.fetch_add(1, Ordering::Relaxed);
            match times {
                Some(times) if asked >= times => (200, json!({ "ShardIterator": "here" })),
                _ => (
                    400,
                    json!({ "__type": "ProvisionedThroughputExceededException", "message": "said by the script" }),
                ),
            }
        }
        "GetShardIterator" => (200, json!({ "ShardIterator": "here" })),
        "GetRecords" => (
            200,
            json!({ "Records": [], "NextShardIterator": "next", "MillisBehindLatest": 1500 }),
        ),
        other => panic!("{other} was not expected"),
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn throttled_shard_does_not_fail_a_measurement() {
    let testbed = testbed_or_skip!();
    let backend = Backend::all(&testbed, "kcl-measured").into_iter().next().unwrap();
    let app = backend.table.as_str();
    let store: DynamoLeaseStore = backend.prepared().await;
    let fleet = PaperFleet {
        shards: 3,
        workers: 1,
        stream: "trucks".to_owned(),
    };
    fleet.write(&store).await;
    let kcl = kcl(&testbed, "kcl-measured");
    let source = |status: &Value, shard: usize| status["shards"][shard]["lag_source"].clone();

    let soon_over = kcl.with("AWS_ENDPOINT_URL_KINESIS", &throttling(Some(2)));
    let status = soon_over.json(&["status", app, "--measure-lag"], 0);
    assert!(
        (0..3).all(|shard| source(&status, shard) == "stream"),
        "{status:#}"
    );

    let never_over = kcl.with("AWS_ENDPOINT_URL_KINESIS", &throttling(None));
    let arguments = ["status", app, "--measure-lag", "--timeout", "2"];
    let status = never_over.json(&arguments, 0);
    assert_eq!(
        (source(&status, 0), source(&status, 1)),
        ("stream".into(), "row".into()),
        "{status:#}"
    );
    let said = never_over.run(&arguments).complaint;
    assert!(
        said.contains("the lag of shardId-000000000001 is unknown"),
        "{said}"
    );
}
