//! Enhanced fan-out: what keeps a worker from being a consumer, and what it says then.

use kcl_core::source::{SourceErrorKind, StartPosition, StreamSource as _};
use kcl_kinesis::FanOut;
use serde_json::{Value, json};

use crate::server::{Answer, CONSUMER_ARN, STREAM_ARN, Server, error, ok, shard, summary};

#[tokio::test(start_paused = true)]
async fn denied_action_on_consumer_names_the_consumer() {
    let denied = || error(400, "AccessDeniedException");
    let named = Server::with([summary(json!({})), denied()]);
    let given = Server::with([denied()]);
    let by_name = format!("{STREAM_ARN}/consumer/app");
    for (server, fan_out, resource) in [
        (named, FanOut::consumer("app"), by_name.as_str()),
        (given, FanOut::consumer_arn(CONSUMER_ARN), CONSUMER_ARN),
    ] {
        let stream = server.stream().with_fan_out(fan_out);
        let failed = stream
            .open(&shard(), StartPosition::TrimHorizon)
            .await
            .unwrap_err();
        assert_eq!(failed.kind(), SourceErrorKind::Denied);
        let said = failed.to_string();
        assert!(
            said.contains("grant kinesis:") && said.contains(resource),
            "{said}"
        );
        assert!(!said.contains("grant the action on the stream"), "{said}");
    }
}

fn registered(names: std::ops::Range<u32>) -> Vec<Value> {
    let consumer = |number| {
        json!({
            "ConsumerName": format!("app-{number}"),
            "ConsumerARN": format!("{STREAM_ARN}/consumer/app-{number}:1700000000"),
            "ConsumerStatus": "ACTIVE",
            "ConsumerCreationTimestamp": 1_700_000_000.0,
        })
    };
    names.map(consumer).collect()
}

async fn refused(listed: impl IntoIterator<Item = Answer>) -> (SourceErrorKind, String, Vec<String>) {
    let server = Server::with([
        summary(json!({ "ConsumerCount": 20 })),
        error(400, "ResourceNotFoundException"),
        error(400, "LimitExceededException"),
    ]);
    server.then(listed);
    let stream = server.stream().with_fan_out(FanOut::consumer("late"));
    let failed = stream
        .open(&shard(), StartPosition::TrimHorizon)
        .await
        .unwrap_err();
    (failed.kind(), failed.to_string(), server.operations())
}

#[tokio::test(start_paused = true)]
async fn a_full_stream_names_its_consumers() {
    let first = ok(json!({ "Consumers": registered(0..15), "NextToken": "more" }));
    let second = ok(json!({ "Consumers": registered(15..20) }));
    let (kind, said, asked) = refused([first, second]).await;
    assert_eq!(kind, SourceErrorKind::Invalid);
    for part in ["20 consumers", "app-0", "app-19", "deregister"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_eq!(asked[3..], ["ListStreamConsumers", "ListStreamConsumers"]);
}

#[tokio::test(start_paused = true)]
async fn full_stream_is_known_without_the_list() {
    let denied = error(400, "AccessDeniedException");
    let (kind, said, _) = refused([denied, summary(json!({ "ConsumerCount": 20 }))]).await;
    assert_eq!(kind, SourceErrorKind::Invalid);
    for part in ["20 consumers", "kinesis:ListStreamConsumers"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_room_is_only_throttled() {
    let (kind, said, _) = refused([ok(json!({ "Consumers": registered(0..19) }))]).await;
    assert_eq!(kind, SourceErrorKind::Throttled, "{said}");
}

#[tokio::test(start_paused = true)]
async fn stream_filled_up_since_start_is_full() {
    let server = Server::with([
        summary(json!({ "ConsumerCount": 3 })),
        summary(json!({ "ConsumerCount": 3 })),
        error(400, "ResourceNotFoundException"),
        error(400, "LimitExceededException"),
        error(400, "AccessDeniedException"),
        summary(json!({ "ConsumerCount": 20 })),
    ]);
    let stream = server.stream().with_fan_out(FanOut::consumer("late"));
    stream.identity().await.unwrap();
    let failed = stream
        .open(&shard(), StartPosition::TrimHorizon)
        .await
        .unwrap_err();
    assert_eq!(failed.kind(), SourceErrorKind::Invalid, "{failed}");
    assert!(failed.to_string().contains("20 consumers"), "{failed}");
}
