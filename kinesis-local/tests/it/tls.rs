//! HTTPS, in this process and by the command.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_testkit::clock::ManualClock;
use kinesis_local::{WireOptions, WireServer, WireTls};
use tokio::io::AsyncReadExt as _;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::{Running, ask, end, fresh_file, refusal};

/// Real time after which a client gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client that trusts this authority and speaks these protocols.
fn client(authority: &str, name: &str, protocols: &[&str]) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

fn connect(address: &str) -> TcpStream {
    let tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp
}

/// The protocol that both speak, after the handshake.
fn agreed(address: &str, authority: &str, protocols: &[&str]) -> io::Result<String> {
    let mut client = client(authority, "localhost", protocols);
    client.complete_io(&mut connect(address))?;
    let agreed = client.alpn_protocol().unwrap_or_default();
    Ok(String::from_utf8(agreed.to_vec()).unwrap())
}

/// Returns the server's answer to a request under this name.
fn ask_securely(address: &str, authority: &str, name: &str, request: &str) -> io::Result<String> {
    let mut link = StreamOwned::new(client(authority, name, &["http/1.1"]), connect(address));
    link.write_all(request.as_bytes())?;
    let mut answer = String::new();
    link.read_to_string(&mut answer)?;
    Ok(answer)
}

const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

