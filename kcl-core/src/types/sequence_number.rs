use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use bytestring::ByteString;

/// The place of a record in its shard, as Kinesis numbers it: a decimal of up to 129 digits.
///
/// Order is numeric, not alphabetic: `"9" < "10"`.
/// The digits are shared, so a clone costs no allocation.
///
/// Leading zeros make no other number, but they are kept: some servers write them and find a record by its text only, and
/// DynamoDB Streams writes them as well.
///
/// The length bound is that of the [Kinesis API](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecord.html),
/// whose pattern is `0|([1-9]\d{0,128})`. It holds for leading zeros, too.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::types::SequenceNumber;
///
/// let nine: SequenceNumber = "9".parse()?;
/// let ten: SequenceNumber = "10".parse()?;
/// assert!(nine < ten);
/// assert_eq!(ten.as_str(), "10");
///
/// let padded: SequenceNumber = "0010".parse()?;
/// assert_eq!(padded, ten);
/// assert_eq!(padded.as_str(), "0010");
/// assert!("12a".parse::<SequenceNumber>().is_err());
/// # Ok::<(), kcl_core::types::InvalidSequenceNumber>(())
/// ```
#[derive(Clone)]
pub struct SequenceNumber(ByteString);

/// The most digits a sequence number can have, leading zeros among them.
const MAX_DIGITS: usize = 129;

impl SequenceNumber {
    /// Takes over a string of digits without copying it.
    ///
    /// # Errors
    ///
    /// When the text is empty, holds anything but ASCII digits, or has more than 129 digits.
    pub fn new(digits: impl Into<ByteString>) -> Result<Self, InvalidSequenceNumber> {
        let digits = digits.into();
        // Without a way out in the middle the digits are looked at many at a time.
        let all_digits = digits.bytes().fold(true, |all, byte| all & byte.is_ascii_digit());
        if digits.is_empty() || !all_digits || digits.len() > MAX_DIGITS {
            return Err(InvalidSequenceNumber {
                text: abridged(&digits),
            });
        }
        Ok(Self(digits))
    }

    /// The digits, as the service wrote them.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digits that identify the number: without leading zeros, so none for zero.
    fn significant(&self) -> &str {
        self.0.trim_start_matches('0')
    }

    /// A copy that shares no memory with the response it came from.
    ///
    /// A shared slice keeps the whole body of the response alive, which matters for a value that outlives its batch.
    pub fn detached(&self) -> Self {
        Self(ByteString::from(self.as_str()))
    }
}

fn abridged(text: &str) -> String {
    text.chars().take(40).collect()
}

impl PartialEq for SequenceNumber {
    fn eq(&self, other: &Self) -> bool {
        self.significant() == other.significant()
    }
}

impl Eq for SequenceNumber {}

impl Hash for SequenceNumber {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.significant().hash(state);
    }
}

impl Ord for SequenceNumber {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (self.significant(), other.significant());
        a.len().cmp(&b.len()).then_with(|| a.cmp(b))
    }
}

impl PartialOrd for SequenceNumber {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<u128> for SequenceNumber {
    fn from(value: u128) -> Self {
        Self(ByteString::from(value.to_string()))
    }
}

impl FromStr for SequenceNumber {
    type Err = InvalidSequenceNumber;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not a Kinesis sequence number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a sequence number: 1 to 129 decimal digits are expected")]
pub struct InvalidSequenceNumber {
    text: String,
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn order_is_numeric(a in any::<u128>(), b in any::<u128>()) {
            prop_assert_eq!(SequenceNumber::from(a).cmp(&SequenceNumber::from(b)), a.cmp(&b));
        }

        #[test]
        fn longer_number_is_larger_up_to_129_digits(a in "[1-9][0-9]{0,127}", digit in 0_u8..10) {
            let longer = format!("{a}{digit}");
            let (a, longer): (SequenceNumber, SequenceNumber) = (a.parse().unwrap(), longer.parse().unwrap());
            prop_assert!(a < longer);
        }

        #[test]
        fn text_round_trips(a in "[0-9]{1,129}") {
            let number: SequenceNumber = a.parse().unwrap();
            prop_assert_eq!(number.detached().to_string(), a);
        }

        #[test]
        fn leading_zeros_change_no_comparison(a in any::<u128>(), b in any::<u128>(), zeros in 0_usize..20) {
            let padded: SequenceNumber = format!("{}{a}", "0".repeat(zeros)).parse().unwrap();
            let (plain, other) = (SequenceNumber::from(a), SequenceNumber::from(b));
            prop_assert_eq!(&padded, &plain);
            prop_assert_eq!(padded.cmp(&other), plain.cmp(&other));
            let hash = |number: &SequenceNumber| BuildHasherDefault::<DefaultHasher>::default().hash_one(number);
            prop_assert_eq!(hash(&padded), hash(&plain));
        }
    }

    #[test]
    fn leading_zeros_do_not_make_a_different_number() {
        assert_eq!("007".parse::<SequenceNumber>().unwrap(), SequenceNumber::from(7));
        assert_eq!("000".parse::<SequenceNumber>().unwrap(), SequenceNumber::from(0));
    }

    #[test]
    fn text_that_is_not_a_number_is_refused() {
        for text in ["", "-1", "1.5", "SHARD_END", " 1", &"9".repeat(130)] {
            assert!(text.parse::<SequenceNumber>().is_err(), "{text:?}");
        }
    }
}
