//! One shard, read by enhanced fan-out: a row of subscriptions, each from where the one before ended.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::types::{SubscribeToShardEvent, SubscribeToShardEventStream};
use kcl_core::model::{Record, SequenceNumber, ShardId};
use kcl_core::rng::Rng;
use kcl_core::source::{
    Fetch, FetchLimit, RecordStream, ShardEnd, SourceError, SourceErrorKind, StartPosition,
};
use kcl_core::time::{ClockExt as _, Moment, Timestamp};

use crate::calls::{Calls, Events};
use crate::convert::{self, Answer};
use crate::errors::{Failure, RESOURCE_IN_USE, RESOURCE_NOT_FOUND};
use crate::fan_out::consumer::FanOutReader;
use crate::fan_out::lines::LineUser;
use crate::fan_out::timing::Ended;
use crate::polling::fixed;

/// An open subscription.
#[derive(Debug)]
struct Subscription {
    events: Events,
    /// When it is replaced.
    until: Moment,
    /// Whether it has brought anything.
    spoke: bool,
    _line: LineUser,
}

/// One open shard. What counts is `continuation`, or `start` before there was one; a subscription is only the way to go on.
#[derive(Debug)]
pub(crate) struct SubscriptionStream {
    calls: Calls,
    reader: Arc<FanOutReader>,
    shard: ShardId,
    rng: Rng,
    /// Where to begin as long as no event came. Never LATEST, which would be another place each time.
    start: StartPosition,
    /// Where the last event ended, which advances without records, too.
    continuation: Option<SequenceNumber>,
    delivered: Option<SequenceNumber>,
    subscription: Option<Subscription>,
    /// What an event brought beyond the limit of the fetch.
    rest: Option<Fetch>,
    end: Option<ShardEnd>,
}

impl SubscriptionStream {
    /// Subscribes to a shard. LATEST is resolved here: by the subscription, and to the service's time in case it breaks before it
    /// brings anything.
    pub(crate) async fn open(
        calls: Calls,
        reader: Arc<FanOutReader>,
        shard: ShardId,
        start: StartPosition,
    ) -> Result<Self, SourceError> {
        let mut opened = Self {
            rng: Rng::from_entropy().child(shard.as_str()),
            calls,
            reader,
            shard,
            start,
            continuation: None,
            delivered: None,
            subscription: None,
            rest: None,
            end: None,
        };
        let made = opened.subscribe().await?;
        opened.start = fixed(opened.start, made);
        Ok(opened)
    }

    /// Subscribes, from where the last event ended, as soon as that is allowed. Returns the service's time.
    async fn subscribe(&mut self) -> Result<Timestamp, SourceError> {
        let turn = self.reader.turns.next(&self.shard);
        self.calls.clock.sleep_until(turn).await;
        let consumer = self.reader.consumer_arn(&self.calls).await?;
        let start = match &self.continuation {
            Some(continuation) => StartPosition::AfterSequence(continuation.clone()),
            None => self.start.clone(),
        };
        let (client, line) = self.reader.lines.free();
        let subscribed = self
            .calls
            .subscribe(&client, &consumer, &self.shard, &start)
            .await;
        let (events, made) = subscribed.map_err(|failure| self.failed(failure))?;
        let now = self.calls.clock.now();
        self.reader.turns.opened(&self.shard, now);
        self.subscription = Some(Subscription {
            events,
            until: now + self.lifetime(),
            spoke: false,
            _line: line,
        });
        Ok(made)
    }

    /// A little less than the setting, and not the same for all shards.
    fn lifetime(&mut self) -> Duration {
        let renewal = self.reader.settings.renewal;
        let spread = u64::try_from((renewal / 10).as_millis()).unwrap_or(u64::MAX);
        renewal.saturating_sub(Duration::from_millis(self.rng.below(spread.max(1))))
    }

