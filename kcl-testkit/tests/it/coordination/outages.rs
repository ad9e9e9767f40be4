//! The services fail for everybody. Nothing comes twice, however long that lasts, and everything goes on when it is over.

use std::time::Duration;

use kcl_core::settings::Settings;
use kcl_core::source::SourceErrorKind;
use kcl_testkit::faults::Link;
use kcl_testkit::faulty_stream::{StreamCall, StreamFault, StreamFaultRule};
use kcl_testkit::fleet::Simulation;
use kcl_testkit::simulate_fleet;

use crate::coordination::support::{SECOND, balanced, each_store, start};

const MEMBERS: [&str; 3] = ["a", "b", "c"];
/// From less than a renewal to longer than any timeout there is.
const LENGTHS: [u64; 5] = [1, 5, 100, 1000, 2 * 3600];

/// Runs a fleet under load while its stream fails like this for so many seconds. Nothing comes twice, and everything goes on after it.
/// Says how often a lease changed hands.
fn moves_while_the_stream_fails(kind: SourceErrorKind, seconds: u64) -> usize {
    Simulation::new(seconds).shards(6).run(async |fleet| {
        start(&fleet, &MEMBERS).await;
        fleet.produce(SECOND / 10, 10);
        fleet.sleep(2 * SECOND).await;
        let before = fleet.view().moves().len();
        for name in MEMBERS {
            for call in [StreamCall::Open, StreamCall::Next, StreamCall::Shards] {
                let rule = StreamFaultRule::every(call, StreamFault::Fail(kind));
                fleet.source_faults(name).add(rule);
            }
        }
        fleet.sleep(Duration::from_secs(seconds.min(60))).await;
        // Nobody reads a hundred thousand records in vain.
        fleet.stop_producing();
        fleet.sleep(Duration::from_secs(seconds.saturating_sub(60))).await;
        MEMBERS.iter().for_each(|name| fleet.source_faults(name).clear());
        fleet.produce(SECOND / 10, 10);
        fleet.sleep(10 * SECOND).await;
        fleet.stop_producing();
        fleet.settle().await;
        let moves = fleet.view().moves().len() - before;
        assert_eq!(fleet.view().tally().redelivered, 0, "{kind:?} for {seconds} s");
        // And whatever happens next is answered as ever.
        fleet.kill("c");
        fleet.put(60);
        fleet.settle().await;
        moves
    })
}

#[test]
fn throttling_of_stream_moves_no_lease() {
    for seconds in LENGTHS {
        let moves = moves_while_the_stream_fails(SourceErrorKind::Throttled, seconds);
        assert_eq!(moves, 0, "{seconds} s");
    }
}

/// A worker that cannot reach the stream for that long leaves its shards to others, since it cannot distinguish a stream that is out from a way to
/// it that is. While everybody fails they go round, slowly: each time a lease is given up, and perhaps once more for the balance.
#[test]
fn unreachable_stream_moves_lease_once_in_four_minutes() {
    let settings = Settings::default();
    let patience = settings.reading.stall_timeout.as_secs() * u64::from(settings.reading.stall_tries + 1);
    for seconds in LENGTHS {
        let moves = moves_while_the_stream_fails(SourceErrorKind::Unavailable, seconds);
        let most = usize::try_from(seconds / patience).unwrap() * 6 * 2;
        assert!(
            moves <= most,
            "{seconds} s: {moves} moves of 6 leases, {most} at most"
        );
    }
}

#[test]
fn worker_joining_during_store_outage_begins_after_it() {
    simulate_fleet(3, async |fleet| {
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
