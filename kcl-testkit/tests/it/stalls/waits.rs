//! The reason why each shard waits, and since when: in the status, and in the metrics.

use std::time::Duration;

use kcl_core::metrics::{LEASES_SUSPENDED, SHARDS_OF_CONCERN, SHARDS_WAITING, STALLS, WAIT_SECONDS};
use kcl_core::settings::Settings;
use kcl_core::source::SourceErrorKind;
use kcl_core::status::{HealthIssue, WaitReason};
use kcl_core::{FlowScope, Rate};
use kcl_testkit::faults::{Fault, Link, Operation};
use kcl_testkit::faulty_stream::{StreamCall, StreamFault, StreamFaultRule};
use kcl_testkit::processors::Misbehaviour;

use crate::stalls::bench::{Bench, SECOND};

/// A shard waits for this, and the age of that grows in status and metrics alike.
async fn grows(bench: &Bench, reason: WaitReason, at_least: Duration) {
    let label = reason.to_string().replace(' ', "_");
    let read = || {
        let status = bench.worker.status();
        let waits = status.leases.values().filter_map(|lease| lease.waited(status.at));
        let ages: Vec<_> = waits
            .filter(|(why, _)| *why == reason)
            .map(|(_, age)| age)
            .collect();
        let shards = bench.meters.of(SHARDS_WAITING, &label);
        assert_eq!(shards, ages.len() as f64, "{reason}: {status:?}");
        let longest = ages
            .into_iter()
            .max()
            .unwrap_or_else(|| panic!("nobody waits for {reason}: {status:?}"));
        let measured = bench.meters.of(WAIT_SECONDS, &label);
        let lag = longest.as_secs_f64() - measured;
        assert!((0.0..=1.5).contains(&lag), "{reason}: {longest:?} {measured}");
        longest
    };
    let before = read();
    assert!(before >= at_least, "{reason}: {before:?}");
    bench.sleep(7 * SECOND).await;
    assert_eq!(read(), before + 7 * SECOND, "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_pause_shows_its_age() {
    let bench = Bench::running(3).await;
    bench.worker.flow().pause(FlowScope::Worker);
    bench.sleep(90 * SECOND).await;
    grows(&bench, WaitReason::Paused, 88 * SECOND).await;
    bench.worker.flow().resume(FlowScope::Worker);
    bench.sleep(2 * SECOND).await;
    assert_eq!(bench.meters.of(SHARDS_WAITING, "paused"), 0.0);
    assert_eq!(bench.meters.of(WAIT_SECONDS, "paused"), 0.0);
    bench.stops_cleanly().await;
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_shows_its_age() {
    let bench = Bench::running(1).await;
    let rate = Rate {
        records: std::num::NonZeroU32::new(1),
        ..Rate::default()
    };
    bench.worker.flow().limit(FlowScope::Worker, Some(rate));
    bench.sleep(2 * SECOND).await;
    bench.worker.flow().limit(
        FlowScope::Worker,
        Some(Rate {
            kib: std::num::NonZeroU32::new(1),
            ..rate
        }),
    );
    // Takes 100 s at 1 KiB/s.
    bench.stream.put("truck", vec![0; 100 * 1024]).unwrap();
    bench.sleep(30 * SECOND).await;
    grows(&bench, WaitReason::RateLimit, 20 * SECOND).await;
    bench.stops_cleanly().await;
}

#[tokio::test(start_paused = true)]
async fn a_callback_and_a_hold_show_their_ages() {
    let bench = Bench::running(1).await;
    bench.journal.misbehave(Misbehaviour::TakeTime(100 * SECOND));
    bench.put(1);
    bench.sleep(50 * SECOND).await;
    grows(&bench, WaitReason::Callback, 45 * SECOND).await;
    bench.all_is_processed().await;

    // The pauses double up to half a minute.
    (0..12).for_each(|_| bench.journal.misbehave(Misbehaviour::Fail));
    bench.put(1);
    while bench
        .lease()
        .waited(bench.worker.status().at)
        .is_none_or(|(why, age)| why != WaitReason::Hold || age < 15 * SECOND)
    {
        bench.sleep(SECOND).await;
    }
    grows(&bench, WaitReason::Hold, 15 * SECOND).await;
    assert_eq!(bench.lease().concern, Some(HealthIssue::Failing));
    assert_eq!(bench.meters.of(SHARDS_OF_CONCERN, "failing"), 1.0);
    bench.all_is_processed().await;
    bench.stops_cleanly().await;
}

#[tokio::test(start_paused = true)]
async fn children_show_how_long_they_have_waited() {
    let bench = Bench::running(2).await;
    let [low, high] = [0, 1].map(|n| bench.stream.shards_snapshot()[n].shard.id.clone());
    // The one parent is finished at once, and the other is not.
    bench
        .journal
        .misbehave_on(high.clone(), Misbehaviour::TakeTime(200 * SECOND));
    bench.stream.put_with_hash_key("truck", u128::MAX, "x").unwrap();
    bench.sleep(5 * SECOND).await;
    bench.stream.merge(&low, &high).unwrap();
    bench.sleep(60 * SECOND).await;
    grows(&bench, WaitReason::Parents, 40 * SECOND).await;
    bench.sleep(200 * SECOND).await;
    assert_eq!(bench.meters.of(SHARDS_WAITING, "parents"), 0.0);
    bench.stops_cleanly().await;
}

#[tokio::test(start_paused = true)]
async fn suspended_lease_shows_its_age_and_is_concern() {
    let bench = Bench::running(1).await;
    bench.store.set_link(Link::Refusing);
    bench.put(1);
    bench.sleep(5 * SECOND).await;
    bench.put(1);
    bench.sleep(60 * SECOND).await;
    bench.put(1);
    bench.sleep(30 * SECOND).await;
    grows(&bench, WaitReason::Suspended, 20 * SECOND).await;
    assert_eq!(bench.lease().concern, Some(HealthIssue::Suspended));
    bench.store.set_link(Link::Up);
    assert_eq!(bench.all_is_processed().await, 0);
    bench.sleep(2 * SECOND).await;
    assert!(bench.worker.status().is_healthy());
    assert_eq!(bench.meters.of(WAIT_SECONDS, "suspended"), 0.0);
    bench.stops_cleanly().await;
}

#[tokio::test(start_paused = true)]
async fn owner_informed_late_of_renewal_is_suspended_once() {
    let bench = Bench::running(1).await;
    bench.store.set_link(Link::RepliesLost);
    bench.sleep(20 * SECOND).await;
    bench.store.set_link(Link::Up);
    bench.put(1);
    assert_eq!(bench.all_is_processed().await, 0);
    assert_eq!(bench.meters.read(LEASES_SUSPENDED), 1.0);
    bench.stops_cleanly().await;
}

#[tokio::test(start_paused = true)]
async fn unstorable_end_shows_its_age_as_a_concern() {
    let bench = Bench::running(1).await;
    let shard = bench.stream.shards_snapshot()[0].shard.id.clone();
    bench.store.always(
        Operation::Read,
        Fault::Fail(kcl_core::lease_store::StoreErrorKind::Unavailable),
    );
    bench.stream.split(&shard).unwrap();
    bench.sleep(40 * SECOND).await;
    grows(&bench, WaitReason::Draining, 30 * SECOND).await;
    assert!(bench.worker.status().is_healthy());
    bench.sleep(30 * SECOND).await;
    assert_eq!(bench.lease().concern, Some(HealthIssue::EndNotStored));
    bench.store.clear();
    bench.holds(2).await;
    assert!(bench.worker.status().is_healthy());
    bench.stops_cleanly().await;
}

#[tokio::test(start_paused = true)]
async fn shard_without_wait_reason_is_reopened_as_concern() {
    let bench = Bench::running(1).await;
    bench.put(5);
    bench.all_is_processed().await;
    bench
        .source
        .add(StreamFaultRule::next(3, StreamCall::Next, StreamFault::Hang));
    bench.put(5);
    let stall = Settings::default().reading.stall_timeout;
    bench.sleep(stall - 2 * SECOND).await;
    assert!(bench.worker.status().is_healthy());
    bench.sleep(8 * SECOND).await;
    assert_eq!(bench.lease().concern, Some(HealthIssue::Stalled));
    bench.sleep(stall).await;
    assert_eq!((bench.lease().stalls, bench.meters.read(STALLS)), (2, 2.0));
    assert_eq!(bench.meters.of(SHARDS_OF_CONCERN, "stalled"), 1.0);
    assert_eq!(bench.all_is_processed().await, 0);
    bench.sleep(5 * SECOND).await;
    assert!(bench.worker.status().is_healthy());
    bench.stops_cleanly().await;
}

#[tokio::test(start_paused = true)]
async fn unreadable_shard_is_a_concern_throttled_is_not() {
    let bench = Bench::running(1).await;
    let fails = |kind| StreamFaultRule::every(StreamCall::Next, StreamFault::Fail(kind));
    bench.source.add(fails(SourceErrorKind::Throttled));
    bench.sleep(30 * SECOND).await;
    assert_eq!(bench.lease().trouble, Some(SourceErrorKind::Throttled));
    assert!(bench.worker.status().is_healthy());
    bench.source.clear();
    bench.source.add(fails(SourceErrorKind::Unavailable));
    bench.sleep(10 * SECOND).await;
    assert_eq!(bench.lease().concern, Some(HealthIssue::Unreachable));
    assert_eq!(bench.meters.of(SHARDS_OF_CONCERN, "unreachable"), 1.0);
    bench.source.clear();
    bench.sleep(10 * SECOND).await;
    assert!(bench.worker.status().is_healthy());
    bench.stops_cleanly().await;
}
