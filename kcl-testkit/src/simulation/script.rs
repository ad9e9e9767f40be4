//! The faults of a fleet, and when they happen: a function of the seed.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::faults::Link;
use crate::faulty_stream::EndFault;
use kcl_core::clock::Rng;
use kcl_core::processor::Concurrency;
use kcl_core::settings::{Aggregation, Batching, ByteSize, CheckpointMode, RetentionGap, Settings};
use kcl_core::source::SourceErrorKind;

use super::conditions;
use super::failing_records::FailingRecords;
use super::operators::OperatorAct;
use crate::dead_letters::SinkFault;

/// An event in the fleet, or in one member that the driver picks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FleetEvent {
    /// A process ends without a word.
    Kill,
    /// A process ends without a word, and another with the same worker id starts at once.
    Restart,
    /// A process that is not there starts.
    Start,
    /// A process stands still for so long.
    Freeze(Duration),
    /// The process that leads stands still for so long, and then goes on with what it was about to do.
    FreezeLeader(Duration),
    /// The process that leads gets no answer about the lock that makes it the leader, for so long.
    SilentLock(Duration),
    /// Scans and look-ups show a worker, the leader if it can be, nothing newer than now, for so long.
    StaleReads(Duration),
    /// They show nobody anything newer than now, for so long.
    StaleIndex(Duration),
    /// A worker is asked to leave, and leaves.
    Drain,
    /// One worker after the other leaves and comes again, as in a deploy.
    Deploy,
    /// A shard is split.
    Split,
    /// Two shards are merged.
    Merge,
    /// Retention takes all but the last so many records of each shard.
    Trim(usize),
    /// A worker's way to the lease store, for so long.
    Link(Link, Duration),
    /// A worker reaches neither the lease store nor the stream, for so long.
    Partition(Duration),
    /// No worker reaches the lease store, for so long.
    Outage(Duration),
    /// The lease store refuses every third call of everybody as too many, for so long.
    Throttle(Duration),
    /// The owner index of the lease store refuses everybody, for so long.
    IndexFails(Duration),
    /// The lease store answers one scan in three seconds, whoever asks, for so long.
    ScansAreFew(Duration),
    /// One worker after the other leaves, and comes again with another failover time: so many percent of the one of the scenario.
    Retime(u32),
    /// The reply to a worker's next change of a lease is lost.
    LoseReply,
    /// A worker's next change of a lease arrives so much later.
    DelayRequest(Duration),
    /// A worker's next scan is answered so much later: what it plans with is old.
    DelayReply(Duration),
    /// The stream fails a worker so many times like this.
    SourceFails(SourceErrorKind, u32),
    /// The stream never answers a worker's next reads.
    SourceHangs,
    /// The stream's next answers to a worker are lost.
    SourceLosesReplies,
    /// The stream answers a worker's next reads so much later.
    SourceIsSlow(Duration),
    /// The dead-letter sink of all workers fails like this, for so long.
    SinkFails(SinkFault, Duration),
    /// An operator gives an order, or two do.
    Operator(OperatorAct),
    /// The stream's next so many answers to a worker are wrong about the end of a shard.
    WrongEnds(EndFault, u32),
}

/// A fault, and how long after the one before it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The pause before it.
    pub after: Duration,
    /// The event.
    pub event: FleetEvent,
}

/// The faults of a fleet, and the conditions that it lives under.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// The seed from which everything follows.
    pub seed: u64,
    /// How many workers there may be at once: 3 to 6.
    pub members: usize,
    /// How many shards the stream begins with: 4 to 12.
    pub shards: u32,
    /// How every worker behaves.
    pub settings: Settings,
    /// How many records the producer packs into one, where it packs.
    pub packed: Option<u64>,
    /// The failover time of each worker in percent of the one in the settings, in their order; of those that are not here it is that one.
    pub failovers: Vec<u32>,
    /// Whether the owner index refuses everybody from the end of bad times on, as one of too little capacity does.
    pub index_stays_broken: bool,
    /// How a handler is called, where one takes the place of the processors.
    pub concurrency: Option<Concurrency>,
    /// Which records fail, and what follows; `None` where each can be processed.
    pub failing: Option<FailingRecords>,
    /// The events.
    pub script: Vec<Step>,
}

/// How long bad times last at least for a processor that is given.
const BAD_TIMES_OF_PROCESSOR: Duration = Duration::from_secs(100);
/// How long bad times last at least.
const BAD_TIMES: Duration = Duration::from_secs(250);
/// The longest pause between two faults.
const LONGEST_PAUSE: u64 = 10_000;

