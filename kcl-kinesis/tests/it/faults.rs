//! Deadlines, errors, and what they say.

use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Config, Region};
use kcl_core::clock::{Clock as _, TokioClock};
use kcl_core::source::{SourceErrorKind, StartPosition, StreamSource as _};
use kcl_kinesis::{KinesisStream, PollingSettings, aws_sdk_kinesis};
use serde_json::json;

use crate::server::{Answer, Server, config, error, iterator, next, numbers, records, shard};

#[tokio::test(start_paused = true)]
async fn silent_server_is_given_up_at_the_deadline() {
    let server = Server::with([iterator("i0"), Answer::Silence]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    let clock = TokioClock::new();
    let failed = next(&mut reader).await.unwrap_err();
    assert_eq!(clock.now().since_origin(), Duration::from_secs(10));
    assert_eq!(failed.kind(), SourceErrorKind::Unavailable);
    assert_eq!(
        failed.to_string(),
        "kinesis:GetRecords on shardId-000000000001 of the stream orders in eu-west-1: no answer within 10s; is the endpoint reachable?"
    );
    server.then([records(&[1], "i1")]);
    assert_eq!(numbers(&mut reader).await, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn every_call_has_the_deadline_that_was_set() {
    let deadline = Duration::from_secs(2);
    let server = Server::with([const { Answer::Silence }; 3]);
    let stream = server.stream().with_polling(PollingSettings {
        request_deadline: deadline,
        ..PollingSettings::default()
    });
    let clock = TokioClock::new();
    stream.identity().await.unwrap_err();
    assert_eq!(clock.now().since_origin(), deadline);
    stream
        .shards(kcl_core::source::ShardFilter::All, None)
        .await
        .unwrap_err();
    assert_eq!(clock.now().since_origin(), deadline * 2);
    stream
        .open(&shard(), StartPosition::TrimHorizon)
        .await
        .unwrap_err();
    assert_eq!(clock.now().since_origin(), deadline * 3);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_tried_twice_whatever_client_does() {
    for fault in [
        error(500, "InternalFailure"),
        error(503, "ServiceUnavailable"),
        error(400, "ProvisionedThroughputExceededException"),
    ] {
        let server = Server::with([fault]);
        let eager = config(&server).retry_config(RetryConfig::standard().with_max_attempts(5));
        let stream = KinesisStream::from_client(&Client::from_conf(eager.build()), "orders");
        stream.identity().await.unwrap_err();
        assert_eq!(server.operations(), ["DescribeStreamSummary"]);
    }
}

#[tokio::test(start_paused = true)]
async fn codes_arrive_as_kinds() {
    let rows = [
        (
            400,
            "ProvisionedThroughputExceededException",
            SourceErrorKind::Throttled,
        ),
        (400, "LimitExceededException", SourceErrorKind::Throttled),
        (400, "KMSThrottlingException", SourceErrorKind::Throttled),
        (400, "ResourceNotFoundException", SourceErrorKind::NotFound),
        (400, "AccessDeniedException", SourceErrorKind::Denied),
        (400, "KMSAccessDeniedException", SourceErrorKind::Denied),
        (400, "UnrecognizedClientException", SourceErrorKind::Denied),
        (400, "InvalidSignatureException", SourceErrorKind::Denied),
        (400, "InvalidArgumentException", SourceErrorKind::Invalid),
        (500, "InternalFailureException", SourceErrorKind::Unavailable),
        (502, "", SourceErrorKind::Unavailable),
    ];
    for (status, code, kind) in rows {
        // A signature of another time than the answer's is made once more.
        let server = Server::with([iterator("i0"), error(status, code), error(status, code)]);
        let mut reader = server.open(StartPosition::TrimHorizon).await;
        let failed = next(&mut reader).await.unwrap_err();
        assert_eq!(failed.kind(), kind, "{code}: {failed}");
        assert!(failed.to_string().contains(code), "{failed}");
    }
}

#[tokio::test(start_paused = true)]
async fn missing_stream_is_named_with_region_and_help() {
    let server = Server::with([error(400, "ResourceNotFoundException")]);
    let failed = server.stream().identity().await.unwrap_err();
    assert_eq!(failed.kind(), SourceErrorKind::NotFound);
    assert_eq!(
        failed.to_string(),
        "kinesis:DescribeStreamSummary on the stream orders in eu-west-1: ResourceNotFoundException (said by the script); \
         create it, or correct the name, the region or the account of the credentials"
    );
}

#[tokio::test(start_paused = true)]
async fn without_credentials_the_error_says_which_to_set() {
    let server = Server::default();
    let bare = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .http_client(server.clone());
    let stream = KinesisStream::from_client(&Client::from_conf(bare.build()), "orders");
    let failed = stream.identity().await.unwrap_err();
    assert_eq!(failed.kind(), SourceErrorKind::Denied, "{failed}");
    assert!(failed.to_string().contains("AWS_ACCESS_KEY_ID"), "{failed}");
    assert_eq!(server.asked(), []);
}

#[tokio::test(start_paused = true)]
async fn without_a_region_the_error_says_so() {
    let server = Server::default();
    let lost = config(&server).region(None::<Region>);
    let stream = KinesisStream::from_client(&Client::from_conf(lost.build()), "orders");
    let failed = stream.identity().await.unwrap_err();
    assert_eq!(failed.kind(), SourceErrorKind::Denied, "{failed}");
    assert!(failed.to_string().contains("AWS_REGION"), "{failed}");
}

/// The service quotes the request when a signature is wrong, and an answer that cannot be parsed may hold records.
#[tokio::test(start_paused = true)]
async fn neither_token_nor_payload_is_in_an_error() {
    let quoted = json!({
        "__type": "InvalidSignatureException",
        "message": "The Canonical String should have been x-amz-security-token:hush",
    });
    for (status, body) in [
        (400, quoted.to_string()),
        (200, r#"{"Records": [hush"#.to_owned()),
    ] {
        let answer = Answer::Reply {
            status,
            body,
            dated: true,
        };
        let server = Server::with([iterator("i0"), answer.clone(), answer]);
        let mut reader = server.open(StartPosition::TrimHorizon).await;
        let failed = next(&mut reader).await.unwrap_err();
        let shown = format!("{failed} {failed:?} {reader:?}");
        assert!(!shown.contains("hush"), "{shown}");
    }
}
