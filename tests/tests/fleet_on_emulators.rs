//! A fleet of processes on real endpoints: a reshard, a death, a newcomer, and nothing lost.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is how they report"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_sdk_kinesis::types::Shard;
use kcl_tests::bed::TestBed;
use kcl_tests::bed_or_skip;
use kcl_tests::fleet::leases::owners;
use kcl_tests::fleet::oracle::{Evidence, Lineage, held};
use kcl_tests::fleet::processes::{Process, Scene, build_example};
use kcl_tests::wait::eventually;

/// How often the scenario runs.
const ROUNDS: &str = "KCL_TEST_ROUNDS";
const FAILOVER_MILLIS: &str = "3000";
/// Generous: what is tested is that it happens, on machines of every speed.
const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_fleet_loses_nothing_through_a_reshard_and_a_death() {
    let bed = bed_or_skip!();
    let programs = Programs {
        worker: build_example("trucks_worker", false),
        producer: build_example("trucks_producer", false),
    };
    let rounds = std::env::var(ROUNDS).map_or(1, |text| text.parse().expect("KCL_TEST_ROUNDS is a number"));
    for round in 1..=rounds {
        let summary = Fleet::start(&bed, &programs).await.run().await;
        println!("round {round} of {rounds}: {summary}");
    }
}

struct Programs {
    worker: PathBuf,
    producer: PathBuf,
}

struct Fleet<'a> {
    bed: &'a TestBed,
    scene: Scene,
    worker: &'a Path,
    stream: String,
    application: String,
    producer: Process,
    /// All that were ever started, the dead included.
    workers: Vec<Process>,
    dead: BTreeSet<String>,
}

impl<'a> Fleet<'a> {
    /// A stream of four shards with a producer, and no worker yet.
    async fn start(bed: &'a TestBed, programs: &'a Programs) -> Self {
        let stream = bed.unique("trucks");
        bed.create_stream(&stream, 4).await;
        let scene = Scene::new(bed, "fleet");
        let producer = scene.start(
            &programs.producer,
            "producer",
            &["--stream", &stream, "--rate", "100"],
        );
        let application = bed.unique("truck-tracker");
        let worker = &programs.worker;
        Self {
            bed,
            scene,
            worker,
            stream,
            application,
            producer,
            workers: Vec::new(),
            dead: BTreeSet::new(),
        }
    }

    async fn run(mut self) -> String {
        (1..=3).for_each(|number| self.start_worker(number));
        self.every_open_shard_is_consumed("three workers share four shards")
            .await;
        (4..=5).for_each(|number| self.start_worker(number));
        eventually(SOON, async || self.at_most_one_shard_each()).await;

        let shards = self.bed.open_shards(&self.stream).await;
        self.bed.split(&self.stream, &shards[0]).await;
        self.every_open_shard_is_consumed("the children of a split start")
            .await;
        self.bed.merge(&self.stream, &shards[2], &shards[3]).await;
        self.every_open_shard_is_consumed("the child of a merge starts")
            .await;

        let victim = self.a_busy_worker();
        self.workers[victim].kill();
        self.dead.insert(self.workers[victim].name().to_owned());
        self.start_worker(6);
        self.every_open_shard_is_consumed("the dead worker's shards go on")
            .await;

        self.producer.terminate();
        assert!(
            self.producer.ended(SOON).await.success(),
            "the producer failed:{}",
            self.producer.printed()
        );
        let lineage = lineage(&self.bed.shards(&self.stream).await);
        eventually(SOON, async || nothing(self.evidence(lineage.clone()).lost())).await;
        self.live_workers_own_every_lease().await;

        self.drain().await;
        let evidence = self.evidence(lineage);
        assert_eq!(
            evidence.violations(),
            Vec::<String>::new(),
            "logs in {}",
            self.scene.folder().display()
        );
        let tally = evidence.tally();
        assert!(tally.put > 100 && tally.put == tally.delivered, "{tally:?}");
        self.bed.delete_stream(&self.stream).await;
        self.scene.remove();
        format!(
            "{} records put, {} delivered, {} of them again",
            tally.put, tally.delivered, tally.redelivered
        )
    }

    fn start_worker(&mut self, number: usize) {
        let name = format!("worker-{number}");
        let arguments = [
            "--application",
            &self.application,
            "--stream",
            &self.stream,
            "--worker-id",
            &name,
            "--initial-position",
            "trim-horizon",
            "--failover-ms",
            FAILOVER_MILLIS,
        ];
        self.workers
            .push(self.scene.start(self.worker, &name, &arguments));
    }

