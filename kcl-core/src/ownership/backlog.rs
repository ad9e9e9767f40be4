//! How far behind a shard is, also while its source is silent.

use std::collections::VecDeque;
use std::time::Duration;

use crate::runtime::clock::Moment;
use crate::status::Behind;
use crate::types::RecordPosition;

/// The part of an answer of the source that is about the backlog of its shard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SourceAnswer {
    /// When it came.
    pub(crate) came: Moment,
    /// How far behind it is.
    pub(crate) behind: Duration,
    /// The time from its first record to its last.
    pub(crate) span: Duration,
    /// Whether its records are handed on.
    pub(crate) brings: bool,
    /// Whether that are all that came.
    pub(crate) is_whole: bool,
}

/// The most entries for batches that the processor returned from and that are not finished. Beyond it neighbours share an entry, so that
/// a processor that checkpoints rarely costs no memory: what they share is as old as the older of them until both are finished.
const MOST_RETURNED: usize = 64;

/// Batches that the processor returned from, whose records are not all finished: only where the user's code says when they are.
#[derive(Debug)]
struct ReturnedBatch {
    /// Their last record.
    through: RecordPosition,
    /// Their oldest record.
    oldest: Behind,
    /// When the processor returned from the first of them.
    since: Moment,
}

/// The part of a shard that is fetched, and how much of that is finished.
#[derive(Debug)]
pub(crate) struct LagTracker {
    /// Everything up to here was fetched.
    fetched: Behind,
    /// The oldest record of the batch that the consumer has taken and not finished.
    in_hand: Option<Behind>,
    /// The batches that the processor returned from before that, the oldest first.
    returned: VecDeque<ReturnedBatch>,
    /// The oldest record of each batch that is fetched and not taken.
    queued: VecDeque<Behind>,
    /// Which fetcher counts. Reports of an earlier one are about batches that no consumer takes any more.
    fetcher: u64,
}

impl LagTracker {
    /// Of an ownership that begins: nothing is known, but that it grows old from now on.
    pub(crate) fn new(now: Moment) -> Self {
        Self {
            fetched: Behind::new(Duration::ZERO, now),
            in_hand: None,
            returned: VecDeque::new(),
            queued: VecDeque::new(),
            fetcher: 0,
        }
    }

    /// Another fetcher begins after what the consumer has taken; returns by which number it is known.
    pub(crate) fn begin_fetching(&mut self) -> u64 {
        if let Some(oldest) = self.queued.pop_front() {
            self.fetched = oldest;
            self.queued.clear();
        }
        self.fetcher += 1;
        self.fetcher
    }

    /// An answer came.
    pub(crate) fn fetched(&mut self, fetcher: u64, answer: SourceAnswer) {
        if fetcher != self.fetcher {
            return;
        }
        let through = Behind::new(answer.behind, answer.came);
        // The age of a record is not known, and clocks of two hosts are not compared: it is no older than what was fetched before it.
        let first = Behind::new(answer.behind + answer.span, answer.came);
        let is_older = self.fetched.at(answer.came) >= first.at(answer.came);
        let oldest = if is_older { self.fetched } else { first };
        if answer.brings {
            self.queued.push_back(oldest);
        }
        // What is not handed on is fetched again, or cannot be read.
        self.fetched = if answer.is_whole { through } else { oldest };
    }

    /// The consumer takes the next batch.
    pub(crate) fn taken(&mut self) {
        self.in_hand = self.queued.pop_front();
    }

    /// The batch that the consumer took is finished.
    pub(crate) fn finished(&mut self) {
        self.in_hand = None;
    }

    /// The processor returned from the batch that the consumer took, and its code says when the records are finished: by now those up to
    /// `finished` are.
    pub(crate) fn returned(&mut self, last: &RecordPosition, finished: Option<&RecordPosition>, now: Moment) {
        let Some(oldest) = self.in_hand.take() else { return };
        if finished.is_some_and(|finished| finished >= last) {
            return;
        }
        if self.returned.len() >= MOST_RETURNED {
            self.share_entries();
        }
        self.returned.push_back(ReturnedBatch {
            through: last.detached(),
            oldest,
            since: now,
        });
    }

