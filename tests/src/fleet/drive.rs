//! A fleet on a testbed: a stream with a producer, workers as processes, and waiting for what they do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_kinesis::types::Shard;

use super::evidence::{Evidence, Lineage, held};
use super::leases::owners;
use super::log::{Entry, Put};
use super::processes::{Process, Scene, build_example};
use crate::testbed::Testbed;
use crate::wait::eventually;

/// Generous: what is waited for must happen, on machines of every speed.
pub const SOON: Duration = Duration::from_secs(60);

/// The executables of a fleet.
#[derive(Debug, Clone)]
pub struct Programs {
    pub(crate) worker: PathBuf,
    pub(crate) producer: PathBuf,
}

impl Programs {
    /// Builds both, in the profile of the caller.
    pub fn build() -> Self {
        let release = !cfg!(debug_assertions);
        Self {
            worker: build_example("trucks_worker", release),
            producer: build_example("trucks_producer", release),
        }
    }
}

/// How the workers of a fleet read, as `--read` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ReadMode {
    /// By GetRecords.
    Polling,
    /// By enhanced fan-out.
    FanOut,
}

impl ReadMode {
    fn flag(self) -> &'static str {
        match self {
            Self::Polling => "polling",
            Self::FanOut => "fan-out",
        }
    }
}

impl fmt::Display for ReadMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.flag())
    }
}

/// The shape of a fleet.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Shards of the stream.
    pub shards: i32,
    /// Records per second, of all shards together.
    pub rate: u32,
    /// The failover time.
    pub failover: Duration,
    /// How the workers read.
    pub read: ReadMode,
}

/// A stream, its producer and its workers. Dropping it kills the processes.
#[derive(Debug)]
pub struct Fleet {
    testbed: Testbed,
    programs: Programs,
    shape: Shape,
    scene: Scene,
    /// The stream's name.
    pub stream: String,
    /// The application's name, and the lease table's.
    pub application: String,
    producer: Process,
    /// All that were ever started.
    workers: Vec<Process>,
    /// Those that were ended on purpose.
    gone: BTreeSet<String>,
}

impl Fleet {
    /// Creates the stream and starts the producer; there is no worker yet.
    pub async fn start(testbed: &Testbed, programs: &Programs, shape: Shape) -> Self {
        let stream = testbed.unique("trucks");
        testbed.create_stream(&stream, shape.shards).await;
        let scene = Scene::new(testbed, "fleet");
        let producer = producer(&scene, programs, &stream, shape);
        Self {
            testbed: testbed.clone(),
            programs: programs.clone(),
            shape,
            scene,
            application: testbed.unique("truck-tracker"),
            stream,
            producer,
            workers: Vec::new(),
            gone: BTreeSet::new(),
        }
    }

    /// Starts one more worker. Each has its own id, in the order of their starts.
    pub fn start_worker(&mut self) -> &Process {
        self.start_worker_with(&[])
    }

    /// The same with these arguments, too.
    pub fn start_worker_with(&mut self, more: &[&str]) -> &Process {
        let name = format!("worker-{}", self.workers.len() + 1);
        let worker = self.start_of(&self.application, &name, more);
        self.workers.push(worker);
        self.workers.last().expect("one was just started")
    }

    /// Starts a worker of another application on the same stream. It is no part of the fleet, nor is its log of the evidence.
    pub fn start_of(&self, application: &str, name: &str, more: &[&str]) -> Process {
        let failover = self.shape.failover.as_millis().to_string();
        let arguments = [
            "--application",
            application,
            "--stream",
            &self.stream,
            "--worker-id",
            name,
            "--initial-position",
            "trim-horizon",
            "--failover-ms",
            &failover,
            "--read",
            self.shape.read.flag(),
        ];
        let arguments = [&arguments[..], more].concat();
        self.scene.start(&self.programs.worker, name, &arguments)
    }

    /// Ends a worker without warning, as `kill -9` does.
    pub fn kill(&mut self, name: &str) {
        self.gone.insert(name.to_owned());
        self.worker_mut(name).kill();
    }

