use super::*;
use crate::source::shard_graph::testing::{id, identity};
use crate::types::{StreamKey, Timestamp};

const LOW: u128 = u128::MAX / 2;

fn child(n: u128, parents: &[u128], start: u128, end: u128) -> ChildShard {
    ChildShard {
        id: id(n),
        parents: parents.iter().copied().map(id).collect(),
        hash_range: HashKeyRange::new(start, end).unwrap(),
    }
}

fn parent() -> Lease {
    let mut lease = Lease::unowned(id(1), Position::Latest);
    lease.hash_range = Some(HashKeyRange::WHOLE);
    lease.identity = Some(identity());
    lease.pinned_start = Some(Timestamp::from_millis(7));
    lease
}

fn split() -> ShardEnd {
    ShardEnd {
        children: vec![child(3, &[1], LOW + 1, u128::MAX), child(2, &[1], 0, LOW)],
    }
}

fn plan(
    parent: &Lease,
    end: &ShardEnd,
    leased: &[u128],
    unlisted: &[u128],
) -> Result<ChildPlan, InvalidShardEnd> {
    let set = |ids: &[u128]| ids.iter().copied().map(id).collect::<BTreeSet<_>>();
    let family = ShardFamily {
        leased: &set(leased),
        unlisted: &set(unlisted),
    };
    plan_children(parent, end, family, |_| None)
}

fn created(plan: &ChildPlan) -> Vec<ShardId> {
    match plan {
        ChildPlan::Create { leases, .. } => leases.iter().map(|lease| lease.shard.clone()).collect(),
        ChildPlan::LookUp | ChildPlan::AwaitParents(_) => panic!("{plan:?}"),
    }
}

#[test]
fn children_start_at_beginning_with_limits_of_owner() {
    let worker = WorkerId::new("w-1").unwrap();
    let mut room = 1;
    let nothing = BTreeSet::new();
    let family = ShardFamily {
        leased: &nothing,
        unlisted: &nothing,
    };
    let plan = plan_children(&parent(), &split(), family, |_| {
        let has_room = room > 0;
        room -= 1;
        has_room.then(|| worker.clone())
    })
    .unwrap();
    let ChildPlan::Create { leases, children } = plan else {
        panic!()
    };
    assert_eq!(children, BTreeSet::from([id(2), id(3)]));
    assert_eq!(leases[0].owner, Some(worker));
    assert_eq!(leases[1].owner, None);
    for lease in leases {
        assert_eq!(lease.checkpoint, Position::TrimHorizon);
        assert_eq!(
            (lease.counter, lease.pinned_start),
            (0, Some(Timestamp::from_millis(7)))
        );
        assert_eq!(lease.parents, BTreeSet::from([id(1)]));
        assert_eq!(lease.identity, Some(identity()));
        assert_eq!(lease.key, LeaseKeyOf::single(&lease.shard));
    }
}

struct LeaseKeyOf;
impl LeaseKeyOf {
    fn single(shard: &ShardId) -> crate::types::LeaseKey {
        LeaseKeyScheme::SingleStream.key(shard).unwrap()
    }
}

#[test]
fn a_child_is_keyed_like_its_parent() {
    let mut parent = parent();
    let stream = StreamKey::new("111122223333:trucks:1000").unwrap();
    parent.stream = Some(stream.clone());
    let ChildPlan::Create { leases, .. } = plan(&parent, &split(), &[], &[]).unwrap() else {
        panic!()
    };
    assert_eq!(
        leases[0].key.as_str(),
        "111122223333:trucks:1000:shardId-000000000002"
    );
    assert_eq!(leases[0].stream, Some(stream));
}

#[test]
fn doing_it_again_creates_only_what_is_missing() {
    assert_eq!(created(&plan(&parent(), &split(), &[2], &[]).unwrap()), [id(3)]);
    assert_eq!(created(&plan(&parent(), &split(), &[2, 3], &[]).unwrap()), []);
}

