//! Bad input gives a worker one clear error that says what to do: no panic, no endless retry, and nothing written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use kcl_tests::fleet::drive::{Fleet, Programs, ReadMode, Shape};
use kcl_tests::fleet::processes::{Scene, build_example};
use kcl_tests::testbed::Testbed;
use kcl_tests::testbed_or_skip;

/// A service that does not answer is given a minute; everything else is known at once.
const PATIENCE: Duration = Duration::from_secs(100);
const WITHOUT_CREDENTIALS: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];

#[tokio::test]
async fn a_stream_that_does_not_exist_is_named() {
    let testbed = testbed_or_skip!();
    let (application, stream) = (testbed.unique("app"), testbed.unique("no-such-stream"));
    refused(
        Scene::new(&testbed, "bad-input"),
        &application,
        &stream,
        &[],
        &[&stream],
    )
    .await;
    assert!(
        !tables(&testbed).await.contains(&application),
        "a table was created for nothing"
    );
}

#[tokio::test]
async fn table_with_another_key_is_named_and_untouched() {
    let testbed = testbed_or_skip!();
    let (application, stream) = (testbed.unique("app"), testbed.unique("trucks"));
    testbed.create_stream(&stream, 1).await;
    let key = AttributeDefinition::builder()
        .attribute_name("id")
        .attribute_type(ScalarAttributeType::S)
        .build()
        .expect("complete");
    let schema = KeySchemaElement::builder()
        .attribute_name("id")
        .key_type(KeyType::Hash)
        .build()
        .expect("complete");
    let client = Client::new(&testbed.dynamo_config());
    let create = client
        .create_table()
        .table_name(&application)
        .billing_mode(BillingMode::PayPerRequest);
    create
        .attribute_definitions(key)
        .key_schema(schema)
        .send()
        .await
        .expect("the table is created");

    refused(
        Scene::new(&testbed, "bad-input"),
        &application,
        &stream,
        &[],
        &[&application, "leaseKey"],
    )
    .await;
    let rows = client
        .scan()
        .table_name(&application)
        .send()
        .await
        .expect("the table is readable");
    assert_eq!(rows.count(), 0, "something was written");
    testbed.delete_stream(&stream).await;
}

#[tokio::test]
async fn missing_credentials_are_error_and_not_panic() {
    let testbed = testbed_or_skip!();
    let (application, stream) = (testbed.unique("app"), testbed.unique("trucks"));
    let scene = Scene::new(&testbed, "bad-input")
        .without(WITHOUT_CREDENTIALS)
        .with("HOME", "/nonexistent");
    refused(scene, &application, &stream, &[], &["credentials"]).await;
}

#[tokio::test]
async fn silent_endpoint_is_given_up_in_time() {
    let testbed = testbed_or_skip!();
    let (application, stream) = (testbed.unique("app"), testbed.unique("trucks"));
    // Port 1 belongs to a service that nobody runs.
    let scene = Scene::new(&testbed, "bad-input").with("AWS_ENDPOINT_URL_KINESIS", "http://127.0.0.1:1");
    refused(scene, &application, &stream, &[], &[&stream]).await;
    assert!(
        !tables(&testbed).await.contains(&application),
        "a table was created for nothing"
    );
}

#[tokio::test]
async fn contradictory_settings_are_all_reported_at_once() {
    let testbed = testbed_or_skip!();
    let (application, stream) = (testbed.unique("app"), testbed.unique("trucks"));
    let flags = ["--failover-ms", "1", "--max-leases", "0"];
    let named = ["failover_time", "max_leases"];
    refused(
        Scene::new(&testbed, "bad-input"),
        &application,
        &stream,
        &flags,
        &named,
    )
    .await;
}

#[tokio::test]
async fn an_application_that_reads_another_stream_is_refused() {
    let testbed = testbed_or_skip!();
    let programs = Programs::build();
    let mut fleet = Fleet::start(
        &testbed,
        &programs,
        Shape {
            shards: 1,
            rate: 10,
            failover: Duration::from_secs(3),
            read: ReadMode::Polling,
        },
    )
    .await;
    fleet.start_worker();
    fleet.every_open_shard_is_consumed("the first stream").await;
    fleet.stop_producer().await;
    fleet.drain().await;
    let config = testbed.dynamo_config();
    let rows = async || {
        let rows = Client::new(&config)
            .scan()
            .table_name(&fleet.application)
            .send()
            .await;
        let rows = rows.expect("the table is readable").items.unwrap_or_default();
        rows.into_iter()
            .map(BTreeMap::from_iter)
            .collect::<Vec<BTreeMap<_, _>>>()
    };

    let before = rows().await;
    let other = testbed.unique("other");
    testbed.create_stream(&other, 1).await;
    refused(
        Scene::new(&testbed, "bad-input"),
        &fleet.application,
        &other,
        &[],
        &[&fleet.stream, &other],
    )
    .await;
    assert_eq!(rows().await, before, "something was written");
    testbed.delete_stream(&other).await;
    fleet.remove().await;
}

/// Runs a worker that must end by itself with one error in which all these words occur.
async fn refused(scene: Scene, application: &str, stream: &str, flags: &[&str], words: &[&str]) {
    let arguments = [
        "--application",
        application,
        "--stream",
        stream,
        "--worker-id",
        "worker-1",
    ];
    let mut worker = scene.start(&program(), "worker", &[&arguments[..], flags].concat());
    let status = worker.ended(PATIENCE).await;
    let printed = worker.printed();
    assert_eq!(status.code(), Some(1), "{printed}");
    assert!(!printed.contains("panicked"), "{printed}");
    let error = printed
        .lines()
        .find(|line| line.trim_start().starts_with("trucks_worker: "));
    let error = error.unwrap_or_else(|| panic!("there is no one line with the error:{printed}"));
    for word in words {
        assert!(error.contains(word), "{word} is not in: {error}");
    }
    assert_eq!(worker.entries(), Vec::new(), "the processor was called");
    scene.remove();
}

fn program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM
        .get_or_init(|| build_example("trucks_worker", false))
        .clone()
}

async fn tables(testbed: &Testbed) -> BTreeSet<String> {
    let client = Client::new(&testbed.dynamo_config());
    let mut pages = client.list_tables().into_paginator().items().send();
    let mut names = BTreeSet::new();
    while let Some(name) = pages.next().await {
        names.insert(name.expect("the tables are listed"));
    }
    names
}
