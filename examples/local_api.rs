//! An HTTP API on this machine, for the example that calls one: each call takes 50 ms, and some go wrong if that is asked for.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kinesis_client::clock::{ClockExt as _, TokioClock};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// How long a call takes.
pub const CALL: Duration = Duration::from_millis(50);

/// Decides the answer to a body, given how often it came before. `None` is no answer at all.
pub type Answers = fn(&str, usize) -> Option<StatusCode>;

/// The API. It ends when it is dropped.
#[derive(Debug)]
pub struct LocalApi {
    url: String,
    log: Arc<Mutex<ApiLog>>,
    _accepting: JoinSet<()>,
}

/// The calls that the API has seen.
#[derive(Debug, Default)]
pub struct ApiLog {
    /// The bodies that were answered with 200, by key, in the order in which their calls ended.
    pub done: BTreeMap<String, Vec<String>>,
    /// How often a call began while another of its key ran.
    pub overlaps: usize,
    /// The most calls that ran at once.
    pub most_calls: usize,
    /// The most connections that were open at once.
    pub most_connections: usize,
    running: Vec<String>,
    connections: usize,
    came: BTreeMap<String, usize>,
}

impl LocalApi {
    /// Serves it on a free port.
    ///
    /// # Errors
    ///
    /// When there is no free port.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future starts nothing.
    pub async fn start(answers: Answers) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/orders", listener.local_addr()?);
        let log = Arc::new(Mutex::new(ApiLog::default()));
        let (mut accepting, noted) = (JoinSet::new(), Arc::clone(&log));
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((link, _)) = listener.accept().await {
                connections.spawn(serve(link, Arc::clone(&noted), answers));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            url,
            log,
            _accepting: accepting,
        })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The calls that it has seen.
    pub fn log(&self) -> MutexGuard<'_, ApiLog> {
        lock(&self.log)
    }
}

fn lock(log: &Mutex<ApiLog>) -> MutexGuard<'_, ApiLog> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(link: TcpStream, log: Arc<Mutex<ApiLog>>, answers: Answers) {
    {
        let mut log = lock(&log);
        log.connections += 1;
        log.most_connections = log.most_connections.max(log.connections);
    }
    let service = service_fn(|request| answer(request, &log, answers));
    // A connection that ends badly is the client's to report.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(link), service)
        .await;
    lock(&log).connections -= 1;
}

async fn answer(
    request: Request<Incoming>,
    log: &Mutex<ApiLog>,
    answers: Answers,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let key = request.headers().get("x-key").and_then(|key| key.to_str().ok());
    let key = key.unwrap_or_default().to_owned();
    let body = request.into_body().collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let body = String::from_utf8_lossy(&body).into_owned();
    let before = {
        let mut log = lock(log);
        log.overlaps += usize::from(log.running.contains(&key));
        log.running.push(key.clone());
        log.most_calls = log.most_calls.max(log.running.len());
        let came = log.came.entry(body.clone()).or_default();
        *came += 1;
        *came - 1
    };
    // A client that gives up drops the rest of the call.
    let _running = Running { log, key: &key };
    TokioClock::new().sleep(CALL).await;
    let Some(status) = answers(&body, before) else {
        return std::future::pending().await;
    };
    if status == StatusCode::OK {
        lock(log).done.entry(key.clone()).or_default().push(body);
    }
    let mut answer = Response::new(Empty::new());
    *answer.status_mut() = status;
    Ok(answer)
}

/// A call that runs.
struct Running<'a> {
    log: &'a Mutex<ApiLog>,
    key: &'a str,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut log = lock(self.log);
        let running = log.running.iter().position(|key| key == self.key);
        running.map(|index| log.running.remove(index));
    }
}
