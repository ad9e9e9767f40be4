//! Throttling at the rates of Kinesis.

use aws_sdk_kinesis::types::ShardIteratorType;
use kinesis_local::{Operation, WireLimits, WireOptions};

use crate::wire_server::support::{NAME, Served, code, shard};

#[tokio::test]
async fn a_shard_is_read_five_times_a_second() {
    let served = Served::as_kinesis(2).await;
    let iterator = served.iterator(&shard(0), ShardIteratorType::Latest).await;
    let other = served.iterator(&shard(1), ShardIteratorType::Latest).await;
    for _ in 0..5 {
        served.read(&iterator).await;
    }
    let sixth = served.sdk.get_records().shard_iterator(&iterator).send().await;
    assert_eq!(code(sixth), "ProvisionedThroughputExceededException");
    served.read(&other).await;
    served.advance(1000);
    served.read(&iterator).await;
}

#[tokio::test]
async fn ten_mebibytes_cost_five_seconds_without_reads() {
    let served = Served::as_kinesis(1).await;
    let mebibyte = bytes::Bytes::from(vec![7; 1024 * 1024 - 3]);
    for _ in 0..10 {
        served.stream.put("key", mebibyte.clone()).unwrap();
    }
    let iterator = served.iterator(&shard(0), ShardIteratorType::TrimHorizon).await;
    let next = served.read(&iterator).await.next_shard_iterator.unwrap();
    served.advance(4_900);
    let early = served.sdk.get_records().shard_iterator(&next).send().await;
    assert_eq!(code(early), "ProvisionedThroughputExceededException");
    served.advance(100);
    served.read(&next).await;
}

#[tokio::test]
async fn iterators_are_handed_out_five_times_a_second() {
    let served = Served::as_kinesis(1).await;
    for _ in 0..5 {
        served.iterator(&shard(0), ShardIteratorType::Latest).await;
    }
    let call = served
        .sdk
        .get_shard_iterator()
        .stream_name(NAME)
        .shard_id(shard(0).as_str());
    let sixth = call.shard_iterator_type(ShardIteratorType::Latest).send().await;
    assert_eq!(code(sixth), "ProvisionedThroughputExceededException");
}

#[tokio::test]
async fn control_calls_are_throttled_at_rates_of_account() {
    let served = Served::as_kinesis(1).await;
    for _ in 0..20 {
        served
            .sdk
            .describe_stream_summary()
            .stream_name(NAME)
            .send()
            .await
            .unwrap();
    }
    let call = || served.sdk.describe_stream_summary().stream_name(NAME).send();
    assert_eq!(code(call().await), "LimitExceededException");
    for _ in 0..5 {
        served.sdk.list_streams().send().await.unwrap();
    }
    assert_eq!(
        code(served.sdk.list_streams().send().await),
        "LimitExceededException"
    );
    served.advance(1000);
    call().await.unwrap();
}

#[tokio::test]
async fn a_limit_is_what_the_test_says() {
    let mut limits = WireLimits {
        reads_per_second: Some(1),
        ..WireLimits::none()
    };
    limits.calls_per_second.insert(Operation::ListShards, 1);
    let options = WireOptions {
        limits,
        ..WireOptions::default()
    };
    let served = Served::with(1, options).await;
    let list = || served.sdk.list_shards().stream_name(NAME).send();
    list().await.unwrap();
    assert_eq!(code(list().await), "LimitExceededException");
    let iterator = served.iterator(&shard(0), ShardIteratorType::Latest).await;
    served.read(&iterator).await;
    let second = served.sdk.get_records().shard_iterator(iterator).send().await;
    assert_eq!(code(second), "ProvisionedThroughputExceededException");
}
