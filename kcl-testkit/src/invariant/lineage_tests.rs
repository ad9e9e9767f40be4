use super::*;
use crate::invariant::tests::{FAILOVER, Story, breaks, key, seconds};
use kcl_core::types::{HashKeyRange, Position, ShardId};

/// Shard 0 was read to its end and split into 1 and 2, which have leases.
fn split() -> Story {
    let mut story = Story::new(1);
    story.own("a", 0, 0);
    let token = story.token(0);
    story.batch("a", 1, 0, token, 1..=10).unwrap();
    story.finish("a", 1, 0);
    story.open(1, &[0]);
    story.open(2, &[0]);
    story.end("a", 2, 0).unwrap();
    story
}

/// Something of the shard is processed and stored.
fn begin(story: &mut Story, n: u8) {
    story.own("a", 3, n);
    let token = story.token(n);
    story.batch("a", 4, n, token, 1..=5).unwrap();
    story.finish("a", 4, n);
    story.checkpoint("a", 4, n, 5).unwrap();
}

#[test]
fn a_lease_goes_once_all_its_children_have_begun() {
    let mut story = split();
    begin(&mut story, 1);
    let mut early = story.checker.clone();
    let delete = story.written("leader", 5, 0, LeaseChange::Delete);
    breaks(
        early.observe(&Observation::Written(Box::new(delete))),
        Invariant::CleanupSafe,
    );
    begin(&mut story, 2);
    story.write("leader", 5, 0, LeaseChange::Delete).unwrap();
}

#[test]
fn a_lease_that_is_not_ended_goes_only_with_its_shard() {
    let mut story = Story::new(1);
    let mut early = story.checker.clone();
    let delete = Observation::Written(Box::new(story.written("leader", 5, 0, LeaseChange::Delete)));
    breaks(early.observe(&delete), Invariant::CleanupSafe);
    story.see(Observation::ShardForgotten { shard: key(0) }).unwrap();
    story.see(delete).unwrap();
}

#[test]
fn a_child_whose_own_lease_was_cleaned_up_needs_its_parent_no_more() {
    let mut story = split();
    for child in [1, 2] {
        begin(&mut story, child);
        let token = story.token(child);
        let all = story.batch("a", 5, child, token - 1, 6..=10);
        all.unwrap();
        story.finish("a", 5, child);
        story.end("a", 5, child).unwrap();
        story.write("leader", 6, child, LeaseChange::Delete).unwrap();
    }
    story.write("leader", 7, 0, LeaseChange::Delete).unwrap();
}

#[test]
fn a_row_taken_away_by_hand_is_no_cleanup_and_its_shard_lacks_a_lease() {
    let mut story = Story::new(2);
    assert_eq!(story.checker.lacking().count(), 0);
    story.see(Observation::Removed { key: key(1) }).unwrap();
    assert_eq!(story.checker.lacking().collect::<Vec<_>>(), [&key(1)]);
}

#[test]
fn a_child_lacks_a_lease_only_once_its_parents_are_finished() {
    let mut story = split();
    story.see(Observation::Removed { key: key(2) }).unwrap();
    let opened = |shard, parents| Observation::ShardOpened {
        shard: key(shard),
        parents,
    };
    story.see(opened(3, vec![key(1)])).unwrap();
    assert_eq!(story.checker.lacking().collect::<Vec<_>>(), [&key(2)]);
    story.see(opened(4, vec![])).unwrap();
    story.see(Observation::ShardForgotten { shard: key(1) }).unwrap();
    assert_eq!(
        story.checker.lacking().collect::<Vec<_>>(),
        [&key(2), &key(3), &key(4)]
    );
}

#[test]
fn leases_at_rest_cover_every_hash_key_once() {
    let halves = <[_; 2]>::from(HashKeyRange::WHOLE.halves().unwrap());
    let rows = |ranges: &[HashKeyRange]| {
        let mut story = Story::default();
        for (n, range) in (0..).zip(ranges) {
            let lease = Lease {
                hash_range: Some(*range),
                ..Lease::unowned(ShardId::new(key(n).as_str()).unwrap(), Position::TrimHorizon)
            };
            story
                .write("leader", 0, n, LeaseChange::Create(Box::new(lease)))
                .unwrap();
        }
        story.checker.at_rest()
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
    let mut story = Story::default();
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
        story.see(written(LockChange::Hold(row.clone()))).unwrap();
        assert_eq!(story.checker.lock(), Some(&row));
        let version = row.version;
        story
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
    assert_eq!(story.checker.tally().leader_changes, 1);
    assert_eq!(story.checker.lock(), None);
}
