//! Streams come, are described, and go.

use aws_sdk_kinesis::types::{StreamMode, StreamModeDetails, StreamStatus};
use hyper::Version;
use kinesis_local::{Operation, WireOptions};
use serde_json::Value;

use crate::wire_server::raw;
use crate::wire_server::support::{NAME, Served, code};

async fn status(served: &Served, stream: &str) -> StreamStatus {
    let call = served.sdk.describe_stream_summary().stream_name(stream);
    let summary = call.send().await.unwrap().stream_description_summary.unwrap();
    summary.stream_status
}

#[tokio::test]
async fn stream_is_created_described_listed_and_deleted() {
    let served = Served::as_kinesis(1).await;
    let sdk = &served.sdk;
    let create = || sdk.create_stream().stream_name("more").shard_count(2);
    create().send().await.unwrap();
    assert_eq!(status(&served, "more").await, StreamStatus::Creating);
    let early = sdk.list_shards().stream_name("more").send().await;
    assert_eq!(code(early), "ResourceInUseException");
    assert_eq!(code(create().send().await), "ResourceInUseException");

    served.advance(500);
    let described = sdk
        .describe_stream()
        .stream_name("more")
        .limit(1)
        .send()
        .await
        .unwrap();
    let described = described.stream_description.unwrap();
    assert_eq!(described.stream_status, StreamStatus::Active);
    assert_eq!((described.shards.len(), described.has_more_shards), (1, true));
    let first = sdk.list_streams().limit(1).send().await.unwrap();
    assert_eq!(
        (first.stream_names(), first.has_more_streams),
        (&["more".to_owned()][..], true)
    );
    let rest = sdk
        .list_streams()
        .next_token(first.next_token.unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!(
        (rest.stream_names(), rest.has_more_streams),
        (&[NAME.to_owned()][..], false)
    );

    sdk.delete_stream().stream_name("more").send().await.unwrap();
    assert_eq!(status(&served, "more").await, StreamStatus::Deleting);
    served.advance(500);
    let gone = sdk.describe_stream_summary().stream_name("more").send().await;
    assert_eq!(code(gone), "ResourceNotFoundException");
    assert!(served.server.stream("more").is_none());
    assert_eq!(served.server.requests().count(Operation::CreateStream), 2);
}

#[tokio::test]
async fn on_demand_stream_begins_with_four_shards() {
    let served = Served::with(1, WireOptions::unlimited()).await;
    let mode = StreamModeDetails::builder()
        .stream_mode(StreamMode::OnDemand)
        .build()
        .unwrap();
    let create = served
        .sdk
        .create_stream()
        .stream_name("more")
        .stream_mode_details(mode);
    create.send().await.unwrap();
    assert_eq!(served.server.stream("more").unwrap().shards_snapshot().len(), 4);
}

#[tokio::test]
async fn stream_is_found_by_its_own_arn_only() {
    let served = Served::as_kinesis(1).await;
    let arn = served.arn().await;
    let by_arn = served
        .sdk
        .describe_stream_summary()
        .stream_arn(&arn)
        .send()
        .await
        .unwrap();
    let summary = by_arn.stream_description_summary.unwrap();
    assert_eq!(
        (summary.stream_name, summary.stream_arn),
        (NAME.to_owned(), arn.clone())
    );
    assert_eq!((summary.open_shard_count, summary.consumer_count), (1, Some(0)));
    let foreign = arn.replace("000000000000", "999999999999");
    let other = served
        .sdk
        .describe_stream_summary()
        .stream_arn(foreign)
        .send()
        .await;
    assert_eq!(code(other), "ResourceNotFoundException");
    let both = served
        .sdk
        .describe_stream_summary()
        .stream_arn(arn)
        .stream_name("other");
    assert_eq!(code(both.send().await), "InvalidArgumentException");
    assert_eq!(
        code(served.sdk.describe_stream_summary().send().await),
        "InvalidArgumentException"
    );
}

#[tokio::test]
async fn deletion_by_test_is_seen_by_clients() {
    let served = Served::with(1, WireOptions::unlimited()).await;
    let register = || served.sdk.register_stream_consumer().consumer_name("app");
    register().stream_arn(served.arn().await).send().await.unwrap();
    served.stream.recreate(3);
    let summary = served
        .sdk
        .describe_stream_summary()
        .stream_name(NAME)
        .send()
        .await
        .unwrap();
    let summary = summary.stream_description_summary.unwrap();
    assert_eq!((summary.open_shard_count, summary.consumer_count), (3, Some(0)));
    served.stream.delete();
    let gone = served.sdk.list_shards().stream_name(NAME).send().await;
    assert_eq!(code(gone), "ResourceNotFoundException");
    let listed = served.sdk.list_streams().send().await.unwrap();
    assert!(listed.stream_names().is_empty());
}

#[tokio::test]
async fn date_of_answer_is_time_of_stream() {
    let served = Served::as_kinesis(1).await;
    served.advance(61_500);
    let body = format!(r#"{{"StreamName":"{NAME}"}}"#);
    let answer = raw::call(
        &served.server,
        Version::HTTP_11,
        "ListShards",
        "application/x-amz-json-1.1",
        body,
    )
    .await;
    let date = aws_sdk_kinesis::primitives::DateTime::from_str(
        &answer.date,
        aws_sdk_kinesis::primitives::DateTimeFormat::HttpDate,
    );
    assert_eq!(date.unwrap().secs(), served.stream.service_time().as_secs());
}

#[tokio::test]
async fn what_server_does_not_know_is_clear_error() {
    let served = Served::as_kinesis(1).await;
    let call = async |target: &str, content_type: &str| {
        let answer = raw::call(&served.server, Version::HTTP_11, target, content_type, "{}").await;
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        (answer.status, body["__type"].as_str().unwrap().to_owned())
    };
    assert_eq!(
        call("CreateChannel", "application/x-amz-json-1.1").await,
        (400, "UnknownOperationException".to_owned())
    );
    assert_eq!(
        call("ListStreams", "text/plain").await,
        (415, "SerializationException".to_owned())
    );
}

#[tokio::test]
async fn a_stopped_server_frees_its_port() {
    let served = Served::as_kinesis(1).await;
    let port = served.server.address().port();
    served.server.stop().await;
    let options = WireOptions {
        port,
        ..WireOptions::default()
    };
    let again = kinesis_local::WireServer::start([served.stream], options)
        .await
        .unwrap();
    assert_eq!(again.address().port(), port);
    assert!(again.stream(NAME).is_some());
}
