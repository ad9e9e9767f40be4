//! The calls, each with one attempt and a deadline of ours.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::list_shards::ListShardsOutput;
use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::primitives::event_stream::EventReceiver;
use aws_sdk_kinesis::types::error::SubscribeToShardEventStreamError;
use aws_sdk_kinesis::types::{
    self, ConsumerStatus, ShardFilterType, ShardIteratorType, StartingPosition, StreamDescriptionSummary,
    SubscribeToShardEventStream,
};
use aws_sdk_kinesis::{Client, Config};
use bytes::Bytes;
use kcl_core::model::ShardId;
use kcl_core::source::{Arrival, FetchLimit, ShardFilter, SourceErrorKind, StartPosition};
use kcl_core::task::PerRuntime;
use kcl_core::time::{Clock, ClockExt as _, Timestamp};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::body::{Body, Pieces};
use crate::cbor::{self, KinesisCbor, NOT_CBOR};
use crate::convert::Answer;
use crate::date::AnswerDate;
use crate::errors::{Failure, Request, SERIALIZATION, UNKNOWN_OPERATION};
use crate::json;
use crate::pace::{PollingSettings, RecordFormat};

/// The most records that one GetRecords may ask for.
pub(crate) const MAX_RECORDS: u32 = 10_000;

/// Longer than any call may take.
const NEVER: Duration = Duration::from_secs(3600);

/// How requests name the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Name(String),
    Arn { arn: String, name: String },
}

impl Target {
    /// Anything that begins like an ARN is one; a stream's name cannot hold a colon.
    fn new(name_or_arn: String) -> Self {
        if !name_or_arn.starts_with("arn:") {
            return Self::Name(name_or_arn);
        }
        let name = name_or_arn.rsplit_once('/').map_or("", |(_, name)| name);
        let name = if name.is_empty() { &name_or_arn } else { name }.to_owned();
        Self::Arn {
            arn: name_or_arn,
            name,
        }
    }

    fn bare_name(&self) -> &str {
        match self {
            Self::Name(name) | Self::Arn { name, .. } => name,
        }
    }

    fn name(&self) -> Option<String> {
        match self {
            Self::Name(name) => Some(name.clone()),
            Self::Arn { .. } => None,
        }
    }

    fn arn(&self) -> Option<String> {
        match self {
            Self::Name(_) => None,
            Self::Arn { arn, .. } => Some(arn.clone()),
        }
    }
}

/// How many calls for records are under way at once, as a rule. Each has a connection, and a connection that has brought an answer keeps a
/// buffer of some hundred KiB for the next one.
const UNDER_WAY: usize = 64;
/// How long a call for records waits for one of the others to end. They may hang, so it goes all the same then.
const TURN: Duration = Duration::from_secs(1);

/// A body of so many bytes is read without asking for room: the answer of an idle shard is smaller, and every reader holds room for it.
const SMALL_BODY: u64 = 4 * 1024;
/// A body that takes longer is given up, however steadily it comes: the iterator behind it lives for five minutes.
const LONGEST_BODY: Duration = Duration::from_secs(4 * 60);

/// One stream behind the SDK.
#[derive(Clone)]
pub(crate) struct Calls {
    /// What a runtime opens another must not use: code may block its threads.
    clients: Arc<PerRuntime<Clients>>,
    config: Config,
    /// The server was found to speak nothing but JSON.
    only_json: Arc<AtomicBool>,
    /// The calls for records that may be under way at once, as a rule.
    turns: Arc<Semaphore>,
    target: Target,
    region: String,
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
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls")
            .field("target", &self.target)
            .field("region", &self.region)
            .field("polling", &self.polling)
            .finish_non_exhaustive()
    }
}

