//! The sum of the rounds of chaos.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The counts of a round in which nothing was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    /// The seed of its plan.
    pub seed: u64,
    /// The injected faults, by kind.
    pub injected: BTreeMap<&'static str, u64>,
    /// Requests that met a fault of the network.
    pub disturbed: u64,
    /// Records that the stream has taken.
    pub records: u64,
    /// Deliveries beyond the first of a record.
    pub duplicates: u64,
    /// Ownerships that began after the first of each shard.
    pub changes: u64,
    /// Writes to leases that were checked.
    pub writes: u64,
    /// How long a former owner delivered records beside the next one, in seconds.
    pub overlap: f64,
    /// From the end of all faults until every shard is consumed and everything put before is processed.
    pub heal: Duration,
    /// How long the round took.
    pub took: Duration,
}

/// The sum of all rounds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Totals {
    rounds: Vec<Round>,
}

impl Totals {
    /// Adds a round.
    pub fn add(&mut self, round: Round) {
        self.rounds.push(round);
    }

    fn sum(&self, of: impl Fn(&Round) -> u64) -> u64 {
        self.rounds.iter().map(of).sum()
    }

    fn longest(&self, of: impl Fn(&Round) -> Duration) -> Duration {
        self.rounds.iter().map(of).max().unwrap_or_default()
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: {}; {} requests met a fault; {} records, 0 lost, {} duplicates, {} ownership changes, {} lease writes checked, \
             overlap {:.1} s, healed in {:.1?}, {:.0?} in all",
            self.seed,
            kinds(&self.injected),
            self.disturbed,
            self.records,
            self.duplicates,
            self.changes,
            self.writes,
            self.overlap,
            self.heal,
            self.took,
        )
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut injected: BTreeMap<&'static str, u64> = BTreeMap::new();
        for (kind, count) in self.rounds.iter().flat_map(|round| &round.injected) {
            *injected.entry(kind).or_default() += count;
        }
        let records = self.sum(|round| round.records);
        let duplicates = self.sum(|round| round.duplicates);
        let overlap = self.rounds.iter().map(|round| round.overlap).fold(0.0, f64::max);
        let mut heals: Vec<Duration> = self.rounds.iter().map(|round| round.heal).collect();
        heals.sort();
        write!(
            f,
            "{} rounds: {}; {} requests met a fault; {records} records, 0 lost, {duplicates} duplicates ({:.1} %), {} ownership changes, \
             {} lease writes checked, longest overlap {overlap:.1} s, healed in {:.1?} (median), {:.1?} (longest)",
            self.rounds.len(),
            kinds(&injected),
            self.sum(|round| round.disturbed),
            duplicates as f64 * 100.0 / (records as f64).max(1.0),
            self.sum(|round| round.changes),
            self.sum(|round| round.writes),
            heals.get(heals.len() / 2).copied().unwrap_or_default(),
            self.longest(|round| round.heal),
        )
    }
}

fn kinds(injected: &BTreeMap<&'static str, u64>) -> String {
    let counted = injected.iter().map(|(kind, count)| format!("{count} {kind}"));
    counted.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(seed: u64, heal: u64) -> Round {
        Round {
            seed,
            injected: BTreeMap::from([("kill -9", 1), ("reset", seed)]),
            disturbed: 20,
            records: 400,
            duplicates: 6,
            changes: 3,
            writes: 50,
            overlap: 0.25,
            heal: Duration::from_secs(heal),
            took: Duration::from_secs(40),
        }
    }

    #[test]
    fn a_round_is_a_line() {
        let line = round(5, 4).to_string();
        let expected = "seed 5: 1 kill -9, 5 reset; 20 requests met a fault; 400 records, 0 lost, 6 duplicates, 3 ownership changes, \
                        50 lease writes checked, overlap 0.2 s, healed in 4.0s, 40s in all";
        assert_eq!(line, expected);
    }

    #[test]
    fn rounds_are_summed_up() {
        let mut totals = Totals::default();
        for (seed, heal) in [(1, 9), (2, 4), (3, 5)] {
            totals.add(round(seed, heal));
        }
        let expected = "3 rounds: 3 kill -9, 6 reset; 60 requests met a fault; 1200 records, 0 lost, 18 duplicates (1.5 %), \
                        9 ownership changes, 150 lease writes checked, longest overlap 0.2 s, healed in 5.0s (median), 9.0s (longest)";
        assert_eq!(totals.to_string(), expected);
    }
}
