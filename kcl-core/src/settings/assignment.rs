use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::settings::rules::violated;
use crate::settings::scan_cadence;
use crate::settings::sizes;
use crate::settings::timing::Timing;

/// How leases are assigned. The same values should be set on every worker, since any of them may lead.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::settings::{AssignmentSettings, Settings};
///
/// let assignment = AssignmentSettings { max_moves: 20, ..AssignmentSettings::default() };
/// assert!(Settings { assignment, ..Settings::default() }.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AssignmentSettings {
    /// The most leases this worker wants, at least 1 (the Java KCL's `maxLeasesForWorker`). No limit by default.
    pub max_leases: Option<u32>,
    /// The most throughput per second that this worker wants over all its shards, at least 1 KiB; the lease table has it in whole KiB. No
    /// limit by default. A worker that has reached it gets no further leases and keeps those it has. In the Java KCL
    /// (`maxThroughputPerHostKBps`) it is the leader's limit for all workers; here it is each worker's own.
    #[serde(with = "sizes::optional")]
    pub max_throughput: Option<ByteSize>,
    /// The quantity that is spread evenly. Default: the leases, by their number.
    pub strategy: Strategy,
    /// How many moves for balance may be under way at a time; a third of the moves that are needed may be in any case.
    /// Default 10: a small fleet is balanced in one round, and a large one does not stop half its shards at once.
    pub max_moves: usize,
    /// How many pages of the table a scanning worker may read per second; at most two workers scan, the leader and its standby.
    /// Default 4: a DynamoDB page is 1 MB, about 1500 leases, or 128 read units. A table too large for this budget is scanned
    /// at least four times per failover time even so, and the status says so.
    pub scan_pages_per_second: u32,
    /// How many leases are assigned at a time, 1 to 1000. Default 16: a thousand leases take seconds, and the table is not flooded.
    pub concurrent_writes: usize,
}

impl Default for AssignmentSettings {
    fn default() -> Self {
        Self {
            max_leases: None,
            max_throughput: None,
            strategy: Strategy::default(),
            max_moves: 10,
            scan_pages_per_second: 4,
            concurrent_writes: 16,
        }
    }
}

/// The quantity that the planner spreads evenly over the workers.
///
/// By [lease count](Self::LeaseCount) is the default. It needs no measurements, is balanced from the first moment, and moves a lease only
/// when workers or shards come and go. Partition keys that hash evenly make every shard as hot as the next, and then both strategies give
/// the same fleet. [Throughput](Self::Throughput) is for streams with hot shards, and moves a lease also when the load has shifted.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::settings::{Settings, Strategy};
///
/// let mut settings = Settings::default();
/// settings.assignment.strategy = Strategy::throughput();
/// # assert!(settings.validate().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Strategy {
    /// Every worker holds as many leases as the next, give or take one.
    #[default]
    LeaseCount,
    /// Every worker processes as much as the next, within a band.
    ///
    /// The load of a lease is its throughput and a quarter of the average throughput on top: an idle shard is polled and renewed too, and
    /// no worker gets all of them. A lease that was never measured counts as an average one; while none was, this is lease count.
    Throughput {
        /// How far from the average load, as a percentage, a worker may be without anything being moved. 0 to 100.
        /// 10 in [`Strategy::throughput`], the Java KCL's `reBalanceThresholdPercentage`.
        band_percent: u32,
        /// How much of its excess, in percent, a worker gives away at a time; whatever it has beyond twice an average load it gives away
        /// at once. The rest is judged again when those handoffs are done, unless it is within twice the band: then it goes along.
        /// 1 to 100, where 100 is all at once. 60 in [`Strategy::throughput`], the Java KCL's `dampeningPercentage`.
        damping_percent: u32,
    },
}

impl Strategy {
    /// By throughput, with the Java KCL's defaults: a band of 10 %, and 60 % of the excess at a time.
    #[must_use]
    pub fn throughput() -> Self {
        Self::Throughput {
            band_percent: 10,
            damping_percent: 60,
        }
    }
}

impl AssignmentSettings {
    /// The [most throughput](Self::max_throughput) as the lease table has it, in KiB/s, rounded up.
    pub(crate) fn max_throughput_kib(&self) -> Option<u32> {
        let limit = self.max_throughput?.as_u64().div_ceil(1024);
        Some(u32::try_from(limit).unwrap_or(u32::MAX))
    }

    pub(crate) fn violations(&self, failover: Duration) -> Vec<String> {
        let mut violations = violated([
            (
                self.max_leases == Some(0),
                "max_leases must be at least 1: a worker without leases does nothing",
            ),
            (
                self.max_throughput.is_some_and(|limit| limit < ByteSize::kib(1)),
                "max_throughput must be at least 1 KiB per second: a worker without leases does nothing",
            ),
        ]);
        if !(1..=1000).contains(&self.concurrent_writes) {
            violations.push(format!(
                "concurrent_writes is {}: no lease could be assigned, or the table would be flooded; set 1 to 1000",
                self.concurrent_writes
            ));
        }
        if let Strategy::Throughput {
            band_percent,
            damping_percent,
        } = self.strategy
        {
            if band_percent > 100 {
                violations.push(format!(
                    "strategy.throughput.band_percent is {band_percent}: no worker could ever have too little; set 0 to 100"
                ));
            }
            if !(1..=100).contains(&damping_percent) {
                violations.push(format!(
                    "strategy.throughput.damping_percent is {damping_percent}: it is how much of its excess a worker gives away at a time; set 1 to 100"
                ));
            }
        }
        if scan_cadence::largest_table(self.scan_pages_per_second, &Timing::of(failover)) == 0 {
            violations.push(format!(
                "scan_pages_per_second is {}: not even a table of one page would be scanned four times in the failover time of {failover:?}; \
                 raise it or the failover time",
                self.scan_pages_per_second
            ));
        }
        violations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_violations_are_reported_at_once() {
        let settings = AssignmentSettings {
            scan_pages_per_second: 1,
            concurrent_writes: 0,
            strategy: Strategy::Throughput {
                band_percent: 101,
                damping_percent: 0,
            },
            ..AssignmentSettings::default()
        };
        let violations = settings.violations(Duration::from_secs(2)).join("; ");
        for setting in [
            "concurrent_writes",
            "scan_pages_per_second",
            "band_percent",
            "damping_percent",
        ] {
            assert!(violations.contains(setting), "{violations}");
        }
        assert!(
            AssignmentSettings::default()
                .violations(Duration::from_secs(1))
                .is_empty()
        );
    }
}
