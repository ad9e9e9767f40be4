//! Retention, the largest record, mode, distribution and prepared throughput.

use aws_sdk_kinesis::operation::put_record::builders::PutRecordFluentBuilder;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{
    MinimumThroughputBillingCommitmentInput, MinimumThroughputBillingCommitmentInputStatus,
    RecordDistributionStrategy, ShardIteratorType, StreamDescriptionSummary, StreamMode, StreamModeDetails,
    StreamStatus,
};
use kinesis_local::WireOptions;

use crate::wire_server::support::{NAME, Served, code, shard};

const HOUR: u64 = 3_600_000;

async fn summary(served: &Served) -> StreamDescriptionSummary {
    let call = served.sdk.describe_stream_summary().stream_name(NAME).send();
    call.await.unwrap().stream_description_summary.unwrap()
}

fn mode(mode: StreamMode) -> StreamModeDetails {
    StreamModeDetails::builder().stream_mode(mode).build().unwrap()
}

fn put(served: &Served, bytes: usize) -> PutRecordFluentBuilder {
    let call = served.sdk.put_record().stream_name(NAME).partition_key("key");
    call.data(Blob::new(vec![7; bytes]))
}

async fn unlimited() -> Served {
    Served::with(1, WireOptions::unlimited()).await
}

async fn retain(served: &Served, hours: i32) {
    let present = summary(served).await.retention_period_hours;
    if hours > present {
        let call = served.sdk.increase_stream_retention_period().stream_name(NAME);
        call.retention_period_hours(hours).send().await.unwrap();
    } else {
        let call = served.sdk.decrease_stream_retention_period().stream_name(NAME);
        call.retention_period_hours(hours).send().await.unwrap();
    }
    assert_eq!(summary(served).await.retention_period_hours, hours);
}

#[tokio::test]
async fn retention_removes_what_is_older() {
    let served = unlimited().await;
    assert_eq!(summary(&served).await.retention_period_hours, 24);
    retain(&served, 48).await;
    served.stream.put("key", "old").unwrap();
    served.advance(30 * HOUR);
    served.stream.put("key", "new").unwrap();
    let read = async || {
        let iterator = served.iterator(&shard(0), ShardIteratorType::TrimHorizon).await;
        let records = served.read(&iterator).await.records;
        let data = records.into_iter().map(|record| record.data.into_inner());
        data.collect::<Vec<_>>()
    };
    assert_eq!(read().await, [b"old", b"new"]);
    retain(&served, 24).await;
    assert_eq!(read().await, [b"new"]);
    // What is gone does not come back, and what is there stays as long as the new retention says.
    retain(&served, 168).await;
    assert_eq!(read().await, [b"new"]);
    served.advance(168 * HOUR);
    assert_eq!(read().await, [b"new"]);
    served.advance(1);
    assert!(read().await.is_empty());
}

#[tokio::test]
async fn closed_shard_is_listed_until_retention_ends() {
    let served = unlimited().await;
    retain(&served, 24).await;
    served.stream.put("key", "last").unwrap();
    served.stream.split(&shard(0)).unwrap();
    let listed = async || {
        let call = served.sdk.list_shards().stream_name(NAME).send();
        call.await.unwrap().shards.unwrap().len()
    };
    served.advance(24 * HOUR);
    assert_eq!(listed().await, 3);
    served.advance(1);
    assert_eq!(listed().await, 2);
    let call = served
        .sdk
        .get_shard_iterator()
        .stream_name(NAME)
        .shard_id(shard(0).as_str());
    let gone = call
        .shard_iterator_type(ShardIteratorType::TrimHorizon)
        .send()
        .await;
    assert_eq!(code(gone), "ResourceNotFoundException");
}

#[tokio::test]
async fn retention_keeps_to_its_bounds_and_direction() {
    let served = unlimited().await;
    let increase = |hours| {
        let call = served.sdk.increase_stream_retention_period().stream_name(NAME);
        call.retention_period_hours(hours).send()
    };
    let decrease = |hours| {
        let call = served.sdk.decrease_stream_retention_period().stream_name(NAME);
        call.retention_period_hours(hours).send()
    };
    increase(48).await.unwrap();
    for (hours, text) in [
        (8761, "too long"),
        (23, "too short"),
        (47, "Use DecreaseRetentionPeriod"),
    ] {
        let error = increase(hours).await.unwrap_err().into_service_error();
        assert!(error.is_invalid_argument_exception(), "{error:?}");
        assert!(error.meta().message().unwrap().contains(text), "{error:?}");
    }
    assert_eq!(code(decrease(49).await), "InvalidArgumentException");
    assert_eq!(code(decrease(23).await), "InvalidArgumentException");
    assert_eq!(summary(&served).await.retention_period_hours, 48);
}

