use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use async_trait::async_trait;
use kcl_core::clock::{Clock as _, TokioClock};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::status::Phase;
use kcl_core::{Worker, WorkerHandle};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};

use super::*;
use crate::{LIVENESS_PATH, METRICS_PATH, READINESS_PATH, STATUS_PATH, prometheus_builder};

struct Reader;

#[async_trait]
impl RecordProcessor for Reader {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }
}

async fn worker() -> (WorkerHandle, PrometheusHandle) {
    let recorder = prometheus_builder().build_recorder();
    let metrics = recorder.handle();
    let worker = Worker::builder("trucks")
        .stream(MemoryStream::builder("trucks").shards(2).build())
        .lease_store(MemoryLeaseStore::new())
        .metrics_recorder(std::sync::Arc::new(recorder))
        .processor(|_: &ShardContext| Reader)
        .build()
        .unwrap()
        .start();
    worker
        .wait_for(|status| status.phase == Phase::Running && status.leases.len() == 2)
        .await;
    (worker, metrics)
}

/// A server on a free port.
fn server(worker: &WorkerHandle, limits: ServerLimits) -> RunningServer {
    let server = HttpServer::new(worker.status_reader()).address(([127, 0, 0, 1], 0));
    server.limits(limits).start().unwrap()
}

/// Sends these bytes and reads all that is answered. It blocks the only thread of the test's runtime, on which the worker's processors are.
fn exchange(address: SocketAddr, bytes: &str) -> String {
    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.write_all(bytes.as_bytes()).unwrap();
    read(&mut tcp)
}

fn read(tcp: &mut TcpStream) -> String {
    let mut answer = String::new();
    // A reset after the answer is as good an end as any.
    let _ = tcp.read_to_string(&mut answer);
    answer
}

fn get(address: SocketAddr, path: &str) -> String {
    exchange(address, &format!("GET {path} HTTP/1.1\r\nhost: worker\r\n\r\n"))
}

