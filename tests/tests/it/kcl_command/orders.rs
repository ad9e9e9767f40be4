//! Orders to workers that run: obeyed, answered, and seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::{Worker, WorkerHandle};
use kcl_kinesis::KinesisStream;
use kcl_lease_dynamo::DynamoLeaseStore;
use kcl_tests::testbed::Testbed;
use kcl_tests::testbed_or_skip;
use kcl_tests::wait::eventually;
use serde_json::Value;

use super::{PATIENCE, kcl};

struct Counter(Arc<AtomicU64>);

#[async_trait]
impl RecordProcessor for Counter {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.0.fetch_add(batch.iter().count() as u64, Ordering::Relaxed);
        Ok(())
    }
}

fn start(testbed: &Testbed, app: &str, stream: &str, name: &str, seen: &Arc<AtomicU64>) -> WorkerHandle {
    let seen = Arc::clone(seen);
    Worker::builder(app)
        .worker_id(name)
        .stream(KinesisStream::new(&testbed.kinesis_config(), stream))
        .lease_store(DynamoLeaseStore::new(&testbed.dynamo_config(), app))
        .processor(move |_: &ShardContext| Counter(Arc::clone(&seen)))
        .build()
        .unwrap()
        .start()
}

/// The answers of an order, which must all be the same.
fn answer(document: &Value) -> &str {
    let answers: Vec<&str> = document
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["answer"].as_str().unwrap())
        .collect();
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{document:#}");
    answers[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn running_workers_obey_and_answer_orders() {
    let testbed = testbed_or_skip!();
    let kcl = kcl(&testbed, "kcl-orders").with("USER", "ana");
    let (app, stream) = (testbed.unique("kcl-orders-app"), testbed.unique("kcl-orders"));
    testbed.create_stream(&stream, 2).await;
    let seen = Arc::new(AtomicU64::new(0));
    let first = start(&testbed, &app, &stream, "worker-1", &seen);
    first.wait_for(|status| status.leases.len() == 2).await;

    assert_eq!(
        kcl.run(&["pause", &app]).code,
        2,
        "all shards need to be asked for"
    );
    assert_eq!(kcl.run(&["pause", &app, "no-such-shard"]).code, 4);
    let planned = kcl.json(&["pause", &app, "--all", "--dry-run", "--author", "ana"], 0);
    assert_eq!(answer(&planned), "planned");
    let because = ["--author", "ana", "--reason", "the database is down"];
    let paused = kcl.json(&[&["pause", app.as_str(), "--all"][..], &because].concat(), 0);
    assert_eq!(
        (answer(&paused), &paused[0]["revision"]),
        ("obeyed", &1.into()),
        "{paused:#}"
    );
    let put = kcl.run(&["put", &stream, "--data", "x", "--count", "6"]);
    assert_eq!(put.code, 0, "{put:?}");
    let status = kcl.json(&["status", &app], 0);
    assert_eq!(status["summary"]["state"], "PAUSED", "{status:#}");
    let last = &status["shards"][0]["order_history"][0];
    assert_eq!(
        (&last["author"], &last["reason"]),
        (&"ana".into(), &"the database is down".into()),
        "{last:#}"
    );
    let why = kcl.run(&["why", &app, "shardId-000000000000"]);
    assert!(why.output.contains("The owner obeys it."), "{why:?}");
    assert_eq!(seen.load(Ordering::Relaxed), 0, "a paused shard starts no batch");

    let resumed = kcl.json(&["resume", &app, "--all", "--author", "ana"], 0);
    assert_eq!(answer(&resumed), "obeyed");
    eventually(PATIENCE, async || match seen.load(Ordering::Relaxed) {
        6 => Ok(()),
        other => Err(format!("{other} records")),
    })
    .await;
    let planned = kcl.json(&["reset", &app, "--all", "--to-earliest"], 0);
    assert_eq!(planned[0]["is_executed"], false, "{planned:#}");
    let reset = kcl.json(&["reset", &app, "--all", "--to-earliest", "--execute"], 0);
    assert_eq!(
        (&reset[0]["is_executed"], &reset[0]["to"]),
        (&true.into(), &"TRIM_HORIZON".into()),
        "{reset:#}"
    );
    eventually(PATIENCE, async || match seen.load(Ordering::Relaxed) {
        12 => Ok(()),
        other => Err(format!("{other} records, and each comes again")),
    })
    .await;
    let limited = kcl.json(&["limit", &app, "000$", "--records", "100", "--author", "ana"], 0);
    assert_eq!(
        (answer(&limited), &limited[0]["order"]),
        ("obeyed", &"limit to 100 records/s".into())
    );

    let second = start(&testbed, &app, &stream, "worker-2", &seen);
    second.wait_for(|status| status.leases.len() == 1).await;
    let owner = |document: &Value| {
        document["shards"][0]["owner"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let other = match owner(&kcl.json(&["status", &app], 0)).as_str() {
        "worker-1" => "worker-2",
        _ => "worker-1",
    };
    let moved = kcl.run(&["move", &app, "000$", "--to", other, "--author", "ana"]);
    assert_eq!(moved.code, 0, "{moved:?}");
    eventually(PATIENCE, async || {
        match owner(&kcl.json(&["status", &app, "000$"], 0)) {
            owner if owner == other => Ok(()),
            owner => Err(owner),
        }
    })
    .await;
    let drained = kcl.json(&["drain", &app, "worker-2", "--author", "ana", "--wait", "60"], 0);
    assert_eq!(answer(&drained), "obeyed", "{drained:#}");
    let workers = kcl.json(&["workers", &app], 0);
    assert_eq!(workers["workers"][1]["orders"][0], "drained", "{workers:#}");
    assert_eq!(workers["workers"][0]["leases"], 2, "{workers:#}");

    for worker in [first, second] {
        worker.shutdown();
        assert!(worker.join().await.unwrap().is_clean());
    }
    testbed.delete_stream(&stream).await;
}
