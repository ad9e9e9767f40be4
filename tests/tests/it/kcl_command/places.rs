//! `export` and `import`: every place is kept, and none is brought into another stream.

use std::path::Path;

use kcl_core::lease_store::{Expect, Lease, LeaseChange, LeaseStore};
use kcl_core::source::{ShardFilter, StreamSource as _};
use kcl_core::types::{Incarnation, Position, RecordPosition, StreamIdentity, Timestamp};
use kcl_lease_memory::MemoryStream;
use kcl_tests::testbed_or_skip;
use kinesis_local::{WireOptions, WireServer};
use serde_json::{Value, json};

use super::kcl;
use crate::lease_conformance::backends::Backend;

/// Long ago: a place in the future is refused.
const AT: i64 = 1_700_000_000_000;

/// Leases of the shards of this stream: at a record, and at a time that an operator or a worker chose.
async fn lease_all(store: &dyn LeaseStore, stream: &MemoryStream, identity: &StreamIdentity) {
    let listed = stream.shards(ShardFilter::All, None).await.unwrap().shards;
    for (number, shard) in listed.iter().enumerate() {
        let start = shard.starting_sequence.clone();
        let lease = Lease::unowned(shard.id.clone(), Position::Latest);
        let lease = Lease {
            identity: Some(identity.clone()),
            checkpoint: match number {
                0 => Position::Record(RecordPosition::plain(start)),
                1 => Position::AtTimestamp,
                _ => Position::Latest,
            },
            reset_at: (number == 1).then(|| Timestamp::from_millis(AT)),
            pinned_start: (number == 2).then(|| Timestamp::from_millis(AT + 1)),
            ..lease
        };
        let key = lease.key.clone();
        let run = Incarnation::from_random_bytes([1; 16]);
        let create = LeaseChange::Create(Box::new(lease));
        store.change(&key, &Expect::Absent, &create, run).await.unwrap();
    }
}

fn written(file: &Path, document: &Value) -> String {
    std::fs::write(file, document.to_string()).unwrap();
    file.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn exported_places_return_to_their_stream_only() {
    let testbed = testbed_or_skip!();
    let trucks = MemoryStream::builder("trucks").shards(3).build();
    let lorries = MemoryStream::builder("lorries").shards(3).build();
    let streams = [trucks.clone(), lorries.clone()];
    let server = WireServer::start(streams, WireOptions::default()).await.unwrap();
    let kcl = kcl(&testbed, "kcl-places").with("AWS_ENDPOINT_URL_KINESIS", server.endpoint());
    let kcl = kcl.with("USER", "ana");
    let mut apps = Vec::new();
    for (name, stream) in [("trucks", &trucks), ("lorries", &lorries)] {
        let test = format!("kcl-places-{name}");
        let backend = Backend::all(&testbed, &test).into_iter().next().unwrap();
        let store = backend.prepared().await;
        let (_, config) = testbed.dynamo_configs().into_iter().next().unwrap();
        let config = config
            .into_builder()
            .endpoint_url(server.endpoint().to_string())
            .build();
        let identity = kcl_kinesis::KinesisStream::new(&config, name)
            .identity()
            .await
            .unwrap();
        lease_all(&store, stream, &identity).await;
        apps.push(backend.table.clone());
    }
    let [app, other] = [&apps[0], &apps[1]];

    let exported = kcl.json(&["export", app], 0);
    let rows = exported["checkpoints"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "{exported:#}");
    assert_eq!(
        (&rows[1]["checkpoint"], &rows[1]["at_ms"]),
        (&"AT_TIMESTAMP".into(), &AT.into()),
        "{exported:#}"
    );
    assert_eq!(rows[2]["at_ms"], AT + 1, "{exported:#}");
    assert!(rows[0]["stream_created_ms"].is_i64(), "{exported:#}");

    let folder = testbed.scratch().join(testbed.unique("kcl-places-files"));
    std::fs::create_dir_all(&folder).unwrap();
    let file = written(&folder.join("trucks.json"), &exported);
    let planned = kcl.json(&["import", app, &file], 0);
    assert_eq!(planned.as_array().unwrap().len(), 3, "{planned:#}");
    assert_eq!(planned[0]["is_executed"], false);
    let refused = kcl.run(&["import", other, &file, "--execute"]);
    assert!(
        refused.code == 4 && refused.complaint.contains("stream/trucks"),
        "{refused:?}"
    );

    // Behind every record of the shard, and in a shard without a lease.
    let mut beyond = exported.clone();
    beyond["checkpoints"][0]["checkpoint"] = json!("9".repeat(56));
    let file = written(&folder.join("beyond.json"), &beyond);
    let refused = kcl.run(&["import", app, &file, "--execute"]);
    assert!(
        refused.code == 4 && refused.complaint.contains("no place"),
        "{refused:?}"
    );
    let mut unknown = exported.clone();
    unknown["checkpoints"][2]["lease"] = json!("shardId-000000000099");
    let file = written(&folder.join("unknown.json"), &unknown);
    let refused = kcl.run(&["import", app, &file, "--execute"]);
    assert!(
        refused.code == 4 && refused.complaint.contains("has no lease"),
        "{refused:?}"
    );
    assert_eq!(
        kcl.json(&["export", app], 0)["checkpoints"],
        exported["checkpoints"],
        "nothing was written"
    );
    assert_eq!(
        kcl.json(
            &[
                "import",
                app,
                &folder.join("trucks.json").to_string_lossy(),
                "--execute"
            ],
            0
        )[1]["is_executed"],
        true
    );
    assert_eq!(
        kcl.json(&["export", app], 0)["checkpoints"],
        exported["checkpoints"]
    );
}