fn code(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[tokio::test]
async fn running_worker_is_published_on_each_path() {
    let (worker, metrics) = worker().await;
    let server = HttpServer::new(worker.status_reader()).prometheus(metrics);
    let server = server.address(([127, 0, 0, 1], 0)).start().unwrap();
    let get = |path| get(server.address(), path);
    assert_eq!(code(&get(LIVENESS_PATH)), "200");
    let ready = get(READINESS_PATH);
    assert!(
        code(&ready) == "200" && ready.ends_with("ready: the worker is running and holds 2 leases\n"),
        "{ready}"
    );
    let status = get(STATUS_PATH);
    let (head, body) = status.split_once("\r\n\r\n").unwrap();
    let status: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(status["leases"].as_object().unwrap().len(), 2);
    assert!(
        head.contains("application/json") && head.contains("no-store"),
        "{head}"
    );
    let metrics = get(METRICS_PATH);
    assert!(
        metrics.contains("version=0.0.4") && metrics.contains("kcl_leases_held{worker=\"trucks\"} 2"),
        "{metrics}"
    );
    assert!(get("/").contains(METRICS_PATH));
    assert_eq!(code(&get("/elsewhere")), "404");
}

#[tokio::test]
async fn stopped_worker_is_neither_alive_nor_ready() {
    let (worker, _) = worker().await;
    let server = server(&worker, ServerLimits::default());
    assert_eq!(
        code(&get(server.address(), METRICS_PATH)),
        "404",
        "no exporter was given"
    );
    worker.shutdown();
    worker.join().await.unwrap();
    assert_eq!(code(&get(server.address(), LIVENESS_PATH)), "503");
    let ready = get(server.address(), READINESS_PATH);
    assert!(code(&ready) == "503" && ready.contains("has stopped"), "{ready}");
}

#[tokio::test]
async fn long_standstill_ends_liveness_until_it_is_over() {
    let (worker, _) = worker().await;
    let server = HttpServer::new(worker.status_reader()).address(([127, 0, 0, 1], 0));
    let server = server.standstill(Duration::from_millis(100)).start().unwrap();
    let clock = TokioClock::new();
    let deadline = clock.now() + Duration::from_secs(30);
    // Without a wait, so that the processors' runtime runs nothing meanwhile.
    loop {
        let answer = get(server.address(), LIVENESS_PATH);
        if code(&answer) == "503" {
            assert!(answer.contains("has run nothing"), "{answer}");
            assert_eq!(code(&get(server.address(), READINESS_PATH)), "200");
            break;
        }
        assert!(clock.now() < deadline, "{answer}");
    }
    worker.wait_for(|status| status.standstill.is_none()).await;
    assert_eq!(code(&get(server.address(), LIVENESS_PATH)), "200");
}

#[tokio::test]
async fn requests_that_bring_or_change_are_refused() {
    let (worker, _) = worker().await;
    let server = server(&worker, ServerLimits::default());
    let ask = |head: &str| exchange(server.address(), &format!("{head}\r\nhost: worker\r\n\r\n"));
    assert_eq!(code(&ask("POST /healthz HTTP/1.1")), "405");
    assert_eq!(code(&ask("GET /healthz HTTP/1.1\r\ncontent-length: 5")), "413");
    assert_eq!(
        code(&ask("GET /healthz HTTP/1.1\r\ntransfer-encoding: chunked")),
        "413"
    );
    let long = "x".repeat(2 * crate::limits::LARGEST_HEAD);
    assert_eq!(
        code(&ask(&format!("GET /healthz HTTP/1.1\r\nx-long: {long}"))),
        "431"
    );
    assert_eq!(code(&ask("HEAD /healthz HTTP/1.1")), "200");
}

#[tokio::test]
async fn silent_client_is_cut_off() {
    let (worker, _) = worker().await;
    let head = Duration::from_millis(50);
    let server = server(
        &worker,
        ServerLimits {
            head,
            connections: 1,
            ..ServerLimits::default()
        },
    );
    let mut silent = TcpStream::connect(server.address()).unwrap();
    silent.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    let answer = read(&mut silent);
    assert!(["none", "408"].contains(&code(&answer)), "{answer}");
}

#[tokio::test]
async fn open_connection_is_cut_off_in_time() {
    let (worker, _) = worker().await;
    let connection = Duration::from_millis(50);
    let limits = ServerLimits {
        connection,
        connections: 1,
        head: Duration::from_secs(60),
    };
    let server = server(&worker, limits);
    let mut open = TcpStream::connect(server.address()).unwrap();
    assert_eq!(read(&mut open), "", "it was closed");
    assert_eq!(code(&get(server.address(), LIVENESS_PATH)), "200");
}

#[tokio::test]
async fn slow_clients_do_not_keep_probes_out() {
    let (worker, _) = worker().await;
    let limits = ServerLimits {
        connections: 4,
        head: Duration::from_secs(3600),
        connection: Duration::from_secs(3600),
    };
    let server = server(&worker, limits);
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut tcp = TcpStream::connect(server.address()).unwrap();
        tcp.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
        slow.push(tcp);
        // A probe that waits for ever fails here.
        let mut probe = TcpStream::connect(server.address()).unwrap();
        probe.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        probe
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: worker\r\n\r\n")
            .unwrap();
        assert_eq!(code(&read(&mut probe)), "200");
    }
    // The oldest gave way; the last ones may still ask.
    assert_eq!(read(&mut slow[0]), "");
    let last = slow.last_mut().unwrap();
    last.write_all(b"host: worker\r\n\r\n").unwrap();
    assert_eq!(code(&read(last)), "200");
}

#[tokio::test]
async fn stop_answers_the_request_under_way() {
    let (worker, _) = worker().await;
    let server = server(&worker, ServerLimits::default());
    let address = server.address();
    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    // An answer on another connection shows that this one was accepted before.
    assert_eq!(code(&get(address, LIVENESS_PATH)), "200");
    let stopping = server.stop();
    let asking = async {
        tcp.write_all(b"host: worker\r\n\r\n").unwrap();
        read(&mut tcp)
    };
    let ((), answer) = tokio::join!(biased; stopping, asking);
    assert_eq!(code(&answer), "200");
    assert!(TcpStream::connect(address).is_err(), "the port is free");
}

#[tokio::test]
async fn dropped_server_stops() {
    let (worker, _) = worker().await;
    let server = server(&worker, ServerLimits::default());
    let (address, ended) = (server.address(), server.ended.clone());
    drop(server);
    ended.cancelled().await;
    assert!(TcpStream::connect(address).is_err());
}
