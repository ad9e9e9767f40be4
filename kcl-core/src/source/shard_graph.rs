//! The shards of a stream and how they came from each other, and which hash keys a set of them covers.

#[cfg(test)]
pub(crate) mod testing;

use std::collections::{BTreeMap, BTreeSet};

use crate::source::Shard;
use crate::types::{HashKeyRange, SequenceNumber, ShardId};

/// The listed shards of one stream, linked to their parents and children as far as those are listed too.
///
/// The order of the listing does not matter. A parent that is not listed is trimmed, which is no error.
/// A shard comes after its parents in **lineage order**, and otherwise by first sequence number, then by id. A link that would close a circle
/// (a shard that is its own parent, or its own ancestor) is ignored and reported by [`ignored_links`](Self::ignored_links), so that every walk
/// along the links ends.
///
/// Sequence numbers alone would not do: kinesis-mock lists a merged shard with the first sequence number of one of its parents, which may be
/// below that of the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardGraph {
    shards: BTreeMap<ShardId, Shard>,
    lineage: Vec<ShardId>,
    parents: BTreeMap<ShardId, BTreeSet<ShardId>>,
    children: BTreeMap<ShardId, BTreeSet<ShardId>>,
    ignored: BTreeSet<(ShardId, ShardId)>,
}

impl ShardGraph {
    /// The graph of these shards.
    ///
    /// A shard that is listed twice, as can happen when pages shift, counts once; it is closed if either says so.
    pub fn new(listed: impl IntoIterator<Item = Shard>) -> Self {
        let mut shards: BTreeMap<ShardId, Shard> = BTreeMap::new();
        for shard in listed {
            let merged = match shards.remove(&shard.id) {
                Some(other) => merge_duplicates(shard, other),
                None => shard,
            };
            shards.insert(merged.id.clone(), merged);
        }
        let mut graph = Self::default();
        let mut in_order: Vec<&Shard> = shards.values().collect();
        in_order.sort_by_key(|shard| age(shard));
        let links = in_order.iter().flat_map(|child| {
            let listed = child.parents.iter().filter_map(|parent| shards.get(parent));
            listed.map(move |parent| (parent, *child))
        });
        // Links from the older to the younger close no circle among themselves; each of the others may.
        let (forward, backward): (Vec<_>, Vec<_>) =
            links.partition(|(parent, child)| age(parent) < age(child));
        for (parent, child) in forward {
            graph.link(parent, child);
        }
        for (parent, child) in backward {
            if parent.id == child.id || graph.ancestors(&parent.id).contains(&child.id) {
                graph.ignored.insert((child.id.clone(), parent.id.clone()));
            } else {
                graph.link(parent, child);
            }
        }
        graph.lineage = graph.lineage_of(&shards);
        graph.shards = shards;
        graph
    }

    /// Every shard after all its parents, and of those that may be next the oldest first.
    fn lineage_of(&self, shards: &BTreeMap<ShardId, Shard>) -> Vec<ShardId> {
        let parents = |shard: &Shard| self.parents.get(&shard.id).map_or(0, BTreeSet::len);
        let mut missing: BTreeMap<&ShardId, usize> =
            shards.values().map(|shard| (&shard.id, parents(shard))).collect();
        let roots = shards.values().filter(|shard| parents(shard) == 0);
        let mut next: BTreeSet<_> = roots.map(age).collect();
        let mut lineage = Vec::with_capacity(shards.len());
        while let Some((_, shard)) = next.pop_first() {
            for child in self.children.get(shard).into_iter().flatten() {
                let Some(missing) = missing.get_mut(child) else {
                    continue;
                };
                *missing -= 1;
                if *missing == 0 {
                    next.extend(shards.get(child).map(age));
                }
            }
            lineage.push(shard.clone());
        }
        lineage
    }

    fn link(&mut self, parent: &Shard, child: &Shard) {
        let parents = self.parents.entry(child.id.clone()).or_default();
        parents.insert(parent.id.clone());
        let children = self.children.entry(parent.id.clone()).or_default();
        children.insert(child.id.clone());
    }

    /// Whether no shard is listed.
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// The shard with this id, if it is listed.
    pub fn get(&self, shard: &ShardId) -> Option<&Shard> {
        self.shards.get(shard)
    }

    /// Whether the shard is listed.
    pub fn contains(&self, shard: &ShardId) -> bool {
        self.shards.contains_key(shard)
    }

