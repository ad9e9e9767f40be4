//! Decides which leases are missing, and where reading starts in each.
//!
//! **Which shards get a lease.** One generation per line of descent: the oldest shards that still need reading. Their
//! children get theirs when the worker that ends a parent creates them; a sync creates a child only when a parent is done
//! and that did not happen, and only when every other listed parent has its lease.
//! A listed shard without a lease is one of these:
//!
//! - *Done*: a shard that came from it, over any number of generations, has a lease. Children get leases only after a parent
//!   was read to its end and while every other listed parent has a lease, and a finished lease is deleted only once all
//!   children have theirs. So somebody has read this shard and its lease was cleaned up, or it ended before the
//!   application's start. Creating its lease again would read it again: it is left alone for as long as it is listed.
//! - *Waiting*: a listed parent has no lease and is not done, or all of them have leases and none has ended. The end of a
//!   parent will create its lease.
//! - *Missing*: a parent is done, or none is listed. It is created: at the application's start if nothing it came from was ever
//!   leased, at TRIM_HORIZON otherwise, since a child is read from its beginning.
//!
//! The alternative, leases for all listed generations at once, waiting for their parents at run time, is not taken:
//! then a descendant's lease would not prove that its ancestors were read, and a lost parent's lease would be a silent gap.
//! The Java KCL also creates one generation per line. It differs in what it takes for granted where nothing is known: it starts new
//! leases of a table at a *new* LATEST, and asks only open shards, so that a shard that opened and closed between two syncs is skipped.
//!
//! **The base of the plan.** The leases are read before the shards are listed: then every leased shard is old enough to be
//! listed, with its links. A lease whose shard is not listed still vouches for the parents that its row names.
//! The shards are listed with [`StartPolicy::filter`]: a shard that ended before the start must not be in the listing.

use crate::lease::key_scheme::LeaseKeyScheme;
use crate::lease::start_policy::StartPolicy;
use crate::runtime::failpoint::failpoint;
use std::collections::{BTreeMap, BTreeSet};

use crate::lease::row::Lease;
use crate::source::Shard;
use crate::source::shard_graph::{Cover, ShardGraph, cover};
use crate::types::{HashKeyRange, InvalidName, LeaseKey, Position, ShardId, StreamIdentity};

/// The changes that a sync should make.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct SyncPlan {
    /// The leases to create, in lineage order: a lease only after those of the shard's parents that are created too.
    pub creates: Vec<Creation>,
    /// The facts that do not fit together, for the log.
    pub anomalies: Vec<Anomaly>,
}

/// A lease to create, and why.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Creation {
    /// The row to create.
    pub lease: Lease,
    /// Why it is missing.
    pub reason: CreateReason,
}

/// Why a lease is to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CreateReason {
    /// The stream has no lease at all.
    FirstSync,
    /// Nothing that the shard came from has or had a lease: it starts where the application started.
    NeverLeased,
    /// A shard that it came from was leased, and is done or no longer listed: it starts with its first record.
    ChildWithoutLease,
}

/// Something in the listing or the table that does not fit together. Nothing is skipped because of that.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Anomaly {
    /// A shard names a parent that came from it, or itself; the link is ignored.
    IgnoredParentLink {
        /// The shard.
        child: ShardId,
        /// The parent that it names.
        parent: ShardId,
    },
    /// A shard is listed as open, and so is a shard that it became. The pages of the listing are of different times.
    OpenParent {
        /// The child.
        child: ShardId,
        /// The parent that should be closed.
        parent: ShardId,
    },
    /// A lease is not ended and its shard is not listed: retention took its records before they were read.
    ShardGone {
        /// The key of the lease.
        key: LeaseKey,
    },
    /// The shard has a row that cannot be read. It counts as a lease, so that the shard is not read again, and nobody can take it:
    /// repair or delete the row.
    UnreadableLease {
        /// The key of the row.
        key: LeaseKey,
    },
    /// No key can be made for the shard, so that it gets no lease.
    NoKey {
        /// The shard.
        shard: ShardId,
    },
}

/// The known facts about a listed shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ListedShard {
    /// It has a lease that is not ended.
    Live,
    /// Its lease is ended, or was and is cleaned up.
    Done,
    /// It has no lease and waits for its parents or is to be created.
    Unleased,
}

