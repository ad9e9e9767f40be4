//! The way to AWS: configuration as in every AWS tool, and calls with a deadline.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use kcl_aws::{CommonError, TransportError, service_error_text};
use kcl_core::clock::{Clock, ClockExt as _, TokioClock};
use kcl_core::types::{Record, Timestamp};
use kcl_kinesis::aws_sdk_kinesis::primitives::Blob;
use kcl_kinesis::{KinesisStream, aws_sdk_kinesis};
use kcl_lease_dynamo::aws_sdk_dynamodb::config::http::HttpResponse;
use kcl_lease_dynamo::aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use kcl_lease_dynamo::{DynamoLeaseStore, aws_sdk_dynamodb};

use crate::arguments::CommonOptions;
use crate::failure::{Exit, Failure};

/// The partition key of a record that has none: an aggregated one that could not be unpacked.
const NO_KEY: &str = "-";

/// The AWS configuration of one run of the command.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    sdk: SdkConfig,
    pub(crate) clock: Arc<TokioClock>,
    pub(crate) timeout: Duration,
    /// Whether the endpoints are those of AWS.
    pub(crate) is_aws: bool,
}

impl Connection {
    /// Finds region, credentials and endpoints.
    pub(crate) async fn open(options: &CommonOptions) -> Self {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(region) = &options.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(profile) = &options.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(url) = &options.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        let is_given = |name: &str| std::env::var_os(name).is_some();
        let names = [
            "AWS_ENDPOINT_URL",
            "AWS_ENDPOINT_URL_DYNAMODB",
            "AWS_ENDPOINT_URL_KINESIS",
        ];
        Self {
            sdk: loader.load().await,
            clock: Arc::new(TokioClock::new()),
            timeout: options.timeout,
            is_aws: options.endpoint_url.is_none() && !names.into_iter().any(is_given),
        }
    }

    pub(crate) fn region(&self) -> Option<&str> {
        self.sdk.region().map(AsRef::as_ref)
    }

    pub(crate) fn store(&self, table: &str) -> DynamoLeaseStore {
        DynamoLeaseStore::new(&self.sdk, table)
            .with_clock(self.clock.clone())
            .request_timeout(self.timeout)
    }

    pub(crate) fn stream(&self, name_or_arn: &str) -> KinesisStream {
        KinesisStream::new(&self.sdk, name_or_arn).with_clock(self.clock.clone())
    }

    pub(crate) fn dynamo(&self) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::new(&self.sdk)
    }

    /// The same in another region.
    pub(crate) fn dynamo_in(&self, region: &'static str) -> aws_sdk_dynamodb::Client {
        let config = aws_sdk_dynamodb::config::Builder::from(&self.sdk).region(Region::new(region));
        aws_sdk_dynamodb::Client::from_conf(config.build())
    }

    pub(crate) fn kinesis(&self) -> aws_sdk_kinesis::Client {
        aws_sdk_kinesis::Client::new(&self.sdk)
    }

    /// Puts a record into a stream, by name or ARN. Returns the shard and the sequence number that it got.
    pub(crate) async fn put(
        &self,
        stream: &str,
        partition_key: &str,
        explicit_hash_key: Option<u128>,
        payload: Vec<u8>,
    ) -> Result<(String, String), Failure> {
        let (name, arn) = match kcl_aws::Arn::looks_like_arn(stream) {
            true => (None, Some(stream.to_owned())),
            false => (Some(stream.to_owned()), None),
        };
        let call = self.kinesis().put_record().partition_key(partition_key);
        let call = call.set_stream_name(name).set_stream_arn(arn);
        let call = call.set_explicit_hash_key(explicit_hash_key.map(|key| key.to_string()));
        let call = call.data(Blob::new(payload));
        let request = format!("kinesis:PutRecord on the stream {stream}");
        let answer = self.call(&request, call.send()).await?;
        Ok((answer.shard_id, answer.sequence_number))
    }

    /// Puts a record again that was read: with its partition key and its explicit hash key, where it has them.
    pub(crate) async fn put_again(&self, stream: &str, record: &Record) -> Result<(String, String), Failure> {
        let key = record.partition_key().unwrap_or(NO_KEY);
        self.put(stream, key, record.explicit_hash_key(), record.data().to_vec())
            .await
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.wall()
    }

    /// Makes a call within the deadline.
    pub(crate) async fn call<T, E>(
        &self,
        request: &str,
        call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send,
    ) -> Result<T, Failure>
    where
        T: Send,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let answer = self.attempt(request, call).await?;
        answer.map_err(|error| failed(request, &error))
    }

    /// Makes a call within the deadline, of which an error of the service is an answer.
    pub(crate) async fn attempt<T, E>(
        &self,
        request: &str,
        call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send,
    ) -> Result<Result<T, SdkError<E, HttpResponse>>, Failure>
    where
        T: Send,
        E: Send,
    {
        // The state of a call is large; on the heap it is out of the way of the caller's.
        let answer = self.clock.timeout(self.timeout, Box::pin(call)).await;
        answer.map_err(|_| {
            let message = format!(
                "{request}: no answer within {:?}; is the endpoint reachable?",
                self.timeout
            );
            Failure::new(Exit::NoAnswer, message)
        })
    }
}

/// The failure of a call, without what must not be shown.
pub(crate) fn failed<E>(request: &str, error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let SdkError::ServiceError(context) = error else {
        let (class, text) = TransportError::classify(error);
        let exit = match class {
            TransportError::NotSent(Some(_)) => Exit::NoAccess,
            TransportError::NotSent(None) => Exit::Usage,
            TransportError::Refused | TransportError::Unreachable => Exit::NoAnswer,
        };
        return Failure::new(exit, format!("{request}: {text}"));
    };
    let code = context.err().code();
    let known = CommonError::of(code);
    let exit = match known {
        Some(
            CommonError::NotGranted
            | CommonError::Credentials
            | CommonError::Expired
            | CommonError::Signature
            | CommonError::NotActivated,
        ) => Exit::NoAccess,
        Some(CommonError::Invalid) => Exit::Usage,
        _ if code == Some("ResourceNotFoundException") => Exit::NotFound,
        _ => Exit::NoAnswer,
    };
    let advice = match known {
        Some(CommonError::NotGranted) => format!("grant {request}"),
        known => known.map_or("", CommonError::advice).to_owned(),
    };
    let status = context.raw().status().as_u16();
    Failure::new(exit, service_error_text(&request, context.err(), status, &advice))
}
