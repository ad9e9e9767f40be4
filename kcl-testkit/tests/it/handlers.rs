//! Handlers: what is called at once, in which order, and what becomes of a record that fails while others go on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kcl_core::FlowScope;
use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::processor::{
    Concurrency, LastResort, Policy, ProcessorError, RecordHandler, RecordHandlers, RecordProcessorFactory,
    Retries, ShardContext, handed_on,
};
use kcl_core::settings::Settings;
use kcl_core::status::WorkerStatus;
use kcl_core::types::Record;
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use kcl_testkit::faulty_stream::{StreamCall, StreamFault, StreamFaultRule};
use kcl_testkit::fleet::{Member, Simulation, View};
use kcl_testkit::{BenchCall, ProcessorBench};
use tokio::sync::Semaphore;

use crate::workers;

const SECOND: Duration = Duration::from_secs(1);

/// The state that the handlers of a test share.
#[derive(Default)]
struct Api {
    running: AtomicUsize,
    most: AtomicUsize,
    /// The payloads in the order in which their calls returned, by key.
    handled: Mutex<BTreeMap<String, Vec<String>>>,
    /// The payloads that fail, and whether they are mended.
    broken: Mutex<Option<&'static str>>,
}

impl Api {
    fn break_for(&self, payload: Option<&'static str>) {
        *self.broken.lock().unwrap() = payload;
    }

    fn handled(&self, key: &str) -> Vec<String> {
        self.handled.lock().unwrap().get(key).cloned().unwrap_or_default()
    }

    fn count(&self) -> usize {
        self.handled.lock().unwrap().values().map(Vec::len).sum()
    }
}

/// Calls the API, which takes 50 ms.
struct Caller(Arc<Api>);

impl RecordHandler for Caller {
    async fn handle(&self, record: &Record, _: &ShardContext) -> Result<(), ProcessorError> {
        let running = self.0.running.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.most.fetch_max(running, Ordering::Relaxed);
        TokioClock::new().sleep(Duration::from_millis(50)).await;
        self.0.running.fetch_sub(1, Ordering::Relaxed);
        let text = std::str::from_utf8(record.data())?;
        if *self.0.broken.lock().unwrap() == Some(text) {
            return match text {
                "panic" => std::panic::resume_unwind(Box::new("a bug")),
                _ => Err(ProcessorError::poison("no such truck")),
            };
        }
        let key = record.partition_key().unwrap_or_default().to_owned();
        let mut handled = self.0.handled.lock().unwrap();
        handled.entry(key).or_default().push(text.to_owned());
        Ok(())
    }
}

fn bench(api: &Arc<Api>, concurrency: Concurrency) -> kcl_testkit::BenchBuilder {
    let api = Arc::clone(api);
    ProcessorBench::of(RecordHandlers::new(concurrency, move |_: &ShardContext| {
        Caller(Arc::clone(&api))
    }))
}

fn parked(status: &WorkerStatus) -> u64 {
    status.leases.values().map(|lease| lease.parked).sum()
}

#[test]
fn as_many_calls_run_as_asked_for() {
    for (concurrency, most, seconds) in [
        (Concurrency::Ordered, 1, 32.0),
        (Concurrency::PerKey(64), 64, 0.5),
        (Concurrency::PerKey(1000), 320, 0.1),
        (Concurrency::Unordered(1000), 640, 0.05),
    ] {
        let api = Arc::new(Api::default());
        let mut bench = bench(&api, concurrency).start();
        // The shard is found and opened.
        bench.put("first", "0");
        bench.until_finished();
        for n in 0..640 {
            bench.put(&format!("truck-{}", n % 320), n.to_string());
        }
        let begun = bench.status().at;
        bench.wait_for(|_| api.count() == 641);
        let took = bench.status().at.saturating_since(begun).as_secs_f64();
        assert_eq!(api.most.load(Ordering::Relaxed), most, "{concurrency:?}");
        assert!(
            (seconds..seconds + 2.5).contains(&took),
            "{concurrency:?}: {took} s"
        );
        bench.until_finished();
        if !matches!(concurrency, Concurrency::Unordered(_)) {
            assert_eq!(api.handled("truck-7"), ["7", "327"]);
        }
    }
}

#[test]
fn failing_record_parks_its_key_alone() {
    let api = Arc::new(Api::default());
    let mut bench = bench(&api, Concurrency::PerKey(8)).start();
    api.break_for(Some("bad"));
    for payload in ["good", "bad", "later"] {
        bench.put("truck-1", payload);
    }
    for n in 0..500 {
        bench.put(&format!("truck-{}", 2 + n % 50), n.to_string());
    }
    bench.wait_for(|_| api.count() == 501);
    let status = bench.wait_for(|status| parked(status) == 1);
    let lease = status.leases.values().next().unwrap();
    assert_eq!(lease.failing.as_ref(), Some(&bench.put_records()[1].1));
    assert!(lease.failures > 0, "{lease:?}");
    assert_eq!(
        bench.finished().len(),
        1,
        "the stored position waits for the record"
    );
    api.break_for(None);
    bench.until_finished();
    assert_eq!(api.handled("truck-1"), ["good", "bad", "later"]);
    assert_eq!(parked(&bench.status()), 0);
}

