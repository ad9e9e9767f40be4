//! Every order of `kcl`, one after the other, on a fleet of processes that goes on meanwhile: each is obeyed, and the logs of the workers
//! show that it is. No worker is started again.

mod letters;
mod replays;
mod resets;

use std::fs;
use std::time::Duration;

use kcl_tests::command::Kcl;
use kcl_tests::fleet::desk::{Desk, now};
use kcl_tests::fleet::drive::{Fleet, Programs, ReadMode, SOON, Shape};
use kcl_tests::fleet::evidence::held;
use kcl_tests::fleet::ownership::records;
use kcl_tests::testbed_or_skip;
use kcl_tests::wait::eventually;

const SHAPE: Shape = Shape {
    shards: 4,
    rate: 100,
    failover: Duration::from_secs(3),
    read: ReadMode::Polling,
};

#[tokio::test]
async fn running_fleet_obeys_every_order() {
    let _alone = crate::ONE_AT_A_TIME.lock().await;
    let testbed = testbed_or_skip!();
    let programs = Programs::build();
    let mut fleet = Fleet::start(&testbed, &programs, SHAPE).await;
    let folder = fleet.scene().folder().to_owned();
    let kcl = Kcl::build(&folder, testbed.environment(), false).with("USER", "ana");
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let (dead_letters, broken) = (file("dead-letters"), file("broken"));
    for keys in [&broken, &file("broken-beside")] {
        fs::write(keys, "").expect("the folder is writable");
    }
    for _ in 0..2 {
        fleet.start_worker_with(&["--dead-letters", &dead_letters, "--broken", &broken]);
    }
    fleet.balanced(2, 2).await;
    fleet.every_open_shard_is_consumed("two workers share").await;
    let beside = testbed.unique("truck-archive");
    let mut archive = fleet.start_of(&beside, "archive-1", &["--broken", &file("broken-beside")]);
    let shards = testbed.open_shards(&fleet.stream).await;
    let shards: Vec<String> = shards.iter().map(|shard| shard.shard_id().to_owned()).collect();
    let mut desk = Desk::new(&testbed, fleet, kcl);
    desk.name("BESIDE", &beside);
    desk.name("LETTERS", &dead_letters);

    pause(&desk, &shards).await;
    limit(&desk, &shards).await;
    move_and_release(&mut desk, &shards[0]).await;
    exclude_and_drain(&mut desk, &shards).await;
    replays::replay(&mut desk, &shards).await;
    resets::all(&mut desk, &shards[3]).await;
    letters::set_aside(&desk, &broken, &shards).await;
    letters::held(&desk, &file("broken-beside"), &archive, &shards).await;

    desk.check_processes();
    archive.check_alive().expect("it runs since its start");
    desk.fleet.stop_producer().await;
    desk.fleet.everything_is_seen().await;
    desk.check_processes();
    archive.terminate();
    assert!(archive.ended(SOON).await.success(), "{}", archive.printed());
    desk.fleet.drain().await;
    desk.fleet.remove().await;
}

/// The shards but this one.
fn others(shards: &[String], shard: &str) -> Vec<String> {
    shards.iter().filter(|other| *other != shard).cloned().collect()
}

/// No record of a paused shard is processed while the others go on, and after the pause none is missing.
async fn pause(desk: &Desk, shards: &[String]) {
    let shard = &shards[0];
    desk.order(&format!("pause APP {shard}"));
    let before = desk.processed(shard);
    desk.gains(&others(shards, shard), 50).await;
    assert_eq!(desk.processed(shard), before, "{shard} is paused");
    let status = desk.ask(&format!("status APP {shard}"), 0);
    assert_eq!(status["shards"][0]["state"], "PAUSED", "{status:#}");

    desk.order(&format!("resume APP {shard}"));
    desk.gains(shards, 30).await;
    let logs = desk.logs();
    let seen: Vec<_> = records(&logs, shard)
        .into_iter()
        .map(|(.., position)| position)
        .collect();
    let stored = desk.stored(shard).await;
    let stored: Vec<_> = stored
        .iter()
        .map(|record| &record.position)
        .take(seen.len())
        .collect();
    assert_eq!(seen, stored, "{shard} went on behind its last record");
}

/// A limited shard falls behind the others, and catches up without the limit.
async fn limit(desk: &Desk, shards: &[String]) {
    const PER_SECOND: usize = 5;
    let shard = &shards[1];
    desk.order(&format!("limit APP {shard} --records {PER_SECOND}"));
    let (before, from) = (desk.processed(shard), now());
    desk.gains(&others(shards, shard), 200).await;
    let gained = desk.processed(shard) - before;
    let seconds = (now() - from).ceil() as usize;
    // What was read before the order, and a second's worth at once.
    let most = (seconds + 2) * PER_SECOND + 25;
    assert!(gained <= most, "{gained} of {most} in {seconds} s");
    assert!(gained >= seconds * PER_SECOND / 2, "{gained} in {seconds} s");
    desk.order(&format!("limit APP {shard} --off"));
    desk.caught_up(shard).await;
}

/// A shard goes to the worker that is named, and goes on there.
async fn move_and_release(desk: &mut Desk, shard: &str) {
    let owner = |desk: &Desk| {
        let status = desk.ask(&format!("status APP {shard}"), 0);
        status["shards"][0]["owner"]
            .as_str()
            .expect("it is owned")
            .to_owned()
    };
    let other = match owner(desk).as_str() {
        "worker-1" => "worker-2",
        _ => "worker-1",
    };
    let from = now();
    desk.order(&format!("move APP {shard} --to {other}"));
    assert_eq!(owner(desk), other);
    let position = desk.first_of_next(shard, from).await;
    let logs = desk.logs();
    let moved = records(&logs, shard)
        .into_iter()
        .find(|(_, worker, at)| *worker == other && **at == position);
    assert!(moved.is_some(), "{other} goes on at {position}");
    desk.order(&format!("release APP {shard}"));
    desk.fleet.balanced(2, 2).await;
}

/// An excluded worker keeps what it has and gets nothing, a drained one has nothing, and an included one has its share again.
async fn exclude_and_drain(desk: &mut Desk, shards: &[String]) {
    let leases = |desk: &Desk| {
        let workers = desk.ask("workers APP", 0);
        let leases = workers["workers"].as_array().expect("a list").iter();
        leases
            .map(|worker| worker["leases"].as_u64().expect("a number"))
            .collect::<Vec<_>>()
    };
    desk.order("exclude APP worker-2");
    assert_eq!(leases(desk), [2, 2]);
    let refused = desk.run(&format!("move APP {} --to worker-2", shards[0]), 4);
    assert!(
        refused.complaint.contains("no worker that gets leases"),
        "{refused:?}"
    );
    desk.order("include APP worker-2");

    desk.order("drain APP worker-2");
    assert_eq!(leases(desk), [4, 0]);
    assert_eq!(held(&desk.fleet.worker("worker-2").entries()).len(), 0);
    desk.gains(shards, 20).await;
    desk.order("include APP worker-2");
    desk.fleet.balanced(2, 2).await;
    eventually(SOON, async || match leases(desk).as_slice() {
        [2, 2] => Ok(()),
        other => Err(format!("{other:?} leases")),
    })
    .await;
}
