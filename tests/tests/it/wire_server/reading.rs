//! Putting, and reading by polling, through the SDK.

use aws_sdk_kinesis::primitives::{Blob, DateTime};
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, ShardIteratorType};
use kcl_core::types::ShardId;
use kinesis_local::WireOptions;

use crate::wire_server::support::{NAME, Served, code, shard};

impl Served {
    async fn put(&self, hash_key: u128, data: &str) -> ShardId {
        let call = self.sdk.put_record().stream_name(NAME).partition_key("key");
        let call = call.explicit_hash_key(hash_key.to_string()).data(Blob::new(data));
        ShardId::new(call.send().await.unwrap().shard_id()).unwrap()
    }

    /// The records of a shard to its end or its tip, and its children if it ended.
    async fn drain(&self, shard: &ShardId) -> (Vec<String>, Option<Vec<String>>) {
        let mut iterator = self.iterator(shard, ShardIteratorType::TrimHorizon).await;
        let mut data = Vec::new();
        loop {
            let answer = self.read(&iterator).await;
            data.extend(
                answer
                    .records()
                    .iter()
                    .map(|record| String::from_utf8(record.data().as_ref().to_vec()).unwrap()),
            );
            match answer.next_shard_iterator {
                None => {
                    let children = answer.child_shards.unwrap();
                    return (
                        data,
                        Some(children.into_iter().map(|child| child.shard_id).collect()),
                    );
                }
                Some(_) if answer.records.is_empty() => return (data, None),
                Some(next) => {
                    assert_eq!(answer.child_shards, None);
                    iterator = next;
                }
            }
        }
    }
}

