//! A host whose clock is not the service's.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::http::{HttpRequest, HttpResponse};
use aws_sdk_kinesis::config::{HttpClient, RuntimeComponents};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use kcl_core::clock::{Clock as _, TokioClock};
use kcl_core::source::{SourceErrorKind, StartPosition, StreamSource as _};
use kcl_kinesis::{KinesisStream, aws_sdk_kinesis};
use serde_json::json;

use crate::server::{Server, config, error_saying, iterator, next, numbers, records, shard, summary};

const HOUR: i64 = 3600;

/// A service whose clock may be ahead of this host's, and which refuses what was signed more than five minutes ago.
#[derive(Debug, Clone)]
struct Ahead {
    server: Server,
    ahead: i64,
    /// How far the stamps of its answers are ahead of its clock.
    stamped_ahead: Arc<AtomicI64>,
    refused: Arc<AtomicU32>,
}

impl HttpClient for Ahead {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Ahead {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let now = TokioClock::new().wall().as_millis() / 1000 + self.ahead;
        let signed = request.headers().get("x-amz-date").unwrap();
        let (day, time) = signed.trim_end_matches('Z').split_once('T').unwrap();
        let text = format!(
            "{}-{}-{}T{}:{}:{}Z",
            &day[..4],
            &day[4..6],
            &day[6..],
            &time[..2],
            &time[2..4],
            &time[4..]
        );
        let signed = DateTime::from_str(&text, Format::DateTime).unwrap().secs();
        let answer = if signed.abs_diff(now) > 300 {
            self.refused.fetch_add(1, Ordering::SeqCst);
            let expired = error_saying(400, "InvalidSignatureException", "Signature expired");
            Server::with([expired]).call(request)
        } else {
            self.server.call(request)
        };
        let stamp = now + self.stamped_ahead.load(Ordering::SeqCst);
        HttpConnectorFuture::new(async move {
            let mut response: HttpResponse = answer.await?;
            let date = DateTime::from_secs(stamp).fmt(Format::HttpDate).unwrap();
            response.headers_mut().insert("date", date);
            Ok(response)
        })
    }
}

fn stream_of(server: &Server, ahead: i64) -> (KinesisStream, Ahead) {
    let ahead = Ahead {
        server: server.clone(),
        ahead,
        stamped_ahead: Arc::default(),
        refused: Arc::default(),
    };
    let client = Client::from_conf(config(server).http_client(ahead.clone()).build());
    (KinesisStream::from_client(&client, "orders"), ahead)
}

#[tokio::test]
async fn a_wrong_clock_costs_one_refused_request() {
    let server = Server::with([
        summary(json!({})),
        summary(json!({})),
        iterator("i0"),
        records(&[1], "i1"),
        records(&[2], "i2"),
    ]);
    let (stream, ahead) = stream_of(&server, HOUR);
    stream.identity().await.unwrap();
    stream.identity().await.unwrap();
    assert_eq!(ahead.refused.load(Ordering::SeqCst), 1);
    let mut reader = stream.open(&shard(), StartPosition::TrimHorizon).await.unwrap();
    // Records come over connections of their own, whose clock is learned once more.
    assert_eq!(numbers(&mut reader).await, ["1"]);
    assert_eq!(numbers(&mut reader).await, ["2"]);
    assert_eq!(ahead.refused.load(Ordering::SeqCst), 2);
}

/// The SDK signs with the `Date` of the last answer, also of one that a proxy stamped wrongly.
#[tokio::test]
async fn wrong_date_of_an_answer_costs_one_request() {
    let server = Server::with([summary(json!({})), summary(json!({})), summary(json!({}))]);
    let (stream, service) = stream_of(&server, 0);
    service.stamped_ahead.store(HOUR, Ordering::SeqCst);
    stream.identity().await.unwrap();
    service.stamped_ahead.store(0, Ordering::SeqCst);
    stream.identity().await.unwrap();
    stream.identity().await.unwrap();
    assert_eq!(service.refused.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn wrong_key_is_tried_only_twice() {
    let refusals = [(); 3].map(|()| error_saying(400, "InvalidSignatureException", "no match"));
    let server = Server::with(refusals);
    let failed = server.stream().identity().await.unwrap_err();
    assert_eq!(failed.kind(), SourceErrorKind::Denied);
    assert!(failed.to_string().contains("secret access key"), "{failed}");
    assert_eq!(server.asked().len(), 2);
    let iterator = iterator("i0");
    let server = Server::with([iterator]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    server.then([(); 3].map(|()| error_saying(400, "InvalidSignatureException", "no match")));
    server.asked();
    next(&mut reader).await.unwrap_err();
    assert_eq!(server.asked().len(), 2);
}
