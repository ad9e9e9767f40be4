//! The cost of a handoff, and the answers that an owner may give to one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{Clock as _, ClockExt as _, Moment, TokioClock};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::settings::{CheckpointMode, Settings};
use kcl_core::types::LeaseKey;
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};
use kcl_testkit::clock::{Skew, SkewedClock};
use kcl_testkit::fleet::{Fleet, Member, Simulation};

use crate::workers;

const SECOND: Duration = Duration::from_secs(1);

/// When which worker processed a batch of each shard.
type Work = Arc<Mutex<BTreeMap<LeaseKey, Vec<(Moment, String)>>>>;

struct Notes {
    work: Work,
    clock: SkewedClock,
}

#[async_trait]
impl RecordProcessor for Notes {
    async fn process_records(&mut self, _: RecordBatch, shard: &ShardContext) -> Result<(), ProcessorError> {
        let entry = (self.clock.now(), shard.worker().to_string());
        self.work
            .lock()
            .unwrap()
            .entry(shard.lease().clone())
            .or_default()
            .push(entry);
        Ok(())
    }
}

fn noting(name: &str, work: &Work, clock: SkewedClock) -> Member {
    let work = Arc::clone(work);
    Member::named(name).processor(move |_: &ShardContext| Notes {
        work: Arc::clone(&work),
        clock,
    })
}

async fn held(fleet: &Fleet, shares: &[(&str, usize)]) {
    fleet
        .wait_until("everybody holds its share", 60 * SECOND, |view| {
            shares
                .iter()
                .all(|(name, leases)| view.held(name).len() == *leases)
        })
        .await;
}

#[test]
fn planned_handoff_gap_is_below_a_second() {
    let mut gaps = Vec::new();
    for seed in 0..10 {
        let mut settings = Settings::default();
        settings.leases.failover_time = 10 * SECOND;
        Simulation::new(seed)
            .shards(12)
            .settings(settings)
            .run(async |fleet| {
                let (work, clock) = (Work::default(), SkewedClock::new(Skew::default()));
                for name in ["a", "b"] {
                    fleet.start(noting(name, &work, clock));
                }
                held(&fleet, &[("a", 6), ("b", 6)]).await;
                // Every shard gets something every few milliseconds.
                fleet.produce(Duration::from_millis(20), 24);
                fleet.sleep(5 * SECOND).await;
                for _ in 0..3 {
                    fleet.start(noting("c", &work, clock));
                    held(&fleet, &[("a", 4), ("b", 4), ("c", 4)]).await;
                    fleet.sleep(3 * SECOND).await;
                    assert!(fleet.drain("c").await.unwrap().is_clean());
                    held(&fleet, &[("a", 6), ("b", 6)]).await;
                    fleet.sleep(SECOND).await;
                }
                fleet.stop_producing();
                fleet.settle().await;
                assert_eq!(fleet.view().tally().redelivered, 0, "seed {seed}");
                for batches in work.lock().unwrap().values() {
                    let handed_over = batches.windows(2).filter(|two| two[0].1 != two[1].1);
                    gaps.extend(handed_over.map(|two| two[1].0.saturating_since(two[0].0)));
                }
            });
    }
    gaps.sort();
    let quantile = |of_thousand: usize| gaps[(gaps.len() - 1) * of_thousand / 1000];
    let (p50, p99, longest) = (quantile(500), quantile(990), quantile(1000));
    println!(
        "{} handoffs: the gap is {p50:?} at p50, {p99:?} at p99, {longest:?} at most",
        gaps.len()
    );
    assert!(
        gaps.len() >= 200 && p99 < SECOND,
        "{} handoffs, p99 {p99:?}",
        gaps.len()
    );
}

/// Takes long over each batch of the first shard.
struct Slow {
    clock: SkewedClock,
    takes: Duration,
}

#[async_trait]
impl RecordProcessor for Slow {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        self.clock.sleep(self.takes).await;
        Ok(())
    }
}

