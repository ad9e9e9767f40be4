//! CBOR as the Java SDK sends it, and HTTP/2 with prior knowledge.

use aws_smithy_eventstream::frame::{DecodedFrame, MessageFrameDecoder};
use ciborium::{Value, cbor};
use http_body_util::BodyExt as _;
use hyper::Version;
use hyper::body::Bytes;
use kinesis_local::{Fault, FaultRule, Operation, Protocol, WireOptions};

use crate::wire_server::raw;
use crate::wire_server::support::{NAME, Served, shard, soon, stays_silent};

const CBOR: &str = "application/x-amz-cbor-1.1";
const JSON: &str = "application/x-amz-json-1.1";

fn encode(value: &Value) -> Bytes {
    let mut body = Vec::new();
    ciborium::into_writer(value, &mut body).unwrap();
    body.into()
}

fn decode(body: &[u8]) -> Value {
    ciborium::from_reader(body).unwrap()
}

fn member<'a>(value: &'a Value, name: &str) -> &'a Value {
    let members = value.as_map().unwrap();
    let found = members.iter().find(|(key, _)| key.as_text() == Some(name));
    &found
        .unwrap_or_else(|| panic!("there is no {name} in {value:?}"))
        .1
}

fn text(value: &Value, name: &str) -> String {
    member(value, name).as_text().unwrap().to_owned()
}

/// A call in CBOR that succeeds.
async fn call(served: &Served, version: Version, target: &str, request: &Value) -> Value {
    let answer = raw::call(&served.server, version, target, CBOR, encode(request)).await;
    assert_eq!(
        (answer.status, answer.content_type.as_str()),
        (200, CBOR),
        "{target}"
    );
    assert_eq!(answer.version, version);
    decode(&answer.body)
}

fn time(millis: i64) -> Value {
    Value::Tag(1, Box::new(millis.into()))
}

#[tokio::test]
async fn records_pass_in_cbor_over_both_http_versions() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let served = Served::with(1, WireOptions::unlimited()).await;
        served.advance(7);
        let id = shard(0).to_string();
        let data = Value::Bytes(vec![0, 255, 128]);
        let put = cbor!({ "StreamName" => NAME, "PartitionKey" => "key", "Data" => data }).unwrap();
        let put = call(&served, version, "PutRecord", &put).await;
        assert_eq!(text(&put, "ShardId"), id);

        let now = served.stream.service_time().as_millis();
        let request = cbor!({ "StreamName" => NAME, "ShardId" => id, "ShardIteratorType" => "AT_TIMESTAMP",
                              "Timestamp" => time(now) });
        let iterator = call(&served, version, "GetShardIterator", &request.unwrap()).await;
        let request = cbor!({ "ShardIterator" => text(&iterator, "ShardIterator"), "Limit" => 10 }).unwrap();
        let read = call(&served, version, "GetRecords", &request).await;
        let records = member(&read, "Records").as_array().unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(member(&records[0], "Data"), &data);
        assert_eq!(member(&records[0], "ApproximateArrivalTimestamp"), &time(now));
        assert_eq!(text(&records[0], "SequenceNumber"), text(&put, "SequenceNumber"));
        assert_eq!(member(&read, "MillisBehindLatest"), &Value::from(0));
        let requests = served.server.requests();
        assert_eq!(requests.count_in(Operation::GetRecords, Protocol::Cbor), 1);
        assert_eq!(requests.count_in(Operation::GetRecords, Protocol::Json), 0);
    }
}

#[tokio::test]
async fn a_map_of_indefinite_length_is_read() {
    let served = Served::as_kinesis(1).await;
    // {_ "StreamName": "trucks"}, which is how the Java SDK begins every structure.
    let mut body = vec![0xbf, 0x6a];
    body.extend_from_slice(b"StreamName");
    body.push(0x66);
    body.extend_from_slice(NAME.as_bytes());
    body.push(0xff);
    let answer = raw::call(
        &served.server,
        Version::HTTP_2,
        "DescribeStreamSummary",
        CBOR,
        body,
    )
    .await;
    let answer = decode(&answer.body);
    let summary = member(&answer, "StreamDescriptionSummary");
    assert_eq!(text(summary, "StreamName"), NAME);
    assert!(matches!(
        member(summary, "StreamCreationTimestamp"),
        Value::Tag(1, _)
    ));
}

