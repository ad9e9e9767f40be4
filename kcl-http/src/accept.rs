//! Accepts connections, each of which serves one request within its bounds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::internals::{TaskPolicy, TaskScope};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::limits::{LARGEST_HEAD, MOST_HEADERS, ServerLimits};

/// The pause after a connection could not be accepted, as when there are too many.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Serves until `stop`, and then until the connections that are open have ended or used up their time. The samples of histograms are moved
/// meanwhile every `upkeep`.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    metrics: Option<PrometheusHandle>,
    limits: ServerLimits,
    upkeep: Duration,
    stop: CancellationToken,
) {
    let others = TaskScope::new();
    if let Some(metrics) = metrics {
        let upkeep = keep_up(TokioClock::new(), metrics, upkeep);
        others.spawn("metrics upkeep", TaskPolicy::Job, upkeep);
    }
    serve_connections(listener, router, limits, stop).await;
    others.kill();
}

/// Serves one request a connection until `stop`, and then until the connections that are open have ended or used up their time.
pub async fn serve_connections(
    listener: TcpListener,
    router: Router,
    limits: ServerLimits,
    stop: CancellationToken,
) {
    let (clock, connections) = (TokioClock::new(), TaskScope::new());
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = accept(&listener, &clock, &connections, &router, limits) => {}
    }
    drop(listener);
    connections.wait_until_empty().await;
}

/// Moves the samples of histograms to where they take no room: without it they would pile up until the next scrape.
async fn keep_up(clock: TokioClock, metrics: PrometheusHandle, pause: Duration) {
    loop {
        clock.sleep(pause).await;
        metrics.run_upkeep();
    }
}

async fn accept(
    listener: &TcpListener,
    clock: &TokioClock,
    connections: &TaskScope,
    router: &Router,
    limits: ServerLimits,
) {
    let mut places = Places::default();
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                let place = places.take(limits.connections);
                let served = serve_one(tcp, *clock, router.clone(), limits, Arc::clone(&place));
                connections.spawn("connection", TaskPolicy::Job, async move {
                    tokio::select! {
                        biased;
                        () = place.stop.cancelled() => tracing::debug!("connection gave way to a newer one"),
                        () = served => place.stop.cancel(),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                clock.sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// The place of one connection among those that are served.
#[derive(Debug, Default)]
struct Place {
    /// Whether its request has come.
    has_asked: AtomicBool,
    /// Cancelled when it has ended, or is to end.
    stop: CancellationToken,
}

/// The connections that are served, the oldest first.
#[derive(Debug, Default)]
struct Places(VecDeque<Arc<Place>>);

impl Places {
    /// A place for a new connection. Where all are taken, the oldest one that has asked nothing yet gives way, and else the oldest: a probe
    /// gets its answer, however many slow clients there are.
    fn take(&mut self, most: usize) -> Arc<Place> {
        self.0.retain(|place| !place.stop.is_cancelled());
        while self.0.len() >= most.max(1) {
            let silent = self
                .0
                .iter()
                .position(|place| !place.has_asked.load(Ordering::Acquire));
            if let Some(place) = self.0.remove(silent.unwrap_or(0)) {
                place.stop.cancel();
            }
        }
        let place = Arc::new(Place::default());
        self.0.push_back(Arc::clone(&place));
        place
    }
}

/// Serves the one request of a connection.
async fn serve_one(
    tcp: TcpStream,
    clock: TokioClock,
    router: Router,
    limits: ServerLimits,
    place: Arc<Place>,
) {
    // An answer goes out at once where the system allows it, and a moment later elsewhere.
    let _ = tcp.set_nodelay(true);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .keep_alive(false);
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |request| {
        place.has_asked.store(true, Ordering::Release);
        service.call(request)
    });
    let served = http.serve_connection(TokioIo::new(tcp), service);
    match clock.timeout(limits.connection, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "connection failed"),
        Err(_) => tracing::debug!("connection took too long"),
    }
}