#[test]
fn merge_waits_until_other_parent_leased_or_gone() {
    let end = ShardEnd {
        children: vec![child(5, &[1, 4], 0, u128::MAX)],
    };
    let other = BTreeSet::from([id(4)]);
    assert_eq!(
        plan(&parent(), &end, &[], &[]),
        Ok(ChildPlan::AwaitParents(other))
    );
    assert_eq!(created(&plan(&parent(), &end, &[4], &[]).unwrap()), [id(5)]);
    assert_eq!(created(&plan(&parent(), &end, &[], &[4]).unwrap()), [id(5)]);
    // The other parent ended first, created the child, and was cleaned up.
    assert_eq!(created(&plan(&parent(), &end, &[5], &[]).unwrap()), []);
}

#[test]
fn a_child_that_names_another_parent_is_refused() {
    let end = ShardEnd {
        children: vec![child(2, &[9], 0, u128::MAX)],
    };
    let error = plan(&parent(), &end, &[], &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "shardId-000000000002 is told as a child of shardId-000000000001 and does not name it as a parent"
    );
    let end = ShardEnd {
        children: vec![child(1, &[1], 0, u128::MAX)],
    };
    assert!(plan(&parent(), &end, &[], &[]).is_err());
}

#[test]
fn half_a_split_is_refused() {
    let end = ShardEnd {
        children: vec![child(2, &[1], 0, LOW)],
    };
    assert_eq!(
        plan(&parent(), &end, &[], &[]),
        Err(InvalidShardEnd::Incomplete {
            parent: id(1),
            hole: HashKeyRange::new(LOW + 1, u128::MAX).unwrap(),
        })
    );
}

#[test]
fn open_shards_without_parents_replace_a_closed_one() {
    let listed = |n: u128, parents: &[u128], range: (u128, u128), closed: bool| Shard {
        id: id(n),
        parents: parents.iter().copied().map(id).collect(),
        hash_range: HashKeyRange::new(range.0, range.1).unwrap(),
        starting_sequence: n.into(),
        closed,
    };
    let whole = (0, u128::MAX);
    let replaced = |shards: &[Shard]| is_replaced(&ShardGraph::new(shards.iter().cloned()), &id(1));
    let closed = listed(1, &[], whole, true);
    let low = listed(2, &[], (0, LOW), false);
    let high = listed(3, &[], (LOW + 1, u128::MAX), false);
    assert!(replaced(&[closed.clone(), low.clone(), high.clone()]));
    assert!(!replaced(&[closed.clone(), low.clone()]), "a hash key is missing");
    let child = listed(3, &[1], (LOW + 1, u128::MAX), false);
    assert!(!replaced(&[closed, low.clone(), child]), "it has a child");
    assert!(
        !replaced(&[listed(1, &[], whole, false), low, high]),
        "it is open"
    );
}

#[test]
fn source_that_cannot_tell_defers_to_listing() {
    assert_eq!(
        plan(&parent(), &ShardEnd::default(), &[], &[]),
        Ok(ChildPlan::LookUp)
    );
    let listed = |child: ChildShard| Shard {
        id: child.id,
        parents: child.parents,
        hash_range: child.hash_range,
        starting_sequence: 9_u128.into(),
        closed: false,
    };
    let mut shards: Vec<Shard> = split().children.into_iter().map(listed).collect();
    shards.push(crate::source::shard_graph::testing::shard(1, &[], 1));
    let graph = ShardGraph::new(shards);
    let end = children_from_listing(&graph, &id(1));
    assert_eq!(created(&plan(&parent(), &end, &[], &[]).unwrap()), [id(2), id(3)]);
    assert_eq!(children_from_listing(&graph, &id(2)), ShardEnd::default());

    let without_parent = graph.in_lineage_order().filter(|shard| shard.id != id(1));
    let graph = ShardGraph::new(without_parent.cloned());
    assert_eq!(children_from_listing(&graph, &id(1)), end);
    assert_eq!(children_from_listing(&graph, &id(2)), ShardEnd::default());
}