impl Calls {
    /// Takes over the client but for its retries and timeouts.
    ///
    /// A retry inside the SDK would hide throttles from the pace, and read a shard faster than the pace says. The environment can
    /// neither bring the retries back nor stretch the deadline.
    pub(crate) fn new(sdk: &Client, name_or_arn: String, clock: Arc<dyn Clock>) -> Self {
        let config = sdk.config().to_builder();
        let config = config
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .build();
        let region = config.region();
        let base = config.clone();
        let clients = move |runtime: u64| {
            // An HTTP client that was given has a pool of connections for each connect timeout. Ours never fires.
            let connect = NEVER + Duration::from_millis(runtime);
            let timeouts = TimeoutConfig::disabled().to_builder().connect_timeout(connect);
            let config = base.to_builder().timeout_config(timeouts.build()).build();
            let reader = config.to_builder().protocol(KinesisCbor::new()).build();
            Clients {
                sdk: Client::from_conf(config),
                reader: Client::from_conf(reader),
            }
        };
        Self {
            region: region.map_or_else(|| "no region".to_owned(), ToString::to_string),
            clients: Arc::new(PerRuntime::new(clients)),
            config,
            only_json: Arc::default(),
            turns: Arc::new(Semaphore::new(UNDER_WAY)),
            target: Target::new(name_or_arn),
            clock,
            polling: PollingSettings::default(),
        }
    }

