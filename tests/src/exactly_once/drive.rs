//! A fleet that writes into one table or folder while its workers are killed and frozen, and the verdict on what is there.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kcl_core::clock::{Clock as _, ClockExt as _, Moment, Rng, TokioClock};
use kcl_lease_memory::MemoryStream;
use kinesis_local::{WireLimits, WireOptions, WireServer};

use super::Sink;
use super::file_watch::FileCounts;
use super::journal::{SinkEvent, read};
use super::producer::Producer;
use super::results::Results;
use super::verdict::equals_stream;
use crate::fleet::processes::{Process, Scene};
use crate::testbed::{LeftOut, Testbed};
use crate::wait::eventually;

const WORKERS: usize = 4;
const SHARDS: u32 = 4;
const FAILOVER: Duration = Duration::from_millis(1000);
/// Long enough that other workers have the shards, and have claimed them.
const FREEZE: Duration = Duration::from_millis(3500);
/// The longest pause between a batch and its transaction; twice that of a put.
const WORK_MILLIS: u64 = 400;
/// One freeze for so many kills.
const KILLS_PER_FREEZE: u32 = 5;
/// The pause before a kill, in milliseconds.
const SHORTEST: u64 = 200;
const LONGEST: u64 = 2000;
/// How often a worker is frozen at the end, if no late owner or no lost reply was seen before.
const MORE_FREEZES: u32 = 20;
/// Generous: the machine may be busy.
const SOON: Duration = Duration::from_secs(180);

/// The size of a run.
#[derive(Debug, Clone, Copy)]
pub struct KillPlan {
    /// Where the records go.
    pub sink: Sink,
    /// How many workers are killed.
    pub kills: u32,
    /// When, and which.
    pub seed: u64,
}

/// The counts of a run whose table or files equal the stream.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct KillCounts {
    /// User records that were put, and rows or records in files.
    pub records: usize,
    /// Kills.
    pub kills: u32,
    /// Freezes that were longer than the failover time.
    pub freezes: u32,
    /// Reshards.
    pub reshards: u32,
    /// Ownerships that claimed the sink.
    pub claims: u64,
    /// The times that one found the sink ahead of the checkpoint, or a file of another one.
    pub ahead: u64,
    /// Ownerships that have written.
    pub writers: u64,
    /// Refusals of late owners; with files, puts that found one of another owner there, who may be the later one.
    pub fenced: u64,
    /// Transactions or puts that had succeeded without a reply.
    pub repeated: u64,
    /// Other failures of a call.
    pub failed: u64,
    /// Of files only.
    files: Option<FileCounts>,
    /// The time that it took.
    pub took: Duration,
}

impl fmt::Display for KillCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records = self.records;
        match &self.files {
            None => write!(f, "{records} records, {records} rows")?,
            Some(files) => write!(f, "{records} records in {} files", files.files)?,
        }
        write!(
            f,
            "; {} kills, {} freezes, {} reshards; {} claims; {} ownerships wrote; {} times the sink was ahead of the checkpoint; {} writes of \
             late owners refused, {} lost replies, {} other failures",
            self.kills,
            self.freezes,
            self.reshards,
            self.claims,
            self.writers,
            self.ahead,
            self.fenced,
            self.repeated,
            self.failed,
        )?;
        if let Some(files) = &self.files {
            write!(
                f,
                "; all files whole in {} listings, {} left over that no listing shows",
                files.listings, files.left_over
            )?;
        }
        write!(f, "; {} s", self.took.as_secs())
    }
}

