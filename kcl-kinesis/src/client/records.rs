//! GetRecords: the answer, and its body as it comes.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use bytes::Bytes;
use kcl_aws::Attempt;
use kcl_core::clock::ClockExt as _;
use kcl_core::source::{Arrival, FetchLimit, SourceError, SourceErrorKind};
use kcl_core::types::ShardId;
use tokio::sync::SemaphorePermit;

use crate::cbor::{self, NOT_CBOR};
use crate::client::KinesisClient;
use crate::convert::RecordPage;
use crate::errors::{Failure, Request, SERIALIZATION, UNKNOWN_OPERATION};
use crate::json;
use crate::pace::RecordFormat;
use crate::raw_body::{BodyReader, RawBody};

/// The most records that one GetRecords may ask for.
pub(crate) const MAX_RECORDS: u32 = 10_000;

/// How long a call for records waits for one of the others to end. They may hang, so it goes ahead then.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(1);

/// A body of so many bytes is read without asking for room: the answer of an idle shard is smaller, and every reader holds room for it.
const SMALL_BODY_BYTES: u64 = 4 * 1024;
/// A longer body is given up: an answer of Kinesis has at most 10 MiB of data, which base64, keys and names make less than twice as much.
/// Other servers of the protocol know no such limit, and bring less when asked for fewer records.
const MAX_BODY_BYTES: u64 = 64 * 1024 * 1024;
/// A body that takes longer is given up, however steadily it comes: the iterator behind it lives for five minutes.
const MAX_BODY_TIME: Duration = Duration::from_secs(4 * 60);

/// One read of a shard.
#[derive(Clone, Copy)]
struct ReadRequest<'a> {
    request: Request<'a>,
    iterator: &'a str,
    limit: i32,
    arrival: &'a dyn Arrival,
}

impl KinesisClient {
    /// Reads records: in CBOR, and in JSON if the settings ask for it or the server speaks nothing else.
    pub(crate) async fn records(
        &self,
        shard: &ShardId,
        iterator: &str,
        limit: FetchLimit,
        arrival: &dyn Arrival,
    ) -> Result<RecordPage, Failure> {
        let limit = i32::try_from(limit.records.clamp(1, MAX_RECORDS)).unwrap_or(i32::MAX);
        let read = ReadRequest {
            request: self.request("kinesis:GetRecords", Some(shard)),
            iterator,
            limit,
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

    async fn records_in_cbor(&self, read: ReadRequest<'_>) -> Result<RecordPage, Failure> {
        let call = self
            .reader()
            .get_records()
            .shard_iterator(read.iterator)
            .set_stream_arn(self.target.arn())
            .limit(read.limit);
        let call = |attempt, body| {
            let call = call.clone().customize().interceptor(attempt);
            call.interceptor(body).send()
        };
        let body = self.body(read, call, RawBody::cbor).await?;
        let body = body.ok_or_else(|| read.request.not_cbor())?;
        cbor::decode(&body).map_err(|error| Failure { code: None, error })
    }

    async fn records_in_json(&self, read: ReadRequest<'_>) -> Result<RecordPage, Failure> {
        let call = self
            .sdk()
            .get_records()
            .shard_iterator(read.iterator)
            .set_stream_arn(self.target.arn())
            .limit(read.limit);
        let call = |attempt, body| {
            let call = call.clone().customize().interceptor(attempt);
            call.interceptor(body).send()
        };
        let body = self.body(read, call, RawBody::json).await?;
        let body = body.ok_or_else(|| read.request.incomplete("body in JSON"))?;
        json::decode(&body).map_err(|error| Failure { code: None, error })
    }

    /// Waits for the answer and its body: for the answer as long as the deadline allows, and then as long for each piece of the body.
    ///
    /// The body is read once there is room for it. The time of a body on a slow connection says nothing about whether the service lives.
    async fn body<T, E, F>(
        &self,
        read: ReadRequest<'_>,
        mut call: impl FnMut(Attempt, RawBody) -> F,
        empty: impl Fn() -> RawBody,
    ) -> Result<Option<Bytes>, Failure>
    where
        T: Send,
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E>>> + Send,
    {
        let request = read.request;
        let mut permit = self.read_permit().await;
        let mut body = empty();
        self.answer(request, |attempt| {
            body = empty();
            call(attempt, body.clone())
        })
        .await?;
        let Some(mut body) = body.reader() else {
            return Ok(None);
        };
        if body.announced.is_some_and(|bytes| bytes > MAX_BODY_BYTES) {
            return Err(request.too_large(MAX_BODY_BYTES));
        }
        if let Some(bytes) = body.announced.filter(|bytes| *bytes > SMALL_BODY_BYTES) {
            let mut has_room = read.arrival.announced(bytes, None);
            tokio::select! {
                biased;
                () = &mut has_room => {}
                // The others need not wait along.
                () = std::future::ready(()) => {
                    drop(permit.take());
                    has_room.await;
                    permit = self.read_permit().await;
                }
            }
        }
        let (silence, begun) = (self.polling.request_deadline, self.clock.now());
        let too_slow = |body: &BodyReader, limit| request.too_slow(body.len(), body.announced, limit);
        loop {
            match self.clock.timeout(silence, body.read()).await {
                Ok(Ok(true)) => read.arrival.progressed(),
                Ok(Ok(false)) => break,
                Ok(Err(error)) => return Err(request.cut_off(error)),
                Err(_) => return Err(too_slow(&body, silence)),
            }
            if body.len() as u64 > MAX_BODY_BYTES {
                return Err(request.too_large(MAX_BODY_BYTES));
            }
            if self.clock.now().saturating_since(begun) > MAX_BODY_TIME {
                return Err(too_slow(&body, MAX_BODY_TIME));
            }
        }
        drop(permit);
        Ok(Some(body.into_bytes()))
    }

    /// Waits until few enough calls for records are under way, but not for long.
    async fn read_permit(&self) -> Option<SemaphorePermit<'_>> {
        let permit = self
            .clock
            .timeout(PERMIT_TIMEOUT, self.read_permits.acquire())
            .await;
        permit.ok().and_then(Result::ok)
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
