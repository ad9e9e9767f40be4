//! A fleet to which a [plan](super::plan) is done: places for workers, each behind proxies of its own, and who runs there.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kcl_core::clock::{Clock as _, Moment, Rng, TokioClock};

use super::fault::{Disturbance, Service};
use super::plan::{Back, ChaosShape};
use super::proxy::{Proxy, Tap};
use super::table::{SeenRow, row};
use crate::fleet::drive::Programs;
use crate::fleet::processes::{Process, Scene};
use crate::testbed::Testbed;

/// Where a worker runs. Its proxies stay where they are while processes come and go.
#[derive(Debug)]
pub(super) struct Place {
    kinesis: Proxy,
    dynamo: Proxy,
    /// The id of the worker that runs here, or did.
    id: String,
    /// The process that runs here: its number among all.
    pub(super) process: Option<usize>,
    /// The successor of the process that was asked to leave.
    pub(super) leaving: Option<Back>,
}

impl Place {
    pub(super) fn proxy(&self, service: Service) -> &Proxy {
        match service {
            Service::Kinesis => &self.kinesis,
            Service::Dynamo => &self.dynamo,
        }
    }
}

/// A stream, its producer, and workers that come and go. Dropping it kills every process; when a test fails, it shows how their outputs end.
#[derive(Debug)]
pub struct ChaosFleet {
    pub(super) testbed: Testbed,
    worker: PathBuf,
    failover: Duration,
    scene: Scene,
    pub(super) stream: String,
    pub(super) application: String,
    pub(super) producer: Process,
    pub(super) places: Vec<Place>,
    /// All that were ever started.
    pub(super) processes: Vec<Process>,
    ids: usize,
    rows: Arc<Mutex<Vec<SeenRow>>>,
    pub(super) journal: Journal,
}

impl ChaosFleet {
    /// Creates the stream and starts everybody.
    pub async fn start(testbed: &Testbed, programs: &Programs, shape: &ChaosShape, seed: u64) -> Self {
        let stream = testbed.unique("chaos");
        testbed.create_stream(&stream, shape.shards).await;
        let scene = Scene::new(testbed, "chaos");
        let rate = shape.rate.to_string();
        let arguments = ["--stream", &stream, "--rate", &rate];
        let producer = scene.start(&programs.producer, "producer", &arguments);
        let rows = Arc::default();
        let mut places = Vec::new();
        for place in 0..shape.places {
            let rng = Rng::from_seed(seed).child(&format!("place {place}"));
            let proxy = async |service: Service, upstream: &str, tap: Tap| {
                let rng = rng.child(&service.to_string());
                let proxy = Proxy::start(service, upstream, rng, tap).await;
                proxy.expect("a proxy before a server of plain HTTP")
            };
            let nobody: Tap = Arc::new(|_: &str, _: bool, _: &Bytes| {});
            places.push(Place {
                kinesis: proxy(Service::Kinesis, testbed.kinesis_endpoint(), nobody).await,
                dynamo: proxy(Service::Dynamo, testbed.dynamo_endpoint(), tap(place, &rows)).await,
                id: String::new(),
                process: None,
                leaving: None,
            });
        }
        let journal = Journal::new(&scene.folder().join("injected.log"));
        let mut fleet = Self {
            testbed: testbed.clone(),
            worker: programs.worker.clone(),
            failover: shape.failover,
            scene,
            application: testbed.unique("chaos-fleet"),
            stream,
            producer,
            places,
            processes: Vec::new(),
            ids: 0,
            rows,
            journal,
        };
        for place in 0..shape.places {
            fleet.start_worker(place, false);
        }
        fleet
    }

