//! Clients that are not ours, as readers of the wire server: through a split and a merge, what they deliver is compared with
//! what was put.
//!
//! The Java KCL is judged by [`java_conformance`](crate::java_conformance) in the same way; its verdicts belong to this lane too.

mod client;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use kcl_core::clock::{Clock, ClockExt as _, TokioClock};
use kcl_core::types::{Record, ShardId};
use kcl_lease_memory::MemoryStream;
use kcl_testkit::invariant::Tally;
use kinesis_local::{WireOptions, WireServer};

use crate::java_conformance::seen::Seen;
use crate::java_conformance::{closed_shards, open_neighbours, open_shards, put};
use crate::testbed::{Testbed, scratch};

pub use client::Client;
use client::Running;

/// How long a client may take from one phase to the next: those that keep leases wait for them.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often what was seen is looked at.
const POLL: Duration = Duration::from_millis(200);

/// The outcome of a client's run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It delivered everything that was put.
    Complete {
        /// How many records were put.
        records: u64,
        /// How many of them it delivered again.
        twice: u64,
        /// Seconds from its start to the first records, through the split and through the merge.
        seconds: [u64; 3],
    },
    /// It cannot run here, with what is missing.
    LeftOut(String),
    /// It ended, or did not deliver everything in time.
    Incomplete(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete {
                records,
                twice,
                seconds: [start, split, merge],
            } => write!(
                f,
                "complete: {records} records in order, {twice} again; {start} s to the first, {split} s through the split, \
                 {merge} s through the merge"
            ),
            Self::LeftOut(lack) => write!(f, "LEFT OUT: {lack}"),
            Self::Incomplete(what) => write!(f, "INCOMPLETE: {what}"),
        }
    }
}

/// Lets one client read a stream of its own.
pub async fn run(client: Client, testbed: Option<&Testbed>) -> Outcome {
    if client.needs_dynamo() && testbed.is_none() {
        return Outcome::LeftOut("it keeps its state in DynamoDB, and none can be had here".to_owned());
    }
    let stream = MemoryStream::builder("foreign").shards(2).build();
    let server = WireServer::start([stream.clone()], WireOptions::default()).await;
    let server = server.expect("a port on the loopback interface");
    put(&stream);
    let clock = TokioClock::new();
    let unique = format!("{client:?}-{:x}", clock.wall().as_millis());
    let folder = scratch().join("foreign").join(unique);
    let running = Running::start(client, "foreign", server.endpoint(), testbed, folder);
    let outcome = match running {
        Err(lack) => Outcome::LeftOut(lack),
        Ok(mut running) => match read_through(client, &stream, &mut running).await {
            Ok((tally, seconds)) => Outcome::Complete {
                records: tally.put,
                twice: tally.redelivered,
                seconds,
            },
            Err(what) => {
                let folder = running.folder().display();
                Outcome::Incomplete(format!(
                    "{what}\n    {}\n    logs: {folder}",
                    running.last_words()
                ))
            }
        },
    };
    server.stop().await;
    outcome
}

/// Reshards the stream while the client reads it.
async fn read_through(
    client: Client,
    stream: &MemoryStream,
    running: &mut Running,
) -> Result<(Tally, [u64; 3]), String> {
    let first = caught_up(client, stream, running).await?.1;
    let shards = open_shards(stream);
    let [low, _] = stream.split(&shards[0]).map_err(|error| error.to_string())?;
    put(stream);
    let split = caught_up(client, stream, running).await?.1;
    let [low, high] = open_neighbours(stream, &low);
    stream.merge(&low, &high).map_err(|error| error.to_string())?;
    put(stream);
    let (tally, merge) = caught_up(client, stream, running).await?;
    Ok((tally, [first, split, merge]))
}

/// Waits until the client has delivered everything, and returns the counts and how many seconds that took.
async fn caught_up(
    client: Client,
    stream: &MemoryStream,
    running: &mut Running,
) -> Result<(Tally, u64), String> {
    // Some hand out contents only, which are different in every record.
    let place = |(shard, record): (ShardId, Record)| {
        let content = String::from_utf8_lossy(record.data()).into_owned();
        (content, (shard, record.position().clone()))
    };
    let places: BTreeMap<_, _> = stream.put_log().into_iter().map(place).collect();
    let closed = match client.notes_ends() {
        true => closed_shards(stream),
        false => Vec::new(),
    };
    let clock = TokioClock::new();
    let began = clock.now();
    loop {
        let mut seen = Seen::read(running.folder());
        seen.locate(&places);
        let elapsed = clock.now().saturating_since(began);
        match seen.verdict(stream, &closed) {
            Ok(tally) => return Ok((tally, elapsed.as_secs())),
            Err(wrong) if elapsed > PATIENCE => return Err(wrong),
            Err(_) => running.check_alive()?,
        }
        clock.sleep(POLL).await;
    }
}
