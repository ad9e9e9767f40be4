//! A poison record, set aside and put again; and one at which a shard is held until an operator leaves it out.

use std::fs;

use kcl_tests::fleet::desk::{Desk, now};
use kcl_tests::fleet::drive::SOON;
use kcl_tests::fleet::log::Event;
use kcl_tests::fleet::ownership::records;
use kcl_tests::fleet::processes::Process;
use kcl_tests::wait::eventually;
use serde_json::Value;

/// With a dead-letter sink the shard goes on; the letter is put again after the repair, once.
pub(super) async fn set_aside(desk: &Desk, broken: &str, shards: &[String]) {
    fs::write(broken, "truck-broken\n").expect("the folder is writable");
    let put = desk.ask("put STREAM --key truck-broken --data north", 0);
    let sequence = put["sequence_number"].as_str().expect("a number");
    let letter = desk
        .found("held APP --dead-letters LETTERS", |held| {
            match held["records"].as_array().map(Vec::as_slice) {
                Some([letter]) => Some(letter.clone()),
                _ => None,
            }
        })
        .await;
    assert_eq!(
        (&letter["kind"], &letter["record"], &letter["partition_key"]),
        (&"dead_letter".into(), &sequence.into(), &"truck-broken".into()),
        "{letter:#}"
    );
    assert_eq!(letter["severity"], "poison", "{letter:#}");
    desk.gains(shards, 10).await;
    assert_eq!(deliveries(desk, "truck-broken"), Vec::<String>::new());

    fs::write(broken, "").expect("the folder is writable");
    let planned = desk.ask("redrive APP --dead-letters LETTERS", 0);
    assert_eq!(
        (&planned["executed"], &planned["letters"][0]["outcome"]),
        (&false.into(), &"planned".into()),
        "{planned:#}"
    );
    let redriven = desk.ask("redrive APP --dead-letters LETTERS --execute", 0);
    let letters = redriven["letters"].as_array().expect("a list");
    assert_eq!(letters.len(), 1, "{redriven:#}");
    assert_eq!(letters[0]["outcome"], "redriven", "{redriven:#}");
    let again = letters[0]["to_sequence_number"].as_str().expect("a number");
    eventually(SOON, async || match deliveries(desk, "truck-broken").as_slice() {
        [delivered] if delivered == again => Ok(()),
        other => Err(format!("{other:?}, and it is {again}")),
    })
    .await;
    let second = desk.ask("redrive APP --dead-letters LETTERS --execute", 0);
    assert_eq!(
        (&second["redriven_before"], &second["letters"]),
        (&1.into(), &Value::Array(Vec::new())),
        "{second:#}"
    );
}

/// The records with this key that workers of the fleet processed, as the logs name them.
fn deliveries(desk: &Desk, wanted: &str) -> Vec<String> {
    let logs = desk.logs();
    let delivered = logs.iter().flatten().filter_map(|entry| match &entry.event {
        Event::Record { key, position } if key.as_deref() == Some(wanted) => Some(position.to_string()),
        Event::Record { .. }
        | Event::Initialized { .. }
        | Event::LeaseLost
        | Event::ShardEnded
        | Event::ShutdownRequested => None,
    });
    delivered.collect()
}

/// Without one the shard is held, and says so, until an operator leaves the record out.
pub(super) async fn held(desk: &Desk, broken: &str, archive: &Process, shards: &[String]) {
    fs::write(broken, "truck-held\n").expect("the folder is writable");
    let put = desk.ask("put STREAM --key truck-held --data south", 0);
    let text = |name: &str| put[name].as_str().expect("a text").to_owned();
    let (shard, sequence) = (text("shard"), text("sequence_number"));
    desk.found("status BESIDE --stuck", |status| {
        match status["shards"].as_array().map(Vec::as_slice) {
            Some([stuck]) => (stuck["shard"] == shard.as_str() && stuck["state"] == "HELD").then_some(()),
            _ => None,
        }
    })
    .await;
    let held = desk.ask("held BESIDE", 1);
    let rows = held["records"].as_array().expect("a list");
    assert_eq!(rows.len(), 1, "{held:#}");
    assert_eq!(
        (&rows[0]["kind"], &rows[0]["shard"], &rows[0]["record"]),
        (&"held".into(), &shard.as_str().into(), &sequence.as_str().into()),
        "{held:#}"
    );
    let why = desk.run(&format!("why BESIDE {shard}"), 1).output;
    assert!(why.contains("is HELD") && why.contains(&sequence), "{why}");
    // The shard waits, and the others go on.
    let count = |of: &str| records(&[archive.entries()], of).len();
    let before: Vec<usize> = shards.iter().map(|shard| count(shard)).collect();
    eventually(SOON, async || {
        let gained = shards
            .iter()
            .zip(&before)
            .map(|(shard, before)| count(shard) - before);
        let gained: Vec<usize> = gained.collect();
        let goes_on = |(of, gained): (&String, &usize)| *gained >= 20 || *of == shard;
        match shards.iter().zip(&gained).all(goes_on) {
            true => Ok(()),
            false => Err(format!("{gained:?}")),
        }
    })
    .await;
    let at = shards.iter().position(|other| *other == shard).expect("a shard");
    assert_eq!(count(&shard), before[at], "{shard} is held");

    let from = now();
    desk.order(&format!("skip BESIDE {shard}"));
    eventually(SOON, async || match count(&shard) - before[at] {
        gained if gained >= 20 => Ok(()),
        gained => Err(format!("{gained} records after the skip")),
    })
    .await;
    println!("{:6.2} s  until 20 records behind the skipped one", now() - from);
    let skipped = |(.., position): (f64, &str, &kcl_core::types::RecordPosition)| {
        position.sequence.to_string() == sequence
    };
    assert!(
        !records(&[archive.entries()], &shard).into_iter().any(skipped),
        "it was left out"
    );
    let stuck = desk.ask("status BESIDE --stuck", 0);
    assert_eq!(stuck["shards"], Value::Array(Vec::new()), "{stuck:#}");
    assert_eq!(
        deliveries(desk, "truck-held"),
        [sequence],
        "the other application has no bug"
    );
}