    /// Asks a worker to end, and waits until it has.
    pub async fn terminate(&mut self, name: &str) {
        self.gone.insert(name.to_owned());
        let worker = self.worker_mut(name);
        worker.terminate();
        let status = worker.ended(SOON).await;
        assert!(
            status.success(),
            "{name} ended with {status}:{}",
            worker.printed()
        );
    }

    /// Starts the producer again after its end. It goes on with the same log.
    pub fn start_producer(&mut self) {
        self.producer = producer(&self.scene, &self.programs, &self.stream, self.shape);
    }

    /// Ends the producer; records under way are put and logged.
    pub async fn stop_producer(&mut self) {
        self.producer.terminate();
        assert!(
            self.producer.ended(SOON).await.success(),
            "the producer failed:{}",
            self.producer.printed()
        );
    }

    /// Asks every worker to end: they do so by themselves, and leave no lease behind in their names.
    pub async fn drain(&mut self) {
        let live: Vec<String> = self.live().map(|worker| worker.name().to_owned()).collect();
        self.live().for_each(Process::terminate);
        for name in &live {
            let worker = self.worker_mut(name);
            let status = worker.ended(SOON).await;
            assert!(
                status.success(),
                "{name} ended with {status}:{}",
                worker.printed()
            );
        }
        self.gone.extend(live);
        let owners = owners(&self.testbed.dynamo_config(), &self.application)
            .await
            .expect("the lease table is readable");
        let owned: Vec<_> = owners.into_iter().filter(|(_, owner)| owner.is_some()).collect();
        assert!(owned.is_empty(), "leases that were not released: {owned:?}");
    }

    /// Removes the stream and the logs: nobody needs those of a success.
    pub async fn remove(self) {
        self.testbed.delete_stream(&self.stream).await;
        self.scene.remove();
    }

    /// Waits until each open shard has given a live worker a record that was put after this was called.
    pub async fn every_open_shard_is_consumed(&mut self, when: &str) {
        let open = self.testbed.open_shards(&self.stream).await;
        let mut before: BTreeMap<String, usize> = BTreeMap::new();
        for put in self.producer.puts() {
            *before.entry(put.shard).or_default() += 1;
        }
        eventually(SOON, async || {
            self.check_processes();
            let puts = self.producer.puts();
            let mut newest = Vec::new();
            for shard in open.iter().map(Shard::shard_id) {
                let known = before.get(shard).copied().unwrap_or_default();
                let new = puts.iter().filter(|put| put.shard == shard).nth(known);
                newest.push(
                    new.cloned()
                        .ok_or_else(|| format!("{when}: nothing was put into {shard}"))?,
                );
            }
            let evidence = Evidence {
                puts: newest,
                logs: self.live_logs(),
                lineage: Lineage::new(),
            };
            nothing(evidence.lost()).map_err(|lost| format!("{when}: {lost}"))
        })
        .await;
    }

    /// Waits until something was put into each open shard.
    pub async fn every_open_shard_is_filled(&mut self) {
        let open = self.testbed.open_shards(&self.stream).await;
        eventually(SOON, async || {
            let filled: BTreeSet<String> = self.producer.puts().into_iter().map(|put| put.shard).collect();
            let empty = open
                .iter()
                .map(Shard::shard_id)
                .find(|shard| !filled.contains(*shard));
            empty.map_or(Ok(()), |shard| {
                Err(format!(
                    "nothing was put into {shard}:{}",
                    self.producer.printed()
                ))
            })
        })
        .await;
    }

    /// Waits until every live worker holds this many shards, and all together hold each open shard once.
    pub async fn balanced(&mut self, least: usize, most: usize) {
        let open = self.testbed.open_shards(&self.stream).await.len();
        eventually(SOON, async || {
            self.check_processes();
            let held: Vec<usize> = self.live_logs().iter().map(|log| held(log).len()).collect();
            let each = held.iter().all(|shards| (least..=most).contains(shards));
            let balanced = each && held.iter().sum::<usize>() == open;
            if balanced {
                Ok(())
            } else {
                Err(format!("the workers hold {held:?} shards of {open}"))
            }
        })
        .await;
    }