#[test]
fn dead_letter_lets_key_go_on() {
    for payload in ["bad", "panic"] {
        let api = Arc::new(Api::default());
        api.break_for(Some(payload));
        let mut bench = bench(&api, Concurrency::PerKey(8))
            .error_policy(
                Policy::new(LastResort::DeadLetter)
                    .unspecified(kcl_core::processor::Retries::at_most(2), LastResort::DeadLetter),
            )
            .start();
        bench.dead_letters().fail_next(3);
        for payload in ["good", payload, "later"] {
            bench.put("truck-1", payload);
        }
        bench.put("truck-2", "other");
        bench.until_finished();
        let letters = bench.dead_letters().letters();
        assert_eq!(letters.len(), 1);
        assert_eq!(
            (letters[0].call.as_str(), letters[0].panicked),
            ("handle", payload == "panic")
        );
        assert_eq!(letters[0].record.data(), payload);
        let status = bench.status();
        let lease = status.leases.values().next().unwrap();
        assert_eq!((lease.records, lease.dead_letters), (3, 1));
        assert_eq!(api.handled("truck-1"), ["good", "later"]);
        assert_eq!(api.handled("truck-2"), ["other"]);
    }
}

#[test]
fn handover_waits_for_calls_that_run() {
    let api = Arc::new(Api::default());
    let mut bench = bench(&api, Concurrency::PerKey(64)).start();
    for n in 0..6400 {
        bench.put(&format!("truck-{}", n % 100), n.to_string());
    }
    bench.run(2 * SECOND);
    bench.hand_over();
    bench.until_finished();
    let handled: Vec<_> = bench
        .calls()
        .into_iter()
        .filter(|call| call.method == "handle")
        .collect();
    let by_first = |call: &&BenchCall| call.token.as_u64() == handled[0].token.as_u64();
    let first = handled.iter().filter(by_first).count();
    assert!((100..6400).contains(&first), "{first} by the first worker");
    assert!(handled.iter().all(|call| call.error.is_none()));
    for n in 0..100 {
        let in_order: Vec<_> = (0..64).map(|round| (round * 100 + n).to_string()).collect();
        let mut seen = api.handled(&format!("truck-{n}"));
        seen.dedup();
        assert_eq!(seen, in_order);
    }
}

#[test]
fn handed_on_record_waits_for_its_acknowledgement() {
    let (handler, mut records) = handed_on(10);
    let handlers = RecordHandlers::new(Concurrency::PerKey(10), move |_: &ShardContext| handler.clone());
    let mut bench = ProcessorBench::of(handlers).start();
    for (key, payload) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")] {
        bench.put(key, payload);
    }
    let mut taken = Vec::new();
    while taken.len() < 3 {
        taken.extend(bench.block_on(records.next_many(10)));
    }
    let payloads: Vec<_> = taken.iter().map(|record| record.data().clone()).collect();
    assert_eq!(payloads, ["1", "2", "4"], "one of each key");
    // They are acknowledged in any order.
    let decoded = taken.pop().unwrap().map(|record| record.data().len());
    assert_eq!(*decoded, 1);
    decoded.ack().unwrap();
    drop(taken.pop().unwrap());
    taken.pop().unwrap().ack().unwrap();
    let status = bench.wait_for(|status| parked(status) == 1);
    assert_eq!(status.leases.values().next().unwrap().failures, 1);
    let next = bench.block_on(records.next()).unwrap();
    assert_eq!(next.data(), "3");
    next.fail("not yet").unwrap();
    let again = bench.block_on(records.next_many(2));
    bench.run(SECOND);
    let mut again: Vec<_> = again
        .into_iter()
        .chain(bench.block_on(records.next_many(2)))
        .collect();
    again.sort_by_key(|record| record.data().clone());
    for record in again {
        record.ack().unwrap();
    }
    bench.until_finished();
}

#[test]
fn acknowledgement_after_handover_is_refused() {
    let (handler, mut records) = handed_on(10);
    let handlers = RecordHandlers::new(Concurrency::Unordered(10), move |_: &ShardContext| {
        handler.clone()
    });
    let mut settings = Settings::default();
    settings.leases.failover_time = 4 * SECOND;
    settings.shutdown.drain_timeout = 5 * SECOND;
    let mut bench = ProcessorBench::of(handlers).settings(settings).start();
    bench.put("a", "1");
    let held = bench.block_on(records.next()).unwrap();
    bench.hand_over();
    let again = bench.block_on(records.next()).unwrap();
    assert!(held.ack().is_err());
    assert!(again.shard().fencing_token() > kcl_core::processor::FencingToken::new(1));
    again.ack().unwrap();
    bench.until_finished();
}

