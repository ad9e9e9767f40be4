//! Reading begins elsewhere in every way that `kcl reset` has, and each time the next ownership begins with just that record.

use std::fs;
use std::time::Duration;

use aws_sdk_kinesis::primitives::Blob;
use kcl_aggregation::Aggregator;
use kcl_core::types::{RecordPosition, Timestamp};
use kcl_tests::fleet::desk::{Desk, Stored, now};
use kcl_tests::testbed::hash_keys;
use serde_json::Value;

/// Walks through the ways.
pub(super) async fn all(desk: &mut Desk, shard: &str) {
    let export = desk.run("export APP -o json", 0).output;
    let file = desk.fleet.scene().folder().join("places.json");
    fs::write(&file, &export).expect("the folder is writable");
    desk.name("FILE", &file.to_string_lossy());
    let export = serde_json::from_str(&export).expect("a document");
    let place = exported(&export, shard);

    let from = reset(desk, shard, "--to-earliest", |_, stored| {
        stored[0].position.clone()
    })
    .await;
    undo(desk, shard, &from).await;
    let stored = desk.stored(shard).await;
    let middle = &stored[stored.len() / 2];
    let at = format!("--to-datetime {}", middle.arrived);
    reset(desk, shard, &at, |_, stored| arrived_at(stored, middle.arrived)).await;
    reset(desk, shard, "--by-duration 5s", |to, stored| {
        arrived_at(stored, time(to))
    })
    .await;
    let sequence = format!("--to-sequence {}", middle.position);
    reset(desk, shard, &sequence, |_, stored| {
        behind(stored, &middle.position)
    })
    .await;
    reset(desk, shard, "--from-file FILE", |to, stored| {
        assert_eq!(to, &place, "as the file says");
        behind(stored, &position(&place))
    })
    .await;

    desk.order(&format!("pause BESIDE {shard}"));
    let beside = desk.ask("export BESIDE", 0);
    let beside = exported(&beside, shard);
    reset(desk, shard, "--to-checkpoint-of BESIDE", |to, stored| {
        assert_eq!(to, &beside, "as the other application has it");
        behind(stored, &position(&beside))
    })
    .await;
    desk.order(&format!("resume BESIDE {shard}"));

    let packed = put_aggregate(desk, shard).await;
    desk.caught_up(shard).await;
    let inside = format!("--to-sequence {}/1", packed.sequence);
    reset(desk, shard, &inside, |_, _| RecordPosition {
        sub_sequence: 2,
        ..packed.clone()
    })
    .await;
    to_latest(desk, shard).await;
}

/// Previews, resets and undoes. Returns the place before, as the answer names it.
async fn reset(
    desk: &Desk,
    shard: &str,
    to: &str,
    expected: impl FnOnce(&str, &[Stored]) -> RecordPosition,
) -> String {
    desk.caught_up(shard).await;
    let (line, began) = (format!("reset APP {shard} {to}"), now());
    let before = desk.ask(&format!("status APP {shard}"), 0);
    let preview = desk.ask(&line, 0);
    let row = &preview[0];
    assert_eq!(row["is_executed"], false, "{preview:#}");
    let number = |name: &str| row[name].as_i64().expect("the stream says how far the place is");
    println!(
        "          {:.1} s back, about {} records",
        number("back_ms") as f64 / 1000.0,
        number("records")
    );
    let after = desk.ask(&format!("status APP {shard}"), 0);
    let revision = |status: &Value| status["shards"][0]["orders_revision"].clone();
    assert_eq!(revision(&before), revision(&after), "a preview writes nothing");
    let logs = desk.logs();
    let new = logs.iter().flatten().filter(|entry| entry.event.begins());
    assert!(
        new.into_iter().all(|entry| entry.time < began),
        "a preview ends no ownership"
    );

    let at = now();
    let done = desk.ask(&format!("{line} --execute"), 0);
    assert_eq!(done[0]["is_executed"], true, "{done:#}");
    let first = desk.first_of_next(shard, at).await;
    let stored = desk.stored(shard).await;
    let to = done[0]["to"].as_str().expect("a place");
    assert_eq!(first, expected(to, &stored), "{line}: {done:#}");
    done[0]["from"].as_str().expect("a place").to_owned()
}

