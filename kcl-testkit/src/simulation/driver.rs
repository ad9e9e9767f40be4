//! Lets a scenario happen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::clock::Skew;
use crate::faults::{Fault, FaultRates, Happened, Link, Operation, ScanCapacity, StoreCall};
use crate::faulty_stream::{StreamCall, StreamFault, StreamFaultRule};
use crate::fleet::{Fleet, Member};
use kcl_aggregation::Aggregator;
use kcl_core::ErrorKind;
use kcl_core::clock::{Moment, Rng};
use kcl_core::lease_store::StoreErrorKind;
use kcl_core::settings::{Aggregation, RetentionGap};
use kcl_core::types::ShardId;
use kcl_lease_memory::memory_stream::Trim;

use super::failing_records::ScenarioPolicy;
use super::given_processor::GivenProcessor;
use super::operators::Operators;
use super::processor_behavior::{ErraticProcessors, Passed};
use super::report::Report;
use super::script::{FleetEvent, Scenario, Step};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// The worker that joins when all is well.
const NEWCOMER: &str = "newcomer";
/// The longest time that a request to the lease store is on its way.
const LATENCY: Duration = Duration::from_millis(3);
/// How often a table with little capacity answers a scan.
const SCAN_EVERY: Duration = Duration::from_secs(3);
/// How long a deploy waits until callbacks that take long have started.
const SLOW_START: Duration = Duration::from_secs(2);
/// How often the operator looks whether a shard is held at a gap.
const OPERATOR: Duration = Duration::from_secs(7);
/// How often records are put.
const PERIOD: Duration = Duration::from_millis(500);
/// How many at a time.
const RECORDS: u64 = 6;
/// More would make a scenario long rather than hard.
const MOST_SHARDS: usize = 16;

