//! Kinesis on a laptop: streams in memory behind the protocol of Kinesis, on a loopback port.

use std::io::{self, Write as _};
use std::str::FromStr;

use clap::Parser;
use kcl_testkit::MemoryStream;
use kcl_testkit::wire::{WireOptions, WireServer};

/// Serves Kinesis streams from memory, on a loopback port, until it is interrupted.
///
/// Point any AWS SDK at it with AWS_ENDPOINT_URL_KINESIS; any credentials will do. It speaks JSON and CBOR, HTTP/1.1 and
/// HTTP/2 with prior knowledge, polling and enhanced fan-out, and it throttles as Kinesis does.
#[derive(Debug, Parser)]
#[command(name = "kinesis-local", version)]
struct Arguments {
    /// The port on 127.0.0.1; 0 takes any that is free.
    #[arg(long, default_value_t = 4567)]
    port: u16,
    /// A stream to begin with, and its number of shards (1 if not said). May be repeated. Clients can create more.
    #[arg(long = "stream", value_name = "NAME[:SHARDS]")]
    streams: Vec<StreamArgument>,
    /// Throttles nothing, and lets nothing take time that need not: creations, reshards, consumers, second subscriptions.
    #[arg(long)]
    no_limits: bool,
}

/// `trucks` or `trucks:4`.
#[derive(Debug, Clone)]
struct StreamArgument {
    name: String,
    shards: u32,
}

impl FromStr for StreamArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, shards) = text.split_once(':').unwrap_or((text, "1"));
        let shards = shards.parse().ok().filter(|shards| (1..=10_000).contains(shards));
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
        match shards {
            Some(shards) if !name.is_empty() && name.chars().all(allowed) => Ok(Self {
                name: name.to_owned(),
                shards,
            }),
            _ => Err("expected a stream's name and 1 to 10000 shards, as in trucks:4".to_owned()),
        }
    }
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let options = WireOptions {
        port: arguments.port,
        ..if arguments.no_limits {
            WireOptions::unlimited()
        } else {
            WireOptions::default()
        }
    };
    let streams = arguments.streams.iter().map(|stream| {
        MemoryStream::builder(stream.name.as_str())
            .shards(stream.shards)
            .build()
    });
    let server = WireServer::start(streams, options)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("port {}: {error}", arguments.port)))?;
    // Whoever started this may stop it as soon as it has the line, and may be waiting for it through a pipe.
    let interrupted = interrupted()?;
    writeln!(io::stdout(), "{}", server.endpoint())?;
    io::stdout().flush()?;
    interrupted.await;
    server.stop().await;
    Ok(())
}

/// Ready on SIGINT and SIGTERM, which are caught from now on.
#[cfg(unix)]
fn interrupted() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            biased;
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(windows)]
fn interrupted() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        let _ = interrupt.recv().await;
    })
}
