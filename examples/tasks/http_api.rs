//! Calls an HTTP API for each record, 64 keys at a time, in order for each key.
//!
//! `cargo run -p kcl-examples --example http_api` calls one on this machine, in which a call takes 50 ms.

#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kcl_examples::local_api::LocalApi;
use kinesis_client::bytes::Bytes;
use kinesis_client::clock::{Clock as _, ClockExt as _, TokioClock};
use kinesis_client::dead_letter::DeadLetterFiles;
use kinesis_client::processor::{LastResort, Policy, Retries};
use kinesis_client::{
    Concurrency, MemoryLeaseStore, MemoryStream, ProcessorError, Record, RecordHandler, ShardContext, Worker,
    WorkerHandle,
};
use tokio::sync::Semaphore;

/// The calls that one shard makes at once, each for another key.
const KEYS: usize = 64;
/// The calls that the worker makes at once, for all its shards. It keeps as many connections.
const CALLS: usize = 100;
/// The longest time that a call may take, its connection included.
const DEADLINE: Duration = Duration::from_secs(2);
/// No answer is longer.
const LARGEST_ANSWER: usize = 64 * 1024;

/// The API, with the connections that all shards share.
#[derive(Clone)]
struct OrderApi {
    url: String,
    http: Client<HttpConnector, Full<Bytes>>,
    places: Arc<Semaphore>,
    clock: TokioClock,
}

impl OrderApi {
    fn new(url: &str) -> Self {
        let http = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(CALLS)
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_timer(TokioTimer::new())
            .build_http();
        Self {
            url: url.to_owned(),
            http,
            places: Arc::new(Semaphore::new(CALLS)),
            clock: TokioClock::new(),
        }
    }

    async fn call(&self, record: &Record, shard: &ShardContext) -> Result<(), ProcessorError> {
        // A record may come again: its position is the same then, so that the API recognizes it.
        let name = format!("{}/{}/{}", shard.stream(), shard.shard(), record.position());
        let request = Request::post(&self.url)
            .header("idempotency-key", name)
            .header("x-key", record.partition_key().unwrap_or_default().as_bytes())
            .body(Full::new(record.data().clone()))
            .map_err(ProcessorError::poison)?;
        let answer = self
            .http
            .request(request)
            .await
            .map_err(ProcessorError::transient)?;
        let status = answer.status();
        // The connection is free for the next call once the answer is read.
        let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
        body.map_err(ProcessorError::transient)?;
        match status {
            _ if status.is_success() => Ok(()),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Err(ProcessorError::transient(format!("the API is busy: {status}")))
            }
            _ if status.is_client_error() => Err(ProcessorError::poison(format!(
                "the API refuses the order: {status}"
            ))),
            _ => Err(ProcessorError::transient(format!("the API fails: {status}"))),
        }
    }
}

impl RecordHandler for OrderApi {
    async fn handle(&self, record: &Record, shard: &ShardContext) -> Result<(), ProcessorError> {
        let _place = self.places.acquire().await?;
        let call = self.clock.timeout(DEADLINE, self.call(record, shard));
        call.await.map_err(ProcessorError::transient)?
    }
}

/// Calls again for as long as the API fails or does not answer, and sets aside what it refuses.
fn policy() -> Policy {
    let retries = Retries::forever().pausing(Duration::from_millis(100), Duration::from_secs(10));
    Policy::new(LastResort::DeadLetter)
        .transient(retries, LastResort::Hold)
        .poison(Retries::none(), LastResort::DeadLetter)
}

fn start(stream: &MemoryStream, url: &str, letters: DeadLetterFiles) -> Result<WorkerHandle, Box<dyn Error>> {
    let api = OrderApi::new(url);
    let worker = Worker::builder("orders")
        .stream(stream.clone())
        .lease_store(MemoryLeaseStore::new())
        .error_policy(policy())
        .dead_letters(letters)
        .handler(Concurrency::PerKey(KEYS), move |_: &ShardContext| api.clone())
        .build()?;
    Ok(worker.start())
}

/// Waits until so many records are handled or set aside, and stops the worker.
async fn finish(worker: WorkerHandle, records: u64) -> Result<(), Box<dyn Error>> {
    worker
        .wait_for(|status| {
            let leases = status.leases.values();
            leases
                .map(|lease| lease.records + lease.dead_letters)
                .sum::<u64>()
                == records
        })
        .await;
    worker.shutdown();
    worker.join().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let api = LocalApi::start(|_, _| Some(StatusCode::OK)).await?;
    let folder = std::env::temp_dir().join(format!("http-api-{}", std::process::id()));
    let stream = MemoryStream::builder("orders").shards(1).build();
    for number in 0..6400 {
        stream.put(format!("customer-{}", number % 640), format!("order {number}"))?;
    }
    let clock = TokioClock::new();
    let begun = clock.now();
    let worker = start(&stream, api.url(), DeadLetterFiles::open(&folder)?)?;
    finish(worker, 6400).await?;
    let took = clock.now().saturating_since(begun);
    println!("6400 calls of 50 ms each in {took:.1?}: one after the other they take 320 s");
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kinesis_client::dead_letter::read_folder;

    use super::*;

    const ROUNDS: u32 = 6;
    const CUSTOMERS: u32 = 300;

    /// Refuses every order number 2 of a customer with a 7, fails once for each number 3, and leaves one call without an answer.
    fn answers(body: &str, before: usize) -> Option<StatusCode> {
        let (customer, number) = body.split_once(' ').unwrap();
        match number {
            "1" if customer == "customer-5" && before == 0 => None,
            "2" if customer.ends_with('7') => Some(StatusCode::UNPROCESSABLE_ENTITY),
            "3" if before == 0 => Some(StatusCode::SERVICE_UNAVAILABLE),
            _ => Some(StatusCode::OK),
        }
    }

    #[tokio::test]
    async fn each_customer_is_called_in_order() {
        let api = LocalApi::start(answers).await.unwrap();
        let folder = std::env::temp_dir().join(format!("http-api-test-{}", std::process::id()));
        let stream = MemoryStream::builder("orders").shards(2).build();
        let customers = || (0..CUSTOMERS).map(|number| format!("customer-{number}"));
        for number in 0..ROUNDS {
            for customer in customers() {
                stream
                    .put(customer.as_str(), format!("{customer} {number}"))
                    .unwrap();
            }
        }
        let worker = start(&stream, api.url(), DeadLetterFiles::open(&folder).unwrap()).unwrap();
        finish(worker, u64::from(ROUNDS * CUSTOMERS)).await.unwrap();

        let (mut refused, mut expected) = (BTreeSet::new(), Vec::new());
        for customer in customers() {
            let bodies = (0..ROUNDS).map(|number| format!("{customer} {number}"));
            let (out, done): (Vec<_>, Vec<_>) =
                bodies.partition(|body| answers(body, 9) == Some(StatusCode::UNPROCESSABLE_ENTITY));
            refused.extend(out);
            expected.push((customer, done));
        }
        let log = api.log();
        assert_eq!(log.done, expected.into_iter().collect());
        assert_eq!(log.overlaps, 0, "one call of a customer at a time");
        assert!(
            (KEYS / 2..=CALLS).contains(&log.most_calls),
            "{} calls at once by two shards",
            log.most_calls
        );
        assert!(log.most_connections <= 2 * CALLS, "{}", log.most_connections);
        let letters = read_folder(&folder).unwrap();
        let letters = letters
            .iter()
            .map(|line| String::from_utf8_lossy(line.letter.record.data()).into_owned());
        assert_eq!(letters.collect::<BTreeSet<_>>(), refused);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
