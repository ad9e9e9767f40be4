//! Records in CBOR, and in JSON where a server wants that.

use kcl_core::source::{RecordStream, SourceErrorKind, StartPosition, StreamSource as _};
use kcl_kinesis::{PollingSettings, RecordFormat};
use serde_json::json;

use crate::encoding::CBOR;
use crate::server::{Answer, Server, error, iterator, next, numbers, ok, records, shard};

async fn open(server: &Server, format: RecordFormat) -> Box<dyn RecordStream> {
    let settings = PollingSettings {
        format,
        ..PollingSettings::default()
    };
    let stream = server.stream().with_polling(settings);
    stream.open(&shard(), StartPosition::TrimHorizon).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn both_formats_bring_the_same_records() {
    let answers = || {
        Server::with([
            iterator("i0"),
            records(&[1, 2], "i1"),
            ok(json!({
                "Records": [],
                "NextShardIterator": null,
                "MillisBehindLatest": 7,
                "ChildShards": [{
                    "ShardId": "shardId-000000000002",
                    "ParentShards": ["shardId-000000000001"],
                    "HashKeyRange": { "StartingHashKey": "0", "EndingHashKey": "9" },
                }],
                "SomethingNew": { "a": [1, 2] },
            })),
        ])
    };
    let mut fetched = Vec::new();
    for format in [RecordFormat::Cbor, RecordFormat::Json] {
        let server = answers();
        let mut reader = open(&server, format).await;
        let mut two = [next(&mut reader).await.unwrap(), next(&mut reader).await.unwrap()];
        assert_eq!(
            server.operations(),
            ["GetShardIterator", "GetRecords", "GetRecords"]
        );
        assert!(two[0].bytes >= 24, "{} bytes", two[0].bytes);
        // Only what they keep in memory differs.
        two[0].bytes = 0;
        two[1].bytes = 0;
        fetched.push(two);
    }
    assert_eq!(fetched[0], fetched[1]);
    let [two, end] = &fetched[0];
    assert_eq!(&two.records[0].data()[..], b"hello");
    assert_eq!(
        two.records[1].approximate_arrival().unwrap().as_millis(),
        1_767_225_600_125
    );
    assert_eq!(end.end.as_ref().unwrap().children.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_records_of_an_answer_share_its_memory() {
    let server = Server::with([iterator("i0"), records(&[1, 2, 3], "i1")]);
    let fetch = next(&mut open(&server, RecordFormat::Cbor).await).await.unwrap();
    let place = |bytes: &[u8]| bytes.as_ptr() as usize;
    let first = place(fetch.records[0].data());
    for record in &fetch.records {
        let parts = [
            place(record.data()),
            place(record.sequence_number().as_str().as_bytes()),
            place(record.partition_key().unwrap().as_bytes()),
        ];
        assert!(
            parts.iter().all(|part| part.abs_diff(first) < fetch.bytes),
            "{parts:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn server_without_cbor_is_then_asked_in_json() {
    for refusal in [
        error(400, "SerializationException"),
        error(415, "UnsupportedMediaTypeException"),
        error(400, "UnknownOperationException"),
        // It answers in JSON whatever it was asked in.
        records(&[1], "other"),
    ] {
        let server = Server::with([iterator("i0"), records(&[1], "i1"), records(&[2], "i2")]);
        let server = server.that_refuses_cbor(refusal.clone());
        let mut reader = open(&server, RecordFormat::Cbor).await;
        assert_eq!(numbers(&mut reader).await, ["1"], "{refusal:?}");
        assert_eq!(numbers(&mut reader).await, ["2"], "{refusal:?}");
        assert_eq!(
            server.operations(),
            ["GetShardIterator", "GetRecords", "GetRecords", "GetRecords"],
            "{refusal:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn answer_of_intermediary_does_not_change_the_format() {
    for (status, kind) in [
        (503, SourceErrorKind::Unavailable),
        (502, SourceErrorKind::Unavailable),
        (429, SourceErrorKind::Throttled),
        (403, SourceErrorKind::Denied),
    ] {
        let server = Server::with([iterator("i0"), Answer::Page(status), records(&[1], "i1")]);
        let mut reader = open(&server, RecordFormat::Cbor).await;
        let failure = next(&mut reader).await.unwrap_err();
        assert_eq!(failure.kind(), kind, "{failure}");
        assert_eq!(numbers(&mut reader).await, ["1"]);
        assert_eq!(
            server.operations(),
            ["GetShardIterator", "GetRecords", "GetRecords"]
        );
        assert_eq!(server.content_types()[1..], [CBOR, CBOR], "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn error_in_cbor_is_told_by_code() {
    let server = Server::with([
        iterator("i0"),
        error(400, "ProvisionedThroughputExceededException"),
    ]);
    let failure = next(&mut open(&server, RecordFormat::Cbor).await)
        .await
        .unwrap_err();
    assert_eq!(failure.kind(), SourceErrorKind::Throttled, "{failure}");
    assert!(failure.to_string().contains("said by the script"), "{failure}");
}
