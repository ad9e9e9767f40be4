//! Plans resets, so that children are never read before what their parents are to bring again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kcl_core::lease_store::{GivenOrder, Lease, ResetPosition};
use kcl_core::types::{LeaseKey, Timestamp};

/// The steps of a reset of some shards of one application, made from a scan of its leases.
///
/// A shard that is read again brings its children again: these are reset to their oldest record, unless the reset names another place for
/// them. They are reset first, and held; then their ancestors; and at last the hold ends. Whatever happens in between, and whatever other
/// operators order meanwhile, no child is read before its parents are finished again.
///
/// ```
/// use std::collections::BTreeMap;
/// use kcl_core::lease_store::{GivenOrder, Lease, ResetPosition};
/// use kcl_core::types::{Position, ShardId};
/// use kcl_operations::ResetPlan;
///
/// let parent = Lease::unowned(ShardId::new("shardId-000000000000")?, Position::ShardEnd);
/// let mut child = Lease::unowned(ShardId::new("shardId-000000000001")?, Position::parse("42", 0).expect("a position"));
/// child.parents = [parent.shard.clone()].into();
/// let wanted = BTreeMap::from([(parent.key.clone(), ResetPosition::TrimHorizon)]);
/// let plan = ResetPlan::new(&[parent.clone(), child.clone()], &wanted);
/// assert_eq!(plan.held[0].lease, child.key);
/// assert_eq!(plan.heads[0].lease, parent.key);
/// # Ok::<(), kcl_core::types::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ResetPlan {
    /// The shards that are held while their ancestors are reset, the youngest first.
    pub held: Vec<ResetStep>,
    /// The other shards, the oldest first.
    pub heads: Vec<ResetStep>,
    /// The leases that the reset names and that are not there.
    pub missing: Vec<LeaseKey>,
}

/// The reset of one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResetStep {
    /// The lease.
    pub lease: LeaseKey,
    /// From where it is read now.
    pub from: ResetPosition,
    /// From where it is to be read.
    pub to: ResetPosition,
    /// Whether the plan adds it because an ancestor is read again.
    pub follows: bool,
}

/// How much of its shard lies between the two places of a [`ResetStep`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResetSpan {
    /// How far reading goes back in the stream, in milliseconds; below zero it goes ahead, and leaves records out.
    pub back_ms: i64,
    /// About how many records lie between; `None` where it is not known how densely they lie.
    pub records: Option<u64>,
}

/// A place in a shard, as one answer of the stream shows it that begins there.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct PlaceSample {
    /// How far the place is behind the newest record.
    pub behind: Duration,
    /// How many records lie there in a second of the stream; `None` where one answer does not show it.
    pub per_second: Option<f64>,
}

impl PlaceSample {
    /// The sample of an answer whose last record is so far behind the newest, with the arrivals of its records in their order.
    ///
    /// ```
    /// use std::time::Duration;
    /// use kcl_core::types::Timestamp;
    /// use kcl_operations::PlaceSample;
    ///
    /// let arrivals = [0, 500, 1_000].map(Timestamp::from_millis);
    /// let sample = PlaceSample::of(Duration::from_secs(60), &arrivals);
    /// assert_eq!((sample.behind, sample.per_second), (Duration::from_secs(61), Some(2.0)));
    /// ```
    #[must_use]
    pub fn of(behind: Duration, arrivals: &[Timestamp]) -> Self {
        let spread = match (arrivals.first(), arrivals.last()) {
            (Some(first), Some(last)) => last.as_millis().saturating_sub(first.as_millis()),
            _ => 0,
        };
        let spread = Duration::from_millis(u64::try_from(spread).unwrap_or(0));
        let gaps = arrivals.len().saturating_sub(1) as f64;
        Self {
            behind: behind.saturating_add(spread),
            per_second: (!spread.is_zero()).then(|| gaps / spread.as_secs_f64()),
        }
    }
}