    /// Every record up to this one is finished.
    pub(crate) fn finished_through(&mut self, finished: &RecordPosition) {
        while self
            .returned
            .front()
            .is_some_and(|batch| batch.through <= *finished)
        {
            self.returned.pop_front();
        }
    }

    /// Since when the processor has returned from records that are not finished, if there are any.
    pub(crate) fn unfinished_since(&self) -> Option<Moment> {
        self.returned.front().map(|batch| batch.since)
    }

    /// Lets every two neighbours share one entry.
    fn share_entries(&mut self) {
        let mut shared = VecDeque::with_capacity(MOST_RETURNED);
        while let Some(mut entry) = self.returned.pop_front() {
            if let Some(next) = self.returned.pop_front() {
                entry.through = next.through;
            }
            shared.push_back(entry);
        }
        self.returned = shared;
    }

    /// Fetched records count no more: they will be fetched again, and perhaps more before it.
    pub(crate) fn forget(&mut self) {
        self.fetched = self.unfinished();
        self.in_hand = None;
        self.returned.clear();
        self.queued.clear();
        self.fetcher += 1;
    }

    /// How far behind the newest record of the shard the reading is.
    pub(crate) fn unread(&self) -> Behind {
        self.fetched
    }

    /// How old the oldest record may be that is not finished, fetched or not.
    pub(crate) fn unfinished(&self) -> Behind {
        let returned = self.returned.front().map(|batch| batch.oldest);
        let oldest = returned.or(self.in_hand);
        oldest
            .or_else(|| self.queued.front().copied())
            .unwrap_or(self.fetched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SequenceNumber;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Moment {
        Moment::from_origin(SECOND * u32::try_from(seconds).unwrap())
    }

    fn answer(came: u64, behind: u64, span: u64) -> SourceAnswer {
        SourceAnswer {
            came: at(came),
            behind: Duration::from_secs(behind),
            span: Duration::from_secs(span),
            brings: true,
            is_whole: true,
        }
    }

    fn nothing(came: u64) -> SourceAnswer {
        SourceAnswer {
            brings: false,
            ..answer(came, 0, 0)
        }
    }

    /// The ages of what is not read and of what is not finished at this moment, in seconds.
    fn ages(backlog: &LagTracker, now: u64) -> (u64, u64) {
        let age = |behind: Behind| behind.at(at(now)).as_secs();
        (age(backlog.unread()), age(backlog.unfinished()))
    }

    #[test]
    fn silent_shard_grows_old_from_the_beginning() {
        assert_eq!(ages(&LagTracker::new(at(5)), 65), (60, 60));
    }

    #[test]
    fn caught_up_shard_stays_young_while_told_so() {
        let mut backlog = LagTracker::new(at(0));
        let fetcher = backlog.begin_fetching();
        for second in 1..100 {
            backlog.fetched(fetcher, nothing(second));
            assert_eq!(ages(&backlog, second + 1), (1, 1));
        }
        assert_eq!(ages(&backlog, 199), (100, 100), "and grows old once nobody does");
    }

    #[test]
    fn fetched_records_are_unfinished_until_consumer_says_so() {
        let mut backlog = LagTracker::new(at(0));
        let fetcher = backlog.begin_fetching();
        backlog.fetched(fetcher, answer(10, 100, 60));
        backlog.fetched(fetcher, answer(20, 0, 30));
        assert_eq!(ages(&backlog, 30), (10, 180));
        backlog.taken();
        assert_eq!(ages(&backlog, 30), (10, 180));
        backlog.finished();
        assert_eq!(
            ages(&backlog, 30),
            (10, 120),
            "the next batch begins where the first ended"
        );
        backlog.taken();
        backlog.fetched(fetcher, nothing(40));
        assert_eq!(ages(&backlog, 50), (10, 140), "nothing new does not hide it");
        backlog.finished();
        assert_eq!(ages(&backlog, 50), (10, 10));
    }

    fn position(n: u128) -> RecordPosition {
        RecordPosition::plain(SequenceNumber::from(n))
    }

    #[test]
    fn records_that_no_checkpoint_covers_grow_old() {
        let mut backlog = LagTracker::new(at(0));
        let fetcher = backlog.begin_fetching();
        backlog.fetched(fetcher, answer(10, 0, 5));
        backlog.fetched(fetcher, answer(20, 0, 5));
        backlog.taken();
        backlog.returned(&position(7), None, at(21));
        backlog.taken();
        backlog.returned(&position(9), Some(&position(5)), at(22));
        backlog.fetched(fetcher, nothing(100));
        assert_eq!(ages(&backlog, 100), (0, 100));
        assert_eq!(backlog.unfinished_since(), Some(at(21)));
        backlog.finished_through(&position(8));
        assert_eq!(
            (ages(&backlog, 100), backlog.unfinished_since()),
            ((0, 90), Some(at(22)))
        );
        backlog.finished_through(&position(9));
        assert_eq!((ages(&backlog, 100), backlog.unfinished_since()), ((0, 0), None));
    }

    #[test]
    fn batch_finished_before_its_return_is_finished() {
        let mut backlog = LagTracker::new(at(0));
        let fetcher = backlog.begin_fetching();
        backlog.fetched(fetcher, answer(10, 0, 5));
        backlog.taken();
        backlog.returned(&position(7), Some(&position(7)), at(11));
        assert_eq!(backlog.unfinished_since(), None);
    }

    #[test]
    fn batches_that_are_never_finished_cost_bounded_memory() {
        let mut backlog = LagTracker::new(at(0));
        let fetcher = backlog.begin_fetching();
        for n in 1..10_000 {
            backlog.fetched(fetcher, answer(n, 0, 0));
            backlog.taken();
            backlog.returned(&position(n.into()), None, at(n));
            assert!(backlog.returned.len() <= MOST_RETURNED);
            assert_eq!(backlog.unfinished_since(), Some(at(1)));
        }
        // Whatever is finished, what is left is never taken for younger than it is.
        for n in 1..10_000 {
            backlog.finished_through(&position(n.into()));
            let since = backlog.unfinished_since();
            assert!(since.is_none_or(|since| since <= at(n + 1)), "{since:?} at {n}");
        }
        assert_eq!(backlog.unfinished_since(), None);
    }

    #[test]
    fn records_after_pause_may_be_that_old() {
        let mut backlog = LagTracker::new(at(0));
        let fetcher = backlog.begin_fetching();
        backlog.fetched(fetcher, nothing(1));
        backlog.fetched(fetcher, answer(1001, 0, 5));
        assert_eq!(ages(&backlog, 1001), (0, 1000));
    }

    #[test]
    fn what_is_not_handed_on_is_not_fetched() {
        let mut backlog = LagTracker::new(at(0));
        let fetcher = backlog.begin_fetching();
        let part = SourceAnswer {
            is_whole: false,
            ..answer(10, 50, 20)
        };
        backlog.fetched(fetcher, part);
        backlog.taken();
        backlog.finished();
        assert_eq!(ages(&backlog, 10), (70, 70));
    }

    #[test]
    fn fetches_of_replaced_fetcher_are_not_read() {
        let mut backlog = LagTracker::new(at(0));
        let former = backlog.begin_fetching();
        for second in [10, 20, 30] {
            backlog.fetched(former, answer(second, 0, 0));
        }
        backlog.taken();
        let latter = backlog.begin_fetching();
        assert_eq!(ages(&backlog, 40), (30, 40), "the batch in hand stays");
        backlog.fetched(former, answer(40, 0, 0));
        assert_eq!(ages(&backlog, 40), (30, 40), "nobody takes what it says");
        backlog.fetched(latter, answer(41, 0, 1));
        backlog.finished();
        backlog.taken();
        assert_eq!(ages(&backlog, 41), (0, 31));
        backlog.finished();
        assert_eq!(ages(&backlog, 41), (0, 0));
    }

    #[test]
    fn panic_leaves_shard_as_old_as_unfinished_records() {
        let mut backlog = LagTracker::new(at(0));
        let fetcher = backlog.begin_fetching();
        backlog.fetched(fetcher, answer(10, 0, 15));
        backlog.taken();
        backlog.forget();
        assert_eq!(ages(&backlog, 20), (25, 25));
        backlog.fetched(fetcher, nothing(20));
        assert_eq!(ages(&backlog, 20), (25, 25));
    }
}
