//! Records that retention takes between the last record read and the next.

use kcl_core::settings::{RetentionGap, Settings};
use kcl_core::source::SourceErrorKind;
use kcl_core::status::{HealthIssue, LeaseStatus, WaitReason};
use kcl_core::types::{Gap, SequenceNumber};
use kcl_core::{FlowScope, WorkerHandle};
use kcl_lease_memory::memory_stream::Trim;
use kcl_testkit::faulty_stream::{StreamCall, StreamFault, StreamFaultRule};

use crate::ends::bench::{Bench, SECOND, lease};

/// The numbers of the records with these indices, of all that were put.
fn gap(bench: &Bench, after: usize, first: usize) -> Gap {
    let log = bench.stream.put_log();
    let number = |index: usize| -> SequenceNumber { log[index].1.sequence_number().clone() };
    Gap {
        after: number(after),
        first: Some(number(first)),
    }
}

async fn stop(bench: &Bench, worker: WorkerHandle) {
    worker.shutdown();
    let stopped = bench.clock_timeout(worker.join()).await;
    assert!(stopped.unwrap().is_clean());
}

impl Bench {
    async fn clock_timeout<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        use kcl_core::clock::ClockExt as _;
        let timeout = self.clock.timeout(SECOND * 120, future);
        timeout.await.expect("it ends in time")
    }
}

#[tokio::test(start_paused = true)]
async fn records_taken_while_nobody_read_are_a_gap() {
    let bench = Bench::new(1);
    bench.put("0");
    let worker = bench.start();
    bench.processes(&["0"], 30).await;
    stop(&bench, worker).await;
    for payload in ["1", "2", "3", "4"] {
        bench.put(payload);
    }
    bench.stream.trim(&Trim::KeepLast(2));
    let worker = bench.start();
    bench.processes(&["0", "3", "4"], 60).await;
    let expected = gap(&bench, 0, 3);
    assert_eq!(bench.seen.lock().unwrap().gaps, std::slice::from_ref(&expected));
    assert_eq!(lease(&worker).gap, Some(expected));
    assert!(worker.status().is_healthy());
    bench.put("5");
    bench.processes(&["0", "3", "4", "5"], 30).await;
    assert_eq!(bench.seen.lock().unwrap().gaps.len(), 1, "said once");
}

#[tokio::test(start_paused = true)]
async fn no_gap_where_the_last_record_is_kept() {
    let bench = Bench::new(1);
    bench.put("0");
    let worker = bench.start();
    bench.processes(&["0"], 30).await;
    stop(&bench, worker).await;
    bench.put("1");
    let worker = bench.start();
    bench.processes(&["0", "1"], 60).await;
    assert_eq!(bench.seen.lock().unwrap().gaps, []);
    assert_eq!(lease(&worker).gap, None);
}

/// The service refuses a position that is too old.
#[tokio::test(start_paused = true)]
async fn refused_old_position_goes_on_at_oldest_record() {
    let bench = Bench::new(1);
    bench.put("0");
    let worker = bench.start();
    bench.processes(&["0"], 30).await;
    stop(&bench, worker).await;
    bench.put("1");
    bench.put("2");
    bench.stream.trim(&Trim::KeepLast(1));
    let refused = StreamFault::Fail(SourceErrorKind::Invalid);
    let rule = StreamFaultRule::next(2, StreamCall::Open, refused);
    bench.source.faults().add(rule);
    let _worker = bench.start();
    bench.processes(&["0", "2"], 60).await;
    assert_eq!(bench.seen.lock().unwrap().gaps, [gap(&bench, 0, 2)]);
}

/// A position that is refused although older records are kept belongs to another shard: nothing after it is taken for new.
#[tokio::test(start_paused = true)]
async fn refused_position_among_older_records_holds_the_shard() {
    let bench = Bench::new(1);
    bench.put("0");
    bench.put("1");
    let worker = bench.start();
    bench.processes(&["0", "1"], 30).await;
    stop(&bench, worker).await;
    bench.put("2");
    let refused = StreamFault::Fail(SourceErrorKind::Invalid);
    let rule = StreamFaultRule::next(2, StreamCall::Open, refused);
    bench.source.faults().add(rule);
    let worker = bench.start();
    let refused = Some(SourceErrorKind::Invalid);
    let is_held = |lease: &LeaseStatus| lease.trouble == refused;
    worker
        .wait_for(|status| status.leases.values().any(is_held))
        .await;
    assert_eq!(bench.payloads(), ["0", "1"]);
    // It is asked again, and found.
    bench.processes(&["0", "1", "2"], 60).await;
    assert_eq!(bench.seen.lock().unwrap().gaps, []);
}

/// A reader that falls behind what is kept, while it reads.
#[tokio::test(start_paused = true)]
async fn reader_overtaken_by_retention_is_told() {
    let bench = Bench::new(1);
    bench.put("0");
    let _worker = bench.start();
    bench.processes(&["0"], 30).await;
    let slow = StreamFault::Delay(SECOND * 3);
    let rule = StreamFaultRule::next(1, StreamCall::Next, slow);
    bench.source.faults().add(rule);
    bench.sleep(1).await;
    for payload in ["1", "2", "3"] {
        bench.put(payload);
    }
    bench.stream.trim(&Trim::KeepLast(1));
    bench.processes(&["0", "3"], 30).await;
    assert_eq!(bench.seen.lock().unwrap().gaps, [gap(&bench, 0, 3)]);
}

