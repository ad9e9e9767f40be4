//! One shard, read by enhanced fan-out: a row of subscriptions, each from where the one before ended.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::types::{SubscribeToShardEvent, SubscribeToShardEventStream};
use kcl_core::clock::{Clock, ClockExt as _, Elapsed, Moment, Rng};
use kcl_core::source::{Arrival, Fetch, FetchLimit, RecordStream, ShardEnd, SourceError, StartPosition};
use kcl_core::types::{Record, SequenceNumber, ShardId, Timestamp};

use crate::client::{Events, KinesisClient};
use crate::convert::{self, RecordPage};
use crate::errors::{Failure, RESOURCE_IN_USE, RESOURCE_NOT_FOUND};
use crate::fan_out::connections::ConnectionPermit;
use crate::fan_out::consumer::FanOutReader;
use crate::fan_out::schedule::EndReason;
use crate::polling::{NEAR_RETENTION, fixed};

/// An open subscription.
struct Subscription {
    events: Events,
    /// When it is replaced.
    until: Moment,
    /// Whether it has brought an event.
    received_event: bool,
    _permit: ConnectionPermit,
}

/// Without the events, which show what they have received and not taken apart yet, payloads included.
impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("until", &self.until)
            .field("received_event", &self.received_event)
            .finish_non_exhaustive()
    }
}

/// The rest of an event beyond the limit of the fetch.
#[derive(Debug)]
struct PendingRecords {
    fetch: Fetch,
    /// The last record before it, which was handed on.
    after: SequenceNumber,
}

/// One open shard. Its place is `continuation`, or `start` before there was one; a subscription is only the way to go on.
#[derive(Debug)]
pub(crate) struct SubscriptionStream {
    calls: KinesisClient,
    reader: Arc<FanOutReader>,
    shard: ShardId,
    rng: Rng,
    /// As which it was last subscribed; empty before the first time.
    consumer: String,
    /// Where to begin as long as no event came. Never LATEST, which would be another place each time.
    start: StartPosition,
    /// Where the last event ended, which advances without records, too.
    continuation: Option<SequenceNumber>,
    delivered: Option<SequenceNumber>,
    /// When the last event came, and how far behind it was.
    last_event: Option<(Moment, Duration)>,
    /// The last record delivered, while the service has been asked for it and has not answered with any.
    awaited: Option<SequenceNumber>,
    subscription: Option<Subscription>,
    pending: Option<PendingRecords>,
    end: Option<ShardEnd>,
}

impl SubscriptionStream {
    /// Subscribes to a shard. LATEST is resolved here: by the subscription, and to the service's time in case it breaks before it
    /// brings anything.
    pub(crate) async fn open(
        calls: KinesisClient,
        reader: Arc<FanOutReader>,
        shard: ShardId,
        start: StartPosition,
    ) -> Result<Self, SourceError> {
        let mut opened = Self {
            rng: Rng::from_entropy().child(shard.as_str()),
            calls,
            reader,
            shard,
            consumer: String::new(),
            start,
            continuation: None,
            delivered: None,
            last_event: None,
            awaited: None,
            subscription: None,
            pending: None,
            end: None,
        };
        let made = opened.subscribe().await?;
        opened.start = fixed(opened.start, made);
        Ok(opened)
    }

    /// Where to go on: behind the last event, or at the last record, which is left out, where retention may have come near that place. If the
    /// record does not come then, it is gone, and others may be.
    fn resume_position(&self) -> StartPosition {
        let now = self.calls.clock.now();
        let is_young = |(last_event, behind): (Moment, Duration)| {
            now.saturating_since(last_event).saturating_add(behind) < NEAR_RETENTION
        };
        match (&self.continuation, &self.delivered) {
            (Some(ended), Some(last)) if ended > last && self.last_event.is_some_and(is_young) => {
                StartPosition::AfterSequence(ended.clone())
            }
            (_, Some(last)) => StartPosition::AtSequence(last.clone()),
            (Some(ended), None) => StartPosition::AfterSequence(ended.clone()),
            (None, None) => self.start.clone(),
        }
    }

