//! The testbed itself: what the other suites stand on.

use std::time::Duration;

use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::ShardIteratorType;
use kcl_tests::fleet::drive::ReadMode;
use kcl_tests::handlers::walk_by_key;
use kcl_tests::testbed::hash_keys;
use kcl_tests::testbed_or_skip;
use kcl_tests::wait::eventually;

#[tokio::test]
async fn a_record_that_was_put_is_read() {
    let testbed = testbed_or_skip!();
    let stream = testbed.unique("put-and-read");
    testbed.create_stream(&stream, 1).await;
    let client = testbed.kinesis();
    let put = client
        .put_record()
        .stream_name(&stream)
        .partition_key("truck-1")
        .data(Blob::new("north"));
    put.send().await.expect("the record is put");

    let shard = testbed.open_shards(&stream).await.remove(0);
    let data = eventually(Duration::from_secs(10), async || {
        let iterator = client
            .get_shard_iterator()
            .stream_name(&stream)
            .shard_id(shard.shard_id())
            .shard_iterator_type(ShardIteratorType::TrimHorizon);
        let iterator = iterator.send().await.map_err(|error| format!("{error:?}"))?;
        let records = client
            .get_records()
            .set_shard_iterator(iterator.shard_iterator)
            .send()
            .await;
        let records = records.map_err(|error| format!("{error:?}"))?;
        records
            .records()
            .first()
            .map(|record| record.data().clone())
            .ok_or_else(|| "no record".to_owned())
    })
    .await;
    assert_eq!(data.as_ref(), b"north");
    testbed.delete_stream(&stream).await;
}

#[tokio::test]
async fn shards_split_and_merge() {
    let testbed = testbed_or_skip!();
    let stream = testbed.unique("split-and-merge");
    testbed.create_stream(&stream, 2).await;
    let before = testbed.open_shards(&stream).await;
    testbed.split(&stream, &before[0]).await;

    let split = testbed.open_shards(&stream).await;
    assert_eq!(split.len(), 3);
    assert_eq!(hash_keys(&split[0]).1 + 1, hash_keys(&split[1]).0);
    assert_eq!(split[0].parent_shard_id(), Some(before[0].shard_id()));

    testbed.merge(&stream, &split[1], &split[2]).await;
    let merged = testbed.open_shards(&stream).await;
    assert_eq!(merged.len(), 2);
    assert_eq!(
        hash_keys(&merged[1]),
        (hash_keys(&split[1]).0, hash_keys(&split[2]).1)
    );
    assert_eq!(testbed.shards(&stream).await.len(), 5);
    testbed.delete_stream(&stream).await;
}

#[tokio::test]
async fn every_dynamodb_answers_under_its_own_name() {
    let testbed = testbed_or_skip!();
    let configs = testbed.dynamo_configs();
    assert!(!configs.is_empty());
    for (name, config) in configs {
        let tables = aws_sdk_dynamodb::Client::new(&config).list_tables().send().await;
        tables.unwrap_or_else(|error| panic!("{name} does not answer: {error:?}"));
    }
}

#[tokio::test]
async fn second_testbed_shares_servers_under_other_names() {
    let first = testbed_or_skip!();
    let second = testbed_or_skip!();
    assert_eq!(first.environment(), second.environment());
    assert_ne!(first.unique("table"), second.unique("table"));
}

#[tokio::test]
async fn handlers_keep_order_by_key_on_testbed() {
    let testbed = testbed_or_skip!();
    for read in [ReadMode::Polling, ReadMode::FanOut] {
        let calls = walk_by_key(&testbed, read, true).await;
        println!("{}, {read}: {calls} calls", testbed.kind());
    }
}
