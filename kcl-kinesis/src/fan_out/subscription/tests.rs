use aws_sdk_kinesis::config::BehaviorVersion;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{ChildShard, HashKeyRange};
use aws_sdk_kinesis::{Client, Config, types};
use kcl_core::clock::TokioClock;

use super::*;
use crate::fan_out::FanOut;

/// A reader that has no subscription yet.
fn reader() -> SubscriptionStream {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .build();
    let client = Client::from_conf(config);
    let reader = FanOutReader::new(FanOut::consumer("test"));
    SubscriptionStream {
        calls: KinesisClient::new(&client, "orders".to_owned(), Arc::new(TokioClock::new())),
        reader: Arc::new(reader),
        shard: ShardId::new("shardId-000000000001").unwrap(),
        rng: Rng::from_seed(1),
        consumer: String::new(),
        start: StartPosition::TrimHorizon,
        continuation: None,
        delivered: None,
        last_event: None,
        awaited: None,
        subscription: None,
        pending: None,
        end: None,
    }
}

/// An event with records of these numbers, ten bytes each.
fn event(
    numbers: std::ops::RangeInclusive<u32>,
    continuation: &str,
    children: Option<Vec<ChildShard>>,
) -> SubscribeToShardEvent {
    let record = |number: u32| {
        let record = types::Record::builder().sequence_number(number.to_string());
        record.data(Blob::new([0; 10])).partition_key("").build().unwrap()
    };
    SubscribeToShardEvent::builder()
        .set_records(Some(numbers.map(record).collect()))
        .continuation_sequence_number(continuation)
        .millis_behind_latest(0)
        .set_child_shards(children)
        .build()
        .unwrap()
}

fn child() -> ChildShard {
    let range = HashKeyRange::builder()
        .starting_hash_key("0")
        .ending_hash_key("9");
    ChildShard::builder()
        .shard_id("shardId-000000000002")
        .parent_shards("shardId-000000000001")
        .hash_key_range(range.build().unwrap())
        .build()
        .unwrap()
}

fn numbers(fetch: &Fetch) -> Vec<u32> {
    let number = |record: &Record| record.sequence_number().as_str().parse().unwrap();
    fetch.records.iter().map(number).collect()
}

const ONE: FetchLimit = FetchLimit { records: 1 };

#[tokio::test]
async fn records_beyond_limit_are_charged_with_each_part() {
    let mut reader = reader();
    let fetch = reader.accept(event(1..=3, "7", None)).unwrap();
    let whole = fetch.bytes;
    let mut fetch = reader.split_at_limit(fetch, ONE);
    for number in 1..=3 {
        assert_eq!((numbers(&fetch), fetch.bytes), (vec![number], 10));
        let left = 3 - number as usize;
        assert_eq!(fetch.kept, left * (10 + size_of::<Record>()));
        assert!(fetch.bytes + fetch.kept >= whole - 10 * (number as usize - 1));
        if left > 0 {
            fetch = reader.next(ONE).await.unwrap();
        }
    }
    assert!(reader.pending.is_none());
    assert_eq!(reader.continuation, Some("7".parse().unwrap()));
}

#[tokio::test]
async fn pause_drops_records_beyond_limit_and_rereads_them() {
    let mut reader = reader();
    let fetch = reader.accept(event(1..=9, "", Some(vec![child()]))).unwrap();
    assert_eq!(numbers(&reader.split_at_limit(fetch, ONE)), [1]);
    let second = reader.next(FetchLimit { records: 3 }).await.unwrap();
    assert_eq!((numbers(&second), second.end), (vec![2, 3, 4], None));
    reader.pause();
    assert!(reader.pending.is_none());
    assert_eq!(reader.continuation, Some("4".parse().unwrap()));
    // A new subscription brings what was given back, and not what was handed on.
    let again = reader.accept(event(4..=9, "", Some(vec![child()]))).unwrap();
    assert_eq!(numbers(&again), [5, 6, 7, 8, 9]);
    assert_eq!(again.end.unwrap().children.len(), 1);
}

#[tokio::test]
async fn children_end_shard_only_without_a_continuation() {
    let rows = [
        ("7", Some(vec![child()]), None, 1),
        ("7", None, None, 0),
        ("", Some(vec![child()]), Some(1), 0),
        // A claim, which is not kept.
        ("", Some(Vec::new()), Some(0), 0),
        ("", None, Some(0), 0),
    ];
    for (continuation, children, end, named) in rows {
        let mut reader = reader();
        let fetch = reader.accept(event(1..=2, continuation, children)).unwrap();
        let fetch = reader.split_at_limit(fetch, FetchLimit { records: 2 });
        let count = |end: &ShardEnd| end.children.len();
        assert_eq!(
            (fetch.end.as_ref().map(count), fetch.children.len()),
            (end, named)
        );
        assert_eq!(reader.end.is_some(), end == Some(1));
        assert_eq!(reader.delivered, Some("2".parse().unwrap()));
    }
}

#[tokio::test]
async fn continuation_that_leads_back_is_no_place() {
    let mut reader = reader();
    // As LocalStack says while nothing was read.
    let mut empty = event(1..=1, "0", None);
    empty.records.clear();
    reader.accept(empty).unwrap();
    assert_eq!(reader.resume_position(), StartPosition::TrimHorizon);
    reader.accept(event(3..=4, "0", None)).unwrap();
    assert_eq!(
        reader.resume_position(),
        StartPosition::AtSequence("4".parse().unwrap())
    );
    reader.accept(event(5..=5, "2", None)).unwrap();
    assert_eq!(
        reader.resume_position(),
        StartPosition::AtSequence("5".parse().unwrap())
    );
    reader.accept(event(6..=6, "9", None)).unwrap();
    assert_eq!(
        reader.resume_position(),
        StartPosition::AfterSequence("9".parse().unwrap())
    );
}

#[tokio::test(start_paused = true)]
async fn old_continuation_gives_way_to_the_last_record() {
    let mut reader = reader();
    reader.accept(event(1..=6, "9", None)).unwrap();
    tokio::time::advance(NEAR_RETENTION).await;
    assert_eq!(
        reader.resume_position(),
        StartPosition::AtSequence("6".parse().unwrap())
    );
    reader.awaited = Some("6".parse().unwrap());
    let fetch = reader.accept(event(8..=8, "9", None)).unwrap();
    assert_eq!(fetch.lost_place, Some("6".parse().unwrap()));
}

#[tokio::test]
async fn pause_without_rest_keeps_place_behind_last_record() {
    let mut reader = reader();
    let fetch = reader.accept(event(1..=2, "7", None)).unwrap();
    assert_eq!(
        numbers(&reader.split_at_limit(fetch, FetchLimit { records: 2 })),
        [1, 2]
    );
    reader.pause();
    assert_eq!(reader.continuation, Some("7".parse().unwrap()));
    assert_eq!(reader.delivered, Some("2".parse().unwrap()));
}
