//! The dead-letter sink: one PutRecord a letter, and errors that say what to do.

use std::time::Duration;

use aws_sdk_kinesis::Client;
use base64::Engine as _;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::dead_letter::{DeadLetter, DeadLetterSink as _};
use kcl_core::types::{ApplicationName, Record, SequenceNumber, WorkerId};
use kcl_kinesis::{DeadLetterStream, aws_sdk_kinesis};
use serde_json::json;

use crate::server::{Answer, STREAM_ARN, Server, config, error, error_saying, ok, shard};

/// A sink that sends to the stream `set-aside` of this server.
pub(crate) fn sink(server: &Server) -> DeadLetterStream {
    to(server, "set-aside")
}

fn to(server: &Server, stream: &str) -> DeadLetterStream {
    DeadLetterStream::from_client(&Client::from_conf(config(server).build()), stream)
}

/// A letter of the stream `orders`, with a payload that no error may show.
pub(crate) fn letter() -> DeadLetter {
    let record = Record::new(SequenceNumber::from(7), "canary");
    let app = ApplicationName::new("app").unwrap();
    let mut letter = DeadLetter::new(record, "orders", shard(), app, WorkerId::new("worker-1").unwrap());
    letter.stream_arn = Some(STREAM_ARN.to_owned());
    letter
}

/// The answer of PutRecord.
pub(crate) fn put() -> Answer {
    ok(json!({ "SequenceNumber": "49", "ShardId": "shardId-000000000000" }))
}

async fn refusal(server: &Server, sink: &DeadLetterStream, letter: &DeadLetter) -> String {
    let error = sink.send(letter).await.unwrap_err().to_string();
    assert!(
        !error.contains("canary") && !error.contains("Y2FuYXJ5"),
        "{error}"
    );
    assert!(
        server.asked().len() <= 1,
        "the worker tries again, and nothing else"
    );
    error
}

#[tokio::test(start_paused = true)]
async fn letter_is_one_record_that_reads_back() {
    let server = Server::with([put()]);
    sink(&server).send(&letter()).await.unwrap();
    let (operation, input) = server.asked().pop().unwrap();
    assert_eq!(operation, "PutRecord");
    assert_eq!(input["StreamName"], "set-aside");
    assert_eq!(input["PartitionKey"], shard().as_str());
    let data = input["Data"].as_str().unwrap();
    let line = base64::engine::general_purpose::STANDARD.decode(data).unwrap();
    assert_eq!(line.last(), Some(&b'\n'));
    assert_eq!(kcl_dead_letters::decode(&line), Ok(letter()));
}

#[tokio::test(start_paused = true)]
async fn errors_say_what_to_do() {
    let rows = [
        (
            error(400, "AccessDeniedException"),
            "grant kinesis:PutRecord on arn:aws:kinesis:eu-west-1:*:stream/set-aside",
        ),
        (error(400, "ResourceNotFoundException"), "set-aside"),
        (
            error(400, "ProvisionedThroughputExceededException"),
            "kinesis:PutRecord on the stream set-aside",
        ),
        (
            error_saying(400, "KMSDisabledException", "the key is off"),
            "KMSDisabledException",
        ),
        (error(500, "InternalFailure"), "kinesis:PutRecord"),
        (
            ok(json!({ "ShardId": "shardId-000000000000" })),
            "kinesis:PutRecord",
        ),
        (Answer::Page(503), "kinesis:PutRecord"),
    ];
    for (answer, says) in rows {
        let server = Server::with([answer.clone()]);
        let error = refusal(&server, &sink(&server), &letter()).await;
        assert!(error.contains(says), "{answer:?}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn letter_too_large_names_its_size() {
    let server = Server::with([error(400, "ValidationException")]);
    let mut large = letter();
    large.record = Record::new(SequenceNumber::from(7), vec![b'x'; 900 * 1024]);
    let error = refusal(&server, &sink(&server), &large).await;
    assert!(error.contains("MaxRecordSizeInKiB"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn silent_server_is_given_up() {
    let server = Server::with([Answer::Silence]);
    let sink = sink(&server);
    let letter = letter();
    let sent = TokioClock::new()
        .timeout(Duration::from_secs(11), sink.send(&letter))
        .await;
    let error = sent.unwrap().unwrap_err().to_string();
    assert!(error.contains("no answer within 10s"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn stream_takes_no_letters_of_its_own() {
    let elsewhere = "arn:aws:kinesis:eu-west-1:210987654321:stream/orders";
    let mut of_other_region = letter();
    of_other_region.stream_arn = Some("arn:aws:kinesis:us-east-1:123456789012:stream/orders".to_owned());
    let mut without_arn = letter();
    without_arn.stream_arn = None;
    for (stream, letter) in [
        ("orders", letter()),
        (STREAM_ARN, letter()),
        ("orders", without_arn),
    ] {
        let server = Server::default();
        let error = refusal(&server, &to(&server, stream), &letter).await;
        assert!(error.contains("give DeadLetterStream another stream"), "{error}");
        assert!(server.asked().is_empty());
    }
    for (stream, letter) in [(elsewhere, letter()), ("orders", of_other_region)] {
        let server = Server::with([put()]);
        to(&server, stream).send(&letter).await.unwrap();
    }
}
