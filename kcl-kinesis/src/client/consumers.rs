//! The calls of enhanced fan-out.

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::primitives::event_stream::EventReceiver;
use aws_sdk_kinesis::types::error::SubscribeToShardEventStreamError;
use aws_sdk_kinesis::types::{
    ConsumerStatus, ShardIteratorType, StartingPosition, SubscribeToShardEventStream,
};
use kcl_core::source::StartPosition;
use kcl_core::types::{ShardId, Timestamp};

use crate::client::KinesisClient;
use crate::errors::{Failure, Request, Resource};

/// How many pages of consumers are read at most.
const MAX_PAGES: usize = 20;

/// The events of an open subscription.
pub(crate) type Events = EventReceiver<SubscribeToShardEventStream, SubscribeToShardEventStreamError>;

/// A consumer as the service knows it.
#[derive(Debug)]
pub(crate) struct RegisteredConsumer {
    pub(crate) arn: String,
    pub(crate) status: ConsumerStatus,
}

impl KinesisClient {
    /// The ARN of the stream: the one that was given, or the one that the service sends.
    pub(crate) async fn stream_arn(&self) -> Result<String, Failure> {
        match self.arn() {
            Some(arn) => Ok(arn.as_str().to_owned()),
            None => Ok(self.describe().await?.stream_arn),
        }
    }

    pub(crate) async fn describe_consumer(
        &self,
        stream: &str,
        name: &str,
    ) -> Result<RegisteredConsumer, Failure> {
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
        Ok(RegisteredConsumer {
            arn: consumer.consumer_arn,
            status: consumer.consumer_status,
        })
    }

    pub(crate) async fn register_consumer(
        &self,
        stream: &str,
        name: &str,
    ) -> Result<RegisteredConsumer, Failure> {
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
        Ok(RegisteredConsumer {
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
        for _ in 0..MAX_PAGES {
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
            .answer_with_service_time(request, |attempt| {
                call.clone().customize().interceptor(attempt).send()
            })
            .await?;
        Ok((subscribed.event_stream, time))
    }
}
