//! Decides when a held shard is warned of, because retention is about to take what it has not finished.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::types::LeaseKey;

/// How long a stream keeps records that does not say: the shortest time that Kinesis allows, which is its default.
pub(crate) const SHORTEST_RETENTION: Duration = Duration::from_secs(24 * 3600);

/// A shard that is held by a failure, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeldShard {
    /// How old its oldest unfinished record is then, at most.
    pub(crate) age: Duration,
    /// How long its stream keeps records.
    pub(crate) retention: Duration,
}

impl HeldShard {
    /// How long it takes until retention takes that record.
    pub(crate) fn left(self) -> Duration {
        self.retention.saturating_sub(self.age)
    }
}

/// The shards that are held, and what of them was warned of.
#[derive(Debug, Default)]
pub(crate) struct RetentionWatch(BTreeMap<LeaseKey, HoldRecord>);

#[derive(Debug)]
struct HoldRecord {
    /// How much time was left when the hold began.
    at_first: Duration,
    /// The last part of that time that was warned of, as its divisor.
    warned: Option<u32>,
    /// The age of the oldest record when it was looked at last.
    age: Duration,
}

/// The consequence of a look at a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// The shard is not held, or much time is left.
    Far,
    /// Half of the time has passed at least, and that is known.
    Near,
    /// As [`Near`](Self::Near), and it is to be warned of now.
    Warn,
}

/// The parts of the time left at which a shard is warned of: a half and a tenth.
const PARTS: [u32; 2] = [10, 2];

impl RetentionWatch {
    /// Looks at a shard; `held` is `None` if it is not held. Warns once at half of the time that was left when the hold began, and once at
    /// a tenth.
    pub(crate) fn look(&mut self, lease: &LeaseKey, held: Option<HeldShard>) -> Expiry {
        let Some(held) = held else {
            self.0.remove(lease);
            return Expiry::Far;
        };
        let left = held.left();
        let begun = || HoldRecord {
            at_first: left,
            warned: None,
            age: held.age,
        };
        let hold = self.0.entry(lease.clone()).or_insert_with(begun);
        if held.age < hold.age {
            // The record that was held is finished, and another one is.
            *hold = begun();
        }
        hold.age = held.age;
        let reached = PARTS.into_iter().find(|part| left <= hold.at_first / *part);
        match (reached, hold.warned) {
            (Some(part), warned) if warned.is_none_or(|warned| warned < part) => {
                hold.warned = Some(part);
                Expiry::Warn
            }
            (_, Some(_)) => Expiry::Near,
            (_, None) => Expiry::Far,
        }
    }

    /// Forgets the shards that the worker does not hold any more.
    pub(crate) fn retain(&mut self, is_held: impl Fn(&LeaseKey) -> bool) {
        self.0.retain(|lease, _| is_held(lease));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::ShardId;

    const HOUR: Duration = Duration::from_secs(3600);

    fn lease() -> LeaseKey {
        LeaseKey::single_stream(&ShardId::new("shardId-000000000000").unwrap())
    }

    fn held(age: Duration) -> Option<HeldShard> {
        let retention = 24 * HOUR;
        Some(HeldShard { age, retention })
    }

    #[test]
    fn hold_is_warned_of_at_half_and_tenth() {
        let mut watch = RetentionWatch::default();
        // It was four hours behind when it failed: twenty are left.
        let warned: Vec<u32> = (4..40)
            .filter(|hour| watch.look(&lease(), held(HOUR * *hour)) == Expiry::Warn)
            .collect();
        assert_eq!(warned, [14, 22]);
        assert_eq!(watch.look(&lease(), held(40 * HOUR)), Expiry::Near);
        assert_eq!(watch.look(&lease(), None), Expiry::Far);
        assert_eq!(
            watch.look(&lease(), held(23 * HOUR)),
            Expiry::Far,
            "that is another hold"
        );
    }

    #[test]
    fn hold_without_time_left_warns_at_once() {
        let mut watch = RetentionWatch::default();
        assert_eq!(watch.look(&lease(), held(30 * HOUR)), Expiry::Warn);
        assert_eq!(watch.look(&lease(), held(31 * HOUR)), Expiry::Near);
    }

    #[test]
    fn next_held_record_is_warned_of_by_itself() {
        let mut watch = RetentionWatch::default();
        for (age, verdict) in [
            (2, Expiry::Far),
            (13, Expiry::Warn),
            (5, Expiry::Far),
            (14, Expiry::Far),
            (15, Expiry::Warn),
        ] {
            assert_eq!(watch.look(&lease(), held(HOUR * age)), verdict, "{age} hours");
        }
    }

    #[test]
    fn stream_without_end_is_never_warned_of() {
        let mut watch = RetentionWatch::default();
        for day in 0..1000 {
            let held = HeldShard {
                age: 24 * HOUR * day,
                retention: Duration::MAX,
            };
            assert_eq!(watch.look(&lease(), Some(held)), Expiry::Far);
        }
    }

    proptest! {
        /// However seldom it is looked at, a hold is warned of at most twice, and once at least when its time is over.
        #[test]
        fn hold_is_warned_of_once_or_twice(begun in 0_u64..20, steps in proptest::collection::vec(1_u64..9, 1..30)) {
            let (mut watch, mut hour, mut warnings) = (RetentionWatch::default(), begun, 0);
            for step in steps.into_iter().chain([24]) {
                warnings += u32::from(watch.look(&lease(), held(Duration::from_secs(3600 * hour))) == Expiry::Warn);
                hour += step;
            }
            warnings += u32::from(watch.look(&lease(), held(Duration::from_secs(3600 * hour))) == Expiry::Warn);
            prop_assert!((1..=2).contains(&warnings), "{warnings}");
        }
    }
}
