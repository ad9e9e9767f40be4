//! Refusals of Kinesis, with the errors that its calls list.

use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{
    PutRecordsRequestEntry, ShardFilter, ShardFilterType, ShardIteratorType, StartingPosition,
};
use hyper::Version;
use kcl_lease_memory::MemoryStream;
use kinesis_local::{Operation, WireOptions};

use crate::wire_server::raw;
use crate::wire_server::support::{NAME, Served, code, shard};

#[tokio::test]
async fn stream_being_created_takes_no_data() {
    let served = Served::as_kinesis(1).await;
    let create = served.sdk.create_stream().stream_name("more").shard_count(1);
    create.send().await.unwrap();
    let put = || {
        let call = served.sdk.put_record().stream_name("more").partition_key("key");
        call.data(Blob::new("x")).send()
    };
    let error = put().await.unwrap_err().into_service_error();
    assert!(error.is_resource_not_found_exception(), "{error:?}");
    let said = error.meta().message().unwrap();
    assert_eq!(said, "Stream more under account 000000000000 not found.");
    let entry = PutRecordsRequestEntry::builder()
        .partition_key("key")
        .data(Blob::new("x"));
    let many = served
        .sdk
        .put_records()
        .stream_name("more")
        .records(entry.build().unwrap());
    assert_eq!(code(many.send().await), "ResourceNotFoundException");
    let iterator = served
        .sdk
        .get_shard_iterator()
        .stream_name("more")
        .shard_id(shard(0).as_str());
    let iterator = iterator
        .shard_iterator_type(ShardIteratorType::Latest)
        .send()
        .await;
    assert_eq!(code(iterator), "ResourceNotFoundException");
    let register = served.sdk.register_stream_consumer().consumer_name("app");
    let arn = served.arn().await.replace(NAME, "more");
    assert_eq!(
        code(register.stream_arn(arn).send().await),
        "ResourceInUseException"
    );
    served.advance(500);
    put().await.unwrap();
}

#[tokio::test]
async fn token_of_a_page_stands_alone() {
    let served = Served::as_kinesis(3).await;
    let page = served
        .sdk
        .list_shards()
        .stream_name(NAME)
        .max_results(1)
        .send()
        .await
        .unwrap();
    let next = || served.sdk.list_shards().next_token(page.next_token().unwrap());
    let filter = ShardFilter::builder()
        .r#type(ShardFilterType::AtLatest)
        .build()
        .unwrap();
    let refused = [
        next().stream_name(NAME).send().await,
        next().stream_arn(served.arn().await).send().await,
        next().shard_filter(filter).send().await,
        next().exclusive_start_shard_id(shard(0).as_str()).send().await,
    ];
    for refused in refused {
        let error = refused.unwrap_err().into_service_error();
        assert!(error.is_invalid_argument_exception(), "{error:?}");
        let said = error.meta().message().unwrap();
        assert!(said.contains("cannot be provided together"), "{said}");
    }
    assert_eq!(next().send().await.unwrap().shards.unwrap().len(), 2);
}

#[tokio::test]
async fn shard_filter_takes_only_what_its_type_needs() {
    let served = Served::as_kinesis(1).await;
    let with_shard = [
        ShardFilterType::AtLatest,
        ShardFilterType::AtTrimHorizon,
        ShardFilterType::FromTrimHorizon,
    ];
    for kind in with_shard {
        let filter = ShardFilter::builder().r#type(kind).shard_id(shard(0).as_str());
        let call = served.sdk.list_shards().stream_name(NAME);
        let refused = call.shard_filter(filter.build().unwrap()).send().await;
        assert_eq!(code(refused), "InvalidArgumentException");
    }
    let filter = ShardFilter::builder().r#type(ShardFilterType::AfterShardId);
    let filter = filter.shard_id(shard(0).as_str()).build().unwrap();
    let call = served.sdk.list_shards().stream_name(NAME).shard_filter(filter);
    assert!(call.send().await.unwrap().shards.unwrap().is_empty());
}

#[tokio::test]
async fn iterator_is_refused_for_arn_of_another_stream() {
    let served = Served::as_kinesis(1).await;
    let clock = std::sync::Arc::new(served.clock.clone());
    served.server.add_stream(MemoryStream::new("ships", 1, clock));
    let iterator = served.iterator(&shard(0), ShardIteratorType::Latest).await;
    let read = |arn: String| {
        let call = served.sdk.get_records().shard_iterator(&iterator);
        call.stream_arn(arn).send()
    };
    let own = served.arn().await;
    assert_eq!(
        code(read(own.replace(NAME, "ships")).await),
        "InvalidArgumentException"
    );
    read(own).await.unwrap();
}

