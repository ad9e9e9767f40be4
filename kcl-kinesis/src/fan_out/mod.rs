//! Enhanced fan-out: the service pushes the records of a shard to a registered consumer, over a subscription of up to five minutes.

mod connections;
mod consumer;
mod schedule;
mod subscription;

use std::time::Duration;

use kcl_aws::{ConsumerArn, InvalidArn};

pub(crate) use consumer::FanOutReader;
pub(crate) use subscription::SubscriptionStream;

/// How a stream is read by enhanced fan-out: as which consumer, and how a subscription is watched.
///
/// Each consumer of a stream has 2 MiB per second and shard to itself, and receives records as they come, at a
/// [price](https://aws.amazon.com/kinesis/data-streams/pricing/) per shard and per byte. An application is one consumer: all its workers
/// use the same name, and no other application may, since a shard has one subscription per consumer.
///
/// ```
/// use kcl_kinesis::FanOut;
///
/// // Registered by whichever worker comes first, and found by the others.
/// let ours = FanOut::consumer("truck-tracker");
/// // Registered by somebody else, as it must be for a stream of another account.
/// let given = FanOut::consumer_arn("arn:aws:kinesis:eu-west-1:123456789012:stream/trucks/consumer/truck-tracker:1700000000");
/// # let _ = (ours, given);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FanOut {
    pub(crate) consumer: ConsumerSelection,
    pub(crate) silence: Duration,
    pub(crate) renewal: Duration,
    pub(crate) spacing: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConsumerSelection {
    Named { name: String, register: bool },
    Given(Result<ConsumerArn, InvalidArn>),
}

/// The service ends a subscription after five minutes.
const RENEWAL: Duration = Duration::from_secs(270);
/// Kinesis sends an event every few seconds, with or without records.
const SILENCE: Duration = Duration::from_secs(15);
/// The service takes no second subscription within this time of the first.
const SPACING: Duration = Duration::from_secs(5);
const MIN_RENEWAL: Duration = SPACING;
const MIN_SILENCE: Duration = Duration::from_millis(100);

impl FanOut {
    /// As the consumer of this name, which is registered if the stream has none of that name.
    ///
    /// Nothing ever deregisters it but [`KinesisStream::deregister_consumer`](crate::KinesisStream::deregister_consumer).
    pub fn consumer(name: impl Into<String>) -> Self {
        Self::of(ConsumerSelection::Named {
            name: name.into(),
            register: true,
        })
    }

    /// As the consumer of this name, which must be registered already: for workers without the permission.
    pub fn registered_consumer(name: impl Into<String>) -> Self {
        Self::of(ConsumerSelection::Named {
            name: name.into(),
            register: false,
        })
    }

    /// As the consumer with this ARN. Neither looked for nor registered, and never deregistered.
    ///
    /// An ARN that is none of a consumer, or of a consumer of another stream, is an error of every call of the stream.
    pub fn consumer_arn(arn: impl Into<String>) -> Self {
        Self::of(ConsumerSelection::Given(arn.into().parse()))
    }

    fn of(consumer: ConsumerSelection) -> Self {
        Self {
            consumer,
            silence: SILENCE,
            renewal: RENEWAL,
            spacing: SPACING,
        }
    }

    /// How long a subscription may be silent before it is taken for dead and replaced. At least 100 ms; 15 s by default, since Kinesis sends
    /// an event every few seconds even when there are no records.
    #[must_use]
    pub fn silence(mut self, limit: Duration) -> Self {
        self.silence = limit.max(MIN_SILENCE);
        self
    }

    /// How old a subscription may become before it is replaced by a new one. At least 5 s; four and a half minutes by default, less up to a
    /// tenth of that, so that the subscriptions of many shards are not renewed at once. The service ends it after five.
    #[must_use]
    pub fn renewal(mut self, age: Duration) -> Self {
        self.renewal = age.max(MIN_RENEWAL);
        self
    }

    /// How long to wait from one subscription of a shard to the next. 5 s by default, which is what
    /// [Kinesis](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_SubscribeToShard.html) demands; less is for servers that do not.
    #[must_use]
    pub fn spacing(mut self, pause: Duration) -> Self {
        self.spacing = pause;
        self
    }
}
