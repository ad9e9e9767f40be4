use kcl_core::lease_store::{LeaderLock, Lease, LeaseChange, LockChange, LockExpect};
use kcl_core::types::{HashKeyRange, Position, ShardId, WorkerId};

use super::tests::{FAILOVER, Scenario, breaks, key, seconds};
use super::*;

/// Shard 0 was read to its end and split into 1 and 2, which have leases.
fn split() -> Scenario {
    let mut scenario = Scenario::new(1);
    scenario.own("a", 0, 0);
    let token = scenario.token(0);
    scenario.batch("a", 1, 0, token, 1..=10).unwrap();
    scenario.finish("a", 1, 0);
    scenario.open(1, &[0]);
    scenario.open(2, &[0]);
    scenario.end("a", 2, 0).unwrap();
    scenario
}

/// Something of the shard is processed and stored.
fn begin(scenario: &mut Scenario, n: u8) {
    scenario.own("a", 3, n);
    let token = scenario.token(n);
    scenario.batch("a", 4, n, token, 1..=5).unwrap();
    scenario.finish("a", 4, n);
    scenario.checkpoint("a", 4, n, 5).unwrap();
}

#[test]
fn lease_goes_once_all_its_children_have_begun() {
    let mut scenario = split();
    begin(&mut scenario, 1);
    let mut early = scenario.checker.clone();
    let delete = scenario.written("leader", 5, 0, LeaseChange::Delete);
    breaks(
        early.observe(&Observation::Written(Box::new(delete))),
        Invariant::CleanupSafe,
    );
    begin(&mut scenario, 2);
    scenario.write("leader", 5, 0, LeaseChange::Delete).unwrap();
}

#[test]
fn unfinished_lease_goes_only_with_its_shard() {
    let mut scenario = Scenario::new(1);
    let mut early = scenario.checker.clone();
    let delete = Observation::Written(Box::new(scenario.written("leader", 5, 0, LeaseChange::Delete)));
    breaks(early.observe(&delete), Invariant::CleanupSafe);
    scenario
        .see(Observation::ShardForgotten { shard: key(0) })
        .unwrap();
    scenario.see(delete).unwrap();
}

#[test]
fn child_whose_lease_was_deleted_needs_no_parent() {
    let mut scenario = split();
    for child in [1, 2] {
        begin(&mut scenario, child);
        let token = scenario.token(child);
        let all = scenario.batch("a", 5, child, token - 1, 6..=10);
        all.unwrap();
        scenario.finish("a", 5, child);
        scenario.end("a", 5, child).unwrap();
        scenario.write("leader", 6, child, LeaseChange::Delete).unwrap();
    }
    scenario.write("leader", 7, 0, LeaseChange::Delete).unwrap();
}

#[test]
fn row_removed_by_hand_is_no_cleanup() {
    let mut scenario = Scenario::new(2);
    assert_eq!(scenario.checker.lacking().count(), 0);
    scenario.see(Observation::Removed { key: key(1) }).unwrap();
    assert_eq!(scenario.checker.lacking().collect::<Vec<_>>(), [&key(1)]);
}

#[test]
fn child_lacks_lease_once_its_parents_are_finished() {
    let mut scenario = split();
    scenario.see(Observation::Removed { key: key(2) }).unwrap();
    let opened = |shard, parents| Observation::ShardOpened {
        shard: key(shard),
        parents,
    };
    scenario.see(opened(3, vec![key(1)])).unwrap();
    assert_eq!(scenario.checker.lacking().collect::<Vec<_>>(), [&key(2)]);
    scenario.see(opened(4, vec![])).unwrap();
    scenario
        .see(Observation::ShardForgotten { shard: key(1) })
        .unwrap();
    assert_eq!(
        scenario.checker.lacking().collect::<Vec<_>>(),
        [&key(2), &key(3), &key(4)]
    );
}

#[test]
fn leases_at_rest_cover_every_hash_key_once() {
    let halves = <[_; 2]>::from(HashKeyRange::WHOLE.halves().unwrap());
    let rows = |ranges: &[HashKeyRange]| {
        let mut scenario = Scenario::default();
        for (n, range) in (0..).zip(ranges) {
            let lease = Lease {
                hash_range: Some(*range),
                ..Lease::unowned(ShardId::new(key(n).as_str()).unwrap(), Position::TrimHorizon)
            };
            scenario
                .write("leader", 0, n, LeaseChange::Create(Box::new(lease)))
                .unwrap();
        }
        scenario.checker.at_rest()
    };
    assert_eq!(rows(&halves), Ok(()));
    breaks(rows(&halves[1..]), Invariant::LineageComplete);
    breaks(
        rows(&[halves[0], HashKeyRange::WHOLE]),
        Invariant::LineageComplete,
    );
}

#[test]
fn whoever_takes_the_leader_lock_is_counted() {
    let mut scenario = Scenario::default();
    for (process, expect, second) in [("a", LockExpect::Absent, 0), ("b", LockExpect::Absent, 1)] {
        let row = LeaderLock {
            owner: WorkerId::new(process).unwrap(),
            duration: FAILOVER,
            version: second.to_string(),
            released: false,
            standby: None,
        };
        let written = |change| Observation::LockWritten {
            process: process.into(),
            expect: expect.clone(),
            change,
            at: seconds(second),
        };
        scenario.see(written(LockChange::Hold(row.clone()))).unwrap();
        assert_eq!(scenario.checker.lock(), Some(&row));
        let version = row.version;
        scenario
            .see(Observation::LockWritten {
                process: process.into(),
                expect: LockExpect::Version {
                    version,
                    owner: row.owner,
                },
                change: LockChange::Release,
                at: seconds(second),
            })
            .unwrap();
    }
    assert_eq!(scenario.checker.tally().leader_changes, 1);
    assert_eq!(scenario.checker.lock(), None);
}
