//! The plan of the worker that ends a shard: the leases of the shards that it became.
//!
//! Children first, then the end of the parent. A child's lease exists only while each other parent has one or is gone:
//! on that rests the rule by which a sync takes a shard without a lease for read (see [`plan_sync`](crate::coordinator::shard_sync::plan::plan_sync)).

use std::collections::BTreeSet;

use crate::lease::key_scheme::LeaseKeyScheme;
use crate::lease::row::Lease;
use crate::runtime::failpoint::failpoint;
use crate::source::shard_graph::{ShardGraph, uncovered};
use crate::source::{ChildShard, Shard, ShardEnd};
use crate::types::{HashKeyRange, Position, ShardId, WorkerId};

/// The known facts about the relatives of an ending shard, from strong reads of their rows.
#[derive(Debug, Clone, Copy)]
pub struct ShardFamily<'a> {
    /// The children, and the children's other parents, that have a lease.
    pub leased: &'a BTreeSet<ShardId>,
    /// The children's other parents that are no longer listed.
    pub unlisted: &'a BTreeSet<ShardId>,
}

/// The next step at the end of a shard.
#[derive(Debug, Clone, PartialEq)]
pub enum ChildPlan {
    /// Create these leases, each expecting that there is none, then end the parent with these children.
    Create {
        /// The leases that are missing, by shard id. Those with an owner have counter 0: owning begins with the first renewal.
        leases: Vec<Lease>,
        /// All the children, for the row of the parent.
        children: BTreeSet<ShardId>,
    },
    /// The source does not name the children. Look them up with `children_from_listing` and plan again; hold while there are none.
    LookUp,
    /// A child also came from these shards, which are listed and have no lease. A sync must create theirs first: hold until it has.
    AwaitParents(BTreeSet<ShardId>),
}

/// The end of a shard makes no sense. The shard is held, not ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidShardEnd {
    /// A child does not name the shard that became it.
    #[error("{child} is told as a child of {parent} and does not name it as a parent")]
    NotAChild {
        /// The shard that ended.
        parent: ShardId,
        /// The shard that is named as its child.
        child: ShardId,
    },
    /// The children do not receive all the hash keys of the shard: one is missing.
    #[error("the children of {parent} leave the hash keys {hole} without a shard")]
    Incomplete {
        /// The shard that ended.
        parent: ShardId,
        /// The first hash keys that no child receives.
        hole: HashKeyRange,
    },
    /// No key can be made for a child.
    #[error("the child {child} of {parent} cannot have a lease key")]
    NoKey {
        /// The shard that ended.
        parent: ShardId,
        /// The child.
        child: ShardId,
    },
}

/// Decides what to create when a shard is read to its end.
///
/// A child is read from its beginning, wherever its parent was started: it opened after that. `owner` names the worker that
/// begins as the owner of a child, or nobody; it is asked for the missing children only, in the order of their ids.
///
/// # Errors
///
/// `InvalidShardEnd`: hold the shard and ask the source again.
pub fn plan_children(
    parent: &Lease,
    end: &ShardEnd,
    family: ShardFamily<'_>,
    mut owner: impl FnMut(&ChildShard) -> Option<WorkerId>,
) -> Result<ChildPlan, InvalidShardEnd> {
    if end.children.is_empty() {
        return Ok(ChildPlan::LookUp);
    }
    check_end(parent, end)?;
    let mut in_order: Vec<&ChildShard> = end.children.iter().collect();
    in_order.sort_by(|a, b| a.id.cmp(&b.id));
    in_order.dedup_by(|a, b| a.id == b.id);
    let missing = || in_order.iter().filter(|child| !family.leased.contains(&child.id));
    let awaited: BTreeSet<ShardId> = missing()
        .flat_map(|child| &child.parents)
        .filter(|shard| **shard != parent.shard)
        .filter(|shard| !family.leased.contains(shard) && !family.unlisted.contains(shard))
        .cloned()
        .collect();
    if !awaited.is_empty() {
        return Ok(ChildPlan::AwaitParents(awaited));
    }
    let forgotten = usize::from(failpoint!(ForgottenChild));
    let leases = missing()
        .skip(forgotten)
        .map(|child| new_child(parent, child, owner(child)))
        .collect::<Result<_, _>>()?;
    Ok(ChildPlan::Create {
        leases,
        children: in_order.iter().map(|child| child.id.clone()).collect(),
    })
}

