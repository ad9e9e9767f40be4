//! One source that is asked from two runtimes.

use std::sync::mpsc::channel;
use std::thread;

use kcl_core::source::StreamSource as _;
use kcl_kinesis::KinesisStream;
use kinesis_local::WireOptions;
use tokio::runtime::{Builder, Runtime};

use crate::kinesis_wire::served::{NAME, Read, Served, aws};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// An HTTP client keeps one pool for each pair of timeouts, and a connection moves only while the runtime runs that opened it.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a runtime that is blocked needs a thread of its own"
)]
fn blocked_runtime_holds_up_no_other() {
    let serving = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let served = serving.block_on(Served::new(1, WireOptions::default(), Read::Cbor));
    let shared = aws_smithy_http_client::Builder::new().build_http();
    let config = aws(&served.server).into_builder().http_client(shared).build();
    let source = KinesisStream::new(&config, NAME);
    let (blocks, is_blocked) = channel();
    let (frees, is_free) = channel::<()>();
    let first = source.clone();
    let first = thread::spawn(move || {
        runtime().block_on(async {
            first.identity().await.unwrap();
            blocks.send(()).unwrap();
            // Until the sender is dropped.
            assert!(is_free.recv().is_err());
        });
    });
    is_blocked.recv().unwrap();
    let answer = runtime().block_on(source.identity());
    drop(frees);
    first.join().unwrap();
    answer.unwrap();
}
