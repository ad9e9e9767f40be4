//! The README's promise for every server, as one walk: workers come, a shard splits and two merge, one worker is killed, one leaves.

use std::fmt;
use std::time::Duration;

use super::drive::{Fleet, Programs, ReadMode, Shape, lineage};
use crate::testbed::Testbed;

/// The fate of the records.
#[derive(Debug)]
pub struct Walked {
    put: u64,
    again: u64,
}

impl fmt::Display for Walked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "all of {} records seen, {} of them again",
            self.put, self.again
        )
    }
}

/// Walks once, in this mode of reading. Where a reshard deletes records that were not read, nothing is put from before it until all was seen.
///
/// # Panics
///
/// When a record is not seen within a minute, or out of order; the message says which, and where the logs are.
pub async fn walk(testbed: &Testbed, programs: &Programs, read: ReadMode, keeps_unread: bool) -> Walked {
    let shape = Shape {
        shards: 2,
        rate: 20,
        failover: Duration::from_secs(5),
        read,
    };
    let mut fleet = Fleet::start(testbed, programs, shape).await;
    fleet.start_worker();
    fleet.every_open_shard_is_consumed("one worker reads").await;
    fleet.start_worker();
    fleet.balanced(1, 1).await;
    fleet.every_open_shard_is_consumed("two workers share").await;

    let shards = testbed.open_shards(&fleet.stream).await;
    rest(&mut fleet, keeps_unread).await;
    testbed.split(&fleet.stream, &shards[0]).await;
    go_on(&mut fleet, keeps_unread);
    fleet.every_open_shard_is_consumed("after a split").await;
    let victim = fleet.busiest(&[]).expect("a worker holds a shard");
    fleet.kill(&victim);
    fleet.every_open_shard_is_consumed("after kill -9").await;
    fleet.start_worker();
    fleet.every_open_shard_is_consumed("a third worker comes").await;
    let shards = testbed.open_shards(&fleet.stream).await;
    rest(&mut fleet, keeps_unread).await;
    testbed.merge(&fleet.stream, &shards[0], &shards[1]).await;
    go_on(&mut fleet, keeps_unread);
    fleet.every_open_shard_is_consumed("after a merge").await;
    let leaver = fleet.busiest(&[]).expect("a worker holds a shard");
    fleet.terminate(&leaver).await;
    fleet.every_open_shard_is_consumed("after SIGTERM").await;

    fleet.stop_producer().await;
    fleet.everything_is_seen().await;
    fleet.drain().await;
    let evidence = fleet.evidence(lineage(&testbed.shards(&fleet.stream).await));
    let logs = fleet.scene().folder().display();
    let tally = evidence.verdict();
    let tally = tally.unwrap_or_else(|violation| panic!("{violation}; logs in {logs}"));
    fleet.remove().await;
    Walked {
        put: tally.put,
        again: tally.redelivered,
    }
}

async fn rest(fleet: &mut Fleet, keeps_unread: bool) {
    if !keeps_unread {
        fleet.stop_producer().await;
        fleet.everything_is_seen().await;
    }
}

fn go_on(fleet: &mut Fleet, keeps_unread: bool) {
    if !keeps_unread {
        fleet.start_producer();
    }
}
