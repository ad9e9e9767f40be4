//! A window of the stream is read again beside the live traffic, whole and with nothing else, and each replay ends by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use kcl_core::types::RecordPosition;
use kcl_tests::fleet::desk::{Desk, Stored, stored};
use serde_json::Value;

/// Replays once, twice under a name, and into another stream.
pub(super) async fn replay(desk: &mut Desk, shards: &[String]) {
    let mut all = Vec::new();
    for shard in shards {
        all.push((shard, desk.stored(shard).await));
    }
    let oldest = all.iter().map(|(_, stored)| stored[0].arrived).min();
    let from = oldest
        .expect("every shard has records")
        .plus(Duration::from_secs(3));
    let until = from.plus(Duration::from_secs(4));
    let is_inside = |record: &&Stored| (from..until).contains(&record.arrived);
    let window: Vec<(&str, &Stored)> = all
        .iter()
        .flat_map(|(shard, stored)| {
            stored
                .iter()
                .filter(is_inside)
                .map(|record| (shard.as_str(), record))
        })
        .collect();
    let expected: BTreeSet<(String, RecordPosition)> = window
        .iter()
        .map(|(shard, record)| ((*shard).to_owned(), record.position.clone()))
        .collect();
    let put: BTreeSet<(String, RecordPosition)> = desk
        .fleet
        .puts()
        .into_iter()
        .map(|put| (put.shard, put.position))
        .collect();
    assert!(
        expected.len() > 100 && expected.is_subset(&put),
        "{} records",
        expected.len()
    );

    let line = format!("replay STREAM --from {from} --to {until}");
    let before: usize = shards.iter().map(|shard| desk.processed(shard)).sum();
    assert_eq!(replayed(desk, &line), expected);
    let after: usize = shards.iter().map(|shard| desk.processed(shard)).sum();
    assert!(after > before + 20, "the fleet goes on meanwhile");

    desk.name("NAME", &desk.testbed.unique("walk"));
    let named = format!("{line} --as NAME");
    assert_eq!(replayed(desk, &named), expected);
    assert_eq!(replayed(desk, &named), BTreeSet::new(), "all of it was read");

    let copy = desk.testbed.unique("trucks-copy");
    desk.testbed.create_stream(&copy, 1).await;
    desk.name("COPY", &copy);
    let ran = desk.run(&format!("{line} --to-stream COPY"), 0);
    assert_eq!(ran.output, "");
    let shard = &desk.testbed.open_shards(&copy).await[0];
    let copied = stored(&desk.testbed, &copy, shard.shard_id()).await;
    let contents = |records: &mut dyn Iterator<Item = &Stored>| {
        let contents = records.map(|record| (record.key.clone(), record.data.clone()));
        let mut contents: Vec<_> = contents.collect();
        contents.sort();
        contents
    };
    assert_eq!(
        contents(&mut copied.iter()),
        contents(&mut window.into_iter().map(|(_, record)| record))
    );
    desk.testbed.delete_stream(&copy).await;
}

/// The records that this replay prints, each once and those of a shard in order.
fn replayed(desk: &Desk, line: &str) -> BTreeSet<(String, RecordPosition)> {
    let ran = desk.run(&format!("{line} -o json"), 0);
    let mut printed: Vec<(String, RecordPosition)> = Vec::new();
    for line in ran.output.lines() {
        let record: Value = serde_json::from_str(line).expect("a JSON document a line");
        let text = |name: &str| record[name].as_str().expect("a text").to_owned();
        let sequence = text("sequence_number").parse().expect("digits");
        let record = (text("shard"), RecordPosition::plain(sequence));
        let last = printed.iter().rev().find(|(shard, _)| *shard == record.0);
        assert!(
            last.is_none_or(|(_, last)| *last < record.1),
            "{record:?} after {last:?}"
        );
        printed.push(record);
    }
    printed.into_iter().collect()
}
