//! A fleet of workers in virtual time, with an oracle that sees everything.
//!
//! [`simulate_fleet`] runs a scenario: workers share a [`MemoryStream`] and a [`MemoryLeaseStore`], crash, hang, come and go, and
//! minutes of their time pass in milliseconds. After every step the oracle checks the invariants of
//! [`invariant`](crate::invariant); one that is broken ends the scenario with the seed and the last events. The same seed gives the
//! same run, event by event: [`Fleet::trace_hash`] proves it.
//!
//! ```
//! use std::time::Duration;
//! use kcl_testkit::simulate_fleet;
//!
//! simulate_fleet(1, async |fleet| {
//!     fleet.start_worker("a", fleet.settings());
//!     fleet.start_worker("b", fleet.settings());
//!     fleet.put(100);
//!     fleet.settle().await;
//!     fleet.kill("a");
//!     fleet.put(100);
//!     fleet.settle().await;
//!     assert_eq!(fleet.view().tally().finished, 200);
//! });
//! ```

mod failures;
mod history;
mod member;
mod observed_processor;
mod operators;
mod oracle;
mod simulation;
mod trace;
mod traffic;
mod view;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::invariant::{Lineage, Observation, Process, Violation, check_owned};
use bytes::Bytes;
use kcl_core::clock::{Clock, ClockExt as _, Moment, Rng};
use kcl_core::internals::{SYNC_INTERVAL, TaskPolicy, TaskScope};
use kcl_core::lease_store::LeaseStore;
use kcl_core::settings::Settings;
use kcl_core::status::{WaitReason, WorkerStatus};
use kcl_core::types::WorkerId;
use kcl_core::{Error, FlowScope, ShutdownReport, Worker};
use kcl_lease_memory::{MemoryLeaseStore, MemoryStream};

pub use history::{Handover, LeaseMove, Overlap};
pub use member::Member;
pub use simulation::{Simulation, simulate_fleet};
pub use view::View;

use crate::clock::{SIMULATION_START, Skew, SkewedClock};
use crate::dead_letters::MemoryDeadLetters;
use crate::faults::{FaultRates, FaultyLeaseStore, StoreEvent, StoreFaults};
use crate::faulty_stream::{FaultyStream, StreamFaults};
use failures::{ObservedDeadLetters, ObservedPolicy};
use member::Running;
use observed_processor::OracleFactory;
use oracle::{GapRule, Oracle, Witness};

/// How often a condition is looked at when nothing happens.
const TICK: Duration = Duration::from_millis(10);
/// How long a fleet may take to settle.
const SETTLE: Duration = Duration::from_secs(300);

/// Makes the partition key and the payload of the record with this number.
type RecordMaker = Arc<dyn Fn(u64) -> (String, Bytes) + Send + Sync>;

/// A fleet in virtual time. Clones share the fleet.
#[derive(Clone)]
pub struct Fleet {
    shared: Arc<Shared>,
}

struct Shared {
    seed: u64,
    settings: Settings,
    latency: Duration,
    clock: SkewedClock,
    rng: Rng,
    stream: MemoryStream,
    store: MemoryLeaseStore,
    letters: MemoryDeadLetters,
    /// The partition key and the payload of each record, where the scenario says.
    records: Option<RecordMaker>,
    /// Where the work of the simulated services goes on, whoever is killed.
    services: TaskScope,
    oracle: Oracle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    members: BTreeMap<String, Running>,
    /// How often each member was started.
    runs: BTreeMap<String, u64>,
    keys: Option<Rng>,
    put: u64,
    producing: u64,
}

impl Fleet {
    fn new(simulation: Simulation) -> Self {
        let clock = SkewedClock::new(Skew::default());
        let stream = MemoryStream::builder("simulated")
            .shards(simulation.shards)
            .clock(Arc::new(clock))
            .service_time(SIMULATION_START)
            .pace(simulation.pace)
            .build();
        let rng = Rng::from_seed(simulation.seed);
        let state = State {
            keys: Some(rng.child("partition keys")),
            ..State::default()
        };
        let fleet = Self {
            shared: Arc::new(Shared {
                seed: simulation.seed,
                settings: simulation.settings,
                latency: simulation.latency,
                clock,
                rng,
                stream,
                store: MemoryLeaseStore::new(),
                letters: simulation.letters,
                records: simulation.records,
                services: TaskScope::new(),
                oracle: Oracle::new(clock, simulation.trace_lines),
                state: Mutex::new(state),
            }),
        };
        fleet.observe_shards();
        fleet
    }

    /// The settings of every worker that has none of its own.
    pub fn settings(&self) -> Settings {
        self.shared.settings.clone()
    }

