//! Consumers and subscriptions, through the SDK's own event streams.

use std::time::Duration;

use aws_sdk_kinesis::error::ProvideErrorMetadata;
use aws_sdk_kinesis::operation::subscribe_to_shard::SubscribeToShardOutput;
use aws_sdk_kinesis::operation::subscribe_to_shard::builders::SubscribeToShardFluentBuilder;
use aws_sdk_kinesis::types::{
    ConsumerStatus, ShardIteratorType, StartingPosition, SubscribeToShardEvent, SubscribeToShardEventStream,
};
use kcl_core::types::ShardId;
use kcl_lease_memory::MemoryStream;
use kinesis_local::{Fault, FaultRule, Operation, WireLimits, WireOptions, WireServer};

use crate::wire_server::support::{NAME, Served, client, code, shard, soon, stays_silent};

/// No limit on calls, so that what is tested is the subscription alone.
fn options() -> WireOptions {
    WireOptions {
        limits: WireLimits::none(),
        consumer_transition: Duration::ZERO,
        ..WireOptions::default()
    }
}

async fn register(served: &Served, name: &str) -> String {
    let call = served
        .sdk
        .register_stream_consumer()
        .stream_arn(served.arn().await);
    let registered = call.consumer_name(name).send().await.unwrap();
    registered.consumer.unwrap().consumer_arn
}

fn position(kind: ShardIteratorType, number: Option<&str>) -> StartingPosition {
    let position = StartingPosition::builder().r#type(kind);
    let position = position.set_sequence_number(number.map(str::to_owned));
    position.build().unwrap()
}

fn subscribe(served: &Served, consumer: &str, shard: &ShardId) -> SubscribeToShardFluentBuilder {
    let call = served
        .sdk
        .subscribe_to_shard()
        .consumer_arn(consumer)
        .shard_id(shard.as_str());
    call.starting_position(position(ShardIteratorType::TrimHorizon, None))
}

/// The next event, or nothing at the end of the stream, or the code of the error that ends it.
async fn next(output: &mut SubscribeToShardOutput) -> Result<Option<SubscribeToShardEvent>, String> {
    match soon(output.event_stream.recv()).await {
        Ok(None) => Ok(None),
        Ok(Some(SubscribeToShardEventStream::SubscribeToShardEvent(event))) => Ok(Some(event)),
        Ok(Some(other)) => panic!("an event of another kind: {other:?}"),
        Err(error) => Err(error.as_service_error().unwrap().code().unwrap().to_owned()),
    }
}

async fn event(output: &mut SubscribeToShardOutput) -> SubscribeToShardEvent {
    next(output).await.unwrap().expect("the subscription has ended")
}

fn texts(event: &SubscribeToShardEvent) -> Vec<&str> {
    let data = event.records().iter().map(|record| record.data().as_ref());
    data.map(|data| std::str::from_utf8(data).unwrap()).collect()
}

