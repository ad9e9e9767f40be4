//! Decides which records make a batch where the user said how batches are gathered across fetches.

use std::sync::Arc;
use std::vec::IntoIter;

use crate::processor::fetched_batch::{FetchRoom, FetchedBatch};
use crate::runtime::clock::Moment;
use crate::settings::Batching;
use crate::types::Record;

/// The next step of a consumer that gathers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GatherStep {
    /// The batch is offered as it is.
    Offer,
    /// More is gathered: until this time, if there is anything yet.
    Gather(Option<Moment>),
}

/// The records that were fetched and are not offered.
pub(crate) struct Gathering {
    limits: Batching,
    /// The batch under way.
    open: FetchedBatch,
    /// The size of its records.
    bytes: u64,
    /// When its first record was received.
    since: Option<Moment>,
    /// Whether nothing may follow in it.
    is_closed: bool,
    /// The fetch that does not fit into it whole.
    rest: Option<FetchRest>,
}

/// A fetch of which records are left.
struct FetchRest {
    records: IntoIter<Record>,
    /// Whether it brought any.
    brings: bool,
    room: Arc<FetchRoom>,
    received: Moment,
    /// The fetch without its records and its room.
    around: FetchedBatch,
}

impl Gathering {
    pub(crate) fn new(limits: Batching) -> Self {
        Self {
            limits,
            open: FetchedBatch {
                fetches: 0,
                ..FetchedBatch::default()
            },
            bytes: 0,
            since: None,
            is_closed: false,
            rest: None,
        }
    }

    /// Whether a fetch may be [added](Self::add).
    pub(crate) fn wants_more(&self) -> bool {
        !self.is_closed && self.rest.is_none()
    }

