//! The lateness of a shard: it stays true while no answer comes.

use kcl_core::FlowScope;
use kcl_core::metrics::{BEHIND_SECONDS, FRESHNESS_SECONDS, SHARD_FRESHNESS_SECONDS};
use kcl_core::source::SourceErrorKind;
use kcl_testkit::faulty_stream::{StreamCall, StreamFault, StreamFaultRule};
use kcl_testkit::processors::Misbehaviour;

use crate::stalls::bench::{Bench, SECOND};

/// A shard that is read once a second, and gauges that are set once a second.
const FRESH: f64 = 3.0;

fn gauges(bench: &Bench) -> (f64, f64) {
    (
        bench.meters.read(BEHIND_SECONDS),
        bench.meters.read(FRESHNESS_SECONDS),
    )
}

fn assert_fresh(bench: &Bench) {
    let (behind, freshness) = gauges(bench);
    assert!(behind < FRESH && freshness < FRESH, "{behind} {freshness}");
    let (behind, freshness) = bench.lateness();
    assert!(
        behind.as_secs_f64() < FRESH && freshness.as_secs_f64() < FRESH,
        "{behind:?} {freshness:?}"
    );
}

/// Whether the seconds are those, or up to five more.
fn about(seconds: f64, wanted: f64) -> bool {
    (wanted..wanted + 5.0).contains(&seconds)
}

#[tokio::test(start_paused = true)]
async fn caught_up_shard_stays_fresh_without_records() {
    let bench = Bench::running(1).await;
    for _ in 0..120 {
        bench.sleep(60 * SECOND).await;
        assert_fresh(&bench);
    }
    bench.stops_cleanly().await;
}

#[tokio::test(start_paused = true)]
async fn unreadable_shard_grows_late_without_an_answer() {
    for fault in [
        StreamFault::Hang,
        StreamFault::Fail(SourceErrorKind::Unavailable),
        StreamFault::Fail(SourceErrorKind::Throttled),
        StreamFault::LoseReply,
    ] {
        let bench = Bench::running(1).await;
        bench.put(10);
        bench.all_is_processed().await;
        bench.sleep(2 * SECOND).await;
        assert_fresh(&bench);
        bench.source.add(StreamFaultRule::every(StreamCall::Next, fault));
        let mut last = gauges(&bench);
        for _ in 0..5 {
            bench.sleep(10 * SECOND).await;
            let now = gauges(&bench);
            assert!(
                now.0 >= last.0 + 9.0 && now.1 >= last.1 + 9.0,
                "{fault:?}: {last:?} {now:?}"
            );
            last = now;
        }
        assert!(about(last.0, 49.0), "{fault:?}: {last:?}");
        let named = || bench.meters.of(SHARD_FRESHNESS_SECONDS, "shardId-000000000000");
        assert!(about(named(), 49.0), "{fault:?}: {}", named());
        let (behind, freshness) = bench.lateness();
        assert!(about(behind.as_secs_f64(), 49.0) && about(freshness.as_secs_f64(), 49.0));
        bench.source.clear();
        // A call that hangs does so until the shard is opened once more.
        bench.sleep(90 * SECOND).await;
        assert_fresh(&bench);
        assert_eq!(named(), 0.0, "it is among the late ones no more");
        bench.stops_cleanly().await;
    }
}

#[tokio::test(start_paused = true)]
async fn late_series_is_zero_once_worker_stops() {
    let bench = Bench::running(1).await;
    bench.journal.misbehave(Misbehaviour::Hang);
    bench.put(3);
    bench.sleep(60 * SECOND).await;
    let meters = bench.meters.clone();
    let named = || meters.of(SHARD_FRESHNESS_SECONDS, "shardId-000000000000");
    assert!(named() > 50.0, "{}", named());
    bench.worker.shutdown();
    bench.worker.join().await.unwrap();
    assert_eq!(named(), 0.0);
}

