//! A reverse proxy for one worker and one service, which does to requests what a [`Disturbance`] says.
//!
//! Requests that are passed on go to the server in a task of their own: like a packet on its way, each arrives even if its client has given up.
//! Every answer of the server is shown to a [`Tap`] before anything can happen to it.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Request, Response, client, server};
use hyper_util::rt::TokioIo;
use kcl_core::clock::{ClockExt, Rng, TokioClock};
use kcl_core::internals::{TaskPolicy, TaskScope};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use super::answers;
use super::fault::{Disturbance, NetworkFault, Service};

type Answer = Response<Full<Bytes>>;

/// Is shown what the server has answered: the target of the request, whether it succeeded, and the answer's body.
pub type Tap = Arc<dyn Fn(&str, bool, &Bytes) + Send + Sync>;

/// A proxy on a port of its own. Dropping it resets its connections.
#[derive(Debug)]
pub struct Proxy {
    endpoint: String,
    shared: Arc<Shared>,
}

/// How many requests a proxy has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// All of them.
    pub requests: u64,
    /// Those to which something was done.
    pub disturbed: u64,
}

struct Shared {
    service: Service,
    /// Host and port.
    upstream: String,
    disturbance: watch::Sender<Option<Disturbance>>,
    rng: Mutex<Rng>,
    counts: Mutex<Counts>,
    tap: Tap,
    clock: TokioClock,
    scope: TaskScope,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("service", &self.service)
            .field("upstream", &self.upstream)
            .field("disturbance", &*self.disturbance.borrow())
            .finish_non_exhaustive()
    }
}

/// There will be no answer: the connection is reset.
#[derive(Debug)]
struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is cut on purpose")
    }
}

impl std::error::Error for Cut {}

impl Proxy {
    /// A proxy in front of a server such as `http://127.0.0.1:4567`, which passes everything on.
    ///
    /// # Errors
    ///
    /// There is no port, or the server does not speak plain HTTP.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub async fn start(service: Service, upstream: &str, rng: Rng, tap: Tap) -> io::Result<Self> {
        let authority = upstream
            .strip_prefix("http://")
            .map(|rest| rest.trim_end_matches('/'));
        let authority = authority.ok_or_else(|| io::Error::other(format!("{upstream} is not plain HTTP")))?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(Shared {
            service,
            upstream: authority.to_owned(),
            disturbance: watch::Sender::new(None),
            rng: Mutex::new(rng),
            counts: Mutex::default(),
            tap,
            clock: TokioClock::new(),
            scope: TaskScope::new(),
        });
        let accepting = accept(Arc::clone(&shared), listener);
        shared.scope.spawn("accept", TaskPolicy::Vital, accepting);
        Ok(Self { endpoint, shared })
    }

    /// Where it listens, as a URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Does this to every request from now on; `None` passes them on.
    pub fn disturb(&self, disturbance: Option<Disturbance>) {
        self.shared.disturbance.send_replace(disturbance);
    }

    /// The requests that it has seen so far.
    pub fn counts(&self) -> Counts {
        *lock(&self.shared.counts)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.scope.kill();
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                let scope = shared.scope.clone();
                scope.spawn("connection", TaskPolicy::Job, serve(Arc::clone(&shared), tcp));
            }
            // Too many open files, as a rule: there will be fewer.
            Err(_) => shared.clock.sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn serve(shared: Arc<Shared>, tcp: TcpStream) {
    // Without it small answers would wait for acknowledgements; where it cannot be had they do.
    let _ = tcp.set_nodelay(true);
    // A client leaves before its connection is closed here, so whatever is closed here was cut, and is to look like it.
    let _ = tcp.set_zero_linger();
    let service = service_fn(|request| handle(Arc::clone(&shared), request));
    // How a connection ends is the business of its client.
    let _ = server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(tcp), service)
        .await;
}

/// A request that has arrived as a whole.
struct Call {
    head: Parts,
    body: Bytes,
}

impl Call {
    fn header(&self, name: &str) -> &str {
        let value = self.head.headers.get(name).map(HeaderValue::to_str);
        value.and_then(Result::ok).unwrap_or_default()
    }

