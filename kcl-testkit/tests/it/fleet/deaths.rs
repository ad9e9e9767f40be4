//! Workers that crash, freeze and leave.

use super::*;

#[test]
fn crash_of_follower_is_failed_over_in_time() {
    for seed in 0..10 {
        simulate_fleet(seed, async |fleet| {
            three_workers(&fleet).await;
            fleet.put(100);
            fleet.settle().await;
            let victim = follower(&fleet);
            let orphans = fleet.view().held(victim);
            fleet.sleep(Duration::from_millis(137 * seed)).await;
            fleet.kill(victim);
            let took = taken_over_from(&fleet, victim, &orphans).await;
            fleet.settle().await;
            assert!(
                took <= fleet.settings().leases.failover_time + 2 * SECOND,
                "seed {seed}: {took:?}"
            );
        });
    }
}

#[test]
fn crash_of_leader_is_failed_over_as_fast() {
    for seed in 0..10 {
        simulate_fleet(seed, async |fleet| {
            three_workers(&fleet).await;
            fleet.put(100);
            fleet.settle().await;
            let victim = leader(&fleet);
            let orphans = fleet.view().held(&victim);
            fleet.sleep(Duration::from_millis(137 * seed)).await;
            fleet.kill(&victim);
            let took = taken_over_from(&fleet, &victim, &orphans).await;
            fleet.settle().await;
            assert!(
                took <= fleet.settings().leases.failover_time + 2 * SECOND,
                "seed {seed}: {took:?}"
            );
        });
    }
}

#[test]
fn split_merge_and_crash_lose_nothing() {
    #[expect(
        clippy::disallowed_methods,
        reason = "how much real time the virtual time costs is the point"
    )]
    let real = std::time::Instant::now;
    let begun = real();
    let virtually = simulate_fleet(4, async |fleet| {
        three_workers(&fleet).await;
        fleet.produce(SECOND / 10, 20);
        fleet.sleep(2 * SECOND).await;
        let shards = fleet.open_shards();
        fleet.split(&shards[0]).unwrap();
        fleet.sleep(SECOND).await;
        fleet.merge(&shards[1], &shards[2]).unwrap();
        fleet.sleep(SECOND / 2).await;
        fleet.kill(follower(&fleet));
        fleet.sleep(8 * SECOND).await;
        fleet.stop_producing();
        fleet.settle().await;
        let tally = fleet.view().tally();
        assert_eq!(tally.finished, tally.put);
        assert_eq!(fleet.open_shards().len(), 4);
        fleet.now().since_origin()
    });
    let took = real() - begun;
    println!("{virtually:?} of three workers with a split, a merge and a crash took {took:?}");
    assert!(took < SECOND, "{took:?}");
}

#[test]
fn asked_worker_hands_over_without_repetition() {
    simulate_fleet(5, async |fleet| {
        three_workers(&fleet).await;
        fleet.produce(SECOND / 20, 10);
        fleet.sleep(3 * SECOND).await;
        for name in [leader(&fleet).as_str(), follower(&fleet)] {
            let begun = fleet.now();
            let report = fleet.drain(name).await.unwrap();
            assert!(report.is_clean(), "{report:?}");
            assert!(fleet.now().saturating_since(begun) < 5 * SECOND);
            fleet.sleep(3 * SECOND).await;
            if name == "a" {
                break;
            }
        }
        fleet.stop_producing();
        fleet.settle().await;
        assert_eq!(fleet.view().tally().redelivered, 0);
    });
}

#[test]
fn frozen_worker_does_nothing_after_its_deadline() {
    for seed in 0..5 {
        simulate_fleet(seed, async |fleet| {
            three_workers(&fleet).await;
            fleet.produce(SECOND / 20, 10);
            fleet.sleep(2 * SECOND).await;
            let frozen = if seed % 2 == 0 {
                leader(&fleet)
            } else {
                follower(&fleet).to_owned()
            };
            let before = fleet.view().tokens(&frozen);
            fleet.freeze(&frozen);
            fleet.sleep(3 * fleet.settings().leases.failover_time).await;
            let orphans: BTreeSet<_> = before.keys().cloned().collect();
            for shard in &orphans {
                assert_ne!(fleet.view().busy_with(shard), Some(frozen.clone()), "seed {seed}");
            }
            fleet.thaw(&frozen);
            fleet.sleep(SECOND).await;
            let after = fleet.view().tokens(&frozen);
            assert!(
                before.iter().all(|(key, token)| after.get(key) != Some(token)),
                "seed {seed}"
            );
            balanced(&fleet, &MEMBERS).await;
            fleet.stop_producing();
            fleet.settle().await;
            assert_eq!(fleet.view().tally().longest_overlap, Duration::ZERO);
        });
    }
}

#[test]
fn older_of_two_workers_with_one_id_stops() {
    simulate_fleet(14, async |fleet| {
        fleet.start(Member::named("old").worker_id("w"));
        fleet.produce(SECOND / 10, 10);
        balanced(&fleet, &["old"]).await;
        fleet.start(Member::named("new").worker_id("w"));
        let error = fleet.stopped("old").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Superseded);
        assert!(
            error.to_string().contains("\"w\"") || error.to_string().contains('w'),
            "{error}"
        );
        fleet.stop_producing();
        fleet.settle().await;
        assert_eq!(fleet.view().held("new").len(), 4);
    });
}

#[test]
fn leader_frozen_beyond_its_term_assigns_again() {
    for tenths in 5..20 {
        simulate_fleet(18, async |fleet| {
            fleet.start_worker("a", fleet.settings());
            balanced(&fleet, &["a"]).await;
            fleet.freeze("a");
            fleet
                .sleep(fleet.settings().leases.failover_time * tenths / 10)
                .await;
            fleet.thaw("a");
            fleet.sleep(SECOND).await;
            fleet.start_worker("b", fleet.settings());
            balanced(&fleet, &["a", "b"]).await;
        });
    }
}
