//! A server that answers by a script, in JSON, as Kinesis and DynamoDB both speak it: for denials, which no emulator makes.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use serde_json::Value;

/// An answer: a status and a body.
pub(super) type Answer = (u16, Value);

/// The answers: to an operation with its input.
pub(super) type Script = Arc<dyn Fn(&str, &Value) -> Answer + Send + Sync>;

/// Serves on threads of its own until the process ends. Returns the endpoint.
#[expect(
    clippy::disallowed_methods,
    reason = "the test waits for a process, and blocks its runtime"
)]
pub(super) fn serve(script: Script) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let script = Arc::clone(&script);
            std::thread::spawn(move || answer(connection, &script));
        }
    });
    endpoint
}

/// Answers one request and closes the connection.
fn answer(mut connection: TcpStream, script: &Script) -> Option<()> {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    let (head, input) = loop {
        let read = connection.read(&mut chunk).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&chunk[..read]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length: usize = header(&head, "content-length")
            .and_then(|length| length.parse().ok())
            .unwrap_or(0);
        if bytes.len() >= end + 4 + length {
            break (head, bytes.split_off(end + 4));
        }
    };
    let target = header(&head, "x-amz-target")?;
    let operation = target.rsplit('.').next()?;
    let (status, body) = script(operation, &serde_json::from_slice(&input).unwrap_or_default());
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} Scripted\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    connection.write_all(format!("{head}{body}").as_bytes()).ok()
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}
