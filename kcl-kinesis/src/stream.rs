//! The stream as the worker sees it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_kinesis::Client;
use kcl_core::clock::{Clock, TokioClock};
use kcl_core::source::{
    PageToken, RecordStream, ShardFilter, ShardPage, SourceError, SourceErrorKind, StartPosition,
    StreamDescription, StreamSource,
};
use kcl_core::types::{ShardId, StreamIdentity};

use crate::adaptive_rate::AdaptiveRates;
use crate::client::KinesisClient;
use crate::convert;
use crate::errors::RESOURCE_NOT_FOUND;
use crate::fan_out::{ConsumerSelection, FanOut, FanOutReader, SubscriptionStream};
use crate::pace::PollingSettings;
use crate::polling::PollingStream;

/// A stream of Kinesis Data Streams, read by polling or by [enhanced fan-out](Self::with_fan_out).
///
/// Cheap to clone. See the [crate](crate) for what it takes care of and which permissions it needs.
///
/// ```
/// use aws_config::{BehaviorVersion, Region, SdkConfig};
/// use kcl_core::source::StreamSource as _;
/// use kcl_kinesis::KinesisStream;
///
/// // Usually from `aws_config::load_defaults(BehaviorVersion::latest()).await`.
/// let config = SdkConfig::builder()
///     .behavior_version(BehaviorVersion::latest())
///     .region(Region::new("eu-west-1"))
///     .build();
/// let orders = KinesisStream::new(&config, "orders");
/// assert_eq!(orders.name(), "orders");
/// ```
#[derive(Clone)]
pub struct KinesisStream {
    calls: KinesisClient,
    /// The rest of the shards' limits where others poll them, too.
    rates: Arc<AdaptiveRates>,
    /// How it is read by enhanced fan-out, if it is.
    fan_out: Option<Arc<FanOutReader>>,
}

impl KinesisStream {
    /// The stream of this name, or with this ARN. Nothing is sent yet.
    ///
    /// With an ARN every request carries it, which is what a stream of another account needs. Endpoint, region and credentials come
    /// from the configuration; its retries, timeouts and identity cache are not used. An ARN that is none of a stream, or of a stream in
    /// another region than the configuration's, is an error of every call, before anything is sent.
    ///
    /// # Panics
    ///
    /// As `aws_sdk_kinesis::Client::new` does, when the configuration has no behaviour version.
    pub fn new(config: &SdkConfig, name_or_arn: impl Into<String>) -> Self {
        Self::from_client(&Client::new(config), name_or_arn)
    }

    /// The stream of this name, or with this ARN, through a client of yours.
    ///
    /// The client is copied with its retries and timeouts switched off, and with a cache of credentials of its own.
    pub fn from_client(client: &Client, name_or_arn: impl Into<String>) -> Self {
        let clock = Arc::new(TokioClock::new());
        Self {
            calls: KinesisClient::new(client, name_or_arn.into(), clock),
            rates: Arc::default(),
            fan_out: None,
        }
    }

    /// The same stream with another clock, by which deadlines and the age of iterators are measured.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.calls.clock = clock;
        // The moments of another clock mean nothing to this one.
        self.rates = Arc::default();
        self
    }

    /// The same stream, polled in another way.
    #[must_use]
    pub fn with_polling(mut self, settings: PollingSettings) -> Self {
        self.calls.polling = settings.in_range();
        self
    }

    /// The same stream, read by enhanced fan-out instead of by polling.
    ///
    /// Besides the permissions of the [crate](crate) this takes `kinesis:SubscribeToShard` on the consumer and, unless the consumer's ARN is
    /// given, `kinesis:DescribeStreamConsumer` and `kinesis:RegisterStreamConsumer`. Keep `kinesis:GetShardIterator` and `kinesis:GetRecords`:
    /// the end of a shard is looked for with them where a subscription does not bring it. On AWS it needs HTTP/2, which the SDK's default
    /// client speaks; a few subscriptions share a connection, and none shares it with requests. If you give the SDK an HTTP client of
    /// your own, they share what that does.
    #[must_use]
    pub fn with_fan_out(mut self, fan_out: FanOut) -> Self {
        self.fan_out = Some(Arc::new(FanOutReader::new(fan_out)));
        self
    }

    /// Deregisters the consumer of the stream's [`FanOut`], for when the application is taken out of service. A reader that uses that consumer
    /// receives no more records, and workers of this library register it again. It takes `kinesis:DeregisterStreamConsumer`.
    ///
    /// # Errors
    ///
    /// Any [`SourceError`]; [`Invalid`](SourceErrorKind::Invalid) if the stream is polled, or if its consumer was given by ARN or as a registered one:
    /// then it belongs to somebody else. That there is no such consumer is a success.
    ///
    /// # Cancel safety
    ///
    /// After the future is dropped the consumer may or may not be deregistered.
    pub async fn deregister_consumer(&self) -> Result<(), SourceError> {
        let consumer = self.fan_out.as_ref().map(|reader| &reader.settings.consumer);
        let Some(ConsumerSelection::Named { name, register: true }) = consumer else {
            let message = format!(
                "the stream {} has no consumer that its workers registered",
                self.name()
            );
            return Err(SourceError::new(SourceErrorKind::Invalid, message));
        };
        self.calls.check()?;
        let stream = self.calls.stream_arn().await?;
        match self.calls.deregister_consumer(&stream, name).await {
            Err(failure) if !failure.has_code(RESOURCE_NOT_FOUND) => Err(failure.into()),
            _ => Ok(()),
        }
    }
}

