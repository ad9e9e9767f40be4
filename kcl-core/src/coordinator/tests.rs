mod scans;

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::*;
use crate::coordinator::role::CoordinatorStatus;
use crate::lease::change::{Expect, LeaseChange, apply};
use crate::lease::client::StoreClient;
use crate::lease::row::{OwnerNotes, RowFacts};
use crate::lease::scanner::TableScanner;
use crate::lease::store::{Capabilities, LeaseStore, Preparation, Scan};
use crate::lease::worker_row::{WorkerChange, WorkerOutcome, WorkerRow};
use crate::metrics::{Metrics, MetricsLevel};
use crate::runtime::clock::{Clock, TokioClock};
use crate::runtime::rng::Rng;
use crate::runtime::task_scope::{TaskPolicy, TaskScope};
use crate::runtime::watched::Watched;
use crate::settings::timing::Timing;
use crate::settings::{AssignmentSettings, Settings};
use crate::types::{Incarnation, LeaseKey, Position, ShardId, Timestamp};

const F: Duration = Duration::from_secs(10);

/// After how long the row of a worker is deleted that does not touch it.
const LONG_DEAD: Duration = Duration::from_secs(302);

/// Just enough of a store: rows behind a mutex, and what makes calls fail or hang.
#[derive(Debug, Default)]
struct Table {
    rows: Mutex<Scan>,
    scans_fail: Mutex<bool>,
    scans: Mutex<u32>,
    /// The next call of the kind never returns.
    hangs: Mutex<Option<Hang>>,
    /// How long each scan takes.
    slow: Mutex<Option<(Arc<dyn Clock>, Duration)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hang {
    LockRead,
    /// Before the lock is written.
    LockWrite,
    /// After the lock is written.
    LockReply,
    Scan,
    WorkerWrite,
}

impl Table {
    fn rows(&self) -> MutexGuard<'_, Scan> {
        self.rows.lock().unwrap()
    }

    fn with_leases(count: u32) -> Arc<Self> {
        let table = Self::default();
        for n in 0..count {
            let shard = ShardId::new(format!("shard-{n}")).unwrap();
            table
                .rows()
                .leases
                .push(Lease::unowned(shard, Position::TrimHorizon));
        }
        table.rows().pages = 1;
        Arc::new(table)
    }

    fn hang_once(&self, what: Hang) {
        *self.hangs.lock().unwrap() = Some(what);
    }

    /// Whether there was a call of the kind that was to hang.
    fn has_hung(&self) -> bool {
        self.hangs.lock().unwrap().is_none()
    }

    async fn may_hang(&self, what: Hang) {
        let hangs = self.hangs.lock().unwrap().take_if(|hang| *hang == what).is_some();
        if hangs {
            std::future::pending::<()>().await;
        }
    }

    fn owners(&self) -> BTreeMap<String, usize> {
        let mut owners = BTreeMap::new();
        for lease in &self.rows().leases {
            let owner = lease.owner.as_ref().map_or("nobody", WorkerId::as_str);
            *owners.entry(owner.to_owned()).or_default() += 1;
        }
        owners
    }
}

#[async_trait]
impl LeaseStore for Table {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            owner_index: false,
            refusal_shows_row: true,
        }
    }

    async fn prepare(&self, _: &Preparation) -> Result<(), StoreError> {
        Ok(())
    }

    async fn scan(&self) -> Result<Scan, StoreError> {
        *self.scans.lock().unwrap() += 1;
        self.may_hang(Hang::Scan).await;
        let slow = self.slow.lock().unwrap().clone();
        if let Some((clock, time)) = slow {
            clock.sleep(time).await;
        }
        if *self.scans_fail.lock().unwrap() {
            return Err(StoreError::definite(StoreErrorKind::Unavailable, "no scan today"));
        }
        Ok(self.rows().clone())
    }

    async fn read(&self, key: &LeaseKey) -> Result<Option<Lease>, StoreError> {
        Ok(self.rows().leases.iter().find(|lease| lease.key == *key).cloned())
    }

    async fn owned_by(&self, _: &WorkerId) -> Result<Option<Vec<LeaseKey>>, StoreError> {
        Ok(None)
    }

    async fn change(
        &self,
        key: &LeaseKey,
        expect: &Expect,
        change: &LeaseChange,
        incarnation: Incarnation,
    ) -> Result<Outcome, StoreError> {
        let mut rows = self.rows();
        let row = rows.leases.iter_mut().find(|lease| lease.key == *key).unwrap();
        if !expect.holds(Some(row)) {
            return Ok(Outcome::Refused {
                current: Some(Box::new(row.clone())),
            });
        }
        *row = apply(row, change, incarnation);
        Ok(Outcome::Applied(Box::new(row.clone())))
    }

    async fn change_worker(&self, _: &WorkerChange) -> Result<WorkerOutcome, StoreError> {
        self.may_hang(Hang::WorkerWrite).await;
        Ok(WorkerOutcome::Refused)
    }

    async fn read_lock(&self) -> Result<Option<LeaderLock>, StoreError> {
        self.may_hang(Hang::LockRead).await;
        Ok(self.rows().lock.clone())
    }

    async fn change_lock(&self, expect: &LockExpect, change: &LockChange) -> Result<LockOutcome, StoreError> {
        self.may_hang(Hang::LockWrite).await;
        let outcome = write_lock(&mut self.rows().lock, expect, change);
        self.may_hang(Hang::LockReply).await;
        Ok(outcome)
    }
}

