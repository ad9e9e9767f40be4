//! The calls, each with one attempt and a deadline of ours.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
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
use kcl_aws::{Arn, Attempt, Caller, ConsumerArn, InvalidArn, StreamArn, Unsent};
use kcl_core::model::ShardId;
use kcl_core::source::{
    Arrival, FetchLimit, ShardFilter, SourceError, SourceErrorKind, StartPosition, StreamDescription,
};
use kcl_core::task::PerRuntime;
use kcl_core::time::{Clock, ClockExt as _, Timestamp};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::body::{Body, Pieces};
use crate::cbor::{self, KinesisCbor, NOT_CBOR};
use crate::convert::{self, Answer};
use crate::errors::{Failure, Request, Resource, SERIALIZATION, UNKNOWN_OPERATION};
use crate::json;
use crate::pace::{PollingSettings, RecordFormat};

/// The most records that one GetRecords may ask for.
pub(crate) const MAX_RECORDS: u32 = 10_000;

/// Longer than any call may take.
const NEVER: Duration = Duration::from_secs(3600);
/// How many pages of consumers are read at most.
const MOST_PAGES: usize = 20;

/// How requests name the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Name(String),
    Arn(StreamArn),
    /// What was given is no name, and not the ARN of a stream.
    Wrong {
        given: String,
        problem: InvalidArn,
    },
}

