//! Decides which leases are not needed any more.
//!
//! An ended lease goes once nothing could be read again without it:
//!
//! - *Completed*: no parent has a lease any more, and each child has one and has moved past its start, or was itself read
//!   and cleaned up. A child that has not started keeps the lease of its parent, as with the Java KCL.
//! - *Unlisted*: the stream lists the shard no more, nor any shard that it came from, and what it became has leases: no sync can
//!   create its lease again.
//!
//! **The base of a sync stays true.** A listed shard without a lease is taken for done because a descendant has a lease. Of a
//! completed lease a descendant has one, so that the shard, and every shard that it came from, is taken for done without it.
//! An unlisted shard vouches for its listed parents only, and it has none.
//!
//! It differs from the Java KCL where that loses something: a child at LATEST has not started (Java takes it for processed),
//! an answer that a shard is not found is not enough for a deletion, and each deletion is conditioned on the row and made
//! only while the rows that it rests on are there.

use std::collections::{BTreeMap, BTreeSet};

use crate::lease::row::Lease;
use crate::runtime::failpoint::failpoint;
use crate::source::shard_graph::ShardGraph;
use crate::types::{LeaseKey, Position, ShardId};

/// A lease that can go, if the rows that this rests on are as they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// The key of the lease.
    pub key: LeaseKey,
    /// Why it is not needed any more.
    pub reason: DeleteReason,
    /// The rows on which that rests.
    pub witnesses: Vec<Witness>,
}

/// Why a lease is not needed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeleteReason {
    /// The shard is read to its end, and what it became is being read.
    Completed,
    /// The shard is read to its end and listed no more.
    Unlisted,
}

/// A row that must be there when the lease is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// The key of the row.
    pub key: LeaseKey,
    /// Whether it must also have moved past its start: a child's must. A later descendant's only vouches.
    pub has_begun: bool,
}

impl Witness {
    /// Whether this row, as it is now, still says what the deletion rests on.
    pub fn is_confirmed_by(&self, row: Option<&Lease>) -> bool {
        row.is_some_and(|row| !self.has_begun || has_begun(row))
    }
}

/// Decides which leases of one stream to delete.
///
/// `leases` are those of the stream, read before the shards were listed. Only a listing without filter shows that a shard is
/// listed no more; with any other `is_complete` must be false. Deleting all that is planned, in any order, or only some of
/// it, never makes a sync create a lease of a shard that was read.
pub fn plan_cleanup(graph: &ShardGraph, is_complete: bool, leases: &[Lease]) -> Vec<Deletion> {
    let family = CleanupFamily {
        graph,
        leased: leases.iter().map(|lease| (&lease.shard, lease)).collect(),
    };
    // A stream always has a shard: without one it is not there, or not yet.
    if graph.is_empty() {
        return Vec::new();
    }
    let ended = family.leased.values().filter(|lease| lease.is_ended());
    ended
        .filter_map(|lease| {
            if graph.contains(&lease.shard) {
                family.completed(lease)
            } else {
                family.unlisted(lease).filter(|_| is_complete)
            }
        })
        .collect()
}

struct CleanupFamily<'a> {
    graph: &'a ShardGraph,
    leased: BTreeMap<&'a ShardId, &'a Lease>,
}

