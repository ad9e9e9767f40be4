//! The services fail for everybody. No lease moves, however long that lasts, and everything goes on when it is over.

use std::time::Duration;

use kcl_core::source::SourceErrorKind;
use kcl_testkit::faults::Link;
use kcl_testkit::faulty_stream::{StreamCall, StreamFault, StreamFaultRule};
use kcl_testkit::fleet::{Fleet, Simulation};
use kcl_testkit::simulate;

use crate::support::{SECOND, balanced, each_store, start};

const MEMBERS: [&str; 3] = ["a", "b", "c"];
/// From less than a renewal to longer than any timeout there is.
const LENGTHS: [u64; 5] = [1, 5, 100, 1000, 2 * 3600];

/// Runs a fleet under load through bad times of every length, and asks that no lease moved and nothing came twice.
fn moves_no_lease(what: &str, spoil: impl Fn(&Fleet), mend: impl Fn(&Fleet)) {
    for seconds in LENGTHS {
        Simulation::new(seconds).shards(6).run(async |fleet| {
            start(&fleet, &MEMBERS).await;
            fleet.produce(SECOND / 10, 10);
            fleet.sleep(2 * SECOND).await;
            let tokens = || MEMBERS.map(|name| fleet.view().tokens(name));
            let before = tokens();
            spoil(&fleet);
            fleet.sleep(Duration::from_secs(seconds.min(60))).await;
            // Nobody reads a hundred thousand records in vain.
            fleet.stop_producing();
            fleet.sleep(Duration::from_secs(seconds.saturating_sub(60))).await;
            mend(&fleet);
            fleet.produce(SECOND / 10, 10);
            fleet.sleep(10 * SECOND).await;
            fleet.stop_producing();
            fleet.settle().await;
            assert_eq!(tokens(), before, "{what} for {seconds} s");
            assert_eq!(fleet.view().tally().redelivered, 0, "{what} for {seconds} s");
            // And whatever happens next is answered as ever.
            fleet.kill("c");
            fleet.put(60);
            fleet.settle().await;
        });
    }
}

#[test]
fn an_outage_of_the_stream_moves_no_lease_however_long_it_lasts() {
    for kind in [SourceErrorKind::Unavailable, SourceErrorKind::Throttled] {
        moves_no_lease(
            &format!("{kind:?}"),
            |fleet| {
                for name in MEMBERS {
                    for call in [StreamCall::Open, StreamCall::Next, StreamCall::Shards] {
                        let rule = StreamFaultRule::every(call, StreamFault::Fail(kind));
                        fleet.source_faults(name).add(rule);
                    }
                }
            },
            |fleet| MEMBERS.iter().for_each(|name| fleet.source_faults(name).clear()),
        );
    }
}

#[test]
fn a_worker_that_comes_while_the_lease_store_is_out_begins_when_it_is_back() {
    simulate(3, async |fleet| {
        start(&fleet, &["a", "b"]).await;
        fleet.produce(SECOND / 10, 10);
        each_store(&fleet, &["a", "b"], |faults| faults.set_link(Link::Refusing));
        fleet.start_worker("c", fleet.settings());
        fleet.store_faults("c").set_link(Link::Refusing);
        fleet.sleep(30 * SECOND).await;
        each_store(&fleet, &["a", "b", "c"], |faults| faults.set_link(Link::Up));
        balanced(&fleet, &["a", "b", "c"]).await;
        fleet.stop_producing();
        fleet.settle().await;
        assert_eq!(fleet.view().tally().redelivered, 0);
    });
}
