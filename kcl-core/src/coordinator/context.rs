//! The parts of its worker that a coordinator works with.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::coordinator::role::CoordinatorStatus;
use crate::lease::client::StoreClient;
use crate::lease::row::Lease;
use crate::lease::scanner::TableScanner;
use crate::metrics::Metrics;
use crate::ownership::assignment_hints::AssignmentHints;
use crate::runtime::clock::Clock;
use crate::runtime::rng::Rng;
use crate::runtime::watched::Watched;
use crate::settings::scan_cadence::{self, ScanCadence};
use crate::settings::timing::Timing;
use crate::settings::{AssignmentSettings, Settings};
use crate::types::WorkerId;

/// Everything a coordinator needs of its worker.
pub(crate) struct CoordinatorContext {
    pub(crate) store_client: StoreClient,
    pub(crate) scanner: Arc<TableScanner>,
    /// Where leases go that this worker assigns to itself: it need not discover them.
    pub(crate) assignment_hints: Arc<AssignmentHints>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Rng,
    pub(crate) me: WorkerId,
    /// The worker's own limits, which its row may not show yet.
    pub(crate) max_leases: Option<u32>,
    pub(crate) max_throughput: Option<u32>,
    pub(crate) timing: Timing,
    /// How often a worker asks which leases name it: part of the failover bound.
    pub(crate) discovery: Duration,
    pub(crate) settings: AssignmentSettings,
    /// Something happened that a scan should not wait for: a shard ended, a lease was given up, the shards changed.
    pub(crate) wake: Arc<Notify>,
    /// Where the coordinator publishes what it knows, after each look at the lock and each scan.
    pub(crate) status: Arc<Watched<CoordinatorStatus>>,
    pub(crate) metrics: Metrics,
    /// Whether the lease is of a stream that this worker reads; it leaves others alone.
    pub(crate) reads: Arc<dyn Fn(&Lease) -> bool + Send + Sync>,
}

impl CoordinatorContext {
    /// Returns the cadence for a table of one page, until a scan shows how large it is.
    pub(crate) fn first_cadence(settings: &Settings, timing: &Timing) -> ScanCadence {
        let budget = settings.assignment.scan_pages_per_second;
        scan_cadence::fit(1, budget, timing, settings.leases.discovery_interval)
    }
}

impl fmt::Debug for CoordinatorContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoordinatorContext")
            .field("me", &self.me)
            .field("failover", &self.timing.failover)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