#[tokio::test]
async fn records_are_read_through_split_and_merge() {
    let served = Served::with(1, WireOptions::unlimited()).await;
    let (low, high) = (0, u128::MAX);
    let middle = 1_u128 << 127;
    served.put(low, "before").await;

    let split = served
        .sdk
        .split_shard()
        .stream_name(NAME)
        .shard_to_split(shard(0).as_str());
    split
        .new_starting_hash_key(middle.to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(served.put(low, "low").await, shard(1));
    assert_eq!(served.put(high, "high").await, shard(2));
    let merge = served
        .sdk
        .merge_shards()
        .stream_name(NAME)
        .shard_to_merge(shard(1).as_str());
    merge
        .adjacent_shard_to_merge(shard(2).as_str())
        .send()
        .await
        .unwrap();
    assert_eq!(served.put(high, "after").await, shard(3));

    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let ids = |shards: &[u32]| Some(shards.iter().map(|index| shard(*index).to_string()).collect());
    assert_eq!(served.drain(&shard(0)).await, (owned(&["before"]), ids(&[1, 2])));
    assert_eq!(served.drain(&shard(1)).await, (owned(&["low"]), ids(&[3])));
    assert_eq!(served.drain(&shard(2)).await, (owned(&["high"]), ids(&[3])));
    assert_eq!(served.drain(&shard(3)).await, (owned(&["after"]), None));
}

#[tokio::test]
async fn child_shows_its_parents_and_its_hash_keys() {
    let served = Served::as_kinesis(2).await;
    let child = served.stream.merge(&shard(0), &shard(1)).unwrap();
    let iterator = served.iterator(&shard(1), ShardIteratorType::Latest).await;
    let answer = served.read(&iterator).await;
    let [shown] = answer.child_shards() else {
        panic!("{answer:?}");
    };
    assert_eq!(shown.shard_id(), child.as_str());
    assert_eq!(
        shown.parent_shards(),
        [shard(0).to_string(), shard(1).to_string()]
    );
    let range = shown.hash_key_range().unwrap();
    assert_eq!(range.starting_hash_key(), "0");
    assert_eq!(range.ending_hash_key(), u128::MAX.to_string());
}

#[tokio::test]
async fn stream_is_updating_for_while_after_reshard() {
    let served = Served::as_kinesis(2).await;
    let merge = || {
        let call = served
            .sdk
            .merge_shards()
            .stream_name(NAME)
            .shard_to_merge(shard(0).as_str());
        call.adjacent_shard_to_merge(shard(1).as_str())
    };
    merge().send().await.unwrap();
    assert_eq!(code(merge().send().await), "ResourceInUseException");
    served.advance(500);
    assert_eq!(code(merge().send().await), "InvalidArgumentException");
    let split = served
        .sdk
        .split_shard()
        .stream_name(NAME)
        .shard_to_split(shard(2).as_str());
    let split = split.new_starting_hash_key("0").send().await;
    assert_eq!(code(split), "InvalidArgumentException");
}

#[tokio::test]
async fn delay_is_age_of_oldest_unread_record() {
    let served = Served::as_kinesis(1).await;
    for data in ["a", "b"] {
        served.stream.put("key", data).unwrap();
        served.advance(1000);
    }
    let iterator = served.iterator(&shard(0), ShardIteratorType::TrimHorizon).await;
    let call = served.sdk.get_records().shard_iterator(iterator).limit(1);
    let first = call.send().await.unwrap();
    assert_eq!(
        (first.records().len(), first.millis_behind_latest()),
        (1, Some(1000))
    );
    let rest = served.read(first.next_shard_iterator().unwrap()).await;
    assert_eq!((rest.records().len(), rest.millis_behind_latest()), (1, Some(0)));
}

#[tokio::test]
async fn a_timestamp_is_taken_to_the_millisecond() {
    let served = Served::as_kinesis(1).await;
    for data in ["a", "b", "c"] {
        served.advance(1);
        served.stream.put("key", data).unwrap();
    }
    let second = served
        .stream
        .service_time()
        .minus(std::time::Duration::from_millis(1));
    let call = |millis| {
        let call = served
            .sdk
            .get_shard_iterator()
            .stream_name(NAME)
            .shard_id(shard(0).as_str());
        call.shard_iterator_type(ShardIteratorType::AtTimestamp)
            .timestamp(DateTime::from_millis(millis))
    };
    let iterator = call(second.as_millis())
        .send()
        .await
        .unwrap()
        .shard_iterator
        .unwrap();
    let read = served.read(&iterator).await;
    assert_eq!(read.records().len(), 2);
    let arrived = read.records()[0].approximate_arrival_timestamp().unwrap();
    assert_eq!(arrived.to_millis().unwrap(), second.as_millis());
    let future = call(second.as_millis() + 60_000).send().await;
    assert_eq!(code(future), "InvalidArgumentException");
}

#[tokio::test]
async fn sequence_number_means_at_or_after_in_shard() {
    let served = Served::as_kinesis(2).await;
    let put = |data: &'static str| served.stream.put_with_hash_key("key", 0, data).unwrap().1;
    let first = put("a");
    put("b");
    let call = |index, kind, number: &str| {
        let call = served.sdk.get_shard_iterator().stream_name(NAME);
        call.shard_id(shard(index).as_str())
            .shard_iterator_type(kind)
            .starting_sequence_number(number)
    };
    for (kind, expected) in [
        (ShardIteratorType::AtSequenceNumber, 2),
        (ShardIteratorType::AfterSequenceNumber, 1),
    ] {
        let iterator = call(0, kind, first.as_str())
            .send()
            .await
            .unwrap()
            .shard_iterator
            .unwrap();
        assert_eq!(served.read(&iterator).await.records().len(), expected);
    }
    for (index, number) in [(1, first.as_str()), (0, "7"), (0, "no number")] {
        let call = call(index, ShardIteratorType::AfterSequenceNumber, number);
        assert_eq!(code(call.send().await), "InvalidArgumentException", "{number}");
    }
    let nowhere = call(7, ShardIteratorType::Latest, "1").send().await;
    assert_eq!(code(nowhere), "ResourceNotFoundException");
}

#[tokio::test]
async fn iterator_expires_after_five_minutes() {
    let served = Served::as_kinesis(1).await;
    let read = |iterator: &str| served.sdk.get_records().shard_iterator(iterator);
    let iterator = served.iterator(&shard(0), ShardIteratorType::TrimHorizon).await;
    served.advance(300_000);
    let next = served.read(&iterator).await.next_shard_iterator.unwrap();
    served.advance(1);
    assert_eq!(code(read(&iterator).send().await), "ExpiredIteratorException");
    served.read(&next).await;
    served.stream.expire_iterators();
    assert_eq!(code(read(&next).send().await), "ExpiredIteratorException");
    assert_eq!(code(read("garbage").send().await), "InvalidArgumentException");
    assert_eq!(
        code(read(&next).limit(10_001).send().await),
        "InvalidArgumentException"
    );
}

#[tokio::test]
async fn read_brings_ten_thousand_records_or_ten_mebibytes() {
    let served = Served::with(2, WireOptions::unlimited()).await;
    for _ in 0..10_001 {
        served.stream.put_with_hash_key("key", 0, "").unwrap();
    }
    let mebibyte = bytes::Bytes::from(vec![7; 1024 * 1024]);
    for _ in 0..11 {
        served
            .stream
            .put_with_hash_key("key", u128::MAX, mebibyte.clone())
            .unwrap();
    }
    for (index, expected) in [(0, 10_000), (1, 10)] {
        let iterator = served
            .iterator(&shard(index), ShardIteratorType::TrimHorizon)
            .await;
        let first = served.read(&iterator).await;
        assert_eq!(first.records().len(), expected);
        let rest = served.read(first.next_shard_iterator().unwrap()).await;
        assert_eq!(rest.records().len(), 1);
    }
}

#[tokio::test]
async fn records_put_together_say_each_how_it_went() {
    let served = Served::as_kinesis(2).await;
    let entry = |hash_key: u128, size: usize| {
        let entry = PutRecordsRequestEntry::builder().partition_key("key");
        entry
            .explicit_hash_key(hash_key.to_string())
            .data(Blob::new(vec![0; size]))
            .build()
            .unwrap()
    };
    let call = served.sdk.put_records().stream_name(NAME);
    let call = call
        .records(entry(0, 900_000))
        .records(entry(0, 900_000))
        .records(entry(u128::MAX, 1));
    let put = call.send().await.unwrap();
    assert_eq!(put.failed_record_count(), Some(1));
    let codes: Vec<_> = put.records().iter().map(|record| record.error_code()).collect();
    assert_eq!(
        codes,
        [None, Some("ProvisionedThroughputExceededException"), None]
    );
    assert_eq!(put.records()[2].shard_id(), Some(shard(1).as_str()));
    let large = served.sdk.put_record().stream_name(NAME).partition_key("key");
    let large = large.data(Blob::new(vec![0; 1024 * 1024])).send().await;
    assert_eq!(code(large), "InvalidArgumentException");
}

#[tokio::test]
async fn largest_sequence_number_is_answered() {
    let served = Served::with(1, WireOptions::unlimited()).await;
    let number = format!("49{:037}{:017}", u64::MAX, 0);
    let call = served.sdk.get_shard_iterator().stream_name(NAME);
    let call = call.shard_id(shard(0).as_str()).starting_sequence_number(number);
    let call = call.shard_iterator_type(ShardIteratorType::AfterSequenceNumber);
    let answer = call.send().await;
    assert!(
        answer.is_ok() || answer.as_ref().unwrap_err().as_service_error().is_some(),
        "{answer:?}"
    );
}