/// Runs once. `program` is the command that starts a worker when its first argument is `worker`.
///
/// # Errors
///
/// [`LeftOut`] when the database cannot be had here.
///
/// # Panics
///
/// When the table or a file differs from the stream, no late owner was refused, or a worker ended by itself; the message says where the
/// logs are.
///
/// # Cancel safety
///
/// All processes are killed.
pub async fn run(testbed: &Testbed, program: &Path, plan: KillPlan) -> Result<KillCounts, LeftOut> {
    let clock = TokioClock::new();
    let began = clock.now();
    let rng = Rng::from_seed(plan.seed);
    let name = testbed.unique("orders");
    let stream = MemoryStream::builder(&name).shards(SHARDS).build();
    let options = WireOptions {
        limits: WireLimits::none(),
        ..WireOptions::default()
    };
    let wire = WireServer::start([stream.clone()], options).await;
    let wire = wire.expect("a free port on the loopback interface");
    let testbed = testbed.clone().with_kinesis("kinesis-local", wire.endpoint());
    let scene = Scene::new(&testbed, "exactly-once");
    let mut results = Results::start(plan.sink, scene.folder()).await?;
    let mut fleet = OrdersFleet {
        program: program.to_owned(),
        application: testbed.unique("exactly-once"),
        stream: stream.clone(),
        name,
        scene,
        place: results.arguments(),
        rng: rng.child("fleet"),
        processes: Vec::new(),
        places: Vec::new(),
        frozen: Vec::new(),
        counts: KillCounts::default(),
    };
    let producer = Producer::start(stream.clone(), rng.child("producer"));
    (0..WORKERS).for_each(|_| fleet.start_worker());
    fleet.disturb(plan.kills, &mut results).await;
    for _ in 0..MORE_FREEZES {
        let counts = fleet.counts();
        if counts.fenced > 0 && counts.repeated > 0 {
            break;
        }
        fleet.freeze();
        clock.sleep(FREEZE).await;
        fleet.thaw_all();
        clock.sleep(FAILOVER).await;
    }
    let puts = producer.stop().await;
    eventually(SOON, async || {
        fleet.check_processes();
        match results.count().await? {
            rows if rows >= puts.len() => Ok(()),
            rows => Err(format!("{rows} rows of {} records", puts.len())),
        }
    })
    .await;
    fleet.drain().await;
    let logs = fleet.scene.folder().display().to_string();
    let orders = results.orders().await;
    let orders = orders.unwrap_or_else(|problem| panic!("{problem}; seed {}, logs in {logs}", plan.seed));
    let shards = stream.shards_snapshot().into_iter().map(|shard| shard.shard);
    let children = shards
        .filter(|shard| !shard.parents.is_empty())
        .map(|shard| (shard.id, shard.parents.into_iter().collect::<BTreeSet<_>>()))
        .collect();
    let writers = equals_stream(&puts, &children, &orders);
    let writers = writers.unwrap_or_else(|problem| panic!("{problem}; seed {}, logs in {logs}", plan.seed));
    let counts = KillCounts {
        records: puts.len(),
        writers,
        files: results.files(),
        took: clock.now().saturating_since(began),
        ..fleet.counts()
    };
    assert!(
        counts.fenced > 0,
        "no late owner was refused; logs in {logs}: {counts}"
    );
    assert!(counts.repeated > 0, "no reply was lost; logs in {logs}: {counts}");
    drop(results);
    wire.stop().await;
    fleet.processes.clear();
    fleet.scene.remove();
    Ok(counts)
}

struct OrdersFleet {
    program: PathBuf,
    application: String,
    stream: MemoryStream,
    /// The stream's name.
    name: String,
    scene: Scene,
    /// The arguments that say where the workers write.
    place: [String; 2],
    rng: Rng,
    /// All that were ever started.
    processes: Vec<Process>,
    /// Those that run, by their number.
    places: Vec<usize>,
    /// Those of them that stand still, and until when.
    frozen: Vec<(usize, Moment)>,
    counts: KillCounts,
}

impl OrdersFleet {
    fn start_worker(&mut self) {
        let number = self.processes.len();
        let name = format!("worker-{}", number + 1);
        let failover = FAILOVER.as_millis().to_string();
        let work = WORK_MILLIS.to_string();
        let [place, address] = &self.place;
        let arguments = [
            "worker",
            "--application",
            &self.application,
            "--stream",
            &self.name,
            "--worker-id",
            &name,
            "--failover-ms",
            &failover,
            "--work-ms",
            &work,
            place,
            address,
        ];
        self.processes
            .push(self.scene.start(&self.program, &name, &arguments));
        self.places.push(number);
    }

