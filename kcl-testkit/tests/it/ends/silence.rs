//! Shards whose end the usual reader never shows.

use kcl_core::status::{EndDoubt, HealthIssue};
use kcl_lease_memory::memory_stream::Trim;
use kcl_testkit::faulty_stream::{EndFault, StreamCall};

use crate::altered::Altered;
use crate::ends::bench::{Bench, lease};

#[tokio::test(start_paused = true)]
async fn closed_shard_without_end_is_found_by_listing() {
    let bench = Bench::new(1);
    bench.err(EndFault::Withheld, None);
    let worker = bench.start();
    bench.put("before");
    bench.processes(&["before"], 30).await;
    bench.split();
    bench.put("child");
    bench.processes(&["before", "child"], 30).await;
    worker.wait_for(|status| status.leases.len() == 2).await;
    bench.sleep(60).await;
    assert!(worker.status().is_healthy());
}

#[tokio::test(start_paused = true)]
async fn named_children_make_the_reader_look_at_once() {
    let bench = Bench::new(1);
    bench.err(EndFault::NamedBeside, None);
    let _worker = bench.start();
    bench.put("before");
    bench.processes(&["before"], 30).await;
    bench.sleep(20).await;
    bench.split();
    bench.put("child");
    bench.processes(&["before", "child"], 3).await;
}

/// As ministack: an event names the children, then the shard is unknown.
#[tokio::test(start_paused = true)]
async fn shard_that_is_gone_ends_with_named_children() {
    let bench = Bench::new(1);
    bench.err(EndFault::NamedBeside, None);
    let worker = bench.start();
    bench.put("before");
    bench.processes(&["before"], 30).await;
    let last = bench.stream.put_log().pop().unwrap();
    bench.split();
    bench
        .stream
        .trim(&Trim::Through(last.0, last.1.sequence_number().clone()));
    // It is listed until the children were named.
    bench.sleep(1).await;
    assert_eq!(bench.stream.forget_closed_shards(), [bench.first_shard()]);
    bench.put("child");
    bench.processes(&["before", "child"], 10).await;
    assert_eq!(bench.seen.lock().unwrap().ended, [bench.first_shard()]);
    worker.wait_for(|status| status.leases.len() == 2).await;
}

/// As ministack by polling: a shard that was split is unknown and not listed, and nothing has named its children.
#[tokio::test(start_paused = true)]
async fn shard_that_is_gone_ends_with_listed_children() {
    let bench = Bench::new(1);
    bench.err(EndFault::Withheld, None);
    let worker = bench.start();
    bench.put("before");
    bench.processes(&["before"], 30).await;
    let last = bench.stream.put_log().pop().unwrap();
    bench.split();
    bench
        .stream
        .trim(&Trim::Through(last.0, last.1.sequence_number().clone()));
    assert_eq!(bench.stream.forget_closed_shards(), [bench.first_shard()]);
    bench.put("child");
    bench.processes(&["before", "child"], 10).await;
    assert_eq!(bench.seen.lock().unwrap().ended, [bench.first_shard()]);
    worker.wait_for(|status| status.leases.len() == 2).await;
    bench.sleep(120).await;
    assert!(worker.status().is_healthy());
}

/// A source that never shows an end, whatever is asked: a concern, and nothing is ended.
#[tokio::test(start_paused = true)]
async fn closed_shard_without_any_end_is_a_concern() {
    let bench = Bench::new(1);
    bench.err(EndFault::Withheld, None);
    let worker = bench.start_on(Altered::of(bench.source.clone()));
    bench.put("before");
    bench.processes(&["before"], 30).await;
    bench.split();
    bench.sleep(60).await;
    assert_eq!(lease(&worker).end_in_doubt, Some(EndDoubt::NoEnd));
    assert_eq!(lease(&worker).concern, Some(HealthIssue::EndInDoubt));
    bench.source.faults().clear();
    bench.put("child");
    bench.processes(&["before", "child"], 30).await;
}

#[tokio::test(start_paused = true)]
async fn idle_shards_share_one_listing() {
    let bench = Bench::new(200);
    let worker = bench.start();
    worker.wait_for(|status| status.leases.len() == 200).await;
    bench.sleep(60).await;
    let before = bench.source.faults().calls(StreamCall::Shards);
    bench.sleep(600).await;
    let calls = bench.source.faults().calls(StreamCall::Shards) - before;
    // The leader's own audit lists as well.
    assert!(calls <= 100, "{calls} listings in ten minutes");
}

/// As UpdateShardCount of ferrokinesis and ministack: closed shards beside open ones that name no parents.
#[tokio::test(start_paused = true)]
async fn replaced_shard_without_children_ends() {
    let bench = Bench::new(1);
    bench.err(EndFault::WithoutChildren, None);
    let parentless = Altered::of(bench.source.clone()).listing(|_, page| {
        page.shards.iter_mut().for_each(|shard| shard.parents.clear());
    });
    let worker = bench.start_on(parentless);
    bench.put("before");
    bench.processes(&["before"], 30).await;
    bench.split();
    bench.put("new");
    bench.processes(&["before", "new"], 60).await;
    bench.sleep(30).await;
    assert_eq!(bench.seen.lock().unwrap().ended, [bench.first_shard()]);
    assert_eq!(
        worker.status().leases.len(),
        2,
        "the closed shard waits for nothing"
    );
}
