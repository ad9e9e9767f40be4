//! The invariants of the leases together: I10 and I11.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kcl_core::clock::Moment;
use kcl_core::internals::cover;
use kcl_core::invariant::{Invariant, Violation};
use kcl_core::lease_store::Lease;
use kcl_core::types::LeaseKey;

use super::delivery::Shard;
use super::observation::Written;
use super::table::Table;

/// Checks that the leases which are not ended cover every hash key once: what I10 says of a fleet at rest.
///
/// A row that does not name its hash keys, as one that Java wrote, leaves open what is covered. Then nothing is found.
///
/// ```
/// use kcl_testkit::invariant::{Invariant, check_cover};
/// use kcl_core::lease_store::Lease;
/// use kcl_core::types::{HashKeyRange, Position, ShardId};
///
/// let mut lease = Lease::unowned(ShardId::new("shardId-000000000000")?, Position::TrimHorizon);
/// lease.hash_range = Some(HashKeyRange::WHOLE);
/// assert_eq!(check_cover([&lease]), Ok(()));
/// assert_eq!(check_cover([&lease, &lease]).unwrap_err().invariant, Invariant::LineageComplete);
/// # Ok::<(), kcl_core::types::InvalidName>(())
/// ```
///
/// # Errors
///
/// [`Invariant::LineageComplete`].
pub fn check_cover<'a>(leases: impl IntoIterator<Item = &'a Lease>) -> Result<(), Violation> {
    let known = |lease: &Lease| Some((lease.hash_range?, lease.is_ended()));
    let Some(all) = leases.into_iter().map(known).collect::<Option<Vec<_>>>() else {
        return Ok(());
    };
    let open = all.into_iter().filter(|(_, is_ended)| !is_ended);
    let ranges: Vec<_> = open.map(|(range, _)| range).collect();
    let count = ranges.len();
    let cover = cover(ranges);
    Invariant::LineageComplete.check(cover.is_whole(), || {
        format!("no lease of {count} covers {:?}", cover.holes)
    })?;
    Invariant::LineageComplete.check(!cover.overlaps, || {
        format!("some hash key is covered twice by {count} leases")
    })
}

/// For how long each shard has lacked a lease: what I10 says of a time in which a leader could work.
///
/// ```
/// use std::time::Duration;
/// use kcl_testkit::invariant::Lineage;
/// use kcl_core::types::LeaseKey;
/// use kcl_core::clock::Moment;
///
/// let mut lineage = Lineage::new(Duration::from_secs(30));
/// let shard = LeaseKey::new("shardId-000000000000")?;
/// let at = |second| Moment::from_origin(Duration::from_secs(second));
/// assert_eq!(lineage.look(at(0), [&shard]), Ok(()));
/// assert_eq!(lineage.look(at(60), [&shard]), Ok(()));
/// assert!(lineage.look(at(61), [&shard]).is_err());
/// # Ok::<(), kcl_core::types::InvalidName>(())
/// ```
#[derive(Debug, Clone)]
pub struct Lineage {
    period: Duration,
    since: BTreeMap<LeaseKey, Moment>,
}

impl Lineage {
    /// Begins to watch a fleet whose leader compares shards and leases once per `sync_period`:
    /// [`SYNC_INTERVAL`](kcl_core::internals::SYNC_INTERVAL) for workers of this library.
    pub fn new(sync_period: Duration) -> Self {
        Self {
            period: sync_period,
            since: BTreeMap::new(),
        }
    }

    /// Notes which shards lack a lease at `now`, as [`Checker::lacking`](super::Checker::lacking) shows.
    ///
    /// # Errors
    ///
    /// [`Invariant::LineageComplete`], when one of them has lacked it for longer than two sync periods.
    pub fn look<'a>(
        &mut self,
        now: Moment,
        lacking: impl IntoIterator<Item = &'a LeaseKey>,
    ) -> Result<(), Violation> {
        let before = std::mem::take(&mut self.since);
        for shard in lacking {
            let since = before.get(shard).copied().unwrap_or(now);
            let lacks_for = now.saturating_since(since);
            Invariant::LineageComplete.check(lacks_for <= self.period * 2, || {
                format!("{shard} has lacked a lease for {lacks_for:?}")
            })?;
            self.since.insert(shard.clone(), since);
        }
        Ok(())
    }
}

/// The shards and their leases, and what came of what.
pub(crate) struct Family<'a> {
    pub(crate) shards: &'a BTreeMap<LeaseKey, Shard>,
    pub(crate) table: &'a Table,
}

impl<'a> Family<'a> {
    /// Whether a sync should create a lease for the shard: it is there, nobody has read it, and its parents are finished.
    pub(crate) fn lacks(&self, key: &LeaseKey) -> bool {
        let is_there = self.shards.get(key).is_some_and(|shard| !shard.forgotten);
        let parents = self.shards.get(key).map_or(&[][..], |shard| &shard.parents);
        is_there
            && self.table.row(key).is_none()
            && !self.is_passed(key)
            && parents.iter().all(|parent| self.is_finished(parent))
    }

    /// Checks that the row which this change deletes is not needed any more.
    pub(crate) fn check_deletion(&self, deleted: &Written) -> Result<(), Violation> {
        let (process, key) = (&deleted.process, &deleted.key);
        // Of shards that the observer knows nothing of, as those of another stream, nothing can be said.
        if !self.shards.contains_key(key) || self.is_gone(key) {
            return Ok(());
        }
        let row = self.table.row(key).unwrap_or(&deleted.after);
        Invariant::CleanupSafe.check(row.is_ended(), || {
            format!(
                "{process} deleted the lease of {key}, which stands at {} and whose shard is there",
                row.checkpoint
            )
        })?;
        let listed = self.children(key).into_iter().cloned();
        let stored = row.children.iter().map(|child| row.key_of_sibling(child));
        let children: BTreeSet<LeaseKey> = listed.chain(stored).collect();
        let needs_it = children.iter().find(|child| !self.has_begun(child));
        Invariant::CleanupSafe.check(needs_it.is_none(), || {
            format!("{process} deleted the lease of {key}, whose child {needs_it:?} has not begun")
        })
    }

    fn is_finished(&self, key: &LeaseKey) -> bool {
        let is_open = self.table.row(key).is_some_and(|row| !row.is_ended());
        self.is_gone(key) || !is_open && self.is_passed(key)
    }

    fn is_gone(&self, key: &LeaseKey) -> bool {
        self.shards.get(key).is_none_or(|shard| shard.forgotten)
    }

    /// Whether the shard was read to its end, or counts as that: a shard that came from it has, or had, a lease.
    fn is_passed(&self, key: &LeaseKey) -> bool {
        let mut to_visit: Vec<&LeaseKey> = self.children(key);
        let mut seen = BTreeSet::new();
        while let Some(next) = to_visit.pop() {
            if self.table.checkpoint(next).is_some() {
                return true;
            }
            if seen.insert(next) {
                to_visit.extend(self.children(next));
            }
        }
        self.table.has_ended(key)
    }

    fn children(&self, key: &LeaseKey) -> Vec<&'a LeaseKey> {
        let is_child = |(_, shard): &(&LeaseKey, &Shard)| shard.parents.contains(key);
        self.shards
            .iter()
            .filter(is_child)
            .map(|(child, _)| child)
            .collect()
    }

    /// Whether something of the shard is processed, or nothing is left.
    fn has_begun(&self, key: &LeaseKey) -> bool {
        let begun = self.table.checkpoint(key).is_some_and(|done| !done.is_initial());
        begun || self.is_gone(key)
    }
}
