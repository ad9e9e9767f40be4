//! Iterators: obtained, kept, replaced, and never the place that counts.

use std::time::Duration;

use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::source::{FetchLimit, SourceErrorKind, StartPosition, StreamSource as _};
use kcl_core::types::Timestamp;
use kcl_kinesis::KinesisStream;
use serde_json::json;

use crate::server::{
    Answer, DATE_MILLIS, Server, error, iterator, next, numbers, ok, record, records, shard,
};

fn at(number: u32) -> serde_json::Value {
    json!({
        "StreamName": "orders",
        "ShardId": "shardId-000000000001",
        "ShardIteratorType": "AT_SEQUENCE_NUMBER",
        "StartingSequenceNumber": number.to_string(),
    })
}

#[tokio::test(start_paused = true)]
async fn each_fetch_goes_on_with_the_last_iterator() {
    let server = Server::with([
        iterator("i0"),
        records(&[1, 2], "i1"),
        records(&[], "i2"),
        records(&[3], "i3"),
    ]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    assert_eq!(numbers(&mut reader).await, ["1", "2"]);
    assert_eq!(numbers(&mut reader).await, [""; 0]);
    assert_eq!(numbers(&mut reader).await, ["3"]);
    assert_eq!(server.trace(), ["TRIM_HORIZON", "i0", "i1", "i2"]);
}

#[tokio::test(start_paused = true)]
async fn every_start_is_asked_for_as_it_is() {
    let number = || "42".parse().unwrap();
    let time = Timestamp::from_millis(1_700_000_000_123);
    let rows = [
        (
            StartPosition::TrimHorizon,
            json!({ "ShardIteratorType": "TRIM_HORIZON" }),
        ),
        (StartPosition::Latest, json!({ "ShardIteratorType": "LATEST" })),
        (
            StartPosition::AtTimestamp(time),
            json!({ "ShardIteratorType": "AT_TIMESTAMP", "Timestamp": 1_700_000_000.123 }),
        ),
        (
            StartPosition::AtSequence(number()),
            json!({ "ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": "42" }),
        ),
        (
            StartPosition::AfterSequence(number()),
            json!({ "ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": "42" }),
        ),
    ];
    for (start, mut expected) in rows {
        expected["StreamName"] = json!("orders");
        expected["ShardId"] = json!("shardId-000000000001");
        let server = Server::with([iterator("i0")]);
        server.open(start.clone()).await;
        let asked = vec![("GetShardIterator".to_owned(), expected)];
        assert_eq!(server.asked(), asked, "{start:?}");
    }
}

/// Some servers number with leading zeros, and compare the digits as text.
#[tokio::test(start_paused = true)]
async fn positions_are_asked_for_in_the_services_spelling() {
    let padded = "000000017959997300070000000003";
    let mut first = record(1);
    first["SequenceNumber"] = json!(padded);
    let server = Server::with([
        iterator("i0"),
        ok(json!({ "Records": [first], "NextShardIterator": "i1", "MillisBehindLatest": 0 })),
        error(400, "ExpiredIteratorException"),
        iterator("j0"),
        records(&[], "j1"),
        iterator("k0"),
    ]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    let fetch = next(&mut reader).await.unwrap();
    let delivered = fetch.records[0].sequence_number().clone();
    next(&mut reader).await.unwrap();
    server.open(StartPosition::AtSequence(delivered)).await;
    let asked = server.asked().into_iter();
    let asked = asked.filter_map(|(_, input)| input.get("StartingSequenceNumber").cloned());
    assert_eq!(asked.collect::<Vec<_>>(), [json!(padded), json!(padded)]);
}

#[tokio::test(start_paused = true)]
async fn expired_iterator_resumes_after_last_delivered_record() {
    let server = Server::with([
        iterator("i0"),
        records(&[7, 8], "i1"),
        records(&[], "i2"),
        error(400, "ExpiredIteratorException"),
        iterator("j0"),
        records(&[9], "j1"),
    ]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    next(&mut reader).await.unwrap();
    next(&mut reader).await.unwrap();
    server.asked();
    assert_eq!(numbers(&mut reader).await, ["9"]);
    let asked = server.asked();
    assert_eq!(asked[0].1["ShardIterator"], "i2");
    assert_eq!(asked[1], ("GetShardIterator".to_owned(), at(8)));
    assert_eq!(asked[2].1["ShardIterator"], "j0");
}

/// Going on after the number would skip the rest of an aggregated record of which only a part was processed.
#[tokio::test(start_paused = true)]
async fn expired_iterator_without_records_resumes_at_the_start() {
    let server = Server::with([
        iterator("i0"),
        error(400, "ExpiredIteratorException"),
        iterator("j0"),
        records(&[42], "j1"),
    ]);
    let mut reader = server
        .open(StartPosition::AtSequence("42".parse().unwrap()))
        .await;
    assert_eq!(numbers(&mut reader).await, ["42"]);
    assert_eq!(
        server.trace(),
        ["AT_SEQUENCE_NUMBER", "i0", "AT_SEQUENCE_NUMBER", "j0"]
    );
}

#[tokio::test(start_paused = true)]
async fn iterator_that_expires_at_once_is_an_error() {
    let expired = || error(400, "ExpiredIteratorException");
    let server = Server::with([iterator("i0"), expired(), iterator("j0"), expired()]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    let failed = next(&mut reader).await.unwrap_err();
    assert_eq!(failed.kind(), SourceErrorKind::Unavailable);
    server.then([iterator("k0"), records(&[1], "k1")]);
    assert_eq!(numbers(&mut reader).await, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn iterator_is_replaced_at_age_of_four_minutes() {
    let four_minutes = Duration::from_secs(240);
    let server = Server::with([iterator("i0"), records(&[5], "i1")]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    next(&mut reader).await.unwrap();
    assert_eq!(server.trace(), ["TRIM_HORIZON", "i0"]);
    for (at_hand, coming) in [("i1", "i2"), ("i2", "i3")] {
        tokio::time::advance(four_minutes - Duration::from_millis(1)).await;
        server.then([records(&[], coming)]);
        next(&mut reader).await.unwrap();
        assert_eq!(server.trace(), [at_hand]);
    }
    tokio::time::advance(four_minutes).await;
    server.then([iterator("j0"), records(&[6], "j1")]);
    assert_eq!(numbers(&mut reader).await, ["6"]);
    assert_eq!(server.trace(), ["AT_SEQUENCE_NUMBER", "j0"]);
}

#[tokio::test(start_paused = true)]
async fn latest_is_asked_once_then_time_of_opening() {
    let server = Server::with([iterator("i0")]);
    let mut reader = server.open(StartPosition::Latest).await;
    server.asked();
    for _ in 0..2 {
        tokio::time::advance(Duration::from_secs(240)).await;
        server.then([iterator("j0"), records(&[], "j1")]);
        next(&mut reader).await.unwrap();
        let (_, asked) = server.asked().remove(0);
        assert_eq!(asked["ShardIteratorType"], "AT_TIMESTAMP");
        // A second early: a Date is cut to whole seconds, and written after the iterator was made.
        assert_eq!(
            asked["Timestamp"].as_f64().unwrap() * 1000.0,
            (DATE_MILLIS - 1000) as f64
        );
    }
    server.then([records(&[3], "i1")]);
    next(&mut reader).await.unwrap();
    tokio::time::advance(Duration::from_secs(240)).await;
    server.then([iterator("j0"), records(&[4], "j1")]);
    server.asked();
    next(&mut reader).await.unwrap();
    assert_eq!(server.asked()[0].1, at(3));
}

#[tokio::test(start_paused = true)]
async fn records_that_come_again_are_left_out() {
    let server = Server::with([
        iterator("i0"),
        records(&[9, 10], "i1"),
        records(&[9, 10, 11], "i2"),
    ]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    assert_eq!(numbers(&mut reader).await, ["9", "10"]);
    assert_eq!(numbers(&mut reader).await, ["11"]);
}

/// The future is dropped while it reads, and while it obtains an iterator.
#[tokio::test(start_paused = true)]
async fn a_dropped_fetch_changes_nothing() {
    let clock = TokioClock::new();
    let second = Duration::from_secs(1);
    let server = Server::with([iterator("i0"), records(&[1], "i1"), Answer::Silence]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    next(&mut reader).await.unwrap();
    clock.timeout(second, next(&mut reader)).await.unwrap_err();
    server.then([records(&[2], "i2")]);
    assert_eq!(numbers(&mut reader).await, ["2"]);
    assert_eq!(server.trace(), ["TRIM_HORIZON", "i0", "i1", "i1"]);

    tokio::time::advance(Duration::from_secs(240)).await;
    server.then([Answer::Silence]);
    clock.timeout(second, next(&mut reader)).await.unwrap_err();
    server.then([iterator("j0"), records(&[3], "j1")]);
    assert_eq!(numbers(&mut reader).await, ["3"]);
    assert_eq!(server.trace(), ["AT_SEQUENCE_NUMBER", "AT_SEQUENCE_NUMBER", "j0"]);
}

#[tokio::test(start_paused = true)]
async fn senseless_answer_is_an_error_and_changes_nothing() {
    let mut broken = record(2);
    broken["SequenceNumber"] = json!("two");
    let server = Server::with([
        iterator("i0"),
        ok(json!({ "Records": [record(1), broken], "NextShardIterator": "i1" })),
        records(&[1, 2], "i1"),
    ]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    let failed = next(&mut reader).await.unwrap_err();
    assert_eq!(failed.kind(), SourceErrorKind::Invalid);
    assert_eq!(numbers(&mut reader).await, ["1", "2"]);
    assert_eq!(server.trace(), ["TRIM_HORIZON", "i0", "i0"]);
}

#[tokio::test(start_paused = true)]
async fn throttled_reader_keeps_iterator_refused_gets_another() {
    let server = Server::with([
        iterator("i0"),
        records(&[1], "i1"),
        error(400, "ProvisionedThroughputExceededException"),
        error(400, "InvalidArgumentException"),
        iterator("j0"),
        records(&[2], "j1"),
    ]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    next(&mut reader).await.unwrap();
    let throttled = next(&mut reader).await.unwrap_err();
    assert_eq!(throttled.kind(), SourceErrorKind::Throttled);
    let refused = next(&mut reader).await.unwrap_err();
    assert_eq!(refused.kind(), SourceErrorKind::Invalid);
    assert_eq!(numbers(&mut reader).await, ["2"]);
    assert_eq!(
        server.trace(),
        ["TRIM_HORIZON", "i0", "i1", "i1", "AT_SEQUENCE_NUMBER", "j0"]
    );
}

#[tokio::test(start_paused = true)]
async fn fetch_says_its_lag_and_its_wait() {
    let mut large = record(1);
    // 3 MiB of zeros.
    large["Data"] = json!("AAAA".repeat(1024 * 1024));
    let server = Server::with([
        iterator("i0"),
        ok(json!({ "Records": [large], "NextShardIterator": "i1", "MillisBehindLatest": 61_000 })),
        ok(json!({ "Records": [], "NextShardIterator": "i2", "MillisBehindLatest": 5 })),
        records(&[], "i3"),
    ]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    let fetch = next(&mut reader).await.unwrap();
    assert_eq!(fetch.behind, Some(Duration::from_secs(61)));
    assert_eq!(fetch.wait.as_millis(), 1500);
    assert_eq!(next(&mut reader).await.unwrap().wait, Duration::from_millis(200));
    assert_eq!(next(&mut reader).await.unwrap().wait, Duration::from_millis(300));
}

#[tokio::test(start_paused = true)]
async fn reopened_shard_is_read_at_its_remaining_share() {
    let server = Server::with([
        iterator("i0"),
        error(400, "ProvisionedThroughputExceededException"),
        iterator("j0"),
        records(&[1], "j1"),
        iterator("k0"),
        records(&[2], "k1"),
    ]);
    let stream = server.stream();
    let open =
        async |source: &KinesisStream| source.open(&shard(), StartPosition::TrimHorizon).await.unwrap();
    next(&mut open(&stream).await).await.unwrap_err();
    // Half of the five reads a second that the shard answers.
    let fetch = next(&mut open(&stream.clone()).await).await.unwrap();
    assert_eq!(fetch.wait, Duration::from_millis(400));
    tokio::time::advance(Duration::from_secs(30)).await;
    let fetch = next(&mut open(&stream).await).await.unwrap();
    assert_eq!(fetch.wait, Duration::from_millis(200));
}

#[tokio::test(start_paused = true)]
async fn limit_is_passed_on_within_range_of_service() {
    for (limit, sent) in [(0, 1), (1, 1), (500, 500), (10_000, 10_000), (u32::MAX, 10_000)] {
        let server = Server::with([iterator("i0"), records(&[], "i1")]);
        let opened = server.stream().open(&shard(), StartPosition::TrimHorizon).await;
        opened.unwrap().next(FetchLimit { records: limit }).await.unwrap();
        assert_eq!(server.asked()[1].1["Limit"], sent);
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_keeps_all_that_the_service_tells() {
    let mut bare = record(2);
    bare.as_object_mut().unwrap().remove("PartitionKey");
    let server = Server::with([
        iterator("i0"),
        ok(json!({ "Records": [record(1), bare], "NextShardIterator": "i1" })),
    ]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    let fetch = next(&mut reader).await.unwrap();
    let [full, bare] = &fetch.records[..] else {
        panic!("two records: {fetch:?}");
    };
    assert_eq!(full.data().as_ref(), b"hello");
    assert_eq!(full.partition_key(), Some("truck-7"));
    assert_eq!(
        full.approximate_arrival(),
        Some(Timestamp::from_millis(1_767_225_600_125))
    );
    assert_eq!(bare.partition_key(), None);
    assert_eq!(fetch.behind, None);
}

#[tokio::test(start_paused = true)]
async fn lost_last_record_is_told_with_the_next() {
    let server = Server::with([iterator("i0"), records(&[5], "i1")]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    next(&mut reader).await.unwrap();
    tokio::time::advance(Duration::from_secs(240)).await;
    server.then([
        iterator("j0"),
        records(&[], "j1"),
        records(&[9], "j2"),
        records(&[10], "j3"),
    ]);
    assert_eq!(next(&mut reader).await.unwrap().lost_place, None);
    let lost = next(&mut reader).await.unwrap();
    assert_eq!(
        (lost.records.len(), lost.lost_place),
        (1, Some("5".parse().unwrap()))
    );
    assert_eq!(next(&mut reader).await.unwrap().lost_place, None);
}

#[tokio::test(start_paused = true)]
async fn last_record_that_is_kept_is_left_out() {
    let server = Server::with([iterator("i0"), records(&[5], "i1")]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    next(&mut reader).await.unwrap();
    tokio::time::advance(Duration::from_secs(240)).await;
    server.then([iterator("j0"), records(&[5, 9], "j1")]);
    let fetch = next(&mut reader).await.unwrap();
    assert_eq!((fetch.records.len(), fetch.lost_place), (1, None));
}

/// Retention is a day at least: a reader that is nearly so far behind looks for the last record with each read, and an iterator would not show it.
#[tokio::test(start_paused = true)]
async fn reader_near_retention_seeks_its_last_record() {
    let far_behind = |number: u32, token: &str| {
        ok(json!({
            "Records": [record(number)],
            "NextShardIterator": token,
            "MillisBehindLatest": 23 * 3_600_000,
        }))
    };
    let server = Server::with([
        iterator("i0"),
        far_behind(1, "i1"),
        iterator("j0"),
        far_behind(4, "j1"),
    ]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    next(&mut reader).await.unwrap();
    let fetch = next(&mut reader).await.unwrap();
    assert_eq!(fetch.lost_place, Some("1".parse().unwrap()));
    // An answer with the last record only leads on, however small the limit.
    server.then([iterator("k0"), far_behind(4, "k1"), far_behind(5, "k2")]);
    assert_eq!(numbers(&mut reader).await, Vec::<String>::new());
    assert_eq!(numbers(&mut reader).await, ["5"]);
}
