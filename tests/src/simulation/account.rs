//! What was seen in one story, or in many.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use kcl_core::time::Moment;
use kcl_testkit::fleet::Fleet;

use super::story::Stroke;

/// What was seen in one story, or in many.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// Stories.
    pub seeds: u64,
    /// Their time, in seconds.
    pub simulated: f64,
    /// What befell the fleets, by kind.
    pub strokes: BTreeMap<&'static str, u64>,
    /// Processes that ended or stood still without being asked.
    pub violent: u64,
    /// Splits and merges.
    pub reshards: u64,
    /// What went wrong, those included.
    pub faults: u64,
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
    /// The longest time in each story in which a former owner still worked on a batch while the next had started its own, in seconds.
    pub overlaps: Spread,
    /// From the kill of a process to the next owner's first batch of a shard that it was busy with, in seconds.
    pub failovers: Spread,
    /// From the end of bad times until every lease had a living owner, in seconds.
    pub recoveries: Spread,
    /// Moves for the sake of balance after bad times.
    pub balance_moves: u64,
    /// As many would have been enough.
    pub least_moves: u64,
    /// Tells two runs apart that did not go the same way.
    pub trace_hash: u64,
    killed: Vec<(String, Moment)>,
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
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let place = (sorted.len() as f64 * part).ceil() as usize;
        sorted.get(place.max(1) - 1).copied().unwrap_or(0.0)
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

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (half, most, max) = (self.quantile(0.5), self.quantile(0.99), self.quantile(1.0));
        write!(
            f,
            "p50 {half:.2} s, p99 {most:.2} s, max {max:.2} s of {}",
            self.len()
        )
    }
}

impl Account {
    pub(super) fn one_seed() -> Self {
        Self {
            seeds: 1,
            ..Self::default()
        }
    }

    pub(super) fn struck(&mut self, stroke: &Stroke) {
        *self.strokes.entry(stroke.kind()).or_default() += 1;
        self.violent += u64::from(stroke.is_violent());
        self.reshards += u64::from(stroke.reshards());
        self.faults += u64::from(stroke.is_fault());
    }

    pub(super) fn killed(&mut self, process: String, at: Moment) {
        self.killed.push((process, at));
    }

    pub(super) fn recovered(&mut self, took: Duration) {
        self.recoveries.add(took);
    }

    pub(super) fn balanced(&mut self, moves: usize, least: usize) {
        self.balance_moves += moves as u64;
        self.least_moves += least as u64;
    }

    /// Takes in what the oracle knows at the end of a story.
    pub(super) fn close(&mut self, fleet: &Fleet) {
        let (view, tally) = (fleet.view(), fleet.view().tally());
        self.simulated = fleet.now().since_origin().as_secs_f64();
        self.moves = view.moves().len() as u64;
        self.ownerships = tally.ownerships;
        (self.put, self.delivered) = (tally.put, tally.delivered);
        (self.redelivered, self.trimmed) = (tally.redelivered, tally.trimmed_unfinished);
        self.evaluations = tally.observations;
        self.overlaps.add(tally.longest_overlap);
        self.trace_hash = fleet.trace_hash();
        for handover in view.handovers() {
            let killed = self.killed.iter().find(|(process, _)| *process == handover.from);
            if let Some((_, at)) = killed {
                self.failovers.add(handover.first.saturating_since(*at));
            }
        }
    }

    /// Adds what was seen in other stories.
    pub fn add(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.simulated += other.simulated;
        for (kind, count) in other.strokes {
            *self.strokes.entry(kind).or_default() += count;
        }
        self.violent += other.violent;
        self.reshards += other.reshards;
        self.faults += other.faults;
        self.moves += other.moves;
        self.ownerships += other.ownerships;
        self.put += other.put;
        self.delivered += other.delivered;
        self.redelivered += other.redelivered;
        self.trimmed += other.trimmed;
        self.evaluations += other.evaluations;
        self.overlaps.0.extend(other.overlaps.0);
        self.failovers.0.extend(other.failovers.0);
        self.recoveries.0.extend(other.recoveries.0);
        self.balance_moves += other.balance_moves;
        self.least_moves += other.least_moves;
        // The same whoever adds first.
        self.trace_hash = self.trace_hash.wrapping_add(other.trace_hash);
    }

    /// What an average story has.
    pub fn per_seed(&self, total: u64) -> f64 {
        total as f64 / self.seeds.max(1) as f64
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = |total| self.per_seed(total);
        writeln!(
            f,
            "{} seeds, {:.1} simulated hours ({:.0} s each), trace {:016x}",
            self.seeds,
            self.simulated / 3600.0,
            self.simulated / self.seeds.max(1) as f64,
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
            .strokes
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
        writeln!(f, "longest overlap of a story: {}", self.overlaps)?;
        writeln!(f, "failover after a kill: {}", self.failovers)?;
        writeln!(f, "every lease owned after bad times: {}", self.recoveries)?;
        write!(
            f,
            "moves for balance after bad times: {}, at least {} were needed",
            self.balance_moves, self.least_moves
        )
    }
}
