//! Calls that fail: what the policy is shown of each, and that its decisions are carried out whichever call it was.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::dead_letter::{DeadLetter, DeadLetterError, DeadLetterSink};
use kcl_core::processor::{
    Decision, ErrorPolicy, FailedCall, Failure, FencingToken, LastResort, Policy, ProcessorError,
    RecordBatch, RecordProcessor, Retries, ShardContext, StartFrom,
};
use kcl_core::{FlowScope, WorkerBuilder, WorkerHandle};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};

use crate::workers;

const SECOND: Duration = Duration::from_secs(1);

/// The calls that fail now, by what a test switches on.
#[derive(Clone, Default)]
struct Switches {
    initialize: Arc<AtomicU32>,
    tick: Arc<AtomicU32>,
    records: Arc<AtomicU32>,
    panics: Arc<AtomicU32>,
    processed: Arc<AtomicU32>,
    calls: Arc<AtomicU32>,
    tokens: Arc<Mutex<Vec<FencingToken>>>,
}

impl Switches {
    async fn until_processed(&self) {
        while self.processed.load(Ordering::SeqCst) == 0 {
            TokioClock::new().sleep(SECOND).await;
        }
    }
}

/// Counts one of so many failures that are left.
fn fails(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
        .is_ok()
}

struct Switched(Switches);

#[async_trait]
impl RecordProcessor for Switched {
    async fn initialize(&mut self, shard: &ShardContext) -> Result<StartFrom, ProcessorError> {
        self.0.tokens.lock().unwrap().push(shard.fencing_token());
        match fails(&self.0.initialize) {
            true => Err("no database".into()),
            false => Ok(StartFrom::Checkpoint),
        }
    }

    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        if fails(&self.0.panics) {
            panic!("no truck");
        }
        if fails(&self.0.records) {
            return Err(ProcessorError::transient("no sink").at(&batch[0]));
        }
        let count = u32::try_from(batch.len()).unwrap();
        self.0.processed.fetch_add(count, Ordering::SeqCst);
        Ok(())
    }

    async fn tick(&mut self, _: &ShardContext) -> Result<(), ProcessorError> {
        match fails(&self.0.tick) {
            true => Err("no clock".into()),
            false => Ok(()),
        }
    }
}

/// Notes what it is asked, and passes the question on.
#[derive(Debug)]
struct Noting {
    policy: Policy,
    asked: Asked,
}

type Asked = Arc<Mutex<Vec<(FailedCall, u32, Duration)>>>;

impl ErrorPolicy for Noting {
    fn decide(&self, failure: &Failure<'_>) -> Decision {
        let asked = (failure.call, failure.attempt, failure.since_first);
        self.asked.lock().unwrap().push(asked);
        self.policy.decide(failure)
    }
}

fn builder(stream: &MemoryStream, switches: &Switches) -> WorkerBuilder {
    let switches = switches.clone();
    workers::builder("trucks")
        .worker_id("a")
        .stream(stream.clone())
        .lease_store(MemoryLeaseStore::new())
        .processor(move |_: &ShardContext| Switched(switches.clone()))
        .clock(Arc::new(TokioClock::new()))
}

fn start(stream: &MemoryStream, switches: &Switches, policy: impl ErrorPolicy) -> WorkerHandle {
    builder(stream, switches)
        .error_policy(policy)
        .build()
        .unwrap()
        .start()
}

fn stream() -> MemoryStream {
    MemoryStream::builder("trucks")
        .shards(1)
        .clock(Arc::new(TokioClock::new()))
        .build()
}

