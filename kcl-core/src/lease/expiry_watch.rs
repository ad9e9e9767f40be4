//! Watches rows from outside: how long has each stood still, by the observer's own clock.
//!
//! An observer calls something expired when *it* has watched it stand still for a whole failover time.
//! The verdict on a lease is `TableView::hold` of the coordinator; its owner judges by `ownership::validity`.
//! Only observed time counts: between two successful looks at most twice the cadence passes, so that an outage stops every watch.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::runtime::clock::Moment;

/// A watch on a set of rows, each reduced to a mark that changes whenever the row lives.
///
/// ```
/// use std::time::Duration;
/// use kcl_core::internals::ExpiryWatch;
/// use kcl_core::clock::Moment;
///
/// let second = |n| Moment::from_origin(Duration::from_secs(n));
/// let mut watch = ExpiryWatch::new(Duration::from_secs(1));
/// watch.look(second(0), [("shard", 7)]);
/// watch.look(second(1), [("shard", 7)]);
/// assert_eq!(watch.still_for(&"shard"), Some(Duration::from_secs(1)));
/// watch.look(second(2), [("shard", 8)]);
/// assert_eq!(watch.still_for(&"shard"), Some(Duration::ZERO));
/// ```
#[derive(Debug, Clone)]
pub struct ExpiryWatch<K, M> {
    cadence: Duration,
    last_look: Option<Moment>,
    seen: BTreeMap<K, SeenRow<M>>,
}

#[derive(Debug, Clone)]
struct SeenRow<M> {
    mark: M,
    still_for: Duration,
}

impl<K: Ord, M: PartialEq> ExpiryWatch<K, M> {
    /// A watch that is meant to look once per `cadence`.
    pub fn new(cadence: Duration) -> Self {
        Self {
            cadence,
            last_look: None,
            seen: BTreeMap::new(),
        }
    }

    /// Changes how often the watch is meant to look.
    pub fn set_cadence(&mut self, cadence: Duration) {
        self.cadence = cadence;
    }

    /// Notes what a successful look at `now` saw. A row that it did not see is forgotten; what is new starts at zero.
    pub fn look(&mut self, now: Moment, rows: impl IntoIterator<Item = (K, M)>) {
        let elapsed = self
            .last_look
            .map_or(Duration::ZERO, |last| now.saturating_since(last));
        let counted = elapsed.min(self.cadence * 2);
        let mut before = std::mem::take(&mut self.seen);
        for (key, mark) in rows {
            let still_for = match before.remove(&key) {
                Some(seen) if seen.mark == mark => seen.still_for + counted,
                _ => Duration::ZERO,
            };
            self.seen.insert(key, SeenRow { mark, still_for });
        }
        self.last_look = Some(now);
    }

    /// How long the row has been watched standing still; `None` when the last look did not see it.
    pub fn still_for(&self, key: &K) -> Option<Duration> {
        self.seen.get(key).map(|seen| seen.still_for)
    }

    /// Whether the row has been watched standing still for this long.
    pub fn is_still_for(&self, key: &K, long: Duration) -> bool {
        self.still_for(key).is_some_and(|still| still >= long)
    }

    /// Forgets everything, as after a time in which somebody else watched.
    pub fn forget(&mut self) {
        self.last_look = None;
        self.seen.clear();
    }

    /// When, at the earliest, a row could be called still for as long as `long(key)` says, if looks go on as planned.
    pub fn next_expiry(&self, long: impl Fn(&K) -> Duration) -> Option<Moment> {
        let last = self.last_look?;
        let left = self
            .seen
            .iter()
            .map(|(key, seen)| long(key).saturating_sub(seen.still_for));
        left.filter(|left| !left.is_zero()).min().map(|left| last + left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const F: Duration = Duration::from_millis(1000);

    proptest! {
        /// Whatever the spacing of the looks, a row that changed within the last F is never called expired.
        #[test]
        fn nothing_is_expired_early(gaps in prop::collection::vec((0_u64..3000, any::<bool>()), 1..60)) {
            let mut watch = ExpiryWatch::new(Duration::from_millis(500));
            let (mut now, mut mark, mut changed_at) = (0_u64, 0_u32, 0_u64);
            watch.look(Moment::ZERO, [((), mark)]);
            for (gap, changes) in gaps {
                now += gap;
                if changes {
                    mark += 1;
                    changed_at = now;
                }
                watch.look(Moment::from_origin(Duration::from_millis(now)), [((), mark)]);
                let truly_still = Duration::from_millis(now - changed_at);
                prop_assert!(watch.still_for(&()).unwrap() <= truly_still);
            }
        }

        /// With looks on the cadence a dead row is called expired within F and one look.
        #[test]
        fn a_dead_row_expires_in_time(cadence in 1_u64..500) {
            let mut watch = ExpiryWatch::new(Duration::from_millis(cadence));
            let mut now = 0;
            loop {
                watch.look(Moment::from_origin(Duration::from_millis(now)), [((), 0)]);
                if watch.is_still_for(&(), F) { break; }
                now += cadence;
            }
            prop_assert!(now < 1000 + cadence);
        }
    }

    #[test]
    fn an_outage_counts_for_two_looks_at_most() {
        let mut watch = ExpiryWatch::new(Duration::from_millis(100));
        watch.look(Moment::ZERO, [((), 0)]);
        watch.look(Moment::from_origin(Duration::from_secs(3600)), [((), 0)]);
        assert_eq!(watch.still_for(&()), Some(Duration::from_millis(200)));
    }

    #[test]
    fn row_that_vanished_and_returned_starts_again() {
        let mut watch = ExpiryWatch::new(F);
        watch.look(Moment::ZERO, [((), 0)]);
        watch.look(Moment::ZERO + F, []);
        watch.look(Moment::ZERO + F + F, [((), 0)]);
        assert_eq!(watch.still_for(&()), Some(Duration::ZERO));
    }

    #[test]
    fn next_expiry_is_of_row_still_for_longest() {
        let mut watch = ExpiryWatch::new(F);
        watch.look(Moment::ZERO, [("a", 0)]);
        watch.look(Moment::ZERO + Duration::from_millis(400), [("a", 0), ("b", 0)]);
        assert_eq!(watch.next_expiry(|_| F), Some(Moment::ZERO + F));
    }
}