    /// Whether there is nothing to offer.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty() && !self.is_closed
    }

    /// Adds a fetch that was received now.
    pub(crate) fn add(&mut self, mut fetch: FetchedBatch, now: Moment) {
        self.rest = Some(FetchRest {
            brings: !fetch.is_empty(),
            records: std::mem::take(&mut fetch.records).into_iter(),
            room: Arc::new(fetch.take_room()),
            received: now,
            around: fetch,
        });
        self.fill();
    }

    /// Says what is next. `must_end` is `true` where no more records may be waited for.
    pub(crate) fn next_step(&self, now: Moment, must_end: bool) -> GatherStep {
        if self.is_closed {
            return GatherStep::Offer;
        }
        let Some(since) = self.since else {
            return GatherStep::Gather(None);
        };
        let until = since + self.limits.max_wait;
        match must_end || until <= now {
            true => GatherStep::Offer,
            false => GatherStep::Gather(Some(until)),
        }
    }

    /// Takes the batch under way, complete or not, and begins the next.
    pub(crate) fn take(&mut self) -> FetchedBatch {
        let next = Self::new(self.limits.clone());
        let before = std::mem::replace(self, next);
        self.rest = before.rest;
        self.fill();
        before.open
    }

    /// Moves as much of the fetch into the batch as belongs there.
    fn fill(&mut self) {
        let Some(rest) = &mut self.rest else { return };
        if rest.around.gap.is_some() && !self.open.is_empty() {
            // A gap is reported before the records behind it.
            self.is_closed = true;
            return;
        }
        self.open.gap = self.open.gap.take().or(rest.around.gap.take());
        let most = usize::try_from(self.limits.max_records).unwrap_or(usize::MAX);
        let max_bytes = self.limits.max_bytes.as_u64();
        let before = self.open.len();
        while let Some(next) = rest.records.as_slice().first() {
            let bytes = self.bytes + next.size() as u64;
            let is_too_much = self.open.len() >= most || bytes > max_bytes;
            if is_too_much && !self.open.is_empty() {
                self.is_closed = true;
                break;
            }
            self.bytes = bytes;
            self.since.get_or_insert(rest.received);
            self.open.records.extend(rest.records.next());
        }
        if self.open.len() > before {
            self.open.gathered.push(Arc::clone(&rest.room));
            self.open.behind = rest.around.behind;
        }
        if self.is_closed {
            return;
        }
        self.open.fetches += usize::from(rest.brings);
        self.open.end = rest.around.end.take();
        self.open.unreadable = rest.around.unreadable.take();
        self.rest = None;
        self.is_closed = self.open.is_last() || self.open.len() >= most || self.bytes >= max_bytes;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytesize::ByteSize;
    use proptest::prelude::*;

    use super::*;
    use crate::source::ShardEnd;
    use crate::types::{Gap, SequenceNumber};

    fn limits(max_records: u32, max_bytes: u64, seconds: u64) -> Batching {
        Batching {
            max_records,
            max_bytes: ByteSize::b(max_bytes),
            max_wait: Duration::from_secs(seconds),
        }
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(seconds))
    }

    fn record(number: u128, bytes: usize) -> Record {
        Record::new(SequenceNumber::from(number), vec![0_u8; bytes])
    }

    fn numbers(batch: &FetchedBatch) -> Vec<u128> {
        let number = |record: &Record| record.sequence_number().as_str().parse().unwrap();
        batch.iter().map(number).collect()
    }

    fn gap() -> Gap {
        Gap {
            after: SequenceNumber::from(1),
            first: None,
        }
    }

    #[test]
    fn batch_is_offered_when_its_time_is_up() {
        let mut gathering = Gathering::new(limits(10, 1000, 5));
        assert_eq!(gathering.next_step(at(0), true), GatherStep::Gather(None));
        gathering.add(vec![record(1, 1)].into(), at(1));
        gathering.add(vec![record(2, 1)].into(), at(4));
        assert_eq!(gathering.next_step(at(5), false), GatherStep::Gather(Some(at(6))));
        assert_eq!(gathering.next_step(at(5), true), GatherStep::Offer);
        assert_eq!(gathering.next_step(at(6), false), GatherStep::Offer);
        let batch = gathering.take();
        assert_eq!((numbers(&batch), batch.fetches), (vec![1, 2], 2));
        assert!(gathering.is_empty());
    }

    #[test]
    fn cut_fetch_ends_in_its_last_batch() {
        let mut gathering = Gathering::new(limits(2, 1000, 5));
        let mut fetch = FetchedBatch::from((1..=5).map(|n| record(n, 1)).collect::<Vec<_>>());
        fetch.end = Some(ShardEnd::default());
        gathering.add(fetch, at(0));
        let mut batches = Vec::new();
        while gathering.next_step(at(0), false) == GatherStep::Offer {
            let batch = gathering.take();
            batches.push((numbers(&batch), batch.fetches, batch.end.is_some()));
        }
        let expected = [(vec![1, 2], 0, false), (vec![3, 4], 0, false), (vec![5], 1, true)];
        assert_eq!(batches, expected);
    }

    #[test]
    fn gap_begins_a_batch_of_its_own() {
        let mut gathering = Gathering::new(limits(10, 1000, 5));
        gathering.add(vec![record(1, 1)].into(), at(0));
        let mut fetch = FetchedBatch::from(vec![record(9, 1)]);
        fetch.gap = Some(gap());
        gathering.add(fetch, at(0));
        assert_eq!(gathering.next_step(at(0), false), GatherStep::Offer);
        let before = gathering.take();
        assert_eq!((numbers(&before), before.gap.is_some()), (vec![1], false));
        assert!(gathering.wants_more());
        let behind = gathering.take();
        assert_eq!((numbers(&behind), behind.gap), (vec![9], Some(gap())));
    }

    proptest! {
        /// Whatever is fetched and whenever: the batches are the records in their order, a batch is no larger than it may be but for a single
        /// record, and none waits for longer than it may.
        #[test]
        fn batches_are_the_records_within_bounds(
            fetches in prop::collection::vec(
                (prop::collection::vec(0_usize..40, 0..12), 0_u64..4, any::<bool>(), 0_u8..8), 1..20,
            ),
            most in 1_u32..8, bytes in 1_u64..100, wait in 1_u64..6,
        ) {
            let mut gathering = Gathering::new(limits(most, bytes, wait));
            let (mut now, mut number) = (0, 0_u128);
            let (mut received, mut offered) = (Vec::new(), Vec::new());
            let mut ended = 0;
            for (sizes, pause, must_end, gaps) in &fetches {
                // Time passes in steps, and what is due is offered in time.
                for _ in 0..*pause {
                    now += 1;
                    while gathering.next_step(at(now), false) == GatherStep::Offer {
                        let batch = gathering.take();
                        ended += batch.fetches;
                        offered.push((batch, now));
                    }
                }
                let records: Vec<_> = sizes.iter().map(|size| { number += 1; record(number, *size) }).collect();
                received.extend(records.iter().map(|_| now));
                let mut fetch = FetchedBatch::from(records);
                fetch.gap = (*gaps == 0).then(gap);
                prop_assert!(gathering.wants_more());
                gathering.add(fetch, at(now));
                while gathering.next_step(at(now), *must_end) == GatherStep::Offer {
                    let batch = gathering.take();
                    ended += batch.fetches;
                    offered.push((batch, now));
                }
                prop_assert!(!must_end || gathering.is_empty());
            }
            let batch = gathering.take();
            ended += batch.fetches;
            offered.push((batch, now));
            let all: Vec<u128> = offered.iter().flat_map(|(batch, _)| numbers(batch)).collect();
            prop_assert_eq!(all, (1..=number).collect::<Vec<_>>());
            prop_assert_eq!(ended, fetches.iter().filter(|(sizes, ..)| !sizes.is_empty()).count());
            for (batch, at) in &offered {
                let size: u64 = batch.iter().map(|record| record.size() as u64).sum();
                prop_assert!(batch.len() <= most as usize);
                prop_assert!(size <= bytes || batch.len() == 1);
                for number in numbers(batch) {
                    let since = received[usize::try_from(number - 1).unwrap()];
                    prop_assert!(at - since <= wait, "record {} waited for {}", number, at - since);
                }
            }
        }
    }
}