    /// The stream that the fleet consumes. Records, resharding and retention go through the fleet, which reports them to the oracle.
    pub fn stream(&self) -> &MemoryStream {
        &self.shared.stream
    }

    /// The lease store, without the faults of any connection.
    pub fn store(&self) -> &MemoryLeaseStore {
        &self.shared.store
    }

    /// The dead-letter sink of every worker, and its faults.
    pub fn dead_letters(&self) -> &MemoryDeadLetters {
        &self.shared.letters
    }

    /// The true time since the simulation began.
    pub fn now(&self) -> Moment {
        self.shared.clock.now()
    }

    /// Lets time pass.
    pub async fn sleep(&self, time: Duration) {
        self.shared.clock.sleep(time).await;
    }

    // -------------------------------------------------------------- workers

    /// Starts a worker with these settings.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub fn start_worker(&self, name: &str, settings: Settings) {
        self.start(Member::named(name).settings(settings));
    }

    /// Starts a worker. The name of one that was killed or has stopped may be used again.
    ///
    /// # Panics
    ///
    /// When a member of that name lives, or the settings are invalid.
    #[expect(clippy::expect_used, reason = "a simulation fails as tests do")]
    pub fn start(&self, member: Member) {
        let Member {
            name,
            worker_id,
            settings,
            skew,
            processor,
            policy,
        } = member;
        let shared = &self.shared;
        let settings = settings.unwrap_or_else(|| self.settings());
        assert!(!self.living().contains_key(&name), "{name} lives already");
        let process = self.next_process(&name);
        let worker = WorkerId::new(worker_id.unwrap_or_else(|| name.clone())).expect("a valid worker id");
        let clock = shared.clock.with_skew(skew);
        let gaps = GapRule::new(settings.reading.retention_gap);
        let witness = Witness {
            oracle: shared.oracle.clone(),
            process: Process::clone(&process),
            worker: worker.clone(),
            failover: settings.leases.failover_time,
            checkpointing: processor.checkpoint_mode().unwrap_or(settings.checkpoints.mode),
            gaps: gaps.clone(),
            clock,
        };
        shared.oracle.note(&format_args!("{process:<8} is started"));
        let (store, scope) = (StoreFaults::new(), TaskScope::new());
        let source = FaultyStream::new(shared.stream.clone(), Arc::new(shared.clock));
        let source_faults = source.faults().clone();
        let rates = FaultRates {
            delay_up_to: shared.latency,
            ..FaultRates::default()
        };
        store.at_random(shared.rng.child("latency").child(&process), rates);
        let seen = witness.clone();
        let connection = FaultyLeaseStore::new(Arc::new(shared.store.clone()), Arc::new(shared.clock))
            .with_faults(store.clone())
            .on_server(shared.services.clone())
            .with_recorder(move |event| seen.store_event(event));
        let letters = ObservedDeadLetters {
            witness: witness.clone(),
            letters: shared.letters.clone(),
        };
        let observed = policy.map(|policy| ObservedPolicy {
            witness: witness.clone(),
            policy,
        });
        let mut worker = Worker::builder("simulation")
            .worker_id(worker.as_str())
            .stream(source)
            .shared_lease_store(Arc::new(connection) as Arc<dyn LeaseStore>)
            .processor(OracleFactory {
                witness,
                inner: processor,
            })
            .settings(settings)
            .clock(Arc::new(clock))
            .rng(shared.rng.child("worker").child(&process))
            .task_scope(scope.clone())
            .dead_letters(letters);
        if let Some(policy) = observed {
            worker = worker.error_policy(policy);
        }
        let handle = worker.build().expect("a worker that can be built").start();
        let running = Running {
            process,
            scope,
            store,
            source: source_faults,
            gaps,
            stopper: handle.shutdown_handle(),
            handle: Some(handle),
        };
        self.lock().members.insert(name, running);
    }

    /// A name for the next run of this member that no other run has.
    fn next_process(&self, name: &str) -> Process {
        let mut state = self.lock();
        let runs = state.runs.entry(name.to_owned()).or_default();
        *runs += 1;
        match runs {
            1 => Process::from(name),
            runs => format!("{name}#{runs}").into(),
        }
    }

    /// Makes a worker vanish, as `kill -9` would. Its requests under way still arrive.
    pub fn kill(&self, name: &str) {
        self.shared.oracle.note(&format_args!("{name:<8} is killed"));
        self.scope(name).kill();
    }

    /// Stops a worker while time goes on, as a long garbage collection or a suspended machine would.
    pub fn freeze(&self, name: &str) {
        self.shared.oracle.note(&format_args!("{name:<8} is frozen"));
        self.shared.oracle.observe(&Observation::Paused {
            process: self.with_member(name, |member| Process::clone(&member.process)),
        });
        self.scope(name).freeze();
    }

    /// Lets a frozen worker go on.
    pub fn thaw(&self, name: &str) {
        self.shared.oracle.note(&format_args!("{name:<8} is thawed"));
        self.scope(name).thaw();
    }

    /// Stops a worker as SIGTERM does, and returns how that went.
    ///
    /// # Errors
    ///
    /// Those of [`WorkerHandle::join`](kcl_core::WorkerHandle::join).
    pub async fn drain(&self, name: &str) -> Result<ShutdownReport, Error> {
        self.shared.oracle.note(&format_args!("{name:<8} is drained"));
        self.with_member(name, |member| member.stopper.shutdown());
        self.stopped(name).await
    }

    /// Stops a worker as a second SIGTERM does, and returns how that went.
    ///
    /// # Errors
    ///
    /// Those of [`WorkerHandle::join`](kcl_core::WorkerHandle::join).
    pub async fn stop_now(&self, name: &str) -> Result<ShutdownReport, Error> {
        self.shared
            .oracle
            .note(&format_args!("{name:<8} is stopped at once"));
        self.with_member(name, |member| member.stopper.abort());
        self.stopped(name).await
    }

    /// Stops a worker as SIGTERM does once its tasks were polled this often from now on; wait for its end with
    /// [`stopped`](Self::stopped).
    pub fn drain_after_polls(&self, name: &str, polls: u64) {
        let (fleet, member) = (self.clone(), name.to_owned());
        self.scope(name).after_polls(polls, move || {
            let note = format_args!("{member:<8} is drained after {polls} polls");
            fleet.shared.oracle.note(&note);
            fleet.with_member(&member, |member| member.stopper.shutdown());
        });
    }

    /// Makes a worker vanish, as [`kill`](Self::kill) does, once its tasks were polled this often from now on.
    pub fn kill_after_polls(&self, name: &str, polls: u64) {
        let (fleet, member) = (self.clone(), name.to_owned());
        self.scope(name).after_polls(polls, move || fleet.kill(&member));
    }

    /// Stops a worker's polls, as [`freeze`](Self::freeze) does, once its tasks were polled this often from now on.
    pub fn freeze_after_polls(&self, name: &str, polls: u64) {
        let (fleet, member) = (self.clone(), name.to_owned());
        self.scope(name).after_polls(polls, move || fleet.freeze(&member));
    }

    /// Accepts, as an operator, every gap at which a worker holds a shard now.
    pub fn accept_gaps(&self) {
        let state = self.lock();
        for member in state.members.values().filter(|member| member.lives()) {
            let Some(handle) = &member.handle else { continue };
            for (key, lease) in handle.status().leases {
                if let (Some((WaitReason::Gap, _)), Some(gap)) = (lease.waiting, &lease.gap) {
                    member.gaps.accept(key.clone(), gap);
                    handle.flow().accept_gap(FlowScope::Shard(key));
                }
            }
        }
    }

    /// [Accepts gaps](Self::accept_gaps) each time that `every` has passed, for as long as the fleet lives.
    pub fn accept_gaps_each(&self, every: Duration) {
        let fleet = self.clone();
        let accepting = async move {
            loop {
                fleet.sleep(every).await;
                fleet.accept_gaps();
            }
        };
        let services = &self.shared.services;
        services.spawn("operator", TaskPolicy::Job, accepting);
    }

    /// How often the tasks of a worker were polled so far.
    pub fn polls(&self, name: &str) -> u64 {
        self.scope(name).polls()
    }

    /// The tasks of a worker that have not ended.
    pub fn tasks(&self, name: &str) -> Vec<String> {
        self.scope(name).running()
    }

    /// Waits for the end of a worker. From then on the fleet does not count it among the living.
    ///
    /// # Errors
    ///
    /// Those of [`WorkerHandle::join`](kcl_core::WorkerHandle::join).
    #[expect(clippy::expect_used, reason = "a simulation fails as tests do")]
    pub async fn stopped(&self, name: &str) -> Result<ShutdownReport, Error> {
        let handle = self.with_member(name, |member| member.handle.take());
        let outcome = handle.expect("nobody else waits for that worker").join().await;
        self.shared.oracle.note(&format_args!("{name:<8} has stopped"));
        outcome
    }

    /// The faults between this worker and the lease store.
    pub fn store_faults(&self, name: &str) -> StoreFaults {
        self.with_member(name, |member| member.store.clone())
    }

    /// The faults between this worker and the stream.
    pub fn source_faults(&self, name: &str) -> StreamFaults {
        self.with_member(name, |member| member.source.clone())
    }

    /// Calls this listener, instead of any other, after every call that a member makes to the lease store: with the run of the
    /// member, and the effect of the call. It runs at the moment the call is done, before the member knows, and may do something to
    /// the fleet: kill or freeze a member, or spoil the next call.
    pub fn on_store_event(&self, listener: impl Fn(&str, &StoreEvent) + Send + Sync + 'static) {
        self.oracle().listen(Some(Arc::new(listener)));
    }

    /// Does this as a part of the world around the fleet, whoever is killed.
    pub(crate) fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.shared.services.spawn("background", TaskPolicy::Job, work);
    }

    // ---------------------------------------------------------------- watch

    /// Returns what can be seen of the fleet now.
    pub fn view(&self) -> View<'_> {
        View { fleet: self }
    }

    /// Waits until the condition holds, and returns how long that took.
    ///
    /// # Panics
    ///
    /// When it does not hold within the limit.
    #[expect(clippy::panic, reason = "a simulation fails as tests do")]
    pub async fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        holds: impl FnMut(&View<'_>) -> bool,
    ) -> Duration {
        match self.wait_for(limit, holds).await {
            Some(took) => took,
            None => panic!("not within {limit:?}: {what}"),
        }
    }

    /// As [`wait_until`](Self::wait_until); nothing when the condition does not hold within the limit.
    async fn wait_for(&self, limit: Duration, mut holds: impl FnMut(&View<'_>) -> bool) -> Option<Duration> {
        let begun = self.now();
        let deadline = begun + limit;
        loop {
            let changed = self.oracle().changed();
            if holds(&self.view()) {
                return Some(self.now().saturating_since(begun));
            }
            let now = self.now();
            if now >= deadline {
                return None;
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = self.shared.clock.sleep_until(deadline.min(now + TICK)) => {}
            }
        }
    }

    /// Waits until the fleet is at rest: see [`View::is_settled`]. Returns how long that took. A shard that lacks its lease for too
    /// long meanwhile breaks an invariant, and so does a record that was lost, which ends the simulation.
    ///
    /// # Panics
    ///
    /// When that takes more than five minutes of virtual time.
    #[expect(clippy::panic, reason = "a simulation fails as tests do")]
    pub async fn settle(&self) -> Duration {
        let (mut lineage, mut followed) = (Lineage::new(SYNC_INTERVAL), Ok(()));
        let took = self
            .wait_for(SETTLE, |view| {
                followed = lineage.look(self.now(), &view.lacking());
                followed.is_err() || view.is_settled()
            })
            .await;
        let at_rest = || self.oracle().ask(|checker| checker.at_rest());
        if let Err(violation) = followed.and_then(|()| at_rest()) {
            self.fail(violation).await;
        }
        if took.is_none()
            && let Err(violation) = check_owned(&self.view().leases(), &self.view().holders())
        {
            self.fail(violation).await;
        }
        took.unwrap_or_else(|| panic!("not within {SETTLE:?}: the fleet settles"))
    }

    /// Ends the simulation, since this invariant is broken. It never returns: the scenario goes no further.
    pub async fn fail(&self, violation: Violation) -> Infallible {
        self.oracle().break_off(violation);
        std::future::pending().await
    }

    /// The last events, for a person to read.
    pub fn trace(&self) -> Vec<String> {
        self.oracle().trace()
    }

    /// A hash of every event so far: each call to the lease store, each batch, each fault, with its virtual time. Two runs
    /// with the same hash went the same way.
    pub fn trace_hash(&self) -> u64 {
        self.oracle().trace_hash()
    }

    fn oracle(&self) -> &Oracle {
        &self.shared.oracle
    }

    fn status(&self, name: &str) -> Option<WorkerStatus> {
        let state = self.lock();
        let handle = state.members.get(name)?.handle.as_ref()?;
        Some(handle.status())
    }

    fn living(&self) -> BTreeMap<String, WorkerStatus> {
        let state = self.lock();
        let living = state.members.iter().filter(|(_, member)| member.lives());
        living
            .filter_map(|(name, member)| Some((name.clone(), member.handle.as_ref()?.status())))
            .collect()
    }

    fn scope(&self, name: &str) -> TaskScope {
        self.with_member(name, |member| member.scope.clone())
    }

    #[expect(clippy::panic, reason = "a simulation fails as tests do")]
    fn with_member<T>(&self, name: &str, look: impl FnOnce(&mut Running) -> T) -> T {
        match self.lock().members.get_mut(name) {
            Some(member) => look(member),
            None => panic!("no member of the fleet is called {name}"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("seed", &self.shared.seed)
            .finish_non_exhaustive()
    }
}
