//! How many data one call carries.

use crate::names::Datum;
use crate::taken::Taken;

/// The most data of a call.
pub(crate) const MOST_DATA: usize = 1000;
/// The most bytes of a call; CloudWatch takes a megabyte.
const MOST_BYTES: usize = 900_000;
/// More than the fixed parts of a datum take: its value or statistics, its time, its unit, and the names of these fields.
const FIXED_BYTES: usize = 300;
/// More than the names of the fields of a dimension take.
const DIMENSION_BYTES: usize = 24;

/// Parts what is to be sent into calls, in its order.
pub(crate) fn chunks(taken: Vec<Taken>) -> Vec<Vec<(Taken, Datum)>> {
    let mut chunks = Vec::new();
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    for taken in taken {
        let datum = Datum::of(&taken);
        let size = size(&datum);
        if chunk.len() == MOST_DATA || bytes + size > MOST_BYTES {
            chunks.push(std::mem::take(&mut chunk));
            bytes = 0;
        }
        bytes += size;
        chunk.push((taken, datum));
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

fn size(datum: &Datum) -> usize {
    let dimensions = datum.dimensions.iter();
    let dimensions = dimensions.map(|(name, value)| name.len() + value.len() + DIMENSION_BYTES);
    FIXED_BYTES + datum.name.len() + dimensions.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::taken::{SeriesKey, TakenValue};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn chunks_carry_everything_within_the_bounds(lengths in prop::collection::vec(0_usize..1024, 0..3000)) {
            let taken: Vec<_> = lengths
                .iter()
                .enumerate()
                .map(|(number, length)| Taken {
                    key: SeriesKey { name: format!("m{number}"), labels: vec![("label".to_owned(), "x".repeat(*length))] },
                    value: TakenValue::Rise(1),
                    unit: None,
                })
                .collect();
            let chunks = chunks(taken.clone());
            for chunk in &chunks {
                prop_assert!((1..=MOST_DATA).contains(&chunk.len()));
                prop_assert!(chunk.iter().map(|(_, datum)| size(datum)).sum::<usize>() <= MOST_BYTES);
            }
            let sent: Vec<_> = chunks.into_iter().flatten().map(|(taken, _)| taken).collect();
            prop_assert_eq!(sent, taken);
        }
    }
}
