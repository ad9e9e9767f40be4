//! [`MemoryStream`]s behind the protocol of Kinesis, on a loopback port: what any AWS SDK can be pointed at.
//!
//! The server does what a consumer can notice, in JSON and CBOR, over HTTP/1.1 and HTTP/2 (with prior knowledge), and over HTTPS with a
//! certificate ([`WireTls`]): the end of a shard and its children in GetRecords and in SubscribeToShard, throttles, the expiry of iterators and tokens, subscriptions
//! that end after five minutes, cannot be repeated within five seconds and take over from one another. Every limit and every
//! time is in [`WireOptions`]; [`WireFaults`] makes calls fail. Signatures are not checked, policies are stored and not enforced,
//! nothing is encrypted, and nothing is stored but in memory, unless [`WireOptions::data_file`] names a file. The page
//! `docs/kinesis-local.md` lists the operations.
//!
//! The streams are the test's own: what it puts, splits or deletes is there for the clients, and the other way round.
//!
//! ```
//! use kcl_lease_memory::MemoryStream;
//! use kinesis_local::{Fault, FaultRule, Operation, WireOptions, WireServer};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let trucks = MemoryStream::builder("trucks").shards(2).build();
//! let server = WireServer::start([trucks.clone()], WireOptions::default()).await?;
//! println!("point AWS_ENDPOINT_URL_KINESIS at {}", server.endpoint());
//!
//! trucks.put("truck-17", "50.1,8.7")?;
//! server.faults().inject(FaultRule::new(Fault::Hang).on(Operation::GetRecords).times(1));
//! // ... run what is to be tested ...
//! assert_eq!(server.requests().count(Operation::GetRecords), 0);
//! server.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! Without a test around it, the same is a command:
//!
//! ```text
//! cargo run -p kinesis-local -- --port 4567 --stream trucks:4
//! ```

#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod attributes;
mod body;
mod connection;
mod consumers;
mod data_file;
mod end_style;
mod error;
mod faults;
mod headers;
mod limits;
mod operation;
mod operations;
mod options;
mod protocol;
mod requests;
mod server;
mod shapes;
mod shared;
mod streams;
mod subscription;
mod tls;
mod token;
mod value;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use kcl_core::clock::{Clock, TokioClock};
use kcl_core::internals::TaskPolicy;
use kcl_lease_memory::MemoryStream;
use tokio::net::TcpListener;

pub use end_style::EndStyle;
pub use faults::{Fault, FaultRule, WireFaults};
pub use operation::Operation;
pub use options::{WireLimits, WireOptions};
pub use protocol::Protocol;
pub use requests::WireRequests;
pub use tls::WireTls;

use shared::Shared;
use streams::{Entry, Streams};

/// A running server. It stops when it is dropped.
#[derive(Debug)]
pub struct WireServer {
    shared: Shared,
    address: SocketAddr,
    endpoint: String,
}

impl WireServer {
    /// Starts a server for these streams on the current runtime, in real time.
    ///
    /// The streams should live by a clock of real time too, as they do by default.
    ///
    /// # Errors
    ///
    /// When the port cannot be had, or the data file cannot be read and written.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future starts nothing.
    pub async fn start(
        streams: impl IntoIterator<Item = MemoryStream>,
        options: WireOptions,
    ) -> io::Result<Self> {
        Self::start_with_clock(streams, options, Arc::new(TokioClock::new())).await
    }

    /// Starts a server whose limits and lifetimes follow this clock.
    ///
    /// # Errors
    ///
    /// When the port cannot be had, or the data file cannot be read and written.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future starts nothing.
    pub async fn start_with_clock(
        streams: impl IntoIterator<Item = MemoryStream>,
        options: WireOptions,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((options.host, options.port)).await?;
        let address = listener.local_addr()?;
        let mut served = Streams::new(&options.region, &options.account);
        for stream in streams {
            served.add(Entry::new(stream));
        }
        let shared = Shared::new(options, clock, served);
        if let Some(path) = &shared.options.data_file {
            data_file::load(&shared, path)?;
            let version = shared.version();
            // What cannot be written is said now, not when there is something to lose.
            data_file::save(&shared, path)?;
            let keeping = data_file::keep(shared.clone(), path.clone(), version);
            shared.scope.spawn("data file", TaskPolicy::Vital, keeping);
        }
        let tls = shared.options.tls.as_ref().map(WireTls::acceptor);
        let scheme = if tls.is_some() { "https" } else { "http" };
        let accepting = server::accept(shared.clone(), listener, tls);
        shared.scope.spawn("accept", TaskPolicy::Vital, accepting);
        Ok(Self {
            shared,
            address,
            endpoint: format!("{scheme}://{address}"),
        })
    }

    /// Where the server answers, such as `http://127.0.0.1:4567`, or `https://…` if it has a certificate.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The address of [`endpoint`](Self::endpoint).
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The faults that are planned.
    #[must_use]
    pub fn faults(&self) -> &WireFaults {
        &self.shared.faults
    }

    /// The requests so far.
    #[must_use]
    pub fn requests(&self) -> &WireRequests {
        &self.shared.requests
    }

    /// Serves another stream too. One with the same name is served no more.
    pub fn add_stream(&self, stream: MemoryStream) {
        self.shared.streams().add(Entry::new(stream));
    }

    /// A stream that is served: one that was given, or one that a client created.
    #[must_use]
    pub fn stream(&self, name: &str) -> Option<MemoryStream> {
        let mut streams = self.shared.streams();
        streams.named(name).ok().map(|entry| entry.stream.clone())
    }

    /// Resets every connection that is open now.
    pub fn reset_connections(&self) {
        self.shared.connections.throw();
    }

    /// Makes every subscription that runs now silent for ever, while its connection stays open. New ones are not concerned.
    pub fn silence_subscriptions(&self) {
        self.shared.subscriptions.throw();
    }

    /// Writes the data file now, if there is one.
    ///
    /// # Errors
    ///
    /// When it cannot be written. The one before is as it was.
    pub fn save(&self) -> io::Result<()> {
        match &self.shared.options.data_file {
            Some(path) => data_file::save(&self.shared, path),
            None => Ok(()),
        }
    }

    /// Ends all connections, frees the port and writes the data file, if there is one. That it cannot be written is logged;
    /// [`save`](Self::save) returns it.
    ///
    /// # Cancel safety
    ///
    /// The server stops even if the future is dropped; only the wait for it ends.
    pub async fn stop(self) {
        self.shared.scope.kill();
        self.shared.scope.wait_until_empty().await;
        if let Err(error) = self.save() {
            tracing::warn!(%error, "failed to write the data file at the end");
        }
    }
}

impl Drop for WireServer {
    fn drop(&mut self) {
        self.shared.scope.kill();
    }
}

/// The README, compiled against this crate alone.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