    /// Subscribes, from where the last event ended, as soon as that is allowed. Returns the service's time.
    async fn subscribe(&mut self) -> Result<Timestamp, SourceError> {
        let turn = self.reader.schedule.next(&self.shard);
        self.calls.clock.sleep_until(turn).await;
        let consumer = self.reader.consumer_arn(&self.calls, &mut self.rng).await?;
        self.consumer.clone_from(&consumer);
        let start = self.resume_position();
        let (client, permit) = self.reader.connections.get().acquire(|| self.calls.config());
        let subscribed = self
            .calls
            .subscribe(&client, &consumer, &self.shard, &start)
            .await;
        let (events, made) = subscribed.map_err(|failure| self.failed(failure))?;
        let is_awaited = matches!(start, StartPosition::AtSequence(_));
        self.awaited = self.delivered.clone().filter(|_| is_awaited);
        let now = self.calls.clock.now();
        self.reader.schedule.opened(&self.shard, now);
        self.subscription = Some(Subscription {
            events,
            until: now + self.lifetime(),
            received_event: false,
            _permit: permit,
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
    async fn event(&mut self, arrival: &dyn Arrival) -> Result<Option<SubscribeToShardEvent>, SourceError> {
        let silence = self.reader.settings.silence;
        loop {
            let Some(open) = &mut self.subscription else {
                return Ok(None);
            };
            let clock = self.calls.clock.as_ref();
            let received = within(clock, silence, arrival, open.events.recv()).await;
            let request = self.calls.subscription_request(&self.shard);
            let event = match received {
                Ok(Ok(event)) => event,
                // It is not asked again: after an error it brings another, or nothing.
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
                    open.received_event = true;
                    return Ok(Some(event));
                }
                // A new message of the service.
                Some(_) => {}
                None if open.received_event => return Ok(None),
                None => {
                    let failure = request.ended_without_event();
                    return Err(self.failed(failure));
                }
            }
        }
    }

    /// Gives the subscription up, and says when there may be another.
    fn close(&mut self, ended: EndReason) {
        self.subscription = None;
        let now = self.calls.clock.now();
        self.reader.schedule.ended(&self.shard, ended, now, &mut self.rng);
    }

    fn failed(&mut self, failure: Failure) -> SourceError {
        let in_use = failure.has_code(RESOURCE_IN_USE);
        self.close(if in_use {
            EndReason::InUse
        } else {
            EndReason::Failed
        });
        if failure.has_code(RESOURCE_NOT_FOUND) {
            // The stream, the shard or the consumer: only the consumer is remembered.
            self.reader.forget_consumer(&self.consumer);
        }
        failure.into()
    }

    /// Takes an event in. Nothing has changed if it makes no sense.
    fn accept(&mut self, event: SubscribeToShardEvent) -> Result<Fetch, SourceError> {
        let (answer, continuation) = convert::event(event)?;
        let behind = answer.behind();
        let RecordPage {
            mut records,
            children,
            body_bytes,
            ..
        } = answer;
        // A continuation before what came already, or at zero, is no place to go on.
        let is_place = |number: &SequenceNumber| {
            let least = self.delivered.clone().unwrap_or(SequenceNumber::from(1));
            *number >= least
        };
        let has_ended = continuation.is_none();
        let continuation = continuation.filter(is_place);
        let first = records.first().map(Record::sequence_number);
        // A claim may be an event of which the record is missing, too.
        let lost_place = match first.is_some() || (has_ended && !children.is_empty()) {
            true => self.awaited.take().filter(|awaited| first != Some(awaited)),
            false => None,
        };
        if let Some(delivered) = &self.delivered {
            records.retain(|record| record.sequence_number() > delivered);
        }
        if let Some(last) = records.last().map(Record::sequence_number) {
            self.delivered = Some(last.detached());
        }
        self.last_event = Some((self.calls.clock.now(), behind.unwrap_or_default()));
        self.continuation = continuation.or(self.continuation.take());
        let (end, children) = match has_ended {
            // Without children it is a claim. A caller that suspects it asks again.
            true => (Some(ShardEnd { children }), Vec::new()),
            false => (None, children),
        };
        Ok(Fetch {
            records,
            bytes: body_bytes,
            behind,
            end,
            children,
            lost_place,
            ..Fetch::default()
        })
    }

    /// As much as the limit allows, and the rest for later.
    fn split_at_limit(&mut self, mut fetch: Fetch, limit: FetchLimit) -> Fetch {
        let most = usize::try_from(limit.records.max(1)).unwrap_or(usize::MAX);
        if fetch.records.len() > most {
            let records = fetch.records.split_off(most);
            if let Some(last) = fetch.records.last() {
                let bytes = records.iter().map(Record::size).sum();
                fetch.bytes = fetch.bytes.saturating_sub(bytes);
                fetch.kept = bytes + records.len() * size_of::<Record>();
                self.pending = Some(PendingRecords {
                    after: last.sequence_number().detached(),
                    fetch: Fetch {
                        records,
                        bytes,
                        kept: 0,
                        end: fetch.end.take(),
                        children: std::mem::take(&mut fetch.children),
                        lost_place: None,
                        ..fetch
                    },
                });
            }
        } else if let Some(end) = &fetch.end {
            self.end = Some(end.clone()).filter(|end| !end.children.is_empty());
            self.close(EndReason::Closed);
        }
        fetch
    }

    /// Gives back what was received and not handed on: it is read again.
    fn discard_pending(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.delivered = Some(pending.after.clone());
            self.continuation = Some(pending.after);
        }
    }
}

/// Waits within the limit, and says now and then that this is no standstill: the limit is what ends it.
async fn within<T: Send>(
    clock: &dyn Clock,
    limit: Duration,
    arrival: &dyn Arrival,
    wait: impl Future<Output = T> + Send,
) -> Result<T, Elapsed> {
    let (mut wait, end) = (std::pin::pin!(wait), clock.now() + limit);
    loop {
        let left = end.saturating_since(clock.now());
        let step = left.min(PROGRESS_INTERVAL);
        match clock.timeout(step, &mut wait).await {
            Ok(output) => return Ok(output),
            Err(_) if step == left => return Err(Elapsed(limit)),
            Err(_) => arrival.progressed(),
        }
    }
}

/// How often a wait for an event shows that it is one.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

#[async_trait]
impl RecordStream for SubscriptionStream {
    async fn next(&mut self, limit: FetchLimit) -> Result<Fetch, SourceError> {
        self.next_announced(limit, &()).await
    }

    /// Announces nothing: an event comes whole.
    async fn next_announced(
        &mut self,
        limit: FetchLimit,
        arrival: &dyn Arrival,
    ) -> Result<Fetch, SourceError> {
        if let Some(pending) = self.pending.take() {
            return Ok(self.split_at_limit(pending.fetch, limit));
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
                Some(_) => self.close(EndReason::Closed),
                None => {
                    self.subscribe().await?;
                }
            }
            let Some(event) = self.event(arrival).await? else {
                self.close(EndReason::Closed);
                continue;
            };
            return match self.accept(event) {
                Ok(fetch) => Ok(self.split_at_limit(fetch, limit)),
                Err(error) => {
                    self.close(EndReason::Failed);
                    Err(error)
                }
            };
        }
    }

    fn pause(&mut self) {
        self.discard_pending();
        if self.subscription.is_some() {
            self.close(EndReason::Closed);
        }
    }
}

#[cfg(test)]
mod tests;
