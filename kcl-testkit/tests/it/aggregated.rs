//! Aggregated records through the whole worker: unpacked, gone on inside of, and never dropped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_aggregation::Aggregator;
use kcl_core::WorkerHandle;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::metrics::BYTES_HELD;
use kcl_core::processor::{
    Decision, ErrorPolicy, Failure, FailureKind, Policy, ProcessorError, RecordBatch, RecordProcessor,
    Severity, ShardContext, StartFrom,
};
use kcl_core::settings::{Aggregation, ByteSize, CheckpointMode, Settings};
use kcl_core::status::{ConsumerState, HealthIssue};
use kcl_core::types::{HashKeyRange, Record};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use md5::{Digest as _, Md5};
use metrics::{Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use crate::workers;

const SECOND: Duration = Duration::from_secs(1);

type Seen = Arc<Mutex<Vec<String>>>;

/// Notes payloads, and checkpoints once through the configured one.
struct Notes {
    seen: Seen,
    stop_at: Option<String>,
}

#[async_trait]
impl RecordProcessor for Notes {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        for (index, record) in batch.iter().enumerate() {
            let payload = String::from_utf8_lossy(record.data()).into_owned();
            let is_last = self.stop_at.as_ref() == Some(&payload);
            self.seen.lock().unwrap().push(payload);
            if is_last {
                batch.checkpoint_through(index).await?;
                // The rest of the aggregate is neither noted nor finished.
                std::future::pending::<()>().await;
            }
        }
        batch.checkpoint().await?;
        Ok(())
    }
}

fn packed(payloads: &[&str]) -> bytes::Bytes {
    let mut aggregator = Aggregator::new();
    for payload in payloads {
        aggregator.add("truck", None, payload.as_bytes()).unwrap();
    }
    aggregator.finish().unwrap().data
}

/// An aggregate whose message makes no sense, in a sound envelope.
fn corrupt() -> Vec<u8> {
    let message = [0xff; 20];
    let envelope = [&[0xf3, 0x89, 0x9a, 0xc2], &message[..], &Md5::digest(message)];
    envelope.concat()
}

fn start(
    stream: &MemoryStream,
    leases: &MemoryLeaseStore,
    settings: Settings,
    notes: impl Fn() -> Notes + Send + Sync + 'static,
) -> WorkerHandle {
    workers::builder("aggregated")
        .worker_id("a")
        .stream(stream.clone())
        .lease_store(leases.clone())
        .processor(move |_: &ShardContext| notes())
        .settings({
            let mut settings = settings;
            settings.checkpoints.mode = CheckpointMode::Manual;
            settings
        })
        .clock(Arc::new(TokioClock::new()))
        .build()
        .unwrap()
        .start()
}

fn one_shard() -> (MemoryStream, MemoryLeaseStore) {
    let stream = MemoryStream::builder("trucks")
        .shards(1)
        .clock(Arc::new(TokioClock::new()))
        .build();
    (stream, MemoryLeaseStore::new())
}

