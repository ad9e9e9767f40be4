//! The coordination costs of an idle fleet: calls of the lease store per hour, and what DynamoDB charges for them.
//!
//! A simulated fleet in virtual time, and beside it what the intervals of the Java KCL 3.5 come to with its defaults. Both
//! have a failover time of 10 s. Idle means that no record arrives, so that each lease is renewed and no checkpoint is
//! stored; checkpoints double as renewals, so a busy fleet does not pay for both.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kcl_core::settings::Settings;
use kcl_testkit::faults::StoreCall;
use kcl_testkit::fleet::Simulation;

const SHARDS: u32 = 1000;
const WORKERS: u32 = 20;
/// How long is counted, after the fleet has come to rest; hours are extrapolated from it.
const COUNTED: Duration = Duration::from_secs(360);
const HOUR: f64 = 3600.0;
const HOURS_PER_MONTH: f64 = 730.0;
/// About the size of a lease row in the table, names of attributes included: mostly hash keys, checkpoint and stream.
const ROW_BYTES: f64 = 512.0;
/// About the size of a key in the index by owner.
const KEY_BYTES: f64 = 100.0;
/// On-demand list prices in us-east-1, in dollars per million units.
const WRITE_PRICE: f64 = 0.625;
const READ_PRICE: f64 = 0.125;

/// One kind of call, per hour.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    what: &'static str,
    units: Units,
    ours: f64,
    /// And how that is calculated.
    java: (f64, &'static str),
}

/// The size of one call.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Units {
    Write(f64),
    Read(f64),
}

impl Units {
    fn dollars(self, calls_per_hour: f64) -> f64 {
        let (units, price) = match self {
            Self::Write(units) => (units, WRITE_PRICE),
            Self::Read(units) => (units, READ_PRICE),
        };
        calls_per_hour * HOURS_PER_MONTH * units * price / 1e6
    }
}

/// The calls of an idle hour, of both.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost(Vec<Line>);

impl Cost {
    /// Dollars per month: ours, and the Java KCL's.
    pub fn per_month(&self) -> (f64, f64) {
        let ours = self.0.iter().map(|line| line.units.dollars(line.ours)).sum();
        let java = self.0.iter().map(|line| line.units.dollars(line.java.0)).sum();
        (ours, java)
    }
}

/// Simulates the fleet and counts.
pub fn measure() -> Cost {
    let counts = count(SHARDS, WORKERS, COUNTED);
    let per_hour = |kind: &str| {
        let calls = counts.get(kind).copied().unwrap_or_default();
        calls as f64 * HOUR / COUNTED.as_secs_f64()
    };
    let (shards, workers) = (f64::from(SHARDS), f64::from(WORKERS));
    // Half a unit for each 4 KB that is read without strong consistency.
    let scan = (shards * ROW_BYTES / 4096.0).ceil() / 2.0;
    let query = (shards / workers * KEY_BYTES / 4096.0).ceil() / 2.0;
    let line = |what, kind, units, java, formula| Line {
        what,
        units,
        ours: per_hour(kind),
        java: (java, formula),
    };
    let mut lines = vec![
        line(
            "renewals",
            "renew",
            Units::Write(1.0),
            shards * HOUR / 3.308,
            "each lease every 3,308 ms",
        ),
        line(
            "scans of the table (one page each)",
            "scan",
            Units::Read(scan),
            HOUR / 20.0 + HOUR / 120.0,
            "leader every 20 s, auditor every 120 s",
        ),
        line(
            "queries for own leases",
            "owned_by",
            Units::Read(query),
            workers * HOUR / 9.975,
            "each worker every 9,975 ms",
        ),
        line(
            "reads of the leader's lock",
            "read_lock",
            Units::Read(1.0),
            (workers - 1.0) * HOUR / 30.0,
            "each follower every 30 s",
        ),
        line(
            "heartbeats of the lock",
            "change_lock",
            Units::Write(1.0),
            HOUR / 30.0,
            "leader every 30 s",
        ),
        line(
            "touches of worker rows",
            "change_worker",
            Units::Write(1.0),
            workers * HOUR / 30.0,
            "each worker every 30 s",
        ),
    ];
    // An idle fleet makes no other calls; if it does, they are to be seen.
    let named = [
        "renew",
        "scan",
        "owned_by",
        "read_lock",
        "change_lock",
        "change_worker",
    ];
    let others = counts.keys().filter(|kind| !named.contains(kind));
    lines.extend(others.map(|kind| line(kind, kind, Units::Write(1.0), 0.0, "–")));
    Cost(lines)
}

