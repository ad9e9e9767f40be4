//! Answers that claim the end of a shard, or show it with the wrong children.

use std::time::Duration;

use kcl_core::settings::Settings;
use kcl_core::source::SourceErrorKind;
use kcl_core::status::{EndDoubt, HealthIssue};
use kcl_testkit::faulty_stream::{EndFault, StreamCall, StreamFault, StreamFaultRule};

use crate::ends::bench::{Bench, lease};

#[tokio::test(start_paused = true)]
async fn open_shard_is_read_on_after_claimed_end() {
    for fault in [EndFault::Claimed, EndFault::Strangers] {
        let bench = Bench::new(1);
        let worker = bench.start();
        bench.put("before");
        bench.processes(&["before"], 30).await;
        bench.err(fault, Some(1));
        bench.sleep(30).await;
        bench.put("after");
        bench.processes(&["before", "after"], 5).await;
        assert!(worker.status().is_healthy());
        assert_eq!(bench.seen.lock().unwrap().ended, []);
    }
}

#[tokio::test(start_paused = true)]
async fn records_between_claimed_and_real_end_are_processed() {
    let bench = Bench::new(1);
    let _worker = bench.start();
    bench.put("before");
    bench.processes(&["before"], 30).await;
    bench.err(EndFault::Claimed, Some(1));
    bench.sleep(30).await;
    bench.put("between");
    bench.sleep(30).await;
    bench.split();
    bench.put("child");
    bench.processes(&["before", "between", "child"], 30).await;
}

#[tokio::test(start_paused = true)]
async fn closed_shard_is_read_out_before_it_ends() {
    for (fault, times) in [(EndFault::Claimed, 3), (EndFault::Strangers, 3)] {
        let bench = Bench::new(1);
        bench.put("before");
        let worker = bench.start();
        bench.processes(&["before"], 30).await;
        bench.err(fault, Some(times));
        bench.put("unread");
        bench.split();
        bench.put("child");
        bench.processes(&["before", "unread", "child"], 60).await;
        assert_eq!(bench.seen.lock().unwrap().ended.len(), 1);
        worker.wait_for(|status| status.leases.len() == 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn children_come_from_listing_where_end_hides_them() {
    for fault in [EndFault::WithoutChildren, EndFault::Half] {
        let bench = Bench::new(1);
        bench.err(fault, None);
        let worker = bench.start();
        bench.put("before");
        bench.processes(&["before"], 30).await;
        bench.split();
        bench.put("child");
        bench.processes(&["before", "child"], 10).await;
        worker.wait_for(|status| status.leases.len() == 2).await;
        assert_eq!(bench.seen.lock().unwrap().ended, [bench.first_shard()]);
    }
}

#[tokio::test(start_paused = true)]
async fn endless_claims_of_open_shard_are_a_concern() {
    let bench = Bench::new(1);
    let worker = bench.start();
    bench.put("before");
    bench.processes(&["before"], 30).await;
    bench.err(EndFault::Claimed, None);
    bench.sleep(60).await;
    let status = lease(&worker);
    assert_eq!(status.end_in_doubt, Some(EndDoubt::ListedOpen));
    assert_eq!(status.concern, Some(HealthIssue::EndInDoubt));
    let calls = bench.source.faults().calls(StreamCall::Shards);
    bench.sleep(600).await;
    let calls = bench.source.faults().calls(StreamCall::Shards) - calls;
    assert!(calls < 200, "{calls} listings in ten minutes");
    bench.source.faults().clear();
    bench.put("after");
    bench.processes(&["before", "after"], 20).await;
    bench.sleep(1).await;
    assert!(worker.status().is_healthy());
}

#[tokio::test(start_paused = true)]
async fn claim_is_not_believed_while_listing_fails() {
    let bench = Bench::new(1);
    let worker = bench.start();
    bench.put("before");
    bench.processes(&["before"], 30).await;
    let denied = StreamFault::Fail(SourceErrorKind::Denied);
    let faults = bench.source.faults();
    faults.add(StreamFaultRule::every(StreamCall::Shards, denied));
    bench.err(EndFault::WithoutChildren, None);
    bench.split();
    bench.put("child");
    bench.sleep(300).await;
    let status = lease(&worker);
    assert_eq!(status.end_in_doubt, Some(EndDoubt::CannotList));
    assert_eq!(status.concern, Some(HealthIssue::EndInDoubt));
    assert_eq!(bench.seen.lock().unwrap().ended, []);
    bench.source.faults().clear();
    bench.err(EndFault::WithoutChildren, None);
    bench.processes(&["before", "child"], 30).await;
}

#[tokio::test(start_paused = true)]
async fn rare_claims_of_idle_shard_are_no_concern() {
    let bench = Bench::new(1);
    let worker = bench.start();
    bench.put("before");
    bench.processes(&["before"], 30).await;
    for _ in 0..8 {
        bench.err(EndFault::Claimed, Some(1));
        bench.sleep(300).await;
    }
    assert_eq!(lease(&worker).end_in_doubt, None);
}

#[tokio::test(start_paused = true)]
async fn doubt_ends_with_the_claims() {
    let bench = Bench::new(1);
    let worker = bench.start();
    bench.put("before");
    bench.processes(&["before"], 30).await;
    bench.err(EndFault::Claimed, None);
    bench.sleep(60).await;
    assert_eq!(lease(&worker).end_in_doubt, Some(EndDoubt::ListedOpen));
    bench.source.faults().clear();
    bench.sleep(30).await;
    assert_eq!(lease(&worker).end_in_doubt, None);
    assert!(worker.status().is_healthy());
}

/// As a server that shows no records for some seconds: up to five answers in a row, with growing pauses.
#[tokio::test(start_paused = true)]
async fn closed_shard_outlives_seconds_of_empty_answers() {
    for times in [4, 5] {
        let bench = Bench::new(1);
        bench.put("before");
        let _worker = bench.start();
        bench.processes(&["before"], 25).await;
        bench.err(EndFault::Claimed, Some(times));
        bench.put("unread");
        bench.split();
        bench.put("child");
        bench.processes(&["before", "unread", "child"], 60).await;
    }
}

/// A fresh reader shows the last record alone, and the answer after it has no content.
#[tokio::test(start_paused = true)]
async fn empty_answer_behind_the_last_record_ends_nothing() {
    let bench = Bench::new(1);
    bench.put("before");
    let mut settings = Settings::default();
    settings.reading.max_batch_records = 1;
    let _worker = bench.start_noting(settings);
    bench.processes(&["before"], 25).await;
    bench.err(EndFault::Claimed, Some(1));
    let as_it_is = StreamFault::Delay(Duration::ZERO);
    let faults = bench.source.faults();
    faults.add(StreamFaultRule::next(1, StreamCall::Next, as_it_is));
    bench.err(EndFault::Claimed, Some(1));
    bench.put("unread");
    bench.split();
    bench.put("child");
    bench.processes(&["before", "unread", "child"], 60).await;
}
