//! The sums over the rounds.

use std::fmt;

use super::window::Spent;

/// A measurement of several rounds: the median and the range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MedianSpread {
    /// The least.
    pub least: f64,
    /// As many are above as below.
    pub median: f64,
    /// The most.
    pub most: f64,
}

impl MedianSpread {
    /// Of these values.
    ///
    /// # Panics
    ///
    /// When there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let middle = (sorted.len() - 1) / 2;
        Self {
            least: sorted[0],
            median: sorted[middle].midpoint(sorted[sorted.len() / 2]),
            most: sorted[sorted.len() - 1],
        }
    }
}

impl fmt::Display for MedianSpread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2}–{:.2})", self.median, self.least, self.most)
    }
}

/// The loop and the worker, one after the other, again and again.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pairs(pub Vec<(Spent, Spent)>);

impl Pairs {
    /// The worker's CPU time per GB as a part of the loop's in the same pair: what slows the machine down slows both.
    pub fn ratio(&self) -> MedianSpread {
        let ratios = self.0.iter();
        MedianSpread::of(ratios.map(|(a, b)| b.cpu_seconds_per_gb() / a.cpu_seconds_per_gb()))
    }
}

/// One client's rounds, as three cells of a table: CPU seconds per GB, thousands of records per second, peak memory.
pub fn cells<'a>(rounds: impl Iterator<Item = &'a Spent> + Clone) -> String {
    let cpu = MedianSpread::of(rounds.clone().map(Spent::cpu_seconds_per_gb));
    let records = MedianSpread::of(rounds.clone().map(|spent| spent.records_per_second() / 1000.0));
    let peak = MedianSpread::of(rounds.map(|spent| spent.peak_mib));
    format!("{cpu} | {:.0} | {:.0}", records.median, peak.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(cpu_seconds: f64) -> Spent {
        Spent {
            cpu_seconds,
            seconds: 2.0,
            answers: 10,
            records: 10_000,
            bytes: 500_000_000,
            peak_mib: 30.0,
        }
    }

    #[test]
    fn median_of_even_number_lies_between_middle_two() {
        assert_eq!(MedianSpread::of([3.0, 1.0, 2.0]).to_string(), "2.00 (1.00–3.00)");
        assert_eq!(MedianSpread::of([4.0, 1.0, 2.0, 3.0]).median, 2.5);
    }

    #[test]
    fn each_pair_is_compared_with_itself() {
        // The machine became twice as slow: the ratio stays.
        let pairs = Pairs(vec![(spent(1.0), spent(0.4)), (spent(2.0), spent(0.8))]);
        assert_eq!(pairs.ratio().to_string(), "0.40 (0.40–0.40)");
        let loops = pairs.0.iter().map(|(a, _)| a);
        assert_eq!(cells(loops), "3.00 (2.00–4.00) | 5 | 30");
    }
}
