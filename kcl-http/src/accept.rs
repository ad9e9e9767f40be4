//! Accepts connections, each of which serves one request within its bounds.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::internals::{TaskPolicy, TaskScope};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::limits::{LARGEST_HEAD, MOST_HEADERS, ServerLimits};

/// The pause after a connection could not be accepted, as when there are too many.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Serves until `stop`, and then until the connections that are open have ended or used up their time.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    metrics: Option<PrometheusHandle>,
    limits: ServerLimits,
    stop: CancellationToken,
) {
    let clock = TokioClock::new();
    let (connections, others) = (TaskScope::new(), TaskScope::new());
    if let Some(metrics) = metrics {
        let upkeep = keep_up(clock, metrics, limits.upkeep);
        others.spawn("metrics upkeep", TaskPolicy::Job, upkeep);
    }
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = accept(&listener, &clock, &connections, &router, limits) => {}
    }
    drop(listener);
    connections.wait_until_empty().await;
    others.kill();
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
    let places = Arc::new(Semaphore::new(limits.connections));
    loop {
        // Connections beyond them wait in the queue of the system.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((tcp, _)) => {
                let served = serve_one(tcp, *clock, router.clone(), limits);
                connections.spawn("connection", TaskPolicy::Job, async move {
                    served.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                clock.sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Serves the one request of a connection.
async fn serve_one(tcp: TcpStream, clock: TokioClock, router: Router, limits: ServerLimits) {
    // An answer goes out at once where the system allows it, and a moment later elsewhere.
    let _ = tcp.set_nodelay(true);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .keep_alive(false);
    let served = http.serve_connection(TokioIo::new(tcp), TowerToHyperService::new(router));
    match clock.timeout(limits.connection, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "connection failed"),
        Err(_) => tracing::debug!("connection took too long"),
    }
}
