//! Consumers for enhanced fan-out, and their subscriptions.

use kcl_core::clock::Moment;
use kcl_core::source::StreamSource as _;
use kcl_core::types::ShardId;
use kcl_lease_memory::MemoryStream;
use kcl_lease_memory::server::Place;
use tokio::sync::oneshot;

use super::reading::{check_known, position};
use super::streams::is_name;
use crate::Operation;
use crate::attributes::Tags;
use crate::error::ServiceError;
use crate::shared::Shared;
use crate::token::NextToken;
use crate::value::{Answer, Map};

/// A subscription that was granted.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) source: Source,
    /// Why the subscription must end early.
    pub(crate) ended: oneshot::Receiver<ServiceError>,
}

/// The shard and the position of a subscription.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) stream: MemoryStream,
    pub(crate) shard: ShardId,
    pub(crate) place: Place,
}

pub(super) fn register(shared: &Shared, request: &Map, now: Moment) -> Answer {
    request.needed_text("StreamARN")?;
    let name = request.needed_text("ConsumerName")?;
    if !is_name(name) {
        return Err(ServiceError::validation(format!(
            "{name:?} is not the name of a consumer"
        )));
    }
    let mut streams = shared.streams();
    let entry = streams.readable(request, now)?;
    let arn = entry.identity()?.arn;
    let created = entry.stream.service_time();
    let takes = shared.options.consumer_transition;
    let limits = shared.consumer_limits();
    let mut tags = Tags::default();
    tags.add(request)?;
    let consumer = entry
        .consumers
        .register((name, tags), &arn, &limits, created, now, takes)?;
    Ok(Map::new().with("Consumer", consumer.describe(now)))
}

pub(super) fn deregister(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let mut streams = shared.streams();
    let entry = streams.of(request)?;
    let name = match request.text("ConsumerARN")? {
        Some(arn) => entry.consumers.with_arn(arn)?.name.clone(),
        None => {
            let name = request.needed_text("ConsumerName")?;
            entry.consumers.named(name)?.name.clone()
        }
    };
    let takes = shared.options.consumer_transition;
    let arn = entry.consumers.named(&name)?.arn.clone();
    entry.attributes.policies.remove(&arn);
    entry.consumers.deregister(&name, now, takes);
    streams.settle(now);
    Ok(Map::new())
}

pub(super) fn describe(shared: &Shared, request: &Map, now: Moment) -> Answer {
    let mut streams = shared.streams();
    let entry = streams.of(request)?;
    let stream_arn = entry.identity()?.arn;
    let consumer = match request.text("ConsumerARN")? {
        Some(arn) => entry.consumers.with_arn(arn)?,
        None => entry.consumers.named(request.needed_text("ConsumerName")?)?,
    };
    let description = consumer.describe(now).with("StreamARN", stream_arn);
    Ok(Map::new().with("ConsumerDescription", description))
}

pub(super) fn list(shared: &Shared, request: &Map, now: Moment) -> Answer {
    request.needed_text("StreamARN")?;
    let most = request.page_size("MaxResults", 100)?;
    let token = shared.page_token(request, "consumers", now)?;
    let mut streams = shared.streams();
    let entry = streams.of(request)?;
    let mut rest = entry.consumers.iter().filter(|consumer| {
        token
            .as_ref()
            .is_none_or(|token| consumer.name.as_str() > token.last.as_str())
    });
    let page: Vec<_> = rest.by_ref().take(most).collect();
    let last = page.last().filter(|_| rest.next().is_some());
    let next = last.map(|last| {
        let token = NextToken {
            stream: entry.stream.name().to_owned(),
            filter: "consumers".to_owned(),
            last: last.name.clone(),
            minted: now,
        };
        token.encode()
    });
    let consumers: Vec<Map> = page.iter().map(|consumer| consumer.describe(now)).collect();
    Ok(Map::new()
        .with("Consumers", consumers)
        .with_some("NextToken", next))
}

/// Grants a subscription. Nothing has changed if it is refused.
pub(super) fn subscribe(shared: &Shared, request: &Map, now: Moment) -> Result<Opened, ServiceError> {
    let mut streams = shared.streams();
    let entry = streams.readable(request, now)?;
    let stream = entry.stream.clone();
    let shard = request.shard("ShardId")?;
    let start = request
        .map("StartingPosition")?
        .ok_or_else(|| ServiceError::validation("StartingPosition is missing"))?;
    let start = position(start, "Type", "SequenceNumber", "Timestamp")?;
    let arn = request.needed_text("ConsumerARN")?;
    let consumer = entry.consumers.with_arn(arn)?;
    check_known(shared, &stream, &shard)?;
    let place = stream.place(&shard, &start)?;
    consumer.may_subscribe(&shard, shared.options.resubscribe_after, now)?;
    if request.flag("DryRun")? {
        return Err(ServiceError::dry_run());
    }
    let operation = Operation::SubscribeToShard;
    let most = shared.options.limits.calls_per_second.get(&operation).copied();
    let scope = format!("{arn}/{shard}");
    shared.limiter().call(operation, &scope, most, now)?;
    Ok(Opened {
        ended: consumer.subscribe(&shard, now),
        source: Source { stream, shard, place },
    })
}