fn write_lock(row: &mut Option<LeaderLock>, expect: &LockExpect, change: &LockChange) -> LockOutcome {
    let holds = match (expect, &*row) {
        (LockExpect::Absent, lock) => lock.is_none(),
        (LockExpect::Version { version, owner }, Some(lock)) => {
            lock.version == *version && lock.owner == *owner
        }
        (LockExpect::Version { .. }, None) => false,
    };
    if !holds {
        return LockOutcome::Refused;
    }
    *row = match change {
        LockChange::Hold(lock) => Some(lock.clone()),
        LockChange::Release => None,
    };
    LockOutcome::Applied
}

/// A worker: a coordinator, and a stand-in for the rest that touches its row and renews its leases.
struct Worker {
    id: WorkerId,
    scope: TaskScope,
    shutdown: CancellationToken,
    wake: Arc<Notify>,
    status: Arc<Watched<CoordinatorStatus>>,
}

fn first_cadence() -> ScanCadence {
    let mut settings = Settings::default();
    settings.leases.failover_time = F;
    settings.leases.discovery_interval = Duration::from_secs(1);
    CoordinatorContext::first_cadence(&settings, &Timing::of(F))
}

/// The run of the worker's process.
fn run_of(worker: &WorkerId) -> Incarnation {
    let mut bytes = [0; 16];
    for (byte, letter) in bytes.iter_mut().zip(worker.as_str().bytes()) {
        *byte = letter;
    }
    Incarnation::from_random_bytes(bytes)
}

impl Worker {
    fn start(name: &str, table: &Arc<Table>, clock: &Arc<dyn Clock>) -> Self {
        Self::start_as(name, table, clock, |context| context)
    }

    /// Starts a worker that differs from the usual one.
    fn start_as(
        name: &str,
        table: &Arc<Table>,
        clock: &Arc<dyn Clock>,
        with: impl FnOnce(CoordinatorContext) -> CoordinatorContext,
    ) -> Self {
        let worker = Self {
            id: WorkerId::new(name).unwrap(),
            scope: TaskScope::new(),
            shutdown: CancellationToken::new(),
            wake: Arc::new(Notify::new()),
            status: Arc::new(Watched::new(CoordinatorStatus::unknown(first_cadence()))),
        };
        let incarnation = run_of(&worker.id);
        worker.touch(table);
        let store_client = StoreClient::new(
            Arc::<Table>::clone(table),
            Arc::clone(clock),
            worker.scope.clone(),
            incarnation,
            Timing::of(F).calls,
            Metrics::register(None, name, MetricsLevel::default()),
        );
        let context = CoordinatorContext {
            scanner: Arc::new(TableScanner::new(store_client.clone(), Arc::clone(clock))),
            store_client,
            assignment_hints: Arc::default(),
            clock: Arc::clone(clock),
            rng: Rng::from_seed(1).child(name),
            me: worker.id.clone(),
            max_leases: None,
            max_throughput: None,
            timing: Timing::of(F),
            discovery: Duration::from_secs(1),
            settings: AssignmentSettings::default(),
            wake: Arc::clone(&worker.wake),
            status: Arc::clone(&worker.status),
            metrics: Metrics::register(None, name, MetricsLevel::default()),
            reads: Arc::new(|_| true),
        };
        let coordinator = coordinate(with(context), worker.shutdown.clone());
        worker.scope.spawn("coordinator", TaskPolicy::Vital, coordinator);

        let (table, clock, id) = (Arc::clone(table), Arc::clone(clock), worker.id.clone());
        worker.scope.spawn("the rest", TaskPolicy::Vital, async move {
            loop {
                clock.sleep(F / 3).await;
                table.live(&id, incarnation);
            }
        });
        worker
    }

