//! Records that retention takes between the last record read and the next.

use kcl_core::source::SourceErrorKind;
use kcl_core::status::LeaseStatus;
use kcl_core::types::{Gap, SequenceNumber};
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

async fn stop(bench: &Bench, worker: kcl_core::WorkerHandle) {
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
