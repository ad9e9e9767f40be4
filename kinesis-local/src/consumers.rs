//! The consumers of a stream and their subscriptions. Time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use kcl_core::clock::Moment;
use kcl_core::types::{ShardId, Timestamp};
use tokio::sync::oneshot;

use super::attributes::Tags;
use super::error::ServiceError;
use super::options::WireLimits;
use super::value::Map;

/// A consumer registered for enhanced fan-out.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) name: String,
    pub(super) arn: String,
    pub(super) tags: Tags,
    pub(super) created: Timestamp,
    active_from: Moment,
    gone_from: Option<Moment>,
    subscriptions: BTreeMap<ShardId, Subscription>,
}

#[derive(Debug)]
struct Subscription {
    opened: Moment,
    /// Ends the subscription with an error, if it still runs.
    end: oneshot::Sender<ServiceError>,
}

impl Consumer {
    fn new((name, tags): (&str, Tags), stream_arn: &str, created: Timestamp, active_from: Moment) -> Self {
        Self {
            name: name.to_owned(),
            arn: format!("{stream_arn}/consumer/{name}:{}", created.as_secs()),
            tags,
            created,
            active_from,
            gone_from: None,
            subscriptions: BTreeMap::new(),
        }
    }

    fn status(&self, now: Moment) -> &'static str {
        if self.gone_from.is_some() {
            "DELETING"
        } else if now < self.active_from {
            "CREATING"
        } else {
            "ACTIVE"
        }
    }

    /// Whether it is being deleted.
    pub(super) fn is_going(&self) -> bool {
        self.gone_from.is_some()
    }

    /// The consumer as answers show it.
    pub(super) fn describe(&self, now: Moment) -> Map {
        Map::new()
            .with("ConsumerName", self.name.as_str())
            .with("ConsumerARN", self.arn.as_str())
            .with("ConsumerStatus", self.status(now))
            .with("ConsumerCreationTimestamp", self.created)
    }

    /// Checks whether the consumer may subscribe to the shard now.
    pub(super) fn may_subscribe(
        &self,
        shard: &ShardId,
        again_after: Duration,
        now: Moment,
    ) -> Result<(), ServiceError> {
        let status = self.status(now);
        if status != "ACTIVE" {
            return Err(ServiceError::in_use(format!(
                "Consumer {} is {status}, not ACTIVE",
                self.arn
            )));
        }
        match self.subscriptions.get(shard) {
            Some(last) if now.saturating_since(last.opened) < again_after => {
                Err(ServiceError::in_use(format!(
                    "Another active subscription exists for {} and {shard}, opened less than {again_after:?} ago",
                    self.arn
                )))
            }
            _ => Ok(()),
        }
    }

    /// Notes a subscription; it ends when the receiver gets an error, or its sender vanishes. The older one ends now.
    pub(super) fn subscribe(&mut self, shard: &ShardId, now: Moment) -> oneshot::Receiver<ServiceError> {
        let (end, ended) = oneshot::channel();
        let new = Subscription { opened: now, end };
        if let Some(older) = self.subscriptions.insert(shard.clone(), new) {
            // It may have ended by itself long ago.
            let _ = older.end.send(ServiceError::in_use(
                "Another subscription of this consumer to this shard took over",
            ));
        }
        ended
    }
}

/// The consumers of one stream, by name.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    by_name: BTreeMap<String, Consumer>,
}

impl Consumers {
    /// Lets go of those whose deletion is over.
    pub(super) fn settle(&mut self, now: Moment) {
        self.by_name
            .retain(|_, consumer| consumer.gone_from.is_none_or(|gone| now < gone));
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Consumer> {
        self.by_name.values()
    }

    pub(super) fn register(
        &mut self,
        (name, tags): (&str, Tags),
        stream_arn: &str,
        limits: &WireLimits,
        created: Timestamp,
        now: Moment,
        takes: Duration,
    ) -> Result<&Consumer, ServiceError> {
        if self.by_name.contains_key(name) {
            return Err(ServiceError::in_use(format!(
                "Consumer {name} is registered with {stream_arn} already"
            )));
        }
        let creating = self.iter().filter(|consumer| consumer.status(now) == "CREATING");
        check(creating.count(), limits.consumers_creating, "consumers CREATING")?;
        check(self.len(), limits.consumers, "consumers of a stream")?;
        let consumer = Consumer::new((name, tags), stream_arn, created, now + takes);
        Ok(self.by_name.entry(name.to_owned()).or_insert(consumer))
    }

    /// Adds a consumer that was registered at a former time. Returns its ARN.
    pub(super) fn restore(
        &mut self,
        (name, tags): (&str, Tags),
        stream_arn: &str,
        created: Timestamp,
    ) -> String {
        let consumer = Consumer::new((name, tags), stream_arn, created, Moment::ZERO);
        let arn = consumer.arn.clone();
        self.by_name.insert(name.to_owned(), consumer);
        arn
    }

    /// Begins the deletion of a consumer, which ends its subscriptions.
    pub(super) fn deregister(&mut self, name: &str, now: Moment, takes: Duration) {
        if let Some(consumer) = self.by_name.get_mut(name) {
            consumer.gone_from = Some(now + takes);
            consumer.subscriptions.clear();
        }
    }

    pub(super) fn named(&self, name: &str) -> Result<&Consumer, ServiceError> {
        self.by_name
            .get(name)
            .ok_or_else(|| ServiceError::not_found(format!("Consumer {name} is not registered")))
    }

    pub(super) fn with_arn(&mut self, arn: &str) -> Result<&mut Consumer, ServiceError> {
        self.by_name
            .values_mut()
            .find(|consumer| consumer.arn == arn)
            .ok_or_else(|| ServiceError::not_found(format!("Consumer {arn} is not registered")))
    }
}

fn check(count: usize, most: Option<u32>, what: &str) -> Result<(), ServiceError> {
    match most {
        Some(most) if count >= most as usize => Err(ServiceError::limit(format!("{most} {what} at most"))),
        _ => Ok(()),
    }
}
