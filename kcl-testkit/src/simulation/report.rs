//! The observations of one scenario, or of many.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::fleet::Fleet;
use kcl_core::clock::Moment;

use super::operators::OrderOutcomes;
use super::script::FleetEvent;

/// The observations of one scenario, or of many.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Scenarios.
    pub seeds: u64,
    /// Their time, in seconds.
    pub simulated: f64,
    /// The time of the shortest.
    pub shortest: f64,
    /// The faults of the fleets, by kind.
    pub injected: BTreeMap<&'static str, u64>,
    /// Processes that ended or stood still without being asked.
    pub violent: u64,
    /// Splits and merges.
    pub reshards: u64,
    /// The number of harmful faults, those included.
    pub faults: u64,
    /// Records set aside, each counted in every ownership that did it.
    pub set_aside: u64,
    /// Dead letters that the sink stored.
    pub dead_letters: u64,
    /// Dead letters at which the sink failed.
    pub sink_failures: u64,
    /// Orders of operators that were obeyed, refused with a reason, and given in vain: nobody was there, or another operator went before.
    pub orders: [u64; 3],
    /// Changes of a lease's owner.
    pub moves: u64,
    /// Ownerships that began.
    pub ownerships: u64,
    /// Records put.
    pub put: u64,
    /// Records handed to a processor.
    pub delivered: u64,
    /// Those of them that had been handed to one before.
    pub redelivered: u64,
    /// Records that retention took before they were finished.
    pub trimmed: u64,
    /// How often something that happened was checked against every invariant that it could break.
    pub evaluations: u64,
    /// Changes of the process that was busy with a shard.
    pub handovers: u64,
    /// Batches that a process began after the next owner had, though it was never paused. None may be.
    pub late_starts: u64,
    /// How long a process that was never paused still worked on a batch after the next owner had started one: a call of user code
    /// that took longer than the lease could be renewed. In seconds, without those handovers where there was no such time.
    pub late_batches: Spread,
    /// The same of processes that had been paused.
    pub late_after_pause: Spread,
    /// From a kill until every lease had a living owner, where nothing else was wrong: in failover times.
    pub clean_failovers: Spread,
    /// From the kill of a process to the first batch, at another one, of a shard that it was busy with, whatever else went wrong
    /// meanwhile: in failover times.
    pub failovers: Spread,
    /// From the end of bad times until every lease had a living owner, in seconds.
    pub recoveries: Spread,
    /// How often somebody got hold of the leader's lock while another believed to lead.
    pub two_leaders: u64,
    /// Moves for the sake of balance when a worker joined after bad times.
    pub balance_moves: u64,
    /// As many would have been enough.
    pub least_moves: u64,
    /// Differs between two runs that did not go the same way.
    pub trace_hash: u64,
    killed: Vec<Kill>,
}

#[derive(Debug, Clone)]
struct Kill {
    name: &'static str,
    process: String,
    at: Moment,
}

/// Values, and how they spread.
#[derive(Debug, Clone, Default)]
pub struct Spread(Vec<f64>);

impl Spread {
    fn add(&mut self, value: Duration) {
        self.0.push(value.as_secs_f64());
    }

    /// The value that so large a part of all values does not exceed; 0 where there is none.
    pub fn quantile(&self, part: f64) -> f64 {
        self.quantile_among(self.0.len() as u64, part)
    }

    /// The same of so many values, of which those that are not here are 0.
    pub fn quantile_among(&self, all: u64, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let zeros = all.saturating_sub(sorted.len() as u64) as usize;
        let place = (all as f64 * part).ceil() as usize;
        match place.checked_sub(zeros + 1) {
            Some(place) => sorted.get(place).copied().unwrap_or(0.0),
            None => 0.0,
        }
    }