#[tokio::test(start_paused = true)]
async fn the_next_owner_goes_on_inside_an_aggregate() {
    let (stream, leases) = one_shard();
    stream.put("truck", "first").unwrap();
    stream.put("truck", packed(&["a", "b", "c", "d"])).unwrap();
    stream.put("truck", "last").unwrap();
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let worker = start(&stream, &leases, Settings::default(), move || Notes {
        seen: Arc::clone(&noted),
        stop_at: Some("b".to_owned()),
    });
    TokioClock::new().sleep(5 * SECOND).await;
    worker.abort();
    worker.join().await.unwrap();
    assert_eq!(*seen.lock().unwrap(), ["first", "a", "b"]);

    let again = Seen::default();
    let noted = Arc::clone(&again);
    let worker = start(&stream, &leases, Settings::default(), move || Notes {
        seen: Arc::clone(&noted),
        stop_at: None,
    });
    TokioClock::new().sleep(30 * SECOND).await;
    assert_eq!(*again.lock().unwrap(), ["c", "d", "last"]);
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn corrupt_aggregate_holds_shard_until_raw_is_allowed() {
    let (stream, leases) = one_shard();
    stream.put("truck", "before").unwrap();
    stream.put("truck", corrupt()).unwrap();
    stream.put("truck", "after").unwrap();
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let worker = start(&stream, &leases, Settings::default(), move || Notes {
        seen: Arc::clone(&noted),
        stop_at: None,
    });
    TokioClock::new().sleep(300 * SECOND).await;
    assert_eq!(*seen.lock().unwrap(), ["before"]);
    let status = worker.status();
    let lease = status.leases.values().next().expect("the lease is kept");
    assert_eq!(lease.state, ConsumerState::Holding);
    assert!(lease.failures > 5, "{lease:?}");
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());

    let noted = Arc::clone(&seen);
    let mut raw = Settings::default();
    raw.reading.aggregation = Aggregation::Raw;
    let worker = start(&stream, &leases, raw, move || Notes {
        seen: Arc::clone(&noted),
        stop_at: None,
    });
    TokioClock::new().sleep(30 * SECOND).await;
    assert_eq!(seen.lock().unwrap().len(), 3);
    assert_eq!(seen.lock().unwrap().last().unwrap(), "after");
    worker.shutdown();
    worker.join().await.unwrap();
}

/// An aggregate of two user records, of which the first has this explicit hash key.
fn with_hash_key(hash_key: &[u8]) -> Vec<u8> {
    let keys = [table(1, b"truck"), table(2, hash_key)].concat();
    let records = [
        user_record(&[0x08, 0, 0x10, 0], "one"),
        user_record(&[0x08, 0], "two"),
    ];
    framed(&[keys, records.concat()].concat())
}

fn table(number: u8, key: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(key.len()).unwrap()], key].concat()
}

fn user_record(indexes: &[u8], data: &str) -> Vec<u8> {
    let data = table(3, data.as_bytes());
    table(3, &[indexes, &data].concat())
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0xf3, 0x89, 0x9a, 0xc2], message, &Md5::digest(message)].concat()
}

/// Returns what a worker delivers of a shard with this record between two others, and the status of the shard in the end.
async fn delivered(between: Vec<u8>) -> (Vec<String>, Option<HealthIssue>) {
    let (stream, leases) = one_shard();
    stream.put("truck", "before").unwrap();
    stream.put("truck", between).unwrap();
    stream.put("truck", "after").unwrap();
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let worker = start(&stream, &leases, Settings::default(), move || Notes {
        seen: Arc::clone(&noted),
        stop_at: None,
    });
    TokioClock::new().sleep(120 * SECOND).await;
    let concern = worker.status().leases.values().next().unwrap().concern;
    worker.abort();
    worker.join().await.unwrap();
    let seen = seen.lock().unwrap().clone();
    (seen, concern)
}