#[tokio::test]
async fn stream_that_is_updated_takes_no_second_change() {
    let served = Served::as_kinesis(1).await;
    let increase = |hours| {
        let call = served.sdk.increase_stream_retention_period().stream_name(NAME);
        call.retention_period_hours(hours).send()
    };
    increase(48).await.unwrap();
    assert_eq!(summary(&served).await.stream_status, StreamStatus::Updating);
    let error = increase(72).await.unwrap_err().into_service_error();
    assert!(error.is_resource_in_use_exception(), "{error:?}");
    let said = error.meta().message().unwrap().to_owned();
    assert_eq!(
        said,
        "Stream trucks under account 000000000000 not ACTIVE, instead in state UPDATING"
    );
    served.advance(500);
    increase(72).await.unwrap();
}

#[tokio::test]
async fn record_may_be_as_large_as_stream_says() {
    let served = unlimited().await;
    let mib = 1 << 20;
    assert_eq!(summary(&served).await.max_record_size_in_kib, Some(1024));
    put(&served, mib - 3).send().await.unwrap();
    // The partition key counts, and nothing switches the rule off.
    assert_eq!(
        code(put(&served, mib - 2).send().await),
        "InvalidArgumentException"
    );
    let arn = served.arn().await;
    let resize = |kib| {
        let call = served.sdk.update_max_record_size().stream_arn(&arn);
        call.max_record_size_in_kib(kib).send()
    };
    for kib in [1023, 10_241] {
        assert_eq!(code(resize(kib).await), "ValidationException");
    }
    resize(10_240).await.unwrap();
    assert_eq!(summary(&served).await.max_record_size_in_kib, Some(10_240));
    put(&served, 10 * mib - 3).send().await.unwrap();
    assert_eq!(
        code(put(&served, 10 * mib - 2).send().await),
        "InvalidArgumentException"
    );
    let iterator = served.iterator(&shard(0), ShardIteratorType::TrimHorizon).await;
    let first = served.read(&iterator).await;
    let next = served.read(&first.next_shard_iterator.unwrap()).await;
    let sizes = [first.records, next.records].concat();
    let sizes: Vec<usize> = sizes.iter().map(|record| record.data.as_ref().len()).collect();
    assert_eq!(sizes, [mib - 3, 10 * mib - 3]);
}

#[tokio::test]
async fn large_record_is_paid_for_by_its_shard() {
    let served = Served::as_kinesis(1).await;
    let call = served.sdk.update_max_record_size().stream_arn(served.arn().await);
    call.max_record_size_in_kib(10_240).send().await.unwrap();
    served.advance(500);
    put(&served, 5 << 20).send().await.unwrap();
    served.advance(4_999);
    let early = put(&served, 1).send().await;
    assert_eq!(code(early), "ProvisionedThroughputExceededException");
    served.advance(2);
    put(&served, 1).send().await.unwrap();
}

#[tokio::test]
async fn mode_changes_twice_a_day() {
    let served = Served::as_kinesis(1).await;
    let arn = served.arn().await;
    let change = |to| {
        served.advance(500);
        let call = served.sdk.update_stream_mode().stream_arn(&arn);
        call.stream_mode_details(mode(to)).send()
    };
    change(StreamMode::OnDemand).await.unwrap();
    let details = summary(&served).await.stream_mode_details.unwrap();
    assert_eq!(details.stream_mode, StreamMode::OnDemand);
    // The mode that it has already is no change.
    change(StreamMode::OnDemand).await.unwrap();
    change(StreamMode::Provisioned).await.unwrap();
    assert_eq!(code(change(StreamMode::OnDemand).await), "LimitExceededException");
    served.advance(24 * HOUR);
    change(StreamMode::OnDemand).await.unwrap();
}

