//! A worker counts what it sees of itself that must never be, in production too.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::Worker;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::internals::{Failpoint, failpoint};
use kcl_core::metrics::INVARIANT_VIOLATIONS;
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use kcl_testkit::faults::{FaultyLeaseStore, Link, StoreFaults};
use kcl_testkit::faulty_stream::{FaultyStream, StreamCall, StreamFault, StreamFaultRule};
use kcl_testkit::invariant::Invariant;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// How often each invariant was seen to be broken, by its id.
#[derive(Default)]
struct Violations(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Recorder for Violations {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let id = key.labels().find(|label| label.key() == "invariant");
        match id.filter(|_| key.name() == INVARIANT_VIOLATIONS) {
            Some(id) => {
                let mut counters = self.0.lock().unwrap();
                Counter::from_arc(Arc::clone(counters.entry(id.value().to_owned()).or_default()))
            }
            None => Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

struct Nothing;

#[async_trait]
impl RecordProcessor for Nothing {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }
}

/// Two minutes of a worker whose shard is split, which does not reach its lease store for half a minute, and whose source panics once.
/// Gives the invariants that it has seen broken.
fn two_minutes() -> Vec<&'static str> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(async {
        let clock = TokioClock::new();
        let (stream, faults) = (
            MemoryStream::builder("trucks").shards(2).build(),
            StoreFaults::new(),
        );
        let source = FaultyStream::new(stream.clone(), Arc::new(clock));
        let reading = source.faults().clone();
        let store = FaultyLeaseStore::new(Arc::new(MemoryLeaseStore::new()), Arc::new(clock));
        let violations = Arc::new(Violations::default());
        let worker = Worker::builder("trucks")
            .stream(source)
            .lease_store(store.with_faults(faults.clone()))
            .processor(|_: &ShardContext| Nothing)
            .metrics_recorder(Arc::clone(&violations) as Arc<dyn Recorder + Send + Sync>)
            .build();
        let worker = worker.unwrap().start();
        for second in 0..120 {
            match second {
                10 => drop(stream.split(&"shardId-000000000000".parse().unwrap()).unwrap()),
                20 => faults.set_link(Link::Refusing),
                50 => faults.set_link(Link::Up),
                // Whatever read the shard is replaced by another that goes on.
                60 => reading.add(StreamFaultRule::next(1, StreamCall::Next, StreamFault::Panic)),
                _ => {}
            }
            for truck in 0..10 {
                stream.put(format!("truck-{truck}"), "here").unwrap();
            }
            clock.sleep(Duration::from_secs(1)).await;
        }
        drop(worker);
        let seen = violations.0.lock().unwrap();
        let ids = Invariant::ALL.map(Invariant::id).into_iter();
        // A violation has a series once there is one.
        let count = |id: &&str| seen.get(*id).map_or(0, |count| count.load(Ordering::Relaxed));
        ids.filter(|id| count(id) > 0).collect()
    })
}

#[test]
fn a_worker_without_a_bug_sees_nothing() {
    assert_eq!(two_minutes(), Vec::<&str>::new());
}

#[test]
fn worker_sees_what_bug_of_its_own_breaks() {
    let seen = |bug| failpoint::with(bug, two_minutes);
    assert!(seen(Failpoint::RenewalWithoutCount).contains(&Invariant::TokenRises.id()));
    assert!(seen(Failpoint::DeadlineIgnored).contains(&Invariant::NoStartAfterDeadline.id()));
    assert!(seen(Failpoint::ResumeAtCheckpoint).contains(&Invariant::InOrder.id()));
    assert!(seen(Failpoint::ForgottenChild).contains(&Invariant::LineageComplete.id()));
}
