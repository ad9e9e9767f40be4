//! Hosts whose clocks are wrong, and processes that share a name.

use std::time::Duration;

use kcl_core::error::ErrorKind;
use kcl_testkit::clock::Skew;
use kcl_testkit::fleet::{Fleet, Member, Simulation};

use crate::support::{MILLISECOND, SECOND, balanced};

const DAY_MILLIS: i64 = 24 * 3600 * 1000;
const MEMBERS: [&str; 3] = ["a", "b", "c"];

/// A fleet's life with these wall clocks: newcomers, a split, a crash, a farewell. What happened, as a hash of every event.
fn life(seed: u64, wall_offsets: [i64; 3]) -> u64 {
    Simulation::new(seed).shards(6).run(async |fleet| {
        let member = |name: &str, wall_offset_millis: i64| {
            let skew = Skew {
                wall_offset_millis,
                ..Skew::default()
            };
            Member::named(name).skew(skew)
        };
        fleet.produce(SECOND / 10, 12);
        for (name, offset) in MEMBERS.into_iter().zip(wall_offsets) {
            fleet.start(member(name, offset));
            fleet.sleep(3 * SECOND).await;
        }
        balanced(&fleet, &MEMBERS).await;
        fleet.split(&fleet.open_shards()[0]).unwrap();
        fleet.sleep(3 * SECOND).await;
        fleet.kill("a");
        fleet.sleep(10 * SECOND).await;
        fleet.start(member("a", -wall_offsets[0]));
        fleet.sleep(10 * SECOND).await;
        fleet.drain("b").await.unwrap();
        fleet.sleep(5 * SECOND).await;
        fleet.stop_producing();
        fleet.settle().await;
        fleet.trace_hash()
    })
}

#[test]
fn wall_clocks_that_are_a_day_apart_change_no_event_at_all() {
    for seed in 0..10 {
        let honest = life(seed, [0; 3]);
        for offsets in [
            [DAY_MILLIS, -DAY_MILLIS, 0],
            [-DAY_MILLIS, 0, DAY_MILLIS],
            [DAY_MILLIS, DAY_MILLIS, -DAY_MILLIS],
        ] {
            assert_eq!(life(seed, offsets), honest, "seed {seed}, {offsets:?}");
        }
    }
}

async fn superseded(fleet: &Fleet, seed: u32) {
    let error = fleet.stopped("older").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Superseded, "seed {seed}: {error}");
    assert!(error.to_string().contains("shared"), "it names the id: {error}");
}

#[test]
fn of_two_processes_with_one_worker_id_the_older_stops_and_says_why_and_nothing_is_lost() {
    for seed in 0..15_u32 {
        Simulation::new(u64::from(seed)).shards(6).run(async |fleet| {
            fleet.produce(SECOND / 20, 12);
            fleet.start(Member::named("older").worker_id("shared"));
            fleet.start_worker("b", fleet.settings());
            balanced(&fleet, &["older", "b"]).await;
            fleet.sleep(173 * MILLISECOND * seed).await;
            let begun = fleet.now();
            fleet.start(Member::named("younger").worker_id("shared"));
            superseded(&fleet, seed).await;
            let took = fleet.now().saturating_since(begun);
            // It learns of it when it touches its row the next time.
            let limit: Duration = fleet.settings().failover_time / 3 + SECOND;
            assert!(took <= limit, "seed {seed}: {took:?}");
            balanced(&fleet, &["younger", "b"]).await;
            fleet.stop_producing();
            fleet.settle().await;
        });
    }
}
