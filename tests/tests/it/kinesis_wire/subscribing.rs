//! Subscriptions: how they end, and how reading goes on.

use std::time::Duration;

use kcl_core::clock::{Clock as _, ClockExt as _};
use kcl_core::source::{FetchLimit, SourceErrorKind, StartPosition, StreamSource as _};
use kcl_core::types::ShardId;
use kcl_kinesis::{FanOut, KinesisStream};
use kinesis_local::{Fault, FaultRule, Operation, WireLimits, WireOptions};

use crate::kinesis_wire::served::{NAME, Read, Served, aws, next, payloads};

#[tokio::test]
async fn a_record_is_pushed_at_once() {
    let served = Served::new(1, WireOptions::default(), Read::FanOut).await;
    let mut reader = served.open(StartPosition::TrimHorizon).await;
    let mut waits = Vec::new();
    for n in 0..20 {
        let put = served.clock.now();
        served.put(&format!("{n}"));
        assert_eq!(payloads(&mut reader).await, [format!("{n}")]);
        waits.push(served.clock.now().saturating_since(put));
    }
    waits.sort();
    assert!(waits[10] < Duration::from_millis(100), "{waits:?}");
    assert_eq!(served.server.requests().count(Operation::SubscribeToShard), 1);
}

/// The events of the SDK show what they have received and not taken apart yet.
#[tokio::test]
async fn a_subscription_shows_nothing_of_what_it_receives() {
    let served = Served::new(1, WireOptions::default(), Read::FanOut).await;
    let reader = served.open(StartPosition::TrimHorizon).await;
    let shown = format!("{reader:?}");
    assert!(
        shown.contains("Subscription {") && !shown.contains("buffer"),
        "{shown}"
    );
}

#[tokio::test]
async fn reading_goes_on_where_expired_subscription_ended() {
    let options = WireOptions {
        subscription_lifetime: Duration::from_secs(6),
        ..WireOptions::default()
    };
    let served = Served::new(1, options, Read::FanOut).await;
    let mut reader = served.open(StartPosition::Latest).await;
    for n in 0..8 {
        served.put(&format!("{n}"));
        assert_eq!(payloads(&mut reader).await, [format!("{n}")]);
        served.clock.sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(served.server.requests().count(Operation::SubscribeToShard), 2);
}

#[tokio::test]
async fn subscription_is_replaced_before_service_ends_it() {
    let served = Served::new(1, WireOptions::default(), Read::FanOut).await;
    let fan_out = FanOut::consumer("suite").renewal(Duration::from_secs(5));
    let source = served.source.clone().with_fan_out(fan_out);
    let mut reader = source.open(&served.shard(), StartPosition::Latest).await.unwrap();
    for n in 0..7 {
        served.put(&format!("{n}"));
        assert_eq!(payloads(&mut reader).await, [format!("{n}")]);
        served.clock.sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(served.server.requests().count(Operation::SubscribeToShard), 2);
}

#[tokio::test]
async fn silent_subscription_is_reopened_after_its_last_event() {
    let served = Served::new(1, WireOptions::default(), Read::FanOut).await;
    let fan_out = FanOut::consumer("suite").silence(Duration::from_secs(1));
    let source = served.source.clone().with_fan_out(fan_out);
    served.server.faults().inject(
        FaultRule::new(Fault::HalfOpen)
            .on(Operation::SubscribeToShard)
            .times(1),
    );
    served.put("before");
    let begun = served.clock.now();
    let mut reader = source
        .open(&served.shard(), StartPosition::TrimHorizon)
        .await
        .unwrap();
    let error = next(&mut reader).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("no event within 1s"), "{error}");
    assert_eq!(payloads(&mut reader).await, ["before"]);
    // One second of silence, and then not within five seconds of the first subscription.
    let took = served.clock.now().saturating_since(begun);
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[tokio::test]
async fn whoever_subscribes_too_early_is_refused_and_waits() {
    let served = Served::new(1, WireOptions::default(), Read::FanOut).await;
    let mut former = served.open(StartPosition::TrimHorizon).await;
    served.put("1");
    assert_eq!(payloads(&mut former).await, ["1"]);
    // The lease has gone to another worker, which reads as the same consumer.
    let other = KinesisStream::new(&aws(&served.server), NAME).with_fan_out(FanOut::consumer("suite"));
    let refused = other
        .open(&served.shard(), StartPosition::TrimHorizon)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), SourceErrorKind::Unavailable, "{refused}");
    assert!(
        refused.to_string().contains("ResourceInUseException"),
        "{refused}"
    );
    served.clock.sleep(Duration::from_secs(5)).await;
    let mut latter = other
        .open(&served.shard(), StartPosition::TrimHorizon)
        .await
        .unwrap();
    assert_eq!(payloads(&mut latter).await, ["1"]);
    // The former owner is informed, and does not fight for the subscription.
    let superseded = loop {
        if let Err(error) = next(&mut former).await {
            break error;
        }
    };
    assert_eq!(superseded.kind(), SourceErrorKind::Unavailable, "{superseded}");
    served.put("2");
    assert_eq!(payloads(&mut latter).await, ["2"]);
}

