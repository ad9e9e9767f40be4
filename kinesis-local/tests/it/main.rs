//! The command `kinesis-local`, as a process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is how they report"
)]

mod tls;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

/// Ended when dropped, whatever became of the test.
struct Running(Child, BufReader<ChildStdout>);

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kinesis-local"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self(child, output)
    }

    /// The endpoint that it prints first.
    fn endpoint(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn list_streams(endpoint: &str) -> String {
    call(endpoint, "ListStreams", "{}")
}

fn call(endpoint: &str, operation: &str, body: &str) -> String {
    let address = endpoint.strip_prefix("http://").unwrap();
    let length = body.len();
    ask(
        address,
        &format!(
            "POST / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\
             Content-Type: application/x-amz-json-1.1\r\nX-Amz-Target: Kinesis_20131202.{operation}\r\n\r\n{body}"
        ),
    )
}

fn ask(address: &str, request: &str) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn command_prints_endpoint_serves_and_ends_on_signal() {
    for signal in ["-TERM", "-INT"] {
        let arguments = ["--port", "0", "--stream", "trucks:4", "--stream", "plain"];
        let mut running = Running::start(&arguments);
        let endpoint = running.endpoint();
        let answer = list_streams(&endpoint);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains(r#""StreamNames":["plain","trucks"]"#), "{answer}");

        end(&mut running, signal);
    }
}

fn terminate(running: &mut Running) {
    end(running, "-TERM");
}

/// Sends the signal and waits for the command to end well.
fn end(running: &mut Running, signal: &str) {
    let id = running.0.id().to_string();
    let sent = Command::new("kill").args([signal, &id]).status().unwrap();
    assert!(sent.success());
    assert!(running.0.wait().unwrap().success());
}

#[test]
fn what_is_no_stream_is_said_so() {
    let output = Command::new(env!("CARGO_BIN_EXE_kinesis-local"))
        .args(["--stream", "trucks:none"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("as in trucks:4"), "{said}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_kinesis-local"))
        .args(["--port", &port])
        .output();
    let output = output.unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = format!("kinesis-local: port {port} on 127.0.0.1 is in use");
    assert!(said.starts_with(&expected) && said.contains("--port"), "{said}");
}

/// Returns the message of a command that does not start, and its code.
fn refusal(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_kinesis-local"))
        .args(arguments)
        .output();
    let output = output.unwrap();
    assert!(output.stdout.is_empty());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

#[test]
fn arguments_that_make_no_sense_are_named() {
    let cases: &[(&[&str], &str)] = &[
        (
            &["--stream", "trucks", "--stream", "trucks:2"],
            "stream trucks is given twice",
        ),
        (&["--account", "12"], "12 digits"),
        (&["--region", "EU West"], "as in eu-west-1"),
        (&["--host", "everywhere"], "invalid IP address"),
    ];
    for (arguments, expected) in cases {
        let (code, said) = refusal(arguments);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
    }
    let (code, said) = refusal(&["--port", "0", "--host", "192.0.2.1"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("192.0.2.1 is no address of this machine"), "{said}");
}

#[test]
fn region_account_and_host_are_those_given() {
    let arguments = [
        "--port",
        "0",
        "--host",
        "127.0.0.2",
        "--region",
        "eu-west-1",
        "--account",
        "123456789012",
        "--stream",
        "trucks",
    ];
    let mut running = Running::start(&arguments);
    let endpoint = running.endpoint();
    assert!(endpoint.starts_with("http://127.0.0.2:"), "{endpoint}");
    let answer = list_streams(&endpoint);
    let arn = "arn:aws:kinesis:eu-west-1:123456789012:stream/trucks";
    assert!(answer.contains(arn), "{answer}");
    let address = endpoint.strip_prefix("http://").unwrap();
    let health = ask(
        address,
        &format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"),
    );
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    assert!(health.contains(r#""status":"ok""#), "{health}");
}

#[test]
fn large_record_is_refused_without_limits_too() {
    let mut running = Running::start(&["--port", "0", "--stream", "trucks", "--no-limits"]);
    let endpoint = running.endpoint();
    let data = "A".repeat(2 << 20);
    let body = format!(r#"{{"StreamName":"trucks","PartitionKey":"k","Data":"{data}"}}"#);
    let answer = call(&endpoint, "PutRecord", &body);
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("InvalidArgumentException"), "{answer}");
}

/// A file in the folder for tests that is not there yet.
fn fresh_file(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // It is there only after a former run.
    let _ = std::fs::remove_file(&path);
    path.to_str().unwrap().to_owned()
}

#[test]
fn data_file_outlives_the_command() {
    let file = fresh_file("kinesis-local-outlives.json");
    let arguments = [
        "--port",
        "0",
        "--stream",
        "trucks:2",
        "--data-file",
        &file,
        "--no-limits",
    ];
    let put = |endpoint: &str, data: &str| {
        let body = format!(r#"{{"StreamName":"trucks","PartitionKey":"a","Data":"{data}"}}"#);
        let answer = call(endpoint, "PutRecord", &body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer.split("SequenceNumber\":\"").nth(1).unwrap()[..56].to_owned()
    };
    let mut running = Running::start(&arguments);
    let endpoint = running.endpoint();
    let first = put(&endpoint, "Zmlyc3Q=");
    let split = r#"{"StreamName":"trucks","ShardToSplit":"shardId-000000000001","NewStartingHashKey":"300000000000000000000000000000000000000"}"#;
    assert!(call(&endpoint, "SplitShard", split).starts_with("HTTP/1.1 200"));
    call(
        &endpoint,
        "CreateStream",
        r#"{"StreamName":"more","ShardCount":1,"Tags":{"team":"roads"}}"#,
    );
    let summary = call(&endpoint, "DescribeStreamSummary", r#"{"StreamName":"trucks"}"#);
    let created = |summary: &str| {
        let time = summary.split("CreationTimestamp\":").nth(1).unwrap();
        time.split(',').next().unwrap().to_owned()
    };
    terminate(&mut running);

    let mut again = Running::start(&arguments);
    let endpoint = again.endpoint();
    let after = call(&endpoint, "DescribeStreamSummary", r#"{"StreamName":"trucks"}"#);
    assert_eq!(created(&after), created(&summary));
    let shards = call(&endpoint, "ListShards", r#"{"StreamName":"trucks"}"#);
    assert_eq!(shards.matches("\"ShardId\"").count(), 4, "{shards}");
    assert_eq!(
        shards
            .matches("\"ParentShardId\":\"shardId-000000000001\"")
            .count(),
        2
    );
    assert!(put(&endpoint, "c2Vjb25k") > first);
    let tags = call(&endpoint, "ListTagsForStream", r#"{"StreamName":"more"}"#);
    assert!(tags.contains("roads"), "{tags}");
    let iterator =
        r#"{"StreamName":"trucks","ShardId":"shardId-000000000000","ShardIteratorType":"TRIM_HORIZON"}"#;
    let iterator = call(&endpoint, "GetShardIterator", iterator);
    let iterator = iterator.split('"').rev().nth(1).unwrap().to_owned();
    let records = call(
        &endpoint,
        "GetRecords",
        &format!(r#"{{"ShardIterator":"{iterator}"}}"#),
    );
    assert!(
        records.contains(&first) && records.contains("Zmlyc3Q="),
        "{records}"
    );
    terminate(&mut again);
}

#[test]
fn data_file_that_is_none_is_named() {
    let file = fresh_file("kinesis-local-none.json");
    for (content, expected) in [
        ("{", "EOF while parsing"),
        (r#"{"streams":[]}"#, "not a data file of kinesis-local"),
        (
            r#"{"format":"kinesis-local","version":7,"streams":[]}"#,
            "its version is 7",
        ),
    ] {
        std::fs::write(&file, content).unwrap();
        let (code, said) = refusal(&["--port", "0", "--data-file", &file]);
        assert_eq!(code, Some(1));
        assert!(said.contains(&file) && said.contains(expected), "{said}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), content);
    }
    let nowhere = format!("{file}/deeper/data.json");
    let (code, said) = refusal(&["--port", "0", "--data-file", &nowhere]);
    assert_eq!(code, Some(1));
    assert!(said.contains(&nowhere), "{said}");
}