    /// The largest value; 0 where there is none.
    pub fn max(&self) -> f64 {
        self.0.iter().copied().fold(0.0, f64::max)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Report {
    /// Before the first scenario.
    pub fn none() -> Self {
        Self {
            shortest: f64::INFINITY,
            ..Self::default()
        }
    }

    pub(super) fn one_seed() -> Self {
        Self {
            seeds: 1,
            ..Self::none()
        }
    }

    pub(super) fn injected(&mut self, fault: &FleetEvent) {
        *self.injected.entry(fault.kind()).or_default() += 1;
        self.violent += u64::from(fault.is_violent());
        self.reshards += u64::from(fault.reshards());
        self.faults += u64::from(fault.is_harmful());
    }

    pub(super) fn killed(&mut self, name: &'static str, process: String, at: Moment) {
        self.killed.push(Kill { name, process, at });
    }

    pub(super) fn ordered(&mut self, outcomes: &OrderOutcomes) {
        let counts = [&outcomes.obeyed, &outcomes.refused, &outcomes.failed];
        self.orders = counts.map(|count| count.load(Ordering::Relaxed));
    }

    pub(super) fn recovered(&mut self, took: Duration) {
        self.recoveries.add(took);
    }

    pub(super) fn failed_over(&mut self, took: Duration, failover: Duration) {
        self.clean_failovers
            .0
            .push(took.as_secs_f64() / failover.as_secs_f64());
    }

    pub(super) fn balanced(&mut self, moves: usize, least: usize) {
        self.balance_moves += moves as u64;
        self.least_moves += least as u64;
    }

    /// Adds what the oracle knows at the end of a scenario.
    pub(super) fn close(&mut self, fleet: &Fleet) {
        let (view, tally) = (fleet.view(), fleet.view().tally());
        self.simulated = fleet.now().since_origin().as_secs_f64();
        self.shortest = self.simulated;
        self.moves = view.moves().len() as u64;
        self.ownerships = tally.ownerships;
        (self.put, self.delivered) = (tally.put, tally.delivered);
        (self.redelivered, self.trimmed) = (tally.redelivered, tally.trimmed_unfinished);
        self.evaluations = tally.observations;
        self.set_aside = tally.set_aside;
        self.dead_letters = fleet.dead_letters().letters().len() as u64;
        self.sink_failures = fleet.dead_letters().refused() as u64;
        self.trace_hash = fleet.trace_hash();
        for overlap in view.overlaps() {
            match overlap.paused {
                true => self.late_after_pause.add(overlap.time),
                false => self.late_batches.add(overlap.time),
            }
            self.late_starts += u64::from(overlap.began && !overlap.paused);
        }
        let failover = fleet.settings().leases.failover_time.as_secs_f64();
        let handovers = view.handovers();
        self.handovers = handovers.len() as u64;
        for handover in handovers {
            let killed = self
                .killed
                .iter()
                .find(|kill| kill.process == handover.from && kill.at <= handover.first);
            // One that comes again under its name has its leases at once.
            if let Some(kill) = killed.filter(|kill| handover.to.split('#').next() != Some(kill.name)) {
                let took = handover.first.saturating_since(kill.at);
                self.failovers.0.push(took.as_secs_f64() / failover);
            }
        }
    }

    /// Adds what was seen in other scenarios.
    pub fn add(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.simulated += other.simulated;
        self.shortest = self.shortest.min(other.shortest);
        for (kind, count) in other.injected {
            *self.injected.entry(kind).or_default() += count;
        }
        self.violent += other.violent;
        self.reshards += other.reshards;
        self.faults += other.faults;
        for (count, other) in self.orders.iter_mut().zip(other.orders) {
            *count += other;
        }
        self.moves += other.moves;
        self.ownerships += other.ownerships;
        self.put += other.put;
        self.delivered += other.delivered;
        self.redelivered += other.redelivered;
        self.trimmed += other.trimmed;
        self.evaluations += other.evaluations;
        self.set_aside += other.set_aside;
        self.dead_letters += other.dead_letters;
        self.sink_failures += other.sink_failures;
        self.handovers += other.handovers;
        self.late_starts += other.late_starts;
        self.late_batches.0.extend(other.late_batches.0);
        self.late_after_pause.0.extend(other.late_after_pause.0);
        self.two_leaders += other.two_leaders;
        self.clean_failovers.0.extend(other.clean_failovers.0);
        self.failovers.0.extend(other.failovers.0);
        self.recoveries.0.extend(other.recoveries.0);
        self.balance_moves += other.balance_moves;
        self.least_moves += other.least_moves;
        // The same whoever adds first.
        self.trace_hash = self.trace_hash.wrapping_add(other.trace_hash);
    }

    /// The averages of a scenario.
    pub fn per_seed(&self, total: u64) -> f64 {
        total as f64 / self.seeds.max(1) as f64
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = |total| self.per_seed(total);
        writeln!(
            f,
            "{} seeds, {:.1} simulated hours ({:.0} s each, at least {:.0} s), trace {:016x}",
            self.seeds,
            self.simulated / 3600.0,
            self.simulated / self.seeds.max(1) as f64,
            self.shortest,
            self.trace_hash
        )?;
        writeln!(
            f,
            "per seed: {:.1} faults, {:.1} of them crashes or freezes; {:.1} splits and merges; {:.0} changes of owner",
            each(self.faults),
            each(self.violent),
            each(self.reshards),
            each(self.moves)
        )?;
        let kinds: Vec<_> = self
            .injected
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        writeln!(f, "by kind: {}", kinds.join(", "))?;
        writeln!(
            f,
            "{} records put, {} delivered, of these {} again ({:.2} %); retention took {} unfinished; {} evaluations of invariants",
            self.put,
            self.delivered,
            self.redelivered,
            100.0 * self.redelivered as f64 / self.delivered.max(1) as f64,
            self.trimmed,
            self.evaluations
        )?;
        if self.set_aside > 0 {
            writeln!(
                f,
                "{} records set aside; {} dead letters stored, {} failures of their sink",
                self.set_aside, self.dead_letters, self.sink_failures
            )?;
        }
        if self.orders != [0; 3] {
            let [obeyed, refused, failed] = self.orders;
            writeln!(
                f,
                "orders of operators: {obeyed} obeyed, {refused} refused, {failed} in vain"
            )?;
        }
        writeln!(
            f,
            "two leaders at once: {} times ({:.2} per seed)",
            self.two_leaders,
            each(self.two_leaders)
        )?;
        writeln!(
            f,
            "{} handovers; begun by a former owner that was never paused: {} batches",
            self.handovers, self.late_starts
        )?;
        for (who, late) in [
            ("a call that outlived the lease", &self.late_batches),
            ("a pause", &self.late_after_pause),
        ] {
            writeln!(
                f,
                "overlap through {who}: {} handovers, p99 of all {:.2} s, max {:.2} s",
                late.len(),
                late.quantile_among(self.handovers, 0.99),
                late.max()
            )?;
        }
        let spread = |spread: &Spread, unit: &str| {
            let (half, most, max) = (spread.quantile(0.5), spread.quantile(0.99), spread.max());
            format!(
                "p50 {half:.2}, p99 {most:.2}, max {max:.2} {unit} of {}",
                spread.len()
            )
        };
        writeln!(
            f,
            "failover after a kill, with nothing else wrong: {}",
            spread(&self.clean_failovers, "failover times")
        )?;
        writeln!(
            f,
            "from a kill to the first batch elsewhere, whatever else went wrong: {}",
            spread(&self.failovers, "failover times")
        )?;
        writeln!(
            f,
            "every lease owned after bad times: {}",
            spread(&self.recoveries, "s")
        )?;
        write!(
            f,
            "moves for balance when a worker joined: {}, at least {} were needed",
            self.balance_moves, self.least_moves
        )
    }
}
