//! ListShards.

use aws_sdk_kinesis::operation::list_shards::ListShardsOutput;
use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::types::{ShardFilter, ShardFilterType};
use kcl_core::types::Timestamp;

use crate::wire_server::support::{NAME, Served, code, shard};

fn ids(listed: &ListShardsOutput) -> Vec<&str> {
    let ids = listed.shards().iter().map(|shard| shard.shard_id());
    ids.map(|id| id.trim_start_matches("shardId-").trim_start_matches('0'))
        .collect()
}

#[tokio::test]
async fn listing_goes_on_until_its_token_expires() {
    let served = Served::as_kinesis(5).await;
    let list = || served.sdk.list_shards();
    let first = list().stream_name(NAME).max_results(2).send().await.unwrap();
    assert_eq!(ids(&first), ["", "1"]);
    let token = first.next_token.unwrap();
    let second = list().next_token(&token).max_results(2).send().await.unwrap();
    assert_eq!(ids(&second), ["2", "3"]);
    let last = list()
        .next_token(second.next_token.unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!((ids(&last), last.next_token()), (vec!["4"], None));

    let both = list().next_token(&token).stream_name(NAME).send().await;
    assert_eq!(code(both), "InvalidArgumentException");
    let garbage = list().next_token("garbage").send().await;
    assert_eq!(code(garbage), "InvalidArgumentException");
    served.advance(300_001);
    let late = list().next_token(token).send().await;
    assert_eq!(code(late), "ExpiredNextTokenException");
}

#[tokio::test]
async fn every_filter_applies_on_every_page() {
    let served = Served::as_kinesis(2).await;
    let begin = served.stream.service_time();
    served.advance(10_000);
    // 0 → 2, 3; then 1 + 3 → 4.
    let [_, upper] = served.stream.split(&shard(0)).unwrap();
    let split = served.stream.service_time();
    served.advance(10_000);
    served.stream.merge(&upper, &shard(1)).unwrap();
    let merged = served.stream.service_time();

    let listed = async |kind: ShardFilterType, at: Option<Timestamp>, after: Option<&str>| {
        let filter = ShardFilter::builder()
            .r#type(kind)
            .set_timestamp(at.map(|at| DateTime::from_millis(at.as_millis())))
            .set_shard_id(after.map(str::to_owned));
        let filter = filter.build().unwrap();
        let list = || served.sdk.list_shards().max_results(1);
        let mut page = list()
            .stream_name(NAME)
            .shard_filter(filter)
            .send()
            .await
            .unwrap();
        let mut all: Vec<String> = Vec::new();
        loop {
            all.extend(ids(&page).into_iter().map(str::to_owned));
            let Some(token) = page.next_token() else {
                return all.join(" ");
            };
            page = list().next_token(token).send().await.unwrap();
        }
    };
    use ShardFilterType::{
        AfterShardId, AtLatest, AtTimestamp, AtTrimHorizon, FromTimestamp, FromTrimHorizon,
    };
    assert_eq!(listed(AtLatest, None, None).await, "2 4");
    assert_eq!(listed(AtTrimHorizon, None, None).await, " 1");
    assert_eq!(listed(FromTrimHorizon, None, None).await, " 1 2 3 4");
    assert_eq!(
        listed(AfterShardId, None, Some("shardId-000000000002")).await,
        "3 4"
    );
    let second = std::time::Duration::from_secs(1);
    for (time, at, from) in [
        (begin.minus(second), " 1", " 1 2 3 4"),
        (begin, " 1", " 1 2 3 4"),
        (split, " 1", " 1 2 3 4"),
        (split.plus(second), "1 2 3", "1 2 3 4"),
        (merged, "1 2 3", "1 2 3 4"),
        (merged.plus(second), "2 4", "2 4"),
    ] {
        assert_eq!(listed(AtTimestamp, Some(time), None).await, at, "at {time:?}");
        assert_eq!(
            listed(FromTimestamp, Some(time), None).await,
            from,
            "from {time:?}"
        );
    }
}

#[tokio::test]
async fn closed_shard_shows_last_number_children_show_parents() {
    let served = Served::as_kinesis(2).await;
    served.stream.merge(&shard(0), &shard(1)).unwrap();
    let listed = served.sdk.list_shards().stream_name(NAME).send().await.unwrap();
    let [a, b, child] = listed.shards() else {
        panic!("{listed:?}");
    };
    let last = |shard: &aws_sdk_kinesis::types::Shard| {
        let numbers = shard.sequence_number_range().unwrap();
        numbers.ending_sequence_number().map(str::len)
    };
    assert_eq!((last(a), last(b), last(child)), (Some(56), Some(56), None));
    assert_eq!(child.parent_shard_id(), Some(a.shard_id()));
    assert_eq!(child.adjacent_parent_shard_id(), Some(b.shard_id()));
}

#[tokio::test]
async fn a_listing_of_another_creation_finds_nothing() {
    let served = Served::as_kinesis(1).await;
    let created = served
        .sdk
        .describe_stream_summary()
        .stream_name(NAME)
        .send()
        .await
        .unwrap();
    let created = created
        .stream_description_summary
        .unwrap()
        .stream_creation_timestamp;
    let list = |time| {
        served
            .sdk
            .list_shards()
            .stream_name(NAME)
            .stream_creation_timestamp(time)
    };
    list(created).send().await.unwrap();
    let other = list(DateTime::from_secs(created.secs() + 60)).send().await;
    assert_eq!(code(other), "ResourceNotFoundException");
}
