//! Resharding to a number of equal shards, as UpdateShardCount does it: by splits and merges of single shards.

use kcl_core::types::HashKeyRange;

use super::number::tiles;

/// One split or merge. The shards that it concerns are found by a hash key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Splits the shard that holds this key; the second half begins with it.
    SplitAt(u128),
    /// Merges the shard that begins with this key into the one before it.
    MergeAt(u128),
}

/// The steps from these open shards, in the order of their hash keys, to `count` shards of equal size.
///
/// Every missing boundary is a split and every superfluous one a merge, so a target that is no multiple or divisor of the
/// present count makes shards that live for a moment only, as the
/// [API reference](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_UpdateShardCount.html) says of the service.
pub(super) fn plan(open: &[HashKeyRange], count: u32) -> Vec<Step> {
    let starts =
        |ranges: &[HashKeyRange]| -> Vec<u128> { ranges.iter().skip(1).map(HashKeyRange::start).collect() };
    let (present, wanted) = (starts(open), starts(&tiles(count)));
    // Thirds and sixths are rounded apart: a boundary that is off by a few of 2¹²⁸ keys is the same one.
    let close = u128::from(count.max(u32::try_from(open.len()).unwrap_or(u32::MAX)));
    let lacks = |among: &[u128], key: u128| !among.iter().any(|other| other.abs_diff(key) <= close);
    let splits = wanted.iter().filter(|key| lacks(&present, **key));
    let merges = present.iter().filter(|key| lacks(&wanted, **key));
    splits
        .map(|key| Step::SplitAt(*key))
        .chain(merges.map(|key| Step::MergeAt(*key)))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The starts of the shards after these steps.
    fn after(open: &[HashKeyRange], steps: &[Step]) -> Vec<u128> {
        let mut starts: Vec<u128> = open.iter().map(HashKeyRange::start).collect();
        for step in steps {
            match step {
                Step::SplitAt(key) => {
                    assert!(!starts.contains(key));
                    starts.push(*key);
                }
                Step::MergeAt(key) => {
                    assert!(starts.contains(key));
                    starts.retain(|start| start != key);
                }
            }
        }
        starts.sort_unstable();
        starts
    }

    proptest! {
        #[test]
        fn plan_leads_to_equal_shards(from in 1_u32..200, to in 1_u32..200) {
            let (open, wanted) = (tiles(from), tiles(to));
            let reached = after(&open, &plan(&open, to));
            prop_assert_eq!(reached.len(), wanted.len());
            for (start, tile) in reached.iter().zip(&wanted) {
                prop_assert!(start.abs_diff(tile.start()) <= u128::from(from.max(to)));
            }
        }

        #[test]
        fn doubling_only_splits_and_halving_only_merges(count in 1_u32..200) {
            let doubled = plan(&tiles(count), 2 * count);
            prop_assert_eq!(doubled.len(), count as usize);
            prop_assert!(doubled.iter().all(|step| matches!(step, Step::SplitAt(_))));
            let halved = plan(&tiles(2 * count), count);
            prop_assert_eq!(halved.len(), count as usize);
            prop_assert!(halved.iter().all(|step| matches!(step, Step::MergeAt(_))));
        }
    }

    #[test]
    fn equal_shards_need_no_step() {
        assert_eq!(plan(&tiles(7), 7), []);
    }

    #[test]
    fn two_splits_and_a_merge_make_three_shards() {
        let third = u128::MAX / 3;
        let half = 1_u128 << 127;
        let steps = [
            Step::SplitAt(third),
            Step::SplitAt(2 * third),
            Step::MergeAt(half),
        ];
        assert_eq!(plan(&tiles(2), 3), steps);
    }
}