    /// Kills so many workers at random moments, each with a successor, freezes some between, and disturbs the sink; the stream is resharded
    /// twice.
    async fn disturb(&mut self, kills: u32, results: &mut Results) {
        let clock = TokioClock::new();
        while self.counts.kills < kills {
            let pause = SHORTEST + self.rng.below(LONGEST - SHORTEST);
            clock.sleep(Duration::from_millis(pause)).await;
            self.check_processes();
            self.thaw_due(clock.now());
            if self.counts.kills % KILLS_PER_FREEZE == KILLS_PER_FREEZE / 2 && self.frozen.is_empty() {
                self.freeze();
                // Every other time the kills go on meanwhile, and the others may not live long enough to take its shards.
                if self.counts.freezes % 2 == 1 {
                    clock.sleep(FREEZE).await;
                    self.thaw_all();
                }
            }
            let third = kills / 3;
            if third > 0 && self.counts.kills == third && self.counts.reshards == 0 {
                self.reshard(2 * SHARDS);
            }
            if third > 0 && self.counts.kills == 2 * third && self.counts.reshards == 1 {
                self.reshard(SHARDS);
            }
            let awake = self.awake();
            let names: Vec<_> = awake.iter().map(|place| self.processes[*place].name()).collect();
            // Every other time one that is in the middle of a write, where that can be seen.
            let writer = match self.counts.kills % 2 {
                0 => results.writer(&names).await,
                _ => None,
            };
            let victim = writer.map_or_else(|| self.pick(&awake), |writer| awake[writer]);
            self.processes[victim].kill();
            self.places.retain(|place| *place != victim);
            self.counts.kills += 1;
            self.start_worker();
            results.disturb().await;
        }
        while !self.frozen.is_empty() {
            clock.sleep(FREEZE / 10).await;
            self.thaw_due(clock.now());
        }
    }

    fn reshard(&mut self, count: u32) {
        let resharded = self.stream.reshard_to(count);
        resharded.expect("a shard has enough hash keys");
        self.counts.reshards += 1;
    }

    fn awake(&self) -> Vec<usize> {
        let is_awake = |place: &usize| self.frozen.iter().all(|(frozen, _)| frozen != place);
        self.places.iter().copied().filter(is_awake).collect()
    }

    fn pick(&mut self, of: &[usize]) -> usize {
        let length = u64::try_from(of.len()).expect("a few");
        of[usize::try_from(self.rng.below(length)).expect("below a few")]
    }

    /// Freezes a worker that was not just started: one without leases writes nothing when it wakes up.
    fn freeze(&mut self) {
        let mut awake = self.awake();
        awake.truncate(2);
        let place = self.pick(&awake);
        self.processes[place].freeze();
        self.frozen.push((place, TokioClock::new().now() + FREEZE));
        self.counts.freezes += 1;
    }

    fn thaw_due(&mut self, now: Moment) {
        for (place, _) in self.frozen.extract_if(.., |(_, until)| *until <= now) {
            self.processes[place].thaw();
        }
    }

    fn thaw_all(&mut self) {
        for (place, _) in self.frozen.drain(..) {
            self.processes[place].thaw();
        }
    }

    /// A worker that ended by itself will not do what is waited for.
    fn check_processes(&mut self) {
        for place in &self.places {
            let alive = self.processes[*place].check_alive();
            alive.unwrap_or_else(|problem| panic!("{problem}"));
        }
    }

    /// Asks every worker to end, and waits until it has.
    async fn drain(&mut self) {
        for place in &self.places {
            self.processes[*place].terminate();
        }
        for place in std::mem::take(&mut self.places) {
            let process = &mut self.processes[place];
            let status = process.ended(SOON).await;
            let (name, printed) = (process.name(), process.printed());
            assert!(status.success(), "{name} ended with {status}:{printed}");
        }
    }

    fn events(&self) -> Vec<SinkEvent> {
        let logs = self.processes.iter().map(Process::text);
        logs.flat_map(|log| read(&log)).collect()
    }

    /// The counts so far, with those of the workers' logs.
    fn counts(&self) -> KillCounts {
        let mut counts = self.counts.clone();
        for event in self.events() {
            match event {
                SinkEvent::Claimed { ahead, .. } => {
                    counts.claims += 1;
                    counts.ahead += u64::from(ahead);
                }
                SinkEvent::Found { .. } => counts.ahead += 1,
                SinkEvent::Fenced { .. } => counts.fenced += 1,
                SinkEvent::Repeated { .. } => counts.repeated += 1,
                SinkEvent::Failed { .. } => counts.failed += 1,
            }
        }
        counts
    }
}