#[tokio::test]
async fn dry_run_says_whether_a_call_would_succeed() {
    let served = Served::with(1, WireOptions::unlimited()).await;
    let (sdk, arn) = (&served.sdk, served.arn().await);
    let put = |name: &str| {
        let call = sdk.put_record().stream_name(name).partition_key("key");
        call.data(Blob::new("x")).dry_run(true).send()
    };
    assert_eq!(code(put(NAME).await), "DryRunOperationException");
    assert_eq!(code(put("nowhere").await), "ResourceNotFoundException");
    let entry = PutRecordsRequestEntry::builder()
        .partition_key("key")
        .data(Blob::new("x"));
    let many = sdk
        .put_records()
        .stream_name(NAME)
        .records(entry.build().unwrap());
    assert_eq!(code(many.dry_run(true).send().await), "DryRunOperationException");
    assert!(served.stream.put_log().is_empty());

    let iterator = served.iterator(&shard(0), ShardIteratorType::Latest).await;
    let read = sdk
        .get_records()
        .shard_iterator(iterator)
        .dry_run(true)
        .send()
        .await;
    assert_eq!(code(read), "DryRunOperationException");
    let get = sdk
        .get_shard_iterator()
        .stream_name(NAME)
        .shard_id(shard(0).as_str());
    let get = get.shard_iterator_type(ShardIteratorType::Latest).dry_run(true);
    assert_eq!(code(get.send().await), "DryRunOperationException");
    let register = sdk
        .register_stream_consumer()
        .stream_arn(&arn)
        .consumer_name("app");
    let consumer = register.send().await.unwrap().consumer.unwrap().consumer_arn;
    let position = StartingPosition::builder().r#type(ShardIteratorType::Latest);
    let subscribe = sdk
        .subscribe_to_shard()
        .consumer_arn(consumer)
        .shard_id(shard(0).as_str());
    let subscribe = subscribe
        .starting_position(position.build().unwrap())
        .dry_run(true);
    let error = subscribe.send().await.unwrap_err().into_service_error();
    assert!(error.is_dry_run_operation_exception(), "{error:?}");
}

#[tokio::test]
async fn streams_are_listed_by_hundreds() {
    let served = Served::with(1, WireOptions::unlimited()).await;
    for number in 0..150 {
        let call = served.sdk.create_stream().stream_name(format!("s{number:03}"));
        call.shard_count(1).send().await.unwrap();
    }
    let first = served.sdk.list_streams().limit(1000).send().await.unwrap();
    assert_eq!((first.stream_names().len(), first.has_more_streams), (100, true));
    assert_eq!(first.stream_summaries().len(), 100);
    let token = first.next_token.unwrap();
    let next = || served.sdk.list_streams().next_token(&token).send();
    let rest = next().await.unwrap();
    assert_eq!((rest.stream_names().len(), rest.has_more_streams), (51, false));
    let by_name = served.sdk.list_streams().exclusive_start_stream_name("s148");
    let by_name = by_name.send().await.unwrap();
    assert_eq!(by_name.stream_names(), ["s149", NAME]);
    served.advance(300_001);
    assert_eq!(code(next().await), "ExpiredNextTokenException");
    let foreign = served.sdk.list_streams().next_token("s100").send().await;
    assert_eq!(code(foreign), "InvalidArgumentException");
}

#[tokio::test]
async fn arns_name_region_and_account_of_server() {
    let options = WireOptions {
        region: "cn-north-1".to_owned(),
        account: "123456789012".to_owned(),
        ..WireOptions::unlimited()
    };
    let served = Served::with(1, options).await;
    assert_eq!(
        served.arn().await,
        "arn:aws-cn:kinesis:cn-north-1:123456789012:stream/trucks"
    );
    let register = served.sdk.register_stream_consumer().consumer_name("app");
    let consumer = register.stream_arn(served.arn().await).send().await.unwrap();
    let consumer = consumer.consumer.unwrap().consumer_arn;
    let begins = "arn:aws-cn:kinesis:cn-north-1:123456789012:stream/trucks/consumer/app:";
    assert!(consumer.starts_with(begins), "{consumer}");
    let gone = served.sdk.list_shards().stream_name("nowhere").send().await;
    let error = gone.unwrap_err().into_service_error();
    assert!(
        error.meta().message().unwrap().contains("123456789012"),
        "{error:?}"
    );
    let create = served.sdk.create_stream().stream_name("more").shard_count(1);
    create.send().await.unwrap();
    let made = served
        .sdk
        .describe_stream_summary()
        .stream_name("more")
        .send()
        .await
        .unwrap();
    let made = made.stream_description_summary.unwrap().stream_arn;
    assert_eq!(made, "arn:aws-cn:kinesis:cn-north-1:123456789012:stream/more");
}

