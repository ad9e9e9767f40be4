#!/bin/sh
# Two clients of the AWS SDK for Rust, on two tokio runtimes, share the connections of one HTTP client, and one runtime that is
# busy stops the calls of the other. aws-smithy-http-client keeps one pool for each pair of connect timeout and read timeout, and for
# nothing else: neither for a client nor for a runtime. A pooled connection moves only while the runtime runs that opened it.
# A connect timeout that differs by a millisecond gives the second client a pool of its own.
#
# It matters to a program that calls DynamoDB from one runtime and lets code that blocks run on another, with one SdkConfig for both.
#
# Installs from crates.io: aws-sdk-dynamodb 1.136.0, aws-smithy-http-client 1.5.2, tokio 1. Needs cargo. Takes about three minutes.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
cat > "$dir/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"

[dependencies]
aws-sdk-dynamodb = { version = "=1.136.0", default-features = false, features = ["rt-tokio"] }
aws-smithy-http-client = { version = "=1.5.2", default-features = false, features = ["default-client"] }
tokio = { version = "1", features = ["rt", "time"] }
TOML
cat > "$dir/src/main.rs" <<'RUST'
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Config, Credentials, Region};

const BLOCKED: Duration = Duration::from_secs(4);

/// Answers every request on every connection with an empty list of tables.
fn serve() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for connection in listener.incoming() {
            thread::spawn(move || {
                let mut answers = connection.unwrap();
                let mut requests = BufReader::new(answers.try_clone().unwrap());
                loop {
                    let mut length = 0;
                    loop {
                        let mut line = String::new();
                        if requests.read_line(&mut line).unwrap_or(0) == 0 {
                            return;
                        }
                        let line = line.trim().to_ascii_lowercase();
                        if let Some(value) = line.strip_prefix("content-length:") {
                            length = value.trim().parse().unwrap();
                        }
                        if line.is_empty() {
                            break;
                        }
                    }
                    requests.read_exact(&mut vec![0; length]).unwrap();
                    let body = r#"{"TableNames":[]}"#;
                    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length:";
                    write!(answers, "{head} {}\r\n\r\n{body}", body.len()).unwrap();
                }
            });
        }
    });
    port
}

fn call(client: &Client, after: impl FnOnce()) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let began = Instant::now();
        client.list_tables().send().await.expect("the server answers");
        let took = began.elapsed();
        after();
        took
    })
}

/// How long a call on a second runtime takes while the first is blocked.
fn second_call(connect_timeout_of_second: Duration) -> Duration {
    let port = serve();
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("a", "b", None, None, "finding"))
        .endpoint_url(format!("http://127.0.0.1:{port}"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    let client = |connect| {
        let timeouts = TimeoutConfig::builder().connect_timeout(connect).build();
        Client::from_conf(config.to_builder().timeout_config(timeouts).build())
    };
    let (first, second) = (client(Duration::from_secs(5)), client(connect_timeout_of_second));
    let (blocks, blocked) = channel();
    let first = thread::spawn(move || {
        call(&first, || {
            blocks.send(()).unwrap();
            thread::sleep(BLOCKED);
        })
    });
    blocked.recv().unwrap();
    let took = call(&second, || {});
    first.join().unwrap();
    took
}

fn main() {
    let same = second_call(Duration::from_secs(5));
    let other = second_call(Duration::from_millis(5001));
    println!("a call on a second runtime while the first one is blocked for {} s:", BLOCKED.as_secs());
    println!("  connect timeouts equal (5000 ms and 5000 ms):     {:.1} s", same.as_secs_f32());
    println!("  connect timeouts different (5000 ms and 5001 ms): {:.1} s", other.as_secs_f32());
    assert!(same > BLOCKED / 2, "changed: the runtimes no longer share connections");
    assert!(other < BLOCKED / 2, "changed: another connect timeout no longer gives another pool");
}
RUST
cd "$dir"
cargo run --quiet
cargo tree --quiet --depth 1 --prefix none | tail -n +2
echo "as found: one pool for each pair of timeouts, whichever client and runtime uses it"
