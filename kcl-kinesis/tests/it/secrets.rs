//! Nothing that is secret is in an error or in the log: no key, no token, no record.

use std::error::Error as StdError;
use std::io;
use std::sync::{Arc, Mutex};

use kcl_core::source::{ShardFilter, SourceError, StartPosition, StreamSource as _};
use kcl_kinesis::FanOut;

use crate::server::{Answer, CONSUMER_ARN, Server, error_saying, iterator, next, shard};

const TOKEN: &str = "IQoJb3JpZ2luX2VjEKr//////////wEaCWV1LXdlc3QtMSJHMEUCIQDcanary0123456789";

/// Everything that an error shows, to the last cause.
fn shown(error: &SourceError) -> String {
    let mut shown = format!("{error} {error:?} {error:#?}");
    let mut cause = error.source();
    while let Some(next) = cause {
        shown = format!("{shown} {next} {next:?}");
        cause = next.source();
    }
    shown
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Asks for everything there is, and each time the server answers like this.
async fn all_errors(answer: &Answer) -> Vec<SourceError> {
    let mut errors = Vec::new();
    let server = |begin: &[Answer]| Server::with(begin.iter().chain([answer; 8]).cloned());
    errors.extend(server(&[]).stream().identity().await.err());
    errors.extend(server(&[]).stream().shards(ShardFilter::All, None).await.err());
    let opened = server(&[]);
    errors.extend(
        opened
            .stream()
            .open(&shard(), StartPosition::TrimHorizon)
            .await
            .err(),
    );
    let mut reader = server(&[iterator("i0")]).open(StartPosition::TrimHorizon).await;
    errors.extend(next(&mut reader).await.err());
    for fan_out in [
        FanOut::consumer("app"),
        FanOut::registered_consumer("app"),
        FanOut::consumer_arn(CONSUMER_ARN),
    ] {
        let stream = server(&[]).stream().with_fan_out(fan_out);
        errors.extend(stream.open(&shard(), StartPosition::TrimHorizon).await.err());
        errors.extend(stream.deregister_consumer().await.err());
    }
    errors
}

#[tokio::test(start_paused = true)]
async fn no_secret_is_in_errors_or_logs() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut answers = Vec::new();
    for code in [
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "IncompleteSignature",
        "UnrecognizedClientException",
        "ExpiredTokenException",
        "AccessDeniedException",
        "InvalidArgumentException",
        "SerializationException",
        "ResourceNotFoundException",
        "LimitExceededException",
        "ExpiredIteratorException",
        "InternalFailure",
        "KMSDisabledException",
        "OfTheFutureException",
        "",
    ] {
        for message in [
            format!("the request was x-amz-security-token:{TOKEN}"),
            format!("The Canonical String should have been\n'POST\n\nx-amz-security-token:{TOKEN}'"),
            format!("a token {TOKEN} and \"{TOKEN}\" of it"),
        ] {
            answers.extend([400, 403, 500].map(|status| error_saying(status, code, &message)));
        }
    }
    // Answers that cannot be read hold records.
    for body in [
        r#"{"Records": "canary"}"#,
        r#"{"Records": [{"Data": "Y2FuYXJ5", "PartitionKey": "canary", "SequenceNumber": "canary"}]}"#,
        r#"{"Records": [{"SequenceNumber": {"canary": 1}}], "Shards": "canary"}"#,
        r#"{"StreamDescriptionSummary": "canary", "Shards": [{"ShardId": "canary"}], "ShardIterator": 7}"#,
        r#"{"NextShardIterator": "a", "MillisBehindLatest": "canary"}"#,
        r#"{canary"#,
        r#"canary"#,
    ] {
        answers.push(Answer::Reply {
            status: 200,
            body: body.to_owned(),
            dated: true,
        });
    }
    for answer in &answers {
        for error in all_errors(answer).await {
            let shown = shown(&error);
            assert!(!shown.contains("canary"), "{answer:?}: {shown}");
        }
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(!log.contains("canary"), "{log}");
    assert!(log.contains("kinesis:"), "nothing was logged");
}

#[tokio::test(start_paused = true)]
async fn an_error_is_said_once() {
    for answer in [
        error_saying(400, "InvalidArgumentException", "no such thing"),
        error_saying(500, "InternalFailure", "out of order"),
        Answer::Page(503),
    ] {
        for error in all_errors(&answer).await {
            let causes = kcl_core::Causes(&error).to_string();
            for part in [
                "no such thing",
                "out of order",
                "InvalidArgument",
                "InternalFailure",
            ] {
                assert!(causes.matches(part).count() <= 1, "{causes}");
            }
            assert!(
                error
                    .source()
                    .is_none_or(|cause| !error.to_string().contains(&cause.to_string()))
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn code_of_an_error_is_no_secret_either() {
    let long = format!("{TOKEN} {}", "x".repeat(100_000));
    for status in [400, 500] {
        for error in all_errors(&error_saying(status, &long, "")).await {
            let shown = shown(&error);
            assert!(!shown.contains("canary") && shown.len() < 10_000, "{shown:.300}");
        }
    }
}