impl ResetSpan {
    /// Estimates what lies between the present place and another one, from samples of both: the older of the two shows how densely records lie.
    ///
    /// ```
    /// use std::time::Duration;
    /// use kcl_core::types::Timestamp;
    /// use kcl_operations::{PlaceSample, ResetSpan};
    ///
    /// let now = PlaceSample::of(Duration::from_secs(1), &[]);
    /// let then = PlaceSample::of(Duration::from_secs(120), &[0, 500, 1_000].map(Timestamp::from_millis));
    /// let span = ResetSpan::between(&now, &then);
    /// assert_eq!((span.back_ms, span.records), (120_000, Some(240)));
    /// ```
    #[must_use]
    pub fn between(from: &PlaceSample, to: &PlaceSample) -> Self {
        let millis = |place: &PlaceSample| i64::try_from(place.behind.as_millis()).unwrap_or(i64::MAX);
        let back_ms = millis(to).saturating_sub(millis(from));
        let older = if back_ms < 0 { from } else { to };
        let records = |per_second| (back_ms.unsigned_abs() as f64 / 1000.0 * per_second) as u64;
        Self {
            back_ms,
            records: older.per_second.map(records),
        }
    }
}

impl ResetPlan {
    /// Plans the reset of these leases to these places.
    #[must_use]
    pub fn new(leases: &[Lease], wanted: &BTreeMap<LeaseKey, ResetPosition>) -> Self {
        let rows: BTreeMap<&LeaseKey, &Lease> = leases.iter().map(|lease| (&lease.key, lease)).collect();
        let mut targets: BTreeMap<&LeaseKey, (ResetPosition, bool)> = BTreeMap::new();
        let mut missing = Vec::new();
        for (key, to) in wanted {
            match rows.get(key) {
                Some(row) => drop(targets.insert(&row.key, (to.clone(), false))),
                None => missing.push(key.clone()),
            }
        }
        // Through each generation: a table has few, and each lease is added once.
        loop {
            let is_read_again = |key: &LeaseKey| {
                targets
                    .get(key)
                    .is_some_and(|(to, _)| *to != ResetPosition::ShardEnd)
            };
            let follows = |row: &&Lease| {
                !targets.contains_key(&row.key) && parents(row).any(|parent| is_read_again(&parent))
            };
            let new: Vec<&Lease> = rows.values().copied().filter(follows).collect();
            if new.is_empty() {
                break;
            }
            targets.extend(
                new.into_iter()
                    .map(|row| (&row.key, (ResetPosition::TrimHorizon, true))),
            );
        }
        let depths = depths(&rows, &targets);
        let mut steps: Vec<(usize, ResetStep)> = targets
            .into_iter()
            .map(|(key, (to, follows))| {
                let row = rows[key];
                let step = ResetStep {
                    lease: key.clone(),
                    from: row.reading_from(),
                    to,
                    follows,
                };
                (depths[key], step)
            })
            .collect();
        steps.sort_by(|(a, first), (b, second)| (a, &first.lease).cmp(&(b, &second.lease)));
        let (heads, mut held): (Vec<_>, Vec<_>) = steps.into_iter().partition(|(depth, _)| *depth == 0);
        held.reverse();
        let of = |steps: Vec<(usize, ResetStep)>| steps.into_iter().map(|(_, step)| step).collect();
        Self {
            held: of(held),
            heads: of(heads),
            missing,
        }
    }

    /// Plans to undo the newest reset of any of these leases: of those that it reset, and of their descendants that it took along. The places of
    /// other resets stay. Leases of `of` that were never reset are [`missing`](Self::missing).
    #[must_use]
    pub fn undo(leases: &[Lease], of: &BTreeSet<LeaseKey>) -> Self {
        let last = |lease: &Lease| {
            let history = &lease.orders.as_ref()?.history;
            let mut resets = history.iter().rev().filter(|given| given.before.is_some());
            resets.next().cloned()
        };
        let resets: BTreeMap<&LeaseKey, GivenOrder> = leases
            .iter()
            .filter_map(|lease| Some((&lease.key, last(lease)?)))
            .collect();
        let chosen = resets.iter().filter(|(key, _)| of.contains(**key));
        // All steps of a reset have its author and its time.
        let id = |given: &GivenOrder| (given.at, given.author.clone());
        let newest = chosen.map(|(_, given)| id(given)).max();
        let is_of_newest = |key: &LeaseKey| resets.get(key).is_some_and(|given| Some(id(given)) == newest);
        let mut undone: BTreeSet<LeaseKey> = of.iter().filter(|key| is_of_newest(key)).cloned().collect();
        loop {
            let follows = |row: &&Lease| {
                let is_new = !undone.contains(&row.key) && is_of_newest(&row.key);
                is_new && parents(row).any(|parent| undone.contains(&parent))
            };
            let new: Vec<LeaseKey> = leases.iter().filter(follows).map(|row| row.key.clone()).collect();
            if new.is_empty() {
                break;
            }
            undone.extend(new);
        }
        let before = |key: LeaseKey| {
            let before = resets.get(&key)?.before.clone()?;
            Some((key, before))
        };
        let wanted: BTreeMap<LeaseKey, ResetPosition> = undone.into_iter().filter_map(before).collect();
        let without = of.iter().filter(|key| !resets.contains_key(*key)).cloned();
        let mut plan = Self::new(leases, &wanted);
        plan.missing.extend(without);
        plan
    }