    /// The configuration of the client: without retries, without timeouts.
    pub(crate) fn config(&self) -> Config {
        self.config.clone()
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
            Target::Name(address) | Target::Arn { arn: address, .. } => address,
        }
    }

    fn request<'a>(&'a self, action: &'static str, shard: Option<&'a ShardId>) -> Request<'a> {
        Request {
            action,
            stream: self.stream_name(),
            shard: shard.map(ShardId::as_str),
            region: &self.region,
        }
    }

    /// Waits for the answer, as long as the deadline allows.
    async fn answer<T, E>(
        &self,
        request: Request<'_>,
        call: impl Future<Output = Result<T, SdkError<E>>> + Send,
    ) -> Result<T, Failure>
    where
        T: Send,
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let deadline = self.polling.request_deadline;
        match self.clock.timeout(deadline, Box::pin(call)).await {
            Ok(answer) => answer.map_err(|error| request.failed(error)),
            Err(_) => Err(request.no_answer(deadline)),
        }
    }

    /// The service's time of an answer, or this host's where the answer has none.
    fn time_of(&self, date: &AnswerDate) -> Timestamp {
        date.get().unwrap_or_else(|| self.clock.wall())
    }

    pub(crate) async fn describe(&self) -> Result<StreamDescriptionSummary, Failure> {
        let request = self.request("kinesis:DescribeStreamSummary", None);
        let call = self
            .sdk()
            .describe_stream_summary()
            .set_stream_name(self.target.name())
            .set_stream_arn(self.target.arn());
        let described = self.answer(request, call.send()).await?;
        described
            .stream_description_summary
            .ok_or_else(|| request.incomplete("summary"))
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
        let date = AnswerDate::default();
        let call = call.customize().interceptor(date.clone());
        let listed = self.answer(request, call.send()).await?;
        Ok((listed, self.time_of(&date)))
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
        let date = AnswerDate::default();
        let call = call.customize().interceptor(date.clone());
        let made = self.answer(request, call.send()).await?;
        let iterator = made
            .shard_iterator
            .ok_or_else(|| request.incomplete("iterator"))?;
        Ok((iterator, self.time_of(&date)))
    }

    /// Reads records: in CBOR, and in JSON if that is wished or the server speaks nothing else.
    pub(crate) async fn records(
        &self,
        shard: &ShardId,
        iterator: &str,
        limit: FetchLimit,
        arrival: &dyn Arrival,
    ) -> Result<Answer, Failure> {
        let most = i32::try_from(limit.records.clamp(1, MAX_RECORDS)).unwrap_or(i32::MAX);
        let read = Reading {
            request: self.request("kinesis:GetRecords", Some(shard)),
            iterator,
            most,
            arrival,
        };
        if self.polling.format == RecordFormat::Json || self.only_json.load(Ordering::Relaxed) {
            return self.records_in_json(read).await;
        }
        let refused = match self.records_in_cbor(read).await {
            Err(failure) if refuses_cbor(&failure) => failure,
            answer => return answer,
        };
        // Something in between may have answered, or the server does not speak CBOR: then JSON succeeds.
        let answer = self.records_in_json(read).await?;
        if !self.only_json.swap(true, Ordering::Relaxed) {
            tracing::warn!(stream = self.stream_name(), error = %refused.error, "the server does not answer in CBOR; records are read in JSON from now on");
        }
        Ok(answer)
    }

    async fn records_in_cbor(&self, read: Reading<'_>) -> Result<Answer, Failure> {
        let call = self
            .reader()
            .get_records()
            .shard_iterator(read.iterator)
            .set_stream_arn(self.target.arn())
            .limit(read.most);
        let body = Body::cbor();
        let call = call.customize().interceptor(body.clone());
        let body = self.body(read, call.send(), &body).await?;
        let body = body.ok_or_else(|| read.request.not_cbor())?;
        cbor::decode(&body).map_err(|error| Failure { code: None, error })
    }

    async fn records_in_json(&self, read: Reading<'_>) -> Result<Answer, Failure> {
        let call = self
            .sdk()
            .get_records()
            .shard_iterator(read.iterator)
            .set_stream_arn(self.target.arn())
            .limit(read.most);
        let body = Body::json();
        let call = call.customize().interceptor(body.clone());
        let body = self.body(read, call.send(), &body).await?;
        let body = body.ok_or_else(|| read.request.incomplete("body in JSON"))?;
        json::decode(&body).map_err(|error| Failure { code: None, error })
    }

    /// Waits for the answer and its body: for the answer as long as the deadline allows, and then as long for each piece of the body.
    ///
    /// The body is read once there is room for it. What a body takes on a slow connection says nothing about whether the service lives.
    async fn body<T, E>(
        &self,
        read: Reading<'_>,
        call: impl Future<Output = Result<T, SdkError<E>>> + Send,
        body: &Body,
    ) -> Result<Option<Bytes>, Failure>
    where
        T: Send,
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let request = read.request;
        let mut turn = self.turn().await;
        self.answer(request, call).await?;
        let Some(mut body) = body.take() else {
            return Ok(None);
        };
        if let Some(bytes) = body.announced.filter(|bytes| *bytes > SMALL_BODY) {
            let mut has_room = read.arrival.announced(bytes, None);
            tokio::select! {
                biased;
                () = &mut has_room => {}
                // The others need not wait along.
                () = std::future::ready(()) => {
                    drop(turn.take());
                    has_room.await;
                    turn = self.turn().await;
                }
            }
        }
        let (silence, begun) = (self.polling.request_deadline, self.clock.now());
        let too_slow = |body: &Pieces, limit| request.too_slow(body.len(), body.announced, limit);
        loop {
            match self.clock.timeout(silence, body.read()).await {
                Ok(Ok(true)) => read.arrival.progressed(),
                Ok(Ok(false)) => break,
                Ok(Err(error)) => return Err(request.cut_off(error)),
                Err(_) => return Err(too_slow(&body, silence)),
            }
            if self.clock.now().saturating_since(begun) > LONGEST_BODY {
                return Err(too_slow(&body, LONGEST_BODY));
            }
        }
        drop(turn);
        Ok(Some(body.whole()))
    }

    /// Waits until few enough calls for records are under way, but not for long.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        let turn = self.clock.timeout(TURN, self.turns.acquire()).await;
        turn.ok().and_then(Result::ok)
    }
}

/// One read of a shard.
#[derive(Clone, Copy)]
struct Reading<'a> {
    request: Request<'a>,
    iterator: &'a str,
    most: i32,
    arrival: &'a dyn Arrival,
}

/// What an open subscription brings.
pub(crate) type Events = EventReceiver<SubscribeToShardEventStream, SubscribeToShardEventStreamError>;

/// A consumer as the service knows it.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) arn: String,
    pub(crate) status: ConsumerStatus,
}

/// The calls of enhanced fan-out.
impl Calls {
    /// The ARN of the stream: the one that was given, or the one that the service tells.
    pub(crate) async fn stream_arn(&self) -> Result<String, Failure> {
        match self.target.arn() {
            Some(arn) => Ok(arn),
            None => Ok(self.describe().await?.stream_arn),
        }
    }

