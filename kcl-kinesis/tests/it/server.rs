//! A server inside the client: plays a script of answers and remembers what it was asked. It needs no socket, so time can be paused.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::http::{HttpRequest, HttpResponse};
use aws_sdk_kinesis::config::{BehaviorVersion, Config, Credentials, HttpClient, Region, RuntimeComponents};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use kcl_core::clock::{BoxFuture, ClockExt as _, TokioClock};
use kcl_core::source::{Fetch, FetchLimit, RecordStream, SourceError, StartPosition, StreamSource as _};
use kcl_core::types::ShardId;
use kcl_kinesis::{KinesisStream, aws_sdk_kinesis};
use serde_json::{Value, json};

use crate::encoding;

/// When the server answers, by its own clock.
pub(crate) const DATE: &str = "Thu, 01 Jan 2026 00:00:07 GMT";
pub(crate) const DATE_MILLIS: i64 = 1_767_225_607_000;

#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Reply {
        status: u16,
        body: String,
        dated: bool,
    },
    /// A balancer in front of the service answers, in HTML.
    Page(u16),
    /// The connection stays open and nothing comes.
    Silence,
    /// A success whose body comes in pieces, one a second, and not all of them where it falls silent in between.
    Slow {
        body: String,
        pieces: usize,
        comes: usize,
    },
    /// A success whose body has so many MiB, at once and without saying so.
    Flood(usize),
}

/// Records in pieces, of which one comes each second and only so many come.
pub(crate) fn slow_records(numbers: &[u32], next: &str, pieces: usize, comes: usize) -> Answer {
    let Answer::Reply { body, .. } = records(numbers, next) else {
        unreachable!("records are a reply")
    };
    Answer::Slow { body, pieces, comes }
}

/// A body that takes its time.
struct SlowBody {
    pieces: VecDeque<Bytes>,
    comes: usize,
    length: usize,
    /// In a mutex because a body is shared between threads, though only one reads it.
    pause: Mutex<BoxFuture<'static, ()>>,
}

impl SlowBody {
    fn new(body: Vec<u8>, pieces: usize, comes: usize) -> Self {
        let body = Bytes::from(body);
        let piece = body.len().div_ceil(pieces).max(1);
        let starts = (0..body.len()).step_by(piece);
        Self {
            pieces: starts
                .map(|at| body.slice(at..(at + piece).min(body.len())))
                .collect(),
            comes,
            length: body.len(),
            pause: Mutex::new(TokioClock::new().sleep(Duration::from_secs(1))),
        }
    }
}

impl http_body::Body for SlowBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
        if self.pieces.is_empty() {
            return Poll::Ready(None);
        }
        if self.comes == 0 {
            return Poll::Pending;
        }
        ready!(self.pause.get_mut().unwrap().as_mut().poll(context));
        self.pause = Mutex::new(TokioClock::new().sleep(Duration::from_secs(1)));
        self.comes -= 1;
        Poll::Ready(
            self.pieces
                .pop_front()
                .map(|piece| Ok(http_body::Frame::data(piece))),
        )
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.length as u64)
    }
}

/// So many MiB, of unknown length until they have come.
struct Flood(usize);

impl http_body::Body for Flood {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
        let Some(left) = self.0.checked_sub(1) else {
            return Poll::Ready(None);
        };
        self.0 = left;
        Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from(vec![b' '; 1 << 20])))))
    }
}

/// A success.
pub(crate) fn ok(body: Value) -> Answer {
    Answer::Reply {
        status: 200,
        body: body.to_string(),
        dated: true,
    }
}

/// A success without a `Date`.
pub(crate) fn undated(body: Value) -> Answer {
    Answer::Reply {
        status: 200,
        body: body.to_string(),
        dated: false,
    }
}

/// An error as the service words it.
pub(crate) fn error(status: u16, code: &str) -> Answer {
    Answer::Reply {
        status,
        body: json!({ "__type": code, "message": "said by the script" }).to_string(),
        dated: true,
    }
}

/// An error that says this.
pub(crate) fn error_saying(status: u16, code: &str, message: &str) -> Answer {
    Answer::Reply {
        status,
        body: json!({ "__type": code, "message": message }).to_string(),
        dated: true,
    }
}

/// The answer of DescribeStreamSummary for the stream `orders` of this test's account, with these members besides.
pub(crate) fn summary(more: Value) -> Answer {
    let mut summary = json!({
        "StreamName": "orders",
        "StreamARN": STREAM_ARN,
        "StreamStatus": "ACTIVE",
        "RetentionPeriodHours": 24,
        "StreamCreationTimestamp": 1_700_000_000.0,
        "EnhancedMonitoring": [],
        "OpenShardCount": 1,
    });
    for (name, value) in more.as_object().unwrap() {
        summary[name] = value.clone();
    }
    ok(json!({ "StreamDescriptionSummary": summary }))
}

pub(crate) const STREAM_ARN: &str = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders";
pub(crate) const CONSUMER_ARN: &str =
    "arn:aws:kinesis:eu-west-1:123456789012:stream/orders/consumer/app:1700000000";

/// An answer of GetShardIterator.
pub(crate) fn iterator(token: &str) -> Answer {
    ok(json!({ "ShardIterator": token }))
}

/// An answer of GetRecords with these sequence numbers, at the tip of the shard.
pub(crate) fn records(numbers: &[u32], next: &str) -> Answer {
    ok(json!({
        "Records": numbers.iter().copied().map(record).collect::<Vec<_>>(),
        "NextShardIterator": next,
        "MillisBehindLatest": 0,
    }))
}

