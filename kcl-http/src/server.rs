//! The server: how it is set up, started and stopped.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use kcl_core::StatusReader;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tracing::subscriber::NoSubscriber;

use crate::accept::serve;
use crate::limits::{ServerLimits, UPKEEP};
use crate::routes::{Published, routes};

/// The port of a server that was given no address.
pub const DEFAULT_PORT: u16 = 9464;

/// The default of [`HttpServer::standstill`].
const STANDSTILL: Duration = Duration::from_secs(300);

/// A server of a worker's metrics and status, before it is started.
#[must_use = "it serves nothing until it is started"]
pub struct HttpServer {
    published: Published,
    address: SocketAddr,
    limits: ServerLimits,
}

impl HttpServer {
    /// Makes a server for the worker of this reader, on [`DEFAULT_PORT`] of the loopback interface.
    pub fn new(reader: StatusReader) -> Self {
        Self {
            published: Published {
                reader,
                metrics: None,
                standstill: STANDSTILL,
            },
            address: (Ipv4Addr::LOCALHOST, DEFAULT_PORT).into(),
            limits: ServerLimits::default(),
        }
    }

    /// Publishes the metrics of this exporter on [`METRICS_PATH`](crate::METRICS_PATH); there are none by default.
    ///
    /// The server also runs the exporter's upkeep every five seconds, which bounds the memory of its histograms.
    pub fn prometheus(mut self, metrics: PrometheusHandle) -> Self {
        self.published.metrics = Some(metrics);
        self
    }

    /// Binds to this address, instead of [`DEFAULT_PORT`] of the loopback interface. Port 0 is a free one.
    ///
    /// In a container it is `([0, 0, 0, 0], DEFAULT_PORT)`: probes and Prometheus come from outside. Everything that is published can then be
    /// read by all that reach the port.
    pub fn address(mut self, address: impl Into<SocketAddr>) -> Self {
        self.address = address.into();
        self
    }

    /// Fails the liveness probe when the runtime of the processors has run nothing for longer than this; 5 minutes by default.
    ///
    /// It stands still while code blocks all its threads. Give it more than your longest call that blocks: a restart in the midst of such
    /// a call mends nothing.
    pub fn standstill(mut self, bound: Duration) -> Self {
        self.published.standstill = bound;
        self
    }

    #[cfg(test)]
    pub(crate) fn limits(mut self, limits: ServerLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Starts the server on a thread of its own.
    ///
    /// # Errors
    ///
    /// When the address cannot be had, or the system has no thread.
    pub fn start(self) -> io::Result<RunningServer> {
        let listener = TcpListener::bind(self.address)?;
        self.serve(listener)
    }

    /// Starts the server on a thread of its own, with a socket that is bound already.
    ///
    /// # Errors
    ///
    /// When the socket cannot be used, or the system has no thread.
    pub fn serve(self, listener: TcpListener) -> io::Result<RunningServer> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let listener = {
            let _context = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let (metrics, limits) = (self.published.metrics.clone(), self.limits);
        let router = routes(self.published);
        let served = serve(listener, router, metrics, limits, UPKEEP, stop.clone());
        let has_ended = ended.clone().drop_guard();
        let logs = tracing::dispatcher::get_default(tracing::Dispatch::clone);
        std::thread::Builder::new()
            .name("kcl-http".to_owned())
            .spawn(move || {
                let _has_ended = has_ended;
                if logs.is::<NoSubscriber>() {
                    runtime.block_on(served);
                } else {
                    tracing::dispatcher::with_default(&logs, || runtime.block_on(served));
                }
            })?;
        tracing::info!(%address, "serving metrics and status");
        Ok(RunningServer { address, stop, ended })
    }
}

impl fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// A running server. It stops when it is dropped.
#[derive(Debug)]
#[must_use = "it stops when it is dropped"]
pub struct RunningServer {
    address: SocketAddr,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl RunningServer {
    /// The address that the server answers on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, and waits until the requests that are being served are answered: ten seconds at most.
    ///
    /// Call it after the worker has stopped, so that probes and a last scrape are answered until then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the server as well, without waiting.
    pub async fn stop(self) {
        self.stop.cancel();
        self.ended.cancelled().await;
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests;
