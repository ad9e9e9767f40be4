//! The calls, each with one attempt and a deadline of ours.

mod consumers;
mod records;

use std::fmt;
use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::list_shards::ListShardsOutput;
use aws_sdk_kinesis::primitives::{Blob, DateTime};
use aws_sdk_kinesis::types::{self, ShardFilterType, ShardIteratorType, StreamDescriptionSummary};
use aws_sdk_kinesis::{Client, Config};
use kcl_aws::{Arn, Attempt, Caller, ConsumerArn, InvalidArn, StreamArn, UnsentReason};
use kcl_core::clock::{Clock, PerRuntime};
use kcl_core::source::{ShardFilter, SourceError, SourceErrorKind, StartPosition, StreamDescription};
use kcl_core::types::{ShardId, Timestamp};
use tokio::sync::Semaphore;

use crate::cbor::KinesisCbor;
use crate::convert;
use crate::errors::{Failure, Request, Resource};
use crate::pace::PollingSettings;

pub(crate) use consumers::{Events, RegisteredConsumer};
pub(crate) use records::MAX_RECORDS;

/// Longer than any call may take.
const NO_CONNECT_TIMEOUT: Duration = Duration::from_secs(3600);

/// How requests name the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
enum StreamAddress {
    Name(String),
    Arn(StreamArn),
    /// The text is no name, and not the ARN of a stream.
    Wrong {
        given: String,
        problem: InvalidArn,
    },
}

impl StreamAddress {
    /// Anything that begins like an ARN is one; a stream's name cannot hold a colon.
    fn new(name_or_arn: String) -> Self {
        if !Arn::looks_like_arn(&name_or_arn) {
            return Self::Name(name_or_arn);
        }
        match name_or_arn.parse() {
            Ok(arn) => Self::Arn(arn),
            Err(problem) => Self::Wrong {
                given: name_or_arn,
                problem,
            },
        }
    }

    fn bare_name(&self) -> &str {
        match self {
            Self::Name(name) | Self::Wrong { given: name, .. } => name,
            Self::Arn(arn) => arn.name(),
        }
    }

    fn name(&self) -> Option<String> {
        match self {
            Self::Name(name) => Some(name.clone()),
            Self::Arn(_) | Self::Wrong { .. } => None,
        }
    }

    fn arn(&self) -> Option<String> {
        match self {
            Self::Name(_) | Self::Wrong { .. } => None,
            Self::Arn(arn) => Some(arn.as_str().to_owned()),
        }
    }
}

/// How many calls for records are under way at once, as a rule. Each has a connection, and a connection that has brought an answer keeps a
/// buffer of some hundred KiB for the next one.
const MAX_CONCURRENT_READS: usize = 64;

/// One stream behind the SDK.
#[derive(Clone)]
pub(crate) struct KinesisClient {
    /// The connections of one runtime, which another must not use: code may block its threads.
    clients: Arc<PerRuntime<Clients>>,
    /// The server was found to speak nothing but JSON.
    only_json: Arc<AtomicBool>,
    /// The calls for records that may be under way at once, as a rule.
    read_permits: Arc<Semaphore>,
    target: StreamAddress,
    /// The stream's ARN, once the service sent it.
    known_arn: Arc<OnceLock<StreamArn>>,
    /// The last description of the stream by the service.
    description: Arc<Mutex<StreamDescription>>,
    region: Option<String>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) polling: PollingSettings,
}

/// The clients of one runtime.
#[derive(Clone)]
struct Clients {
    /// Speaks JSON.
    sdk: Client,
    /// Speaks CBOR, over connections of its own.
    reader: Client,
    /// Of both, with these credentials, but without their pools of connections.
    config: Config,
    /// A load of credentials moves only while the runtime runs that began it.
    caller: Caller,
}

impl fmt::Debug for KinesisClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KinesisClient")
            .field("target", &self.target)
            .field("region", &self.region)
            .field("polling", &self.polling)
            .finish_non_exhaustive()
    }
}

