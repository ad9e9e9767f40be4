//! The workers of the quickstart, who come, go and die.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kcl_core::internals::TaskScope;
use kcl_examples::ledger::Ledger;
use kcl_examples::trucks::TruckTracker;
use kinesis_client::MemoryStream;
use kinesis_client::clock::{Clock, Moment};
use kinesis_client::source::Shard;
use kinesis_client::status::{ConsumerState, WorkerStatus};
use kinesis_client::types::ShardId;
use kinesis_client::{Error, MemoryLeaseStore, Settings, ShardContext, Worker, WorkerHandle};
use tokio_util::sync::CancellationToken;

/// How long a worker must be silent before its shards go to others.
pub(crate) const FAILOVER: Duration = Duration::from_secs(2);

/// All workers, what happened to them, and what they work on.
pub(crate) struct Fleet {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ledger: Arc<Ledger>,
    /// The tasks of the scenario itself; each worker has a scope of its own.
    pub(crate) scope: TaskScope,
    stream: MemoryStream,
    store: MemoryLeaseStore,
    members: Mutex<BTreeMap<String, Member>>,
    events: Mutex<Vec<(Moment, String)>>,
    trucks: CancellationToken,
    view: CancellationToken,
}

struct Member {
    handle: WorkerHandle,
    scope: TaskScope,
}

impl Fleet {
    pub(crate) fn new(stream: MemoryStream, ledger: Arc<Ledger>, clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            ledger,
            scope: TaskScope::new(),
            stream,
            store: MemoryLeaseStore::new(),
            members: Mutex::default(),
            events: Mutex::default(),
            trucks: CancellationToken::new(),
            view: CancellationToken::new(),
        }
    }

    /// Starts a worker.
    pub(crate) fn join(&self, name: &str) -> Result<(), Error> {
        let scope = TaskScope::new();
        let ledger = Arc::clone(&self.ledger);
        let mut settings = Settings::default();
        settings.leases.failover_time = FAILOVER;
        settings.checkpoints.interval = Duration::from_millis(500);
        let handle = Worker::builder("truck-tracker")
            .worker_id(name)
            .stream(self.stream.clone())
            .lease_store(self.store.clone())
            .processor(move |_: &ShardContext| TruckTracker::new(Arc::clone(&ledger)))
            .settings(settings)
            .clock(Arc::clone(&self.clock))
            .task_scope(scope.clone())
            .build()?
            .start();
        self.members().insert(name.to_owned(), Member { handle, scope });
        self.tell(format!("{name} joins"));
        Ok(())
    }

    /// Makes the worker with the most shards vanish, with no chance to say goodbye, and returns its name.
    pub(crate) fn kill_the_busiest(&self) -> String {
        let mut members = self.members();
        let busiest = members
            .iter()
            .max_by_key(|(_, member)| member.handle.status().leases.len());
        let name = busiest.map(|(name, _)| name.clone()).unwrap_or_default();
        if let Some(member) = members.remove(&name) {
            member.scope.kill();
        }
        name
    }

    /// The status of every living worker.
    pub(crate) fn statuses(&self) -> Vec<WorkerStatus> {
        self.members()
            .values()
            .map(|member| member.handle.status())
            .collect()
    }

    /// How many shards each living worker has.
    pub(crate) fn shares(&self) -> BTreeMap<String, usize> {
        self.statuses()
            .into_iter()
            .map(|status| (status.worker.to_string(), status.leases.len()))
            .collect()
    }

    /// Whether this many workers read all open shards between them, none of them much more than another.
    pub(crate) fn shares_all(&self, workers: usize) -> bool {
        let statuses = self.statuses();
        let is_read = |shard: &ShardId| {
            let leases = statuses.iter().flat_map(|status| &status.leases);
            leases
                .filter(|(key, _)| key.as_str() == shard.as_str())
                .any(|(_, lease)| lease.state == ConsumerState::Running)
        };
        let shares: Vec<_> = statuses.iter().map(|status| status.leases.len()).collect();
        let spread = shares
            .iter()
            .max()
            .zip(shares.iter().min())
            .map_or(0, |(most, least)| most - least);
        let open = self.open_shards();
        shares.len() == workers && spread <= 1 && open.iter().all(|shard| is_read(&shard.id))
    }

    /// The shards that take records, by their hash keys, so that neighbours can be merged.
    pub(crate) fn open_shards(&self) -> Vec<Shard> {
        let mut open: Vec<_> = self
            .stream
            .shards_snapshot()
            .into_iter()
            .map(|known| known.shard)
            .filter(|shard| !shard.closed)
            .collect();
        open.sort_by_key(|shard| shard.hash_range);
        open
    }

    /// Every child shard, with its parents.
    pub(crate) fn children(&self) -> Vec<(ShardId, BTreeSet<ShardId>)> {
        let shards = self.stream.shards_snapshot().into_iter();
        shards
            .map(|known| (known.shard.id, known.shard.parents))
            .filter(|(_, parents)| !parents.is_empty())
            .collect()
    }

    /// Drains every worker. Returns `true` if each lease was given up.
    pub(crate) async fn shut_down(&self) -> Result<bool, Error> {
        let members = std::mem::take(&mut *self.members());
        for member in members.values() {
            member.handle.shutdown();
        }
        let mut clean = true;
        for member in members.into_values() {
            clean &= member.handle.join().await?.is_clean();
        }
        Ok(clean)
    }

    /// Notes what happened.
    pub(crate) fn tell(&self, event: impl Into<String>) {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((self.clock.now(), event.into()));
    }

    pub(crate) fn events(&self) -> Vec<(Moment, String)> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn stop_trucks(&self) {
        self.trucks.cancel();
        self.tell("the trucks park");
    }

    pub(crate) async fn trucks_stopped(&self) {
        self.trucks.cancelled().await;
    }

    /// Ends the view after it has shown the last state.
    pub(crate) async fn stop_view(&self) {
        self.view.cancel();
        self.scope.wait_until_empty().await;
    }

    pub(crate) async fn view_stopped(&self) {
        self.view.cancelled().await;
    }

    fn members(&self) -> MutexGuard<'_, BTreeMap<String, Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