    /// The listed shards that this one came from, by id.
    pub fn parents<'a>(&'a self, shard: &ShardId) -> impl Iterator<Item = &'a Shard> + use<'a> {
        self.follow(self.parents.get(shard))
    }

    /// The listed shards that this one became, by id.
    pub fn children<'a>(&'a self, shard: &ShardId) -> impl Iterator<Item = &'a Shard> + use<'a> {
        self.follow(self.children.get(shard))
    }

    fn follow<'a>(&'a self, ids: Option<&'a BTreeSet<ShardId>>) -> impl Iterator<Item = &'a Shard> + use<'a> {
        ids.into_iter().flatten().filter_map(|id| self.shards.get(id))
    }

    /// The shards none of whose parents is listed, in lineage order.
    pub fn roots(&self) -> impl Iterator<Item = &Shard> {
        self.in_lineage_order()
            .filter(|shard| !self.parents.contains_key(&shard.id))
    }

    /// Every listed shard that this one came from, over any number of generations.
    pub fn ancestors(&self, shard: &ShardId) -> BTreeSet<ShardId> {
        let mut found = BTreeSet::new();
        let mut to_visit: Vec<&ShardId> = vec![shard];
        while let Some(next) = to_visit.pop() {
            for parent in self.parents.get(next).into_iter().flatten() {
                if found.insert(parent.clone()) {
                    to_visit.push(parent);
                }
            }
        }
        found
    }

    /// Every shard, each after all its parents.
    pub fn in_lineage_order(&self) -> impl DoubleEndedIterator<Item = &Shard> {
        self.lineage.iter().filter_map(|id| self.shards.get(id))
    }

    /// The links from a child to a parent that were ignored because the child comes before the parent by other links, or is it.
    pub fn ignored_links(&self) -> impl Iterator<Item = (&ShardId, &ShardId)> {
        self.ignored.iter().map(|(child, parent)| (child, parent))
    }
}

/// The order of shards where no link says more.
fn age(shard: &Shard) -> (&SequenceNumber, &ShardId) {
    (&shard.starting_sequence, &shard.id)
}

/// Picks one of two entries for the same shard, whichever came first.
fn merge_duplicates(a: Shard, b: Shard) -> Shard {
    let closed = a.closed || b.closed;
    let rank = |shard: &Shard| {
        (
            shard.starting_sequence.clone(),
            shard.hash_range,
            shard.parents.clone(),
        )
    };
    let mut kept = if rank(&a) >= rank(&b) { a } else { b };
    kept.closed = closed;
    kept
}

/// How far a set of ranges covers the hash keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cover {
    /// The ranges of keys that no range holds, in order. Empty when every key is covered.
    pub holes: Vec<HashKeyRange>,
    /// Whether some key lies in more than one range, as between the end of one parent and the end of the other.
    pub overlaps: bool,
}

impl Cover {
    /// Whether every key is covered.
    pub fn is_whole(&self) -> bool {
        self.holes.is_empty()
    }
}

/// Sweeps over all hash keys for those that no range holds.
pub fn cover(ranges: impl IntoIterator<Item = HashKeyRange>) -> Cover {
    uncovered(HashKeyRange::WHOLE, ranges)
}