    fn target(&self) -> &str {
        self.header("x-amz-target")
    }
}

async fn handle(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, Cut> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let call = Call { head, body };
    let fate = shared.fate();
    match fate {
        Some(NetworkFault::BlackHole) => std::future::pending().await,
        Some(NetworkFault::Reset) => Err(Cut),
        Some(NetworkFault::Throttle) => {
            let content_type = call.header(CONTENT_TYPE.as_str());
            Ok(answers::throttled(shared.service, call.target(), content_type))
        }
        Some(NetworkFault::ServerError) => {
            let content_type = call.header(CONTENT_TYPE.as_str());
            Ok(answers::server_error(shared.service, content_type, shared.toss()))
        }
        Some(NetworkFault::LostReply) => {
            let reset = shared.toss();
            carried(&shared, call, fate).await?;
            if reset {
                return Err(Cut);
            }
            std::future::pending().await
        }
        None | Some(NetworkFault::Latency(_) | NetworkFault::Partition) => carried(&shared, call, fate).await,
    }
}

/// The answer to a request that is on its way whether anybody waits here or not.
async fn carried(shared: &Arc<Shared>, call: Call, fate: Option<NetworkFault>) -> Result<Answer, Cut> {
    let (tell, told) = oneshot::channel();
    let shared_there = Arc::clone(shared);
    shared.scope.spawn("exchange", TaskPolicy::Job, async move {
        // Nobody waits any more, then.
        let _ = tell.send(shared_there.carry(call, fate).await);
    });
    told.await.unwrap_or(Err(Cut))
}

impl Shared {
    /// The fault of the next request.
    fn fate(&self) -> Option<NetworkFault> {
        let mut counts = lock(&self.counts);
        counts.requests += 1;
        let Disturbance { fault, one_in } = (*self.disturbance.borrow())?;
        let met = fault == NetworkFault::Partition || lock(&self.rng).one_in(one_in);
        counts.disturbed += u64::from(met);
        met.then_some(fault)
    }

    fn toss(&self) -> bool {
        lock(&self.rng).one_in(2)
    }

    /// Brings a request to the server and the answer back, through what is on the way.
    async fn carry(&self, call: Call, fate: Option<NetworkFault>) -> Result<Answer, Cut> {
        let way = match fate {
            Some(NetworkFault::Latency(most)) => lock(&self.rng).jittered(most) / 2,
            _ => Duration::ZERO,
        };
        self.clock.sleep(way).await;
        self.pass_partition().await?;
        let answer = self.ask(call).await.map_err(|_| Cut)?;
        self.clock.sleep(way).await;
        self.pass_partition().await?;
        Ok(answer)
    }

    /// Waits while nothing passes. Not everything that was held arrives.
    async fn pass_partition(&self) -> Result<(), Cut> {
        let parted = |now: &Option<Disturbance>| now.is_some_and(|now| now.fault == NetworkFault::Partition);
        if !parted(&self.disturbance.borrow()) {
            return Ok(());
        }
        let mut watched = self.disturbance.subscribe();
        // The sender lives as long as this.
        let _ = watched.wait_for(|now| !parted(now)).await;
        if self.toss() { Ok(()) } else { Err(Cut) }
    }

    /// Asks the server on a connection of its own: one that idles may be closed at any moment, and that would be a fault nobody planned.
    async fn ask(&self, call: Call) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let target = call.target().to_owned();
        let tcp = TcpStream::connect(&self.upstream).await?;
        tcp.set_nodelay(true)?;
        let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(tcp)).await?;
        self.scope.spawn("server", TaskPolicy::Job, async move {
            // If it fails, so does the request.
            let _ = connection.await;
        });
        let request = Request::from_parts(call.head, Full::new(call.body));
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        (self.tap)(&target, head.status.is_success(), &body);
        let mut answer = Response::from_parts(head, Full::new(body));
        // How the body was framed there says nothing about how it is framed here.
        for header in ["connection", "transfer-encoding", "content-length", "keep-alive"] {
            answer.headers_mut().remove(header);
        }
        Ok(answer)
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
