use std::fmt;

/// The hash keys that a shard receives: an inclusive range of 128-bit numbers.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::types::HashKeyRange;
///
/// let whole = HashKeyRange::WHOLE;
/// let (low, high) = whole.halves().expect("more than one key");
/// assert!(low.is_followed_by(&high));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HashKeyRange {
    start: u128,
    end: u128,
}

impl HashKeyRange {
    /// Every hash key there is: 0 to 2¹²⁸ − 1.
    pub const WHOLE: Self = Self {
        start: 0,
        end: u128::MAX,
    };

    /// The range from `start` to `end`, both included.
    ///
    /// # Errors
    ///
    /// When `start` is larger than `end`.
    pub fn new(start: u128, end: u128) -> Result<Self, InvalidHashKeyRange> {
        if start > end {
            Err(InvalidHashKeyRange)
        } else {
            Ok(Self { start, end })
        }
    }

    /// Reads the two decimals in which Kinesis and the lease rows write a range.
    ///
    /// # Errors
    ///
    /// When one is not a decimal of 128 bits, or they stand in the wrong order.
    pub fn parse(start: &str, end: &str) -> Result<Self, InvalidHashKeyRange> {
        let number = |text: &str| text.parse::<u128>().map_err(|_| InvalidHashKeyRange);
        Self::new(number(start)?, number(end)?)
    }

    /// The first key.
    pub fn start(&self) -> u128 {
        self.start
    }

    /// The last key, which belongs to the range.
    pub fn end(&self) -> u128 {
        self.end
    }

    /// Whether the key lies in the range.
    pub fn contains(&self, hash_key: u128) -> bool {
        (self.start..=self.end).contains(&hash_key)
    }

    /// Whether `next` begins right after this range ends.
    pub fn is_followed_by(&self, next: &Self) -> bool {
        self.end.checked_add(1) == Some(next.start)
    }

    /// The two halves of the range, the lower first; `None` for a range of one key.
    pub fn halves(&self) -> Option<(Self, Self)> {
        let middle = self.start + (self.end - self.start) / 2;
        (middle < self.end).then(|| {
            (
                Self {
                    start: self.start,
                    end: middle,
                },
                Self {
                    start: middle + 1,
                    end: self.end,
                },
            )
        })
    }
}

impl fmt::Display for HashKeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.start, self.end)
    }
}

/// The values do not make a range of hash keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a hash key range is two decimals of at most 128 bits, the first not above the second")]
pub struct InvalidHashKeyRange;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn halves_cover_the_range_and_nothing_else(a in any::<u128>(), b in any::<u128>(), key in any::<u128>()) {
            let range = HashKeyRange::new(a.min(b), a.max(b)).unwrap();
            if let Some((low, high)) = range.halves() {
                prop_assert!(low.is_followed_by(&high));
                prop_assert_eq!((low.start(), high.end()), (range.start(), range.end()));
                prop_assert_eq!(low.contains(key) ^ high.contains(key), range.contains(key));
            } else {
                prop_assert_eq!(range.start(), range.end());
            }
        }
    }

    #[test]
    fn nothing_follows_the_last_key() {
        assert!(!HashKeyRange::WHOLE.is_followed_by(&HashKeyRange::WHOLE));
    }

    #[test]
    fn a_range_in_the_wrong_order_is_refused() {
        assert_eq!(HashKeyRange::parse("2", "1"), Err(InvalidHashKeyRange));
        assert_eq!(HashKeyRange::parse("", "1"), Err(InvalidHashKeyRange));
    }
}