pub(crate) fn record(number: u32) -> Value {
    json!({
        "SequenceNumber": number.to_string(),
        "ApproximateArrivalTimestamp": 1_767_225_600.125,
        "Data": "aGVsbG8=",
        "PartitionKey": "truck-7",
    })
}

/// One request: the operation's name and its input.
pub(crate) type Asked = (String, Value);

/// Answers in the form in which it was asked, unless it knows only JSON.
#[derive(Debug, Clone, Default)]
pub(crate) struct Server {
    script: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    content_types: Arc<Mutex<Vec<String>>>,
    /// Its answer to a request in CBOR, if it does not speak it.
    refusal: Option<Answer>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A configuration with credentials and region that reaches this server.
pub(crate) fn config(server: &Server) -> aws_sdk_kinesis::config::Builder {
    Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .http_client(server.clone())
}

impl Server {
    /// A server that gives these answers, one a request.
    pub(crate) fn with(script: impl IntoIterator<Item = Answer>) -> Self {
        let server = Self::default();
        server.then(script);
        server
    }

    /// The same server, which answers this to every request in CBOR.
    pub(crate) fn that_refuses_cbor(mut self, refusal: Answer) -> Self {
        self.refusal = Some(refusal);
        self
    }

    /// Adds answers to the script.
    pub(crate) fn then(&self, script: impl IntoIterator<Item = Answer>) {
        lock(&self.script).extend(script);
    }

    /// The requests since the last call.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *lock(&self.asked))
    }

    /// The content types of what was asked since the last call.
    pub(crate) fn content_types(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.content_types))
    }

    /// The operations asked since the last call.
    pub(crate) fn operations(&self) -> Vec<String> {
        self.asked().into_iter().map(|(operation, _)| operation).collect()
    }

    /// The iterators offered to GetRecords since the last call, and the kinds asked of GetShardIterator, in order.
    pub(crate) fn trace(&self) -> Vec<String> {
        let told = |(_, input): Asked| {
            let kind = input.get("ShardIteratorType").or(input.get("ShardIterator"));
            kind.and_then(Value::as_str).unwrap_or("?").to_owned()
        };
        self.asked().into_iter().map(told).collect()
    }

    pub(crate) fn stream(&self) -> KinesisStream {
        KinesisStream::from_client(&Client::from_conf(config(self).build()), "orders")
    }

    /// Opens the shard, with the first answer of the script.
    pub(crate) async fn open(&self, start: StartPosition) -> Box<dyn RecordStream> {
        self.stream().open(&shard(), start).await.unwrap()
    }
}

pub(crate) fn shard() -> ShardId {
    ShardId::new("shardId-000000000001").unwrap()
}

/// The next fetch of up to 100 records.
pub(crate) async fn next(reader: &mut Box<dyn RecordStream>) -> Result<Fetch, SourceError> {
    reader.next(FetchLimit { records: 100 }).await
}

/// The sequence numbers of the next fetch.
pub(crate) async fn numbers(reader: &mut Box<dyn RecordStream>) -> Vec<String> {
    let fetch = next(reader).await.unwrap();
    let number = |record: &kcl_core::types::Record| record.sequence_number().to_string();
    fetch.records.iter().map(number).collect()
}

impl HttpClient for Server {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Server {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let content_type = request.headers().get("content-type").unwrap_or_default();
        let in_cbor = content_type == encoding::CBOR;
        lock(&self.content_types).push(content_type.to_owned());
        let body = request.body().bytes().unwrap();
        let input = if in_cbor {
            encoding::from_cbor(body)
        } else {
            serde_json::from_slice(body).unwrap()
        };
        lock(&self.asked).push((operation, input));
        let refusal = self.refusal.clone().filter(|_| in_cbor);
        let understood = refusal.is_none();
        let answer = refusal.or_else(|| lock(&self.script).pop_front());
        HttpConnectorFuture::new(async move {
            match answer.unwrap_or_else(|| panic!("the script is over")) {
                Answer::Reply { status, body, dated } => {
                    let status = StatusCode::try_from(status).unwrap();
                    let mut response = if in_cbor && understood {
                        let json = serde_json::from_str(&body);
                        let body = json.map_or(body.into_bytes(), |json| encoding::to_cbor(&json));
                        let mut response = HttpResponse::new(status, SdkBody::from(body));
                        response.headers_mut().insert("content-type", encoding::CBOR);
                        response
                    } else {
                        HttpResponse::new(status, SdkBody::from(body))
                    };
                    if dated {
                        response.headers_mut().insert("date", DATE);
                    }
                    Ok(response)
                }
                Answer::Page(status) => {
                    let status = StatusCode::try_from(status).unwrap();
                    let mut response = HttpResponse::new(status, SdkBody::from("<html>busy</html>"));
                    response.headers_mut().insert("content-type", "text/html");
                    Ok(response)
                }
                Answer::Slow { body, pieces, comes } => {
                    let body = match in_cbor {
                        true => encoding::to_cbor(&serde_json::from_str(&body).unwrap()),
                        false => body.into_bytes(),
                    };
                    let body = SdkBody::from_body_1_x(SlowBody::new(body, pieces, comes));
                    let mut response = HttpResponse::new(StatusCode::try_from(200).unwrap(), body);
                    if in_cbor {
                        response.headers_mut().insert("content-type", encoding::CBOR);
                    }
                    Ok(response)
                }
                Answer::Flood(mebibytes) => {
                    let body = SdkBody::from_body_1_x(Flood(mebibytes));
                    let mut response = HttpResponse::new(StatusCode::try_from(200).unwrap(), body);
                    if in_cbor {
                        response.headers_mut().insert("content-type", encoding::CBOR);
                    }
                    Ok(response)
                }
                Answer::Silence => std::future::pending().await,
            }
        })
    }
}
