//! How much room a fetch needs, by what the fetches before it brought.

use crate::types::Record;

/// The most that one answer of Kinesis holds, from the
/// [API reference](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetRecords.html).
const LARGEST_ANSWER: u64 = 10 * 1024 * 1024;
/// The assumed size of a record as long as none of any shard was seen: as large as producers usually make them at most. Many shards begin at
/// once, and what all of them ask for together must fit, whatever it is.
const UNSEEN_RECORD: u64 = 1024 * 1024;
/// The least that a record takes of an answer: a sequence number of 56 digits, and the names of four fields.
const SMALLEST_RECORD: u64 = 128;
/// The bytes that a record takes beside its body.
pub(crate) const RECORD: u64 = size_of::<Record>() as u64;

/// The size of a shard's records, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FetchSizer {
    /// The size of a record, once one was seen.
    per_record: Option<u64>,
    /// The size of a record of another shard.
    elsewhere: Option<u64>,
    /// The size of an answer that was announced and did not come.
    missed: Option<u64>,
}

impl FetchSizer {
    pub(crate) fn new() -> Self {
        Self {
            per_record: None,
            elsewhere: None,
            missed: None,
        }
    }

    /// The next fetch waits for this room: an answer that takes so much was announced, and did not come.
    pub(crate) fn missed(&mut self, announced: u64) {
        self.missed = Some(announced);
    }

    /// Notes what a record of another shard took, which is believed until one of this shard was seen.
    pub(crate) fn seed(&mut self, elsewhere: Option<u64>) {
        self.elsewhere = elsewhere;
    }

    /// The size of a record, if one was seen.
    pub(crate) fn seen(&self) -> Option<u64> {
        self.per_record
    }

    /// The room that this many records would fill, as far as one answer can.
    pub(crate) fn preferred_bytes(&self, records: u32) -> u64 {
        let bytes = u64::from(records).saturating_mul(self.expected());
        bytes.min(LARGEST_ANSWER + u64::from(records) * RECORD)
    }

    /// The room for one record; as long as none was seen, any.
    pub(crate) fn min_bytes(&self) -> u64 {
        self.per_record.unwrap_or(RECORD).max(self.missed.unwrap_or(0))
    }

    /// The assumed size of a record.
    fn expected(&self) -> u64 {
        self.per_record.or(self.elsewhere).unwrap_or(UNSEEN_RECORD)
    }

    /// How many records to ask for with this room.
    pub(crate) fn records_for(&self, bytes: u64, most: u32) -> u32 {
        let records = bytes / self.expected().max(1);
        u32::try_from(records).unwrap_or(u32::MAX).clamp(1, most.max(1))
    }

    /// The room for an answer: the memory that its records keep, the records themselves, and an eighth of that memory beside. Connections
    /// keep buffers as large as what they read, and room for records is made before it is known how many there are.
    pub(crate) fn of(records: usize, body: usize) -> u64 {
        let body = body as u64;
        (records as u64) * RECORD + body + body / 8
    }

    /// The room for an answer that is announced with so many bytes, of which at most so many records were asked for.
    pub(crate) fn announced(body: u64, records: Option<usize>, limit: u32) -> u64 {
        let records = records.map_or(body / SMALLEST_RECORD, |records| records as u64);
        body + body / 8 + records.min(u64::from(limit)) * RECORD
    }

    /// Notes what a fetch brought. Larger records are believed at once, smaller ones by halves.
    pub(crate) fn observe(&mut self, records: usize, bytes: u64) {
        self.missed = None;
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
    fn larger_record_counts_at_once_smaller_by_halves() {
        let mut sizer = FetchSizer::new();
        // Even the smallest part of a budget is enough to begin with.
        assert_eq!(
            (sizer.min_bytes(), sizer.preferred_bytes(4)),
            (RECORD, 4 * UNSEEN_RECORD)
        );
        sizer.observe(10, 10_240);
        assert_eq!(sizer.min_bytes(), 1024);
        sizer.observe(1, 1 << 20);
        assert_eq!(sizer.min_bytes(), 1 << 20);
        sizer.observe(10, 10_240);
        assert_eq!(sizer.min_bytes(), (1 << 20 | 1 << 10) / 2);
        let before = sizer;
        sizer.observe(0, 0);
        assert_eq!(sizer, before);
    }

    #[test]
    fn size_from_another_shard_counts_until_one_seen() {
        let mut sizer = FetchSizer::new();
        sizer.seed(Some(500));
        assert_eq!((sizer.preferred_bytes(3), sizer.seen()), (1500, None));
        sizer.observe(1, 2000);
        sizer.seed(Some(500));
        assert_eq!((sizer.preferred_bytes(3), sizer.seen()), (6000, Some(2000)));
    }

    #[test]
    fn announced_answer_fits_what_it_takes() {
        for (records, size) in [(1, 10 << 20), (10, 1 << 20), (10_000, 100), (1, 0)] {
            let body = records * (size + 130);
            let takes = FetchSizer::of(records, body);
            assert!(
                FetchSizer::announced(body as u64, None, 10_000) >= takes,
                "{records} of {size}"
            );
            assert_eq!(FetchSizer::announced(body as u64, Some(records), 10_000), takes);
        }
    }

    #[test]
    fn missed_answer_has_room_next_time() {
        let mut sizer = FetchSizer::new();
        sizer.observe(1, 1000);
        sizer.missed(1 << 20);
        assert_eq!(sizer.min_bytes(), 1 << 20);
        sizer.observe(0, 0);
        assert_eq!(sizer.min_bytes(), 1000);
    }

    #[test]
    fn the_limit_follows_the_size_of_the_records() {
        let mut sizer = FetchSizer::new();
        sizer.observe(100, 102_400);
        assert_eq!(sizer.records_for(100 * 1024, 10_000), 100);
        assert_eq!(sizer.records_for(0, 10_000), 1);
        assert_eq!(sizer.records_for(u64::MAX, 10_000), 10_000);
        assert_eq!(sizer.preferred_bytes(100), 100 * 1024);
        assert!(sizer.preferred_bytes(u32::MAX) > LARGEST_ANSWER);
    }
}
