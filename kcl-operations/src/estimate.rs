//! How many shards a stream needs, and the price of a stream and of its coordination: the arithmetic of the Kinesis console's estimator.

use serde::Serialize;

/// One shard takes 1 MiB per second in ("Quotas and limits" of the Kinesis Data Streams guide).
pub const SHARD_BYTES_IN: f64 = 1_048_576.0;
/// One shard takes 1,000 records per second in (the same page).
pub const SHARD_RECORDS_IN: f64 = 1_000.0;
/// All who poll a shard share 2 MiB per second (the same page). A fan-out consumer has as much alone.
pub const SHARD_BYTES_OUT: f64 = 2.0 * 1_048_576.0;
/// A PUT payload unit: a record is charged in chunks of 25 KB ("Amazon Kinesis Data Streams pricing").
pub const PUT_UNIT_BYTES: f64 = 25.0 * 1024.0;
/// How the price lists count a month.
pub const HOURS_PER_MONTH: f64 = 730.0;

/// The load of a stream, and who reads it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Load {
    /// Records per second, at the peak.
    pub records_per_second: f64,
    /// The bytes of a record with its partition key, on average.
    pub record_bytes: f64,
    /// Applications that poll.
    pub polling_consumers: u32,
    /// Applications that read by enhanced fan-out.
    pub fan_out_consumers: u32,
    /// How long records are kept, in hours: 24 and more.
    pub retention_hours: u32,
    /// The workers of one application.
    pub workers: u32,
    /// The failover time of that application, in seconds.
    pub failover_seconds: f64,
}

impl Load {
    /// This load, read by one application that polls, kept for a day, on two workers with a failover time of 10 s.
    pub fn new(records_per_second: f64, record_bytes: f64) -> Self {
        Self {
            records_per_second,
            record_bytes,
            polling_consumers: 1,
            fan_out_consumers: 0,
            retention_hours: 24,
            workers: 2,
            failover_seconds: 10.0,
        }
    }
}

/// Prices in dollars.
///
/// The defaults are the list prices of us-east-1: [Kinesis Data Streams](https://aws.amazon.com/kinesis/data-streams/pricing/), provisioned mode and
/// on-demand standard, and [DynamoDB on demand](https://aws.amazon.com/dynamodb/pricing/on-demand/). A GB is 10⁹ bytes.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Prices {
    /// A shard, per hour.
    pub shard_hour: f64,
    /// A million PUT payload units.
    pub put_units_million: f64,
    /// A shard kept beyond 24 hours and up to 7 days, per hour.
    pub extended_retention_shard_hour: f64,
    /// Data that is kept beyond 7 days, per GB and month.
    pub long_retention_gb_month: f64,
    /// A fan-out consumer of a shard, per hour.
    pub fan_out_shard_hour: f64,
    /// Data that a fan-out consumer reads, per GB.
    pub fan_out_gb: f64,
    /// A stream on demand, per hour.
    pub on_demand_stream_hour: f64,
    /// Data that comes into a stream on demand, per GB.
    pub on_demand_in_gb: f64,
    /// Data that is polled from a stream on demand, per GB.
    pub on_demand_out_gb: f64,
    /// Data that a fan-out consumer reads from a stream on demand, per GB.
    pub on_demand_fan_out_gb: f64,
    /// A million write units of DynamoDB on demand.
    pub write_units_million: f64,
    /// A million read units of DynamoDB on demand.
    pub read_units_million: f64,
}

impl Default for Prices {
    fn default() -> Self {
        Self {
            shard_hour: 0.015,
            put_units_million: 0.014,
            extended_retention_shard_hour: 0.020,
            long_retention_gb_month: 0.023,
            fan_out_shard_hour: 0.015,
            fan_out_gb: 0.013,
            on_demand_stream_hour: 0.040,
            on_demand_in_gb: 0.080,
            on_demand_out_gb: 0.040,
            on_demand_fan_out_gb: 0.050,
            write_units_million: 0.625,
            read_units_million: 0.125,
        }
    }
}