impl KinesisClient {
    /// Takes over the client but for its retries and timeouts.
    ///
    /// A retry inside the SDK would hide throttles from the pace, and read a shard faster than the pace says. The environment can
    /// neither bring the retries back nor stretch the deadline.
    pub(crate) fn new(sdk: &Client, name_or_arn: String, clock: Arc<dyn Clock>) -> Self {
        let config = sdk.config().to_builder();
        let base = config
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .build();
        let region = base.region().map(ToString::to_string);
        let clients = move |runtime: u64| {
            let caller = Caller::default();
            let base = base
                .to_builder()
                .identity_cache(caller.credentials.clone())
                .build();
            // An HTTP client that was given has a pool of connections for each connect timeout. Ours never fires.
            let connect = NO_CONNECT_TIMEOUT + Duration::from_millis(runtime);
            let timeouts = TimeoutConfig::disabled().to_builder().connect_timeout(connect);
            let config = base.to_builder().timeout_config(timeouts.build()).build();
            let reader = config.to_builder().protocol(KinesisCbor::new()).build();
            Clients {
                sdk: Client::from_conf(config),
                reader: Client::from_conf(reader),
                config: base,
                caller,
            }
        };
        Self {
            region,
            known_arn: Arc::default(),
            description: Arc::default(),
            clients: Arc::new(PerRuntime::new(clients)),
            only_json: Arc::default(),
            read_permits: Arc::new(Semaphore::new(MAX_CONCURRENT_READS)),
            target: StreamAddress::new(name_or_arn),
            clock,
            polling: PollingSettings::default(),
        }
    }

    /// The configuration of the clients of this runtime: without retries, without timeouts.
    pub(crate) fn config(&self) -> Config {
        self.clients.get().config
    }

    fn sdk(&self) -> Client {
        self.clients.get().sdk
    }

    fn reader(&self) -> Client {
        self.clients.get().reader
    }

    pub(crate) fn stream_name(&self) -> &str {
        self.target.bare_name()
    }

    pub(crate) fn address(&self) -> &str {
        match &self.target {
            StreamAddress::Name(address) | StreamAddress::Wrong { given: address, .. } => address,
            StreamAddress::Arn(arn) => arn.as_str(),
        }
    }

    /// Checks what was configured, as far as that needs no answer of the service.
    ///
    /// # Errors
    ///
    /// Without a region, and if the ARN is none of a stream or names another region than the client has.
    pub(crate) fn check(&self) -> Result<(), SourceError> {
        let invalid =
            |problem: &dyn fmt::Display| SourceError::new(SourceErrorKind::Invalid, problem.to_string());
        if let StreamAddress::Wrong { problem, .. } = &self.target {
            return Err(invalid(problem));
        }
        if self.region.is_none() {
            let message = format!(
                "the stream {} cannot be read: there is no region; {}",
                self.stream_name(),
                UnsentReason::NoRegion.advice()
            );
            return Err(SourceError::new(SourceErrorKind::Denied, message));
        }
        match &self.target {
            StreamAddress::Arn(arn) => arn
                .check_region(self.region.as_deref())
                .map_err(|problem| invalid(&problem)),
            StreamAddress::Name(_) | StreamAddress::Wrong { .. } => Ok(()),
        }
    }

    /// Checks that a consumer is one of this stream: by the ARN, where it is known, or else by the name.
    pub(crate) fn check_consumer(&self, consumer: &ConsumerArn) -> Result<(), SourceError> {
        let is_ours = match self.arn() {
            Some(arn) => consumer.stream() == arn,
            None => consumer.stream().name() == self.stream_name(),
        };
        if is_ours {
            return Ok(());
        }
        let ours = self.arn().map_or(self.stream_name(), |arn| arn.as_str());
        let message = format!(
            "{} is a consumer of the stream {}, and the stream to read is {ours}: its records would be taken for those of another stream; give the ARN of a consumer of {ours}",
            consumer.as_str(),
            consumer.stream().as_str(),
        );
        Err(SourceError::new(SourceErrorKind::Invalid, message))
    }

    /// Returns the last description of the stream by the service, if it was asked.
    pub(crate) fn description(&self) -> StreamDescription {
        self.lock_description().clone()
    }