impl Target {
    /// Anything that begins like an ARN is one; a stream's name cannot hold a colon.
    fn new(name_or_arn: String) -> Self {
        if !Arn::is_meant(&name_or_arn) {
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
const UNDER_WAY: usize = 64;
/// How long a call for records waits for one of the others to end. They may hang, so it goes all the same then.
const TURN: Duration = Duration::from_secs(1);

/// A body of so many bytes is read without asking for room: the answer of an idle shard is smaller, and every reader holds room for it.
const SMALL_BODY: u64 = 4 * 1024;
/// A longer body is given up: an answer of Kinesis has at most 10 MiB of data, which base64, keys and names make less than twice as much.
/// Other servers of the protocol know no such limit, and bring less when asked for fewer records.
const LARGEST_BODY: u64 = 64 * 1024 * 1024;
/// A body that takes longer is given up, however steadily it comes: the iterator behind it lives for five minutes.
const LONGEST_BODY: Duration = Duration::from_secs(4 * 60);

/// One stream behind the SDK.
#[derive(Clone)]
pub(crate) struct Calls {
    /// What a runtime opens another must not use: code may block its threads.
    clients: Arc<PerRuntime<Clients>>,
    /// The server was found to speak nothing but JSON.
    only_json: Arc<AtomicBool>,
    /// The calls for records that may be under way at once, as a rule.
    turns: Arc<Semaphore>,
    target: Target,
    /// The stream's ARN, once the service told it.
    told: Arc<OnceLock<StreamArn>>,
    /// What the service told last of the stream.
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
            let connect = NEVER + Duration::from_millis(runtime);
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
            told: Arc::default(),
            description: Arc::default(),
            clients: Arc::new(PerRuntime::new(clients)),
            only_json: Arc::default(),
            turns: Arc::new(Semaphore::new(UNDER_WAY)),
            target: Target::new(name_or_arn),
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
            Target::Name(address) | Target::Wrong { given: address, .. } => address,
            Target::Arn(arn) => arn.as_str(),
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
        if let Target::Wrong { problem, .. } = &self.target {
            return Err(invalid(problem));
        }
        if self.region.is_none() {
            let message = format!(
                "the stream {} cannot be read: there is no region; {}",
                self.stream_name(),
                Unsent::NoRegion.advice()
            );
            return Err(SourceError::new(SourceErrorKind::Denied, message));
        }
        match &self.target {
            Target::Arn(arn) => arn
                .check_region(self.region.as_deref())
                .map_err(|problem| invalid(&problem)),
            Target::Name(_) | Target::Wrong { .. } => Ok(()),
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

    /// What the service told last of the stream, if it was asked.
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

    /// The ARN of the stream, if it was given or told.
    fn arn(&self) -> Option<&StreamArn> {
        match &self.target {
            Target::Arn(arn) => Some(arn),
            Target::Name(_) | Target::Wrong { .. } => self.told.get(),
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
    async fn dated_answer<T, E, F>(
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
        Ok((answer, last.date().unwrap_or_else(|| self.clock.wall())))
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
            return Err(request.of_another(&summary.stream_name));
        }
        if let Ok(arn) = summary.stream_arn.parse() {
            // A stream that is made again has the ARN of the one before.
            let _ = self.told.set(arn);
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
        self.dated_answer(request, |attempt| {
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
            .dated_answer(request, |attempt| {
                call.clone().customize().interceptor(attempt).send()
            })
            .await?;
        let iterator = made
            .shard_iterator
            .ok_or_else(|| request.incomplete("iterator"))?;
        Ok((iterator, time))
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

    /// GetRecords was answered with nothing.
    pub(crate) fn without_content(&self, shard: &ShardId) -> SourceError {
        self.request("kinesis:GetRecords", Some(shard))
            .without_content()
            .into()
    }

    async fn records_in_cbor(&self, read: Reading<'_>) -> Result<Answer, Failure> {
        let call = self
            .reader()
            .get_records()
            .shard_iterator(read.iterator)
            .set_stream_arn(self.target.arn())
            .limit(read.most);
        let call = |attempt, body| {
            let call = call.clone().customize().interceptor(attempt);
            call.interceptor(body).send()
        };
        let body = self.body(read, call, Body::cbor).await?;
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
        let call = |attempt, body| {
            let call = call.clone().customize().interceptor(attempt);
            call.interceptor(body).send()
        };
        let body = self.body(read, call, Body::json).await?;
        let body = body.ok_or_else(|| read.request.incomplete("body in JSON"))?;
        json::decode(&body).map_err(|error| Failure { code: None, error })
    }

    /// Waits for the answer and its body: for the answer as long as the deadline allows, and then as long for each piece of the body.
    ///
    /// The body is read once there is room for it. What a body takes on a slow connection says nothing about whether the service lives.
    async fn body<T, E, F>(
        &self,
        read: Reading<'_>,
        mut call: impl FnMut(Attempt, Body) -> F,
        empty: impl Fn() -> Body,
    ) -> Result<Option<Bytes>, Failure>
    where
        T: Send,
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E>>> + Send,
    {
        let request = read.request;
        let mut turn = self.turn().await;
        let mut body = empty();
        self.answer(request, |attempt| {
            body = empty();
            call(attempt, body.clone())
        })
        .await?;
        let Some(mut body) = body.take() else {
            return Ok(None);
        };
        if body.announced.is_some_and(|bytes| bytes > LARGEST_BODY) {
            return Err(request.too_large(LARGEST_BODY));
        }
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
            if body.len() as u64 > LARGEST_BODY {
                return Err(request.too_large(LARGEST_BODY));
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
        match self.arn() {
            Some(arn) => Ok(arn.as_str().to_owned()),
            None => Ok(self.describe().await?.stream_arn),
        }
    }

    pub(crate) async fn describe_consumer(&self, stream: &str, name: &str) -> Result<Registered, Failure> {
        let consumer = format!("{stream}/consumer/{name}:*");
        let request = Request {
            resource: Resource::Consumer(&consumer),
            ..self.request("kinesis:DescribeStreamConsumer", None)
        };
        let call = self.sdk().describe_stream_consumer();
        let call = call.stream_arn(stream).consumer_name(name);
        let described = self
            .answer(request, |attempt| {
                call.clone().customize().interceptor(attempt).send()
            })
            .await?;
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
        let registered = self
            .answer(request, |attempt| {
                call.clone().customize().interceptor(attempt).send()
            })
            .await?;
        let consumer = registered
            .consumer
            .ok_or_else(|| request.incomplete("consumer"))?;
        Ok(Registered {
            arn: consumer.consumer_arn,
            status: consumer.consumer_status,
        })
    }

    /// The names of the consumers that the stream has.
    pub(crate) async fn consumers(&self, stream: &str) -> Result<Vec<String>, Failure> {
        let request = self.request("kinesis:ListStreamConsumers", None);
        let mut names = Vec::new();
        let mut next = None;
        // A stream has at most fifty consumers, and a page a hundred.
        for _ in 0..MOST_PAGES {
            let call = self.sdk().list_stream_consumers();
            let call = call.stream_arn(stream).set_next_token(next);
            let page = self
                .answer(request, |attempt| {
                    call.clone().customize().interceptor(attempt).send()
                })
                .await?;
            let consumers = page.consumers.into_iter().flatten();
            names.extend(consumers.map(|consumer| consumer.consumer_name));
            next = page.next_token;
            if next.is_none() {
                break;
            }
        }
        Ok(names)
    }

    pub(crate) async fn deregister_consumer(&self, stream: &str, name: &str) -> Result<(), Failure> {
        let consumer = format!("{stream}/consumer/{name}:*");
        let request = Request {
            resource: Resource::Consumer(&consumer),
            ..self.request("kinesis:DeregisterStreamConsumer", None)
        };
        let call = self.sdk().deregister_stream_consumer();
        let call = call.stream_arn(stream).consumer_name(name);
        self.answer(request, |attempt| {
            call.clone().customize().interceptor(attempt).send()
        })
        .await?;
        Ok(())
    }

    pub(crate) fn subscription_request<'a>(&'a self, shard: &'a ShardId) -> Request<'a> {
        Request {
            resource: Resource::Consumer("the consumer"),
            ..self.request("kinesis:SubscribeToShard", Some(shard))
        }
    }

    /// Subscribes with a client of its own. Returns what the subscription brings, and the service's time.
    pub(crate) async fn subscribe(
        &self,
        client: &Client,
        consumer: &str,
        shard: &ShardId,
        start: &StartPosition,
    ) -> Result<(Events, Timestamp), Failure> {
        let request = Request {
            resource: Resource::Consumer(consumer),
            ..self.subscription_request(shard)
        };
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
        let (subscribed, time) = self
            .dated_answer(request, |attempt| {
                call.clone().customize().interceptor(attempt).send()
            })
            .await?;
        Ok((subscribed.event_stream, time))
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
        let wrong = Target::new("arn:odd".to_owned());
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