    /// Waits until everything that was put has been seen.
    pub async fn everything_is_seen(&mut self) {
        eventually(SOON, async || {
            self.check_processes();
            nothing(self.evidence(Lineage::new()).lost())
        })
        .await;
    }

    /// Waits until the lease table names a live worker for each open shard, and that worker's log says so, too.
    pub async fn live_workers_own_every_lease(&mut self) {
        let open = self.testbed.open_shards(&self.stream).await;
        let config = self.testbed.dynamo_config();
        eventually(SOON, async || {
            self.check_processes();
            let owners = owners(&config, &self.application).await?;
            for shard in open.iter().map(Shard::shard_id) {
                let owner = owners
                    .get(shard)
                    .ok_or_else(|| format!("{shard} has no lease"))?
                    .as_ref();
                let owner = owner.ok_or_else(|| format!("{shard} has no owner"))?;
                let worker = self.live().find(|worker| worker.name() == owner);
                let worker = worker.ok_or_else(|| format!("{shard} belongs to {owner}, which is gone"))?;
                if !held(&worker.entries()).contains(shard) {
                    return Err(format!("{owner} owns {shard} and does not consume it"));
                }
            }
            Ok(())
        })
        .await;
    }

    /// A live worker that holds shards, as many as any other; not one of `except`.
    pub fn busiest(&self, except: &[&str]) -> Option<String> {
        let busy = self.live().filter(|worker| !except.contains(&worker.name()));
        let busy = busy.map(|worker| (held(&worker.entries()).len(), worker.name().to_owned()));
        busy.filter(|(shards, _)| *shards > 0).max().map(|(_, name)| name)
    }

    /// The worker of this name.
    pub fn worker(&self, name: &str) -> &Process {
        self.workers
            .iter()
            .find(|worker| worker.name() == name)
            .expect("a worker of this fleet")
    }

    /// The workers that were not ended.
    pub fn live(&self) -> impl Iterator<Item = &Process> {
        self.workers
            .iter()
            .filter(|worker| !self.gone.contains(worker.name()))
    }

    /// Everything that the producer and all workers have logged until now.
    pub fn evidence(&self, lineage: Lineage) -> Evidence {
        let logs = self.workers.iter().map(Process::entries).collect();
        Evidence {
            puts: self.producer.puts(),
            logs,
            lineage,
        }
    }

    /// The records that the producer has put until now.
    pub fn puts(&self) -> Vec<Put> {
        self.producer.puts()
    }

    /// Where the logs are.
    pub fn scene(&self) -> &Scene {
        &self.scene
    }

    fn worker_mut(&mut self, name: &str) -> &mut Process {
        self.workers
            .iter_mut()
            .find(|worker| worker.name() == name)
            .expect("a worker of this fleet")
    }

    fn live_logs(&self) -> Vec<Vec<Entry>> {
        self.live().map(Process::entries).collect()
    }

    /// Panics where a worker has ended that was not asked to: it will not do what is waited for.
    pub fn check_processes(&mut self) {
        let gone = &self.gone;
        let workers = self
            .workers
            .iter_mut()
            .filter(|worker| !gone.contains(worker.name()));
        for worker in workers {
            worker.check_alive().unwrap_or_else(|problem| panic!("{problem}"));
        }
    }
}

fn producer(scene: &Scene, programs: &Programs, stream: &str, shape: Shape) -> Process {
    let rate = shape.rate.to_string();
    let arguments = ["--stream", stream, "--rate", &rate];
    scene.start(&programs.producer, "producer", &arguments)
}

/// The parents of each child shard of a stream.
pub fn lineage(shards: &[Shard]) -> Lineage {
    let parents = |shard: &Shard| {
        let parents = [shard.parent_shard_id(), shard.adjacent_parent_shard_id()];
        parents
            .into_iter()
            .flatten()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let all = shards
        .iter()
        .map(|shard| (shard.shard_id().to_owned(), parents(shard)));
    all.filter(|(_, parents)| !parents.is_empty()).collect()
}

fn nothing(found: Vec<String>) -> Result<(), String> {
    match found.first() {
        None => Ok(()),
        Some(first) => Err(format!("{} in all, the first: {first}", found.len())),
    }
}
