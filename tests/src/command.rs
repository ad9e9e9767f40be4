//! `kcl`, the command, as a process: built, run, and measured; and a fleet on paper for it to look at.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kcl_core::clock::{Clock as _, TokioClock};
use kcl_core::lease_store::{
    Expect, LeaderLock, Lease, LeaseChange, LeaseStore, LockChange, LockExpect, ShardReport, WorkerChange,
    WorkerRow,
};
use kcl_core::types::{
    HashKeyRange, Incarnation, Position, RecordPosition, SequenceNumber, ShardId, StreamIdentity, Timestamp,
    WorkerId,
};
use serde_json::Value;

use crate::figures::process;
use crate::fleet::processes::build;

/// The command, and the environment that it runs in.
#[derive(Debug, Clone)]
pub struct Kcl {
    program: PathBuf,
    folder: PathBuf,
    environment: Vec<(String, String)>,
}

/// One run of the command.
#[derive(Debug, Clone, PartialEq)]
pub struct Ran {
    /// The exit code.
    pub code: i32,
    /// The standard output.
    pub output: String,
    /// The standard error.
    pub complaint: String,
    /// From start to end.
    pub took: Duration,
    /// The most resident memory that was seen, in MiB.
    pub peak_mib: f64,
}

impl Kcl {
    /// Builds the command. Its output goes through files in this folder.
    pub fn build(folder: &Path, environment: Vec<(String, String)>, release: bool) -> Self {
        fs::create_dir_all(folder).expect("the folder is writable");
        Self {
            program: build(&["--package", "kcl-cli", "--bin", "kcl"], "kcl", release),
            folder: folder.to_owned(),
            environment,
        }
    }

    /// The same with another value of a variable.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut other = self.clone();
        other.environment.retain(|(known, _)| known != name);
        other.environment.push((name.to_owned(), value.to_owned()));
        other
    }

    /// Starts it, with its standard error in a file of this name.
    pub fn start(&self, arguments: &[&str], name: &str) -> (Child, PathBuf, PathBuf) {
        let [output, complaint] = ["out", "err"].map(|end| self.folder.join(format!("{name}.{end}")));
        let file = |path: &Path| File::create(path).expect("the folder is writable");
        let child = Command::new(&self.program)
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .env_remove("AWS_PROFILE")
            .stdin(Stdio::null())
            .stdout(file(&output))
            .stderr(file(&complaint))
            .spawn();
        (child.expect("the command runs"), output, complaint)
    }

    /// Runs it to its end.
    ///
    /// Its memory is watched meanwhile: the high-water mark of the kernel, as it was last seen.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let clock = TokioClock::new();
        let name = format!(
            "run-{}-{:?}",
            clock.wall().as_millis(),
            std::thread::current().id()
        );
        let started = clock.now();
        let (mut child, output, complaint) = self.start(arguments, &name);
        let mut peak_mib: f64 = 0.0;
        let status = loop {
            if let Some(cost) = process::cost(child.id()) {
                peak_mib = peak_mib.max(cost.peak_mib);
            }
            if let Some(status) = child.try_wait().expect("it is our child") {
                break status;
            }
            std::thread::yield_now();
        };
        let took = clock.now().saturating_since(started);
        let read = |path: &Path| fs::read_to_string(path).expect("its output is text");
        let ran = Ran {
            code: status.code().unwrap_or(-1),
            output: read(&output),
            complaint: read(&complaint),
            took,
            peak_mib,
        };
        for file in [output, complaint] {
            fs::remove_file(file).expect("the file is ours");
        }
        ran
    }

    /// Runs it with JSON as its output, to this exit code.
    ///
    /// # Panics
    ///
    /// When it ends with another code, or prints no JSON.
    pub fn json(&self, arguments: &[&str], code: i32) -> Value {
        let ran = self.run(&[arguments, &["-o", "json"]].concat());
        assert_eq!(ran.code, code, "{arguments:?}: {ran:?}");
        serde_json::from_str(&ran.output).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
    }
}

/// A fleet on paper: rows of leases, workers and the leader, as workers would write them.
#[derive(Debug, Clone)]
pub struct PaperFleet {
    /// Leases, each of a shard of its own.
    pub shards: u32,
    /// Workers, which share them evenly.
    pub workers: u32,
    /// The stream of the shards.
    pub stream: String,
}

impl PaperFleet {
    /// Writes the rows.
    ///
    /// # Panics
    ///
    /// When the store refuses one.
    pub async fn write(&self, store: &dyn LeaseStore) {
        let run = Incarnation::from_random_bytes([7; 16]);
        let now = TokioClock::new().wall();
        for number in 0..self.workers {
            let row = WorkerRow {
                touches: 17,
                failover: Some(Duration::from_secs(10)),
                ..worker_row(&worker(number), run, now)
            };
            store
                .change_worker(&WorkerChange::Announce(row))
                .await
                .expect("the row is written");
        }
        let lock = LeaderLock {
            owner: worker(0),
            duration: Duration::from_secs(10),
            version: "1".to_owned(),
            released: false,
            standby: Some(worker(1)),
        };
        let held = store
            .change_lock(&LockExpect::Absent, &LockChange::Hold(lock))
            .await;
        held.expect("the lock is free");
        for number in 0..self.shards {
            let lease = self.lease(number, run, now);
            let created = LeaseChange::Create(Box::new(lease.clone()));
            let created = store.change(&lease.key, &Expect::Absent, &created, run).await;
            created.expect("the lease is created");
        }
    }

    fn lease(&self, number: u32, run: Incarnation, now: Timestamp) -> Lease {
        let width = u128::MAX / u128::from(self.shards);
        let start = width * u128::from(number);
        let end = if number + 1 == self.shards {
            u128::MAX
        } else {
            start + width - 1
        };
        let sequence: SequenceNumber = format!("4967{:052}", number).parse().expect("digits");
        let shard = ShardId::new(format!("shardId-{number:012}")).expect("a name");
        let identity = StreamIdentity {
            name: self.stream.clone(),
            arn: format!("arn:aws:kinesis:us-east-1:123456789012:stream/{}", self.stream),
            created: Timestamp::from_millis(1_700_000_000_000),
        };
        let mut lease = Lease::unowned(shard, Position::Record(RecordPosition::plain(sequence)));
        lease.owner = Some(worker(number % self.workers));
        lease.counter = 1;
        lease.hash_range = HashKeyRange::new(start, end).ok();
        lease.identity = Some(identity);
        lease.failover = Some(Duration::from_secs(10));
        lease.throughput = Some(64.0);
        let mut report = ShardReport::new(now);
        report.behind = Duration::from_millis(u64::from(number) * 40);
        report.waiting_for = Some("callback".to_owned());
        report.processed_per_minute = 5_000;
        lease.report = Some(Box::new(report));
        lease.stamp = Some(kcl_core::lease_store::WriteStamp {
            incarnation: run,
            counter: 1,
        });
        lease
    }
}

fn worker(number: u32) -> WorkerId {
    format!("worker-{number:02}.trucks.example")
        .parse()
        .expect("a name")
}

/// The row of a worker that was just written.
pub fn worker_row(id: &WorkerId, run: Incarnation, now: Timestamp) -> WorkerRow {
    WorkerRow {
        id: id.clone(),
        incarnation: Some(run),
        touches: 1,
        failover: Some(Duration::from_secs(10)),
        max_leases: None,
        max_throughput: None,
        updated: now,
        started: Some(now),
        version: Some("0.1.0".to_owned()),
        orders: None,
    }
}
