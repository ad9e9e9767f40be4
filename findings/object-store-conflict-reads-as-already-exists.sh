#!/bin/sh
# S3 answers a put with `If-None-Match: *` with 409 ConditionalRequestConflict while another request for the same key is under way, and its
# documentation says: upload again. The crate object_store makes `Error::AlreadyExists` of that answer, as of 412 which says that the object is
# there. It does not try again: its retry of 409 is for `PutMode::Update` only. So after `AlreadyExists` there may be no object at all.
#
# It matters to a program that takes `AlreadyExists` for "somebody has written it", such as a log or a chain of files: it must read the object,
# and try again when that says `NotFound`.
#
# Beside it: the local file system of the crate writes an object to NAME#1 before it links it to NAME. A writer that is killed between leaves
# NAME#1 for ever, and no listing shows it.
#
# Installs from crates.io: object_store 0.14.2 with its feature aws, futures-util 0.3, tokio 1. Needs cargo and a C compiler. Takes some minutes.
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
object_store = { version = "=0.14.2", features = ["aws"] }
tokio = { version = "1", features = ["rt-multi-thread", "macros"] }
futures-util = "0.3"
TOML
cat > "$dir/src/main.rs" <<'RUST'
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, PutMode};

static PUTS: AtomicU32 = AtomicU32::new(0);

/// Answers 409 to each put, and 404 to each get: nothing was ever stored.
fn serve(listener: TcpListener) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut request = Vec::new();
        let mut part = [0; 4096];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut part).unwrap() {
                0 => break,
                n => request.extend_from_slice(&part[..n]),
            }
        }
        let (status, code) = if request.starts_with(b"PUT") {
            PUTS.fetch_add(1, Ordering::SeqCst);
            ("409 Conflict", "ConditionalRequestConflict")
        } else {
            ("404 Not Found", "NoSuchKey")
        };
        let body = format!("<Error><Code>{code}</Code></Error>");
        let length = body.len();
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").unwrap();
    }
}

fn name<T>(answer: Result<T, object_store::Error>) -> &'static str {
    match answer {
        Ok(_) => "Ok",
        Err(object_store::Error::AlreadyExists { .. }) => "AlreadyExists",
        Err(object_store::Error::NotFound { .. }) => "NotFound",
        Err(_) => "another error",
    }
}

#[tokio::main]
async fn main() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || serve(listener));
    let s3 = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_bucket_name("bucket")
        .with_region("us-east-1")
        .with_access_key_id("test")
        .with_secret_access_key("test")
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .build()
        .unwrap();
    let path = Path::from("file");
    let put = s3.put_opts(&path, "content".into(), PutMode::Create.into()).await;
    println!("409 to a put with PutMode::Create: {}, after {} requests", name(put), PUTS.load(Ordering::SeqCst));
    println!("the object then: {}", name(s3.get(&path).await));

    let folder = std::env::current_dir().unwrap().join("objects");
    std::fs::create_dir(&folder).unwrap();
    // As a writer leaves it that is killed before it links the file.
    std::fs::write(folder.join("file#1"), "con").unwrap();
    let local = LocalFileSystem::new_with_prefix(&folder).unwrap();
    let put = local.put_opts(&path, "content".into(), PutMode::Create.into()).await;
    let listed: Vec<_> = local.list(None).try_collect().await.unwrap();
    let on_disk = std::fs::read_dir(&folder).unwrap().count();
    println!("a local put beside file#1: {}; {} listed, {on_disk} on disk", name(put), listed.len());
}
RUST
cd "$dir"
cargo run --quiet > out.txt
echo "object_store 0.14.2:"
cat out.txt
grep -q '^409 to a put with PutMode::Create: AlreadyExists, after 1 requests$' out.txt
grep -q '^the object then: NotFound$' out.txt
grep -q '^a local put beside file#1: Ok; 1 listed, 2 on disk$' out.txt
echo "as described"