    /// Every step, in the order in which they are made.
    pub fn steps(&self) -> impl Iterator<Item = &ResetStep> {
        self.held.iter().chain(&self.heads)
    }
}

fn parents(row: &Lease) -> impl Iterator<Item = LeaseKey> + '_ {
    row.parents.iter().map(|parent| row.key_of_sibling(parent))
}

/// How many generations of the reset stand above each of its leases: 0 for those without an ancestor in it.
fn depths<'a>(
    rows: &BTreeMap<&LeaseKey, &'a Lease>,
    targets: &BTreeMap<&'a LeaseKey, (ResetPosition, bool)>,
) -> BTreeMap<&'a LeaseKey, usize> {
    let mut depths: BTreeMap<&LeaseKey, usize> = targets.keys().map(|key| (*key, 0)).collect();
    // A ring of parents, which only a broken table has, ends with the number of rounds.
    for _ in 0..targets.len() {
        let mut is_changed = false;
        for key in targets.keys() {
            let above = parents(rows[*key])
                .filter_map(|parent| depths.get(&parent).copied())
                .max();
            let depth = above.map_or(0, |above| above + 1);
            is_changed |= depths.insert(*key, depth) != Some(depth);
        }
        if !is_changed {
            break;
        }
    }
    depths
}

#[cfg(test)]
mod tests {
    use kcl_core::lease_store::OrderAuthor;
    use kcl_core::types::{Position, ShardId};

    use super::*;

    fn lease(shard: u32, checkpoint: Position, parents: &[u32]) -> Lease {
        let id = |shard: u32| ShardId::new(format!("shardId-{shard:012}")).unwrap();
        let mut lease = Lease::unowned(id(shard), checkpoint);
        lease.parents = parents.iter().copied().map(id).collect();
        lease
    }

    fn at(sequence: &str) -> Position {
        Position::parse(sequence, 0).unwrap()
    }

    fn keys(steps: &[ResetStep]) -> Vec<&str> {
        steps.iter().map(|step| &step.lease.as_str()[18..]).collect()
    }

    /// 0 split into 1 and 2; 1 and 2 merged into 3, which is unread.
    fn family() -> Vec<Lease> {
        vec![
            lease(0, Position::ShardEnd, &[]),
            lease(1, Position::ShardEnd, &[0]),
            lease(2, at("7"), &[0]),
            lease(3, Position::TrimHorizon, &[1, 2]),
        ]
    }

    fn plan(wanted: &[(u32, ResetPosition)]) -> ResetPlan {
        let key = |shard: u32| lease(shard, Position::Latest, &[]).key;
        let wanted = wanted
            .iter()
            .map(|(shard, to)| (key(*shard), to.clone()))
            .collect();
        ResetPlan::new(&family(), &wanted)
    }

    #[test]
    fn descendants_follow_their_parent() {
        let plan = plan(&[(0, ResetPosition::TrimHorizon)]);
        assert_eq!(keys(&plan.heads), ["00"]);
        assert_eq!(keys(&plan.held), ["03", "02", "01"]);
        assert!(
            plan.held
                .iter()
                .all(|step| step.follows && step.to == ResetPosition::TrimHorizon)
        );
    }

