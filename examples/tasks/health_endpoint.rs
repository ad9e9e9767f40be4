//! Serves metrics for Prometheus, probes for Kubernetes, and the status of each shard as JSON.
//!
//! `cargo run -p kcl-examples --example health_endpoint` shows what each path answers, and ends. With `-- stay` it serves until it is stopped.

use std::error::Error;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use kinesis_client::bytes::Bytes;
use kinesis_client::http::{
    DEFAULT_PORT, HttpServer, LIVENESS_PATH, METRICS_PATH, READINESS_PATH, STATUS_PATH, prometheus_builder,
};
use kinesis_client::{
    MemoryLeaseStore, MemoryStream, ProcessorError, RecordBatch, RecordProcessor, ShardContext, Worker,
    async_trait,
};

struct Writer;

#[async_trait]
impl RecordProcessor for Writer {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // The global recorder, into which a worker records unless its builder is given another.
    let metrics = prometheus_builder().install_recorder()?;

    let stream = MemoryStream::builder("truck-positions").shards(1).build();
    stream.put("truck-7", "position")?;
    let worker = Worker::builder("writer")
        .stream(stream)
        .lease_store(MemoryLeaseStore::new())
        .processor(|_: &ShardContext| Writer)
        .build()?
        .start();

    // On a thread of its own, so that it answers while the code of a processor blocks. In a container it is `[0, 0, 0, 0]`.
    let stays = std::env::args().any(|argument| argument == "stay");
    let port = if stays { DEFAULT_PORT } else { 0 };
    let server = HttpServer::new(worker.status_reader())
        .prometheus(metrics)
        .address(([127, 0, 0, 1], port))
        .start()?;
    if stays {
        println!("http://{}", server.address());
        worker.run_until_signal().await?;
        server.stop().await;
        return Ok(());
    }

    worker
        .wait_for(|status| status.leases.values().any(|lease| lease.records == 1))
        .await;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    for path in [LIVENESS_PATH, READINESS_PATH, STATUS_PATH, METRICS_PATH] {
        let answer = client
            .get(format!("http://{}{path}", server.address()).parse()?)
            .await?;
        let code = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        println!("{path}: {code}\n{}", String::from_utf8_lossy(&body));
    }
    worker.shutdown();
    worker.join().await?;
    server.stop().await;
    Ok(())
}
