//! An operator's desk beside a fleet that runs: `kcl`, the command, and what the logs of the workers show of each order.

use std::collections::BTreeMap;

use kcl_core::clock::{Clock as _, TokioClock};
use kcl_core::types::{RecordPosition, SequenceNumber, Timestamp};
use serde_json::Value;

use super::drive::{Fleet, SOON};
use super::log::Entry;
use super::ownership::{first_of_next, records};
use super::processes::Process;
use crate::command::{Kcl, Ran};
use crate::testbed::Testbed;
use crate::wait::eventually;

/// A fleet and the command that acts on it.
#[derive(Debug)]
pub struct Desk {
    /// The servers.
    pub testbed: Testbed,
    /// The fleet.
    pub fleet: Fleet,
    kcl: Kcl,
    /// Stand for the names of this run in the lines of commands.
    names: BTreeMap<&'static str, String>,
    /// The processes of the workers, as they were started.
    processes: BTreeMap<String, u32>,
}

/// A record as the stream has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its place.
    pub position: RecordPosition,
    /// When the service received it.
    pub arrived: Timestamp,
    /// Its partition key.
    pub key: String,
    /// Its payload.
    pub data: Vec<u8>,
}

impl Desk {
    /// Sits down beside this fleet. In the lines of commands `APP` and `STREAM` stand for its application and its stream.
    pub fn new(testbed: &Testbed, fleet: Fleet, kcl: Kcl) -> Self {
        let processes = fleet
            .live()
            .map(|worker| (worker.name().to_owned(), worker.id()))
            .collect();
        let names = BTreeMap::from([
            ("APP", fleet.application.clone()),
            ("STREAM", fleet.stream.clone()),
        ]);
        Self {
            testbed: testbed.clone(),
            fleet,
            kcl,
            names,
            processes,
        }
    }

    /// Lets this word stand for a name of this run.
    pub fn name(&mut self, word: &'static str, name: &str) {
        self.names.insert(word, name.to_owned());
    }

    /// Runs `kcl` with the words of this line, and prints how long that took.
    ///
    /// # Panics
    ///
    /// When it ends with another exit code.
    pub fn run(&self, line: &str, code: i32) -> Ran {
        let ran = self.kcl.run(&self.words(line));
        assert_eq!(ran.code, code, "kcl {line}: {ran:?}");
        println!("{:6.2} s  kcl {line}", ran.took.as_secs_f64());
        ran
    }

    /// Looks with the words of this line until something is found, as the exit code says, and the answer in JSON is as expected.
    pub async fn found<T>(&self, line: &str, expected: impl Fn(&Value) -> Option<T>) -> T {
        let words = self.words(line);
        eventually(SOON, async || {
            let ran = self.kcl.run(&[&words[..], &["-o", "json"]].concat());
            let answer = (ran.code == 1).then(|| serde_json::from_str(&ran.output).ok());
            let found = answer.flatten().and_then(|answer| expected(&answer));
            found.ok_or_else(|| format!("kcl {line}: {ran:?}"))
        })
        .await
    }

    fn words<'a>(&'a self, line: &'a str) -> Vec<&'a str> {
        let words = line.split_whitespace();
        words
            .map(|word| self.names.get(word).map_or(word, String::as_str))
            .collect()
    }

    /// The same with JSON as its output.
    pub fn ask(&self, line: &str, code: i32) -> Value {
        let ran = self.run(&format!("{line} -o json"), code);
        serde_json::from_str(&ran.output).unwrap_or_else(|error| panic!("kcl {line}: {error}: {ran:?}"))
    }

    /// Gives an order, each answer to which must be `obeyed`.
    pub fn order(&self, line: &str) -> Value {
        let answers = self.ask(line, 0);
        let rows = answers.as_array().expect("an order has a row for each subject");
        let is_obeyed = rows.iter().all(|row| row["answer"] == "obeyed");
        assert!(is_obeyed && !rows.is_empty(), "kcl {line}: {answers:#}");
        answers
    }

    /// The logs of all workers of the fleet until now.
    pub fn logs(&self) -> Vec<Vec<Entry>> {
        self.fleet.live().map(Process::entries).collect()
    }

    /// How many records workers were given of a shard until now, repeated ones too.
    pub fn processed(&self, shard: &str) -> usize {
        records(&self.logs(), shard).len()
    }

    /// Waits until each of these shards has given workers so many more records.
    pub async fn gains(&self, shards: &[String], more: usize) {
        let before: Vec<usize> = shards.iter().map(|shard| self.processed(shard)).collect();
        eventually(SOON, async || {
            let gained = shards
                .iter()
                .zip(&before)
                .map(|(shard, before)| self.processed(shard) - before);
            let gained: Vec<usize> = gained.collect();
            match gained.iter().all(|gained| *gained >= more) {
                true => Ok(()),
                false => Err(format!("{shards:?} gained {gained:?} of {more}")),
            }
        })
        .await;
    }

    /// Waits until workers have been given all that was put into a shard before the call.
    pub async fn caught_up(&self, shard: &str) {
        let puts = self.fleet.puts();
        let newest = puts.into_iter().filter(|put| put.shard == shard);
        let newest = newest.map(|put| put.position).max().expect("it has records");
        eventually(SOON, async || {
            let logs = self.logs();
            let last = records(&logs, shard)
                .last()
                .map(|(.., position)| (*position).clone());
            match last {
                Some(last) if last >= newest => Ok(()),
                last => Err(format!("{shard} is at {last:?}, {newest} was put")),
            }
        })
        .await;
    }

    /// Waits for the first record that workers are given by an ownership that began at this time or later.
    pub async fn first_of_next(&self, shard: &str, at: f64) -> RecordPosition {
        eventually(SOON, async || {
            let logs = self.logs();
            let first = first_of_next(&logs, shard, at).map(|(_, position)| position.clone());
            first.ok_or_else(|| format!("no ownership of {shard} began"))
        })
        .await
    }

    /// All records of a shard, as the stream has them now.
    pub async fn stored(&self, shard: &str) -> Vec<Stored> {
        stored(&self.testbed, &self.fleet.stream, shard).await
    }

    /// Asserts that the workers are the processes that were started.
    pub fn check_processes(&mut self) {
        self.fleet.check_processes();
        for worker in self.fleet.live() {
            assert_eq!(self.processes.get(worker.name()), Some(&worker.id()));
        }
    }
}

/// All records of a shard, as the stream has them now.
///
/// # Panics
///
/// When it cannot be read.
pub async fn stored(testbed: &Testbed, stream: &str, shard: &str) -> Vec<Stored> {
    let records = testbed.records(stream, shard).await;
    let records = records.into_iter().map(|record| {
        let sequence: SequenceNumber = record.sequence_number().parse().expect("digits");
        let arrived = record.approximate_arrival_timestamp();
        let arrived = arrived.and_then(|time| time.to_millis().ok());
        Stored {
            position: RecordPosition::plain(sequence),
            arrived: Timestamp::from_millis(arrived.expect("the service notes the time")),
            key: record.partition_key().unwrap_or_default().to_owned(),
            data: record.data().as_ref().to_vec(),
        }
    });
    records.collect()
}

/// Seconds since the start of 1970, as in the logs.
pub fn now() -> f64 {
    TokioClock::new().wall().as_millis() as f64 / 1000.0
}