    #[test]
    fn siblings_of_reset_shard_stay() {
        let plan = plan(&[(2, ResetPosition::TrimHorizon)]);
        assert_eq!((keys(&plan.heads), keys(&plan.held)), (vec!["02"], vec!["03"]));
    }

    #[test]
    fn named_child_begins_where_it_is_said() {
        let time = ResetPosition::AtTimestamp(kcl_core::types::Timestamp::from_millis(9));
        let plan = plan(&[(0, time.clone()), (2, time.clone())]);
        let child = plan
            .held
            .iter()
            .find(|step| step.lease.as_str().ends_with("02"))
            .unwrap();
        assert_eq!((&child.to, child.follows), (&time, false));
    }

    #[test]
    fn end_of_shard_moves_no_children() {
        let plan = plan(&[(0, ResetPosition::ShardEnd)]);
        assert_eq!((keys(&plan.heads), plan.held.len()), (vec!["00"], 0));
    }

    #[test]
    fn lease_that_is_not_there_is_missing() {
        let plan = plan(&[(9, ResetPosition::TrimHorizon)]);
        assert_eq!((plan.missing.len(), plan.steps().count()), (1, 0));
    }

    /// The lease as a reset at this time leaves it.
    fn reset_at(lease: &Lease, to: &ResetPosition, millis: i64) -> Lease {
        let author = OrderAuthor::new("ana").unwrap();
        let before = lease.orders.as_deref().cloned().unwrap_or_default();
        let at = Timestamp::from_millis(millis);
        let orders = before.with_reset(to, lease.reading_from(), false, &author, at);
        Lease {
            checkpoint: to.checkpoint().0,
            orders: Some(Box::new(orders)),
            ..lease.clone()
        }
    }

    #[test]
    fn undo_takes_back_one_reset_with_its_followers() {
        let oldest = ResetPosition::TrimHorizon;
        let mut rows = family();
        // Yesterday 3 alone; today 1, and 3 with it.
        rows[3] = reset_at(
            &rows[3],
            &ResetPosition::After(at("9").record().unwrap().clone()),
            1,
        );
        for shard in [1, 3] {
            rows[shard] = reset_at(&rows[shard], &oldest, 2);
        }
        rows[2] = reset_at(&rows[2], &oldest, 1);
        let all = rows.iter().map(|row| row.key.clone()).collect();
        let undo = ResetPlan::undo(&rows, &all);
        assert_eq!((keys(&undo.heads), keys(&undo.held)), (vec!["01"], vec!["03"]));
        assert_eq!(undo.heads[0].to, ResetPosition::ShardEnd);
        assert_eq!(undo.held[0].to.to_string(), "9", "where it was before today");
        assert_eq!(undo.missing, [rows[0].key.clone()]);
        let parent = BTreeSet::from([rows[1].key.clone()]);
        assert_eq!(ResetPlan::undo(&rows, &parent).steps().count(), 2);
    }

    #[test]
    fn span_counts_records_of_the_older_place() {
        let sample = |behind: u64, per_second: Option<f64>| PlaceSample {
            behind: Duration::from_secs(behind),
            per_second,
        };
        let (old, new) = (sample(660, Some(10.0)), sample(600, Some(70.0)));
        let span = |from, to| {
            let ResetSpan { back_ms, records } = ResetSpan::between(from, to);
            (back_ms, records)
        };
        assert_eq!(span(&new, &old), (60_000, Some(600)));
        assert_eq!(span(&old, &new), (-60_000, Some(600)));
        assert_eq!(span(&new, &sample(900, None)), (300_000, None));
        let at_once = PlaceSample::of(Duration::ZERO, &[Timestamp::from_millis(5); 3]);
        assert_eq!(at_once.per_second, None, "records of one moment show no rate");
    }

    #[test]
    fn ring_of_parents_ends() {
        let ring = [lease(0, at("1"), &[1]), lease(1, at("1"), &[0])];
        let wanted = BTreeMap::from([(ring[0].key.clone(), ResetPosition::TrimHorizon)]);
        assert_eq!(ResetPlan::new(&ring, &wanted).steps().count(), 2);
    }
}
