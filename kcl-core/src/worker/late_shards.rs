//! Which shards have a series of their own in the metrics: those that are furthest behind, and never more than a recorder can bear.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::types::LeaseKey;

/// A shard that is less behind has no series. It is longer than the pause between two answers about a shard where nothing comes.
pub(crate) const FROM: Duration = Duration::from_secs(10);

/// How many shards a worker names in its life for each that it names at a time: a recorder keeps every series that it has seen.
const NAMES_PER_SHARD: usize = 10;

/// The label of those that come when all names are given.
const OTHER: &str = "other";

/// Decides which shards are shown: the `most` that are furthest behind, by at least [`FROM`].
///
/// A shard that is `shown` already stays until another is further behind by more than a quarter, so that shards which are about as late as
/// each other do not take turns. Of equally late ones the first key is shown.
pub(crate) fn top_by_lag(
    lags: &BTreeMap<LeaseKey, Duration>,
    shown: &BTreeSet<LeaseKey>,
    most: usize,
) -> BTreeMap<LeaseKey, Duration> {
    let mut late: Vec<_> = lags.iter().filter(|(_, lag)| **lag >= FROM).collect();
    let weight = |key: &LeaseKey, lag: Duration| match shown.contains(key) {
        true => lag.saturating_add(lag / 4),
        false => lag,
    };
    late.sort_by(|(a, lag_a), (b, lag_b)| {
        let (a, b) = ((weight(a, **lag_a), a), (weight(b, **lag_b), b));
        b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1))
    });
    late.truncate(most);
    late.into_iter().map(|(key, lag)| (key.clone(), *lag)).collect()
}

/// The series of one worker.
#[derive(Debug, Default)]
pub(crate) struct LateShards {
    most: usize,
    shown: BTreeSet<LeaseKey>,
    /// Every shard that was ever named.
    named: BTreeSet<LeaseKey>,
    has_others: bool,
}

impl LateShards {
    /// At most so many shards at a time; none if that is 0.
    pub(crate) fn new(most: u32) -> Self {
        Self {
            most: usize::try_from(most).unwrap_or(usize::MAX),
            ..Self::default()
        }
    }

    /// The values of each series from now on, by its label: a series that showed a value before and shows no longer is set to 0.
    pub(crate) fn next(&mut self, lags: &BTreeMap<LeaseKey, Duration>) -> BTreeMap<String, Duration> {
        let top = top_by_lag(lags, &self.shown, self.most);
        let left = self.shown.iter().filter(|key| self.named.contains(*key));
        let mut series: BTreeMap<_, _> = left.map(|key| (key.to_string(), Duration::ZERO)).collect();
        if self.has_others {
            series.insert(OTHER.to_owned(), Duration::ZERO);
        }
        let most_names = self.most.saturating_mul(NAMES_PER_SHARD);
        for (key, lag) in &top {
            if self.named.len() < most_names {
                self.named.insert(key.clone());
            }
            if self.named.contains(key) {
                series.insert(key.to_string(), *lag);
            } else {
                self.has_others = true;
                let furthest = series.entry(OTHER.to_owned()).or_default();
                *furthest = (*furthest).max(*lag);
            }
        }
        self.shown = top.into_keys().collect();
        series
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ShardId;

    fn key(n: u32) -> LeaseKey {
        LeaseKey::single_stream(&ShardId::new(format!("shardId-{n:012}")).unwrap())
    }

    fn lags(of: impl IntoIterator<Item = (u32, u64)>) -> BTreeMap<LeaseKey, Duration> {
        of.into_iter()
            .map(|(n, lag)| (key(n), Duration::from_secs(lag)))
            .collect()
    }

    fn top(of: &[(u32, u64)], shown: &[u32], most: usize) -> Vec<LeaseKey> {
        let shown = shown.iter().map(|n| key(*n)).collect();
        let top = top_by_lag(&lags(of.iter().copied()), &shown, most);
        top.into_keys().collect()
    }

    #[test]
    fn shards_furthest_behind_are_shown() {
        let shards = [(1, 30), (2, 500), (3, 20), (4, 500), (5, 9)];
        assert_eq!(top(&shards, &[], 3), [key(1), key(2), key(4)]);
        assert_eq!(top(&shards, &[], 1), [key(2)], "the first of equals");
        assert_eq!(
            top(&shards, &[], 9),
            [key(1), key(2), key(3), key(4)],
            "5 is not late"
        );
        assert!(top(&shards, &[], 0).is_empty());
    }

    #[test]
    fn shown_shard_stays_until_another_is_clearly_later() {
        assert_eq!(top(&[(1, 100), (2, 124)], &[1], 1), [key(1)]);
        assert_eq!(top(&[(1, 100), (2, 126)], &[1], 1), [key(2)]);
        assert_eq!(top(&[(2, 126)], &[1], 1), [key(2)], "its lease went elsewhere");
        assert_eq!(top(&[(1, 9), (2, 11)], &[1], 2), [key(2)], "it has caught up");
    }

    #[test]
    fn shard_that_leaves_the_top_shows_zero_once() {
        let mut late = LateShards::new(1);
        let text = |n: u32| key(n).to_string();
        let (zero, seconds) = (Duration::ZERO, Duration::from_secs);
        assert_eq!(
            late.next(&lags([(1, 60)])),
            BTreeMap::from([(text(1), seconds(60))])
        );
        let moved = late.next(&lags([(1, 60), (2, 90)]));
        assert_eq!(moved, BTreeMap::from([(text(1), zero), (text(2), seconds(90))]));
        assert_eq!(late.next(&lags([])), BTreeMap::from([(text(2), zero)]));
        assert!(late.next(&lags([])).is_empty());
    }

    #[test]
    fn series_are_bounded_however_many_shards_are_late() {
        const MOST: u32 = 3;
        let mut late = LateShards::new(MOST);
        let mut labels = BTreeSet::new();
        for round in 0..1000 {
            // Other shards each time, as in a stream that is resharded again and again.
            let series = late.next(&lags((0..50).map(|n| (round * 50 + n, 60 + u64::from(n)))));
            let shown = series.values().filter(|lag| !lag.is_zero());
            assert!(shown.count() <= 3);
            labels.extend(series.into_keys());
        }
        assert_eq!(
            labels.len(),
            31,
            "ten names for each place, and one for all others"
        );
        assert!(labels.contains(OTHER));
        let quiet = late.next(&lags([]));
        assert_eq!(quiet, BTreeMap::from([(OTHER.to_owned(), Duration::ZERO)]));
        let known = late.next(&lags([(47, 60), (999_999, 50)]));
        assert_eq!(known[&key(47).to_string()], Duration::from_secs(60));
        assert_eq!(known[OTHER], Duration::from_secs(50));
    }

    #[test]
    fn no_series_where_it_is_off() {
        assert!(LateShards::new(0).next(&lags([(1, 60)])).is_empty());
    }
}