    /// The next event; `None` when the service ended the subscription in good order.
    async fn event(&mut self) -> Result<Option<SubscribeToShardEvent>, SourceError> {
        let silence = self.reader.settings.silence;
        loop {
            let Some(open) = &mut self.subscription else {
                return Ok(None);
            };
            let received = self.calls.clock.timeout(silence, open.events.recv()).await;
            let request = self.calls.subscription_request(&self.shard);
            let event = match received {
                Ok(Ok(event)) => event,
                Ok(Err(error)) => {
                    let failure = request.broken(error);
                    return Err(self.failed(failure));
                }
                Err(_) => {
                    let failure = request.silent(silence);
                    return Err(self.failed(failure));
                }
            };
            match event {
                Some(SubscribeToShardEventStream::SubscribeToShardEvent(event)) => {
                    open.spoke = true;
                    return Ok(Some(event));
                }
                // Something new that the service tells, which is life all the same.
                Some(_) => open.spoke = true,
                None if open.spoke => return Ok(None),
                None => {
                    let failure = request.ended_unheard();
                    return Err(self.failed(failure));
                }
            }
        }
    }

    /// Gives the subscription up, and says when there may be another.
    fn close(&mut self, ended: Ended) {
        self.subscription = None;
        let now = self.calls.clock.now();
        self.reader.turns.ended(&self.shard, ended, now, &mut self.rng);
    }

    fn failed(&mut self, failure: Failure) -> SourceError {
        let in_use = failure.has_code(RESOURCE_IN_USE);
        self.close(if in_use { Ended::InUse } else { Ended::Failed });
        if failure.has_code(RESOURCE_NOT_FOUND) {
            // The stream, the shard or the consumer: only the consumer is remembered.
            self.reader.doubt_consumer();
        }
        failure.into()
    }

    /// Takes an event in. Nothing has changed if it makes no sense.
    fn take_in(&mut self, event: SubscribeToShardEvent) -> Result<Fetch, SourceError> {
        let (answer, continuation) = convert::event(event)?;
        let behind = answer.behind();
        let Answer {
            mut records,
            children,
            body_bytes,
            ..
        } = answer;
        let ended = !children.is_empty();
        if continuation.is_none() && !ended {
            let message = format!(
                "an event of {} of the stream {} has neither a place to go on nor children",
                self.shard,
                self.calls.stream_name()
            );
            return Err(SourceError::new(SourceErrorKind::Invalid, message));
        }
        if let Some(delivered) = &self.delivered {
            records.retain(|record| record.sequence_number() > delivered);
        }
        if let Some(last) = records.last().map(Record::sequence_number) {
            self.delivered = Some(last.detached());
        }
        self.continuation = continuation.or(self.continuation.take());
        Ok(Fetch {
            records,
            bytes: body_bytes,
            behind,
            end: ended.then_some(ShardEnd { children }),
            wait: Duration::ZERO,
        })
    }

    /// As much of it as the limit allows, and the rest for later.
    fn part(&mut self, mut fetch: Fetch, limit: FetchLimit) -> Fetch {
        let most = usize::try_from(limit.records.max(1)).unwrap_or(usize::MAX);
        if fetch.records.len() > most {
            let rest = fetch.records.split_off(most);
            let bytes: usize = rest.iter().map(Record::size).sum();
            fetch.bytes = fetch.bytes.saturating_sub(bytes);
            self.rest = Some(Fetch {
                records: rest,
                bytes,
                end: fetch.end.take(),
                ..fetch
            });
        } else if let Some(end) = &fetch.end {
            self.end = Some(end.clone());
            self.close(Ended::InOrder);
        }
        fetch
    }
}

#[async_trait]
impl RecordStream for SubscriptionStream {
    async fn next(&mut self, limit: FetchLimit) -> Result<Fetch, SourceError> {
        if let Some(rest) = self.rest.take() {
            return Ok(self.part(rest, limit));
        }
        if let Some(end) = &self.end {
            return Ok(Fetch {
                end: Some(end.clone()),
                wait: self.calls.polling.idle_interval,
                ..Fetch::default()
            });
        }
        loop {
            let now = self.calls.clock.now();
            match &self.subscription {
                Some(open) if now < open.until => {}
                Some(_) => self.close(Ended::InOrder),
                None => {
                    self.subscribe().await?;
                }
            }
            let Some(event) = self.event().await? else {
                self.close(Ended::InOrder);
                continue;
            };
            return match self.take_in(event) {
                Ok(fetch) => Ok(self.part(fetch, limit)),
                Err(error) => {
                    self.close(Ended::Failed);
                    Err(error)
                }
            };
        }
    }

    fn pause(&mut self) {
        if self.subscription.is_some() {
            self.close(Ended::InOrder);
        }
    }
}