/// Waits for the gate at each record whose key begins with "slow", fails for the key "bad", and once for the key "once".
struct Gated {
    gate: Arc<Semaphore>,
    has_failed: AtomicBool,
}

impl RecordHandler for Gated {
    async fn handle(&self, record: &Record, _: &ShardContext) -> Result<(), ProcessorError> {
        match record.partition_key() {
            Some(key) if key.starts_with("slow") => {
                self.gate.acquire().await.map(|permit| permit.forget())?
            }
            Some("bad") => return Err("no such truck".into()),
            Some("once") if !self.has_failed.swap(true, Ordering::Relaxed) => {
                return Err(ProcessorError::transient("not yet"));
            }
            Some(_) | None => {}
        }
        Ok(())
    }
}

fn gated(gate: &Arc<Semaphore>) -> impl RecordProcessorFactory + use<> {
    let gate = Arc::clone(gate);
    RecordHandlers::new(Concurrency::PerKey(64), move |_: &ShardContext| Gated {
        gate: Arc::clone(&gate),
        has_failed: AtomicBool::new(false),
    })
}

#[test]
fn hanging_source_is_opened_again_beside_call() {
    Simulation::new(5).shards(1).run(async |fleet| {
        let gate = Arc::new(Semaphore::new(0));
        fleet.start(Member::named("a").processor(gated(&gate)));
        fleet.put_record("slow", "1");
        fleet.sleep(5 * SECOND).await;
        let source = fleet.source_faults("a");
        let opened = source.calls(StreamCall::Open);
        source.add(StreamFaultRule::next(1, StreamCall::Next, StreamFault::Hang));
        fleet.sleep(SECOND).await;
        for n in 0..20 {
            fleet.put_record(&format!("truck-{n}"), "2");
        }
        let patience = fleet.settings().reading.stall_timeout + 10 * SECOND;
        let others = "the others are handled";
        fleet
            .wait_until(others, patience, |view| view.tally().finished == 20)
            .await;
        assert_eq!(source.calls(StreamCall::Open), opened + 1);
        gate.add_permits(1);
        fleet.settle().await;
        assert_eq!(fleet.view().tally().redelivered, 0);
    });
}

#[test]
fn handoff_is_declined_while_call_runs() {
    Simulation::new(1)
        .shards(4)
        .trace_lines(50_000)
        .run(async |fleet| {
            let mut settings = fleet.settings();
            settings.leases.handoff_timeout = 2 * SECOND;
            let gate = Arc::new(Semaphore::new(0));
            fleet.start(
                Member::named("a")
                    .settings(settings.clone())
                    .processor(gated(&gate)),
            );
            for n in 0..40 {
                fleet.put_record(&format!("slow-{n}"), "1");
            }
            // Longer than the interval of ticks.
            fleet.sleep(10 * SECOND).await;
            let before = fleet.view().tokens("a");
            assert_eq!(before.len(), 4);
            fleet.start(Member::named("b").settings(settings).processor(gated(&gate)));
            fleet.sleep(12 * SECOND).await;
            assert_eq!(
                fleet.view().tokens("a"),
                before,
                "nothing moved while the calls ran"
            );
            let declined = |line: &String| line.contains("cancel_handoff");
            assert!(fleet.trace().iter().any(declined), "no handoff was declined");
            // Other keys go on meanwhile.
            fleet.put(50);
            let goes_on = |view: &View<'_>| view.tally().finished == 50;
            fleet.wait_until("others go on", 10 * SECOND, goes_on).await;
            gate.add_permits(40);
            fleet.settle().await;
            assert_eq!(fleet.view().tally().redelivered, 0);
        });
}

#[tokio::test(start_paused = true)]
async fn resuming_before_failure_ends_no_hold() {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(1)
        .clock(Arc::new(clock))
        .build();
    let gate = Arc::new(Semaphore::new(0));
    let worker = workers::builder("handlers")
        .stream(stream.clone())
        .lease_store(MemoryLeaseStore::new())
        .processor(gated(&gate))
        .error_policy(
            Policy::new(LastResort::Hold)
                .transient(Retries::forever(), LastResort::Hold)
                .unspecified(Retries::none(), LastResort::Hold),
        )
        .build()
        .unwrap()
        .start();
    let scope = || FlowScope::Stream("trucks".to_owned());
    let failures = async || {
        clock.sleep(3600 * SECOND).await;
        worker.status().leases.values().next().unwrap().failures
    };
    stream.put("once", "1").unwrap();
    assert_eq!(failures().await, 0, "it is tried again");
    worker.flow().pause(scope());
    worker.flow().resume(scope());
    assert_eq!(failures().await, 0);
    stream.put("bad", "2").unwrap();
    assert_eq!(failures().await, 1, "it is held");
    worker.flow().resume(scope());
    assert_eq!(failures().await, 2, "and tried again, once");
    worker.abort();
    worker.join().await.unwrap();
}
