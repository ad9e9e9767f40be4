#!/bin/sh
# A client of the AWS SDK for Rust takes its clock from the `Date` header of whatever answered last, also from an answer that was
# successful: the next operation of that client is signed with that time, without a word above the log level TRACE. A proxy, load
# balancer or emulator that stamps its answers with a wrong time so makes the requests to come invalid, although the clock of the
# host is right. The next answer with a right `Date` heals it, so it costs one refused request, and another client of the same
# process is not affected.
#
# It matters to a program that makes one attempt for each call, as one with conditional writes must: the SDK's own second attempt
# would have been signed well. `DisableClockSkewCorrection` in the client's configuration turns it off.
#
# Installs from crates.io: aws-sdk-dynamodb 1.136.0, aws-runtime 1.10.2, httpdate 1.0.3, tokio 1. Needs cargo. Takes about three minutes.
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
aws-runtime = "=1.10.2"
aws-sdk-dynamodb = { version = "=1.136.0", default-features = false, features = ["rt-tokio", "default-https-client"] }
httpdate = "=1.0.3"
tokio = { version = "1", features = ["macros", "rt", "time"] }
TOML
cat > "$dir/src/main.rs" <<'RUST'
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, SystemTime};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Config, Credentials, Region};

const HOUR: Duration = Duration::from_secs(3600);

/// Answers each request with status 200 and an empty list of tables. The second answer is stamped an hour ahead.
/// Sends the time with which each request says that it was signed.
fn serve(signed: Sender<String>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut answered = 0;
        for connection in listener.incoming() {
            let mut answers = connection.unwrap();
            let mut requests = BufReader::new(answers.try_clone().unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                requests.read_line(&mut line).unwrap();
                let line = line.trim().to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if let Some(value) = line.strip_prefix("x-amz-date:") {
                    signed.send(value.trim().to_owned()).unwrap();
                }
                if line.is_empty() {
                    break;
                }
            }
            requests.read_exact(&mut vec![0; length]).unwrap();
            answered += 1;
            let now = SystemTime::now();
            let date = httpdate::fmt_http_date(if answered == 2 { now + HOUR } else { now });
            let body = r#"{"TableNames":[]}"#;
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/x-amz-json-1.0\r\n";
            write!(answers, "{head}date: {date}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    port
}

fn client(port: u16) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("a", "b", None, None, "finding"))
        .retry_config(RetryConfig::disabled())
        .endpoint_url(format!("http://127.0.0.1:{port}"));
    Client::from_conf(config.build())
}

/// How many minutes ahead of now a time such as `20261130t013000z` is.
fn ahead(signed: &str) -> i64 {
    let number = |from: usize, to: usize| signed[from..to].parse::<u64>().unwrap();
    let of_day = number(9, 11) * 60 + number(11, 13);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / 60 % 1440;
    // Around midnight.
    ((of_day + 1440 + 720 - now) % 1440) as i64 - 720
}

async fn call(client: &Client, signed: &Receiver<String>, what: &str) -> bool {
    client.list_tables().send().await.expect("the server answers with success");
    let minutes = ahead(&signed.recv().unwrap());
    println!("  {what}: signed {minutes:+} minutes from now");
    minutes > 50
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (sends, signed) = channel();
    let port = serve(sends);
    let (first, second) = (client(port), client(port));
    println!("every call succeeds; the answer to call 2 has a Date one hour ahead:");
    let early = call(&first, &signed, "call 1").await | call(&first, &signed, "call 2").await;
    let after = call(&first, &signed, "call 3, after that answer").await;
    let healed = !call(&first, &signed, "call 4").await;
    let other = call(&second, &signed, "call 5, of another client").await;
    assert!(!early && after && healed && !other, "changed: the SDK signs otherwise now");
}
RUST
cd "$dir"
cargo run --quiet
cargo tree --quiet --depth 1 --prefix none | tail -n +2
echo "as found: the Date of the last answer is the clock of the client"
