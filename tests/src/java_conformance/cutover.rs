//! The cut-over from a Java application and the way back, as docs/coming-from-java.md describes them, with the real Java KCL.
//!
//! The daemon of Java and `trucks_worker` take steps on one application of three tables. Every record must be seen by the one whose step
//! it is, and the lease table must hold nothing but leases after each of ours, stopped or killed.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_kinesis::primitives::Blob;
use kcl_core::clock::{Clock, TokioClock};
use serde_json::Value;

use super::java::{Daemon, JavaReading};
use super::seen::Seen;
use crate::fleet::processes::{Process, Scene, build_example};
use crate::testbed::Testbed;
use crate::wait::eventually;

/// Java waits two minutes for the lock of a leader that was killed, and its cold start takes up to two.
const PATIENCE: Duration = Duration::from_secs(400);
/// Ours watches for 35 s before it takes over.
const PATIENCE_WITH_OURS: Duration = Duration::from_secs(240);
const RECORDS_PER_STEP: usize = 60;
const SHARDS: i32 = 4;

/// A step of one of the two libraries, and how long it took until it had read what was put before and during it.
#[derive(Debug)]
pub struct CutoverStep {
    what: String,
    seconds: f32,
}

impl fmt::Display for CutoverStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:6.1} s  {}", self.seconds, self.what)
    }
}

/// A record: its shard and its sequence number.
type Key = (String, String);

struct Cutover<'a> {
    testbed: &'a Testbed,
    jars: PathBuf,
    program: PathBuf,
    scene: Scene,
    application: String,
    stream: String,
    put: BTreeSet<Key>,
    steps: Vec<CutoverStep>,
    starts: usize,
}

/// Lets Java and ours take steps.
///
/// # Errors
///
/// The software that cannot be installed here, for people.
///
/// # Panics
///
/// When a record is not seen in the step in which it should be, or something else is not as the documentation says.
pub async fn run(testbed: &Testbed) -> Result<Vec<CutoverStep>, String> {
    let jars = crate::testbed::java_kcl()?;
    let application = testbed.unique("cutover");
    let stream = format!("{application}-stream");
    testbed.create_stream(&stream, SHARDS).await;
    let mut scenario = Cutover {
        testbed,
        jars,
        program: build_example("trucks_worker", false),
        scene: Scene::new(testbed, "cutover"),
        application,
        stream,
        put: BTreeSet::new(),
        steps: Vec::new(),
        starts: 0,
    };
    scenario.tell().await;
    testbed.delete_stream(&scenario.stream).await;
    Ok(scenario.steps)
}

