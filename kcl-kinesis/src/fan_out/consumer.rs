//! The consumer as which a stream is read: found, or registered by the worker that comes first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_kinesis::types::ConsumerStatus;
use kcl_aws::{ConsumerArn, InvalidArn};
use kcl_core::clock::{ClockExt as _, Moment, PerRuntime, Rng};
use kcl_core::source::{SourceError, SourceErrorKind};
use tokio::sync::OnceCell;

use crate::client::{KinesisClient, RegisteredConsumer};
use crate::errors::{Failure, LIMIT_EXCEEDED, RESOURCE_IN_USE, RESOURCE_NOT_FOUND};
use crate::fan_out::connections::ConnectionPool;
use crate::fan_out::schedule::SubscriptionSchedule;
use crate::fan_out::{ConsumerSelection, FanOut};

/// How often to look whether a new consumer is ready.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);

/// The shortest time from a failed look for the consumer to the next, before jitter.
const PAUSE: Duration = Duration::from_secs(1);

/// The state that all subscriptions of a stream share.
#[derive(Debug)]
pub(crate) struct FanOutReader {
    pub(crate) settings: FanOut,
    /// The connections of one runtime, which another must not use.
    pub(crate) connections: PerRuntime<Arc<ConnectionPool>>,
    pub(crate) schedule: SubscriptionSchedule,
    /// The consumer's ARN, once it is known. One task asks, and the others wait for it.
    known: Mutex<Arc<OnceCell<String>>>,
    /// The last look was in vain: all shards learn that until it is time for another.
    failed: Mutex<Option<FailedLookup>>,
}

#[derive(Debug)]
struct FailedLookup {
    kind: SourceErrorKind,
    message: String,
    until: Moment,
}

impl FanOutReader {
    pub(crate) fn new(settings: FanOut) -> Self {
        Self {
            schedule: SubscriptionSchedule::new(settings.spacing),
            settings,
            connections: PerRuntime::new(|_| Arc::default()),
            known: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    /// Checks a consumer that was given by ARN.
    pub(crate) fn check(&self, calls: &KinesisClient) -> Result<(), SourceError> {
        match &self.settings.consumer {
            ConsumerSelection::Given(arn) => calls.check_consumer(given(arn)?),
            ConsumerSelection::Named { .. } => Ok(()),
        }
    }

    /// The ARN of the consumer, which is registered and ready.
    pub(crate) async fn consumer_arn(
        &self,
        calls: &KinesisClient,
        rng: &mut Rng,
    ) -> Result<String, SourceError> {
        match &self.settings.consumer {
            ConsumerSelection::Given(arn) => Ok(given(arn)?.as_str().to_owned()),
            ConsumerSelection::Named { name, register } => {
                let known = Arc::clone(&lock(&self.known));
                let arn = known.get_or_try_init(|| self.look_up(calls, name, *register, rng));
                arn.await.cloned()
            }
        }
    }

    /// Looks for the consumer, unless that failed a moment ago. Of the shards that wait one after another each would otherwise ask again.
    async fn look_up(
        &self,
        calls: &KinesisClient,
        name: &str,
        register: bool,
        rng: &mut Rng,
    ) -> Result<String, SourceError> {
        if let Some(failed) = &*lock(&self.failed)
            && calls.clock.now() < failed.until
        {
            return Err(SourceError::new(failed.kind, failed.message.clone()));
        }
        let found = ready_consumer(calls, name, register).await;
        *lock(&self.failed) = found.as_ref().err().map(|error| FailedLookup {
            kind: error.kind(),
            message: error.to_string(),
            until: calls.clock.now() + PAUSE + Duration::from_millis(rng.below(1000)),
        });
        found
    }

    /// The consumer with this ARN may be gone: it is looked for again, unless another shard had that done already.
    pub(crate) fn forget_consumer(&self, arn: &str) {
        let mut known = lock(&self.known);
        if known.get().is_some_and(|known| known == arn) {
            *known = Arc::default();
        }
    }
}

fn given(arn: &Result<ConsumerArn, InvalidArn>) -> Result<&ConsumerArn, SourceError> {
    let invalid = |problem: &InvalidArn| SourceError::new(SourceErrorKind::Invalid, problem.to_string());
    arn.as_ref().map_err(invalid)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Finds the consumer, or registers it, and waits until it is ready, for as long as one request may take.
async fn ready_consumer(calls: &KinesisClient, name: &str, register: bool) -> Result<String, SourceError> {
    let stream = calls.stream_arn().await?;
    let deadline = calls.clock.now() + calls.polling.request_deadline;
    loop {
        let found = match find(calls, &stream, name).await? {
            Some(found) => found,
            // It was never there, or it was being deleted.
            None if register => registered(calls, &stream, name).await?,
            None => {
                let message = format!(
                    "the stream {} has no consumer named {name}; register it, or let the workers do so with FanOut::consumer",
                    calls.stream_name()
                );
                return Err(SourceError::new(SourceErrorKind::Invalid, message));
            }
        };
        if found.status == ConsumerStatus::Active {
            return Ok(found.arn);
        }
        if calls.clock.now() >= deadline {
            let message = format!(
                "the consumer {name} of the stream {} is {} and not yet ready",
                calls.stream_name(),
                found.status
            );
            return Err(SourceError::new(SourceErrorKind::Unavailable, message));
        }
        calls.clock.sleep(STATUS_INTERVAL).await;
    }
}

async fn find(
    calls: &KinesisClient,
    stream: &str,
    name: &str,
) -> Result<Option<RegisteredConsumer>, SourceError> {
    match calls.describe_consumer(stream, name).await {
        Ok(found) => Ok(Some(found)),
        Err(failure) if failure.has_code(RESOURCE_NOT_FOUND) => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

/// Registers the consumer, unless another worker was faster: then it is there.
async fn registered(
    calls: &KinesisClient,
    stream: &str,
    name: &str,
) -> Result<RegisteredConsumer, SourceError> {
    match calls.register_consumer(stream, name).await {
        Ok(made) => {
            tracing::info!(
                stream = calls.stream_name(),
                consumer = name,
                "registered the consumer"
            );
            Ok(made)
        }
        Err(failure) if failure.has_code(RESOURCE_IN_USE) => {
            Ok(calls.describe_consumer(stream, name).await?)
        }
        Err(failure) if failure.has_code(LIMIT_EXCEEDED) => {
            Err(consumer_limit_error(calls, stream, name, failure).await)
        }
        Err(failure) => Err(failure.into()),
    }
}

/// The fewest consumers that a stream may have registered: 20, and 50 for an account with On-demand Advantage. Consumers that AWS
/// registers for other services count.
const CONSUMER_LIMIT: usize = 20;

/// Distinguishes a stream that has no room for another consumer from too many requests: Kinesis has one error code for both.
async fn consumer_limit_error(
    calls: &KinesisClient,
    stream: &str,
    name: &str,
    failure: Failure,
) -> SourceError {
    let (count, who) = match calls.consumers(stream).await {
        Ok(names) => (names.len(), names.join(", ")),
        Err(unlisted) => {
            // The answer to the count may be old. If the stream gives none now, it has to do.
            let _ = calls.describe().await;
            let count = calls.described_consumers().unwrap_or(0);
            (count, format!("their names are unknown: {}", unlisted.error))
        }
    };
    if count < CONSUMER_LIMIT {
        return failure.into();
    }
    let message = format!(
        "the stream {} has no room for the consumer {name}: it has {count} consumers ({who}); deregister one that is not used, read as a registered one, or poll",
        calls.stream_name()
    );
    SourceError::new(SourceErrorKind::Invalid, message)
}
