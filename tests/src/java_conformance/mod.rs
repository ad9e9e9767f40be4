//! The judge of the wire server: the Java KCL, which must read from it through a split and a merge, by polling and by
//! enhanced fan-out.
//!
//! The Java KCL notices omissions of a server that our own clients do not notice: it asks in CBOR over HTTP/2,
//! takes no end of a shard without children, and goes round in circles where a continuation should be none.

pub mod cutover;

mod java;
pub(crate) mod seen;

use std::fmt;
use std::time::Duration;

use kcl_core::clock::{Clock, TokioClock};
use kcl_core::types::ShardId;
use kcl_lease_memory::MemoryStream;
use kcl_testkit::invariant::Tally;
use kinesis_local::{Operation, WireOptions, WireServer};

use crate::testbed::Testbed;
use crate::wait::eventually;
use java::{Daemon, JavaReading};
use seen::Seen;

/// A cold start of the Java KCL takes up to a minute, and children start up to half a minute after their parents' end.
const PATIENCE: Duration = Duration::from_secs(240);
const RECORDS_A_PHASE: usize = 200;
const STREAM: &str = "conformance";

/// The outcome of the Java KCL's run in one mode.
#[derive(Debug)]
pub struct Verdict {
    mode: JavaReading,
    seconds: [f32; 3],
    records: u64,
    twice: u64,
    shards: usize,
    calls: Vec<(Operation, u64)>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [start, split, merge] = self.seconds;
        write!(
            f,
            "{}: {} records seen ({} twice), in order; {} shards ended; {start:.0} s to the first records, {split:.0} s through \
             the split, {merge:.0} s through the merge",
            self.mode, self.records, self.twice, self.shards
        )?;
        self.calls
            .iter()
            .try_for_each(|(operation, count)| write!(f, "\n    {count:6} {operation}"))
    }
}

/// Lets the Java KCL read in both modes, one after the other.
///
/// # Errors
///
/// The software that cannot be installed here, for people.
///
/// # Panics
///
/// When the Java KCL does not see a record, or a shard's end: the message says which, and where its logs are.
pub async fn run(testbed: &Testbed) -> Result<Vec<Verdict>, String> {
    let jars = crate::testbed::java_kcl()?;
    let mut verdicts = Vec::new();
    for mode in [JavaReading::Polling, JavaReading::FanOut] {
        verdicts.push(judge(testbed, &jars, mode).await);
    }
    Ok(verdicts)
}

async fn judge(testbed: &Testbed, jars: &std::path::Path, mode: JavaReading) -> Verdict {
    let stream = MemoryStream::builder(STREAM).shards(2).build();
    let server = WireServer::start([stream.clone()], WireOptions::default()).await;
    let server = server.expect("a port on the loopback interface");
    let clock = TokioClock::new();
    let began = clock.now();

    put(&stream);
    let daemon = Daemon::start(testbed, jars, mode, STREAM, server.endpoint());
    read_to_the_end_of(&stream, &daemon).await;
    let started = clock.now();

    let shards = open_shards(&stream);
    let [low, _] = stream.split(&shards[0]).expect("an open shard can be split");
    put(&stream);
    read_to_the_end_of(&stream, &daemon).await;
    let split = clock.now();

    // The low half of the first shard is merged with nothing but its own other half or its neighbour; here: the other half.
    let [_, high] = open_neighbours(&stream, &low);
    stream.merge(&low, &high).expect("two halves are adjacent");
    put(&stream);
    let (seen, tally) = read_to_the_end_of(&stream, &daemon).await;
    let merged = clock.now();

    drop(daemon);
    let calls = server.requests().all().into_iter().collect();
    server.stop().await;
    Verdict {
        mode,
        seconds: [(began, started), (started, split), (split, merged)]
            .map(|(from, to)| to.saturating_since(from).as_secs_f32()),
        records: tally.put,
        twice: tally.redelivered,
        shards: seen.ended().len(),
        calls,
    }
}

pub(crate) fn put(stream: &MemoryStream) {
    for _ in 0..RECORDS_A_PHASE {
        let number = stream.put_log().len();
        let put = stream.put(format!("truck-{number}"), format!("record {number}"));
        put.expect("the stream has open shards");
    }
}

pub(crate) fn open_shards(stream: &MemoryStream) -> Vec<ShardId> {
    let shards = stream.shards_snapshot();
    let mut open: Vec<_> = shards
        .into_iter()
        .filter(|shard| !shard.shard.closed)
        .map(|shard| (shard.shard.hash_range.start(), shard.shard.id))
        .collect();
    open.sort();
    open.into_iter().map(|(_, id)| id).collect()
}

/// An open shard and the one whose hash keys follow.
pub(crate) fn open_neighbours(stream: &MemoryStream, first: &ShardId) -> [ShardId; 2] {
    let open = open_shards(stream);
    let at = open.iter().position(|shard| shard == first);
    let at = at.expect("the shard is open");
    [open[at].clone(), open[at + 1].clone()]
}

pub(crate) fn closed_shards(stream: &MemoryStream) -> Vec<ShardId> {
    let shards = stream.shards_snapshot().into_iter();
    let closed = shards.filter(|shard| shard.shard.closed);
    closed.map(|shard| shard.shard.id).collect()
}

/// Returns once every record was seen, in order, and every closed shard ended.
async fn read_to_the_end_of(stream: &MemoryStream, daemon: &Daemon) -> (Seen, Tally) {
    let closed = closed_shards(stream);
    eventually(PATIENCE, async || {
        daemon.check_alive();
        let seen = Seen::read(daemon.folder());
        let tally = seen.verdict(stream, &closed);
        let tally = tally.map_err(|wrong| format!("{wrong}; logs: {}", daemon.folder().display()))?;
        Ok::<_, String>((seen, tally))
    })
    .await
}
