//! The coordinator: every worker runs one. It keeps an eye on the leader lock, and scans and assigns when it is this worker's turn.

pub(crate) mod assignment;
pub(crate) mod context;
pub(crate) mod election;
pub(crate) mod java_workers;
pub(crate) mod leadership;
pub(crate) mod role;
pub(crate) mod shard_sync;
pub(crate) mod table_view;
pub(crate) mod unplaced;
pub(crate) mod workers;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::coordinator::assignment::assignment_plan::{AssignmentPlan, Move};
use crate::coordinator::assignment::plan::{plan_assignment, plan_overdue, plan_placement};
use crate::coordinator::assignment::snapshot::{Candidate, Snapshot};
use crate::coordinator::context::CoordinatorContext;
use crate::coordinator::election::{ElectionAction, LeaderElection, pick_standby};
use crate::coordinator::java_workers::JavaWorkers;
use crate::coordinator::role::Role;
use crate::coordinator::table_view::TableView;
use crate::coordinator::unplaced::{UnplacedChange, UnplacedShards};
use crate::error::Causes;
use crate::lease::row::Lease;
use crate::lease::scan_deadline::ScanDeadline;
use crate::lease::store::{Certainty, Outcome, Scan, StoreError, StoreErrorKind};
use crate::lease::worker_row::{
    LeaderLock, LockChange, LockExpect, LockOutcome, WorkerChange, WorkerOutcome,
};
use crate::runtime::clock::{ClockExt, Moment};
use crate::runtime::log_once::LogOnce;
use crate::runtime::rng::Rng;
use crate::settings::scan_cadence::{self, ScanCadence};
use crate::types::{LeaseKey, WorkerId};

/// A leader whose rounds fail this often in a row gives the lead up, so that another worker can try.
const FAILED_ROUNDS: u32 = 3;

const LOCK_FAILS: &str = "the leader lock cannot be read or written";
const SCAN_FAILS: &str = "the lease table cannot be scanned";
const WRITE_FAILS: &str = "leases cannot be assigned";

/// Runs until `shutdown` is cancelled, and gives the lock up then.
///
/// # Cancel safety
///
/// Dropping the future leaves the lock, if it is held, to expire.
pub(crate) async fn coordinate(context: CoordinatorContext, shutdown: CancellationToken) {
    let coordinator = Coordinator::new(context);
    let assigning = async {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = coordinator.assign() => {}
        }
    };
    // A write of the lock that is under way is waited for: nobody could give up a lock that is taken later.
    tokio::join!(coordinator.keep_election(&shutdown), assigning);
    coordinator.release_lock().await;
}

struct Coordinator {
    context: CoordinatorContext,
    state: Mutex<CoordinatorState>,
    /// The lock wants attention before the next poll: another standby is to be named. One waiter, for whom it is kept; so also below.
    tend: Notify,
    role_changed: Notify,
}

struct CoordinatorState {
    election: LeaderElection,
    rng: Rng,
    /// Whom the lock should name.
    standby: Option<WorkerId>,
    lock_problem: LogOnce,
}

/// The state that the scanning half keeps from round to round.
struct ScanRounds {
    view: TableView,
    /// Whether something happened since the last scan of the coordinator's own started, for which a scan must come.
    is_called: bool,
    scan_deadline: ScanDeadline,
    failed_in_a_row: u32,
    /// How many scans failed in a row.
    scans_failed: u32,
    rng: Rng,
    scan_problem: LogOnce,
    write_problem: LogOnce,
    unplaced: UnplacedShards,
    java: JavaWorkers,
}

impl Coordinator {
    fn new(context: CoordinatorContext) -> Self {
        let timing = &context.timing;
        let state = CoordinatorState {
            election: LeaderElection::new(context.me.clone(), timing.failover, timing.lock_poll),
            rng: context.rng.child("leader lock"),
            standby: None,
            lock_problem: LogOnce::default(),
        };
        Self {
            context,
            state: Mutex::new(state),
            tend: Notify::new(),
            role_changed: Notify::new(),
        }
    }