async fn stop(worker: WorkerHandle) {
    worker.abort();
    worker.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn failure_of_tick_begins_at_one() {
    let (clock, stream, switches, asked) =
        (TokioClock::new(), stream(), Switches::default(), Asked::default());
    let policy = Noting {
        policy: Policy::default(),
        asked: Arc::clone(&asked),
    };
    let worker = start(&stream, &switches, policy);
    clock.sleep(3600 * SECOND).await;
    switches.records.store(7, Ordering::SeqCst);
    stream.put("truck", "position").unwrap();
    switches.until_processed().await;
    switches.tick.store(2, Ordering::SeqCst);
    clock.sleep(30 * SECOND).await;
    switches.tick.store(1, Ordering::SeqCst);
    clock.sleep(30 * SECOND).await;
    stop(worker).await;
    let asked = asked.lock().unwrap();
    let ticks: Vec<_> = asked
        .iter()
        .filter(|(call, ..)| *call == FailedCall::Tick)
        .collect();
    assert_eq!(
        ticks.iter().map(|(_, attempt, _)| *attempt).collect::<Vec<_>>(),
        [1, 2, 1]
    );
    assert!(ticks.iter().all(|(.., since)| *since < 10 * SECOND), "{ticks:?}");
}

#[tokio::test(start_paused = true)]
async fn release_ends_ownership_that_cannot_begin() {
    let (clock, stream, switches) = (TokioClock::new(), stream(), Switches::default());
    switches.initialize.store(3, Ordering::SeqCst);
    let policy = Policy::default().unspecified(Retries::none(), LastResort::Release);
    let worker = start(&stream, &switches, policy);
    stream.put("truck", "position").unwrap();
    switches.until_processed().await;
    let begun = switches.tokens.lock().unwrap().len();
    assert_eq!(begun, 4);
    let tokens = switches.tokens.lock().unwrap().clone();
    assert!(
        tokens.windows(2).all(|pair| pair[0] < pair[1]),
        "each in an ownership of its own: {tokens:?}"
    );
    // A later retry is a retry.
    switches.records.store(3, Ordering::SeqCst);
    stream.put("truck", "position").unwrap();
    clock.sleep(60 * SECOND).await;
    assert_eq!(switches.tokens.lock().unwrap().len(), begun);
    stop(worker).await;
}

#[tokio::test(start_paused = true)]
async fn outage_uses_up_no_retries_of_record() {
    let (clock, stream, switches) = (TokioClock::new(), stream(), Switches::default());
    let letters = kcl_testkit::MemoryDeadLetters::default();
    switches.records.store(30, Ordering::SeqCst);
    let worker = builder(&stream, &switches)
        .error_policy(Policy::new(LastResort::DeadLetter))
        .dead_letters(letters.clone())
        .build()
        .unwrap()
        .start();
    stream.put("truck", "position").unwrap();
    while switches.records.load(Ordering::SeqCst) > 0 {
        clock.sleep(SECOND).await;
    }
    switches.panics.store(2, Ordering::SeqCst);
    switches.until_processed().await;
    assert_eq!(letters.letters(), []);
    stop(worker).await;
}

#[tokio::test(start_paused = true)]
async fn resuming_ends_hold() {
    let (clock, stream, switches) = (TokioClock::new(), stream(), Switches::default());
    switches.records.store(2, Ordering::SeqCst);
    let policy = Policy::default().transient(Retries::none(), LastResort::Hold);
    let worker = start(&stream, &switches, policy);
    stream.put("truck", "position").unwrap();
    for tries in [1, 2, 3] {
        clock.sleep(3600 * SECOND).await;
        assert_eq!(switches.calls.load(Ordering::SeqCst), tries);
        worker.flow().resume(FlowScope::Stream("trucks".to_owned()));
    }
    clock.sleep(SECOND).await;
    assert_eq!(switches.processed.load(Ordering::SeqCst), 1);
    let lease = worker.status().leases.into_values().next().unwrap();
    assert_eq!((lease.failing, lease.failures), (None, 0));
    stop(worker).await;
}

/// Panics before its future is there, twice, and then takes what comes.
#[derive(Debug)]
struct Bomb(AtomicU32, Mutex<Vec<DeadLetter>>);

impl DeadLetterSink for Bomb {
    fn send<'a, 'b, 'c>(
        &'a self,
        letter: &'b DeadLetter,
    ) -> Pin<Box<dyn Future<Output = Result<(), DeadLetterError>> + Send + 'c>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        assert!(!fails(&self.0), "no sink");
        self.1.lock().unwrap().push(letter.clone());
        Box::pin(std::future::ready(Ok(())))
    }
}

#[tokio::test(start_paused = true)]
async fn sink_that_panics_is_asked_again() {
    let (stream, switches) = (stream(), Switches::default());
    switches.records.store(1, Ordering::SeqCst);
    let sink = Arc::new(Bomb(AtomicU32::new(2), Mutex::default()));
    let policy = Policy::new(LastResort::DeadLetter).transient(Retries::none(), LastResort::DeadLetter);
    let worker = builder(&stream, &switches)
        .error_policy(policy)
        .dead_letters(Arc::clone(&sink))
        .build()
        .unwrap()
        .start();
    stream.put("truck", "set aside").unwrap();
    stream.put("truck", "processed").unwrap();
    switches.until_processed().await;
    assert_eq!(sink.1.lock().unwrap().len(), 1);
    stop(worker).await;
}