/// Checks that these are children of the shard, and that they receive all its hash keys.
pub(crate) fn check_end(parent: &Lease, end: &ShardEnd) -> Result<(), InvalidShardEnd> {
    let stranger = end
        .children
        .iter()
        .find(|child| child.id == parent.shard || !child.parents.contains(&parent.shard));
    if let Some(child) = stranger {
        return Err(InvalidShardEnd::NotAChild {
            parent: parent.shard.clone(),
            child: child.id.clone(),
        });
    }
    let ranges = end.children.iter().map(|child| child.hash_range);
    let hole = parent
        .hash_range
        .and_then(|whole| uncovered(whole, ranges).holes.first().copied());
    match hole {
        None => Ok(()),
        Some(hole) => Err(InvalidShardEnd::Incomplete {
            parent: parent.shard.clone(),
            hole,
        }),
    }
}

fn new_child(parent: &Lease, child: &ChildShard, owner: Option<WorkerId>) -> Result<Lease, InvalidShardEnd> {
    let keying = match &parent.stream {
        None => LeaseKeyScheme::SingleStream,
        Some(stream) => LeaseKeyScheme::MultiStream(stream.clone()),
    };
    let start = match failpoint!(ChildAtLatest) {
        true => Position::Latest,
        false => Position::TrimHorizon,
    };
    let mut lease = Lease::unowned(child.id.clone(), start);
    lease.key = keying.key(&child.id).map_err(|_| InvalidShardEnd::NoKey {
        parent: parent.shard.clone(),
        child: child.id.clone(),
    })?;
    lease.stream.clone_from(&parent.stream);
    lease.owner = owner;
    lease.parents.clone_from(&child.parents);
    lease.hash_range = Some(child.hash_range);
    lease.identity.clone_from(&parent.identity);
    // Reading begins at TRIM_HORIZON; the pin is handed down so that the application's start outlives the first leases.
    lease.pinned_start = parent.pinned_start;
    Ok(lease)
}

/// The end of a shard as a listing shows it, for a source that names no children.
///
/// A listing may lag: no child, or not all of them, is found out by [`plan_children`]. It need not show the shard itself, which may be gone.
pub(crate) fn children_from_listing(graph: &ShardGraph, shard: &ShardId) -> ShardEnd {
    // The graph links listed shards only.
    let children: Vec<&Shard> = match graph.contains(shard) {
        true => graph.children(shard).collect(),
        false => graph
            .in_lineage_order()
            .filter(|child| child.parents.contains(shard))
            .collect(),
    };
    let child = |child: &Shard| ChildShard {
        id: child.id.clone(),
        parents: child.parents.clone(),
        hash_range: child.hash_range,
    };
    ShardEnd {
        children: children.into_iter().map(child).collect(),
    }
}

/// Whether other shards took the place of this closed shard without being its children: some servers list what a change of the number of
/// shards makes without parents. Each hash key of the shard belongs to an open shard then, and each of these is read on its own.
pub(crate) fn is_replaced(graph: &ShardGraph, shard: &ShardId) -> bool {
    let Some(closed) = graph.get(shard).filter(|shard| shard.closed) else {
        return false;
    };
    let open = graph.in_lineage_order().filter(|other| !other.closed);
    let ranges = open.map(|other| other.hash_range);
    graph.children(shard).next().is_none() && uncovered(closed.hash_range, ranges).is_whole()
}

#[cfg(test)]
mod tests {
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
    fn children_start_at_their_beginning_with_the_limits_of_their_owner() {
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
    fn a_merge_waits_until_the_other_parent_has_a_lease_or_is_gone() {
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
    fn a_source_that_cannot_tell_sends_the_caller_to_the_listing() {
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
}
