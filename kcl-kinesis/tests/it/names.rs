//! The parts of an ARN, against the stream, the client and the consumer.

use aws_sdk_kinesis::Client;
use kcl_core::source::{ShardFilter, SourceErrorKind, StartPosition, StreamSource as _};
use kcl_kinesis::{FanOut, KinesisStream, aws_sdk_kinesis};
use serde_json::json;

use crate::server::{CONSUMER_ARN, STREAM_ARN, Server, config, error, shard, summary};

fn stream(server: &Server, name_or_arn: &str) -> KinesisStream {
    KinesisStream::from_client(&Client::from_conf(config(server).build()), name_or_arn)
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_another_region_is_refused() {
    let server = Server::with([error(400, "ResourceNotFoundException")]);
    let far = stream(&server, "arn:aws:kinesis:us-east-1:123456789012:stream/orders");
    let failures = [
        far.identity().await.unwrap_err(),
        far.shards(ShardFilter::All, None).await.unwrap_err(),
        far.open(&shard(), StartPosition::TrimHorizon).await.unwrap_err(),
    ];
    for failed in failures {
        assert_eq!(failed.kind(), SourceErrorKind::Invalid);
        let said = failed.to_string();
        assert!(said.contains("us-east-1") && said.contains("eu-west-1"), "{said}");
    }
    assert_eq!(server.operations(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn arn_of_anything_but_stream_is_refused() {
    for arn in [
        CONSUMER_ARN,
        "arn:aws:dynamodb:eu-west-1:123456789012:table/orders",
        "arn:aws-cn:kinesis:eu-west-1:123456789012:stream/orders",
        "arn:aws:kinesis:eu-west-1:stream/orders",
    ] {
        let server = Server::default();
        let failed = stream(&server, arn).identity().await.unwrap_err();
        assert_eq!(failed.kind(), SourceErrorKind::Invalid);
        assert!(
            failed.to_string().contains("is not the ARN of a stream"),
            "{failed}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_of_another_stream_is_refused() {
    for ships in [
        "arn:aws:kinesis:eu-west-1:123456789012:stream/ships/consumer/app:1700000000",
        "arn:aws:kinesis:eu-west-1:111122223333:stream/orders/consumer/app:1700000000",
        "arn:aws:kinesis:us-east-1:123456789012:stream/orders/consumer/app:1700000000",
    ] {
        for (name_or_arn, is_known) in [(STREAM_ARN, false), ("orders", true)] {
            let server = Server::default();
            let orders = stream(&server, name_or_arn).with_fan_out(FanOut::consumer_arn(ships));
            if is_known {
                server.then([summary(json!({}))]);
                orders.identity().await.unwrap_err();
                server.asked();
            }
            let failed = orders
                .open(&shard(), StartPosition::TrimHorizon)
                .await
                .unwrap_err();
            assert_eq!(failed.kind(), SourceErrorKind::Invalid);
            let said = failed.to_string();
            assert!(
                said.contains(ships) && said.contains("the stream to read is"),
                "{said}"
            );
            assert_eq!(server.operations(), [""; 0], "asked as another stream's consumer");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_of_another_name_needs_no_answer() {
    let ships = "arn:aws:kinesis:eu-west-1:123456789012:stream/ships/consumer/app:1700000000";
    for (consumer, said) in [
        (ships, "stream/ships"),
        (STREAM_ARN, "is not the ARN of a consumer"),
    ] {
        let server = Server::default();
        let orders = stream(&server, "orders").with_fan_out(FanOut::consumer_arn(consumer));
        let failed = orders
            .open(&shard(), StartPosition::TrimHorizon)
            .await
            .unwrap_err();
        assert_eq!(failed.kind(), SourceErrorKind::Invalid);
        assert!(failed.to_string().contains(said), "{failed}");
        // Nor does a worker start with it.
        assert!(orders.identity().await.unwrap_err().to_string().contains(said));
        assert_eq!(server.operations(), [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_about_another_stream_is_refused() {
    let server = Server::with([summary(json!({
        "StreamName": "ships",
        "StreamARN": "arn:aws:kinesis:eu-west-1:123456789012:stream/ships",
    }))]);
    let failed = stream(&server, "orders").identity().await.unwrap_err();
    assert_eq!(failed.kind(), SourceErrorKind::Invalid);
    assert!(failed.to_string().contains("ships"), "{failed}");
}