    pub(crate) async fn describe_consumer(&self, stream: &str, name: &str) -> Result<Registered, Failure> {
        let request = self.request("kinesis:DescribeStreamConsumer", None);
        let call = self.sdk().describe_stream_consumer();
        let call = call.stream_arn(stream).consumer_name(name);
        let described = self.answer(request, call.send()).await?;
        let consumer = described
            .consumer_description
            .ok_or_else(|| request.incomplete("consumer"))?;
        Ok(Registered {
            arn: consumer.consumer_arn,
            status: consumer.consumer_status,
        })
    }

    pub(crate) async fn register_consumer(&self, stream: &str, name: &str) -> Result<Registered, Failure> {
        let request = self.request("kinesis:RegisterStreamConsumer", None);
        let call = self.sdk().register_stream_consumer();
        let call = call.stream_arn(stream).consumer_name(name);
        let registered = self.answer(request, call.send()).await?;
        let consumer = registered
            .consumer
            .ok_or_else(|| request.incomplete("consumer"))?;
        Ok(Registered {
            arn: consumer.consumer_arn,
            status: consumer.consumer_status,
        })
    }

    pub(crate) async fn deregister_consumer(&self, stream: &str, name: &str) -> Result<(), Failure> {
        let request = self.request("kinesis:DeregisterStreamConsumer", None);
        let call = self.sdk().deregister_stream_consumer();
        let call = call.stream_arn(stream).consumer_name(name);
        self.answer(request, call.send()).await?;
        Ok(())
    }

    pub(crate) fn subscription_request<'a>(&'a self, shard: &'a ShardId) -> Request<'a> {
        self.request("kinesis:SubscribeToShard", Some(shard))
    }

    /// Subscribes with a client of its own. Returns what the subscription brings, and the service's time.
    pub(crate) async fn subscribe(
        &self,
        client: &Client,
        consumer: &str,
        shard: &ShardId,
        start: &StartPosition,
    ) -> Result<(Events, Timestamp), Failure> {
        let request = self.subscription_request(shard);
        let at = |kind| StartingPosition::builder().r#type(kind);
        let position = match start {
            StartPosition::TrimHorizon => at(ShardIteratorType::TrimHorizon),
            StartPosition::Latest => at(ShardIteratorType::Latest),
            StartPosition::AtTimestamp(time) => {
                at(ShardIteratorType::AtTimestamp).timestamp(DateTime::from_millis(time.as_millis()))
            }
            StartPosition::AtSequence(number) => {
                at(ShardIteratorType::AtSequenceNumber).sequence_number(number.as_str())
            }
            StartPosition::AfterSequence(number) => {
                at(ShardIteratorType::AfterSequenceNumber).sequence_number(number.as_str())
            }
        };
        let call = client
            .subscribe_to_shard()
            .consumer_arn(consumer)
            .shard_id(shard.as_str())
            .set_starting_position(position.build().ok());
        let date = AnswerDate::default();
        let call = call.customize().interceptor(date.clone());
        let subscribed = self.answer(request, call.send()).await?;
        Ok((subscribed.event_stream, self.time_of(&date)))
    }
}

/// Whether a failure may mean that the server does not speak CBOR. That it is busy, or refuses the reader, says nothing about that: a
/// balancer in front of the service says so in HTML.
fn refuses_cbor(failure: &Failure) -> bool {
    failure.error.kind() == SourceErrorKind::Invalid
        && [NOT_CBOR, SERIALIZATION, UNKNOWN_OPERATION]
            .into_iter()
            .any(|code| failure.has_code(code))
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
        let target = Target::new(arn.to_owned());
        assert_eq!(
            (target.name(), target.arn(), target.bare_name()),
            (None, Some(arn.to_owned()), "orders")
        );
        let target = Target::new("orders".to_owned());
        assert_eq!(
            (target.name(), target.arn(), target.bare_name()),
            (Some("orders".to_owned()), None, "orders")
        );
        assert_eq!(Target::new("arn:odd".to_owned()).bare_name(), "arn:odd");
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
