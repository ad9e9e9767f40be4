//! One shard, polled with GetRecords.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::Moment;
use kcl_core::source::{
    Arrival, Fetch, FetchLimit, RecordStream, ShardEnd, SourceError, SourceErrorKind, StartPosition,
};
use kcl_core::types::{Record, SequenceNumber, ShardId, Timestamp};

use crate::adaptive_rate::AdaptiveRates;
use crate::client::{KinesisClient, MAX_RECORDS};
use crate::convert::RecordPage;
use crate::errors::{EXPIRED_ITERATOR, Failure, INVALID_ARGUMENT, TOO_SLOW};
use crate::pace::{Pace, ReadResult};

/// An iterator older than this is not used again. Kinesis takes it for five minutes.
const MAX_ITERATOR_AGE: Duration = Duration::from_secs(4 * 60);

/// `Date` headers are cut to whole seconds and written after the iterator was made, so it may be older than its date by this much.
const DATE_RESOLUTION: Duration = Duration::from_secs(1);

/// A reader that is this far behind looks for the last record with each read: retention, which is a day at least, may take what comes next,
/// and an iterator does not show it.
pub(crate) const NEAR_RETENTION: Duration = Duration::from_secs(20 * 3600);

/// A place in the shard, as the service names it, for a few minutes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ShardIterator {
    token: String,
    /// When it was asked for: never later than it was made.
    requested_at: Moment,
}

/// One open shard. Its place is `delivered`, or `start` before anything was; the iterator is a cache.
#[derive(Debug)]
pub(crate) struct PollingStream {
    calls: KinesisClient,
    shard: ShardId,
    /// Where to begin as long as nothing was delivered. Never LATEST, which would be another place each time.
    start: StartPosition,
    delivered: Option<SequenceNumber>,
    iterator: Option<ShardIterator>,
    /// The last record delivered, while the service has been asked for it and has not answered with any.
    awaited: Option<SequenceNumber>,
    pace: Pace,
    rates: Arc<AdaptiveRates>,
    /// The most records to ask for, since more were too slow to come.
    reduced_limit: Option<u32>,
    end: Option<ShardEnd>,
}

/// How many records to ask for after so many were too slow to come: a quarter, down to one, so that few tries lead from a full answer to
/// a single record.
fn fewer(asked: u32) -> u32 {
    (asked / 4).max(1)
}

/// And after so many came in time: twice as many, until it is as many as anybody asks for.
fn more(asked: u32) -> Option<u32> {
    asked.checked_mul(2).filter(|more| *more < MAX_RECORDS)
}

impl PollingStream {
    /// Opens a shard. LATEST is resolved here: to an iterator, and to the service's time in case that is never used.
    pub(crate) async fn open(
        calls: KinesisClient,
        rates: Arc<AdaptiveRates>,
        shard: ShardId,
        start: StartPosition,
    ) -> Result<Self, SourceError> {
        let requested_at = calls.clock.now();
        let (token, made) = calls.iterator(&shard, &start).await?;
        Ok(Self {
            start: fixed(start, made),
            pace: Pace::new(calls.polling, rates.get(&shard)),
            rates,
            calls,
            shard,
            delivered: None,
            iterator: Some(ShardIterator { token, requested_at }),
            reduced_limit: None,
            awaited: None,
            end: None,
        })
    }

    /// Where to go on without an iterator: at the last record, which is left out. If it does not come, it is gone, and others may be.
    fn resume_position(&self) -> StartPosition {
        match &self.delivered {
            Some(last) => StartPosition::AtSequence(last.clone()),
            None => self.start.clone(),
        }
    }

    /// The iterator that is at hand, unless it grew old, or a new one.
    async fn iterator(&mut self) -> Result<String, SourceError> {
        let now = self.calls.clock.now();
        let young =
            |iterator: &&ShardIterator| now.saturating_since(iterator.requested_at) < MAX_ITERATOR_AGE;
        if let Some(iterator) = self.iterator.as_ref().filter(young) {
            return Ok(iterator.token.clone());
        }
        self.iterator = None;
        let (token, _) = self.calls.iterator(&self.shard, &self.resume_position()).await?;
        self.awaited.clone_from(&self.delivered);
        self.iterator = Some(ShardIterator {
            token: token.clone(),
            requested_at: now,
        });
        Ok(token)
    }

    /// Reads, and reads again with the same iterator where the answer brings nothing and claims the end of the shard without children: an
    /// answer of which something is missing looks the same. One without any content is none, however often it comes.
    async fn read(&mut self, limit: FetchLimit, arrival: &dyn Arrival) -> Result<RecordPage, SourceError> {
        let mut answer = self.read_once(limit, arrival).await?;
        if answer.is_unconfirmed_end() && !self.has_new_records(&answer) {
            answer = self.read_once(limit, arrival).await?;
        }
        match answer.is_unconfirmed_end() && !answer.lists_records {
            true => Err(self.calls.without_content(&self.shard)),
            false => Ok(answer),
        }
    }