impl Scenario {
    /// The scenario of this seed. In each a worker crashes or freezes, a shard is split, and more than five other things go wrong.
    pub fn of(seed: u64) -> Self {
        let mut scenario = Self::first_version(seed);
        // Numbers of its own: what was there before it stays as it was.
        let mut rng = Rng::from_seed(seed).child("later additions");
        if rng.one_in(3) {
            scenario.failovers = (0..MOST_MEMBERS).map(|_| percent(&mut rng)).collect();
        }
        scenario.index_stays_broken = rng.one_in(4);
        if Rng::from_seed(seed).child("held gaps").one_in(4) {
            scenario.settings.reading.retention_gap = RetentionGap::Hold;
        }
        scenario.settings.processing.batching = batching(&mut Rng::from_seed(seed).child("gathering"));
        let mut more = vec![FleetEvent::IndexFails(millis(&mut rng, 60_000))];
        if rng.one_in(2) {
            more.push(FleetEvent::ScansAreFew(millis(&mut rng, 60_000)));
        }
        if rng.one_in(3) {
            // Half of these deploys shorten the failover time as much as can be.
            let shortens = rng.one_in(2);
            if shortens {
                scenario.failovers = vec![300; MOST_MEMBERS];
            }
            more.push(FleetEvent::Retime(if shortens { 50 } else { percent(&mut rng) }));
        }
        for fault in more {
            // Behind what no scenario does without, and before the last.
            let place = 7 + pick(&mut rng, (scenario.script.len() - 7) as u64);
            let after = millis(&mut rng, LONGEST_PAUSE);
            scenario.script.insert(place, Step { after, event: fault });
        }
        scenario
    }

    /// The scenario of this seed with records that fail, policies that set them aside, and a dead-letter sink that fails, too.
    pub fn with_failing_records(seed: u64) -> Self {
        let mut scenario = Self::of(seed);
        let mut rng = Rng::from_seed(seed).child("failing records");
        scenario.failing = Some(FailingRecords::draw(seed, &mut rng));
        // Records that fail are enough to wait for.
        scenario.settings.reading.retention_gap = RetentionGap::Continue;
        // After each panic a batch is gathered from its first record on.
        if let Some(batching) = &mut scenario.settings.processing.batching {
            batching.max_wait = batching.max_wait.min(Duration::from_millis(500));
        }
        if scenario.packed.is_some() && rng.one_in(2) {
            scenario.settings.reading.aggregation = Aggregation::Fail;
        }
        for _ in 0..1 + rng.below(4) {
            let place = pick(&mut rng, scenario.script.len() as u64);
            let step = Step {
                after: millis(&mut rng, LONGEST_PAUSE),
                event: sink_fails(&mut rng),
            };
            scenario.script.insert(place, step);
        }
        scenario
    }

    /// The scenario of this seed with a handler that is called for many records at once; in half of them records fail, as in
    /// [`with_failing_records`](Self::with_failing_records).
    pub fn with_handlers(seed: u64) -> Self {
        let mut rng = Rng::from_seed(seed).child("handlers");
        let mut scenario = match rng.one_in(2) {
            true => Self::with_failing_records(seed),
            false => Self::of(seed),
        };
        // A handler has no checkpoints of its own.
        scenario.settings.checkpoints.mode = CheckpointMode::Automatic;
        let calls = [2, 3, 8, 64][pick(&mut rng, 4)];
        scenario.concurrency = Some(match rng.one_in(4) {
            true => Concurrency::Unordered(calls),
            false => Concurrency::PerKey(calls),
        });
        scenario
    }

    /// The scenario of this seed with operators who give orders meanwhile; in a third of them a handler is called, as in
    /// [`with_handlers`](Self::with_handlers).
    pub fn with_operators(seed: u64) -> Self {
        let mut rng = Rng::from_seed(seed).child("operators");
        let mut scenario = match rng.one_in(3) {
            true => Self::with_handlers(seed),
            false => Self::of(seed),
        };
        // Records that were gathered before a pause are offered after it.
        scenario.settings.processing.batching = None;
        for _ in 0..8 + rng.below(16) {
            let place = pick(&mut rng, scenario.script.len() as u64);
            let step = Step {
                after: millis(&mut rng, LONGEST_PAUSE),
                event: FleetEvent::Operator(OperatorAct::draw(&mut rng)),
            };
            scenario.script.insert(place, step);
        }
        scenario
    }