/// The answer of [`estimate()`]: shards, and dollars per month.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Estimate {
    /// How many shards a provisioned stream needs.
    pub shards: u64,
    /// The limit that asks for so many: `bytes in`, `records in` or `bytes out`.
    pub limited_by: &'static str,
    /// The provisioned stream, per month, all of the next four together.
    pub provisioned_dollars: f64,
    /// Its shards.
    pub shards_dollars: f64,
    /// Its PUT payload units.
    pub puts_dollars: f64,
    /// Its retention beyond a day.
    pub retention_dollars: f64,
    /// Its fan-out consumers.
    pub fan_out_dollars: f64,
    /// The same load on a stream on demand, per month.
    pub on_demand_dollars: f64,
    /// The lease table of one application, per month, all of the next two together.
    pub coordination_dollars: f64,
    /// The renewals of leases, which are checkpoints where records flow.
    pub renewals_dollars: f64,
    /// Scans, queries, reads and heartbeats of the lock, touches of worker rows.
    pub fleet_dollars: f64,
}

/// Estimates shards and cost.
///
/// The coordination is that of this library, counted in a simulated fleet of 1,000 idle shards on 20 workers at a failover time of 10 s
/// (`docs/benchmarks.md`, "Cost of coordination"), in proportion to shards, workers and the failover time.
pub fn estimate(load: &Load, prices: &Prices) -> Estimate {
    let bytes = load.records_per_second * load.record_bytes;
    let needs = [
        ("bytes in", bytes / SHARD_BYTES_IN),
        ("records in", load.records_per_second / SHARD_RECORDS_IN),
        (
            "bytes out",
            bytes * f64::from(load.polling_consumers) / SHARD_BYTES_OUT,
        ),
    ];
    let (limited_by, most) = needs
        .into_iter()
        .fold(needs[0], |most, need| if need.1 > most.1 { need } else { most });
    let shards = most.ceil().max(1.0);
    let seconds = HOURS_PER_MONTH * 3600.0;
    let gigabytes = bytes * seconds / 1e9;
    let put_units = (load.record_bytes / PUT_UNIT_BYTES).ceil().max(1.0) * load.records_per_second * seconds;
    let hours = f64::from(load.retention_hours);
    let extended = if hours > 24.0 {
        prices.extended_retention_shard_hour * shards * HOURS_PER_MONTH
    } else {
        0.0
    };
    let long = bytes * 3600.0 * (hours - 168.0).max(0.0) / 1e9 * prices.long_retention_gb_month;
    let fan_outs = f64::from(load.fan_out_consumers);
    let shards_dollars = shards * prices.shard_hour * HOURS_PER_MONTH;
    let puts_dollars = put_units / 1e6 * prices.put_units_million;
    let retention_dollars = extended + long;
    let fan_out_dollars =
        fan_outs * (shards * prices.fan_out_shard_hour * HOURS_PER_MONTH + gigabytes * prices.fan_out_gb);
    let on_demand_dollars = prices.on_demand_stream_hour * HOURS_PER_MONTH
        + gigabytes
            * (prices.on_demand_in_gb
                + f64::from(load.polling_consumers) * prices.on_demand_out_gb
                + fan_outs * prices.on_demand_fan_out_gb);
    let (renewals_dollars, fleet_dollars) = coordination(load, shards, prices);
    Estimate {
        shards: shards as u64,
        limited_by,
        provisioned_dollars: shards_dollars + puts_dollars + retention_dollars + fan_out_dollars,
        shards_dollars,
        puts_dollars,
        retention_dollars,
        fan_out_dollars,
        on_demand_dollars,
        coordination_dollars: renewals_dollars + fleet_dollars,
        renewals_dollars,
        fleet_dollars,
    }
}

/// Calls per hour of the fleet that was counted, at a failover time of 10 s.
mod counted {
    /// Of each lease.
    pub(super) const RENEWALS: f64 = 1_079_670.0 / 1000.0;
    /// Of the fleet.
    pub(super) const SCANS: f64 = 7_310.0;
    /// Of each worker.
    pub(super) const QUERIES: f64 = 143_410.0 / 20.0;
    /// Of each worker: reads of the leader's lock. The heartbeats of the lock cost about as much as one worker's reads.
    pub(super) const LOCK_READS: f64 = 73_590.0 / 20.0;
    /// Of each worker.
    pub(super) const TOUCHES: f64 = 21_600.0 / 20.0;
    /// About the size of a lease row.
    pub(super) const ROW_BYTES: f64 = 512.0;
    /// About the size of a key in the index by owner.
    pub(super) const KEY_BYTES: f64 = 100.0;
}

