//! The end of a shard, and what looks like it.

use kcl_core::source::{SourceErrorKind, StartPosition, StreamSource as _};
use serde_json::{Value, json};

use crate::server::{Server, error, iterator, next, ok, record, records, shard};

fn child(id: u32, parents: &[&str], start: &str, end: &str) -> Value {
    json!({
        "ShardId": format!("shardId-{id:012}"),
        "ParentShards": parents,
        "HashKeyRange": { "StartingHashKey": start, "EndingHashKey": end },
    })
}

#[tokio::test(start_paused = true)]
async fn no_next_iterator_ends_the_shard_with_its_last_records_and_children() {
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

#[tokio::test(start_paused = true)]
async fn an_end_without_children_is_an_end_whose_children_are_unknown() {
    for children in [
        json!({ "Records": [] }),
        json!({ "Records": [], "ChildShards": [] }),
    ] {
        let server = Server::with([iterator("i0"), ok(children)]);
        let mut reader = server.open(StartPosition::TrimHorizon).await;
        let end = next(&mut reader).await.unwrap().end.unwrap();
        assert_eq!(end.children, []);
    }
}

#[tokio::test(start_paused = true)]
async fn children_beside_a_next_iterator_do_not_end_the_shard() {
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
    assert_eq!(next(&mut reader).await.unwrap().end, None);
    assert_eq!(next(&mut reader).await.unwrap().records.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn children_that_make_no_sense_do_not_end_the_shard() {
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
async fn a_stream_that_is_gone_is_not_found_and_never_an_end() {
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