#[tokio::test]
async fn consumer_is_created_described_listed_and_deregistered() {
    let served = Served::as_kinesis(1).await;
    let stream = served.arn().await;
    let arn = register(&served, "app").await;
    let described = async || {
        let call = served
            .sdk
            .describe_stream_consumer()
            .consumer_arn(&arn)
            .send()
            .await;
        call.map(|answer| answer.consumer_description.unwrap())
    };
    let creating = described().await.unwrap();
    assert_eq!(creating.consumer_status, ConsumerStatus::Creating);
    assert_eq!(
        (creating.consumer_name.as_str(), &creating.stream_arn),
        ("app", &stream)
    );
    assert_eq!(
        code(subscribe(&served, &arn, &shard(0)).send().await),
        "ResourceInUseException"
    );
    let again = served
        .sdk
        .register_stream_consumer()
        .stream_arn(&stream)
        .consumer_name("app");
    assert_eq!(code(again.send().await), "ResourceInUseException");

    served.advance(500);
    assert_eq!(described().await.unwrap().consumer_status, ConsumerStatus::Active);
    register(&served, "other").await;
    let list = || {
        served
            .sdk
            .list_stream_consumers()
            .stream_arn(&stream)
            .max_results(1)
    };
    let first = list().send().await.unwrap();
    assert_eq!(first.consumers()[0].consumer_name(), "app");
    let rest = list()
        .next_token(first.next_token().unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!(
        (rest.consumers()[0].consumer_name(), rest.next_token()),
        ("other", None)
    );

    let call = served
        .sdk
        .deregister_stream_consumer()
        .stream_arn(&stream)
        .consumer_name("app");
    call.send().await.unwrap();
    assert_eq!(
        described().await.unwrap().consumer_status,
        ConsumerStatus::Deleting
    );
    served.advance(500);
    assert_eq!(code(described().await), "ResourceNotFoundException");
}

#[tokio::test]
async fn five_consumers_at_once_and_twenty_exist() {
    let served = Served::as_kinesis(1).await;
    for number in 0..20 {
        if number % 5 == 0 {
            served.advance(1000);
        }
        register(&served, &format!("app-{number}")).await;
        if number == 4 {
            served.advance(400);
            let call = served
                .sdk
                .register_stream_consumer()
                .stream_arn(served.arn().await);
            let sixth = call.consumer_name("one-more").send().await;
            assert_eq!(code(sixth), "LimitExceededException");
        }
    }
    served.advance(1000);
    let call = served
        .sdk
        .register_stream_consumer()
        .stream_arn(served.arn().await);
    let more = call.consumer_name("one-more").send().await;
    assert_eq!(code(more), "LimitExceededException");
}

#[tokio::test]
async fn records_arrive_and_continuation_resumes_exactly_behind_them() {
    let served = Served::with(1, options()).await;
    let consumer = register(&served, "app").await;
    served.stream.put("key", "a").unwrap();
    served.stream.put("key", "b").unwrap();
    let mut events = subscribe(&served, &consumer, &shard(0)).send().await.unwrap();
    let first = event(&mut events).await;
    assert_eq!((texts(&first), first.millis_behind_latest()), (vec!["a", "b"], 0));
    let after_b = first.continuation_sequence_number().to_owned();
    assert_eq!(after_b.len(), 56);

    served.stream.put("key", "c").unwrap();
    served.advance(20);
    assert_eq!(texts(&event(&mut events).await), ["c"]);
    served.advance(5_000);
    let idle = event(&mut events).await;
    assert!(idle.records().is_empty());
    drop(events);

    served.stream.put("key", "d").unwrap();
    for (number, expected) in [
        (after_b.as_str(), vec!["c", "d"]),
        (idle.continuation_sequence_number(), vec!["d"]),
    ] {
        let after = position(ShardIteratorType::AfterSequenceNumber, Some(number));
        let call = subscribe(&served, &consumer, &shard(0)).starting_position(after);
        let mut events = call.send().await.unwrap();
        assert_eq!(texts(&event(&mut events).await), expected);
        served.advance(5_000);
    }
}

#[tokio::test]
async fn the_continuation_moves_while_nothing_arrives() {
    let served = Served::with(2, options()).await;
    let consumer = register(&served, "app").await;
    let mut events = subscribe(&served, &consumer, &shard(0)).send().await.unwrap();
    let before = event(&mut events).await;
    served
        .stream
        .put_with_hash_key("key", u128::MAX, "elsewhere")
        .unwrap();
    served.advance(5_000);
    let after = event(&mut events).await;
    let numbers = (
        before.continuation_sequence_number(),
        after.continuation_sequence_number(),
    );
    assert!(numbers.0 < numbers.1, "{numbers:?}");
}

#[tokio::test]
async fn end_of_shard_brings_children_and_ends_subscription() {
    let served = Served::with(1, options()).await;
    let consumer = register(&served, "app").await;
    served.stream.put("key", "last").unwrap();
    let mut events = subscribe(&served, &consumer, &shard(0)).send().await.unwrap();
    assert_eq!(texts(&event(&mut events).await), ["last"]);
    let children = served.stream.split(&shard(0)).unwrap();
    served.advance(20);
    let end = event(&mut events).await;
    // The SDK makes an empty text of the number that is not there.
    assert_eq!(end.continuation_sequence_number(), "");
    let ids: Vec<&str> = end.child_shards().iter().map(|child| child.shard_id()).collect();
    assert_eq!(ids, children.each_ref().map(|child| child.as_str()));
    assert_eq!(end.child_shards()[0].parent_shards(), [shard(0).to_string()]);
    assert_eq!(next(&mut events).await, Ok(None));

    // A reader that asks for what comes after the end receives the end once more.
    served.advance(5_000);
    let latest = position(ShardIteratorType::Latest, None);
    let call = subscribe(&served, &consumer, &shard(0)).starting_position(latest);
    let mut events = call.send().await.unwrap();
    assert_eq!(event(&mut events).await.child_shards().len(), 2);
    assert_eq!(next(&mut events).await, Ok(None));
}

#[tokio::test]
async fn a_subscription_ends_after_five_minutes() {
    let served = Served::with(1, options()).await;
    let consumer = register(&served, "app").await;
    let mut events = subscribe(&served, &consumer, &shard(0)).send().await.unwrap();
    event(&mut events).await;
    served.advance(299_999);
    event(&mut events).await;
    assert!(stays_silent(events.event_stream.recv()).await);
    served.advance(1);
    assert_eq!(next(&mut events).await, Ok(None));
}

#[tokio::test]
async fn in_real_time_subscription_ends_when_options_say() {
    let stream = MemoryStream::builder(NAME).build();
    let options = WireOptions {
        subscription_lifetime: Duration::from_millis(300),
        ..options()
    };
    let server = WireServer::start([stream.clone()], options).await.unwrap();
    let sdk = client(server.endpoint());
    let summary = sdk
        .describe_stream_summary()
        .stream_name(NAME)
        .send()
        .await
        .unwrap();
    let arn = summary.stream_description_summary.unwrap().stream_arn;
    let registered = sdk
        .register_stream_consumer()
        .stream_arn(arn)
        .consumer_name("app");
    let consumer = registered.send().await.unwrap().consumer.unwrap().consumer_arn;
    let call = sdk
        .subscribe_to_shard()
        .consumer_arn(consumer)
        .shard_id(shard(0).as_str());
    let call = call.starting_position(position(ShardIteratorType::Latest, None));
    let mut events = call.send().await.unwrap();
    event(&mut events).await;
    stream.put("key", "a").unwrap();
    assert_eq!(texts(&event(&mut events).await), ["a"]);
    assert_eq!(next(&mut events).await, Ok(None));
}

#[tokio::test]
async fn second_subscription_within_five_seconds_is_refused() {
    let served = Served::with(2, options()).await;
    let consumer = register(&served, "app").await;
    let mut older = subscribe(&served, &consumer, &shard(0)).send().await.unwrap();
    event(&mut older).await;
    served.advance(4_900);
    let early = subscribe(&served, &consumer, &shard(0)).send().await;
    assert_eq!(code(early), "ResourceInUseException");
    // Another shard and another consumer are other subscriptions.
    subscribe(&served, &consumer, &shard(1)).send().await.unwrap();
    let other = register(&served, "other").await;
    subscribe(&served, &other, &shard(0)).send().await.unwrap();

    served.advance(100);
    let mut newer = subscribe(&served, &consumer, &shard(0)).send().await.unwrap();
    event(&mut newer).await;
    let ended = loop {
        match next(&mut older).await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_eq!(ended, Err("ResourceInUseException".to_owned()));
    served.stream.put_with_hash_key("key", 0, "a").unwrap();
    served.advance(20);
    assert_eq!(texts(&event(&mut newer).await), ["a"]);
}

#[tokio::test]
async fn consumer_with_subscription_is_refused_before_throttling() {
    for (again_after, expected) in [(5, "ResourceInUseException"), (0, "LimitExceededException")] {
        let options = WireOptions {
            consumer_transition: Duration::ZERO,
            resubscribe_after: Duration::from_secs(again_after),
            ..WireOptions::default()
        };
        let served = Served::with(1, options).await;
        let consumer = register(&served, "app").await;
        let call = || subscribe(&served, &consumer, &shard(0)).send();
        let first = call().await.unwrap();
        assert_eq!(code(call().await), expected);
        drop(first);
    }
}

#[tokio::test]
async fn subscription_fails_when_consumer_or_stream_goes() {
    let served = Served::with(2, options()).await;
    let consumer = register(&served, "app").await;
    let mut first = subscribe(&served, &consumer, &shard(0)).send().await.unwrap();
    event(&mut first).await;
    served
        .sdk
        .deregister_stream_consumer()
        .consumer_arn(&consumer)
        .send()
        .await
        .unwrap();
    assert_eq!(
        next(&mut first).await,
        Err("ResourceNotFoundException".to_owned())
    );

    let consumer = register(&served, "other").await;
    let mut second = subscribe(&served, &consumer, &shard(0)).send().await.unwrap();
    event(&mut second).await;
    served.stream.delete();
    served.advance(20);
    assert_eq!(
        next(&mut second).await,
        Err("ResourceNotFoundException".to_owned())
    );
}

#[tokio::test]
async fn unknown_consumer_shard_or_number_is_refused() {
    let served = Served::with(1, options()).await;
    let consumer = register(&served, "app").await;
    let nobody = consumer.replace("app", "nobody");
    let unknown = subscribe(&served, &nobody, &shard(0)).send().await;
    assert_eq!(code(unknown), "ResourceNotFoundException");
    let nowhere = subscribe(&served, &consumer, &shard(9)).send().await;
    assert_eq!(code(nowhere), "ResourceNotFoundException");
    let bad = position(ShardIteratorType::AfterSequenceNumber, Some("7"));
    let bad = subscribe(&served, &consumer, &shard(0)).starting_position(bad);
    assert_eq!(code(bad.send().await), "InvalidArgumentException");
}

#[tokio::test]
async fn a_half_open_subscription_begins_and_stays_silent() {
    let served = Served::with(1, options()).await;
    let consumer = register(&served, "app").await;
    let rule = FaultRule::new(Fault::HalfOpen)
        .on(Operation::SubscribeToShard)
        .times(1);
    served.server.faults().inject(rule);
    served.stream.put("key", "a").unwrap();
    let mut events = subscribe(&served, &consumer, &shard(0)).send().await.unwrap();
    assert!(stays_silent(events.event_stream.recv()).await);
}

#[tokio::test]
async fn a_running_subscription_can_be_silenced() {
    let served = Served::with(1, options()).await;
    let consumer = register(&served, "app").await;
    let mut events = subscribe(&served, &consumer, &shard(0)).send().await.unwrap();
    event(&mut events).await;
    served.server.silence_subscriptions();
    served.stream.put("key", "a").unwrap();
    served.advance(400_000);
    assert!(stays_silent(events.event_stream.recv()).await);
    let mut newer = subscribe(&served, &consumer, &shard(0)).send().await.unwrap();
    assert_eq!(texts(&event(&mut newer).await), ["a"]);
}

#[tokio::test]
async fn stopped_reader_misses_nothing_and_blocks_none() {
    let served = Served::with(2, options()).await;
    let consumer = register(&served, "app").await;
    let mebibyte = bytes::Bytes::from(vec![7; 1024 * 1024]);
    for _ in 0..40 {
        let put = served.stream.put_with_hash_key("key", 0, mebibyte.clone());
        put.unwrap();
    }
    let mut slow = subscribe(&served, &consumer, &shard(0)).send().await.unwrap();
    let mut quick = subscribe(&served, &consumer, &shard(1)).send().await.unwrap();
    event(&mut quick).await;
    for number in 0..40 {
        let data = format!("{number}");
        served
            .stream
            .put_with_hash_key("key", u128::MAX, data.clone())
            .unwrap();
        served.advance(20);
        assert_eq!(texts(&event(&mut quick).await), [data]);
    }
    let mut read = 0;
    while read < 40 {
        read += event(&mut slow).await.records().len();
        served.advance(20);
    }
    assert_eq!(read, 40);
}