    /// How many consumers the stream had when it was last asked.
    pub(crate) fn described_consumers(&self) -> Option<usize> {
        usize::try_from(self.lock_description().consumers?).ok()
    }

    fn lock_description(&self) -> MutexGuard<'_, StreamDescription> {
        self.description.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ARN of the stream, if it was given or received.
    fn arn(&self) -> Option<&StreamArn> {
        match &self.target {
            StreamAddress::Arn(arn) => Some(arn),
            StreamAddress::Name(_) | StreamAddress::Wrong { .. } => self.known_arn.get(),
        }
    }

    /// Returns `false` if the stream certainly is not the one with this name and, where it is known, this ARN.
    pub(crate) fn may_be(&self, name: &str, arn: Option<&str>) -> bool {
        let other = arn.and_then(|arn| arn.parse::<StreamArn>().ok());
        match (self.arn(), other) {
            (Some(own), Some(other)) => *own == other,
            // The name stands for a stream of the client's region.
            (None, Some(other)) => {
                name == self.stream_name() && other.check_region(self.region.as_deref()).is_ok()
            }
            (_, None) => name == self.stream_name(),
        }
    }

    fn request<'a>(&'a self, action: &'static str, shard: Option<&'a ShardId>) -> Request<'a> {
        Request {
            action,
            stream: self.stream_name(),
            shard: shard.map(ShardId::as_str),
            region: self.region.as_deref(),
            resource: Resource::Stream(self.arn().map(|arn| arn.as_str())),
        }
    }

    /// Waits for the answer, as long as the deadline allows.
    async fn answer<T, E, F>(
        &self,
        request: Request<'_>,
        call: impl FnMut(Attempt) -> F,
    ) -> Result<T, Failure>
    where
        T: Send,
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E>>> + Send,
    {
        let deadline = self.polling.request_deadline;
        let caller = self.clients.get().caller;
        match caller.call(self.clock.as_ref(), deadline, call).await {
            Ok(answer) => answer.map_err(|error| request.failed(error)),
            Err(late) => Err(request.late(late, deadline)),
        }
    }

    /// Waits for the answer, and returns it with the service's time, or this host's where the answer has none.
    async fn answer_with_service_time<T, E, F>(
        &self,
        request: Request<'_>,
        mut call: impl FnMut(Attempt) -> F,
    ) -> Result<(T, Timestamp), Failure>
    where
        T: Send,
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E>>> + Send,
    {
        let mut last = Attempt::default();
        let answer = self
            .answer(request, |attempt| {
                last = attempt.clone();
                call(attempt)
            })
            .await?;
        Ok((answer, last.service_time().unwrap_or_else(|| self.clock.wall())))
    }

    pub(crate) async fn describe(&self) -> Result<StreamDescriptionSummary, Failure> {
        let request = self.request("kinesis:DescribeStreamSummary", None);
        let call = self
            .sdk()
            .describe_stream_summary()
            .set_stream_name(self.target.name())
            .set_stream_arn(self.target.arn());
        let described = self
            .answer(request, |attempt| {
                call.clone().customize().interceptor(attempt).send()
            })
            .await?;
        let summary = described
            .stream_description_summary
            .ok_or_else(|| request.incomplete("summary"))?;
        if summary.stream_name != self.stream_name() {
            return Err(request.wrong_stream(&summary.stream_name));
        }
        if let Ok(arn) = summary.stream_arn.parse() {
            // A stream that is made again has the ARN of the one before.
            let _ = self.known_arn.set(arn);
        }
        *self.lock_description() = convert::description(&summary);
        Ok(summary)
    }

    /// One page of shards, with the service's time. A token stands for the stream and the filter: with it they may not be sent.
    pub(crate) async fn list(
        &self,
        filter: ShardFilter,
        token: Option<String>,
    ) -> Result<(ListShardsOutput, Timestamp), Failure> {
        let request = self.request("kinesis:ListShards", None);
        let call = self.sdk().list_shards();
        let call = match token {
            Some(token) => call.next_token(token),
            None => call
                .set_stream_name(self.target.name())
                .set_stream_arn(self.target.arn())
                .set_shard_filter(sdk_filter(filter)),
        };
        self.answer_with_service_time(request, |attempt| {
            call.clone().customize().interceptor(attempt).send()
        })
        .await
    }

    /// An iterator, with the service's time when it was made.
    pub(crate) async fn iterator(
        &self,
        shard: &ShardId,
        start: &StartPosition,
    ) -> Result<(String, Timestamp), Failure> {
        let request = self.request("kinesis:GetShardIterator", Some(shard));
        let call = self
            .sdk()
            .get_shard_iterator()
            .set_stream_name(self.target.name())
            .set_stream_arn(self.target.arn())
            .shard_id(shard.as_str());
        let call = match start {
            StartPosition::TrimHorizon => call.shard_iterator_type(ShardIteratorType::TrimHorizon),
            StartPosition::Latest => call.shard_iterator_type(ShardIteratorType::Latest),
            StartPosition::AtTimestamp(time) => call
                .shard_iterator_type(ShardIteratorType::AtTimestamp)
                .timestamp(DateTime::from_millis(time.as_millis())),
            StartPosition::AtSequence(number) => call
                .shard_iterator_type(ShardIteratorType::AtSequenceNumber)
                .starting_sequence_number(number.as_str()),
            StartPosition::AfterSequence(number) => call
                .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
                .starting_sequence_number(number.as_str()),
        };
        let (made, time) = self
            .answer_with_service_time(request, |attempt| {
                call.clone().customize().interceptor(attempt).send()
            })
            .await?;
        let iterator = made
            .shard_iterator
            .ok_or_else(|| request.incomplete("iterator"))?;
        Ok((iterator, time))
    }

    /// Puts one record.
    pub(crate) async fn put(&self, partition_key: &str, data: Vec<u8>) -> Result<(), Failure> {
        let request = self.request("kinesis:PutRecord", None);
        let call = self
            .sdk()
            .put_record()
            .set_stream_name(self.target.name())
            .set_stream_arn(self.target.arn())
            .partition_key(partition_key)
            .data(Blob::new(data));
        let put = self
            .answer(request, |attempt| {
                call.clone().customize().interceptor(attempt).send()
            })
            .await?;
        match put.sequence_number.is_empty() {
            true => Err(request.incomplete("sequence number")),
            false => Ok(()),
        }
    }
}