    fn touch(&self, table: &Table) {
        table.rows().workers.push(WorkerRow {
            id: self.id.clone(),
            incarnation: Some(run_of(&self.id)),
            touches: 0,
            failover: Some(F),
            max_leases: None,
            max_throughput: None,
            updated: Timestamp::from_millis(0),
            started: None,
            version: None,
            orders: None,
        });
    }

    fn status(&self) -> CoordinatorStatus {
        self.status.read(Clone::clone)
    }

    fn role(&self) -> Role {
        self.status().role
    }
}

impl Table {
    /// Acts as a live worker: touches its row, renews its leases, completes its handoffs.
    fn live(&self, me: &WorkerId, incarnation: Incarnation) {
        let mut rows = self.rows();
        rows.workers
            .iter_mut()
            .filter(|row| row.id == *me)
            .for_each(|row| row.touches += 1);
        for lease in rows
            .leases
            .iter_mut()
            .filter(|lease| lease.actual_owner() == Some(me))
        {
            let change = if lease.is_in_handoff() {
                LeaseChange::CompleteHandoff
            } else {
                LeaseChange::Renew {
                    notes: OwnerNotes::NONE,
                    facts: RowFacts::NONE,
                }
            };
            *lease = apply(lease, &change, incarnation);
        }
    }
}

/// A leader that lives and assigns nothing, with this standby.
fn idle_leader(standby: &str, table: &Arc<Table>, clock: &Arc<dyn Clock>) -> TaskScope {
    let standby = WorkerId::new(standby).unwrap();
    let lock = move |heartbeat: u32| LeaderLock {
        owner: WorkerId::new("idle-leader").unwrap(),
        duration: F,
        version: format!("heartbeat {heartbeat}"),
        released: false,
        standby: Some(standby.clone()),
    };
    table.rows().lock = Some(lock(0));
    let (scope, table, clock) = (TaskScope::new(), Arc::clone(table), Arc::clone(clock));
    scope.spawn("idle leader", TaskPolicy::Vital, async move {
        for heartbeat in 1.. {
            clock.sleep(F / 5).await;
            table.rows().lock = Some(lock(heartbeat));
        }
    });
    scope
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(TokioClock::new())
}

async fn pass(clock: &Arc<dyn Clock>, time: Duration) {
    clock.sleep(time).await;
}

