//! Kinesis on a laptop: streams in memory behind the protocol of Kinesis.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser};
use kcl_lease_memory::MemoryStream;
use kinesis_local::{WireOptions, WireServer, WireTls};

/// Serves Kinesis streams from memory until it is interrupted.
///
/// Point any AWS SDK at it with AWS_ENDPOINT_URL_KINESIS; any credentials will do. It speaks JSON and CBOR, HTTP/1.1 and
/// HTTP/2 with prior knowledge, HTTPS with a certificate, polling and enhanced fan-out, and it throttles as Kinesis does.
/// GET /health answers as soon as it serves. Its limits are listed in docs/kinesis-local.md.
#[derive(Debug, Parser)]
#[command(name = "kinesis-local", version)]
struct Arguments {
    /// The address to listen on; 0.0.0.0 lets other hosts in, as a container needs it.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// The port; 0 takes any that is free.
    #[arg(long, default_value_t = 4567)]
    port: u16,
    /// A stream to begin with, and its number of shards (1 if not said). May be repeated. Clients can create more.
    #[arg(long = "stream", value_name = "NAME[:SHARDS]")]
    streams: Vec<StreamArgument>,
    /// The region that ARNs name.
    #[arg(long, default_value = "us-east-1", value_parser = region)]
    region: String,
    /// The account that ARNs name: 12 digits.
    #[arg(long, default_value = "000000000000", value_parser = account)]
    account: String,
    /// Throttles nothing, counts nothing against quotas, and lets nothing take time that need not: creations, reshards, consumers,
    /// second subscriptions. How large a record may be stays the stream's setting.
    #[arg(long)]
    no_limits: bool,
    /// Keeps streams, records and settings in this file: loaded at the start, written within a second after a change.
    #[arg(long, value_name = "FILE")]
    data_file: Option<PathBuf>,
    #[command(flatten)]
    tls: TlsArguments,
}

#[derive(Debug, clap::Args)]
struct TlsArguments {
    /// Serves HTTPS with this certificate, in PEM, and those that it rests on after it.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert, in PEM, without a passphrase.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Serves HTTPS with a certificate made at the start, for localhost and the address of --host.
    #[arg(long, conflicts_with = "tls_cert")]
    tls_self_signed: bool,
    /// Another name or address in the certificate of --tls-self-signed. May be repeated.
    #[arg(long = "tls-name", value_name = "NAME", requires = "tls_self_signed")]
    tls_names: Vec<String>,
    /// The file for the authority of --tls-self-signed, which clients must trust. An older file is replaced.
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_self_signed",
        default_value = "kinesis-local-ca.pem"
    )]
    tls_ca_out: PathBuf,
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
            Some(shards) if (1..=128).contains(&name.len()) && name.chars().all(allowed) => Ok(Self {
                name: name.to_owned(),
                shards,
            }),
            _ => Err("expected a stream's name and 1 to 10000 shards, as in trucks:4".to_owned()),
        }
    }
}

fn region(text: &str) -> Result<String, String> {
    let allowed = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    if text.is_empty() || !text.chars().all(allowed) {
        return Err("expected the name of a region, as in eu-west-1".to_owned());
    }
    Ok(text.to_owned())
}

fn account(text: &str) -> Result<String, String> {
    if text.len() != 12 || !text.chars().all(|letter| letter.is_ascii_digit()) {
        return Err("expected an account of 12 digits, as in 123456789012".to_owned());
    }
    Ok(text.to_owned())
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut names = BTreeSet::new();
    if let Some(twice) = arguments
        .streams
        .iter()
        .find(|stream| !names.insert(&stream.name))
    {
        let message = format!("the stream {} is given twice with --stream", twice.name);
        Arguments::command()
            .error(ErrorKind::ArgumentConflict, message)
            .exit();
    }
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kinesis-local: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> io::Result<()> {
    let (host, port) = (arguments.host, arguments.port);
    let Certificate { tls, trusted } = certificate(&arguments.tls, host)?;
    let server = WireServer::start(streams(&arguments), options(arguments, tls)).await;
    let server = server.map_err(|error| not_started(error, host, port))?;
    // A script that reads these lines may stop the command at once, and may be waiting for them through a pipe.
    let interrupted = interrupted()?;
    let mut lines = format!("{}\n", server.endpoint());
    if let Some(trusted) = trusted {
        lines.push_str(&format!("AWS_CA_BUNDLE={}\n", trusted.display()));
    }
    io::stdout().write_all(lines.as_bytes())?;
    io::stdout().flush()?;
    interrupted.await;
    let saved = server.save();
    server.stop().await;
    saved
}

/// The certificate to serve HTTPS with, and the file of the authority that clients must trust, if that was made here.
#[derive(Default)]
struct Certificate {
    tls: Option<WireTls>,
    trusted: Option<PathBuf>,
}

fn certificate(arguments: &TlsArguments, host: IpAddr) -> io::Result<Certificate> {
    if let (Some(certificate), Some(key)) = (&arguments.tls_cert, &arguments.tls_key) {
        let read = |path: &PathBuf, option: &str| {
            fs::read_to_string(path).map_err(|error| about(path, option, &error))
        };
        let tls = WireTls::from_pem(&read(certificate, "--tls-cert")?, &read(key, "--tls-key")?);
        let tls = tls.map_err(|error| {
            let (certificate, key) = (certificate.display(), key.display());
            io::Error::new(
                error.kind(),
                format!("--tls-cert {certificate} with --tls-key {key}: {error}"),
            )
        })?;
        return Ok(Certificate {
            tls: Some(tls),
            trusted: None,
        });
    }
    if !arguments.tls_self_signed {
        return Ok(Certificate::default());
    }
    let mut names: BTreeSet<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    if !host.is_unspecified() {
        names.insert(host.to_string());
    }
    names.extend(arguments.tls_names.iter().cloned());
    let tls = WireTls::self_signed(names)?;
    let path = &arguments.tls_ca_out;
    fs::write(path, tls.authority_pem()).map_err(|error| about(path, "--tls-ca-out", &error))?;
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
    Ok(Certificate {
        tls: Some(tls),
        trusted: Some(path),
    })
}

/// A file of an option that cannot be read or written.
fn about(path: &Path, option: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{option} {}: {error}", path.display()))
}

/// Why the server did not start, with what to do about it.
fn not_started(error: io::Error, host: IpAddr, port: u16) -> io::Error {
    let kind = error.kind();
    let message = if kind == io::ErrorKind::AddrInUse {
        format!(
            "port {port} on {host} is in use: stop what listens there, or choose another with --port (0: any free one)"
        )
    } else if kind == io::ErrorKind::AddrNotAvailable {
        format!("{host} is no address of this machine: choose another with --host")
    } else {
        return error;
    };
    io::Error::new(kind, message)
}

/// The streams to begin with, as CreateStream makes them. Those in the data file take their places.
fn streams(arguments: &Arguments) -> Vec<MemoryStream> {
    let stream = |stream: &StreamArgument| {
        MemoryStream::builder(stream.name.as_str())
            .shards(stream.shards)
            .retention(Duration::from_secs(24 * 60 * 60))
            .build()
    };
    arguments.streams.iter().map(stream).collect()
}

fn options(arguments: Arguments, tls: Option<WireTls>) -> WireOptions {
    WireOptions {
        host: arguments.host,
        port: arguments.port,
        region: arguments.region,
        account: arguments.account,
        data_file: arguments.data_file,
        tls,
        ..if arguments.no_limits {
            WireOptions::unlimited()
        } else {
            WireOptions::default()
        }
    }
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