#[tokio::test]
async fn pausing_reader_gives_subscription_up_and_misses_nothing() {
    let served = Served::new(1, WireOptions::default(), Read::FanOut).await;
    let mut reader = served.open(StartPosition::Latest).await;
    served.put("1");
    assert_eq!(payloads(&mut reader).await, ["1"]);
    reader.pause();
    served.put("2");
    served.clock.sleep(Duration::from_secs(6)).await;
    served.put("3");
    let mut read = payloads(&mut reader).await;
    if read.len() < 2 {
        read.extend(payloads(&mut reader).await);
    }
    assert_eq!(read, ["2", "3"]);
}

#[tokio::test]
async fn reader_pausing_within_event_gets_its_rest_once() {
    let options = WireOptions {
        resubscribe_after: Duration::from_millis(100),
        limits: WireLimits::none(),
        ..WireOptions::default()
    };
    let served = Served::new(1, options, Read::FanOut).await;
    let numbers: Vec<_> = (0..9).map(|number: u32| number.to_string()).collect();
    numbers.iter().for_each(|number| served.put(number));
    let mut reader = served.open(StartPosition::TrimHorizon).await;
    let mut seen = Vec::new();
    while seen.len() < numbers.len() {
        let fetch = reader.next(FetchLimit { records: 1 }).await.unwrap();
        for record in &fetch.records {
            seen.push(String::from_utf8(record.data().to_vec()).unwrap());
        }
        // Within the event, and behind it.
        if [1, 4, 9].contains(&seen.len()) {
            reader.pause();
        }
    }
    assert_eq!(seen, numbers);
    assert_eq!(served.server.requests().count(Operation::SubscribeToShard), 3);
    served.put("more");
    assert_eq!(payloads(&mut reader).await, ["more"]);
}

#[tokio::test]
async fn workers_that_start_together_register_one_consumer() {
    let served = Served::new(4, WireOptions::default(), Read::FanOut).await;
    let open = async |n: u32| {
        let source = KinesisStream::new(&aws(&served.server), NAME).with_fan_out(FanOut::consumer("fleet"));
        let shard = ShardId::new(format!("shardId-{n:012}")).unwrap();
        source.open(&shard, StartPosition::TrimHorizon).await.unwrap();
    };
    tokio::join!(open(0), open(1), open(2), open(3));
    let sdk = aws_sdk_kinesis::Client::new(&aws(&served.server));
    let arn = served.stream.identity().await.unwrap().arn;
    let consumers = sdk.list_stream_consumers().stream_arn(&arn).send().await.unwrap();
    assert_eq!(consumers.consumers().len(), 1);
}

#[tokio::test]
async fn only_consumer_that_workers_registered_is_deregistered() {
    let served = Served::new(1, WireOptions::default(), Read::FanOut).await;
    let sdk = aws_sdk_kinesis::Client::new(&aws(&served.server));
    let arn = served.stream.identity().await.unwrap().arn;
    let made = sdk
        .register_stream_consumer()
        .stream_arn(&arn)
        .consumer_name("theirs")
        .send()
        .await
        .unwrap();
    let theirs = made.consumer().unwrap().consumer_arn().to_owned();
    let given = served.source.clone().with_fan_out(FanOut::consumer_arn(&theirs));
    let found = served
        .source
        .clone()
        .with_fan_out(FanOut::registered_consumer("theirs"));
    for source in [&given, &found] {
        let refused = source.deregister_consumer().await.unwrap_err();
        assert_eq!(refused.kind(), SourceErrorKind::Invalid, "{refused}");
    }
    served.put("1");
    served.clock.sleep(Duration::from_secs(1)).await;
    let mut reader = given
        .open(&served.shard(), StartPosition::TrimHorizon)
        .await
        .unwrap();
    assert_eq!(payloads(&mut reader).await, ["1"]);

    let absent = served
        .source
        .clone()
        .with_fan_out(FanOut::registered_consumer("nobody"));
    let refused = absent
        .open(&served.shard(), StartPosition::TrimHorizon)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("no consumer named nobody"),
        "{refused}"
    );

    served.open(StartPosition::TrimHorizon).await;
    served.source.deregister_consumer().await.unwrap();
    served.source.deregister_consumer().await.unwrap();
}

#[tokio::test]
async fn a_consumer_that_is_gone_is_registered_again() {
    let served = Served::new(1, WireOptions::default(), Read::FanOut).await;
    let mut reader = served.open(StartPosition::Latest).await;
    served.put("1");
    assert_eq!(payloads(&mut reader).await, ["1"]);
    served.source.deregister_consumer().await.unwrap();
    served.put("2");
    assert_eq!(payloads(&mut reader).await, ["2"]);
}