/// Decides which leases of the stream to create.
///
/// `leases` are those of this stream, read before the shards were listed. Planning again after the creations gives no creation.
pub(crate) fn plan_sync(
    graph: &ShardGraph,
    leases: &[Lease],
    start: &StartPolicy,
    keying: &LeaseKeyScheme,
    identity: &StreamIdentity,
) -> SyncPlan {
    let by_shard: BTreeMap<&ShardId, &Lease> = leases.iter().map(|lease| (&lease.shard, lease)).collect();
    let mut states = judge(graph, &by_shard);
    let mut plan = SyncPlan {
        creates: Vec::new(),
        anomalies: anomalies(graph, leases),
    };
    for shard in graph.in_lineage_order() {
        if states.get(&shard.id) != Some(&ListedShard::Unleased) {
            continue;
        }
        let parents: Vec<ListedShard> = graph
            .parents(&shard.id)
            .filter_map(|parent| states.get(&parent.id).copied())
            .collect();
        let waits = parents.contains(&ListedShard::Unleased)
            || (!parents.is_empty() && parents.iter().all(|state| *state == ListedShard::Live));
        if waits {
            continue;
        }
        let has_leased_parent = !parents.is_empty()
            || shard.parents.iter().any(|parent| {
                *parent != shard.id && !graph.contains(parent) && by_shard.contains_key(parent)
            });
        if has_leased_parent && failpoint!(ForgottenChild) {
            continue;
        }
        let reason = match (start.is_first_sync(), has_leased_parent) {
            (true, _) => CreateReason::FirstSync,
            (false, true) => CreateReason::ChildWithoutLease,
            (false, false) => CreateReason::NeverLeased,
        };
        match new_lease(shard, reason, start, keying, identity) {
            Ok(lease) => {
                // From here on it counts as leased, for a child whose other parent is done.
                states.insert(&shard.id, ListedShard::Live);
                plan.creates.push(Creation { lease, reason });
            }
            Err(_) => plan.anomalies.push(Anomaly::NoKey {
                shard: shard.id.clone(),
            }),
        }
    }
    plan
}

fn judge<'a>(
    graph: &'a ShardGraph,
    leases: &BTreeMap<&ShardId, &Lease>,
) -> BTreeMap<&'a ShardId, ListedShard> {
    // Where a leased shard is not listed, the row's own links vouch for its parents; where it is, the listing's links do.
    let vouched_by_rows: BTreeSet<&ShardId> = leases
        .values()
        .filter(|lease| !graph.contains(&lease.shard))
        .flat_map(|lease| &lease.parents)
        .collect();
    let mut states: BTreeMap<&ShardId, ListedShard> = BTreeMap::new();
    let mut vouched_by_children: BTreeSet<&ShardId> = BTreeSet::new();
    for shard in graph.in_lineage_order().rev() {
        let is_vouched = vouched_by_children.contains(&shard.id) || vouched_by_rows.contains(&shard.id);
        let state = match leases.get(&shard.id) {
            Some(lease) if lease.is_ended() => ListedShard::Done,
            Some(_) => ListedShard::Live,
            None if is_vouched && !failpoint!(FinishedShardLeasedAgain) => ListedShard::Done,
            None => ListedShard::Unleased,
        };
        if state != ListedShard::Unleased {
            vouched_by_children.extend(graph.parents(&shard.id).map(|parent| &parent.id));
        }
        states.insert(&shard.id, state);
    }
    states
}

fn new_lease(
    shard: &Shard,
    reason: CreateReason,
    start: &StartPolicy,
    keying: &LeaseKeyScheme,
    identity: &StreamIdentity,
) -> Result<Lease, InvalidName> {
    let checkpoint = match reason {
        CreateReason::ChildWithoutLease => Position::TrimHorizon,
        CreateReason::FirstSync | CreateReason::NeverLeased => start.checkpoint(),
    };
    let mut lease = Lease::unowned(shard.id.clone(), checkpoint);
    lease.key = keying.key(&shard.id)?;
    lease.stream = keying.stream().cloned();
    lease.parents.clone_from(&shard.parents);
    lease.hash_range = Some(shard.hash_range);
    // A child is read from its beginning. It carries the pin even so: when the leases of the first shards are cleaned up,
    // the start of the application must not be forgotten with them.
    lease.pinned_start = start.pinned();
    lease.identity = Some(identity.clone());
    Ok(lease)
}

fn anomalies(graph: &ShardGraph, leases: &[Lease]) -> Vec<Anomaly> {
    let ignored = graph
        .ignored_links()
        .map(|(child, parent)| Anomaly::IgnoredParentLink {
            child: child.clone(),
            parent: parent.clone(),
        });
    let open_parents = graph.in_lineage_order().flat_map(|child| {
        let open = graph.parents(&child.id).filter(|parent| !parent.closed);
        open.map(|parent| Anomaly::OpenParent {
            child: child.id.clone(),
            parent: parent.id.clone(),
        })
    });
    let gone = leases
        .iter()
        .filter(|lease| !lease.is_ended() && !graph.contains(&lease.shard))
        .map(|lease| Anomaly::ShardGone {
            key: lease.key.clone(),
        });
    let mut all: Vec<Anomaly> = ignored.chain(open_parents).chain(gone).collect();
    all.sort();
    all
}

/// How far the leases that are not ended cover the hash keys. A row without hash keys, as Java may write it, gets the listing's.
pub fn lease_cover<'a>(graph: &ShardGraph, leases: impl IntoIterator<Item = &'a Lease>) -> Cover {
    let range_of = |lease: &Lease| -> Option<HashKeyRange> {
        lease
            .hash_range
            .or_else(|| graph.get(&lease.shard).map(|shard| shard.hash_range))
    };
    cover(
        leases
            .into_iter()
            .filter(|lease| !lease.is_ended())
            .filter_map(range_of),
    )
}

#[cfg(test)]
mod tests;
