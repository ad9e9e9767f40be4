//! The end of a shard, and what looks like it.

use kcl_core::source::{ShardEnd, SourceErrorKind, StartPosition, StreamSource as _};
use serde_json::{Value, json};

use crate::server::{Server, error, iterator, next, numbers, ok, record, records, shard};

fn child(id: u32, parents: &[&str], start: &str, end: &str) -> Value {
    json!({
        "ShardId": format!("shardId-{id:012}"),
        "ParentShards": parents,
        "HashKeyRange": { "StartingHashKey": start, "EndingHashKey": end },
    })
}

#[tokio::test(start_paused = true)]
async fn missing_next_iterator_ends_shard_with_its_children() {
    let parents = ["shardId-000000000001"];
    let server = Server::with([
        iterator("i0"),
        ok(json!({
            "Records": [record(1)],
            "ChildShards": [child(2, &parents, "0", "99"), child(3, &parents, "100", "199")],
            "MillisBehindLatest": 0,
        })),
    ]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    let last = next(&mut reader).await.unwrap();
    assert_eq!(last.records.len(), 1);
    let end = last.end.unwrap();
    let ids: Vec<_> = end.children.iter().map(|child| child.id.as_str()).collect();
    assert_eq!(ids, ["shardId-000000000002", "shardId-000000000003"]);
    assert!(end.children.iter().all(|child| child.parents == [shard()].into()));
    assert_eq!(end.children[1].hash_range.start(), 100);
    server.asked();

    let again = next(&mut reader).await.unwrap();
    assert_eq!((again.records.len(), again.end), (0, Some(end)));
    assert_eq!(server.asked(), [], "an ended shard is asked no more");
}

/// An answer without its members, of an open shard: the same iterator is asked again.
#[tokio::test(start_paused = true)]
async fn incomplete_answer_is_asked_for_again() {
    for incomplete in [
        json!({}),
        json!({ "Records": [], "NextShardIterator": null, "ChildShards": [], "MillisBehindLatest": 0 }),
    ] {
        let server = Server::with([
            iterator("i0"),
            records(&[1], "i1"),
            ok(incomplete),
            records(&[2], "i2"),
            records(&[3], "i3"),
        ]);
        let mut reader = server.open(StartPosition::TrimHorizon).await;
        assert_eq!(numbers(&mut reader).await, ["1"]);
        let fetch = next(&mut reader).await.unwrap();
        assert_eq!((fetch.records.len(), fetch.end), (1, None));
        assert_eq!(numbers(&mut reader).await, ["3"]);
        assert_eq!(server.trace(), ["TRIM_HORIZON", "i0", "i1", "i1", "i2"]);
    }
}

/// An answer with records that shows no place to go on is none to go by: the next read goes on at the last record.
#[tokio::test(start_paused = true)]
async fn answer_with_records_is_no_claim() {
    let server = Server::with([
        iterator("i0"),
        ok(json!({ "Records": [record(1)] })),
        iterator("j0"),
        records(&[1, 2], "j1"),
    ]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    let fetch = next(&mut reader).await.unwrap();
    assert_eq!((fetch.records.len(), fetch.end), (1, None));
    assert_eq!(numbers(&mut reader).await, ["2"]);
    assert_eq!(server.trace(), ["TRIM_HORIZON", "i0", "AT_SEQUENCE_NUMBER", "j0"]);
}

#[tokio::test(start_paused = true)]
async fn answers_without_content_end_nothing() {
    let server = Server::with([iterator("i0"), records(&[1], "i1")]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    next(&mut reader).await.unwrap();
    for _ in 0..20 {
        server.then([ok(json!({})), ok(json!({}))]);
        let failed = next(&mut reader).await.unwrap_err();
        assert_eq!(failed.kind(), SourceErrorKind::Unavailable);
        assert!(failed.to_string().contains("no content"), "{failed}");
    }
    server.then([records(&[2], "i2")]);
    assert_eq!(numbers(&mut reader).await, ["2"]);
}

/// Twice no iterator and no children is a claim: it is reported as that, and the reader goes on at the last record.
#[tokio::test(start_paused = true)]
async fn claimed_end_is_told_and_not_kept() {
    let nothing = || ok(json!({ "Records": [], "NextShardIterator": null }));
    let server = Server::with([iterator("i0"), records(&[1], "i1"), nothing(), nothing()]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    next(&mut reader).await.unwrap();
    let claim = next(&mut reader).await.unwrap();
    assert_eq!(claim.end, Some(ShardEnd::default()));
    server.then([iterator("j0"), records(&[1, 2], "j1")]);
    assert_eq!(numbers(&mut reader).await, ["2"]);
    assert_eq!(
        server.trace(),
        ["TRIM_HORIZON", "i0", "i1", "i1", "AT_SEQUENCE_NUMBER", "j0"]
    );
}

/// With an iterator that was made at the last record.
#[tokio::test(start_paused = true)]
async fn claimed_end_tells_of_no_lost_record() {
    let nothing = || ok(json!({ "Records": [], "NextShardIterator": null }));
    let expired = error(400, "ExpiredIteratorException");
    let start = [iterator("i0"), records(&[1], "i1"), expired];
    let server = Server::with(start.into_iter().chain([iterator("j0"), nothing(), nothing()]));
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    next(&mut reader).await.unwrap();
    let claim = next(&mut reader).await.unwrap();
    assert_eq!((claim.end, claim.lost_place), (Some(ShardEnd::default()), None));
    server.then([iterator("k0"), records(&[3], "k1")]);
    let lost = next(&mut reader).await.unwrap().lost_place;
    assert_eq!(lost, Some(1_u128.into()));
}

#[tokio::test(start_paused = true)]
async fn children_beside_next_iterator_do_not_end_shard() {
    let server = Server::with([
        iterator("i0"),
        ok(json!({
            "Records": [],
            "NextShardIterator": "i1",
            "ChildShards": [child(2, &["shardId-000000000001"], "0", "99")],
        })),
        records(&[1], "i2"),
    ]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    let named = next(&mut reader).await.unwrap();
    assert_eq!((named.end, named.children.len()), (None, 1));
    assert_eq!(next(&mut reader).await.unwrap().records.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn senseless_children_do_not_end_the_shard() {
    let nameless = child(2, &["shardId-000000000001"], "99", "0");
    let server = Server::with([
        iterator("i0"),
        ok(json!({ "Records": [], "ChildShards": [nameless] })),
        records(&[1], "i1"),
    ]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    let failed = next(&mut reader).await.unwrap_err();
    assert_eq!(failed.kind(), SourceErrorKind::Invalid);
    assert_eq!(next(&mut reader).await.unwrap().records.len(), 1);
}

/// A stream that was deleted must not look like a shard that was read to its end.
#[tokio::test(start_paused = true)]
async fn vanished_stream_is_not_found_never_an_end() {
    let gone = || error(400, "ResourceNotFoundException");
    let server = Server::with([iterator("i0"), gone(), gone()]);
    let mut reader = server.open(StartPosition::TrimHorizon).await;
    for _ in 0..2 {
        let failed = next(&mut reader).await.unwrap_err();
        assert_eq!(failed.kind(), SourceErrorKind::NotFound);
    }
    let server = Server::with([gone()]);
    let failed = server.stream().open(&shard(), StartPosition::TrimHorizon).await;
    assert_eq!(failed.unwrap_err().kind(), SourceErrorKind::NotFound);
}
