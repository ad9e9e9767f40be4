//! Mistakes that the oracle must find, and the traces of a seed.

use kcl_core::lease_store::OwnerNotes;

use super::*;

/// A fleet with a member whose clock is this wrong, and which loses its connection to the lease store.
fn cut_off_with_a_slow_clock(rate_ppm: i32) {
    simulate_fleet(16, async |fleet| {
        let slow = Skew {
            rate_ppm,
            ..Skew::default()
        };
        fleet.start(Member::named("a").skew(slow));
        fleet.start_worker("b", fleet.settings());
        balanced(&fleet, &["a", "b"]).await;
        fleet.produce(SECOND / 20, 10);
        fleet.sleep(2 * SECOND).await;
        fleet.store_faults("a").set_link(Link::Refusing);
        fleet.sleep(20 * SECOND).await;
        fleet.store_faults("a").set_link(Link::Up);
        fleet.stop_producing();
        fleet.settle().await;
        assert_eq!(fleet.view().tally().longest_overlap, Duration::ZERO);
    });
}

#[test]
fn cut_off_worker_with_slow_clock_stops_first() {
    cut_off_with_a_slow_clock(-50_000);
}

#[test]
#[should_panic(expected = "I7")]
fn clock_slower_than_margin_is_found() {
    cut_off_with_a_slow_clock(-500_000);
}

#[test]
#[should_panic(expected = "I4")]
fn unlawful_write_is_found_by_oracle() {
    simulate_fleet(17, async |fleet| {
        fleet.start_worker("a", fleet.settings());
        balanced(&fleet, &["a"]).await;
        // Behind the oracle's back: the next write that it sees is based on a version that it does not know.
        let lease = fleet.view().leases().remove(0);
        let renew = LeaseChange::Renew {
            notes: OwnerNotes::NONE,
            facts: RowFacts::NONE,
        };
        let incarnation = lease.stamp.unwrap().incarnation;
        let expect = Expect::Version(lease.version());
        let written = fleet
            .store()
            .change(&lease.key, &expect, &renew, incarnation)
            .await;
        assert!(matches!(written, Ok(Outcome::Applied(_))));
        fleet.sleep(20 * SECOND).await;
    });
}

#[test]
fn same_seed_gives_same_run() {
    let run = |seed| {
        simulate_fleet(seed, async |fleet| {
            three_workers(&fleet).await;
            fleet.produce(SECOND / 10, 20);
            fleet.sleep(SECOND).await;
            let shards = fleet.open_shards();
            fleet.split(&shards[0]).unwrap();
            fleet.sleep(SECOND).await;
            fleet.kill("b");
            fleet.sleep(10 * SECOND).await;
            fleet.stop_producing();
            fleet.settle().await;
            fleet.trace_hash()
        })
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn broken_invariant_ends_scenario_and_is_named() {
    let simulation = Simulation::new(1).trace_lines(0);
    let outcome: Result<(), _> = simulation.attempt(async |fleet| {
        fleet.start_worker("a", fleet.settings());
        fleet.settle().await;
        // Somebody takes a lease from its owner, which is the owner's to give.
        let lease = fleet.view().leases().swap_remove(0);
        let seen = Expect::Version(lease.version());
        fleet
            .change_lease(&lease.key, seen, LeaseChange::Release)
            .await
            .unwrap();
        fleet.sleep(SECOND).await;
        unreachable!("the scenario goes no further");
    });
    let violation = outcome.unwrap_err();
    assert_eq!(violation.invariant, Invariant::SingleWriter);
}
