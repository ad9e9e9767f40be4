//! Dead letters as records of a stream.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_kinesis::Client;
use kcl_core::clock::{Clock, TokioClock};
use kcl_core::dead_letter::{DeadLetter, DeadLetterError, DeadLetterSink};
use kcl_core::source::{SourceError, SourceErrorKind};
use kcl_dead_letters::encode;

use crate::client::KinesisClient;

/// The most bytes of payload and partition key in a record, unless the `MaxRecordSizeInKiB` of the stream says more: up to 10 MiB
/// ([quotas](https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html)).
const USUAL_LIMIT: usize = 1024 * 1024;

/// Sends dead letters to a stream of Kinesis Data Streams: one record each, with the line of JSON that
/// [`kcl_dead_letters`] documents as its payload.
///
/// The partition key is the shard that the letter came from, so the letters of a shard stay in the order in which they were set aside. A line
/// ends with a line feed, so a delivery stream to S3 makes files that [`read_folder`](kcl_dead_letters::read_folder) reads;
/// [`decode`](kcl_dead_letters::decode) reads the payload of one record.
///
/// A line is a third longer than the payload of its letter, and about a kilobyte more. Give the stream a `MaxRecordSizeInKiB` that has room for
/// the largest record of yours: a letter that it refuses holds its shard until the stream takes it.
///
/// It takes `kinesis:PutRecord` on the stream, and `kms:GenerateDataKey` on the key of an encrypted one.
///
/// ```
/// use aws_config::{BehaviorVersion, Region, SdkConfig};
/// use kcl_kinesis::DeadLetterStream;
///
/// // Usually from `aws_config::load_defaults(BehaviorVersion::latest()).await`.
/// let config = SdkConfig::builder()
///     .behavior_version(BehaviorVersion::latest())
///     .region(Region::new("eu-west-1"))
///     .build();
/// let sink = DeadLetterStream::new(&config, "orders-dead-letters");
/// ```
#[derive(Clone)]
pub struct DeadLetterStream {
    calls: KinesisClient,
}

impl DeadLetterStream {
    /// The stream of this name, or with this ARN. Nothing is sent yet, and the stream is not created.
    ///
    /// Endpoint, region and credentials come from the configuration; its retries and timeouts are not used: the worker sends a letter again.
    ///
    /// # Panics
    ///
    /// As `aws_sdk_kinesis::Client::new` does, when the configuration has no behaviour version.
    pub fn new(config: &SdkConfig, name_or_arn: impl Into<String>) -> Self {
        Self::from_client(&Client::new(config), name_or_arn)
    }

    /// The stream of this name, or with this ARN, through a client of yours, which is copied with its retries and timeouts switched off.
    pub fn from_client(client: &Client, name_or_arn: impl Into<String>) -> Self {
        Self {
            calls: KinesisClient::new(client, name_or_arn.into(), Arc::new(TokioClock::new())),
        }
    }

    /// The same stream with another clock, by which the deadline of a call, 10 s, is measured.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.calls.clock = clock;
        self
    }

    /// Refuses letters of the stream itself: each would come back as a record that fails, for ever.
    fn check_origin(&self, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        if !self.calls.may_be(&letter.stream, letter.stream_arn.as_deref()) {
            return Ok(());
        }
        let name = self.calls.stream_name();
        Err(DeadLetterError::new(format!(
            "the dead letters of the stream {name} would go to {name} itself, and fail there again: give DeadLetterStream another stream, \
             or the ARN where another account has one of the same name"
        )))
    }
}

impl fmt::Debug for DeadLetterStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetterStream")
            .field("calls", &self.calls)
            .finish()
    }
}

#[async_trait]
impl DeadLetterSink for DeadLetterStream {
    async fn send(&self, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        let failed = |error: SourceError, hint: &str| DeadLetterError::new(format!("{error}{hint}"));
        self.calls.check().map_err(|error| failed(error, ""))?;
        self.check_origin(letter)?;
        let line = encode(letter);
        let bytes = line.len() + letter.shard.as_str().len();
        let put = self.calls.put(letter.shard.as_str(), line).await;
        put.map_err(|failure| {
            let error = SourceError::from(failure);
            let is_large = error.kind() == SourceErrorKind::Invalid && bytes > USUAL_LIMIT;
            let hint = match is_large {
                true => format!(
                    "; the letter has {bytes} bytes: raise MaxRecordSizeInKiB of the stream, or write dead letters to files"
                ),
                false => String::new(),
            };
            failed(error, &hint)
        })
    }
}