    /// Whether operators give orders.
    pub(super) fn has_operators(&self) -> bool {
        let is_order = |step: &Step| matches!(step.event, FleetEvent::Operator(_));
        self.script.iter().any(is_order)
    }

    /// The scenario of this seed for a processor that is given: nothing is taken away by retention, no record fails by itself, and
    /// the stream is right about the end of a shard. Without settings they follow from the seed, too.
    pub fn for_processor(seed: u64, settings: Option<&Settings>) -> Self {
        let mut rng = Rng::from_seed(seed).child("processor");
        let members = 2 + pick(&mut rng, 3);
        let shards = 2 + u32::try_from(rng.below(4)).unwrap();
        let drawn = conditions::settings(&mut rng);
        let mut script = Vec::new();
        let mut total = Duration::ZERO;
        while total < BAD_TIMES_OF_PROCESSOR {
            let after = millis(&mut rng, LONGEST_PAUSE);
            total += after;
            let event = match script.len() {
                3 => violence(&mut rng),
                6 => FleetEvent::Split,
                _ if rng.one_in(10) => sink_fails(&mut rng),
                _ => any_event(&mut rng),
            };
            if !matches!(event, FleetEvent::Trim(_) | FleetEvent::WrongEnds(..)) {
                script.push(Step { after, event });
            }
        }
        Self {
            seed,
            members,
            shards,
            settings: settings.cloned().unwrap_or(drawn),
            packed: None,
            failovers: Vec::new(),
            index_stays_broken: false,
            concurrency: None,
            failing: None,
            script,
        }
    }

    /// The longest failover time that a worker of the scenario lives by.
    pub fn longest_failover(&self) -> Duration {
        let retimed = self.script.iter().filter_map(|step| {
            let FleetEvent::Retime(percent) = step.event else {
                return None;
            };
            Some(percent)
        });
        let longest = self.failovers.iter().copied().chain(retimed).fold(100, u32::max);
        self.settings.leases.failover_time * longest / 100
    }

    /// How a worker behaves whose failover time is so many percent of the one of the scenario.
    pub fn settings_at(&self, percent: u32) -> Settings {
        let failover_time = self.settings.leases.failover_time * percent / 100;
        {
            let mut settings = self.settings.clone();
            settings.leases.failover_time = failover_time;
            settings.reading.stall_timeout = self.settings.reading.stall_timeout.max(failover_time);
            settings
        }
    }

    /// The scenario of this seed as it was before failover times differed and the index failed: what was once found in a scenario is in this one.
    pub fn first_version(seed: u64) -> Self {
        let mut rng = Rng::from_seed(seed).child("story");
        let members = 3 + pick(&mut rng, 4);
        let shards = 4 + u32::try_from(rng.below(9)).unwrap();
        let mut settings = conditions::settings(&mut rng);
        settings.checkpoints.mode = checkpointing(seed);
        let packed = rng.one_in(4).then(|| 2 + rng.below(5));
        let mut script = Vec::new();
        let mut total = Duration::ZERO;
        while total < BAD_TIMES {
            let after = Duration::from_millis(rng.below(LONGEST_PAUSE));
            total += after;
            // What no scenario does without comes third and sixth.
            let event = match script.len() {
                3 => violence(&mut rng),
                6 => FleetEvent::Split,
                _ => any_event(&mut rng),
            };
            script.push(Step { after, event });
        }
        Self {
            seed,
            members,
            shards,
            settings,
            packed,
            failovers: Vec::new(),
            index_stays_broken: false,
            concurrency: None,
            failing: None,
            script,
        }
    }
}

/// How long a dead-letter sink fails, and how.
fn sink_fails(rng: &mut Rng) -> FleetEvent {
    let fault = match rng.below(4) {
        0 => SinkFault::Hang,
        1 => SinkFault::LoseAnswer,
        2 => SinkFault::AnswerLate(millis(rng, 60_000)),
        _ => SinkFault::Refuse,
    };
    FleetEvent::SinkFails(fault, millis(rng, 60_000))
}

/// Whether the processors checkpoint by themselves. Drawn apart, so that all else of a scenario does not depend on it.
fn checkpointing(seed: u64) -> CheckpointMode {
    match Rng::from_seed(seed).child("checkpointing").one_in(4) {
        true => CheckpointMode::Manual,
        false => CheckpointMode::Automatic,
    }
}

/// How batches are gathered, in one scenario of four.
fn batching(rng: &mut Rng) -> Option<Batching> {
    if !rng.one_in(4) {
        return None;
    }
    Some(Batching {
        max_records: 1 + u32::try_from(rng.below(300)).unwrap(),
        max_bytes: ByteSize::b(100 + rng.below(100_000)),
        max_wait: millis(rng, 20_000) + Duration::from_millis(1),
    })
}