/// Dollars per month for renewals, and for all else.
fn coordination(load: &Load, shards: f64, prices: &Prices) -> (f64, f64) {
    let pace = 10.0 / load.failover_seconds.max(0.1);
    let workers = f64::from(load.workers.max(1));
    let month = |calls: f64, units: f64, million: f64| calls * pace * HOURS_PER_MONTH * units * million / 1e6;
    // Half a unit for each 4 KB that is read without strong consistency.
    let scan = (shards * counted::ROW_BYTES / 4096.0).ceil() / 2.0;
    let query = (shards / workers * counted::KEY_BYTES / 4096.0).ceil() / 2.0;
    let renewals = month(counted::RENEWALS * shards, 1.0, prices.write_units_million);
    let fleet = month(counted::SCANS, scan, prices.read_units_million)
        + month(counted::QUERIES * workers, query, prices.read_units_million)
        + month(counted::LOCK_READS * workers, 1.0, prices.read_units_million)
        + month(counted::TOUCHES * workers, 1.0, prices.write_units_million);
    (renewals, fleet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(measured: f64, expected: f64) {
        assert!(
            (measured - expected).abs() <= expected * 0.02 + 1e-9,
            "{measured}, not {expected}"
        );
    }

    #[test]
    fn shards_follow_the_tightest_limit() {
        let shards = |load: &Load| {
            let estimate = estimate(load, &Prices::default());
            (estimate.shards, estimate.limited_by)
        };
        assert_eq!(shards(&Load::new(100.0, 100.0)), (1, "records in"));
        assert_eq!(shards(&Load::new(10_500.0, 100.0)), (11, "records in"));
        assert_eq!(shards(&Load::new(1_000.0, 10_240.0)), (10, "bytes in"));
        let load = Load {
            polling_consumers: 5,
            ..Load::new(1_000.0, 10_240.0)
        };
        assert_eq!(shards(&load), (25, "bytes out"));
    }

    #[test]
    fn prices_are_those_of_the_list() {
        // One shard: 0.015 × 730. 100 records a second of one unit each: 262.8 million.
        let one = estimate(&Load::new(100.0, 1_000.0), &Prices::default());
        close(one.shards_dollars, 10.95);
        close(one.puts_dollars, 3.68);
        close(one.provisioned_dollars, 14.63);
        // 0.04 × 730 + 262.8 GB × (0.08 + 0.04).
        close(one.on_demand_dollars, 60.74);
        let kept = Load {
            retention_hours: 168,
            fan_out_consumers: 2,
            ..Load::new(100.0, 1_000.0)
        };
        let kept = estimate(&kept, &Prices::default());
        close(kept.retention_dollars, 14.6);
        close(kept.fan_out_dollars, 2.0 * (10.95 + 3.416));
    }

    #[test]
    fn coordination_is_that_of_the_benchmarks() {
        let load = Load {
            workers: 20,
            ..Load::new(1_000_000.0, 1.0)
        };
        let thousand = estimate(&load, &Prices::default());
        assert_eq!(thousand.shards, 1000);
        close(thousand.renewals_dollars, 492.60);
        close(thousand.coordination_dollars, 564.60);
        let slower = Load {
            failover_seconds: 20.0,
            ..load
        };
        close(estimate(&slower, &Prices::default()).coordination_dollars, 282.30);
    }

    proptest! {
        #[test]
        fn shards_take_the_load(records in 0.0f64..1e6, size in 1.0f64..1e6, polling in 0u32..20) {
            let load = Load { polling_consumers: polling, ..Load::new(records, size) };
            let shards = estimate(&load, &Prices::default()).shards as f64;
            prop_assert!(records <= shards * SHARD_RECORDS_IN * 1.000_001);
            prop_assert!(records * size <= shards * SHARD_BYTES_IN * 1.000_001);
            prop_assert!(records * size * f64::from(polling) <= shards * SHARD_BYTES_OUT * 1.000_001);
        }
    }
}