    /// Waits until each open shard has given a live worker a record that was put after this was called.
    async fn every_open_shard_is_consumed(&mut self, when: &str) {
        let open = self.bed.open_shards(&self.stream).await;
        let before: BTreeMap<String, usize> = self.producer_counts();
        eventually(SOON, async || {
            self.check_processes()?;
            let (puts, logs) = (self.producer.puts(), self.live_logs());
            for shard in &open {
                let shard = shard.shard_id();
                let known = before.get(shard).copied().unwrap_or_default();
                let newest = puts.iter().filter(|put| put.shard == shard).nth(known);
                let newest = newest.ok_or_else(|| format!("{when}: nothing was put into {shard}"))?;
                let evidence = Evidence {
                    puts: vec![newest.clone()],
                    logs: logs.clone(),
                    lineage: Lineage::new(),
                };
                nothing(evidence.lost()).map_err(|lost| format!("{when}: {lost}"))?;
            }
            Ok::<_, String>(())
        })
        .await;
    }

    fn producer_counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for put in self.producer.puts() {
            *counts.entry(put.shard).or_default() += 1;
        }
        counts
    }

    /// Five workers and four shards: nobody needs two, and one is a standby.
    fn at_most_one_shard_each(&mut self) -> Result<(), String> {
        self.check_processes()?;
        let held: Vec<usize> = self
            .workers
            .iter()
            .map(|worker| held(&worker.entries()).len())
            .collect();
        let balanced = held.iter().all(|shards| *shards <= 1) && held.iter().sum::<usize>() == 4;
        if balanced {
            Ok(())
        } else {
            Err(format!("the workers hold {held:?} shards"))
        }
    }

    fn a_busy_worker(&self) -> usize {
        let busiest = (0..self.workers.len()).max_by_key(|index| held(&self.workers[*index].entries()).len());
        busiest
            .filter(|index| !held(&self.workers[*index].entries()).is_empty())
            .expect("somebody holds a shard")
    }

    /// The lease table names a live worker for each open shard, and its log says so, too.
    async fn live_workers_own_every_lease(&mut self) {
        let open = self.bed.open_shards(&self.stream).await;
        let config = self.bed.dynamo_config();
        eventually(SOON, async || {
            self.check_processes()?;
            let owners = owners(&config, &self.application).await?;
            for shard in open.iter().map(Shard::shard_id) {
                let owner = owners
                    .get(shard)
                    .ok_or_else(|| format!("{shard} has no lease"))?
                    .as_ref();
                let owner = owner.ok_or_else(|| format!("{shard} has no owner"))?;
                let worker = self.live().find(|worker| worker.name() == owner);
                let worker = worker.ok_or_else(|| format!("{shard} belongs to {owner}, which is dead"))?;
                if !held(&worker.entries()).contains(shard) {
                    return Err(format!("{owner} owns {shard} and does not consume it"));
                }
            }
            Ok(())
        })
        .await;
    }

    /// Every live worker ends by itself when asked to, and leaves no lease behind in its name.
    async fn drain(&mut self) {
        self.live().for_each(Process::terminate);
        let dead = self.dead.clone();
        for worker in self
            .workers
            .iter_mut()
            .filter(|worker| !dead.contains(worker.name()))
        {
            let status = worker.ended(SOON).await;
            assert!(
                status.success(),
                "{} ended with {status}:{}",
                worker.name(),
                worker.printed()
            );
        }
        let owners = owners(&self.bed.dynamo_config(), &self.application)
            .await
            .expect("the lease table is readable");
        let owned: Vec<_> = owners.into_iter().filter(|(_, owner)| owner.is_some()).collect();
        assert!(owned.is_empty(), "leases that were not released: {owned:?}");
    }

    fn check_processes(&mut self) -> Result<(), String> {
        let dead = &self.dead;
        let mut running = self
            .workers
            .iter_mut()
            .filter(|worker| !dead.contains(worker.name()));
        running.try_for_each(|worker| worker.check_alive().map_err(|problem| panic!("{problem}")))
    }

    fn live(&self) -> impl Iterator<Item = &Process> {
        self.workers
            .iter()
            .filter(|worker| !self.dead.contains(worker.name()))
    }

    fn live_logs(&self) -> Vec<Vec<kcl_tests::fleet::log::Entry>> {
        self.live().map(Process::entries).collect()
    }

    fn evidence(&self, lineage: Lineage) -> Evidence {
        let logs = self.workers.iter().map(Process::entries).collect();
        Evidence {
            puts: self.producer.puts(),
            logs,
            lineage,
        }
    }
}

fn lineage(shards: &[Shard]) -> Lineage {
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
