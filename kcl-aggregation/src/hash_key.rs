//! Hash keys: the 128-bit numbers by which Kinesis chooses a shard.

use md5::{Digest as _, Md5};

/// The hash key of a partition key: its MD5 as a number, the first byte highest.
///
/// So Kinesis maps a record without an explicit hash key to a shard
/// ([PutRecord](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecord.html)).
///
/// ```
/// use kcl_aggregation::hash_key_of;
///
/// assert_eq!(hash_key_of("a"), 16955237001963240173058271559858726497);
/// ```
pub fn hash_key_of(partition_key: &str) -> u128 {
    u128::from_be_bytes(Md5::digest(partition_key.as_bytes()).into())
}

/// Reads the text of an explicit hash key: a decimal of any length, with or without a sign, as Java's `BigInteger` reads it.
/// `None` if it is none, or not one from 0 to 2¹²⁸ − 1.
pub(crate) fn parse_hash_key(text: &[u8]) -> Option<u128> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    number(digits).filter(|key| !negative || *key == 0)
}

/// The value of digits; `None` if it has more than 128 bits.
fn number(digits: &[u8]) -> Option<u128> {
    // As many digits at a time as fit a machine word: arithmetic with 128 bits is slow.
    digits.chunks(18).try_fold(0_u128, |value, chunk| {
        let (mut low, mut scale) = (0_u64, 1_u64);
        for digit in chunk {
            low = low * 10 + u64::from(digit - b'0');
            scale *= 10;
        }
        value.checked_mul(scale.into())?.checked_add(low.into())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn number_of_128_bits_is_read_as_written(key in any::<u128>(), shift in 0..128, zeros in 0_usize..60) {
            let key = key >> shift;
            let text = format!("{}{key}", "0".repeat(zeros));
            prop_assert_eq!(parse_hash_key(text.as_bytes()), Some(key));
        }

        #[test]
        fn a_longer_number_is_no_hash_key(digits in "[1-9][0-9]{39,90}") {
            prop_assert_eq!(parse_hash_key(digits.as_bytes()), None);
        }
    }

    #[test]
    fn texts_are_numbers_where_they_are_to_java() {
        for (text, key) in [
            ("+5", Some(5)),
            ("-0", Some(0)),
            ("-1", None),
            ("340282366920938463463374607431768211455", Some(u128::MAX)),
            ("340282366920938463463374607431768211456", None),
            ("", None),
            ("-", None),
            ("+-1", None),
            ("abc", None),
            (" 1", None),
            ("1.0", None),
        ] {
            assert_eq!(parse_hash_key(text.as_bytes()), key, "{text:?}");
        }
    }
}