/// How many workers there may be, the one that joins at the end included.
const MOST_MEMBERS: usize = 7;

/// A failover time in percent of another: from half to three times as long. No shorter one is valid with every setting.
fn percent(rng: &mut Rng) -> u32 {
    let choice = [50, 75, 100, 150, 200, 300];
    choice[pick(rng, 6)]
}

fn pick(rng: &mut Rng, count: u64) -> usize {
    usize::try_from(rng.below(count)).unwrap()
}

fn millis(rng: &mut Rng, most: u64) -> Duration {
    Duration::from_millis(rng.below(most))
}

fn violence(rng: &mut Rng) -> FleetEvent {
    match rng.below(4) {
        0 | 1 => FleetEvent::Kill,
        2 => FleetEvent::Restart,
        // Up to twice the failover time and more, and sometimes until everybody has forgotten it.
        _ if rng.one_in(8) => FleetEvent::Freeze(millis(rng, 120_000)),
        _ if rng.one_in(2) => FleetEvent::Freeze(millis(rng, 20_000)),
        _ => FleetEvent::FreezeLeader(millis(rng, 20_000)),
    }
}

fn any_event(rng: &mut Rng) -> FleetEvent {
    match rng.below(31) {
        0..=2 => violence(rng),
        3..=5 => FleetEvent::Start,
        6 => FleetEvent::Drain,
        7 if rng.one_in(3) => FleetEvent::Deploy,
        7 => FleetEvent::Start,
        8 | 9 => FleetEvent::Split,
        10 | 11 => FleetEvent::Merge,
        12 => FleetEvent::Trim(20 + pick(rng, 200)),
        13 => {
            let links = [Link::Refusing, Link::RequestsLost, Link::RepliesLost];
            FleetEvent::Link(links[pick(rng, 3)], millis(rng, 15_000))
        }
        14 => FleetEvent::Partition(millis(rng, 15_000)),
        15 if rng.one_in(3) => FleetEvent::Outage(millis(rng, 20_000)),
        15 => FleetEvent::Throttle(millis(rng, 20_000)),
        16 | 17 => FleetEvent::LoseReply,
        18 => FleetEvent::DelayRequest(millis(rng, 10_000)),
        19 => FleetEvent::DelayReply(millis(rng, 10_000)),
        20 => {
            let kinds = [
                (SourceErrorKind::Unavailable, 200),
                (SourceErrorKind::Throttled, 200),
                // A shard that is not found is asked for again after long pauses.
                (SourceErrorKind::NotFound, 3),
            ];
            let (kind, most) = kinds[pick(rng, 3)];
            let times = 1 + u32::try_from(rng.below(most)).unwrap();
            FleetEvent::SourceFails(kind, times)
        }
        21 => FleetEvent::SourceHangs,
        22 => FleetEvent::SourceLosesReplies,
        23 => FleetEvent::StaleReads(millis(rng, 20_000)),
        24 if rng.one_in(2) => FleetEvent::StaleIndex(millis(rng, 15_000)),
        24 => FleetEvent::SilentLock(millis(rng, 20_000)),
        25 => FleetEvent::FreezeLeader(millis(rng, 20_000)),
        26 => FleetEvent::SourceIsSlow(millis(rng, 8000)),
        27 => FleetEvent::Trim(pick(rng, 20)),
        28 => {
            let untrue = [EndFault::Claimed, EndFault::Strangers];
            // More in a row, all of one closed shard of which nothing was read, would be believed.
            let times = 1 + u32::try_from(rng.below(3)).unwrap();
            FleetEvent::WrongEnds(untrue[pick(rng, 2)], times)
        }
        _ => {
            let incomplete = [
                EndFault::WithoutChildren,
                EndFault::Half,
                EndFault::Withheld,
                EndFault::NamedBeside,
            ];
            let times = 1 + u32::try_from(rng.below(1000)).unwrap();
            FleetEvent::WrongEnds(incomplete[pick(rng, 4)], times)
        }
    }
}