    /// Whether the answer has records that were not delivered.
    fn has_new_records(&self, answer: &RecordPage) -> bool {
        let last = answer.records.last().map(Record::sequence_number);
        last.is_some_and(|last| self.delivered.as_ref().is_none_or(|delivered| last > delivered))
    }

    /// Reads once, and once more with a new iterator if the service calls the one at hand expired.
    async fn read_once(
        &mut self,
        limit: FetchLimit,
        arrival: &dyn Arrival,
    ) -> Result<RecordPage, SourceError> {
        let iterator = self.iterator().await?;
        let read = self.calls.records(&self.shard, &iterator, limit, arrival);
        let failure = match read.await {
            Ok(answer) => return Ok(answer),
            Err(failure) => self.drop_refused_iterator(failure),
        };
        if failure.has_code(TOO_SLOW) {
            self.reduced_limit = Some(fewer(limit.records.min(MAX_RECORDS)));
        }
        if !failure.has_code(EXPIRED_ITERATOR) {
            return Err(failure.into());
        }
        let iterator = self.iterator().await?;
        let second = self.calls.records(&self.shard, &iterator, limit, arrival);
        second
            .await
            .map_err(|failure| self.drop_refused_iterator(failure).into())
    }

    /// An iterator that the service does not take, for whatever reason, is not offered again.
    fn drop_refused_iterator(&mut self, failure: Failure) -> Failure {
        if failure.has_code(EXPIRED_ITERATOR) || failure.has_code(INVALID_ARGUMENT) {
            self.iterator = None;
        }
        failure
    }

    /// Takes an answer in.
    fn accept(&mut self, answer: RecordPage, asked: Moment) -> Fetch {
        let read = ReadResult {
            records: answer.records.len(),
            bytes: answer.records.iter().map(|record| record.size() as u64).sum(),
            behind: answer.behind(),
        };
        // With records it is no claim: the next read goes on at the last of them.
        let has_ended =
            answer.next.is_none() && !(answer.is_unconfirmed_end() && self.has_new_records(&answer));
        let mut records = answer.records;
        let first = records.first().map(Record::sequence_number);
        // A claim may be an answer of which the record is missing, too.
        let lost_place = match first.is_some() || (has_ended && !answer.children.is_empty()) {
            true => self.awaited.take().filter(|awaited| first != Some(awaited)),
            false => None,
        };
        if let Some(delivered) = &self.delivered {
            records.retain(|record| record.sequence_number() > delivered);
        }
        if let Some(last) = records.last().map(Record::sequence_number) {
            // Detached: the place in the shard outlives the answer.
            self.delivered = Some(last.detached());
        }
        let is_near_retention = read.behind.is_some_and(|behind| behind >= NEAR_RETENTION);
        self.iterator = answer
            .next
            .filter(|_| records.is_empty() || !is_near_retention)
            .map(|token| ShardIterator {
                token,
                requested_at: asked,
            });
        let (end, children) = match has_ended {
            true => (
                Some(ShardEnd {
                    children: answer.children,
                }),
                Vec::new(),
            ),
            false => (None, answer.children),
        };
        // Without children it is a claim. A caller that suspects it asks again.
        self.end = end.clone().filter(|end| !end.children.is_empty());
        Fetch {
            records,
            bytes: answer.body_bytes,
            kept: 0,
            behind: read.behind,
            end,
            children,
            lost_place,
            wait: self.pace.wait_after(read, self.calls.clock.now()),
        }
    }
}

#[async_trait]
impl RecordStream for PollingStream {
    async fn next(&mut self, limit: FetchLimit) -> Result<Fetch, SourceError> {
        self.next_announced(limit, &()).await
    }

    async fn next_announced(
        &mut self,
        limit: FetchLimit,
        arrival: &dyn Arrival,
    ) -> Result<Fetch, SourceError> {
        if let Some(end) = &self.end {
            return Ok(Fetch {
                end: Some(end.clone()),
                wait: self.pace.idle(),
                ..Fetch::default()
            });
        }
        let asked = self.calls.clock.now();
        let records = limit.records.min(self.reduced_limit.unwrap_or(MAX_RECORDS));
        match self.read(FetchLimit { records }, arrival).await {
            Ok(answer) => {
                self.reduced_limit = self.reduced_limit.and_then(more);
                Ok(self.accept(answer, asked))
            }
            Err(error) => {
                if error.kind() == SourceErrorKind::Throttled {
                    let now = self.calls.clock.now();
                    let rate = self.pace.throttled(now);
                    self.rates.remember(&self.shard, rate, now);
                }
                Err(error)
            }
        }
    }
}

/// A start that means the same place whenever it is used.
pub(crate) fn fixed(start: StartPosition, made: Timestamp) -> StartPosition {
    match start {
        StartPosition::Latest => StartPosition::AtTimestamp(made.minus(DATE_RESOLUTION)),
        StartPosition::TrimHorizon
        | StartPosition::AtTimestamp(_)
        | StartPosition::AtSequence(_)
        | StartPosition::AfterSequence(_) => start,
    }
}
