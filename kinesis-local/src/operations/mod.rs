//! The operations: from a request to an answer, at one moment.

mod account;
mod consumers;
mod listing;
mod policies;
pub(super) mod reading;
mod resharding;
mod settings;
mod streams;
mod switches;
mod tags;
mod writing;

use kcl_core::types::{ShardId, Timestamp};

pub(super) use consumers::{Opened, Source};
use settings::Direction;

use super::Operation;
use super::error::ServiceError;
use super::shared::Shared;
use super::token::ShardIterator;
use super::value::Map;

/// The outcome of a request.
#[derive(Debug)]
pub(super) enum Outcome {
    Answer(Map),
    Subscription(Opened),
}

/// Does what the request asks for.
pub(super) fn perform(shared: &Shared, operation: Operation, request: &Map) -> Result<Outcome, ServiceError> {
    let now = shared.clock.now();
    shared.streams().settle(now);
    shared.admit(operation, request, now)?;
    let answer = match operation {
        Operation::CreateStream => streams::create(shared, request, now),
        Operation::DeleteStream => streams::delete(shared, request, now),
        Operation::DescribeStream => streams::describe(shared, request, now),
        Operation::DescribeStreamSummary => streams::summary(shared, request, now),
        Operation::ListStreams => streams::list(shared, request, now),
        Operation::ListShards => listing::list_shards(shared, request, now),
        Operation::SplitShard => resharding::split(shared, request, now),
        Operation::MergeShards => resharding::merge(shared, request, now),
        Operation::PutRecord => writing::put_record(shared, request, now),
        Operation::PutRecords => writing::put_records(shared, request, now),
        Operation::GetShardIterator => reading::get_shard_iterator(shared, request, now),
        Operation::GetRecords => reading::get_records(shared, request, now),
        Operation::UpdateShardCount => resharding::update_shard_count(shared, request, now),
        Operation::IncreaseStreamRetentionPeriod => {
            settings::retention(shared, request, Direction::Increase, now)
        }
        Operation::DecreaseStreamRetentionPeriod => {
            settings::retention(shared, request, Direction::Decrease, now)
        }
        Operation::UpdateMaxRecordSize => settings::update_max_record_size(shared, request, now),
        Operation::UpdateStreamMode => settings::update_mode(shared, request, now),
        Operation::UpdateStreamRecordDistributionStrategy => {
            settings::update_distribution(shared, request, now)
        }
        Operation::UpdateStreamWarmThroughput => settings::update_warm_throughput(shared, request, now),
        Operation::StartStreamEncryption => switches::start_encryption(shared, request, now),
        Operation::StopStreamEncryption => switches::stop_encryption(shared, request, now),
        Operation::EnableEnhancedMonitoring => switches::enable_monitoring(shared, request, now),
        Operation::DisableEnhancedMonitoring => switches::disable_monitoring(shared, request, now),
        Operation::AddTagsToStream => tags::add_to_stream(shared, request, now),
        Operation::RemoveTagsFromStream => tags::remove_from_stream(shared, request, now),
        Operation::ListTagsForStream => tags::list_of_stream(shared, request),
        Operation::TagResource => tags::add(shared, request),
        Operation::UntagResource => tags::remove(shared, request),
        Operation::ListTagsForResource => tags::list(shared, request),
        Operation::PutResourcePolicy => policies::put(shared, request),
        Operation::GetResourcePolicy => policies::get(shared, request),
        Operation::DeleteResourcePolicy => policies::delete(shared, request),
        Operation::DescribeLimits => account::limits(shared),
        Operation::DescribeAccountSettings => account::describe(shared),
        Operation::UpdateAccountSettings => account::update(shared, request),
        Operation::RegisterStreamConsumer => consumers::register(shared, request, now),
        Operation::DeregisterStreamConsumer => consumers::deregister(shared, request, now),
        Operation::DescribeStreamConsumer => consumers::describe(shared, request, now),
        Operation::ListStreamConsumers => consumers::list(shared, request, now),
        Operation::SubscribeToShard => {
            let opened = consumers::subscribe(shared, request, now)?;
            return Ok(Outcome::Subscription(opened));
        }
    };
    answer.map(Outcome::Answer)
}

/// The shard that a request is about, if it is about one.
pub(super) fn shard_of(request: &Map) -> Option<ShardId> {
    let named = ["ShardId", "ShardToSplit", "ShardToMerge"]
        .iter()
        .find_map(|name| request.text(name).ok().flatten());
    match named {
        Some(id) => ShardId::new(id).ok(),
        None => iterator_of(request).map(|iterator| iterator.shard),
    }
}

/// The time of the stream that a request is about, or of the server.
pub(super) fn service_time(shared: &Shared, request: &Map) -> Timestamp {
    let mut streams = shared.streams();
    let entry = match iterator_of(request) {
        Some(iterator) => streams.named(&iterator.stream),
        None => streams.of(request),
    };
    entry.map_or_else(|_| shared.clock.wall(), |entry| entry.stream.service_time())
}

fn iterator_of(request: &Map) -> Option<ShardIterator> {
    ShardIterator::decode(request.text("ShardIterator").ok()??)
}
