//! How the stream numbers and routes: sequence numbers, shard ids, hash keys.

use kcl_core::types::{HashKeyRange, SequenceNumber, ShardId};
use md5::{Digest as _, Md5};

/// The place of a record among everything that ever happened to the stream.
pub(super) type Tick = u64;

/// The first digits of every number. Real ones begin so too, because they begin with a version and a creation time.
const PREFIX: &str = "49";
/// Real sequence numbers have 56 digits.
const TICK_DIGITS: usize = 37;
const SHARD_DIGITS: usize = 17;

/// The sequence number of this tick in this shard: rising over the whole stream, and naming its shard, as Kinesis does it.
pub(super) fn sequence_number(tick: Tick, shard: u64) -> SequenceNumber {
    let digits = format!("{PREFIX}{tick:0TICK_DIGITS$}{shard:0SHARD_DIGITS$}");
    // These digits are a valid number by construction.
    SequenceNumber::new(digits).unwrap_or_else(|_| SequenceNumber::from(u128::from(tick)))
}

/// The tick and the shard that a sequence number encodes; `None` for a number that no such stream hands out.
pub(super) fn decode(number: &SequenceNumber) -> Option<(Tick, u64)> {
    let digits = number.as_str().strip_prefix(PREFIX)?;
    if digits.len() != TICK_DIGITS + SHARD_DIGITS {
        return None;
    }
    let (tick, shard) = digits.split_at(TICK_DIGITS);
    Some((tick.parse().ok()?, shard.parse().ok()?))
}

/// `shardId-000000000042`.
pub(super) fn shard_id(index: u64) -> Option<ShardId> {
    ShardId::new(format!("shardId-{index:012}")).ok()
}

/// The hash key of a partition key: its MD5 as a big-endian number, as the
/// [Kinesis documentation](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecord.html) says.
pub(super) fn hash_key(partition_key: &str) -> u128 {
    u128::from_be_bytes(Md5::digest(partition_key).into())
}

/// `count` ranges of equal size that cover every hash key; the last takes what division leaves over.
pub(super) fn tiles(count: u32) -> Vec<HashKeyRange> {
    let count = u128::from(count.max(1));
    // 2¹²⁸ / count: a power of two divides it without rest. For one range the step is 2¹²⁸, which wraps to 0 and is not used.
    let step = (u128::MAX / count).wrapping_add(u128::from(count.is_power_of_two()));
    (0..count)
        .filter_map(|i| {
            let start = i * step;
            let end = if i + 1 == count {
                u128::MAX
            } else {
                start + step - 1
            };
            HashKeyRange::new(start, end).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tiles_cover_every_hash_key_once(count in 1_u32..300) {
            let tiles = tiles(count);
            prop_assert_eq!(tiles.len(), count as usize);
            prop_assert_eq!((tiles[0].start(), tiles[tiles.len() - 1].end()), (0, u128::MAX));
            prop_assert!(tiles.windows(2).all(|pair| pair[0].is_followed_by(&pair[1])));
            let size = |range: &HashKeyRange| range.end() - range.start();
            prop_assert!(tiles.iter().all(|tile| size(tile).abs_diff(size(&tiles[0])) <= u128::from(count)));
        }

        #[test]
        fn sequence_number_has_56_digits_and_rises(
            tick in 0..Tick::MAX, shard in any::<u32>(), other in any::<u32>(),
        ) {
            let number = sequence_number(tick, shard.into());
            prop_assert_eq!(number.as_str().len(), 56);
            prop_assert_eq!(decode(&number), Some((tick, shard.into())));
            prop_assert!(number < sequence_number(tick + 1, other.into()));
        }
    }

    #[test]
    fn hash_key_is_md5_of_partition_key() {
        // The values that the de-aggregation test vectors of the Java KCL use.
        assert_eq!(hash_key("pk"), 38_317_986_088_707_300_215_492_326_132_921_849_533);
        assert_eq!(hash_key("a"), 16_955_237_001_963_240_173_058_271_559_858_726_497);
    }

    #[test]
    fn a_number_of_another_make_is_not_decoded() {
        for foreign in [0, 7, u128::MAX] {
            assert_eq!(decode(&SequenceNumber::from(foreign)), None);
        }
    }
}