    /// Looks at the lock once per poll, and does what the election asks for, until the worker leaves.
    async fn keep_election(&self, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() {
            self.run_election(shutdown).await;
            self.publish();
            let poll = self.state().election.poll();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = self.tend.notified() => {}
                () = self.context.clock.sleep(poll) => {}
            }
        }
    }

    async fn run_election(&self, shutdown: &CancellationToken) {
        match self.context.store_client.read_lock().await {
            Ok(lock) => {
                let now = self.now();
                let mut state = self.state();
                state.lock_problem.log_end(LOCK_FAILS);
                state.election.look(now, lock);
            }
            Err(error) => return self.state().lock_problem.warn(LOCK_FAILS, Causes(&error)),
        }
        if shutdown.is_cancelled() {
            return;
        }
        match self.next_step() {
            ElectionAction::Lead | ElectionAction::Follow => {}
            ElectionAction::StepDown => {
                tracing::info!("the leader lock was lost to another worker");
                let now = self.now();
                self.state().election.step_down(now);
            }
            ElectionAction::Heartbeat { expect, row } => {
                self.write_lock(expect, row).await;
            }
            ElectionAction::Take { expect, row } => {
                if self.write_lock(expect, row).await {
                    tracing::info!("leads the fleet");
                }
            }
        }
    }

    fn next_step(&self) -> ElectionAction {
        let now = self.now();
        let mut guard = self.state();
        let state = &mut *guard;
        let step = state.election.step(now, state.standby.as_ref(), &mut state.rng);
        if let ElectionAction::Heartbeat { row, .. } | ElectionAction::Take { row, .. } = &step {
            state.election.sending(now, row);
        }
        step
    }

    /// Writes the lock. Returns `true` if that certainly worked.
    async fn write_lock(&self, expect: LockExpect, row: LeaderLock) -> bool {
        let outcome = self
            .context
            .store_client
            .change_lock(&expect, &LockChange::Hold(row.clone()))
            .await;
        let mut state = self.state();
        match outcome {
            Ok(LockOutcome::Applied) => {
                state.election.written(row);
                return true;
            }
            Ok(LockOutcome::Refused) => state.election.refused(&row.version),
            Err(error) => {
                if error.certainty() == Certainty::Definite {
                    state.election.refused(&row.version);
                }
                state.lock_problem.warn(LOCK_FAILS, Causes(&error));
            }
        }
        false
    }

    /// Gives the lock up if it is held. Another heartbeat may have landed meanwhile, so it is read first.
    async fn release_lock(&self) {
        let holds_lock = self
            .state()
            .election
            .lock()
            .is_some_and(|lock| lock.owner == self.context.me);
        if !holds_lock {
            return;
        }
        let lock = self.context.store_client.read_lock().await;
        let release = {
            let now = self.now();
            let mut state = self.state();
            if let Ok(lock) = lock {
                state.election.look(now, lock);
            }
            state.election.step_down(now + self.context.timing.lock_pause)
        };
        if let Some((expect, change)) = release
            && let Err(error) = self.context.store_client.change_lock(&expect, &change).await
        {
            tracing::debug!(error = %Causes(&error), "the leader lock could not be given up and will expire");
        }
        self.publish();
    }

    /// Scans and assigns for as long as it is this worker's turn.
    async fn assign(&self) {
        let mut rounds = self.fresh_rounds();
        let mut scan = None;
        loop {
            if !self.role().scans() {
                // Somebody else watches: what this worker once saw is out of date when its turn comes again.
                (rounds, scan) = (self.fresh_rounds(), None);
                self.state().standby = None;
                // The return to the lead concerns only those who know that it had ended.
                self.publish();
                self.role_changed.notified().await;
                continue;
            }
            self.round(&mut rounds, scan.take()).await;
            if rounds.failed_in_a_row >= FAILED_ROUNDS && self.role() == Role::Leader {
                tracing::warn!(
                    rounds = FAILED_ROUNDS,
                    "stepping down as leader after failed rounds"
                );
                rounds.failed_in_a_row = 0;
                self.release_lock().await;
            }
            scan = self.wait_for_next_round(&mut rounds).await;
        }
    }

    fn fresh_rounds(&self) -> ScanRounds {
        let context = &self.context;
        let me = Candidate {
            id: context.me.clone(),
            max_leases: context.max_leases,
            max_throughput: context.max_throughput,
            leaving: false,
            proven: true,
        };
        ScanRounds {
            view: TableView::new(me, context.timing.failover, self.cadence().scan),
            is_called: false,
            scan_deadline: ScanDeadline::between(context.timing.round_scan),
            failed_in_a_row: 0,
            scans_failed: 0,
            rng: self.context.rng.child("scans"),
            scan_problem: LogOnce::default(),
            write_problem: LogOnce::default(),
            unplaced: UnplacedShards::default(),
            java: JavaWorkers::default(),
        }
    }

    /// Waits until the next scan is due: on the cadence, exactly when a lease can expire, on an event, and when the role changes. Returns early
    /// with a scan that others asked for meanwhile: it serves as well as one of the coordinator's own.
    async fn wait_for_next_round(&self, rounds: &mut ScanRounds) -> Option<Arc<Scan>> {
        let (clock, now) = (&self.context.clock, self.now());
        let mut cadence = self.cadence().scan;
        // Many leases that expire one after the other, or many events, are no reason to read the table all the time.
        let mut soonest = now + cadence / 5;
        if rounds.scans_failed > 0 {
            let pause = scan_cadence::after_failures(cadence, &self.context.timing, rounds.scans_failed);
            cadence = rounds.rng.jittered(pause).max(cadence);
            soonest = now + cadence;
        }
        // After a scan that failed the expiry lies where it lay before, and one more scan is not what it waits for.
        let next_expiry = rounds
            .view
            .next_expiry()
            .filter(|_| !rounds.scan_problem.persists());
        let expiry = next_expiry.map(|expiry| expiry.max(soonest));
        let due = expiry.map_or(now + cadence, |expiry| expiry.min(now + cadence));
        let event = async {
            if !rounds.is_called {
                self.context.wake.notified().await;
                rounds.is_called = true;
            }
            clock.sleep_until(soonest).await;
        };
        let others = self.context.scanner.listen();
        tokio::select! {
            biased;
            () = self.role_changed.notified() => None,
            () = event => None,
            scan = others.next() => Some(scan),
            () = clock.sleep_until(due) => None,
        }
    }

    /// Plans and assigns by this scan of others, or by one of its own.
    async fn round(&self, rounds: &mut ScanRounds, scan: Option<Arc<Scan>>) {
        let scanned = match scan {
            Some(scan) => Ok(scan),
            None => {
                rounds.is_called = false;
                self.context.scanner.fresh(&mut rounds.scan_deadline).await
            }
        };
        let scan = match scanned {
            Ok(scan) => Arc::unwrap_or_clone(scan),
            Err(error) => {
                rounds.scan_problem.warn(SCAN_FAILS, Causes(&*error));
                rounds.scans_failed = rounds.scans_failed.saturating_add(1);
                // A table that is throttled is so for everybody: nobody would have more luck, and all that was watched would be forgotten.
                if error.kind() != StoreErrorKind::Throttled {
                    rounds.failed_in_a_row += 1;
                }
                return;
            }
        };
        rounds.scan_problem.log_end(SCAN_FAILS);
        let now = self.now();
        let cadence = self.fit_cadence(scan.pages);
        rounds.java.watch(now, &scan, self.role() == Role::Leader);
        let watched = scan_cadence::watched(cadence.scan, &self.context.timing, rounds.scans_failed);
        rounds.scans_failed = 0;
        rounds.view.set_cadence(watched);
        rounds.view.look(now, scan);
        rounds.view.set_cadence(cadence.scan);
        self.choose_standby(&rounds.view);

        let settings = &self.context.settings;
        let mut snapshot = Snapshot {
            strategy: settings.strategy,
            ..rounds.view.snapshot(settings.max_moves)
        };
        snapshot.leases.retain(|lease| {
            let row = rounds.view.row(&lease.key);
            row.is_some_and(|row| (self.context.reads)(row))
        });
        // Giving away an expired lease needs no election. A leader that lives does it at once; one that only keeps the lock, and
        // cannot write leases, is not waited for.
        let is_overdue = |key: &LeaseKey| rounds.view.is_overdue(key, cadence.scan / 2);
        let plan = self.plan(&snapshot, is_overdue);
        rounds.unplaced.look(&plan).iter().for_each(UnplacedChange::tell);
        let is_failed = !self.perform(&plan, rounds).await;
        rounds.failed_in_a_row = if is_failed { rounds.failed_in_a_row + 1 } else { 0 };

        if self.role() == Role::Leader {
            self.delete_expired_worker(&rounds.view).await;
        }

        self.context.status.modify_quietly(|status| {
            status.last_scan = Some(now);
            status.leases = snapshot.leases.iter().filter(|lease| !lease.ended).count();
            status.candidates = snapshot.workers.len();
            status.unplaced = plan.unplaced.len();
        });
        self.publish();
    }

    /// Deletes the rows of workers that died long ago; one at a time, since nothing waits for it.
    async fn delete_expired_worker(&self, view: &TableView) {
        let Some(row) = view.expired_workers().into_iter().next() else {
            return;
        };
        let worker = row.id.clone();
        match self
            .context
            .store_client
            .change_worker(&WorkerChange::DeleteExpired(row))
            .await
        {
            Ok(WorkerOutcome::Applied) => {
                tracing::info!(dead = %worker, "the row of a worker that died long ago is deleted")
            }
            Ok(WorkerOutcome::Refused) => {}
            Err(error) => {
                tracing::debug!(dead = %worker, error = %Causes(&error), "the row of a dead worker cannot be deleted yet");
            }
        }
    }

    fn fit_cadence(&self, pages: u32) -> ScanCadence {
        let context = &self.context;
        let budget = context.settings.scan_pages_per_second;
        let cadence = scan_cadence::fit(pages, budget, &context.timing, context.discovery);
        let before = context
            .status
            .modify_quietly(|status| std::mem::replace(&mut status.cadence, cadence));
        if before.failover_bound != cadence.failover_bound {
            tracing::info!(
                pages,
                scan_ms = millis(cadence.scan),
                failover_bound_ms = millis(cadence.failover_bound),
                within_budget = cadence.within_budget,
                "scans of the lease table are fitted to its size"
            );
        }
        cadence
    }

    /// Names a standby as soon as there is a candidate; a leader without one informs the fleet at once.
    fn choose_standby(&self, view: &TableView) {
        let mut state = self.state();
        let leader = state.election.lock().map(|lock| lock.owner.clone());
        let mut candidates = view.candidates();
        // A standby that is about to take over does not name the leader that it takes over from.
        candidates.retain(|candidate| Some(&candidate.id) != leader.as_ref());
        let standby = pick_standby(&candidates, &self.context.me, state.standby.as_ref());
        let is_news = standby != state.standby;
        state.standby = standby;
        if is_news && state.election.leads(self.now()) {
            self.tend.notify_one();
        }
    }

    fn plan(&self, snapshot: &Snapshot, is_overdue: impl Fn(&LeaseKey) -> bool) -> AssignmentPlan {
        match self.role() {
            Role::Leader => plan_assignment(snapshot),
            Role::StandIn => plan_placement(snapshot),
            Role::Standby => plan_overdue(snapshot, is_overdue),
            Role::Follower => AssignmentPlan::default(),
        }
    }

    /// Performs the plan. Returns `true` if the store let it: a refusal means that somebody else got there first, and is no failure.
    async fn perform(&self, plan: &AssignmentPlan, rounds: &mut ScanRounds) -> bool {
        let view = &rounds.view;
        let attempt = async |step: &Move| {
            let before = view.row(&step.key).cloned();
            let outcome = self.perform_one(step, before.clone(), view.age(&step.key)).await;
            (before, outcome)
        };
        let attempts: Vec<_> = plan.moves.iter().map(attempt).collect();
        let attempts = stream::iter(attempts).buffer_unordered(self.context.settings.concurrent_writes);
        let outcomes: Vec<_> = attempts.collect().await;
        let (mut answered, mut failed) = (0_usize, 0_usize);
        for (before, outcome) in outcomes {
            match outcome {
                Ok(Some(after)) => {
                    answered += 1;
                    if let Some(before) = before {
                        rounds.view.wrote(before.version(), *after);
                    }
                }
                Ok(None) => answered += 1,
                Err(error) => {
                    failed += 1;
                    rounds.write_problem.warn(WRITE_FAILS, Causes(&error));
                }
            }
        }
        if failed == 0 && answered > 0 {
            rounds.write_problem.log_end(WRITE_FAILS);
        }
        failed == 0 || answered > 0
    }

    /// Makes one move and returns the new row, or `None` when somebody else got there first or it is not this worker's turn any more.
    async fn perform_one(
        &self,
        step: &Move,
        before: Option<Lease>,
        age: Duration,
    ) -> Result<Option<Box<Lease>>, StoreError> {
        if !self.role().scans() {
            return Ok(None);
        }
        let (expect, change) = (step.expect.clone(), step.change.clone());
        let outcome = self
            .context
            .store_client
            .change(&step.key, before.as_ref(), expect, change)
            .await?;
        let reason = step.reason.as_str();
        match outcome {
            Outcome::Applied(after) => {
                if after.owner.as_ref() == Some(&self.context.me) {
                    self.context.assignment_hints.add(after.key.clone());
                }
                let from = step.from.as_ref().map_or("", WorkerId::as_str);
                let (lease, to, counter) = (&step.key, &step.to, after.counter);
                let age_ms = millis(age);
                if after.is_in_handoff() {
                    tracing::info!(%lease, from, %to, counter, reason, age_ms, "handoff begun");
                } else {
                    tracing::info!(%lease, from, %to, counter, reason, age_ms, "lease assigned");
                }
                self.context.metrics.assigned();
                Ok(Some(after))
            }
            Outcome::Refused { .. } => {
                tracing::debug!(lease = %step.key, to = %step.to, reason, "somebody else changed the lease first");
                Ok(None)
            }
        }
    }

    fn role(&self) -> Role {
        let now = self.now();
        self.state().role(now)
    }

    fn cadence(&self) -> ScanCadence {
        self.context.status.read(|status| status.cadence)
    }

    /// Publishes the role of the worker, and informs the scanning half of a change.
    fn publish(&self) {
        let now = self.now();
        let state = self.state();
        let (role, until) = (state.role(now), state.election.leads_until());
        let lock = state.election.lock().filter(|lock| !lock.released);
        let leader = lock.map(|lock| lock.owner.clone());
        let standby = lock.and_then(|lock| lock.standby.clone());
        drop(state);
        let before = self.context.status.modify(|status| {
            status.term.extend(now, until);
            (status.leader, status.standby) = (leader, standby);
            std::mem::replace(&mut status.role, role)
        });
        if before != role {
            tracing::debug!(?role, "role in the fleet changed");
            self.role_changed.notify_one();
        }
    }

    fn now(&self) -> Moment {
        self.context.clock.now()
    }

    fn state(&self) -> MutexGuard<'_, CoordinatorState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CoordinatorState {
    fn role(&self, now: Moment) -> Role {
        if self.election.leads(now) {
            Role::Leader
        } else if self.election.stands_in() {
            Role::StandIn
        } else if self.election.is_standby() {
            Role::Standby
        } else {
            Role::Follower
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