/// The place of before the newest reset is restored.
async fn undo(desk: &Desk, shard: &str, place: &str) {
    desk.caught_up(shard).await;
    let line = format!("undo APP {shard}");
    let preview = desk.ask(&line, 0);
    assert_eq!(preview[0]["is_executed"], false, "{preview:#}");
    let at = now();
    let done = desk.ask(&format!("{line} --execute"), 0);
    assert_eq!(done[0]["to"], place, "{done:#}");
    let first = desk.first_of_next(shard, at).await;
    let stored = desk.stored(shard).await;
    assert_eq!(first, behind(&stored, &position(place)), "{done:#}");
}

/// Records that arrive during a pause are left out, and read after all once the reset is undone.
async fn to_latest(desk: &Desk, shard: &str) {
    desk.caught_up(shard).await;
    desk.order(&format!("pause APP {shard}"));
    let unread = desk.stored(shard).await.len();
    // A second more than the margin that is kept from the time of the service.
    let until = now() + 3.0;
    kcl_tests::wait::eventually(Duration::from_secs(60), async || {
        let stored = desk.stored(shard).await.len();
        match now() > until && stored > unread + 50 {
            true => Ok(()),
            false => Err(format!("{stored} records, {unread} before the pause")),
        }
    })
    .await;
    let at = now();
    let done = desk.ask(&format!("reset APP {shard} --to-latest --execute"), 0);
    desk.order(&format!("resume APP {shard}"));
    let first = desk.first_of_next(shard, at).await;
    let stored = desk.stored(shard).await;
    let to = done[0]["to"].as_str().expect("a place");
    assert_eq!(first, arrived_at(&stored, time(to)), "{done:#}");
    assert!(first > stored[unread + 10].position, "the pause is left out");
    let from = done[0]["from"].as_str().expect("a place");
    undo(desk, shard, from).await;
    desk.caught_up(shard).await;
}

/// Puts four user records in one into the shard.
async fn put_aggregate(desk: &Desk, shard: &str) -> RecordPosition {
    let mut aggregator = Aggregator::new();
    for number in 0..4 {
        let data = format!("position {number}");
        aggregator
            .add("truck-packed", None, data.as_bytes())
            .expect("it has room");
    }
    let packed = aggregator.finish().expect("four were added");
    let shards = desk.testbed.open_shards(&desk.fleet.stream).await;
    let shard = shards.iter().find(|open| open.shard_id() == shard);
    let (hash_key, _) = hash_keys(shard.expect("it is open"));
    let put = desk
        .testbed
        .kinesis()
        .put_record()
        .stream_name(&desk.fleet.stream)
        .partition_key(packed.partition_key)
        .explicit_hash_key(hash_key.to_string())
        .data(Blob::new(packed.data))
        .send()
        .await
        .expect("the record is put");
    position(put.sequence_number())
}

/// Where an exported document has this shard.
fn exported(document: &Value, shard: &str) -> String {
    let rows = document["checkpoints"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["shard"] == shard);
    let place = row.and_then(|row| row["checkpoint"].as_str());
    place.expect("the shard has a place").to_owned()
}

/// The record at which a place ends.
fn position(place: &str) -> RecordPosition {
    let (sequence, sub) = place.split_once('/').unwrap_or((place, "0"));
    RecordPosition {
        sequence: sequence.parse().expect("a sequence number"),
        sub_sequence: sub.parse().expect("an index"),
    }
}

/// The time that a place names.
fn time(place: &str) -> Timestamp {
    let time = place.strip_prefix("AT_TIMESTAMP ").expect("a time");
    let date = aws_sdk_kinesis::primitives::DateTime::from_str(
        time,
        aws_sdk_kinesis::primitives::DateTimeFormat::DateTime,
    );
    let millis = date.ok().and_then(|date| date.to_millis().ok());
    Timestamp::from_millis(millis.expect("a time"))
}

/// The first record that arrived then or later.
fn arrived_at(stored: &[Stored], at: Timestamp) -> RecordPosition {
    let first = stored.iter().find(|record| record.arrived >= at);
    first.expect("there is one").position.clone()
}

/// The record behind this one.
fn behind(stored: &[Stored], position: &RecordPosition) -> RecordPosition {
    let next = stored.iter().find(|record| record.position > *position);
    next.expect("there is one").position.clone()
}