#[tokio::test]
async fn an_error_in_cbor_says_what_it_is() {
    let served = Served::as_kinesis(1).await;
    let request = encode(&cbor!({ "StreamName" => "nowhere" }).unwrap());
    let answer = raw::call(&served.server, Version::HTTP_11, "ListShards", CBOR, request).await;
    assert_eq!((answer.status, answer.content_type.as_str()), (400, CBOR));
    assert_eq!(text(&decode(&answer.body), "__type"), "ResourceNotFoundException");
}

#[tokio::test]
async fn a_server_that_refuses_cbor_still_speaks_json() {
    let served = Served::as_kinesis(1).await;
    served.server.faults().inject(FaultRule::new(Fault::RefuseCbor));
    let refused = raw::call(
        &served.server,
        Version::HTTP_11,
        "ListStreams",
        CBOR,
        Bytes::new(),
    )
    .await;
    assert_eq!((refused.status, refused.content_type.as_str()), (415, JSON));
    let error: serde_json::Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!(error["__type"], "SerializationException");
    let taken = raw::call(
        &served.server,
        Version::HTTP_11,
        "ListStreams",
        JSON,
        Bytes::new(),
    )
    .await;
    assert_eq!(taken.status, 200);
}

#[tokio::test]
async fn hanging_call_blocks_no_other_on_its_connection() {
    let served = Served::as_kinesis(1).await;
    let rule = FaultRule::new(Fault::Hang).on(Operation::DescribeStream);
    served.server.faults().inject(rule);
    let mut connection = raw::http_2(&served.server).await;
    let mut call = |target| connection.send_request(raw::request(&served.server, target, JSON, "{}"));
    let hanging = call("DescribeStream");
    let answer = soon(call("ListStreams")).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.version()),
        (200, Version::HTTP_2)
    );
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let listed: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(listed["StreamNames"], serde_json::json!([NAME]));
    assert!(stays_silent(hanging).await);
    assert_eq!(served.server.requests().count(Operation::DescribeStream), 1);
}

#[tokio::test]
async fn cbor_events_come_over_http_2() {
    let served = Served::with(1, WireOptions::unlimited()).await;
    served.stream.put("key", "a").unwrap();
    served.stream.split(&shard(0)).unwrap();
    let arn = served.arn().await;
    let request = cbor!({ "StreamARN" => arn, "ConsumerName" => "app" }).unwrap();
    let registered = call(&served, Version::HTTP_2, "RegisterStreamConsumer", &request).await;
    let request = cbor!({
        "ConsumerARN" => text(member(&registered, "Consumer"), "ConsumerARN"),
        "ShardId" => shard(0).to_string(),
        "StartingPosition" => { "Type" => "TRIM_HORIZON" },
    });
    let request = encode(&request.unwrap());
    let answer = raw::send(&served.server, Version::HTTP_2, "SubscribeToShard", CBOR, request);
    let answer = answer.await.unwrap();
    assert_eq!(
        answer.headers()["content-type"],
        "application/vnd.amazon.eventstream"
    );
    // The shard is at its end, and so is the body.
    let mut body = soon(answer.into_body().collect()).await.unwrap().to_bytes();

    let mut decoder = MessageFrameDecoder::new();
    let mut frames = Vec::new();
    while let DecodedFrame::Complete(frame) = decoder.decode_frame(&mut body).unwrap() {
        let header = |name| {
            let header = frame
                .headers()
                .iter()
                .find(|header| header.name().as_str() == name);
            header.unwrap().value().as_string().unwrap().as_str().to_owned()
        };
        assert_eq!(
            (header(":message-type").as_str(), header(":content-type").as_str()),
            ("event", CBOR)
        );
        frames.push((header(":event-type"), decode(frame.payload())));
    }
    let kinds: Vec<&str> = frames.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["initial-response", "SubscribeToShardEvent"]);
    let event = &frames[1].1;
    let records = member(event, "Records").as_array().unwrap();
    assert_eq!(member(&records[0], "Data"), &Value::Bytes(b"a".to_vec()));
    assert_eq!(member(event, "ChildShards").as_array().unwrap().len(), 2);
    let members = event.as_map().unwrap();
    assert!(
        members
            .iter()
            .all(|(name, _)| name.as_text() != Some("ContinuationSequenceNumber"))
    );
}