/// The calls that an idle fleet makes in this time, by kind: changes of leases by their verbs, all else by operation.
fn count(shards: u32, workers: u32, time: Duration) -> BTreeMap<&'static str, u64> {
    let simulation = Simulation::new(1).shards(shards).settings(Settings::default());
    simulation.run(async |fleet| {
        for number in 0..workers {
            fleet.start_worker(&format!("worker-{number:02}"), fleet.settings());
        }
        fleet.settle().await;
        // Shares are even, and whatever the start has left to do is done.
        fleet.sleep(Duration::from_secs(60)).await;
        let counts: Arc<Mutex<BTreeMap<&str, u64>>> = Arc::default();
        let counted = Arc::clone(&counts);
        fleet.on_store_event(move |_, event| {
            let kind = kind(&event.call);
            *counted.lock().expect("no count panics").entry(kind).or_default() += 1;
        });
        fleet.sleep(time).await;
        let counts = counts.lock().expect("no count panics");
        counts.clone()
    })
}

fn kind(call: &StoreCall) -> &'static str {
    match call {
        StoreCall::Prepare => "prepare",
        StoreCall::Scan => "scan",
        StoreCall::Read(_) => "read",
        StoreCall::OwnedBy(_) => "owned_by",
        StoreCall::Change { change, .. } => change.verb(),
        StoreCall::ChangeWorker(_) => "change_worker",
        StoreCall::ReadLock => "read_lock",
        StoreCall::ChangeLock { .. } => "change_lock",
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| {SHARDS} shards, {WORKERS} workers, idle, per hour | here | $ a month | Java KCL 3.5 | $ a month | its interval |"
        )?;
        writeln!(f, "|---|---:|---:|---:|---:|---|")?;
        for line in &self.0 {
            let Line {
                what,
                units,
                ours,
                java,
            } = line;
            let dollars = |calls| units.dollars(calls);
            writeln!(
                f,
                "| {what} | {ours:.0} | {:.2} | {:.0} | {:.2} | {} |",
                dollars(*ours),
                java.0,
                dollars(java.0),
                java.1
            )?;
        }
        let (ours, java) = self.per_month();
        writeln!(f, "| together | | {ours:.2} | | {java:.2} | |")?;
        writeln!(f)?;
        write!(
            f,
            "Counted over {} simulated minutes at a failover time of 10 s. Priced on demand as listed for us-east-1 \
             ($ {WRITE_PRICE} per million write units, $ {READ_PRICE} per million read units), {HOURS_PER_MONTH} hours a month, \
             lease rows of {ROW_BYTES} bytes.",
            COUNTED.as_secs() / 60
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_fleet_renews_every_third_and_changes_nothing() {
        let counts = count(40, 4, Duration::from_secs(100));
        let kinds: Vec<_> = counts.keys().copied().collect();
        assert_eq!(
            kinds,
            [
                "change_lock",
                "change_worker",
                "owned_by",
                "read_lock",
                "renew",
                "scan"
            ]
        );
        let renewals = 40 * 100 * 3 / 10;
        assert!(
            (renewals - 40..=renewals + 160).contains(&counts["renew"]),
            "{counts:?}"
        );
    }

    #[test]
    fn prices_are_per_million_units() {
        let dollars = Units::Write(1.0).dollars(1e6 / HOURS_PER_MONTH);
        assert!((dollars - WRITE_PRICE).abs() < 1e-9, "{dollars}");
        let dollars = Units::Read(2.0).dollars(1e6 / HOURS_PER_MONTH);
        assert!((dollars - 2.0 * READ_PRICE).abs() < 1e-9, "{dollars}");
    }
}