#[tokio::test]
async fn foreign_consumer_being_deleted_is_not_registered_again() {
    let options = WireOptions {
        consumer_transition: Duration::from_millis(1500),
        ..WireOptions::default()
    };
    let served = Served::new(1, options, Read::FanOut).await;
    served.open(StartPosition::TrimHorizon).await;
    let registered = || served.server.requests().count(Operation::RegisterStreamConsumer);
    assert_eq!(registered(), 1);
    served.source.deregister_consumer().await.unwrap();
    let looks = || served.server.requests().count(Operation::DescribeStreamConsumer);
    let before = looks();
    let theirs = FanOut::registered_consumer("suite");
    let source = KinesisStream::new(&aws(&served.server), NAME).with_fan_out(theirs);
    let refused = source
        .open(&served.shard(), StartPosition::TrimHorizon)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), SourceErrorKind::Invalid, "{refused}");
    assert!(
        refused.to_string().contains("no consumer named suite"),
        "{refused}"
    );
    assert!(looks() >= before + 2, "it was there at the first look");
    assert_eq!(registered(), 1);
}

#[tokio::test]
async fn given_consumer_that_is_gone_is_named() {
    let served = Served::new(1, WireOptions::default(), Read::FanOut).await;
    let arn = served.stream.identity().await.unwrap().arn;
    let given = FanOut::consumer_arn(format!("{arn}/consumer/nobody:1700000000"));
    let source = KinesisStream::new(&aws(&served.server), NAME).with_fan_out(given);
    let unknown = source
        .open(&served.shard(), StartPosition::TrimHorizon)
        .await
        .unwrap_err();

    let mut reader = served.open(StartPosition::TrimHorizon).await;
    served.put("1");
    assert_eq!(payloads(&mut reader).await, ["1"]);
    served.source.deregister_consumer().await.unwrap();
    let gone = loop {
        if let Err(error) = next(&mut reader).await {
            break error;
        }
    };
    // What ends a subscription is passing: the next one is refused for what lasts.
    for (error, kind) in [
        (unknown, SourceErrorKind::NotFound),
        (gone, SourceErrorKind::Unavailable),
    ] {
        assert_eq!(error.kind(), kind, "{error}");
        let said = error.to_string();
        assert!(
            said.contains("register the consumer") && !said.contains("create it"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn missing_consumer_is_looked_up_once_per_worker() {
    const SHARDS: u32 = 50;
    let served = Served::new(SHARDS, WireOptions::default(), Read::FanOut).await;
    let looks = || served.server.requests().count(Operation::DescribeStreamConsumer);
    let rule = FaultRule::new(Fault::InternalFailure).on(Operation::DescribeStreamConsumer);
    served.server.faults().inject(rule);
    let open_all = async || {
        let mut opening = tokio::task::JoinSet::new();
        for n in 0..SHARDS {
            let source = served.source.clone();
            let shard = ShardId::new(format!("shardId-{n:012}")).unwrap();
            opening.spawn(async move { source.open(&shard, StartPosition::TrimHorizon).await });
        }
        opening.join_all().await
    };
    for opened in open_all().await {
        let failed = opened.unwrap_err();
        assert_eq!(failed.kind(), SourceErrorKind::Unavailable, "{failed}");
        assert!(
            failed.to_string().contains("InternalFailureException"),
            "{failed}"
        );
    }
    assert_eq!(looks(), 1);

    // All learn of the next look as well, and of one that succeeds.
    served.clock.sleep(Duration::from_secs(2)).await;
    assert!(open_all().await.iter().all(Result::is_err));
    assert_eq!(looks(), 2);
    served.server.faults().clear();
    served.clock.sleep(Duration::from_secs(2)).await;
    let opened = open_all().await;
    assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    // It was registered then, and looked at until it was ready.
    assert!(looks() <= 6, "{}", looks());
    assert_eq!(
        served.server.requests().count(Operation::RegisterStreamConsumer),
        1
    );
}

#[tokio::test]
async fn many_unread_subscriptions_do_not_hold_up_requests() {
    let served = Served::new(20, WireOptions::default(), Read::FanOut).await;
    let payload = "x".repeat(500_000);
    let mut readers = Vec::new();
    for n in 0..20_u128 {
        let key = u128::MAX / 20 * n + 1;
        for _ in 0..10 {
            served
                .stream
                .put_with_hash_key("truck", key, payload.clone())
                .unwrap();
        }
        let shard = ShardId::new(format!("shardId-{n:012}")).unwrap();
        readers.push(
            served
                .source
                .open(&shard, StartPosition::TrimHorizon)
                .await
                .unwrap(),
        );
    }
    let begun = served.clock.now();
    served.source.identity().await.unwrap();
    let took = served.clock.now().saturating_since(begun);
    assert!(took < Duration::from_secs(1), "{took:?}");
    // And once they are read, everything comes.
    for reader in &mut readers {
        let mut bytes = 0;
        while bytes < 5_000_000 {
            bytes += payloads(reader).await.iter().map(String::len).sum::<usize>();
        }
    }
}