impl Cutover<'_> {
    async fn tell(&mut self) {
        let java = self.java("java cold start").await;
        self.refused(
            "while Java runs, with the setting",
            &["--take-over-java"],
            "a moment ago",
        )
        .await;
        java.terminate().await;
        self.refused("without the setting", &[], "--take-over-java").await;

        let ours = self.ours("ours takes over", &["--take-over-java"]).await;
        self.stop(ours).await;
        for time in ["once", "twice", "three times"] {
            let ours = self
                .ours(&format!("ours restarted {time} without the setting"), &[])
                .await;
            self.stop(ours).await;
        }
        let java = self.java("java after SIGTERM of ours").await;
        java.terminate().await;

        let mut ours = self.ours("ours after SIGTERM of java", &[]).await;
        ours.kill();
        self.only_leases().await;
        let java = self.java("java after kill -9 of ours").await;
        self.refused("while Java runs, without the setting", &[], "needs no setting")
            .await;
        drop(java);

        let ours = self.ours("ours after kill -9 of java", &[]).await;
        self.stop(ours).await;
    }

    /// Java reads what is put before it starts and after it has.
    async fn java(&mut self, what: &str) -> Daemon {
        let clock = TokioClock::new();
        let began = clock.now();
        let before = self.put().await;
        let name = self.name("java");
        let environment = self.testbed.environment();
        let endpoint = environment
            .iter()
            .find(|(name, _)| name == "AWS_ENDPOINT_URL_KINESIS");
        let daemon = Daemon::start_as(
            self.testbed,
            &self.jars,
            JavaReading::Polling,
            &self.stream,
            endpoint.map_or("", |(_, endpoint)| endpoint),
            &self.application,
            &name,
            self.scene.folder().join(&name),
        );
        self.seen_by_java(&daemon, &before).await;
        let after = self.put().await;
        self.seen_by_java(&daemon, &after).await;
        self.step(what, clock.now().saturating_since(began));
        daemon
    }

    async fn seen_by_java(&self, daemon: &Daemon, put: &BTreeSet<Key>) {
        eventually(PATIENCE, async || {
            daemon.check_alive();
            let seen = Seen::read(daemon.folder());
            let seen = seen
                .all()
                .map(|(shard, position)| (shard.to_string(), position.to_string()));
            missing(put, &seen.collect(), daemon.folder())
        })
        .await;
    }

    /// Ours reads what is put before it starts and after it has.
    async fn ours(&mut self, what: &str, flags: &[&str]) -> Process {
        let clock = TokioClock::new();
        let began = clock.now();
        let before = self.put().await;
        let mut process = self.start(flags);
        self.seen_by_ours(&mut process, &before).await;
        let after = self.put().await;
        self.seen_by_ours(&mut process, &after).await;
        self.step(what, clock.now().saturating_since(began));
        process
    }

    async fn seen_by_ours(&self, process: &mut Process, put: &BTreeSet<Key>) {
        eventually(PATIENCE_WITH_OURS, async || {
            process.check_alive()?;
            missing(put, &self.logged(process), self.scene.folder())
        })
        .await;
    }

    fn logged(&self, process: &Process) -> BTreeSet<Key> {
        let log = self.scene.folder().join(format!("{}.jsonl", process.name()));
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .filter_map(|line| {
                Some((
                    line["shard"].as_str()?.to_owned(),
                    line["seq"].as_str()?.to_owned(),
                ))
            })
            .collect()
    }

    fn start(&mut self, flags: &[&str]) -> Process {
        let name = self.name("ours");
        let mut arguments = vec![
            "--application",
            &self.application,
            "--stream",
            &self.stream,
            "--worker-id",
            &name,
        ];
        arguments.extend(flags);
        self.scene.start(&self.program, &name, &arguments)
    }

    /// A start of ours that must end by itself, writes nothing and says this.
    async fn refused(&mut self, what: &str, flags: &[&str], says: &str) {
        let clock = TokioClock::new();
        let began = clock.now();
        let mut process = self.start(flags);
        let status = process.ended(PATIENCE_WITH_OURS).await;
        let printed = process.printed();
        assert!(
            !status.success() && printed.contains(says),
            "{what}: {status}{printed}"
        );
        assert!(self.logged(&process).is_empty(), "{what}: it processed records");
        self.step(
            &format!("ours refused {what}"),
            clock.now().saturating_since(began),
        );
    }

    async fn stop(&self, mut process: Process) {
        process.terminate();
        let status = process.ended(PATIENCE_WITH_OURS).await;
        assert!(status.success(), "{status}{}", process.printed());
        self.only_leases().await;
    }

    /// The Java KCL before 3.5 fails on every row of the lease table that is no lease.
    async fn only_leases(&self) {
        let scan = Client::new(&self.testbed.dynamo_config())
            .scan()
            .table_name(&self.application)
            .consistent_read(true)
            .send()
            .await;
        for item in scan.expect("the lease table can be read").items() {
            let is_lease = ["leaseCounter", "checkpoint", "ownerSwitchesSinceCheckpoint"]
                .iter()
                .all(|name| item.contains_key(*name));
            assert!(is_lease, "the lease table holds {item:?}");
        }
    }

    async fn put(&mut self) -> BTreeSet<Key> {
        let client = self.testbed.kinesis();
        let mut put = BTreeSet::new();
        for _ in 0..RECORDS_PER_STEP {
            let number = self.put.len();
            let record = client
                .put_record()
                .stream_name(&self.stream)
                .partition_key(format!("truck-{number}"))
                .data(Blob::new(format!("record {number}")))
                .send()
                .await
                .expect("the stream takes records");
            let key = (record.shard_id().to_owned(), record.sequence_number().to_owned());
            self.put.insert(key.clone());
            put.insert(key);
        }
        put
    }

    fn name(&mut self, library: &str) -> String {
        self.starts += 1;
        format!("{library}-{}", self.starts)
    }

    fn step(&mut self, what: &str, took: Duration) {
        let step = CutoverStep {
            what: what.to_owned(),
            seconds: took.as_secs_f32(),
        };
        tracing::info!("{step}");
        self.steps.push(step);
    }
}

fn missing(put: &BTreeSet<Key>, seen: &BTreeSet<Key>, folder: &std::path::Path) -> Result<(), String> {
    let missing = put.difference(seen).count();
    if missing == 0 {
        return Ok(());
    }
    Err(format!(
        "{missing} of {} records were not seen; logs: {}",
        put.len(),
        folder.display()
    ))
}
