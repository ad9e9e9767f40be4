//! How much room a fetch needs, by what the fetches before it brought.

use crate::model::Record;

/// The most that one answer of Kinesis holds, from the
/// [API reference](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetRecords.html).
const LARGEST_ANSWER: u64 = 10 * 1024 * 1024;
/// What a record is taken for as long as none was seen: large, so that the first fetch of many shards at once stays small.
const UNSEEN_RECORD: u64 = 64 * 1024;
/// What a record takes beside its body.
const RECORD: u64 = size_of::<Record>() as u64;

/// What a shard's records take, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appetite {
    /// What a record takes, once one was seen.
    per_record: Option<u64>,
}

impl Appetite {
    pub(crate) fn new() -> Self {
        Self { per_record: None }
    }

    /// The room that this many records would fill, as far as one answer can.
    pub(crate) fn want(&self, records: u32) -> u64 {
        let bytes = u64::from(records).saturating_mul(self.per_record());
        bytes.min(LARGEST_ANSWER + u64::from(records) * RECORD)
    }

    /// The room for one record; as long as none was seen, any.
    pub(crate) fn least(&self) -> u64 {
        self.per_record.unwrap_or(RECORD)
    }

    /// What a record is taken for.
    fn per_record(&self) -> u64 {
        self.per_record.unwrap_or(UNSEEN_RECORD)
    }

    /// How many records to ask for with this room.
    pub(crate) fn records_for(&self, bytes: u64, most: u32) -> u32 {
        let records = bytes / self.per_record().max(1);
        u32::try_from(records).unwrap_or(u32::MAX).clamp(1, most.max(1))
    }

    /// What an answer takes: the memory that its records keep, and the records themselves.
    pub(crate) fn of(records: usize, body: usize) -> u64 {
        (records as u64) * RECORD + body as u64
    }

    /// Takes in what a fetch brought. Larger records are believed at once, smaller ones by halves.
    pub(crate) fn learn(&mut self, records: usize, bytes: u64) {
        let Some(mean) = bytes.checked_div(records as u64) else {
            return;
        };
        self.per_record = Some(mean.max(self.per_record.unwrap_or(0).midpoint(mean)).max(RECORD));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_record_is_believed_at_once_and_a_smaller_one_by_halves() {
        let mut appetite = Appetite::new();
        // Even the smallest part of a budget is enough to begin with.
        assert_eq!((appetite.least(), appetite.want(4)), (RECORD, 4 * UNSEEN_RECORD));
        appetite.learn(10, 10_240);
        assert_eq!(appetite.least(), 1024);
        appetite.learn(1, 1 << 20);
        assert_eq!(appetite.least(), 1 << 20);
        appetite.learn(10, 10_240);
        assert_eq!(appetite.least(), (1 << 20 | 1 << 10) / 2);
        let before = appetite;
        appetite.learn(0, 0);
        assert_eq!(appetite, before);
    }

    #[test]
    fn the_limit_follows_the_size_of_the_records() {
        let mut appetite = Appetite::new();
        appetite.learn(100, 102_400);
        assert_eq!(appetite.records_for(100 * 1024, 10_000), 100);
        assert_eq!(appetite.records_for(0, 10_000), 1);
        assert_eq!(appetite.records_for(u64::MAX, 10_000), 10_000);
        assert_eq!(appetite.want(100), 100 * 1024);
        assert!(appetite.want(u32::MAX) > LARGEST_ANSWER);
    }
}