pub(super) struct Driver {
    fleet: Fleet,
    rng: Rng,
    /// How many members there may be.
    members: usize,
    packed: Option<u64>,
    scenario: Scenario,
    /// The processor of every worker, where it is not the one of the scenario.
    given: Option<GivenProcessor>,
    passed: Passed,
    /// The failover time of each worker that is not started with the one of the scenario, in percent of that.
    failovers: BTreeMap<&'static str, u32>,
    leaders: Arc<Leaders>,
    bad_times: Arc<AtomicBool>,
    /// Whether every callback takes long.
    is_slow: Arc<AtomicBool>,
    alive: BTreeSet<&'static str>,
    /// How often each name was started.
    runs: BTreeMap<&'static str, u32>,
    /// The faults that pass by themselves, and when.
    passing: Vec<(Moment, Passing)>,
    operators: Operators,
    report: Report,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passing {
    Frozen(&'static str),
    Cut(&'static str),
    SinkFailing,
}

impl Driver {
    pub(super) fn new(fleet: Fleet, scenario: &Scenario, given: Option<GivenProcessor>) -> Self {
        Self {
            fleet,
            rng: Rng::from_seed(scenario.seed).child("performer"),
            members: scenario.members,
            packed: scenario.packed,
            failovers: NAMES
                .into_iter()
                .chain([NEWCOMER])
                .zip(scenario.failovers.iter().copied())
                .collect(),
            scenario: scenario.clone(),
            given,
            passed: Passed::default(),
            leaders: Arc::default(),
            bad_times: Arc::new(AtomicBool::new(true)),
            is_slow: Arc::default(),
            alive: BTreeSet::new(),
            runs: BTreeMap::new(),
            passing: Vec::new(),
            operators: Operators::default(),
            report: Report::one_seed(),
        }
    }

    pub(super) fn begin(&mut self) {
        for name in NAMES.into_iter().take(self.members) {
            self.start(name);
        }
        self.watch_leaders();
        if let Some(failing) = &self.scenario.failing {
            let rng = self.rng.child("dead letters");
            self.fleet.dead_letters().inject_at_random(rng, failing.sink);
        }
        if self.scenario.settings.reading.retention_gap == RetentionGap::Hold {
            self.fleet.accept_gaps_each(OPERATOR);
        }
        match self.packed {
            None => self.fleet.produce(PERIOD, RECORDS),
            Some(packed) => {
                let mut rng = self.rng.child("packer");
                let strangers = self.strangers_one_in();
                self.fleet.produce_with(PERIOD, move |fleet| {
                    for _ in 0..RECORDS / packed {
                        put_packed(fleet, packed, strangers, &mut rng);
                    }
                });
            }
        }
    }

    /// Counts how often somebody held the lock while another still believed to lead.
    fn watch_leaders(&self) {
        let (fleet, leaders) = (self.fleet.clone(), Arc::clone(&self.leaders));
        self.fleet.on_store_event(move |_, event| {
            if let StoreCall::ChangeLock { .. } = event.call
                && matches!(event.happened, Happened::Applied(_))
            {
                let now = fleet.view().leaders().len();
                leaders.saw(now);
            }
        });
    }

    /// Waits for the step, ends what has passed meanwhile, and strikes.
    pub(super) async fn perform(&mut self, step: Step) {
        let at = self.fleet.now() + step.after;
        loop {
            self.passing.sort_by_key(|(until, _)| *until);
            let Some((until, passing)) = self.passing.first().copied().filter(|(until, _)| *until <= at)
            else {
                break;
            };
            self.sleep_until(until).await;
            self.passing.remove(0);
            self.pass(passing);
        }
        self.sleep_until(at).await;
        if self.inject(step.event).await {
            self.report.injected(&step.event);
        }
    }

    async fn sleep_until(&self, moment: Moment) {
        let left = moment.saturating_since(self.fleet.now());
        self.fleet.sleep(left).await;
    }

    fn pass(&mut self, passing: Passing) {
        match passing {
            Passing::Frozen(name) => self.fleet.thaw(name),
            Passing::Cut(name) => self.mend(name),
            Passing::SinkFailing => self.fleet.dead_letters().end_lasting_fault(),
        }
    }

    /// The operators end their work, and take their orders back.
    pub(super) async fn end_orders(&mut self) {
        if self.scenario.has_operators() {
            self.operators.end(&self.fleet).await;
            self.report.ordered(self.operators.outcomes());
        }
    }

    /// Ends all bad times: every worker is there and well. Returns what has happened in them, and which worker could join yet.
    pub(super) fn heal(mut self) -> (Report, impl FnOnce()) {
        self.bad_times.store(false, Ordering::Relaxed);
        self.fleet.dead_letters().recover();
        self.note_stopped();
        for (_, passing) in std::mem::take(&mut self.passing) {
            self.pass(passing);
        }
        for name in self.alive.clone() {
            self.mend(name);
        }
        for name in NAMES.into_iter().take(self.members) {
            if !self.alive.contains(name) {
                self.start(name);
            }
        }
        // What is wrong with the index from here on is wrong for good.
        if self.scenario.index_stays_broken {
            self.alive.iter().for_each(|name| self.break_index(name));
        }
        let mut report = std::mem::replace(&mut self.report, Report::one_seed());
        report.two_leaders = self.leaders.episodes.load(Ordering::Relaxed);
        let newcomer = move || {
            self.start(NEWCOMER);
            if self.scenario.index_stays_broken {
                self.break_index(NEWCOMER);
            }
        };
        (report, newcomer)
    }

    fn start(&mut self, name: &'static str) {
        let skew = Skew {
            // A day either way, and five in a hundred.
            wall_offset_millis: self.up_to(172_800_000) - 86_400_000,
            rate_ppm: i32::try_from(self.up_to(100_000)).unwrap() - 50_000,
            uptime: Duration::from_secs(self.rng.below(1_000_000)),
        };
        let erratic = ErraticProcessors {
            fleet: self.fleet.clone(),
            rng: self.fresh_rng(),
            bad_times: Arc::clone(&self.bad_times),
            is_slow: Arc::clone(&self.is_slow),
            failing: self.scenario.failing.clone(),
            passed: Arc::clone(&self.passed),
            made: AtomicU64::new(0),
        };
        let percent = self.failovers.get(name).copied().unwrap_or(100);
        let member = Member::named(name)
            .settings(self.scenario.settings_at(percent))
            .skew(skew);
        let member = match &self.given {
            Some(given) => given.clone().of(member),
            None => match self.scenario.concurrency {
                Some(concurrency) => member.processor(erratic.handlers(concurrency)),
                None => member.processor(erratic),
            },
        };
        let member = match &self.scenario.failing {
            Some(failing) => member.error_policy(ScenarioPolicy {
                failing: failing.clone(),
                bad_times: Arc::clone(&self.bad_times),
            }),
            None => member,
        };
        self.fleet.start(member);
        self.alive.insert(name);
        *self.runs.entry(name).or_default() += 1;
    }

    fn fresh_rng(&mut self) -> Rng {
        Rng::from_seed(self.rng.bits())
    }

    /// How seldom the records that are packed together have different keys: always, unless such a record cannot be read.
    fn strangers_one_in(&self) -> u64 {
        match self.scenario.settings.reading.aggregation {
            Aggregation::Fail => 40,
            Aggregation::Deliver | Aggregation::Filter | Aggregation::FilterRecords | Aggregation::Raw => 1,
        }
    }

    fn up_to(&mut self, most: u64) -> i64 {
        i64::try_from(self.rng.below(most + 1)).unwrap()
    }

    fn one_of<T: Clone>(&mut self, choice: &[T]) -> Option<T> {
        let index = self.rng.below(choice.len() as u64);
        choice.get(usize::try_from(index).unwrap()).cloned()
    }

    /// A member that lives and does not stand still.
    fn somebody(&mut self) -> Option<&'static str> {
        let awake: Vec<_> = self
            .alive
            .iter()
            .copied()
            .filter(|name| !self.is_frozen(name))
            .collect();
        self.one_of(&awake)
    }

    /// The one that leads, if it does not stand still.
    fn leader(&self) -> Option<&'static str> {
        let leaders = self.fleet.view().leaders();
        let leads =
            |name: &&'static str| leaders.iter().any(|leader| leader == name) && !self.is_frozen(name);
        self.alive.iter().copied().find(leads)
    }

    fn is_frozen(&self, name: &str) -> bool {
        let frozen =
            |(_, passing): &(Moment, Passing)| matches!(passing, Passing::Frozen(frozen) if *frozen == name);
        self.passing.iter().any(frozen)
    }

    /// Whether that could happen.
    async fn inject(&mut self, event: FleetEvent) -> bool {
        self.note_stopped();
        let Some(name) = self.somebody() else {
            return self.start_somebody();
        };
        let fleet = self.fleet.clone();
        match event {
            FleetEvent::Start => return self.start_somebody(),
            FleetEvent::Kill => self.kill(name),
            FleetEvent::Restart => {
                self.kill(name);
                self.start(name);
            }
            FleetEvent::Freeze(time) => {
                fleet.freeze(name);
                self.until(time, Passing::Frozen(name));
            }
            FleetEvent::FreezeLeader(time) => {
                let leader = self.leader().unwrap_or(name);
                fleet.freeze(leader);
                self.until(time, Passing::Frozen(leader));
            }
            FleetEvent::SilentLock(time) => {
                let Some(leader) = self.leader() else { return false };
                for operation in [Operation::ReadLock, Operation::ChangeLock] {
                    let fault = Fault::Fail(StoreErrorKind::Unavailable);
                    fleet.store_faults(leader).always(operation, fault);
                }
                self.until(time, Passing::Cut(leader));
            }
            FleetEvent::StaleReads(time) => {
                let name = self.leader().unwrap_or(name);
                fleet.store_faults(name).show_old_rows();
                self.until(time, Passing::Cut(name));
            }
            FleetEvent::StaleIndex(time) => self.everybody(time, |fleet, name| {
                fleet.store_faults(name).show_old_rows();
            }),
            FleetEvent::Drain => return self.drain(name).await,
            FleetEvent::Deploy => {
                for name in self.alive.clone() {
                    if !self.is_frozen(name) && self.drain(name).await {
                        self.start(name);
                    }
                }
            }
            FleetEvent::Split => return self.split(),
            FleetEvent::Merge => return self.merge(),
            FleetEvent::Trim(kept) => fleet.trim(&Trim::KeepLast(kept)),
            FleetEvent::Link(link, time) => {
                fleet.store_faults(name).set_link(link);
                self.until(time, Passing::Cut(name));
            }
            FleetEvent::Partition(time) => {
                fleet.store_faults(name).set_link(Link::RequestsLost);
                for call in [StreamCall::Next, StreamCall::Open, StreamCall::Shards] {
                    let lost = StreamFaultRule::every(call, StreamFault::Hang);
                    fleet.source_faults(name).add(lost);
                }
                self.until(time, Passing::Cut(name));
            }
            FleetEvent::Outage(time) => self.everybody(time, |fleet, name| {
                fleet.store_faults(name).set_link(Link::Refusing);
            }),
            FleetEvent::Throttle(time) => {
                let rng = self.fresh_rng();
                let rates = FaultRates {
                    throttled_one_in: 3,
                    delay_up_to: LATENCY,
                    ..FaultRates::default()
                };
                self.everybody(time, |fleet, name| {
                    fleet.store_faults(name).at_random(rng.child(name), rates);
                });
            }
            FleetEvent::IndexFails(time) => self.everybody(time, |fleet, name| {
                let fault = Fault::Fail(StoreErrorKind::Throttled);
                fleet.store_faults(name).always(Operation::OwnedBy, fault);
            }),
            FleetEvent::ScansAreFew(time) => {
                let capacity = ScanCapacity::one_per(SCAN_EVERY);
                self.everybody(time, |fleet, name| {
                    fleet.store_faults(name).limit_scans(&capacity);
                });
            }
            FleetEvent::Retime(percent) => {
                // Who leaves is busy, and holds its leases for a while.
                self.is_slow.store(true, Ordering::Relaxed);
                fleet.sleep(SLOW_START).await;
                for name in self.alive.clone() {
                    if !self.is_frozen(name) && self.drain(name).await {
                        self.failovers.insert(name, percent);
                        self.start(name);
                    }
                }
                self.is_slow.store(false, Ordering::Relaxed);
            }
            FleetEvent::Operator(act) => {
                let mut rng = self.fresh_rng();
                self.operators.give(&fleet, act, &mut rng);
            }
            FleetEvent::SinkFails(fault, time) => {
                fleet.dead_letters().inject_always(fault);
                self.until(time, Passing::SinkFailing);
            }
            FleetEvent::LoseReply => fleet.store_faults(name).once(Operation::Change, Fault::LoseReply),
            FleetEvent::DelayRequest(late) => {
                let fault = Fault::DelayRequest(late);
                fleet.store_faults(name).once(Operation::Change, fault);
            }
            FleetEvent::DelayReply(late) => {
                let fault = Fault::DelayReply(late);
                fleet.store_faults(name).once(Operation::Scan, fault);
            }
            FleetEvent::SourceFails(kind, times) => self.next_reads(name, times, StreamFault::Fail(kind)),
            FleetEvent::SourceHangs => self.next_reads(name, 2, StreamFault::Hang),
            FleetEvent::SourceLosesReplies => self.next_reads(name, 3, StreamFault::LoseReply),
            FleetEvent::WrongEnds(fault, times) => self.next_reads(name, times, StreamFault::End(fault)),
            FleetEvent::SourceIsSlow(late) => self.next_reads(name, 3, StreamFault::Delay(late)),
        }
        true
    }

    fn until(&mut self, time: Duration, passing: Passing) {
        self.passing.push((self.fleet.now() + time, passing));
    }

    fn everybody(&mut self, time: Duration, spoil: impl Fn(&Fleet, &str)) {
        for name in self.alive.clone() {
            spoil(&self.fleet, name);
            self.until(time, Passing::Cut(name));
        }
    }

    fn break_index(&self, name: &str) {
        let fault = Fault::Fail(StoreErrorKind::Throttled);
        self.fleet.store_faults(name).always(Operation::OwnedBy, fault);
    }

    fn next_reads(&self, name: &str, times: u32, fault: StreamFault) {
        let rule = StreamFaultRule::next(times, StreamCall::Next, fault);
        self.fleet.source_faults(name).add(rule);
    }

    fn start_somebody(&mut self) -> bool {
        let missing = NAMES
            .into_iter()
            .take(self.members)
            .find(|name| !self.alive.contains(name));
        missing.is_some_and(|name| {
            self.start(name);
            true
        })
    }

    fn kill(&mut self, name: &'static str) {
        self.fleet.kill(name);
        let process = match self.runs.get(name) {
            Some(run) if *run > 1 => format!("{name}#{run}"),
            _ => name.to_owned(),
        };
        self.report.killed(name, process, self.fleet.now());
        self.gone(name);
    }

    /// Notes the workers that a policy has stopped.
    fn note_stopped(&mut self) {
        let living = self.fleet.view().living();
        for name in self.alive.clone() {
            if !living.contains_key(name) {
                self.gone(name);
            }
        }
    }

    fn gone(&mut self, name: &'static str) {
        self.alive.remove(name);
        self.passing.retain(
            |(_, passing)| !matches!(passing, Passing::Frozen(who) | Passing::Cut(who) if *who == name),
        );
    }

    /// Whether somebody else is there to go on.
    async fn drain(&mut self, name: &'static str) -> bool {
        if self.alive.len() < 2 {
            return false;
        }
        self.mend(name);
        self.gone(name);
        // A shard whose end cannot be stored yet, since its co-parent has no lease, is given up when the time is up.
        let report = match self.fleet.drain(name).await {
            Ok(report) => report,
            // The policy stopped the worker meanwhile.
            Err(error) if error.kind() == ErrorKind::Processing => return true,
            Err(error) => panic!("{name} ends with an error: {error}"),
        };
        let settings = self.fleet.settings();
        let most = settings.shutdown.drain_timeout + self.scenario.longest_failover();
        assert!(report.took <= most, "{report:?}");
        true
    }

    fn split(&mut self) -> bool {
        let shards = self.fleet.open_shards();
        let shard = self.one_of(&shards).filter(|_| shards.len() < MOST_SHARDS);
        shard.is_some_and(|shard| self.fleet.split(&shard).is_ok())
    }

    /// Whether any two shards are neighbours.
    fn merge(&mut self) -> bool {
        let shards = self.fleet.open_shards();
        let Some(first) = self.one_of(&shards) else {
            return false;
        };
        let merges = |second: &ShardId| self.fleet.merge(&first, second).is_ok();
        shards.iter().filter(|shard| **shard != first).any(merges)
    }

    /// All that is left is that a request to the lease store takes its time.
    fn mend(&mut self, name: &str) {
        let store = self.fleet.store_faults(name);
        store.clear();
        let usual = FaultRates {
            delay_up_to: LATENCY,
            ..FaultRates::default()
        };
        store.at_random(self.fresh_rng(), usual);
        self.fleet.source_faults(name).clear();
    }
}

/// How often two members believed to lead at once.
#[derive(Debug, Default)]
struct Leaders {
    now: AtomicUsize,
    episodes: AtomicU64,
}

impl Leaders {
    fn saw(&self, leaders: usize) {
        let before = self.now.swap(leaders, Ordering::Relaxed);
        if before < 2 && leaders >= 2 {
            self.episodes.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Puts one record with so many others in it. Not all of their keys are those of its shard, as when a producer does not know the shards
/// of today.
fn put_packed(fleet: &Fleet, packed: u64, strangers_one_in: u64, rng: &mut Rng) {
    let mut aggregator = Aggregator::new();
    let mut key = String::new();
    for _ in 0..packed {
        if key.is_empty() || strangers_one_in < 2 || rng.one_in(strangers_one_in) {
            key = format!("truck-{}", rng.below(100));
        }
        let number = rng.below(1000).to_string();
        aggregator.add(&key, None, number.as_bytes()).unwrap();
    }
    let record = aggregator.finish().unwrap();
    fleet.put_packed(&key, record.data, packed);
}
