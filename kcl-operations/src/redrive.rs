//! Which dead letters are put into a stream again, and in which order.

use std::collections::BTreeSet;

use kcl_core::dead_letter::{DeadLetter, DeadLetterKey};
use serde::{Deserialize, Serialize};

/// One failure of one record: what a journal of redriven letters knows it by. A letter that was put again and failed again is another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LetterId {
    /// The application.
    pub application: String,
    /// The name of the stream that it came from.
    pub stream: String,
    /// The ARN of that stream, where the letter has it.
    pub stream_arn: Option<String>,
    /// The shard that it came from.
    pub shard: String,
    /// The position of the record, as `SEQUENCE[/INDEX]`.
    pub record: String,
    /// Whether it is an aggregated record that could not be unpacked.
    pub is_packed: bool,
    /// When it failed last, in milliseconds since 1970.
    pub last_failure_ms: i64,
}

impl LetterId {
    /// The id of this letter.
    ///
    /// ```
    /// use kcl_core::dead_letter::DeadLetter;
    /// use kcl_operations::LetterId;
    ///
    /// fn text(letter: &DeadLetter) -> String {
    ///     LetterId::of(letter).record
    /// }
    /// ```
    pub fn of(letter: &DeadLetter) -> Self {
        let DeadLetterKey {
            application,
            stream,
            stream_arn,
            shard,
            position,
            is_packed,
            ..
        } = letter.key();
        Self {
            application: application.to_string(),
            stream,
            stream_arn,
            shard: shard.to_string(),
            record: position.to_string(),
            is_packed,
            last_failure_ms: letter.last_failure.as_millis(),
        }
    }
}

/// Decides what is put again: each letter that the journal does not have, in the order of its stream, shard and position. Each inner list has
/// the letters of one shard; one that cannot be put stops those behind it, and no others.
pub fn letters_to_redrive(
    mut letters: Vec<DeadLetter>,
    journal: &BTreeSet<LetterId>,
) -> Vec<Vec<DeadLetter>> {
    letters.sort_by_cached_key(|letter| (letter.key(), std::cmp::Reverse(letter.last_failure)));
    letters.dedup_by_key(|letter| letter.key());
    letters.retain(|letter| !journal.contains(&LetterId::of(letter)));
    let mut shards: Vec<Vec<DeadLetter>> = Vec::new();
    for letter in letters {
        let is_same = |last: &DeadLetter| {
            (&last.stream, &last.stream_arn, &last.shard)
                == (&letter.stream, &letter.stream_arn, &letter.shard)
        };
        match shards
            .last_mut()
            .filter(|shard| shard.last().is_some_and(is_same))
        {
            Some(shard) => shard.push(letter),
            None => shards.push(vec![letter]),
        }
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;
    use kcl_core::types::{ApplicationName, Record, SequenceNumber, Timestamp, WorkerId};

    fn letter(stream: &str, number: u128, failed: i64) -> DeadLetter {
        let mut letter = DeadLetter::new(
            Record::new(SequenceNumber::from(number), "x"),
            stream,
            "shardId-000000000000".parse().unwrap(),
            ApplicationName::new("truck-tracker").unwrap(),
            WorkerId::new("w-1").unwrap(),
        );
        letter.last_failure = Timestamp::from_millis(failed);
        letter
    }

    #[test]
    fn letters_go_once_and_in_order() {
        let letters = vec![
            letter("b", 9, 1),
            letter("a", 7, 1),
            letter("a", 3, 1),
            letter("a", 7, 5),
        ];
        let journal = BTreeSet::from([LetterId::of(&letters[2])]);
        let shards = letters_to_redrive(letters.clone(), &BTreeSet::new());
        let records = |shards: &[Vec<DeadLetter>]| {
            let ids = shards.iter().map(|shard| {
                shard
                    .iter()
                    .map(|letter| LetterId::of(letter).record)
                    .collect::<Vec<_>>()
            });
            ids.collect::<Vec<_>>()
        };
        assert_eq!(records(&shards), [vec!["3", "7"], vec!["9"]]);
        assert_eq!(
            shards[0][1].last_failure.as_millis(),
            5,
            "the copy that failed last"
        );
        assert_eq!(
            records(&letters_to_redrive(letters, &journal)),
            [vec!["7"], vec!["9"]]
        );
    }

    #[test]
    fn letter_that_failed_again_goes_again() {
        let journal = BTreeSet::from([LetterId::of(&letter("a", 7, 1))]);
        assert!(letters_to_redrive(vec![letter("a", 7, 1)], &journal).is_empty());
        assert_eq!(letters_to_redrive(vec![letter("a", 7, 2)], &journal).len(), 1);
    }
}
