//! UpdateShardCount, and what SplitShard and MergeShards refuse.

use std::collections::BTreeSet;

use aws_sdk_kinesis::operation::update_shard_count::builders::UpdateShardCountFluentBuilder;
use aws_sdk_kinesis::types::{ScalingType, StreamMode, StreamModeDetails, StreamStatus};
use kcl_core::types::ShardId;
use kcl_lease_memory::memory_stream::ShardSnapshot;
use kinesis_local::{WireLimits, WireOptions};

use crate::wire_server::support::{NAME, Served, code, shard};

const HOUR: u64 = 3_600_000;

fn scale(served: &Served, target: i32) -> UpdateShardCountFluentBuilder {
    let call = served.sdk.update_shard_count().stream_name(NAME);
    call.target_shard_count(target)
        .scaling_type(ScalingType::UniformScaling)
}

/// The indices of the open shards in the order of their hash keys, with those of their parents.
fn open(served: &Served) -> Vec<(ShardId, Vec<ShardId>)> {
    let mut open: Vec<ShardSnapshot> = served.stream.shards_snapshot();
    open.retain(|shard| !shard.shard.closed);
    open.sort_by_key(|shard| shard.shard.hash_range.start());
    let parents = |shard: &ShardSnapshot| shard.shard.parents.iter().cloned().collect();
    open.iter()
        .map(|shard| (shard.shard.id.clone(), parents(shard)))
        .collect()
}

fn lineage(expected: &[(u32, &[u32])]) -> Vec<(ShardId, Vec<ShardId>)> {
    let parents = |parents: &[u32]| parents.iter().copied().map(shard).collect();
    expected
        .iter()
        .map(|(id, of)| (shard(*id), parents(of)))
        .collect()
}

#[tokio::test]
async fn shard_count_doubles_and_halves_by_reshards() {
    let served = Served::as_kinesis(2).await;
    let answer = scale(&served, 4).send().await.unwrap();
    assert_eq!(
        (answer.current_shard_count, answer.target_shard_count),
        (Some(2), Some(4))
    );
    assert_eq!(answer.stream_arn, Some(served.arn().await));
    let expected: &[(u32, &[u32])] = &[(2, &[0]), (3, &[0]), (4, &[1]), (5, &[1])];
    assert_eq!(open(&served), lineage(expected));
    let call = served.sdk.describe_stream_summary().stream_name(NAME).send();
    let summary = call.await.unwrap().stream_description_summary.unwrap();
    assert_eq!(
        (summary.stream_status, summary.open_shard_count),
        (StreamStatus::Updating, 4)
    );
    assert_eq!(code(scale(&served, 2).send().await), "ResourceInUseException");
    served.advance(500);
    scale(&served, 2).send().await.unwrap();
    assert_eq!(open(&served), lineage(&[(6, &[2, 3]), (7, &[4, 5])]));
}

#[tokio::test]
async fn uneven_target_leaves_short_lived_shards() {
    let served = Served::with(2, WireOptions::unlimited()).await;
    served.stream.put("key", "before").unwrap();
    scale(&served, 3).send().await.unwrap();
    // Both shards are split at a third; the two pieces in the middle are merged at once.
    assert_eq!(open(&served), lineage(&[(2, &[0]), (6, &[3, 4]), (5, &[1])]));
    let shards = served.stream.shards_snapshot();
    let closed: BTreeSet<&str> = shards
        .iter()
        .filter(|shard| shard.shard.closed)
        .map(|shard| shard.shard.id.as_str())
        .collect();
    let expected = [0, 1, 3, 4].map(shard);
    assert_eq!(closed, expected.iter().map(ShardId::as_str).collect());
}

#[tokio::test]
async fn shard_count_at_most_doubles_or_halves() {
    let served = Served::as_kinesis(5).await;
    for (target, said) in [
        (11, "cannot scale up over double your current open shard count"),
        (2, "cannot scale down below half your current open shard count"),
    ] {
        let error = scale(&served, target)
            .send()
            .await
            .unwrap_err()
            .into_service_error();
        assert!(error.is_limit_exceeded_exception(), "{error:?}");
        assert!(error.meta().message().unwrap().contains(said), "{error:?}");
    }
    scale(&served, 3).send().await.unwrap();
    assert_eq!(code(scale(&served, 0).send().await), "ValidationException");
    let free = Served::with(5, WireOptions::unlimited()).await;
    scale(&free, 1).send().await.unwrap();
    scale(&free, 40).send().await.unwrap();
    assert_eq!(open(&free).len(), 40);
}

#[tokio::test]
async fn shard_count_changes_ten_times_a_day() {
    let served = Served::as_kinesis(1).await;
    for round in 0..10 {
        scale(&served, 1 + (round + 1) % 2).send().await.unwrap();
        served.advance(500);
    }
    assert_eq!(code(scale(&served, 2).send().await), "LimitExceededException");
    served.advance(24 * HOUR);
    scale(&served, 2).send().await.unwrap();
}

#[tokio::test]
async fn account_has_a_limit_of_shards() {
    let limits = WireLimits {
        shards: Some(4),
        ..WireLimits::none()
    };
    let options = WireOptions {
        limits,
        ..WireOptions::unlimited()
    };
    let served = Served::with(3, options).await;
    assert_eq!(code(scale(&served, 5).send().await), "LimitExceededException");
    let create = |count| {
        let call = served.sdk.create_stream().stream_name("more");
        call.shard_count(count).send()
    };
    assert_eq!(code(create(2).await), "LimitExceededException");
    create(1).await.unwrap();
    let limits = served.sdk.describe_limits().send().await.unwrap();
    assert_eq!((limits.open_shard_count, limits.shard_limit), (4, 4));
}

#[tokio::test]
async fn on_demand_stream_is_not_resharded_by_user() {
    let served = Served::with(2, WireOptions::unlimited()).await;
    let on_demand = StreamModeDetails::builder()
        .stream_mode(StreamMode::OnDemand)
        .build()
        .unwrap();
    let call = served.sdk.update_stream_mode().stream_arn(served.arn().await);
    call.stream_mode_details(on_demand).send().await.unwrap();
    assert_eq!(code(scale(&served, 4).send().await), "ValidationException");
    let split = served.sdk.split_shard().stream_name(NAME);
    let split = split
        .shard_to_split(shard(0).as_str())
        .new_starting_hash_key("10");
    assert_eq!(code(split.send().await), "ValidationException");
    let merge = served.sdk.merge_shards().stream_name(NAME);
    let merge = merge.shard_to_merge(shard(0).as_str());
    let merge = merge.adjacent_shard_to_merge(shard(1).as_str()).send().await;
    assert_eq!(code(merge), "ValidationException");
    assert_eq!(open(&served).len(), 2);
}

#[tokio::test]
async fn every_reshard_counts_against_shards_of_account() {
    let limits = WireLimits {
        shards: Some(2),
        ..WireLimits::none()
    };
    let options = WireOptions {
        limits,
        ..WireOptions::unlimited()
    };
    let served = Served::with(2, options).await;
    let update = served
        .sdk
        .update_shard_count()
        .stream_name(NAME)
        .target_shard_count(3);
    let answer = update.scaling_type(ScalingType::UniformScaling).send().await;
    assert_eq!(code(answer), "LimitExceededException");
    let split = served
        .sdk
        .split_shard()
        .stream_name(NAME)
        .shard_to_split(shard(0).as_str());
    let answer = split.new_starting_hash_key("77").send().await;
    assert_eq!(code(answer), "LimitExceededException");
}
