//! How long `kcl status` of a large fleet takes, and how much memory: the real command, as a process of its own.

use std::time::Duration;

use kcl_core::lease_store::{LeaseStore as _, Preparation};
use kcl_lease_dynamo::DynamoLeaseStore;

use super::measure::percentile;
use super::verdict::Verdicts;
use crate::command::{Kcl, PaperFleet};
use crate::testbed::Testbed;

const SHARDS: u32 = 1000;
const WORKERS: u32 = 50;
const RUNS: usize = 9;
/// The bounds: a second, and 50 MiB.
const MOST_SECONDS: f64 = 1.0;
const MOST_MIB: f64 = 50.0;
/// The first call of an emulator is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes the fleet, runs the command, and prints the figures.
///
/// # Panics
///
/// When the command does not run, or the server refuses a row.
pub async fn measure(testbed: &Testbed, verdicts: &mut Verdicts) {
    let folder = testbed.scratch().join(testbed.unique("kcl-status"));
    let kcl = Kcl::build(&folder, testbed.environment(), !cfg!(debug_assertions));
    let app = testbed.unique("kcl-status");
    let store = DynamoLeaseStore::new(&testbed.dynamo_config(), &app).request_timeout(PATIENCE);
    let preparation = Preparation {
        application: app.parse().expect("a name"),
        worker: "worker-00".parse().expect("a name"),
        within: PATIENCE,
        take_over_java: false,
    };
    store.prepare(&preparation).await.expect("the table is made");
    let fleet = PaperFleet {
        shards: SHARDS,
        workers: WORKERS,
        stream: "trucks".to_owned(),
    };
    fleet.write(&store).await;
    let runs: Vec<_> = (0..RUNS).map(|_| kcl.run(&["status", &app])).collect();
    assert!(runs.iter().all(|ran| ran.code == 0), "{:?}", runs.first());
    let mut took: Vec<f64> = runs.iter().map(|ran| ran.took.as_secs_f64()).collect();
    took.sort_by(f64::total_cmp);
    let median = percentile(&took, 0.5).unwrap_or(f64::NAN);
    let most = took.last().copied().unwrap_or(f64::NAN);
    let peak = runs.iter().map(|ran| ran.peak_mib).fold(0.0, f64::max);
    println!("| `kcl status` of {SHARDS} shards and {WORKERS} workers | measured | target | |");
    println!("|---|---|---|---|");
    let verdict = verdicts.at_most(most, MOST_SECONDS);
    println!(
        "| time, median and most of {RUNS} | {median:.2} s, {most:.2} s | < {MOST_SECONDS} s | {verdict} |"
    );
    let verdict = verdicts.at_most(peak, MOST_MIB);
    println!("| resident memory at the peak | {peak:.0} MiB | < {MOST_MIB} MiB | {verdict} |");
}