impl CleanupFamily<'_> {
    fn completed(&self, lease: &Lease) -> Option<Deletion> {
        let parents = self.graph.parents(&lease.shard).map(|parent| &parent.id);
        let mut parents = parents.chain(&lease.parents);
        if parents.any(|parent| self.leased.contains_key(parent)) {
            return None;
        }
        let listed = self.graph.children(&lease.shard).map(|child| &child.id);
        let children: BTreeSet<&ShardId> = listed.chain(&lease.children).collect();
        let mut witnesses = Vec::new();
        for child in children {
            witnesses.extend(self.witness_of(child)?);
        }
        // Something must vouch for the shard, or the next sync would take it for one that nobody has read.
        (!witnesses.is_empty()).then(|| Deletion {
            key: lease.key.clone(),
            reason: DeleteReason::Completed,
            witnesses,
        })
    }

    /// The row that shows that the child needs its parent's lease no more, if it needs a row for that;
    /// nothing when the child does need it.
    fn witness_of(&self, child: &ShardId) -> Option<Option<Witness>> {
        if let Some(lease) = self.leased.get(child) {
            return has_begun(lease).then(|| Some(witness(lease, true)));
        }
        if !self.graph.contains(child) {
            // Its lease is gone, and so are its records.
            return Some(None);
        }
        // Cleaned up, if a shard that came from it has a lease; and if not, its lease is yet to be created.
        self.leased_descendant(child)
            .map(|lease| Some(witness(lease, false)))
    }

    fn leased_descendant(&self, shard: &ShardId) -> Option<&Lease> {
        let mut to_visit: Vec<&ShardId> = self.graph.children(shard).map(|child| &child.id).collect();
        let mut seen = BTreeSet::new();
        while let Some(next) = to_visit.pop() {
            if let Some(lease) = self.leased.get(next) {
                return Some(lease);
            }
            if seen.insert(next) {
                to_visit.extend(self.graph.children(next).map(|child| &child.id));
            }
        }
        None
    }

    fn unlisted(&self, lease: &Lease) -> Option<Deletion> {
        let vouches = lease.parents.iter().any(|parent| self.graph.contains(parent));
        // Until its children have leases the row shows that they begin with their first record.
        let mut children = self
            .graph
            .in_lineage_order()
            .filter(|child| child.parents.contains(&lease.shard));
        let is_followed = children
            .all(|child| self.leased.contains_key(&child.id) || self.leased_descendant(&child.id).is_some());
        (!vouches && is_followed).then(|| Deletion {
            key: lease.key.clone(),
            reason: DeleteReason::Unlisted,
            witnesses: Vec::new(),
        })
    }
}

fn witness(lease: &Lease, has_begun: bool) -> Witness {
    Witness {
        key: lease.key.clone(),
        has_begun,
    }
}