#[tokio::test(start_paused = true)]
async fn invalid_hash_keys_hold_no_shard() {
    let beyond = "340282366920938463463374607431768211456";
    for hash_key in ["7", "", "undefined", "null", beyond, "-1", "0xff", " 7", "1.7e38"] {
        let (seen, concern) = delivered(with_hash_key(hash_key.as_bytes())).await;
        assert_eq!(seen, ["before", "one", "two", "after"], "{hash_key:?}");
        assert_eq!(concern, None, "{hash_key:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn corrupt_aggregates_hold_shard_by_name() {
    let good = user_record(&[0x08, 0], "ok");
    let rows = [
        (
            "no hash key table",
            vec![
                table(1, b"t"),
                user_record(&[0x08, 0, 0x10, 0], "x"),
                good.clone(),
            ],
            vec!["before"],
        ),
        ("no partition key table", vec![good.clone()], vec!["before"]),
        (
            "a partition key index out of the table",
            vec![table(1, b"t"), good.clone(), user_record(&[0x08, 7], "x")],
            vec!["before", "ok"],
        ),
        (
            "no partition key index",
            vec![table(1, b"t"), user_record(&[], "x")],
            vec!["before"],
        ),
        (
            "no data",
            vec![table(1, b"t"), table(3, &[0x08, 0])],
            vec!["before"],
        ),
        (
            "cut off",
            vec![table(1, b"t"), vec![0x1a, 99, 0x08]],
            vec!["before"],
        ),
    ];
    for (what, message, expected) in rows {
        let (seen, concern) = delivered(framed(&message.concat())).await;
        assert_eq!(seen, expected, "{what}");
        assert_eq!(concern, Some(HealthIssue::Unreadable), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn switch_to_raw_drops_nothing_of_an_aggregate() {
    let payloads = ["a", "b", "c", "d"];
    // The checkpoint is inside of the aggregate, wherever that may be, or at its end.
    for (stop_at, whole_again) in [("a", true), ("b", true), ("c", true), ("d", false)] {
        let (stream, leases) = one_shard();
        stream.put("truck", "first").unwrap();
        stream.put("truck", packed(&payloads)).unwrap();
        stream.put("truck", "last").unwrap();
        let worker = start(&stream, &leases, Settings::default(), move || Notes {
            seen: Seen::default(),
            stop_at: Some(stop_at.to_owned()),
        });
        TokioClock::new().sleep(5 * SECOND).await;
        let before = worker.status().leases.values().next().unwrap().checkpoint.clone();
        worker.abort();
        worker.join().await.unwrap();

        let seen = Seen::default();
        let noted = Arc::clone(&seen);
        let mut raw = Settings::default();
        raw.reading.aggregation = Aggregation::Raw;
        let worker = start(&stream, &leases, raw, move || Notes {
            seen: Arc::clone(&noted),
            stop_at: None,
        });
        TokioClock::new().sleep(30 * SECOND).await;
        let aggregate = String::from_utf8_lossy(&packed(&payloads)).into_owned();
        let seen = seen.lock().unwrap().clone();
        match whole_again {
            true => assert_eq!(seen, [aggregate.as_str(), "last"], "{stop_at}"),
            false => assert_eq!(seen, ["last"], "{stop_at}"),
        }
        let after = worker.status().leases.values().next().unwrap().checkpoint.clone();
        assert!(before < after, "{before} {after}");
        worker.shutdown();
        assert!(worker.join().await.unwrap().is_clean());
    }
}

/// Fails at the last record of the first aggregate it is given, and says so by its place.
struct FailsAtLast;

#[async_trait]
impl RecordProcessor for FailsAtLast {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        let last = batch.last().unwrap();
        Err(ProcessorError::poison(std::io::Error::other("no")).at(last))
    }
}

/// Notes the failures it is asked about.
#[derive(Debug, Default, Clone)]
struct Asked(Arc<Mutex<Vec<AskedFailure>>>);

type AskedFailure = (Option<Record>, FailureKind);

impl ErrorPolicy for Asked {
    fn decide(&self, failure: &Failure<'_>) -> Decision {
        self.0
            .lock()
            .unwrap()
            .push((failure.record.cloned(), failure.kind));
        Policy::default().decide(failure)
    }
}

#[tokio::test(start_paused = true)]
async fn error_policy_is_given_the_record() {
    let cut_off = framed(&[table(1, b"t"), vec![0x1a, 99, 0x08]].concat());
    let unreadable = (cut_off.clone(), FailureKind::Unreadable, cut_off);
    let poison = FailureKind::Error(Severity::Poison);
    let failing = (packed(&["a", "b"]).to_vec(), poison, b"b".to_vec());
    for (data, kind, expected) in [unreadable, failing] {
        let (stream, leases) = one_shard();
        stream.put("truck", data).unwrap();
        let asked = Asked::default();
        let worker = workers::builder("aggregated")
            .stream(stream)
            .lease_store(leases)
            .processor(|_: &ShardContext| FailsAtLast)
            .error_policy(asked.clone())
            .clock(Arc::new(TokioClock::new()))
            .build()
            .unwrap()
            .start();
        TokioClock::new().sleep(10 * SECOND).await;
        worker.abort();
        worker.join().await.unwrap();
        let failures = asked.0.lock().unwrap().clone();
        assert!(failures.len() > 2, "{kind:?}");
        for (record, seen) in failures {
            let record = record.expect("the record is at hand");
            assert_eq!(seen, kind);
            assert_eq!(&record.data()[..], expected);
        }
    }
}

/// Notes which hash keys its shard receives.
struct NotesRange(Arc<Mutex<Vec<Option<HashKeyRange>>>>);

#[async_trait]
impl RecordProcessor for NotesRange {
    async fn initialize(&mut self, shard: &ShardContext) -> Result<StartFrom, ProcessorError> {
        self.0.lock().unwrap().push(shard.hash_range());
        Ok(StartFrom::Checkpoint)
    }

    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn processors_know_hash_range_of_shard() {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(2)
        .clock(Arc::new(clock))
        .build();
    let shards = stream.shards_snapshot();
    let mut expected: Vec<_> = shards.iter().map(|shard| shard.shard.hash_range).collect();
    expected.sort_by_key(HashKeyRange::start);
    let noted = Arc::<Mutex<Vec<_>>>::default();
    let notes = Arc::clone(&noted);
    let worker = workers::builder("aggregated")
        .stream(stream)
        .lease_store(MemoryLeaseStore::new())
        .processor(move |_: &ShardContext| NotesRange(Arc::clone(&notes)))
        .clock(Arc::new(clock))
        .build()
        .unwrap()
        .start();
    clock.sleep(10 * SECOND).await;
    let mut noted: Vec<_> = noted.lock().unwrap().iter().flatten().copied().collect();
    noted.sort_by_key(HashKeyRange::start);
    assert_eq!(noted, expected);
    worker.abort();
    worker.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn aggregate_larger_than_memory_comes_in_parts() {
    // Ten MB in Kinesis, and a hundred and fifty as records, where there is room for 32.
    let payloads: Vec<_> = (0..900_000).map(|n| format!("{n:06}")).collect();
    let packed = {
        let mut aggregator = Aggregator::with_limit(usize::MAX);
        for payload in &payloads {
            aggregator.add("t", None, payload.as_bytes()).unwrap();
        }
        aggregator.finish().unwrap().data
    };
    let (stream, leases) = one_shard();
    stream.put("truck", "before").unwrap();
    assert!((9 << 20..16 << 20).contains(&packed.len()), "{}", packed.len());
    stream.put("truck", packed).unwrap();
    stream.put("truck", "after").unwrap();
    let seen = Seen::default();
    let (noted, held) = (Arc::clone(&seen), Highest::default());
    let worker = workers::builder("aggregated")
        .stream(stream)
        .lease_store(leases)
        .processor(move |_: &ShardContext| Notes {
            seen: Arc::clone(&noted),
            stop_at: None,
        })
        .settings({
            let mut settings = Settings::default();
            settings.memory.budget = ByteSize::mib(32);
            settings
        })
        .metrics_recorder(Arc::new(held.clone()))
        .clock(Arc::new(TokioClock::new()))
        .build()
        .unwrap()
        .start();
    TokioClock::new().sleep(600 * SECOND).await;
    let expected = ["before".to_owned()].into_iter().chain(payloads);
    let expected: Vec<_> = expected.chain(["after".to_owned()]).collect();
    assert!(*seen.lock().unwrap() == expected, "each comes once and in order");
    let most = held.0.load(Ordering::Relaxed);
    assert!(most <= 32 * 1024 * 1024, "{most} bytes were held");
    worker.shutdown();
    assert!(worker.join().await.unwrap().is_clean());
}

/// The most bytes of the budget that were ever held.
#[derive(Default, Clone)]
struct Highest(Arc<AtomicU64>);

impl GaugeFn for Highest {
    fn increment(&self, _: f64) {}
    fn decrement(&self, _: f64) {}
    fn set(&self, value: f64) {
        self.0.fetch_max(value as u64, Ordering::Relaxed);
    }
}

impl Recorder for Highest {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match key.name() {
            BYTES_HELD => Gauge::from_arc(Arc::new(self.clone())),
            _ => Gauge::noop(),
        }
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