impl FleetEvent {
    /// Everything that can happen in these scenarios, by the name that it is counted under.
    pub fn kinds(scenario: fn(u64) -> Scenario) -> BTreeSet<&'static str> {
        let scenarios = (0..200).map(scenario);
        let faults = scenarios.flat_map(|scenario| scenario.script.into_iter().map(|step| step.event.kind()));
        faults.collect()
    }

    /// Returns its name, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Restart => "restart",
            Self::Start => "start",
            Self::Freeze(_) => "freeze",
            Self::FreezeLeader(_) => "freeze of the leader",
            Self::SilentLock(_) => "leader cut off from its lock",
            Self::StaleReads(_) => "stale reads",
            Self::StaleIndex(_) => "stale index",
            Self::Drain => "drain",
            Self::Deploy => "deploy",
            Self::Split => "split",
            Self::Merge => "merge",
            Self::Trim(_) => "retention",
            Self::Link(Link::Refusing, _) => "store refuses one worker",
            Self::Link(Link::RequestsLost, _) => "requests to the store lost",
            Self::Link(..) => "replies of the store lost",
            Self::Partition(_) => "partition of one worker",
            Self::Outage(_) => "outage of the store",
            Self::Throttle(_) => "store throttles",
            Self::IndexFails(_) => "owner index fails",
            Self::ScansAreFew(_) => "scans throttled",
            Self::Retime(_) => "deploy with another failover time",
            Self::LoseReply => "reply lost after success",
            Self::DelayRequest(_) => "late write",
            Self::DelayReply(_) => "late answer to a scan",
            Self::SourceFails(SourceErrorKind::Throttled, _) => "stream throttles",
            Self::SourceFails(SourceErrorKind::NotFound, _) => "stream does not find a shard",
            Self::SourceFails(..) => "stream fails",
            Self::SourceHangs => "stream hangs",
            Self::SourceLosesReplies => "reply of the stream lost",
            Self::SourceIsSlow(_) => "stream is slow",
            Self::Operator(act) => act.kind(),
            Self::SinkFails(SinkFault::Refuse, _) => "dead-letter sink fails",
            Self::SinkFails(SinkFault::Hang, _) => "dead-letter sink hangs",
            Self::SinkFails(SinkFault::LoseAnswer, _) => "answers of the dead-letter sink lost",
            Self::SinkFails(SinkFault::AnswerLate(_), _) => "dead-letter sink answers late",
            Self::WrongEnds(EndFault::Claimed | EndFault::Strangers, _) => {
                "end claimed of a shard that goes on"
            }
            Self::WrongEnds(..) => "end of a shard shown in part or not at all",
        }
    }

    /// Whether a worker ends or stands still without being asked.
    pub fn is_violent(&self) -> bool {
        matches!(
            self,
            Self::Kill | Self::Restart | Self::Freeze(_) | Self::FreezeLeader(_)
        )
    }

    /// Whether the shards of the stream change.
    pub fn reshards(&self) -> bool {
        matches!(self, Self::Split | Self::Merge)
    }

    /// Whether something goes wrong, and is not just operated.
    pub fn is_harmful(&self) -> bool {
        !self.reshards() && !matches!(self, Self::Start | Self::Drain | Self::Deploy | Self::Retime(_))
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: up to {} workers, {} shards, records packed by {}, failover times of {:?} percent, index broken to the end: {}",
            self.seed,
            self.members,
            self.shards,
            self.packed.unwrap_or(1),
            self.failovers,
            self.index_stays_broken
        )?;
        if let Some(concurrency) = &self.concurrency {
            writeln!(f, "handlers: {concurrency:?}")?;
        }
        if let Some(failing) = &self.failing {
            writeln!(f, "{failing:#?}")?;
        }
        writeln!(f, "{:#?}", self.settings)?;
        let mut at = Duration::ZERO;
        for step in &self.script {
            at += step.after;
            writeln!(f, "{:>9.3} s  {:?}", at.as_secs_f64(), step.event)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenario_of_seed_is_hard_enough() {
        for seed in 0..500 {
            let scenario = Scenario::of(seed);
            assert_eq!(scenario, Scenario::of(seed));
            assert!((3..=6).contains(&scenario.members) && (4..=12).contains(&scenario.shards));
            let faults = || scenario.script.iter().map(|step| step.event);
            assert!(faults().any(|fault| fault.is_violent()), "{scenario}");
            assert!(faults().any(|fault| fault.reshards()), "{scenario}");
            assert!(faults().filter(FleetEvent::is_harmful).count() >= 5, "{scenario}");
            assert_eq!(scenario.settings.validate(), Ok(()));
            for percent in [50, 75, 100, 150, 200, 300] {
                assert_eq!(scenario.settings_at(percent).validate(), Ok(()));
            }
            assert!(scenario.script.iter().map(|step| step.after).sum::<Duration>() >= BAD_TIMES);
        }
        assert_ne!(Scenario::of(1).script, Scenario::of(2).script);
    }
}
