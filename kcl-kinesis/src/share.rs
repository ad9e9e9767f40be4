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
pub(crate) struct Share {
    /// The part that it was last cut to, and when.
    cut: Option<(u32, Moment)>,
}

pub(crate) const WHOLE: u32 = 1000;
/// One read in two seconds at the limits of Kinesis: rarer, and it would take long to notice that the others have gone.
pub(crate) const SMALLEST: u32 = WHOLE / 10;
/// Growth each second: half a minute from half to whole.
const GROWTH: u32 = WHOLE / 50;

impl Share {
    pub(crate) fn at(self, now: Moment) -> u32 {
        let Some((cut_to, when)) = self.cut else {
            return WHOLE;
        };
        let millis = u32::try_from(now.saturating_since(when).as_millis()).unwrap_or(u32::MAX);
        let grown = millis.saturating_mul(GROWTH) / 1000;
        cut_to.saturating_add(grown).min(WHOLE)
    }

    pub(crate) fn halved(self, now: Moment) -> Self {
        let half = (self.at(now) / 2).max(SMALLEST);
        Self {
            cut: Some((half, now)),
        }
    }
}

/// The shares of the shards of a stream, which outlive their readers: a shard is opened again after a failure, or when its lease comes back, and
/// the others that poll it are still there.
#[derive(Debug, Default)]
pub(crate) struct Shares(Mutex<BTreeMap<ShardId, Share>>);

impl Shares {
    /// The share of the shard's last reader.
    pub(crate) fn of(&self, shard: &ShardId) -> Share {
        let shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shares.get(shard).copied().unwrap_or_default()
    }

    pub(crate) fn keep(&self, shard: &ShardId, share: Share, now: Moment) {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is whole again is like none.
        shares.retain(|_, share| share.at(now) < WHOLE);
        shares.insert(shard.clone(), share);
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
    fn a_refusal_halves_the_share_down_to_a_tenth_and_time_brings_it_back() {
        let mut share = Share::default();
        let mut seen = Vec::new();
        for _ in 0..5 {
            share = share.halved(at(0));
            seen.push(share.at(at(0)));
        }
        assert_eq!(seen, [500, 250, 125, 100, 100]);
        assert_eq!(share.at(at(1000)), 120);
        assert_eq!(share.at(at(45_000)), 1000);
        assert_eq!(share.at(at(u64::from(u32::MAX) * 3)), 1000);
    }

    #[test]
    fn the_share_of_a_shard_is_kept_until_it_is_whole_again() {
        let shares = Shares::default();
        let shard = |n: u32| ShardId::new(format!("shardId-{n:012}")).unwrap();
        let half = Share::default().halved(at(0));
        shares.keep(&shard(0), half, at(0));
        assert_eq!(shares.of(&shard(0)).at(at(1000)), 520);
        assert_eq!(shares.of(&shard(1)).at(at(1000)), WHOLE);
        shares.keep(&shard(1), half.halved(at(1000)), at(1000));
        assert_eq!(shares.of(&shard(0)).at(at(1000)), 520);
        shares.keep(&shard(1), half.halved(at(30_000)), at(30_000));
        assert_eq!(shares.0.lock().unwrap().len(), 1);
    }
}
