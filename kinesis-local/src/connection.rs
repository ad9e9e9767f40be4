//! A connection that can be reset, and the tasks that HTTP/2 starts.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use kcl_core::internals::{TaskPolicy, TaskScope};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// A TCP connection whose peer sees a reset, not an end, if it is dropped after being cut.
#[derive(Debug)]
pub(super) struct Link {
    tcp: TcpStream,
    cut: CancellationToken,
}

impl Link {
    pub(super) fn new(tcp: TcpStream, cut: CancellationToken) -> Self {
        Self { tcp, cut }
    }

    fn tcp(self: Pin<&mut Self>) -> Pin<&mut TcpStream> {
        Pin::new(&mut self.get_mut().tcp)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.cut.is_cancelled() {
            // Where the system refuses, the peer sees an end, which is a fault as well.
            let _ = self.tcp.set_zero_linger();
        }
    }
}

impl AsyncRead for Link {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.tcp().poll_read(context, buffer)
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.tcp().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp().poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.tcp().poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}

/// Runs what HTTP/2 wants to run beside a connection, as tasks of the server.
#[derive(Clone)]
pub(super) struct ScopeExecutor(pub(super) TaskScope);

impl<F> hyper::rt::Executor<F> for ScopeExecutor
where
    F: Future + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn("HTTP/2 stream", TaskPolicy::Job, async move {
            future.await;
        });
    }
}