#[tokio::test(start_paused = true)]
async fn busy_processor_makes_data_old_not_reading() {
    let bench = Bench::running(1).await;
    bench.journal.misbehave(Misbehaviour::TakeTime(300 * SECOND));
    bench.put(1);
    bench.sleep(100 * SECOND).await;
    let (behind, freshness) = gauges(&bench);
    assert!(behind < FRESH, "{behind}");
    assert!(about(freshness, 97.0), "{freshness}");
    // Prefetched and not processed counts as well, and so does what there is no room to prefetch.
    for _ in 0..10 {
        bench.put(1);
        bench.sleep(10 * SECOND).await;
    }
    let (behind, freshness) = gauges(&bench);
    assert!(behind > 50.0, "{behind}");
    assert!(about(freshness, 197.0), "{freshness}");
    bench.all_is_processed().await;
    bench.sleep(3 * SECOND).await;
    assert_fresh(&bench);
    bench.stops_cleanly().await;
}

#[tokio::test(start_paused = true)]
async fn always_failing_processor_lets_shard_grow_late() {
    for how in [Misbehaviour::Fail, Misbehaviour::Panic] {
        let bench = Bench::running(1).await;
        (0..12).for_each(|_| bench.journal.misbehave(how));
        bench.put(3);
        let mut last = gauges(&bench).1;
        for _ in 0..6 {
            bench.sleep(10 * SECOND).await;
            let now = gauges(&bench).1;
            assert!(now >= last + 9.0, "{how:?}: {last} {now}");
            last = now;
        }
        assert!(!bench.worker.status().is_healthy());
        bench.all_is_processed().await;
        bench.sleep(3 * SECOND).await;
        assert_fresh(&bench);
        assert!(bench.worker.status().is_healthy());
        bench.stops_cleanly().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_shard_is_late_and_not_unhealthy() {
    let bench = Bench::running(1).await;
    bench.worker.flow().pause(FlowScope::Worker);
    bench.sleep(3600 * SECOND).await;
    let (behind, freshness) = gauges(&bench);
    assert!(about(behind, 3599.0) && about(freshness, 3599.0), "{behind}");
    assert!(bench.worker.status().is_healthy());
    bench.worker.flow().resume(FlowScope::Worker);
    bench.sleep(3 * SECOND).await;
    assert_fresh(&bench);
    bench.stops_cleanly().await;
}

/// The records are older than the worker: what is known of them is known before the first batch is finished.
#[tokio::test(start_paused = true)]
async fn late_worker_is_as_late_as_oldest_record() {
    let bench = Bench::running(1).await;
    bench.journal.misbehave(Misbehaviour::TakeTime(100 * SECOND));
    bench.worker.flow().pause(FlowScope::Worker);
    bench.sleep(2 * SECOND).await;
    bench.put(5);
    bench.sleep(500 * SECOND).await;
    bench.put(5);
    bench.sleep(500 * SECOND).await;
    bench.worker.flow().resume(FlowScope::Worker);
    bench.sleep(20 * SECOND).await;
    let (behind, freshness) = gauges(&bench);
    assert!(behind < FRESH, "{behind}");
    assert!(about(freshness, 1019.0), "{freshness}");
    bench.all_is_processed().await;
    bench.stops_cleanly().await;
}

#[tokio::test(start_paused = true)]
async fn worker_that_has_stopped_leaves_no_lateness_behind() {
    let bench = Bench::running(2).await;
    bench
        .source
        .add(StreamFaultRule::every(StreamCall::Next, StreamFault::Hang));
    bench.sleep(30 * SECOND).await;
    let meters = bench.meters.clone();
    assert!(meters.read(BEHIND_SECONDS) > 20.0);
    bench.worker.abort();
    bench.worker.join().await.unwrap();
    assert_eq!(
        (meters.read(BEHIND_SECONDS), meters.read(FRESHNESS_SECONDS)),
        (0.0, 0.0)
    );
}