fn sdk_filter(filter: ShardFilter) -> Option<types::ShardFilter> {
    let builder = types::ShardFilter::builder();
    let builder = match filter {
        ShardFilter::All => return None,
        ShardFilter::Open => builder.r#type(ShardFilterType::AtLatest),
        ShardFilter::FromTimestamp(time) => builder
            .r#type(ShardFilterType::FromTimestamp)
            .timestamp(DateTime::from_millis(time.as_millis())),
    };
    builder.build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_is_told_from_a_name() {
        let arn = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders";
        let target = StreamAddress::new(arn.to_owned());
        assert_eq!(
            (target.name(), target.arn(), target.bare_name()),
            (None, Some(arn.to_owned()), "orders")
        );
        let target = StreamAddress::new("orders".to_owned());
        assert_eq!(
            (target.name(), target.arn(), target.bare_name()),
            (Some("orders".to_owned()), None, "orders")
        );
        let wrong = StreamAddress::new("arn:odd".to_owned());
        assert_eq!(
            (wrong.name(), wrong.arn(), wrong.bare_name()),
            (None, None, "arn:odd")
        );
    }

    #[test]
    fn every_filter_but_all_is_sent() {
        let time = Timestamp::from_millis(1_700_000_000_123);
        assert_eq!(sdk_filter(ShardFilter::All), None);
        let open = sdk_filter(ShardFilter::Open).unwrap();
        assert_eq!((open.r#type, open.timestamp), (ShardFilterType::AtLatest, None));
        let from = sdk_filter(ShardFilter::FromTimestamp(time)).unwrap();
        assert_eq!(from.r#type, ShardFilterType::FromTimestamp);
        assert_eq!(from.timestamp.unwrap().to_millis().unwrap(), time.as_millis());
    }
}
