//! Half an hour in one call, in a fleet: the lease stays, and reading goes on exactly where it was.

use std::sync::Arc;

use kcl_core::settings::Settings;
use kcl_core::source::SourceErrorKind;
use kcl_core::types::{LeaseKey, ShardId};
use kcl_testkit::clock::{Skew, SkewedClock};
use kcl_testkit::faulty_stream::{StreamCall, StreamFault, StreamFaultRule};
use kcl_testkit::fleet::{Member, Simulation};
use kcl_testkit::processors::{Journal, Misbehaviour};

use crate::stalls::bench::SECOND;

#[test]
fn handler_of_half_an_hour_keeps_its_lease() {
    let mut settings = Settings::default();
    settings.leases.failover_time = 10 * SECOND;
    for seed in 0..3 {
        Simulation::new(seed)
            .shards(6)
            .settings(settings.clone())
            .run(async |fleet| {
                let journal = Journal::new(Arc::new(SkewedClock::new(Skew::default())));
                for name in ["a", "b", "c"] {
                    fleet.start(Member::named(name).processor(journal.clone()));
                }
                fleet
                    .wait_until("everybody has two shards", 120 * SECOND, |view| {
                        ["a", "b", "c"].iter().all(|name| view.held(name).len() == 2)
                    })
                    .await;
                fleet.produce(10 * SECOND, 20);
                fleet.sleep(30 * SECOND).await;
                let before = ["a", "b", "c"].map(|name| fleet.view().tokens(name));
                let (key, _) = before[0].first_key_value().unwrap();
                let is_held = |shard: &ShardId| LeaseKey::single_stream(shard) == *key;
                let shard = fleet.open_shards().into_iter().find(is_held).unwrap();
                journal.misbehave_on(shard.clone(), Misbehaviour::TakeTime(1800 * SECOND));
                fleet.sleep(60 * SECOND).await;
                assert_eq!(journal.still_to_come(), 0, "it has begun");

                // Nobody has read the shard for longer than an iterator lives, so the next reads fail once each.
                fleet.sleep(1700 * SECOND).await;
                let expired = StreamFault::Fail(SourceErrorKind::Unavailable);
                for call in [StreamCall::Next, StreamCall::Open] {
                    fleet
                        .source_faults("a")
                        .add(StreamFaultRule::next(1, call, expired).on_shard(shard.clone()));
                }
                let status = fleet.view().status("a").unwrap();
                assert!(!status.is_healthy(), "it says so");
                fleet.sleep(100 * SECOND).await;
                fleet.stop_producing();
                fleet.settle().await;

                let after = ["a", "b", "c"].map(|name| fleet.view().tokens(name));
                assert_eq!(after, before, "no lease has moved, and none was begun anew");
                assert!(fleet.stream().reminted_iterators() > 0, "an iterator expired");
                let struck =
                    [StreamCall::Next, StreamCall::Open].map(|call| fleet.source_faults("a").struck(call));
                assert_eq!(struck[0], 1, "the next read failed");
                let tally = fleet.view().tally();
                assert_eq!(tally.redelivered, 0, "each record came once: {tally:?}");
                assert!(fleet.view().status("a").unwrap().is_healthy());
            });
    }
}