#[tokio::test]
async fn automatic_distribution_takes_records_without_keys() {
    let served = Served::with(3, WireOptions::unlimited()).await;
    let arn = served.arn().await;
    let distribute = |strategy| {
        let call = served.sdk.update_stream_record_distribution_strategy();
        call.stream_arn(&arn)
            .record_distribution_strategy(strategy)
            .send()
    };
    let keyless = || {
        let call = served.sdk.put_record().stream_name(NAME);
        call.data(Blob::new("x")).send()
    };
    assert_eq!(code(keyless().await), "ValidationException");
    let auto = distribute(RecordDistributionStrategy::Auto).await;
    assert_eq!(code(auto), "InvalidArgumentException");
    assert_eq!(summary(&served).await.record_distribution_strategy, None);

    let call = served.sdk.update_stream_mode().stream_arn(&arn);
    let call = call.stream_mode_details(mode(StreamMode::OnDemand));
    call.send().await.unwrap();
    distribute(RecordDistributionStrategy::Auto).await.unwrap();
    assert_eq!(
        summary(&served).await.record_distribution_strategy,
        Some(RecordDistributionStrategy::Auto)
    );
    let mut shards = Vec::new();
    for _ in 0..3 {
        // A key is kept, and does not decide.
        shards.push(put(&served, 1).send().await.unwrap().shard_id);
        shards.push(keyless().await.unwrap().shard_id);
    }
    let expected: Vec<String> = (0..6).map(|turn| shard(turn % 3).to_string()).collect();
    assert_eq!(shards, expected);
    let iterator = served.iterator(&shard(0), ShardIteratorType::TrimHorizon).await;
    let keys = served.read(&iterator).await.records;
    let keys: Vec<Option<String>> = keys.into_iter().map(|record| record.partition_key).collect();
    assert_eq!(keys, [Some("key".to_owned()), None]);

    distribute(RecordDistributionStrategy::UserPartitionKey)
        .await
        .unwrap();
    assert_eq!(code(keyless().await), "ValidationException");
}

#[tokio::test]
async fn warm_throughput_needs_a_commitment() {
    let served = unlimited().await;
    let arn = served.arn().await;
    let warm = || {
        let call = served.sdk.update_stream_warm_throughput().stream_arn(&arn);
        call.warm_throughput_mibps(100).send()
    };
    assert_eq!(code(warm().await), "ValidationException");
    let call = served.sdk.update_stream_mode().stream_arn(&arn);
    let call = call.stream_mode_details(mode(StreamMode::OnDemand));
    call.send().await.unwrap();
    assert_eq!(code(warm().await), "InvalidArgumentException");
    let wanted = MinimumThroughputBillingCommitmentInput::builder()
        .status(MinimumThroughputBillingCommitmentInputStatus::Enabled)
        .build()
        .unwrap();
    let call = served.sdk.update_account_settings();
    call.minimum_throughput_billing_commitment(wanted)
        .send()
        .await
        .unwrap();
    let warmed = warm().await.unwrap().warm_throughput.unwrap();
    assert_eq!(warmed.target_mibps, Some(100));
    assert_eq!(summary(&served).await.warm_throughput, Some(warmed));
}

#[tokio::test]
async fn created_stream_keeps_its_settings() {
    let served = unlimited().await;
    let call = served.sdk.create_stream().stream_name("more");
    let call = call.stream_mode_details(mode(StreamMode::OnDemand));
    let call = call.max_record_size_in_kib(2048).tags("team", "roads");
    let call = call.record_distribution_strategy(RecordDistributionStrategy::Auto);
    call.send().await.unwrap();
    let call = served.sdk.describe_stream_summary().stream_name("more").send();
    let made = call.await.unwrap().stream_description_summary.unwrap();
    assert_eq!(made.max_record_size_in_kib, Some(2048));
    assert_eq!(
        made.stream_mode_details.unwrap().stream_mode,
        StreamMode::OnDemand
    );
    assert_eq!(
        made.record_distribution_strategy,
        Some(RecordDistributionStrategy::Auto)
    );
    let tags = served
        .sdk
        .list_tags_for_stream()
        .stream_name("more")
        .send()
        .await
        .unwrap();
    assert_eq!(tags.tags[0].value.as_deref(), Some("roads"));
    let refused = served.sdk.create_stream().stream_name("other").shard_count(1);
    let refused = refused.record_distribution_strategy(RecordDistributionStrategy::Auto);
    assert_eq!(code(refused.send().await), "InvalidArgumentException");
    let refused = served.sdk.create_stream().stream_name("other").shard_count(1);
    let refused = refused.max_record_size_in_kib(512).send().await;
    assert_eq!(code(refused), "ValidationException");
    assert!(served.server.stream("other").is_none());
}

#[tokio::test]
async fn refused_change_of_mode_changes_nothing() {
    let served = Served::with(1, WireOptions::default()).await;
    let mode = StreamModeDetails::builder().stream_mode(StreamMode::OnDemand);
    let update = served.sdk.update_stream_mode().stream_arn(served.arn().await);
    let update = update.stream_mode_details(mode.build().unwrap());
    // The account has not committed itself.
    update.warm_throughput_mibps(10).send().await.unwrap_err();
    let summary = served.sdk.describe_stream_summary().stream_name(NAME);
    let summary = summary.send().await.unwrap().stream_description_summary.unwrap();
    assert_eq!(
        summary.stream_mode_details.unwrap().stream_mode,
        StreamMode::Provisioned
    );
}
