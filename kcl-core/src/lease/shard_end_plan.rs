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
    lease.orders = parent
        .orders
        .as_ref()
        .and_then(|orders| orders.of_child())
        .map(Box::new);
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
mod tests;
