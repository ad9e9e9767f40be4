//! Which leases came from which: generations, and the parents that are not finished.

use std::collections::{BTreeMap, BTreeSet};

use kcl_core::lease_store::Lease;
use kcl_core::types::LeaseKey;

/// The leases of a scan, linked by their parents and children.
pub(crate) struct LeaseLineage<'a> {
    leases: BTreeMap<&'a LeaseKey, &'a Lease>,
    children: BTreeMap<LeaseKey, BTreeSet<&'a LeaseKey>>,
}

impl<'a> LeaseLineage<'a> {
    pub(crate) fn new(leases: &'a [Lease]) -> Self {
        let mut children: BTreeMap<LeaseKey, BTreeSet<&LeaseKey>> = BTreeMap::new();
        for lease in leases {
            for parent in &lease.parents {
                let parent = lease.key_of_sibling(parent);
                children.entry(parent).or_default().insert(&lease.key);
            }
        }
        Self {
            leases: leases.iter().map(|lease| (&lease.key, lease)).collect(),
            children,
        }
    }

    /// The shards that came from this one: those that the row names, and those whose rows name it.
    pub(crate) fn children(&self, lease: &Lease) -> BTreeSet<String> {
        let linked = self.children.get(&lease.key).into_iter().flatten();
        let linked = linked
            .filter_map(|key| self.leases.get(key))
            .map(|child| &child.shard);
        let named = lease.children.iter();
        named.chain(linked).map(ToString::to_string).collect()
    }

    /// The parents that are in the table and not finished.
    pub(crate) fn unfinished_parents(&self, lease: &Lease) -> Vec<&'a Lease> {
        let parents = lease.parents.iter().map(|parent| lease.key_of_sibling(parent));
        let rows = parents.filter_map(|key| self.leases.get(&key).copied());
        rows.filter(|parent| !parent.is_ended()).collect()
    }

    /// For each lease the number of splits and merges between it and its oldest ancestor in the table.
    ///
    /// A row that is its own ancestor, as no stream makes one, counts as the oldest.
    pub(crate) fn generations(&self) -> BTreeMap<&'a LeaseKey, u32> {
        let mut generations: BTreeMap<&LeaseKey, u32> = BTreeMap::new();
        for key in self.leases.keys() {
            self.add_generation(key, &mut generations);
        }
        generations
    }

    /// Walks up without recursion: a lineage can be as long as the table.
    fn add_generation(&self, key: &'a LeaseKey, generations: &mut BTreeMap<&'a LeaseKey, u32>) {
        let mut way: Vec<(&LeaseKey, bool)> = vec![(key, false)];
        let mut open: BTreeSet<&LeaseKey> = BTreeSet::new();
        while let Some((key, is_seen)) = way.pop() {
            let Some(lease) = self.leases.get(key) else {
                continue;
            };
            let parents = lease.parents.iter().map(|parent| lease.key_of_sibling(parent));
            let parents =
                parents.filter_map(|parent| self.leases.get_key_value(&parent).map(|(key, _)| *key));
            if is_seen {
                let oldest = parents.filter_map(|parent| generations.get(parent)).max();
                generations.insert(key, oldest.map_or(0, |generation| generation + 1));
                open.remove(key);
            } else if !generations.contains_key(key) && open.insert(key) {
                way.push((key, true));
                way.extend(parents.map(|parent| (parent, false)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kcl_core::types::{Position, ShardId};

    fn lease(number: u32, parents: &[u32]) -> Lease {
        let id = |number: u32| ShardId::new(format!("shardId-{number:012}")).unwrap();
        let mut lease = Lease::unowned(id(number), Position::TrimHorizon);
        lease.parents = parents.iter().map(|parent| id(*parent)).collect();
        lease
    }

    fn generations(leases: &[Lease]) -> Vec<u32> {
        let lineage = LeaseLineage::new(leases);
        let generations = lineage.generations();
        leases.iter().map(|lease| generations[&lease.key]).collect()
    }

    #[test]
    fn generation_counts_reshards_from_oldest_ancestor() {
        let leases = [lease(3, &[1, 2]), lease(1, &[0]), lease(2, &[]), lease(0, &[])];
        assert_eq!(generations(&leases), [2, 1, 0, 0]);
    }

    #[test]
    fn parent_that_is_trimmed_counts_nothing() {
        assert_eq!(generations(&[lease(5, &[4])]), [0]);
    }

    #[test]
    fn circle_of_parents_ends() {
        let leases = [lease(0, &[1]), lease(1, &[0]), lease(2, &[2])];
        assert_eq!(generations(&leases).len(), 3);
    }

    #[test]
    fn children_are_named_from_both_sides() {
        let mut parent = lease(0, &[]);
        parent.children = [ShardId::new("shardId-000000000009").unwrap()].into();
        let leases = [parent, lease(1, &[0])];
        let lineage = LeaseLineage::new(&leases);
        let children: Vec<_> = lineage.children(&leases[0]).into_iter().collect();
        assert_eq!(children, ["shardId-000000000001", "shardId-000000000009"]);
        let unfinished = lineage.unfinished_parents(&leases[1]);
        assert_eq!(unfinished[0].key, leases[0].key);
    }
}
