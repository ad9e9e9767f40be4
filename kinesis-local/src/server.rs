//! Connections, requests, answers.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
use kcl_core::clock::{Clock, ClockExt as _, Moment};
use kcl_core::internals::{TaskPolicy, TaskScope};
use kcl_core::source::StreamSource as _;
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
use super::faults::{Fault, WireFaults};
use super::headers::{self, RequestIds};
use super::limits::Limiter;
use super::operations::{self, Commitment, Opened, Outcome};
use super::options::{WireLimits, WireOptions};
use super::protocol::{Protocol, events};
use super::requests::WireRequests;
use super::streams::Streams;
use super::subscription::Pump;
use super::tls::HANDSHAKE;
use super::token::NextToken;
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

/// What all connections share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) options: Arc<WireOptions>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) scope: TaskScope,
    pub(super) faults: WireFaults,
    pub(super) requests: WireRequests,
    request_ids: RequestIds,
    /// How many calls changed something.
    changes: Arc<AtomicU64>,
    /// Held while the data file is written: two at once would write into one file.
    saving: Arc<Mutex<()>>,
    streams: Arc<Mutex<Streams>>,
    limiter: Arc<Mutex<Limiter>>,
    commitment: Arc<Mutex<Option<Commitment>>>,
    /// Cancelled, and replaced, to reset the connections that there are.
    pub(super) connections: Switch,
    /// Cancelled, and replaced, to silence the subscriptions that there are.
    pub(super) subscriptions: Switch,
}

/// Does something to all that hold a token of it, and nothing to those who come later.
#[derive(Debug, Clone, Default)]
pub(super) struct Switch(Arc<Mutex<CancellationToken>>);

impl Switch {
    pub(super) fn throw(&self) {
        std::mem::take(&mut *self.lock()).cancel();
    }

    fn token(&self) -> CancellationToken {
        self.lock().child_token()
    }

    fn lock(&self) -> MutexGuard<'_, CancellationToken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    pub(super) fn new(options: WireOptions, clock: Arc<dyn Clock>, streams: Streams) -> Self {
        Self {
            options: Arc::new(options),
            request_ids: RequestIds::new(clock.wall()),
            changes: Arc::default(),
            saving: Arc::default(),
            clock,
            scope: TaskScope::new(),
            faults: WireFaults::default(),
            requests: WireRequests::default(),
            streams: Arc::new(Mutex::new(streams)),
            limiter: Arc::default(),
            commitment: Arc::default(),
            connections: Switch::default(),
            subscriptions: Switch::default(),
        }
    }

    pub(super) fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps others from writing the data file meanwhile.
    pub(super) fn saving(&self) -> MutexGuard<'_, ()> {
        self.saving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn limiter(&self) -> MutexGuard<'_, Limiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rises with everything that is to be saved.
    pub(super) fn version(&self) -> (u64, u64) {
        let ticks = self.streams().iter().map(|(_, entry)| entry.stream.ticks()).sum();
        (self.changes.load(Ordering::Relaxed), ticks)
    }

    /// Counts a call of an operation that is limited by its rate, or refuses it.
    pub(super) fn admit(&self, operation: Operation, request: &Map, now: Moment) -> Result<(), ServiceError> {
        let most = self.options.limits.calls_per_second.get(&operation).copied();
        // That the consumer has a subscription already is said before that it asks too often.
        if most.is_none() || operation == Operation::SubscribeToShard {
            return Ok(());
        }
        let scope = if operation.is_limited_per_stream() {
            self.stream_of(request)
        } else {
            String::new()
        };
        self.limiter().call(operation, &scope, most, now)
    }

    /// The token that a request goes on with, if it was made here and has not expired.
    pub(super) fn next_token(&self, request: &Map, now: Moment) -> Result<Option<NextToken>, ServiceError> {
        let Some(text) = request.text("NextToken")? else {
            return Ok(None);
        };
        let token = NextToken::decode(text)
            .ok_or_else(|| ServiceError::invalid("NextToken is not one that this service made"))?;
        if now.saturating_since(token.minted) > self.options.token_lifetime {
            return Err(ServiceError::expired_token("NextToken has expired"));
        }
        Ok(Some(token))
    }

    /// As [`next_token`](Self::next_token), of the listing with this name.
    pub(super) fn page_token(
        &self,
        request: &Map,
        listing: &str,
        now: Moment,
    ) -> Result<Option<NextToken>, ServiceError> {
        match self.next_token(request, now)? {
            Some(token) if token.filter != listing => Err(ServiceError::invalid(format!(
                "NextToken is not one of the listing of {listing}"
            ))),
            token => Ok(token),
        }
    }

    /// The limits for consumers, which are higher for an account that has committed itself.
    pub(super) fn consumer_limits(&self) -> WireLimits {
        let limits = &self.options.limits;
        let committed = self.commitment().is_some();
        WireLimits {
            consumers: limits
                .consumers
                .map(|most| if committed { most.max(50) } else { most }),
            ..limits.clone()
        }
    }

    /// The account's commitment to a minimum throughput.
    pub(super) fn commitment(&self) -> MutexGuard<'_, Option<Commitment>> {
        self.commitment.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of the stream that a request is about, or nothing. A page is asked for by its token alone.
    fn stream_of(&self, request: &Map) -> String {
        let text = |name| request.text(name).ok().flatten();
        if let Some(token) = text("NextToken").and_then(NextToken::decode) {
            return token.stream;
        }
        let mut streams = self.streams();
        let entry = streams.of(request);
        entry.map_or_else(|_| String::new(), |entry| entry.stream.name().to_owned())
    }
}

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

/// What a connection is answered.
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
    let body = AnswerBody::Whole(Some(protocol.encode(&error.body())));
    answered(status, protocol.content_type(), body)
}

fn answered(status: StatusCode, content_type: &'static str, body: AnswerBody) -> Response<AnswerBody> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}
