//! Connections, requests, answers.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::http::HeaderName;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use kcl_core::clock::ClockExt as _;
use kcl_core::internals::TaskPolicy;
use kcl_core::types::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Operation;
use super::body::AnswerBody;
use super::connection::{Link, ScopeExecutor};
use super::error::ServiceError;
use super::faults::Fault;
use super::headers;
use super::operations::{self, Opened, Outcome};
use super::protocol::{Protocol, error_body, events};
use super::shared::Shared;
use super::subscription::Pump;
use super::tls::HANDSHAKE;
use super::value::Map;

/// Where a GET or a HEAD asks whether the server answers.
const HEALTH_PATH: &str = "/health";
/// PutRecords carries 10 MiB, which base64 makes a third longer.
const LARGEST_REQUEST: usize = 16 * 1024 * 1024;
/// How many events may wait for the connection to take them.
const EVENTS_WAITING: usize = 1;
/// How long a client may take to begin with TLS.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait after a connection could not be accepted, as when there are too many.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Accepts connections until the scope is killed.
pub(super) async fn accept(shared: Shared, listener: TcpListener, tls: Option<TlsAcceptor>) {
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                let connection = connected(shared.clone(), tcp, tls.clone());
                shared.scope.spawn("connection", TaskPolicy::Job, connection);
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                shared.clock.sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Serves a connection until one of its ends is at an end.
async fn connected(shared: Shared, tcp: TcpStream, tls: Option<TlsAcceptor>) {
    // Without it small answers would wait for acknowledgements; where it cannot be had they do.
    let _ = tcp.set_nodelay(true);
    let cut = shared.connections.token();
    let served = async {
        match tls {
            Some(tls) => secured(&shared, &cut, tcp, tls).await,
            None => serve(&shared, &cut, Link::new(tcp, cut.clone()), Speaks::Kinesis).await,
        }
    };
    tokio::select! {
        biased;
        () = cut.cancelled() => {}
        () = served => {}
    }
}

/// Serves a connection to a server with a certificate. A request in plain HTTP is answered in plain HTTP, and refused.
async fn secured(shared: &Shared, cut: &CancellationToken, tcp: TcpStream, tls: TlsAcceptor) {
    let shaken = shared.clock.timeout(HANDSHAKE_PATIENCE, async {
        let mut first = [0];
        let seen = tcp.peek(&mut first).await?;
        let link = Link::new(tcp, cut.clone());
        if seen == 1 && first != [HANDSHAKE] {
            return Ok(Err(link));
        }
        tls.accept(link).await.map(Ok)
    });
    match shaken.await {
        Ok(Ok(Ok(link))) => serve(shared, cut, link, Speaks::Kinesis).await,
        Ok(Ok(Err(plain))) => serve(shared, cut, plain, Speaks::OnlyHttps).await,
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake took too long"),
    }
}

/// The answer to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Kinesis,
    /// That HTTPS is needed.
    OnlyHttps,
}

async fn serve(
    shared: &Shared,
    cut: &CancellationToken,
    link: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    speaks: Speaks,
) {
    let service = service_fn(|request| {
        let (shared, cut) = (shared.clone(), cut.clone());
        async move {
            Ok::<_, Infallible>(match speaks {
                Speaks::Kinesis => respond(&shared, &cut, request).await,
                Speaks::OnlyHttps => only_https(request).await,
            })
        }
    });
    let http = auto::Builder::new(ScopeExecutor(shared.scope.clone()));
    // A connection that ends badly is the client's to report.
    let _ = http.serve_connection(TokioIo::new(link), service).await;
}

async fn only_https(request: Request<Incoming>) -> Response<AnswerBody> {
    // A connection that is closed with a body unread is reset, and the answer is lost with it.
    let _ = Limited::new(request.into_body(), LARGEST_REQUEST).collect().await;
    let error = ServiceError::invalid("this port serves HTTPS only: the endpoint must begin with https://");
    let mut answer = failure(Protocol::Json, &error);
    let close = HeaderValue::from_static("close");
    answer.headers_mut().insert(CONNECTION, close);
    answer
}

/// A request whose body was read.
struct Call {
    operation: Operation,
    protocol: Protocol,
    request: Map,
}

async fn respond(
    shared: &Shared,
    cut: &CancellationToken,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let asking = request.headers().clone();
    let (mut answer, time) = match (request.method(), request.uri().path()) {
        (&Method::OPTIONS, _) => {
            let mut answer = Response::new(AnswerBody::Whole(None));
            headers::preflight(answer.headers_mut(), &asking);
            (answer, shared.clock.wall())
        }
        (&Method::GET | &Method::HEAD, HEALTH_PATH) => (health(shared), shared.clock.wall()),
        _ => called(shared, cut, request).await,
    };
    headers::stamp(answer.headers_mut(), &shared.request_ids, time);
    headers::share(answer.headers_mut(), &asking);
    answer
}

/// Says that the server answers, and for what.
fn health(shared: &Shared) -> Response<AnswerBody> {
    let streams = shared.streams().iter().count();
    let status = Map::new()
        .with("status", "ok")
        .with("version", env!("CARGO_PKG_VERSION"))
        .with("streams", streams);
    let body = AnswerBody::Whole(Some(Protocol::Json.encode(&status)));
    answered(StatusCode::OK, "application/json", body)
}