/// Whether something of the shard is processed.
///
/// Every sentinel is a start: LATEST too, which this library opens at a pinned time.
fn has_begun(lease: &Lease) -> bool {
    match &lease.checkpoint {
        Position::TrimHorizon | Position::Latest | Position::AtTimestamp => {
            failpoint!(CleanupTooEarly)
        }
        Position::Record(_) | Position::ShardEnd => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::shard_graph::testing::{id, shard};
    use crate::types::{RecordPosition, SequenceNumber};

    fn at_record() -> Position {
        Position::Record(RecordPosition::plain(SequenceNumber::from(5)))
    }

    fn lease(n: u128, parents: &[u128], checkpoint: Position) -> Lease {
        let mut lease = Lease::unowned(id(n), checkpoint);
        lease.parents = parents.iter().copied().map(id).collect();
        lease
    }

    /// 1 became 2 and 3, and those became 4.
    fn diamond() -> ShardGraph {
        ShardGraph::new([
            shard(1, &[], 10),
            shard(2, &[1], 20),
            shard(3, &[1], 20),
            shard(4, &[2, 3], 30),
        ])
    }

    fn deleted(graph: &ShardGraph, leases: &[Lease]) -> Vec<(String, DeleteReason)> {
        plan_cleanup(graph, true, leases)
            .into_iter()
            .map(|deletion| (deletion.key.to_string(), deletion.reason))
            .collect()
    }

    fn completed(n: u128) -> (String, DeleteReason) {
        (id(n).to_string(), DeleteReason::Completed)
    }

    #[test]
    fn ended_lease_goes_when_all_children_have_begun() {
        let with = |second: Position| {
            deleted(
                &diamond(),
                &[
                    lease(1, &[], Position::ShardEnd),
                    lease(2, &[1], at_record()),
                    lease(3, &[1], second),
                ],
            )
        };
        assert_eq!(with(at_record()), [completed(1)]);
        assert_eq!(with(Position::ShardEnd), [completed(1)]);
        for start in [Position::TrimHorizon, Position::AtTimestamp, Position::Latest] {
            assert_eq!(with(start.clone()), [], "{start}");
        }
    }

    #[test]
    fn a_child_without_a_lease_keeps_its_parents() {
        let leases = [lease(1, &[], Position::ShardEnd), lease(2, &[1], at_record())];
        assert_eq!(deleted(&diamond(), &leases), []);
    }

    #[test]
    fn cleaned_up_child_needs_its_parents_no_more() {
        let leases = [
            lease(1, &[], Position::ShardEnd),
            lease(4, &[2, 3], Position::TrimHorizon),
        ];
        let plan = plan_cleanup(&diamond(), true, &leases);
        let vouching = Witness {
            key: leases[1].key.clone(),
            has_begun: false,
        };
        assert_eq!(plan[0].witnesses, [vouching.clone(), vouching]);
    }

    #[test]
    fn children_that_only_the_row_knows_count_too() {
        let graph = ShardGraph::new([shard(1, &[], 10), shard(2, &[1], 20)]);
        let mut ended = lease(1, &[], Position::ShardEnd);
        ended.children = [id(2), id(3)].into();
        let with = |third: Position| {
            deleted(
                &graph,
                &[ended.clone(), lease(2, &[1], at_record()), lease(3, &[1], third)],
            )
        };
        assert_eq!(with(Position::TrimHorizon), []);
        assert_eq!(with(at_record()), [completed(1)]);
    }

    #[test]
    fn parents_go_before_their_children() {
        let leases = [
            lease(1, &[], Position::ShardEnd),
            lease(2, &[1], Position::ShardEnd),
            lease(3, &[1], Position::ShardEnd),
            lease(4, &[2, 3], at_record()),
        ];
        assert_eq!(deleted(&diamond(), &leases), [completed(1)]);
        assert_eq!(deleted(&diamond(), &leases[1..]), [completed(2), completed(3)]);
    }

    #[test]
    fn ended_lease_with_unknown_children_stays() {
        let graph = ShardGraph::new([shard(1, &[], 10)]);
        assert_eq!(deleted(&graph, &[lease(1, &[], Position::ShardEnd)]), []);
    }

    #[test]
    fn ended_lease_goes_when_family_is_unlisted() {
        let graph = ShardGraph::new([shard(4, &[2, 3], 30)]);
        let leases = [
            lease(2, &[1], Position::ShardEnd),
            lease(3, &[1], at_record()),
            lease(4, &[2, 3], Position::TrimHorizon),
        ];
        let unlisted = (id(2).to_string(), DeleteReason::Unlisted);
        assert_eq!(deleted(&graph, &leases), [unlisted]);
        assert_eq!(plan_cleanup(&graph, false, &leases), []);
        // It vouches for its parent as long as that is listed.
        let graph = ShardGraph::new([shard(1, &[], 10), shard(4, &[2, 3], 30)]);
        assert_eq!(deleted(&graph, &leases), []);
    }

    #[test]
    fn nothing_is_deleted_while_the_stream_lists_nothing() {
        assert_eq!(
            deleted(&ShardGraph::default(), &[lease(1, &[], Position::ShardEnd)]),
            []
        );
    }

    #[test]
    fn witness_must_exist_and_child_have_begun() {
        let (begun, waiting) = (lease(2, &[1], at_record()), lease(2, &[1], Position::TrimHorizon));
        let child = witness(&begun, true);
        assert!(child.is_confirmed_by(Some(&begun)));
        assert!(!child.is_confirmed_by(Some(&waiting)));
        assert!(!child.is_confirmed_by(None));
        assert!(witness(&begun, false).is_confirmed_by(Some(&waiting)));
    }
}