async fn secured() -> (WireServer, String, String) {
    let tls = WireTls::self_signed(["localhost", "127.0.0.1"]).unwrap();
    let authority = tls.authority_pem().to_owned();
    let options = WireOptions {
        tls: Some(tls),
        ..WireOptions::default()
    };
    let server = WireServer::start([], options).await.unwrap();
    let address = server.address().to_string();
    assert_eq!(server.endpoint(), format!("https://{address}"));
    (server, address, authority)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_speaks_both_versions_of_http() {
    let (_server, address, authority) = secured().await;
    let both = ["h2", "http/1.1"];
    for (offered, expected) in [(&both[..], "h2"), (&both[1..], "http/1.1")] {
        assert_eq!(agreed(&address, &authority, offered).unwrap(), expected);
    }
    for name in ["localhost", "127.0.0.1"] {
        let answer = ask_securely(&address, &authority, name, HEALTH).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_authority_and_other_name_are_refused() {
    let (_server, address, authority) = secured().await;
    let other = WireTls::self_signed(["localhost"]).unwrap();
    let refused = ask_securely(&address, other.authority_pem(), "localhost", HEALTH).unwrap_err();
    assert!(refused.to_string().contains("certificate"), "{refused}");
    let refused = ask_securely(&address, &authority, "elsewhere", HEALTH).unwrap_err();
    assert!(refused.to_string().contains("elsewhere"), "{refused}");
    let answer = ask_securely(&address, &authority, "localhost", HEALTH).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_request_is_told_to_use_https() {
    let (_server, address, _) = secured().await;
    let body = "x".repeat(1 << 20);
    let length = body.len();
    let head = "POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: Kinesis_20131202.ListStreams\r\n";
    let answer = ask(&address, &format!("{head}Content-Length: {length}\r\n\r\n{body}"));
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("must begin with https://"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_client_at_plain_port_fails_soon() {
    let server = WireServer::start([], WireOptions::default()).await.unwrap();
    let address = server.address().to_string();
    let authority = WireTls::self_signed(["localhost"]).unwrap();
    let failed = agreed(&address, authority.authority_pem(), &[]).unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::InvalidData, "{failed}");
}

#[tokio::test]
async fn client_that_begins_nothing_is_let_go() {
    let clock = ManualClock::new();
    let options = WireOptions {
        tls: Some(WireTls::self_signed(["localhost"]).unwrap()),
        ..WireOptions::default()
    };
    let server = WireServer::start_with_clock([], options, Arc::new(clock.clone()));
    let server = server.await.unwrap();
    let mut tcp = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let let_go = async {
        let real = TokioClock::new();
        loop {
            let mut byte = [0];
            let read = real.timeout(Duration::from_millis(20), tcp.read(&mut byte));
            if let Ok(read) = read.await {
                return read.unwrap();
            }
            clock.advance(Duration::from_secs(1));
        }
    };
    let read = TokioClock::new().timeout(PATIENCE, let_go).await;
    assert_eq!(read.unwrap(), 0);
}

#[test]
fn command_writes_what_clients_must_trust() {
    let file = fresh_file("kinesis-local-ca.pem");
    let mut running = Running::start(&[
        "--port",
        "0",
        "--stream",
        "trucks",
        "--tls-self-signed",
        "--tls-ca-out",
        &file,
        "--tls-name",
        "kinesis.example",
    ]);
    let endpoint = running.endpoint();
    let address = endpoint.strip_prefix("https://").unwrap();
    let mut line = String::new();
    running.1.read_line(&mut line).unwrap();
    let path = line.trim_end().strip_prefix("AWS_CA_BUNDLE=").unwrap();
    assert!(std::path::Path::new(path).is_absolute(), "{path}");
    let authority = std::fs::read_to_string(path).unwrap();
    for name in ["localhost", "127.0.0.1", "::1", "kinesis.example"] {
        let answer = ask_securely(address, &authority, name, HEALTH).unwrap();
        assert!(answer.contains(r#""streams":1"#), "{answer}");
    }
    end(&mut running, "-TERM");
}

/// A certificate and a key as others make them, in files.
fn given(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (
        fresh_file(&format!("{name}-cert.pem")),
        fresh_file(&format!("{name}-key.pem")),
    );
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (certificate, key)
}

#[test]
fn command_serves_given_certificate() {
    let (certificate, key) = given("served");
    let mut running = Running::start(&["--port", "0", "--tls-cert", &certificate, "--tls-key", &key]);
    let endpoint = running.endpoint();
    let address = endpoint.strip_prefix("https://").unwrap();
    let authority = std::fs::read_to_string(&certificate).unwrap();
    let answer = ask_securely(address, &authority, "localhost", HEALTH).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    end(&mut running, "-TERM");
}

#[test]
fn unusable_tls_files_are_named() {
    let (certificate, key) = given("one");
    let (_, other_key) = given("other");
    let missing = fresh_file("missing.pem");
    let nowhere = format!("{key}/deeper/ca.pem");
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["--tls-cert", &certificate, "--tls-key", &other_key],
            &[&certificate, &other_key, "not that of the certificate"],
        ),
        (
            &["--tls-cert", &missing, "--tls-key", &key],
            &["--tls-cert", &missing, "No such file"],
        ),
        (
            &["--tls-cert", &certificate, "--tls-key", &missing],
            &["--tls-key", &missing, "No such file"],
        ),
        (
            &["--tls-cert", &key, "--tls-key", &certificate],
            &["-----BEGIN CERTIFICATE-----"],
        ),
        (
            &["--tls-self-signed", "--tls-ca-out", &nowhere],
            &["--tls-ca-out", &nowhere],
        ),
        (
            &["--tls-self-signed", "--tls-ca-out", &missing, "--tls-name", "a b"],
            &["a b"],
        ),
    ];
    for (arguments, expected) in cases {
        let (code, said) = refusal(&[&["--port", "0"], *arguments].concat());
        assert_eq!(code, Some(1), "{said}");
        for expected in *expected {
            assert!(said.contains(expected), "{said}");
        }
    }
}

#[test]
fn tls_options_that_belong_together_are_named() {
    let cases: &[(&[&str], &str)] = &[
        (&["--tls-cert", "cert.pem"], "--tls-key"),
        (&["--tls-key", "key.pem"], "--tls-cert"),
        (&["--tls-ca-out", "ca.pem"], "--tls-self-signed"),
        (&["--tls-name", "kinesis"], "--tls-self-signed"),
        (
            &["--tls-self-signed", "--tls-cert", "c.pem", "--tls-key", "k.pem"],
            "cannot be used with",
        ),
    ];
    for (arguments, expected) in cases {
        let (code, said) = refusal(arguments);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}