/// Answers a call, and says what time it is, as the stream knows it.
async fn called(
    shared: &Shared,
    cut: &CancellationToken,
    request: Request<Incoming>,
) -> (Response<AnswerBody>, Timestamp) {
    let call = match read(shared, request).await {
        Ok(call) => call,
        Err((protocol, error)) => return (failure(protocol, &error), shared.clock.wall()),
    };
    let shard = operations::shard_of(&call.request);
    let fault = shared.faults.take(call.operation, shard.as_ref(), call.protocol);
    let time = operations::service_time(shared, &call.request);
    let answer = match fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Reset) => {
            cut.cancel();
            std::future::pending().await
        }
        Some(Fault::InternalFailure) => failure(call.protocol, &ServiceError::internal()),
        Some(Fault::Throttle) => {
            let error = ServiceError::throttled(call.operation, "Rate exceeded, as a test asked for");
            failure(call.protocol, &error)
        }
        Some(Fault::RefuseCbor) => {
            let error = ServiceError::unsupported_media(call.protocol.content_type());
            failure(Protocol::Json, &error)
        }
        Some(Fault::Garbage) => garbage(&call),
        Some(Fault::HalfOpen | Fault::WithoutIterator) | None => perform(shared, &call, fault),
    };
    (answer, time)
}

/// Reads a request, which is counted as soon as it is known what it asks for.
async fn read(shared: &Shared, request: Request<Incoming>) -> Result<Call, (Protocol, ServiceError)> {
    let header = |name: HeaderName| {
        let value = request.headers().get(name).map(HeaderValue::to_str);
        value.and_then(Result::ok).unwrap_or_default().to_owned()
    };
    let content_type = header(CONTENT_TYPE);
    let target = header(HeaderName::from_static("x-amz-target"));
    let protocol = Protocol::of(&content_type)
        .ok_or_else(|| (Protocol::Json, ServiceError::unsupported_media(&content_type)))?;
    let operation =
        Operation::of_target(&target).ok_or_else(|| (protocol, ServiceError::unknown_operation(&target)))?;
    shared.requests.add(operation, protocol);
    let body = Limited::new(request.into_body(), LARGEST_REQUEST).collect().await;
    let body = body.map_err(|error| (protocol, ServiceError::serialization(error.to_string())))?;
    let request = protocol
        .decode(&body.to_bytes())
        .map_err(|error| (protocol, error))?;
    Ok(Call {
        operation,
        protocol,
        request,
    })
}

/// Performs the call. A fault strikes its answer.
fn perform(shared: &Shared, call: &Call, fault: Option<Fault>) -> Response<AnswerBody> {
    let half = fault == Some(Fault::HalfOpen);
    match operations::perform(shared, call.operation, &call.request) {
        Ok(Outcome::Subscription(opened)) => subscribed(shared, call.protocol, opened, half),
        Ok(Outcome::Answer(mut answer)) => {
            if fault == Some(Fault::WithoutIterator) {
                answer.0.retain(|(name, _)| name != "NextShardIterator");
            }
            if !call.operation.is_a_question() {
                shared.changes.fetch_add(1, Ordering::Relaxed);
            }
            let body = call.protocol.encode(&answer);
            let body = if half {
                cut_off(&body)
            } else {
                AnswerBody::Whole(Some(body))
            };
            answered(StatusCode::OK, call.protocol.content_type(), body)
        }
        Err(error) => failure(call.protocol, &error),
    }
}

fn subscribed(shared: &Shared, protocol: Protocol, opened: Opened, silent: bool) -> Response<AnswerBody> {
    let (sender, receiver) = mpsc::channel(EVENTS_WAITING);
    let pump = Pump {
        shared: shared.clone(),
        opened,
        protocol,
        events: sender,
        frozen: shared.subscriptions.token(),
    };
    shared
        .scope
        .spawn("subscription", TaskPolicy::Job, pump.run(silent));
    answered(StatusCode::OK, events::CONTENT_TYPE, AnswerBody::events(receiver))
}

/// The first half of a body, which claims to be the whole.
fn cut_off(body: &Bytes) -> AnswerBody {
    let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
    AnswerBody::CutOff(Some(body.slice(..body.len() / 2)), length)
}

fn garbage(call: &Call) -> Response<AnswerBody> {
    let content_type = if call.operation == Operation::SubscribeToShard {
        events::CONTENT_TYPE
    } else {
        call.protocol.content_type()
    };
    let body = Bytes::from_static(b"\xff\xfe this is no answer at all \x00\x01");
    answered(StatusCode::OK, content_type, AnswerBody::Whole(Some(body)))
}

fn failure(protocol: Protocol, error: &ServiceError) -> Response<AnswerBody> {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST);
    let body = AnswerBody::Whole(Some(protocol.encode(&error_body(error))));
    answered(status, protocol.content_type(), body)
}

fn answered(status: StatusCode, content_type: &'static str, body: AnswerBody) -> Response<AnswerBody> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}
