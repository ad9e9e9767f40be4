//! Shards and identity.

use std::sync::Arc;

use aws_sdk_kinesis::Client;
use kcl_core::clock::{BoxFuture, Clock, Moment, TokioClock};
use kcl_core::source::{PageToken, ShardFilter, StartPosition, StreamSource as _};
use kcl_core::types::{SequenceNumber, Timestamp};
use kcl_kinesis::{KinesisStream, aws_sdk_kinesis};
use serde_json::{Value, json};

use crate::server::{DATE_MILLIS, Server, config, iterator, ok, records, shard, undated};

const ARN: &str = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders";

fn listed(id: u32, parents: &[u32], closed: bool) -> Value {
    let mut shard = json!({
        "ShardId": format!("shardId-{id:012}"),
        "HashKeyRange": { "StartingHashKey": "0", "EndingHashKey": "340282366920938463463374607431768211455" },
        "SequenceNumberRange": { "StartingSequenceNumber": format!("{id}00") },
    });
    for (name, parent) in ["ParentShardId", "AdjacentParentShardId"].iter().zip(parents) {
        shard[*name] = json!(format!("shardId-{parent:012}"));
    }
    if closed {
        shard["SequenceNumberRange"]["EndingSequenceNumber"] = json!(format!("{id}99"));
    }
    shard
}

#[tokio::test(start_paused = true)]
async fn pages_follow_each_other_by_their_token_alone() {
    let server = Server::with([
        ok(json!({ "Shards": [listed(1, &[], true), listed(2, &[], true)], "NextToken": "page-2" })),
        ok(json!({ "Shards": [listed(3, &[1, 2], false)] })),
    ]);
    let stream = server.stream();
    let first = stream.shards(ShardFilter::All, None).await.unwrap();
    assert_eq!(first.service_time, Timestamp::from_millis(DATE_MILLIS));
    assert_eq!(first.next, Some(PageToken("page-2".to_owned())));
    let second = stream.shards(ShardFilter::All, first.next).await.unwrap();
    assert_eq!(second.next, None);

    let merged = &second.shards[0];
    let parents: Vec<_> = merged.parents.iter().map(|parent| parent.as_str()).collect();
    assert_eq!(parents, ["shardId-000000000001", "shardId-000000000002"]);
    assert_eq!(merged.starting_sequence, SequenceNumber::from(300));
    assert_eq!(
        first
            .shards
            .iter()
            .chain(&second.shards)
            .map(|shard| shard.closed)
            .collect::<Vec<_>>(),
        [true, true, false]
    );
    let inputs: Vec<_> = server.asked().into_iter().map(|(_, input)| input).collect();
    assert_eq!(
        inputs,
        [
            json!({ "StreamName": "orders" }),
            json!({ "NextToken": "page-2" })
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_filter_is_sent_with_the_first_page() {
    let time = Timestamp::from_millis(1_700_000_000_500);
    let rows = [
        (ShardFilter::All, Value::Null),
        (ShardFilter::Open, json!({ "Type": "AT_LATEST" })),
        (
            ShardFilter::FromTimestamp(time),
            json!({ "Type": "FROM_TIMESTAMP", "Timestamp": 1_700_000_000.5 }),
        ),
    ];
    for (filter, sent) in rows {
        let server = Server::with([ok(json!({ "Shards": [] }))]);
        server.stream().shards(filter, None).await.unwrap();
        let (operation, input) = server.asked().remove(0);
        assert_eq!((operation.as_str(), &input["ShardFilter"]), ("ListShards", &sent));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_server_lists_is_passed_on() {
    let answer = ok(json!({ "Shards": [listed(1, &[], true), listed(2, &[1], false)] }));
    let server = Server::with([answer.clone(), answer]);
    let ids = async |filter| {
        let page = server.stream().shards(filter, None).await.unwrap();
        page.shards
            .iter()
            .map(|shard| shard.id.to_string())
            .collect::<Vec<_>>()
    };
    // By its closed shards the core recognises a server that ignores filters.
    assert_eq!(ids(ShardFilter::Open).await.len(), 2);
    assert_eq!(ids(ShardFilter::All).await.len(), 2);
}

#[derive(Debug)]
struct AtNoon(TokioClock);

const NOON: Timestamp = Timestamp::from_millis(1_767_268_800_000);

impl Clock for AtNoon {
    fn now(&self) -> Moment {
        self.0.now()
    }

    fn wall(&self) -> Timestamp {
        NOON
    }

    fn sleep_until(&self, deadline: Moment) -> BoxFuture<'static, ()> {
        self.0.sleep_until(deadline)
    }
}

#[tokio::test(start_paused = true)]
async fn answer_without_date_is_dated_by_the_clock() {
    let server = Server::with([undated(json!({ "Shards": [] }))]);
    let stream = server.stream().with_clock(Arc::new(AtNoon(TokioClock::new())));
    let page = stream.shards(ShardFilter::All, None).await.unwrap();
    assert_eq!(page.service_time, NOON);
}

fn summary() -> Value {
    json!({ "StreamDescriptionSummary": {
        "StreamName": "orders",
        "StreamARN": ARN,
        "StreamStatus": "ACTIVE",
        "RetentionPeriodHours": 24,
        "StreamCreationTimestamp": 1_700_000_000.25,
        "EnhancedMonitoring": [],
        "OpenShardCount": 1,
    } })
}

#[tokio::test(start_paused = true)]
async fn identity_is_name_arn_and_creation_time() {
    let server = Server::with([ok(summary())]);
    let identity = server.stream().identity().await.unwrap();
    assert_eq!((identity.name.as_str(), identity.arn.as_str()), ("orders", ARN));
    assert_eq!(identity.created, Timestamp::from_millis(1_700_000_000_250));
    assert_eq!(
        server.asked(),
        [(
            "DescribeStreamSummary".to_owned(),
            json!({ "StreamName": "orders" })
        )]
    );
}

#[tokio::test(start_paused = true)]
async fn stream_given_by_arn_is_asked_by_arn() {
    let server = Server::with([
        ok(summary()),
        ok(json!({ "Shards": [] })),
        iterator("i0"),
        records(&[], "i1"),
    ]);
    let stream = KinesisStream::from_client(&Client::from_conf(config(&server).build()), ARN);
    assert_eq!(stream.name(), "orders");
    stream.identity().await.unwrap();
    stream.shards(ShardFilter::All, None).await.unwrap();
    let mut reader = stream.open(&shard(), StartPosition::TrimHorizon).await.unwrap();
    crate::server::next(&mut reader).await.unwrap();
    let asked = server.asked();
    assert_eq!(asked.len(), 4);
    for (operation, input) in asked {
        assert_eq!(input["StreamARN"], ARN, "{operation}");
        assert_eq!(input["StreamName"], Value::Null, "{operation}");
    }
}