#[tokio::test]
async fn control_calls_are_counted_per_stream() {
    let served = Served::as_kinesis(1).await;
    let clock = std::sync::Arc::new(served.clock.clone());
    served.server.add_stream(MemoryStream::new("ships", 1, clock));
    let remove = async |name: &str| {
        let arn = served.arn().await.replace(NAME, name);
        let call = served.sdk.deregister_stream_consumer().consumer_name("app");
        call.stream_arn(arn).send().await
    };
    for _ in 0..5 {
        assert_eq!(code(remove(NAME).await), "ResourceNotFoundException");
    }
    assert_eq!(code(remove(NAME).await), "LimitExceededException");
    assert_eq!(code(remove("ships").await), "ResourceNotFoundException");
    assert_eq!(
        served
            .server
            .requests()
            .count(Operation::DeregisterStreamConsumer),
        7
    );
}

#[tokio::test]
async fn every_answer_names_its_request() {
    let served = Served::as_kinesis(1).await;
    let mut seen = std::collections::BTreeSet::new();
    for (target, status) in [("ListStreams", 200), ("ListShards", 400), ("NoSuchCall", 400)] {
        let call = raw::send(&served.server, Version::HTTP_11, target, raw::JSON, "{}");
        let answer = call.await.unwrap();
        assert_eq!(answer.status().as_u16(), status);
        for name in ["x-amzn-requestid", "x-amz-id-2"] {
            let id = answer.headers()[name].to_str().unwrap().to_owned();
            assert!(id.len() >= 36 && seen.insert(id.clone()), "{name}: {id}");
        }
    }
}

#[tokio::test]
async fn browsers_may_call_and_health_is_open() {
    let served = Served::as_kinesis(1).await;
    let ask = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        let request = hyper::Request::builder().method(method);
        let request = request.uri(format!("{}{path}", served.server.endpoint()));
        let request = headers
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.header("host", served.server.address().to_string());
        raw::ask(&served.server, request).await
    };
    let origin = ("origin", "http://localhost:3000");
    let wanted = ("access-control-request-headers", "authorization,x-amz-target");
    let preflight = ask("OPTIONS", "/", &[origin, wanted]).await;
    assert_eq!(preflight.0.status.as_u16(), 200);
    let header = |name| preflight.0.headers[name].to_str().unwrap();
    assert_eq!(header("access-control-allow-origin"), "*");
    assert_eq!(header("access-control-allow-methods"), "POST");
    assert_eq!(header("access-control-allow-headers"), wanted.1);
    let health = ask("GET", "/health", &[]).await;
    assert_eq!(health.0.status.as_u16(), 200);
    assert!(!health.0.headers.contains_key("access-control-allow-origin"));
    let said: serde_json::Value = serde_json::from_slice(&health.1).unwrap();
    assert_eq!((&said["status"], &said["streams"]), (&"ok".into(), &1.into()));
    let call = ask("POST", "/", &[origin]).await;
    assert_eq!(call.0.headers["access-control-allow-origin"], "*");
}

#[tokio::test]
async fn consumer_has_a_name_and_a_stream_arn() {
    let served = Served::with(1, WireOptions::unlimited()).await;
    let arn = served.arn().await;
    for name in ["", "a/b", "a:b", "a\nb", "größe", &"x".repeat(129)] {
        let call = served.sdk.register_stream_consumer().stream_arn(&arn);
        let answer = call.consumer_name(name).send().await;
        assert_eq!(code(answer), "ValidationException", "{name:?}");
    }
    let body = format!(r#"{{"StreamName":"{NAME}","ConsumerName":"app"}}"#);
    let answer = raw::call(
        &served.server,
        Version::HTTP_11,
        "RegisterStreamConsumer",
        raw::JSON,
        body,
    )
    .await;
    assert_eq!(answer.status, 400, "{answer:?}");
}

#[tokio::test]
async fn hash_key_is_written_as_kinesis_takes_it() {
    let served = Served::with(1, WireOptions::unlimited()).await;
    for key in ["+5", "007", " 5", "-0", "340282366920938463463374607431768211456"] {
        let put = served.sdk.put_record().stream_name(NAME).partition_key("a");
        let answer = put.explicit_hash_key(key).data(Blob::new("x")).send().await;
        assert!(answer.is_err(), "{key:?}");
    }
}