#[test]
fn owner_in_callback_declines_handoff_for_a_while() {
    Simulation::new(1).trace_lines(50_000).run(async |fleet| {
        let mut settings = fleet.settings();
        settings.leases.handoff_timeout = 2 * SECOND;
        let clock = SkewedClock::new(Skew::default());
        let slow = Member::named("a")
            .settings(settings.clone())
            .processor(move |_: &ShardContext| Slow {
                clock,
                takes: 15 * SECOND,
            });
        fleet.start(slow);
        held(&fleet, &[("a", 4)]).await;
        fleet.put(100);
        fleet.sleep(SECOND).await;
        let before = fleet.view().tokens("a");
        fleet.start_worker("b", settings);
        fleet.sleep(12 * SECOND).await;
        assert_eq!(
            fleet.view().tokens("a"),
            before,
            "nothing moved while the callbacks ran"
        );
        let declined: Vec<_> = fleet
            .trace()
            .into_iter()
            .filter(|line| line.contains("cancel_handoff"))
            .collect();
        let leases: BTreeSet<_> = declined
            .iter()
            .filter_map(|line| line.split_once("cancel_handoff "))
            .map(|(_, rest)| rest[..20].to_owned())
            .collect();
        assert!(
            (2..=4).contains(&declined.len()) && leases.len() == declined.len(),
            "no lease was asked for twice: {declined:?}"
        );
        // The callbacks return, and the leases are left alone for ten failover times nevertheless.
        let begun = |fleet: &Fleet| {
            fleet
                .trace()
                .iter()
                .filter(|line| line.contains("begin_handoff"))
                .count()
        };
        let so_far = begun(&fleet);
        fleet.sleep(20 * SECOND).await;
        assert_eq!(begun(&fleet), so_far);
        held(&fleet, &[("a", 2), ("b", 2)]).await;
        fleet.settle().await;
        assert_eq!(fleet.view().tally().redelivered, 0);
    });
}

/// Checkpoints every record by itself.
struct Diligent;

#[async_trait]
impl RecordProcessor for Diligent {
    async fn process_records(&mut self, batch: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        for index in 0..batch.len() {
            batch.checkpoint_through(index).await?;
        }
        Ok(())
    }
}

/// Each checkpoint is a renewal, so the owner's own renewals are never due: it is a checkpoint that meets the handoff.
#[tokio::test(start_paused = true)]
async fn owner_that_always_checkpoints_notices_its_handoff() {
    let clock = TokioClock::new();
    let stream = MemoryStream::builder("trucks")
        .shards(4)
        .clock(Arc::new(clock))
        .build();
    let store = MemoryLeaseStore::new();
    let start = |name: &str| {
        workers::builder("diligent")
            .worker_id(name)
            .stream(stream.clone())
            .lease_store(store.clone())
            .processor(|_: &ShardContext| Diligent)
            .settings({
                let mut settings = Settings::default();
                settings.checkpoints.mode = CheckpointMode::Manual;
                settings
            })
            .clock(Arc::new(clock))
            .build()
            .unwrap()
            .start()
    };
    let (put, pause) = (stream.clone(), Duration::from_millis(50));
    let produce = async move {
        for n in 0_u128.. {
            put.put_with_hash_key("truck", u128::MAX / 4 * (n % 4) + 1, "x")
                .unwrap();
            clock.sleep(pause / 4).await;
        }
    };
    let balance = async {
        let first = start("a");
        first.wait_for(|status| status.leases.len() == 4).await;
        clock.sleep(10 * SECOND).await;
        let second = start("b");
        let begun = clock.now();
        second.wait_for(|status| status.leases.len() == 2).await;
        let took = clock.now().saturating_since(begun);
        assert!(took < 10 * SECOND, "{took:?}");
        for worker in [first, second] {
            worker.abort();
            worker.join().await.unwrap();
        }
    };
    tokio::select! {
        () = produce => unreachable!("it has no end"),
        balanced = clock.timeout(600 * SECOND, balance) => balanced.unwrap(),
    }
}