impl KinesisStream {
    /// Checks what was configured, as far as that needs no answer of the service.
    fn check(&self) -> Result<(), SourceError> {
        self.calls.check()?;
        match &self.fan_out {
            Some(reader) => reader.check(&self.calls),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for KinesisStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KinesisStream")
            .field("calls", &self.calls)
            .field("fan_out", &self.fan_out.as_ref().map(|reader| &reader.settings))
            .finish()
    }
}

#[async_trait]
impl StreamSource for KinesisStream {
    /// The name of the stream, also where it was given as an ARN.
    fn name(&self) -> &str {
        self.calls.stream_name()
    }

    /// The ARN where one was given, the name otherwise.
    fn address(&self) -> &str {
        self.calls.address()
    }

    /// Asks DescribeStreamSummary.
    async fn identity(&self) -> Result<StreamIdentity, SourceError> {
        self.check()?;
        let identity = convert::identity(self.calls.describe().await?)?;
        // The stream's ARN is known now.
        self.check()?;
        Ok(identity)
    }

    /// Returns the last DescribeStreamSummary.
    fn description(&self) -> StreamDescription {
        self.calls.description()
    }

    /// Asks ListShards, for up to 1,000 shards a page.
    ///
    /// The service time is that of the answer's `Date` header, in whole seconds; an answer without one, which AWS does not give,
    /// is dated by this host's clock. A page token lives five minutes.
    async fn shards(&self, filter: ShardFilter, page: Option<PageToken>) -> Result<ShardPage, SourceError> {
        self.check()?;
        let (listed, service_time) = self.calls.list(filter, page.map(|page| page.0)).await?;
        let shards = listed.shards.into_iter().flatten().map(convert::shard);
        Ok(ShardPage {
            shards: shards.collect::<Result<_, _>>()?,
            next: listed.next_token.map(PageToken),
            service_time,
        })
    }

    /// Asks GetShardIterator, or SubscribeToShard, and so finds out whether the shard is there.
    ///
    /// LATEST is resolved by that call. If its iterator expires, or the subscription breaks, before a record came, reading begins at
    /// the service's time of the opening, up to two seconds early rather than late.
    async fn open(
        &self,
        shard: &ShardId,
        start: StartPosition,
    ) -> Result<Box<dyn RecordStream>, SourceError> {
        self.check()?;
        let (calls, shard) = (self.calls.clone(), shard.clone());
        Ok(match &self.fan_out {
            None => {
                let rates = Arc::clone(&self.rates);
                Box::new(PollingStream::open(calls, rates, shard, start).await?)
            }
            Some(reader) => {
                Box::new(SubscriptionStream::open(calls, Arc::clone(reader), shard, start).await?)
            }
        })
    }

    /// Polls, also a stream that is read by enhanced fan-out: on some servers a subscription to a closed shard never ends.
    async fn open_closed(
        &self,
        shard: &ShardId,
        start: StartPosition,
    ) -> Result<Box<dyn RecordStream>, SourceError> {
        let (calls, rates) = (self.calls.clone(), Arc::clone(&self.rates));
        let opened = PollingStream::open(calls, rates, shard.clone(), start).await?;
        Ok(Box::new(opened))
    }
}
