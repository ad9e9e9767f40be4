//! The documented policies against the calls that reading a stream makes.

use std::collections::BTreeSet;
use std::path::Path;

use kcl_core::dead_letter::DeadLetterSink as _;
use kcl_core::source::{ShardFilter, StartPosition, StreamSource as _};
use kcl_kinesis::FanOut;
use serde_json::{Value, json};

use crate::dead_letters::{letter, put, sink};
use crate::server::{CONSUMER_ARN, Server, error, iterator, next, ok, records, shard, summary};

/// The three policies of the page, in their order: each action, and whether it is granted on the consumer.
fn documented() -> [BTreeSet<(String, bool)>; 3] {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/iam-policy.md");
    let page = std::fs::read_to_string(page).unwrap();
    let blocks = page.split("```json").skip(1);
    let policies = blocks.map(|rest| {
        let block = rest.split("```").next().unwrap();
        granted(&serde_json::from_str(block).unwrap())
    });
    policies.collect::<Vec<_>>().try_into().unwrap()
}

fn granted(policy: &Value) -> BTreeSet<(String, bool)> {
    let mut granted = BTreeSet::new();
    for statement in policy["Statement"].as_array().unwrap() {
        let on_consumer = statement["Resource"].as_str().unwrap().contains("/consumer/");
        let actions = statement["Action"].as_array().unwrap();
        granted.extend(
            actions
                .iter()
                .map(|action| (action.as_str().unwrap().to_owned(), on_consumer)),
        );
    }
    granted
}

/// The requests to the server, as IAM names them.
fn called(server: &Server) -> BTreeSet<(String, bool)> {
    let on_consumer = ["DescribeStreamConsumer", "SubscribeToShard"];
    let operations = server.operations().into_iter();
    operations
        .map(|operation| {
            (
                format!("kinesis:{operation}"),
                on_consumer.contains(&operation.as_str()),
            )
        })
        .collect()
}

/// The requests of every worker: which stream it is, and its shards.
async fn begin(server: &Server) {
    server.then([summary(json!({})), ok(json!({ "Shards": [] }))]);
    let stream = server.stream();
    stream.identity().await.unwrap();
    stream.shards(ShardFilter::All, None).await.unwrap();
}

async fn poll(server: &Server) {
    server.then([iterator("i0"), records(&[1], "i1")]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    next(&mut reader).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_policy_of_a_polling_worker_is_exact() {
    let server = Server::default();
    begin(&server).await;
    poll(&server).await;
    let [polls, ..] = documented();
    assert_eq!(called(&server), polls);
}

#[tokio::test(start_paused = true)]
async fn the_policy_of_a_subscribing_worker_is_exact() {
    let server = Server::default();
    begin(&server).await;
    poll(&server).await;
    let [_, subscribes, _] = documented();
    server.then([
        summary(json!({})),
        error(400, "ResourceNotFoundException"),
        error(400, "LimitExceededException"),
        ok(json!({ "Consumers": [] })),
        error(400, "ResourceInUseException"),
    ]);
    for fan_out in [FanOut::consumer("app"), FanOut::consumer_arn(CONSUMER_ARN)] {
        let stream = server.stream().with_fan_out(fan_out);
        stream
            .open(&shard(), StartPosition::TrimHorizon)
            .await
            .unwrap_err();
    }
    assert_eq!(called(&server), subscribes);
}

#[tokio::test(start_paused = true)]
async fn policy_for_dead_letters_is_exact() {
    let server = Server::default();
    server.then([put()]);
    sink(&server).send(&letter()).await.unwrap();
    let [.., sets_aside] = documented();
    assert_eq!(called(&server), sets_aside);
}
