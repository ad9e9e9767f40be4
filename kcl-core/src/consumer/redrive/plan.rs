//! Decides which records a redrive offers: each once, in the order of its shard.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::dead_letter::{DeadLetter, DeadLetterKey};
use crate::processor::FailedCall;
use crate::retrieval::deaggregate::unpack_alone;
use crate::types::{Record, RecordPosition};

/// The letters of a redrive, as they are offered.
#[derive(Debug, Default)]
pub(super) struct RedrivePlan {
    /// The letters with a record for a processor, each once, in the order of their keys.
    letters: Vec<DeadLetter>,
    /// The letters of aggregated records without user records: there is nothing to offer.
    pub(super) empty: Vec<DeadLetterKey>,
    /// The letters of records that still cannot be unpacked, with the reason.
    pub(super) unreadable: Vec<(DeadLetterKey, String)>,
}

impl RedrivePlan {
    /// Keeps of each letter the copy that failed last, and unpacks the records that a worker could not unpack.
    pub(super) fn new(letters: impl IntoIterator<Item = DeadLetter>) -> Self {
        let (mut plan, mut packed, mut kept) = (Self::default(), BTreeMap::new(), BTreeMap::new());
        for letter in letters {
            match letter.is_packed() {
                true => keep_newest(&mut packed, letter),
                false => keep_newest(&mut kept, letter),
            }
        }
        for (key, letter) in packed {
            let sub_sequence = letter.record.sub_sequence_number();
            let only = Some(sub_sequence).filter(|index| *index != RecordPosition::LAST_SUB_SEQUENCE);
            match unpack_alone(&letter.record, only) {
                Err(unreadable) => plan.unreadable.push((key, unreadable.why)),
                Ok(records) if records.is_empty() => plan.empty.push(key),
                Ok(records) => {
                    for record in records {
                        keep_newest(&mut kept, of_user_record(&letter, record));
                    }
                }
            }
        }
        plan.letters = kept.into_values().collect();
        plan
    }

    /// The letters shard by shard. Equal names are different shards in another application, account or region.
    pub(super) fn shards(&self) -> impl Iterator<Item = &[DeadLetter]> {
        self.letters.chunk_by(|one, next| {
            one.application == next.application
                && one.stream == next.stream
                && one.stream_arn == next.stream_arn
                && one.shard == next.shard
        })
    }
}

fn keep_newest(kept: &mut BTreeMap<DeadLetterKey, DeadLetter>, letter: DeadLetter) {
    match kept.entry(letter.key()) {
        Entry::Vacant(entry) => {
            entry.insert(letter);
        }
        Entry::Occupied(mut entry) if entry.get().last_failure <= letter.last_failure => {
            entry.insert(letter);
        }
        Entry::Occupied(_) => {}
    }
}

/// The letter of a user record that was never offered.
fn of_user_record(packed: &DeadLetter, record: Record) -> DeadLetter {
    DeadLetter {
        record,
        call: FailedCall::ProcessRecords,
        attempts: 0,
        ..packed.clone()
    }
}
