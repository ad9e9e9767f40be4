//! Which user records of an aggregate a shard delivers.

use std::ops::RangeInclusive;

use crate::aggregate::Aggregate;
use crate::stored::Stored;

/// Which of the readable user records are delivered.
#[derive(Debug, Clone)]
pub(crate) enum Admission {
    All,
    Nothing,
    /// By the places of the keys in the tables, known for all that are used.
    Inside {
        partition_keys: Vec<Place>,
        hash_keys: Vec<Place>,
    },
}

impl Admission {
    pub(crate) fn withholds(&self, aggregate: &Aggregate, stored: &Stored) -> bool {
        match self {
            Self::All => false,
            Self::Nothing => true,
            Self::Inside {
                partition_keys,
                hash_keys,
            } => aggregate.keys_of(stored).is_ok_and(|keys| {
                let explicit = keys.hash_key.map(|index| hash_keys[index]);
                let place = match explicit {
                    Some(place) if place != Place::Nowhere => place,
                    _ => partition_keys[keys.partition_key],
                };
                place == Place::Outside
            }),
        }
    }
}

/// Where a key lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    NotLookedAt,
    Inside,
    Outside,
    /// Of an explicit hash key that is no number: the partition key decides.
    Nowhere,
}

/// Computes the place of each key of the tables once, however many records use it: an MD5 per record would cost more than all else.
pub(crate) struct Places<'a> {
    aggregate: &'a Aggregate,
    shard: RangeInclusive<u128>,
    pub(crate) partition_keys: Vec<Place>,
    pub(crate) hash_keys: Vec<Place>,
}

impl<'a> Places<'a> {
    pub(crate) fn new(aggregate: &'a Aggregate, shard: RangeInclusive<u128>) -> Self {
        // Every key lies in a shard that has them all.
        let place = if shard == (0..=u128::MAX) {
            Place::Inside
        } else {
            Place::NotLookedAt
        };
        Self {
            aggregate,
            shard,
            partition_keys: vec![place; aggregate.partition_keys().len()],
            hash_keys: vec![place; aggregate.hash_keys().len()],
        }
    }

    pub(crate) fn is_outside(&mut self, stored: &Stored) -> bool {
        let Ok(keys) = self.aggregate.keys_of(stored) else {
            return false;
        };
        if let Some(index) = keys.hash_key {
            if self.hash_keys[index] == Place::NotLookedAt {
                let key = self.aggregate.explicit_hash_key(index);
                self.hash_keys[index] = key.map_or(Place::Nowhere, |key| self.place_of(key));
            }
            if self.hash_keys[index] != Place::Nowhere {
                return self.hash_keys[index] == Place::Outside;
            }
        }
        let index = keys.partition_key;
        if self.partition_keys[index] == Place::NotLookedAt {
            self.partition_keys[index] = self.place_of(self.aggregate.hash_of_partition_key(index));
        }
        self.partition_keys[index] == Place::Outside
    }

    fn place_of(&self, hash_key: u128) -> Place {
        match self.shard.contains(&hash_key) {
            true => Place::Inside,
            false => Place::Outside,
        }
    }
}
