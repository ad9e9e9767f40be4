//! How the limits of a polled shard are shared with other applications.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use kcl_core::clock::Moment;
use kcl_core::types::ShardId;

/// The part of a shard's limits that this reader uses, in thousandths.
///
/// The reads of others are not known, only that there were too many. So the part is halved then, and grows slowly: readers that all do
/// so come to equal parts, whatever they begin with ("additive increase, multiplicative decrease").
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AdaptiveRate {
    /// The part that it was last cut to, and when.
    cut: Option<(u32, Moment)>,
}

pub(crate) const FULL_RATE: u32 = 1000;
/// One read in two seconds at the limits of Kinesis: rarer, and it would take long to notice that the others have gone.
pub(crate) const MIN_RATE: u32 = FULL_RATE / 10;
/// Growth each second: half a minute from half to whole.
const GROWTH_PER_SECOND: u32 = FULL_RATE / 50;

impl AdaptiveRate {
    pub(crate) fn at(self, now: Moment) -> u32 {
        let Some((cut_to, when)) = self.cut else {
            return FULL_RATE;
        };
        let millis = u32::try_from(now.saturating_since(when).as_millis()).unwrap_or(u32::MAX);
        let grown = millis.saturating_mul(GROWTH_PER_SECOND) / 1000;
        cut_to.saturating_add(grown).min(FULL_RATE)
    }

    pub(crate) fn halved(self, now: Moment) -> Self {
        let half = (self.at(now) / 2).max(MIN_RATE);
        Self {
            cut: Some((half, now)),
        }
    }
}

/// The rates of the shards of a stream, which outlive their readers: a shard is opened again after a failure, or when its lease comes back, and
/// the others that poll it are still there.
#[derive(Debug, Default)]
pub(crate) struct AdaptiveRates(Mutex<BTreeMap<ShardId, AdaptiveRate>>);

impl AdaptiveRates {
    /// The rate of the shard's last reader.
    pub(crate) fn get(&self, shard: &ShardId) -> AdaptiveRate {
        let rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rates.get(shard).copied().unwrap_or_default()
    }

    pub(crate) fn remember(&self, shard: &ShardId, rate: AdaptiveRate, now: Moment) {
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is whole again is like none.
        rates.retain(|_, rate| rate.at(now) < FULL_RATE);
        rates.insert(shard.clone(), rate);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn refusal_halves_share_and_time_restores_it() {
        let mut rate = AdaptiveRate::default();
        let mut seen = Vec::new();
        for _ in 0..5 {
            rate = rate.halved(at(0));
            seen.push(rate.at(at(0)));
        }
        assert_eq!(seen, [500, 250, 125, 100, 100]);
        assert_eq!(rate.at(at(1000)), 120);
        assert_eq!(rate.at(at(45_000)), 1000);
        assert_eq!(rate.at(at(u64::from(u32::MAX) * 3)), 1000);
    }

    #[test]
    fn share_of_shard_is_kept_until_whole_again() {
        let rates = AdaptiveRates::default();
        let shard = |n: u32| ShardId::new(format!("shardId-{n:012}")).unwrap();
        let half = AdaptiveRate::default().halved(at(0));
        rates.remember(&shard(0), half, at(0));
        assert_eq!(rates.get(&shard(0)).at(at(1000)), 520);
        assert_eq!(rates.get(&shard(1)).at(at(1000)), FULL_RATE);
        rates.remember(&shard(1), half.halved(at(1000)), at(1000));
        assert_eq!(rates.get(&shard(0)).at(at(1000)), 520);
        rates.remember(&shard(1), half.halved(at(30_000)), at(30_000));
        assert_eq!(rates.0.lock().unwrap().len(), 1);
    }
}