fn counts<const N: usize>(expected: [(&str, usize); N]) -> BTreeMap<String, usize> {
    expected
        .into_iter()
        .map(|(owner, count)| (owner.to_owned(), count))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn lone_worker_leads_and_owns_everything_at_once() {
    let (table, clock) = (Table::with_leases(5), clock());
    let worker = Worker::start("a", &table, &clock);
    pass(&clock, Duration::from_millis(1)).await;
    assert_eq!(table.owners(), counts([("a", 5)]));
    assert_eq!(worker.role(), Role::Leader);
}

#[tokio::test(start_paused = true)]
async fn workers_share_leases_and_joiner_gets_its_part() {
    let (table, clock) = (Table::with_leases(6), clock());
    let _fleet = [
        Worker::start("a", &table, &clock),
        Worker::start("b", &table, &clock),
    ];
    pass(&clock, Duration::from_millis(1)).await;
    assert_eq!(table.owners(), counts([("a", 3), ("b", 3)]));
    let _late = Worker::start("c", &table, &clock);
    pass(&clock, F).await;
    assert_eq!(table.owners(), counts([("a", 2), ("b", 2), ("c", 2)]));
    assert!(table.rows().leases.iter().all(|lease| !lease.is_in_handoff()));
}

#[tokio::test(start_paused = true)]
async fn standby_is_named_at_once_nobody_else_scans() {
    let (table, clock) = (Table::with_leases(3), clock());
    let fleet = ["a", "b", "c", "d"].map(|name| Worker::start(name, &table, &clock));
    pass(&clock, Duration::from_millis(1)).await;
    assert_eq!(
        table.rows().lock.as_ref().unwrap().standby,
        Some(fleet[1].id.clone())
    );
    pass(&clock, Duration::from_secs(2)).await;
    assert_eq!(
        fleet.each_ref().map(Worker::role),
        [Role::Leader, Role::Standby, Role::Follower, Role::Follower]
    );
    let before = *table.scans.lock().unwrap();
    pass(&clock, Duration::from_secs(10)).await;
    let scans = *table.scans.lock().unwrap() - before;
    assert!(
        (18..=22).contains(&scans),
        "{scans} scans by two workers in ten seconds"
    );
}

/// From the death of any worker, the leader included, to the new owners of its leases.
#[tokio::test(start_paused = true)]
async fn leases_of_dead_worker_move_within_failover_time() {
    for (dead, elapsed) in [(0, 5), (1, 5), (2, 5), (0, 7)] {
        let (table, clock) = (Table::with_leases(6), clock());
        let fleet = ["a", "b", "c"].map(|name| Worker::start(name, &table, &clock));
        pass(&clock, Duration::from_millis(elapsed * 1300)).await;
        let owner = fleet[dead].id.as_str();
        assert_eq!(table.owners()[owner], 2);
        fleet[dead].scope.kill();
        pass(&clock, F + Duration::from_secs(1)).await;
        assert!(
            !table.owners().contains_key(owner),
            "{owner}: {:?}",
            table.owners()
        );
        // And afterwards the fleet is led again, and in balance.
        pass(&clock, F).await;
        let leaders = fleet
            .iter()
            .enumerate()
            .filter(|(n, worker)| *n != dead && worker.role() == Role::Leader);
        assert_eq!(leaders.count(), 1);
        assert_eq!(table.owners().into_values().collect::<Vec<_>>(), [3, 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn death_of_leader_and_standby_is_survived() {
    let (table, clock) = (Table::with_leases(6), clock());
    let fleet = ["a", "b", "c"].map(|name| Worker::start(name, &table, &clock));
    pass(&clock, Duration::from_secs(7)).await;
    fleet[0].scope.kill();
    fleet[1].scope.kill();
    // A challenger leaves the standby three looks and an eighth of the failover time.
    pass(&clock, F * 2 + F / 8 + Duration::from_secs(5)).await;
    assert_eq!(table.owners(), counts([("c", 6)]));
    assert_eq!(fleet[2].role(), Role::Leader);
}

#[tokio::test(start_paused = true)]
async fn an_event_brings_the_next_scan_forward() {
    let (table, clock) = (Table::with_leases(0), clock());
    let worker = Worker::start("a", &table, &clock);
    pass(&clock, Duration::from_millis(1750)).await;
    let shard = ShardId::new("new").unwrap();
    table
        .rows()
        .leases
        .push(Lease::unowned(shard, Position::TrimHorizon));
    worker.wake.notify_one();
    pass(&clock, Duration::from_millis(1)).await;
    assert_eq!(table.owners(), counts([("a", 1)]));
}

#[tokio::test(start_paused = true)]
async fn scan_outage_expires_nothing_but_ends_leadership() {
    let (table, clock) = (Table::with_leases(2), clock());
    let worker = Worker::start("a", &table, &clock);
    let dead = WorkerId::new("dead").unwrap();
    pass(&clock, Duration::from_secs(1)).await;
    table.rows().leases[0].owner = Some(dead);
    pass(&clock, Duration::from_secs(1)).await;
    *table.scans_fail.lock().unwrap() = true;
    // Each of the three tries comes later than the one before.
    pass(&clock, Duration::from_secs(6)).await;
    assert_eq!((worker.role(), &table.rows().lock), (Role::Follower, &None));
    pass(&clock, F * 3).await;
    assert_eq!(table.owners(), counts([("a", 1), ("dead", 1)]));
    *table.scans_fail.lock().unwrap() = false;
    pass(&clock, F * 3).await;
    assert_eq!(table.owners(), counts([("a", 2)]));
}

#[tokio::test(start_paused = true)]
async fn shutdown_gives_lock_up_and_standby_takes_it() {
    let (table, clock) = (Table::with_leases(2), clock());
    let fleet = ["a", "b", "c"].map(|name| Worker::start(name, &table, &clock));
    // Between two scans of the standby.
    pass(&clock, Duration::from_millis(2900)).await;
    fleet[0].shutdown.cancel();
    pass(&clock, Duration::from_millis(1)).await;
    assert_eq!(table.rows().lock, None);
    pass(&clock, Duration::from_secs(1)).await;
    assert_eq!(table.rows().lock.as_ref().unwrap().owner, fleet[1].id);
}

#[tokio::test(start_paused = true)]
async fn table_that_fails_scans_is_asked_less_often() {
    let (table, clock) = (Table::with_leases(1), clock());
    table.rows().leases[0].owner = Some(WorkerId::new("dead").unwrap());
    let _leader = idle_leader("deputy", &table, &clock);
    let _standby = Worker::start("deputy", &table, &clock);
    // The lease would expire while the outage lasts.
    pass(&clock, F - Duration::from_millis(500)).await;
    *table.scans_fail.lock().unwrap() = true;
    let before = *table.scans.lock().unwrap();
    pass(&clock, F).await;
    let scans = *table.scans.lock().unwrap() - before;
    assert!(
        (3..=7).contains(&scans),
        "{scans} scans in ten seconds, and not 10"
    );
}

#[tokio::test(start_paused = true)]
async fn dead_lease_of_former_stream_calls_no_standby() {
    let (table, clock) = (Table::with_leases(1), clock());
    table.rows().leases[0].owner = Some(WorkerId::new("dead").unwrap());
    let former = table.rows().leases[0].key.clone();
    let _leader = idle_leader("deputy", &table, &clock);
    let _standby = Worker::start_as("deputy", &table, &clock, |context| CoordinatorContext {
        reads: Arc::new(move |lease| lease.key != former),
        ..context
    });
    pass(&clock, F + Duration::from_secs(2)).await;
    // The leader's to give away: a standby does that only when something is overdue.
    let unowned = Lease::unowned(ShardId::new("new").unwrap(), Position::TrimHorizon);
    table.rows().leases.push(unowned);
    pass(&clock, F).await;
    assert_eq!(table.owners(), counts([("dead", 1), ("nobody", 1)]));
}

#[tokio::test(start_paused = true)]
async fn standby_places_what_it_can_and_no_more() {
    let (table, clock) = (Table::with_leases(2), clock());
    table.rows().leases[0].owner = Some(WorkerId::new("deputy").unwrap());
    table.rows().leases[1].owner = Some(WorkerId::new("dead").unwrap());
    let _leader = idle_leader("deputy", &table, &clock);
    let standby = Worker::start_as("deputy", &table, &clock, |context| CoordinatorContext {
        max_leases: Some(1),
        ..context
    });
    pass(&clock, F + Duration::from_secs(3)).await;
    assert_eq!(table.owners(), counts([("dead", 1), ("deputy", 1)]));
    assert_eq!(standby.status().unplaced, 0, "to say so is up to the leader");
    let _other = Worker::start("other", &table, &clock);
    pass(&clock, Duration::from_secs(2)).await;
    assert_eq!(table.owners(), counts([("deputy", 1), ("other", 1)]));
}

#[tokio::test(start_paused = true)]
async fn hanging_call_of_lock_does_not_end_leadership() {
    for hang in [Hang::LockRead, Hang::LockWrite, Hang::LockReply] {
        let (table, clock) = (Table::with_leases(1), clock());
        let worker = Worker::start("a", &table, &clock);
        pass(&clock, Duration::from_secs(5)).await;
        table.hang_once(hang);
        for _ in 0..20 {
            pass(&clock, Duration::from_secs(1)).await;
            let leads_until = worker.status().term.until;
            assert!(leads_until.is_some_and(|until| clock.now() < until), "{hang:?}");
        }
        assert!(table.has_hung(), "{hang:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn worker_leaves_in_time_while_lock_hangs() {
    for hang in [Hang::LockRead, Hang::LockWrite] {
        let (table, clock) = (Table::with_leases(1), clock());
        let worker = Worker::start("a", &table, &clock);
        pass(&clock, Duration::from_secs(5)).await;
        table.hang_once(hang);
        worker.shutdown.cancel();
        let left = worker.scope.wait_until_only("the rest");
        clock.timeout(F / 5, left).await.unwrap();
        assert!(table.has_hung(), "{hang:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn hanging_scan_or_burial_does_not_stop_rounds() {
    for (hang, limit) in [(Hang::Scan, F / 4), (Hang::WorkerWrite, F / 6)] {
        let (table, clock) = (Table::with_leases(0), clock());
        let worker = Worker::start("a", &table, &clock);
        // A worker that died long ago, whose row is deleted by the leader.
        worker.touch(&table);
        table.rows().workers[1].id = WorkerId::new("dead").unwrap();
        pass(&clock, LONG_DEAD).await;
        table.hang_once(hang);
        worker.wake.notify_one();
        pass(&clock, Duration::from_secs(1)).await;
        assert!(table.has_hung(), "{hang:?}");
        let shard = ShardId::new("new").unwrap();
        let unowned = Lease::unowned(shard, Position::TrimHorizon);
        table.rows().leases.push(unowned);
        pass(&clock, limit + Duration::from_secs(1)).await;
        assert_eq!(table.owners(), counts([("a", 1)]), "{hang:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn slow_table_is_given_time_to_be_scanned() {
    let (table, clock) = (Table::with_leases(3), clock());
    *table.slow.lock().unwrap() = Some((Arc::clone(&clock), F / 2));
    let _worker = Worker::start("a", &table, &clock);
    pass(&clock, F * 2).await;
    assert_eq!(table.owners(), counts([("a", 3)]));
}
