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
    /// When the processor returned from the first of them; `None` while calls of a handler work on them.
    since: Option<Moment>,
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

    /// The consumer takes the next batch, in which so many fetches end. One that was cut is queued until its rest is taken.
    pub(crate) fn taken(&mut self, fetches: usize) {
        self.in_hand = self.queued.front().copied();
        self.queued.drain(..fetches.min(self.queued.len()));
    }

    /// The batch that the consumer took is finished.
    pub(crate) fn finished(&mut self) {
        self.in_hand = None;
    }

    /// The processor returned from the batch that the consumer took, and its code says when the records are finished: by now those up to
    /// `finished` are.
    pub(crate) fn returned(&mut self, last: &RecordPosition, finished: Option<&RecordPosition>, now: Moment) {
        self.keep_unfinished(last, finished, Some(now));
    }

    /// The batch that the consumer took is worked on by calls of a handler, beside others: by now the records up to `finished` are finished.
    pub(crate) fn handed_to_calls(&mut self, last: &RecordPosition, finished: Option<&RecordPosition>) {
        self.keep_unfinished(last, finished, None);
    }

    fn keep_unfinished(
        &mut self,
        last: &RecordPosition,
        finished: Option<&RecordPosition>,
        since: Option<Moment>,
    ) {
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
            since,
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
        self.returned.front().and_then(|batch| batch.since)
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

    /// When the source said last that there is no record beyond those that the processor was given; `None` while there are some.
    pub(crate) fn caught_up(&self) -> Option<Moment> {
        let is_given = self.queued.is_empty() && self.in_hand.is_none();
        self.fetched.caught_up().filter(|_| is_given)
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
mod tests;