    /// Starts a worker where none runs.
    pub(super) fn start_worker(&mut self, place: usize, same_id: bool) {
        let number = self.processes.len() + 1;
        if !same_id {
            self.ids += 1;
            self.places[place].id = format!("worker-{}", self.ids);
        }
        let at = &mut self.places[place];
        let failover = self.failover.as_millis().to_string();
        let arguments = [
            "--application",
            &self.application,
            "--stream",
            &self.stream,
            "--worker-id",
            &at.id,
            "--initial-position",
            "trim-horizon",
            "--failover-ms",
            &failover,
        ];
        let environment = [
            ("AWS_ENDPOINT_URL_KINESIS", at.kinesis.endpoint()),
            ("AWS_ENDPOINT_URL_DYNAMODB", at.dynamo.endpoint()),
        ];
        // The first number is that of the process: one worker id may have several.
        let name = format!("process-{number}-{}", at.id);
        let process = self.scene.start_in(&self.worker, &name, &arguments, &environment);
        at.process = Some(self.processes.len());
        at.leaving = None;
        self.processes.push(process);
        let id = &self.places[place].id;
        self.journal
            .note(&format!("place {place}: {id} starts, process {number}"));
    }

    /// The process that runs at a place.
    pub(super) fn at(&mut self, place: usize) -> Option<&mut Process> {
        let number = self.places[place].process?;
        self.processes.get_mut(number)
    }

    /// The processes that run, with the ids of their workers.
    pub(super) fn running(&self) -> impl Iterator<Item = (&str, &Process)> {
        self.places
            .iter()
            .filter_map(|place| Some((place.id.as_str(), &self.processes[place.process?])))
    }

    /// Disturbs what goes between a place and a service, or no more.
    pub(super) fn disturb(&self, place: usize, service: Service, disturbance: Option<Disturbance>) {
        self.places[place].proxy(service).disturb(disturbance);
    }

    /// Returns the writes of the lease table so far.
    pub(super) fn rows(&self) -> Vec<SeenRow> {
        lock(&self.rows).clone()
    }

    /// How many requests met a fault so far.
    pub(super) fn disturbed(&self) -> u64 {
        let proxies = self
            .places
            .iter()
            .flat_map(|place| [&place.kinesis, &place.dynamo]);
        proxies.map(|proxy| proxy.counts().disturbed).sum()
    }

    /// Removes the stream and the logs: nobody needs those of a success.
    pub(super) async fn remove(mut self) {
        self.testbed.delete_stream(&self.stream).await;
        // They are gone already; now nobody writes into the folder any more.
        self.processes.clear();
        std::fs::remove_dir_all(self.scene.folder()).expect("the folder is ours");
    }

    /// The folder with all logs.
    pub fn folder(&self) -> &Path {
        self.scene.folder()
    }
}

impl Drop for ChaosFleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&format!("the logs are in {}", self.folder().display()));
            for process in &self.processes {
                say(&format!("{} printed last:{}", process.name(), process.printed()));
            }
        }
    }
}

/// Notes what the table was made to be by the worker at a place.
fn tap(place: usize, rows: &Arc<Mutex<Vec<SeenRow>>>) -> Tap {
    let (rows, clock) = (Arc::clone(rows), TokioClock::new());
    Arc::new(move |target: &str, succeeded: bool, answer: &Bytes| {
        let at = clock.wall().as_millis();
        if let Some(row) = row(at, place, target, answer).filter(|_| succeeded) {
            lock(&rows).push(row);
        }
    })
}

/// The log of the faults, with time and process: printed as they happen, and kept in a file.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    clock: TokioClock,
    began: Moment,
}

impl Journal {
    fn new(path: &Path) -> Self {
        let clock = TokioClock::new();
        Self {
            file: File::create(path).expect("the folder is writable"),
            began: clock.now(),
            clock,
        }
    }

    pub(super) fn note(&mut self, what: &str) {
        let since = self.clock.now().saturating_since(self.began).as_secs_f64();
        let line = format!("{since:6.2} s  {what}");
        writeln!(self.file, "{line}").expect("the folder is writable");
        say(&line);
    }
}

/// Prints past the output capture of the test harness: what was injected is worth knowing of a success, too.
pub fn say(line: &str) {
    // Nobody reads it, then.
    let _ = writeln!(std::io::stderr(), "chaos: {line}");
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