/// Sweeps over the keys of `whole` for those that no range holds.
pub(crate) fn uncovered(whole: HashKeyRange, ranges: impl IntoIterator<Item = HashKeyRange>) -> Cover {
    let mut ranges: Vec<HashKeyRange> = ranges.into_iter().collect();
    ranges.sort();
    let mut holes = Vec::new();
    let mut overlaps = false;
    // The first key that is not swept yet; `None` once the last key of all is.
    let mut next = Some(whole.start());
    let mut swept_any = None;
    for range in ranges {
        overlaps |= swept_any.is_some_and(|end| range.start() <= end);
        swept_any = swept_any.max(Some(range.end()));
        let Some(from) = next else { continue };
        let hole_end = range.start().checked_sub(1).map(|end| end.min(whole.end()));
        if let Some(hole) = hole_end.and_then(|end| HashKeyRange::new(from, end).ok()) {
            holes.push(hole);
        }
        if range.end() >= from {
            next = range.end().checked_add(1);
        }
    }
    if let Some(hole) = next.and_then(|from| HashKeyRange::new(from, whole.end()).ok()) {
        holes.push(hole);
    }
    Cover { holes, overlaps }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::shard_graph::testing::{any_history, id, shard};
    use proptest::prelude::*;

    fn range(start: u128, end: u128) -> HashKeyRange {
        HashKeyRange::new(start, end).unwrap()
    }

    #[test]
    fn cover_names_the_half_that_is_missing() {
        let (low, high) = HashKeyRange::WHOLE.halves().unwrap();
        assert!(cover([high, low]).is_whole());
        assert_eq!(cover([low]).holes, [high]);
    }

    #[test]
    fn child_of_unlisted_parent_is_a_root() {
        let graph = ShardGraph::new([shard(2, &[1], 20), shard(3, &[2], 30)]);
        let roots: Vec<_> = graph.roots().map(|shard| shard.id.clone()).collect();
        assert_eq!(roots, [id(2)]);
        assert_eq!(graph.ancestors(&id(3)), BTreeSet::from([id(2)]));
        assert_eq!(graph.parents(&id(2)).count(), 0);
    }

    #[test]
    fn lineage_order_is_by_starting_sequence_then_id() {
        let graph = ShardGraph::new([shard(1, &[], 10), shard(2, &[], 9), shard(3, &[], 9)]);
        let order: Vec<_> = graph.in_lineage_order().map(|shard| shard.id.clone()).collect();
        assert_eq!(order, [id(2), id(3), id(1)]);
    }

    #[test]
    fn cycles_and_self_parents_are_ignored_and_told() {
        let graph = ShardGraph::new([shard(1, &[1, 2], 10), shard(2, &[1], 20)]);
        assert_eq!(graph.ancestors(&id(2)), BTreeSet::from([id(1)]));
        assert_eq!(graph.ancestors(&id(1)), BTreeSet::new());
        let ignored: Vec<_> = graph.ignored_links().collect();
        assert_eq!(ignored, [(&id(1), &id(1)), (&id(1), &id(2))]);
    }

    /// As kinesis-mock lists a merge: with the starting sequence number of one of the parents, below that of the other.
    #[test]
    fn child_with_lower_sequence_number_comes_after_parent() {
        let graph = ShardGraph::new([
            shard(4, &[], 10),
            shard(5, &[], 11),
            shard(6, &[4, 5], 10),
            shard(7, &[6], 10),
        ]);
        assert_eq!(graph.ancestors(&id(6)), BTreeSet::from([id(4), id(5)]));
        assert_eq!(graph.children(&id(5)).count(), 1);
        assert_eq!(graph.ignored_links().count(), 0);
        let order: Vec<_> = graph.in_lineage_order().map(|shard| shard.id.clone()).collect();
        assert_eq!(order, [id(4), id(5), id(6), id(7)]);
    }

    #[test]
    fn shard_listed_twice_counts_once_closed_if_either() {
        let open = shard(1, &[], 10);
        let mut closed = open.clone();
        closed.closed = true;
        for listing in [[open.clone(), closed.clone()], [closed, open]] {
            let graph = ShardGraph::new(listing);
            assert_eq!(graph.in_lineage_order().count(), 1);
            assert!(graph.get(&id(1)).unwrap().closed);
        }
    }

    #[test]
    fn holes_lie_before_between_and_after_the_ranges() {
        let whole = range(10, 100);
        let cover = uncovered(whole, [range(60, 70), range(20, 30), range(25, 40)]);
        assert_eq!(cover.holes, [range(10, 19), range(41, 59), range(71, 100)]);
        assert!(cover.overlaps);
    }

    #[test]
    fn nothing_covers_nothing_and_all_covers_all() {
        assert_eq!(super::cover([]).holes, [HashKeyRange::WHOLE]);
        assert!(super::cover([HashKeyRange::WHOLE]).is_whole());
        assert_eq!(
            uncovered(range(5, 9), [range(0, 3), range(12, 20)]).holes,
            [range(5, 9)]
        );
        assert!(uncovered(range(5, 9), [range(0, 7), range(8, 20)]).is_whole());
    }

    proptest! {
        #[test]
        fn graph_does_not_depend_on_order_of_listing(
            (shards, shuffled) in any_history().prop_flat_map(|shards| (Just(shards.clone()), Just(shards).prop_shuffle())),
        ) {
            prop_assert_eq!(ShardGraph::new(shards), ShardGraph::new(shuffled));
        }

        #[test]
        fn every_shard_comes_after_its_ancestors(shards in any_history()) {
            let graph = ShardGraph::new(shards);
            let mut seen = BTreeSet::new();
            for shard in graph.in_lineage_order() {
                prop_assert!(graph.ancestors(&shard.id).is_subset(&seen));
                seen.insert(shard.id.clone());
            }
        }

        #[test]
        fn a_graph_of_garbage_has_no_loops(
            links in proptest::collection::vec((0_u128..8, proptest::collection::vec(0_u128..8, 0..3), 0_u128..4), 0..12),
        ) {
            let graph = ShardGraph::new(links.iter().map(|(n, parents, seq)| shard(*n, parents, *seq)));
            let mut seen = BTreeSet::new();
            for shard in graph.in_lineage_order() {
                prop_assert!(!graph.ancestors(&shard.id).contains(&shard.id));
                prop_assert!(graph.ancestors(&shard.id).is_subset(&seen));
                seen.insert(shard.id.clone());
            }
            prop_assert_eq!(seen.len(), graph.shards.len());
            for (child, parent) in graph.ignored_links() {
                prop_assert!(child == parent || graph.ancestors(parent).contains(child), "{} names {}", child, parent);
            }
        }

        #[test]
        fn key_in_hole_is_in_no_range(
            bounds in proptest::collection::vec((0_u128..64, 0_u128..64), 0..8),
            whole in (0_u128..64, 0_u128..64),
        ) {
            let of = |(a, b): (u128, u128)| range(a.min(b), a.max(b));
            let ranges: Vec<_> = bounds.into_iter().map(of).collect();
            let whole = of(whole);
            let cover = uncovered(whole, ranges.iter().copied());
            for key in 0..64 {
                let holders = ranges.iter().filter(|range| range.contains(key)).count();
                let in_holes = cover.holes.iter().filter(|hole| hole.contains(key)).count();
                prop_assert_eq!(in_holes, usize::from(whole.contains(key) && holders == 0), "key {}", key);
                prop_assert!(holders < 2 || cover.overlaps);
            }
        }

        #[test]
        fn open_shards_cover_every_key_without_overlap(shards in any_history()) {
            let open = shards.iter().filter(|shard| !shard.closed).map(|shard| shard.hash_range);
            prop_assert_eq!(super::cover(open), Cover { holes: vec![], overlaps: false });
        }
    }
}