fn holding() -> Settings {
    let mut settings = Settings::default();
    settings.reading.retention_gap = RetentionGap::Hold;
    settings
}

/// A bench on which the record with the index 0 was processed, and retention took those with the indices 1 and 2, of five.
async fn with_gap() -> Bench {
    let bench = Bench::new(1);
    bench.put("0");
    let worker = bench.start();
    bench.processes(&["0"], 30).await;
    stop(&bench, worker).await;
    for payload in ["1", "2", "3", "4"] {
        bench.put(payload);
    }
    bench.stream.trim(&Trim::KeepLast(2));
    bench
}

async fn is_held(bench: &Bench, worker: &WorkerHandle) {
    let is_held = |lease: &LeaseStatus| lease.waiting.is_some_and(|(reason, _)| reason == WaitReason::Gap);
    let held = worker.wait_for(|status| status.leases.values().any(is_held));
    bench.clock_timeout(held).await;
}

#[tokio::test(start_paused = true)]
async fn gap_holds_shard_until_operator_accepts_it() {
    let bench = with_gap().await;
    let worker = bench.start_noting(holding());
    is_held(&bench, &worker).await;
    bench.put("5");
    bench.sleep(600).await;
    assert_eq!(bench.payloads(), ["0"]);
    let held = lease(&worker);
    assert_eq!(held.concern, Some(HealthIssue::HeldAtGap));
    assert_eq!((held.gap, held.stalls), (Some(gap(&bench, 0, 3)), 0));
    // Retention goes on meanwhile.
    bench.stream.trim(&Trim::KeepLast(2));
    worker.flow().accept_gap(FlowScope::Worker);
    bench.processes(&["0", "4", "5"], 30).await;
    assert_eq!(bench.seen.lock().unwrap().gaps, [gap(&bench, 0, 4)]);
    worker.wait_for(|status| status.is_healthy()).await;
    bench.put("6");
    bench.processes(&["0", "4", "5", "6"], 30).await;
}

#[tokio::test(start_paused = true)]
async fn held_gap_ends_with_deployment_of_other_setting() {
    let bench = with_gap().await;
    let worker = bench.start_noting(holding());
    is_held(&bench, &worker).await;
    stop(&bench, worker).await;
    let worker = bench.start_noting(holding());
    is_held(&bench, &worker).await;
    stop(&bench, worker).await;
    assert_eq!(bench.payloads(), ["0"]);
    let _worker = bench.start();
    bench.processes(&["0", "3", "4"], 60).await;
}

#[tokio::test(start_paused = true)]
async fn refused_old_position_is_held_too() {
    let bench = with_gap().await;
    let refused = StreamFault::Fail(SourceErrorKind::Invalid);
    let rule = StreamFaultRule::next(2, StreamCall::Open, refused);
    bench.source.faults().add(rule);
    let worker = bench.start_noting(holding());
    is_held(&bench, &worker).await;
    assert_eq!(bench.payloads(), ["0"]);
    let key = worker.status().leases.into_keys().next().unwrap();
    worker.flow().accept_gap(FlowScope::Shard(key));
    bench.processes(&["0", "3", "4"], 60).await;
}

#[tokio::test(start_paused = true)]
async fn reader_overtaken_by_retention_is_held() {
    let bench = Bench::new(1);
    bench.put("0");
    let worker = bench.start_noting(holding());
    bench.processes(&["0"], 30).await;
    let slow = StreamFault::Delay(SECOND * 3);
    let rule = StreamFaultRule::next(1, StreamCall::Next, slow);
    bench.source.faults().add(rule);
    bench.sleep(1).await;
    for payload in ["1", "2", "3"] {
        bench.put(payload);
    }
    bench.stream.trim(&Trim::KeepLast(1));
    is_held(&bench, &worker).await;
    assert_eq!(bench.payloads(), ["0"]);
    worker.flow().accept_gap(FlowScope::Stream("trucks".to_owned()));
    bench.processes(&["0", "3"], 30).await;
}

#[tokio::test(start_paused = true)]
async fn end_behind_gap_is_held_too() {
    let bench = Bench::new(1);
    bench.put("0");
    let worker = bench.start();
    bench.processes(&["0"], 30).await;
    stop(&bench, worker).await;
    bench.put("1");
    bench.split();
    bench.stream.trim(&Trim::KeepLast(0));
    let worker = bench.start_noting(holding());
    is_held(&bench, &worker).await;
    bench.sleep(60).await;
    assert_eq!(bench.seen.lock().unwrap().ended, []);
    worker.flow().accept_gap(FlowScope::Worker);
    let ended = async {
        while bench.seen.lock().unwrap().ended.is_empty() {
            bench.sleep(1).await;
        }
    };
    bench.clock_timeout(ended).await;
    bench.put("2");
    bench.processes(&["0", "2"], 60).await;
}
