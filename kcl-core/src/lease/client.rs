//! The one door to the lease store: every call of a worker goes through a [`StoreClient`].
//!
//! It gives each call a deadline of the worker's own, because a store may have none, or one that is longer than the failover time allows.
//! It counts each call by how it ended, because what coordination costs is what the user pays for the table.
//! Writes of one lease run one at a time, and each is finished even if its caller waits no more. Before it answers, the client finds out
//! what became of a write whose reply was lost: a strong read shows it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use crate::lease::change::{Expect, LeaseChange, apply};
use crate::lease::resolve::{Resolution, resolve};
use crate::lease::row::Lease;
use crate::lease::store::{Certainty, LeaseStore, Outcome, Preparation, Scan, StoreError, StoreErrorKind};
use crate::lease::worker_row::{
    LeaderLock, LockChange, LockExpect, LockOutcome, WorkerChange, WorkerOutcome,
};
use crate::metrics::{ChangeOutcome, Metrics, StoreOperation, StoreOutcome};
use crate::runtime::clock::{Clock, ClockExt as _, Moment};
use crate::runtime::failpoint::failpoint;
use crate::runtime::lock::Locked;
use crate::runtime::task_scope::{TaskPlace, TaskPolicy, TaskScope};
use crate::types::{Incarnation, LeaseKey, WorkerId};

/// One worker's calls of the lease store. Clones share the queues.
#[derive(Clone)]
pub(crate) struct StoreClient {
    shared: Arc<ClientShared>,
}

struct ClientShared {
    store: Arc<dyn LeaseStore>,
    clock: Arc<dyn Clock>,
    scope: TaskScope,
    incarnation: Incarnation,
    limits: CallLimits,
    metrics: Metrics,
    turns: Locked<BTreeMap<LeaseKey, Arc<Semaphore>>>,
}

/// How long calls on one row may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallLimits {
    /// The deadline of one request.
    pub attempt: Duration,
    /// How long to go on finding out what became of a write.
    pub resolve: Duration,
    /// The pause between two tries.
    pub pause: Duration,
}

impl StoreClient {
    pub(crate) fn new(
        store: Arc<dyn LeaseStore>,
        clock: Arc<dyn Clock>,
        scope: TaskScope,
        incarnation: Incarnation,
        limits: CallLimits,
        metrics: Metrics,
    ) -> Self {
        Self {
            shared: Arc::new(ClientShared {
                store,
                clock,
                scope,
                incarnation,
                limits,
                metrics,
                turns: Locked::default(),
            }),
        }
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.shared.incarnation
    }

    /// Prepares the table. The preparation says until when.
    pub(crate) async fn prepare(&self, preparation: &Preparation) -> Result<(), StoreError> {
        let call = self.shared.store.prepare(preparation);
        self.shared.count(StoreOperation::Prepare, call, done).await
    }

    /// Reads the whole table, within `limit`. A running worker asks the [`TableScanner`](crate::lease::scanner::TableScanner) instead.
    pub(crate) async fn scan(&self, limit: Duration) -> Result<Scan, StoreError> {
        let call = self.shared.store.scan();
        let scan = self.shared.call(StoreOperation::Scan, limit, call, done).await?;
        self.shared.metrics.store_pages(scan.pages);
        Ok(scan)
    }

    /// Asks the owner index which leases name the worker, within `limit`. Returns `None` if the store has no index.
    pub(crate) async fn owned_by(
        &self,
        worker: &WorkerId,
        limit: Duration,
    ) -> Result<Option<Vec<LeaseKey>>, StoreError> {
        let call = self.shared.store.owned_by(worker);
        self.shared.call(StoreOperation::OwnedBy, limit, call, done).await
    }

    /// Reads a row strongly, within the deadline of one request.
    pub(crate) async fn read(&self, key: &LeaseKey) -> Result<Option<Lease>, StoreError> {
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        let name = format!("store {key}");
        let read = async move { shared.read(&key).await };
        let scope = &self.shared.scope;
        scope.run_at(TaskPlace::Coordination, name, read).await
    }

    /// Reads a row strongly, within `limit`. Returns `None` if the time was up.
    pub(crate) async fn read_within(
        &self,
        key: &LeaseKey,
        limit: Duration,
    ) -> Option<Result<Option<Lease>, StoreError>> {
        let call = self.shared.store.read(key);
        let read = self.shared.count(StoreOperation::Read, call, done);
        self.shared.clock.timeout(limit, read).await.ok()
    }

    /// Changes a worker's row, within the deadline of one request.
    pub(crate) async fn change_worker(&self, change: &WorkerChange) -> Result<WorkerOutcome, StoreError> {
        let call = self.shared.store.change_worker(change);
        let judge = |outcome: &WorkerOutcome| match outcome {
            WorkerOutcome::Applied => StoreOutcome::Done,
            WorkerOutcome::Refused => StoreOutcome::Refused,
        };
        let limit = self.shared.limits.attempt;
        self.shared
            .call(StoreOperation::ChangeWorker, limit, call, judge)
            .await
    }

    /// Reads the leader lock, within the deadline of one request.
    pub(crate) async fn read_lock(&self) -> Result<Option<LeaderLock>, StoreError> {
        let call = self.shared.store.read_lock();
        let limit = self.shared.limits.attempt;
        self.shared
            .call(StoreOperation::ReadLock, limit, call, done)
            .await
    }

    /// Changes the leader lock, within the deadline of one request. A call that ran out of time may write it, now or later.
    pub(crate) async fn change_lock(
        &self,
        expect: &LockExpect,
        change: &LockChange,
    ) -> Result<LockOutcome, StoreError> {
        let call = self.shared.store.change_lock(expect, change);
        let judge = |outcome: &LockOutcome| match outcome {
            LockOutcome::Applied => StoreOutcome::Done,
            LockOutcome::Refused => StoreOutcome::Refused,
        };
        let limit = self.shared.limits.attempt;
        self.shared
            .call(StoreOperation::ChangeLock, limit, call, judge)
            .await
    }

    /// Changes one row if `expect` holds; `before` is the row that the expectation is based on, if there is one.
    ///
    /// An error means that the outcome could not be found out in time, or that the change certainly did not happen.
    /// Dropping the future, once it was polled, does not stop the write.
    pub(crate) async fn change(
        &self,
        key: &LeaseKey,
        before: Option<&Lease>,
        expect: Expect,
        change: LeaseChange,
    ) -> Result<Outcome, StoreError> {
        let write = QueuedWrite {
            key: key.clone(),
            before: before.cloned(),
            expect,
            change,
            deadline: None,
        };
        self.write(write).await
    }

    /// Creates a row, and sends nothing from `deadline` on.
    ///
    /// A row that is not there is no proof that it is missing: by `deadline` others may have finished with it, and cleaned up. So the
    /// caller says for how long its knowledge holds.
    pub(crate) async fn create(&self, lease: Lease, deadline: Moment) -> Result<Outcome, StoreError> {
        let write = QueuedWrite {
            key: lease.key.clone(),
            before: None,
            expect: Expect::Absent,
            change: LeaseChange::Create(Box::new(lease)),
            deadline: Some(deadline),
        };
        self.write(write).await
    }

    /// Returns once every write has ended that was under way, or waited for its turn, when this was called. One whose task did not run yet
    /// is not among them.
    pub(crate) async fn passed(&self) {
        let turns: Vec<_> = {
            let turns = self.shared.turns.lock();
            let turns = turns.iter();
            turns.map(|(key, turn)| (key.clone(), Arc::clone(turn))).collect()
        };
        for (key, turn) in turns {
            // Turns are given in the order in which they were asked for.
            drop(turn.acquire().await);
            self.shared.forget_idle_turn(&key, turn);
        }
    }

    async fn write(&self, write: QueuedWrite) -> Result<Outcome, StoreError> {
        let (reply, answer) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        let name = format!("store {}", write.key);
        let task = async move {
            let outcome = shared.in_turn(&write).await;
            // Nobody may be waiting any more; the write is done nevertheless.
            let _ = reply.send(outcome);
        };
        let scope = &self.shared.scope;
        scope.spawn_at(TaskPlace::Coordination, name, TaskPolicy::Job, task);
        answer.await.unwrap_or_else(|_| {
            Err(StoreError::unknown(
                StoreErrorKind::Unavailable,
                "the write was abandoned: it panicked, or the worker stopped",
            ))
        })
    }
}

struct QueuedWrite {
    key: LeaseKey,
    before: Option<Lease>,
    expect: Expect,
    change: LeaseChange,
    /// From when on it is not sent any more.
    deadline: Option<Moment>,
}

impl ClientShared {
    /// Waits for the call no longer than `limit`, and counts it by how it ended.
    async fn call<T>(
        &self,
        operation: StoreOperation,
        limit: Duration,
        call: impl Future<Output = Result<T, StoreError>> + Send,
        judge: impl Fn(&T) -> StoreOutcome + Send,
    ) -> Result<T, StoreError> {
        let answer = self
            .clock
            .timeout(limit, self.count(operation, call, judge))
            .await;
        answer.unwrap_or_else(|elapsed| Err(no_answer(elapsed.0)))
    }

    /// Waits for the call and counts it by how it ended.
    async fn count<T>(
        &self,
        operation: StoreOperation,
        call: impl Future<Output = Result<T, StoreError>> + Send,
        judge: impl Fn(&T) -> StoreOutcome + Send,
    ) -> Result<T, StoreError> {
        let mut pending = PendingCall {
            client: self,
            operation,
            begun: self.clock.now(),
            outcome: StoreOutcome::Abandoned,
        };
        let answer = call.await;
        pending.outcome = match &answer {
            Ok(answer) => judge(answer),
            Err(error) => failed(error),
        };
        answer
    }

    async fn in_turn(&self, write: &QueuedWrite) -> Result<Outcome, StoreError> {
        let turn = {
            let mut turns = self.turns.lock();
            Arc::clone(
                turns
                    .entry(write.key.clone())
                    .or_insert_with(|| Arc::new(Semaphore::new(1))),
            )
        };
        // The semaphore is never closed, so there is always a permit in the end; without one the write would still be safe.
        let permit = turn.acquire().await.ok();
        let outcome = self.until_known(write).await;
        drop(permit);
        self.forget_idle_turn(&write.key, turn);
        let counted = match &outcome {
            Ok(Outcome::Applied(_)) => ChangeOutcome::Applied,
            Ok(Outcome::Refused { .. }) => ChangeOutcome::Refused,
            Err(_) => ChangeOutcome::Failed,
        };
        self.metrics.lease_change(write.change.verb(), counted);
        outcome
    }

    /// Drops a queue that nobody waits in, so that the map does not grow with every shard there ever was.
    fn forget_idle_turn(&self, key: &LeaseKey, turn: Arc<Semaphore>) {
        let mut turns = self.turns.lock();
        // One reference is ours, one the map's. Ours goes while nobody else counts: of two who are done at the same time the later one
        // must find itself alone.
        let is_idle = Arc::strong_count(&turn) == 2;
        drop(turn);
        if is_idle {
            turns.remove(key);
        }
    }

    async fn until_known(&self, write: &QueuedWrite) -> Result<Outcome, StoreError> {
        let give_up = self.clock.now() + self.limits.resolve;
        let give_up = write.deadline.map_or(give_up, |deadline| give_up.min(deadline));
        // Of an earlier attempt it is not known whether it will still land.
        let mut in_doubt = false;
        loop {
            if write
                .deadline
                .is_some_and(|deadline| self.clock.now() >= deadline)
            {
                return Err(too_late(&write.key, in_doubt));
            }
            let unknown = match self.attempt(write).await {
                Ok(Outcome::Applied(row)) => return Ok(Outcome::Applied(row)),
                Ok(Outcome::Refused { current: Some(row) }) => return Ok(self.judge(write, Some(*row)).1),
                Ok(Outcome::Refused { current: None }) => None,
                Err(error) if error.certainty() == Certainty::Definite && !in_doubt => return Err(error),
                Err(error) if error.certainty() == Certainty::Definite => {
                    return Err(still_unknown(&write.key, error));
                }
                Err(error) => Some(error),
            };
            in_doubt |= unknown.is_some();
            let believes = unknown.is_some() && failpoint!(LostReplyIsSuccess);
            if let Some(before) = write.before.as_ref().filter(|_| believes) {
                let after = apply(before, &write.change, self.incarnation);
                return Ok(Outcome::Applied(Box::new(after)));
            }
            let row = self.read_until(&write.key, give_up).await?;
            let (resolution, outcome) = self.judge(write, row);
            if resolution != Resolution::NotYet {
                return Ok(outcome);
            }
            if self.clock.now() >= give_up {
                return Err(unknown.unwrap_or_else(|| no_answer(self.limits.resolve)));
            }
            self.clock.sleep(self.limits.pause).await;
        }
    }

    async fn attempt(&self, write: &QueuedWrite) -> Result<Outcome, StoreError> {
        let call = self
            .store
            .change(&write.key, &write.expect, &write.change, self.incarnation);
        let judge = |outcome: &Outcome| match outcome {
            Outcome::Applied(_) => StoreOutcome::Done,
            Outcome::Refused { .. } => StoreOutcome::Refused,
        };
        self.call(StoreOperation::Change, self.limits.attempt, call, judge)
            .await
    }

    fn judge(&self, write: &QueuedWrite, row: Option<Lease>) -> (Resolution, Outcome) {
        let resolution = resolve(
            row.as_ref(),
            write.before.as_ref(),
            &write.expect,
            &write.change,
            self.incarnation,
        );
        let outcome = match (resolution, row) {
            (Resolution::Applied, Some(row)) => Outcome::Applied(Box::new(row)),
            (Resolution::Applied, None) => match &write.before {
                Some(before) => Outcome::Applied(Box::new(before.clone())),
                None => Outcome::Refused { current: None },
            },
            (Resolution::NotYet | Resolution::OwnEarlierWrite | Resolution::Refused, row) => {
                Outcome::Refused {
                    current: row.map(Box::new),
                }
            }
        };
        (resolution, outcome)
    }

    async fn read_until(&self, key: &LeaseKey, give_up: Moment) -> Result<Option<Lease>, StoreError> {
        loop {
            match self.read(key).await {
                Ok(row) => return Ok(row),
                // The reading failed definitely, but the fate of the write stays unknown.
                Err(error) if self.clock.now() >= give_up || error.kind() == StoreErrorKind::Data => {
                    return Err(still_unknown(key, error));
                }
                Err(_) => self.clock.sleep(self.limits.pause).await,
            }
        }
    }

    async fn read(&self, key: &LeaseKey) -> Result<Option<Lease>, StoreError> {
        let call = self.store.read(key);
        self.call(StoreOperation::Read, self.limits.attempt, call, done)
            .await
    }
}

/// Returns the error of a read that failed, as one of the write whose fate it should have shown.
fn still_unknown(key: &LeaseKey, error: StoreError) -> StoreError {
    let what = format!("cannot find out what became of a write to {key}");
    StoreError::unknown(error.kind(), what).with_source(error)
}

/// Returns the error of a write that came too late: its basis may be outdated.
fn too_late(key: &LeaseKey, in_doubt: bool) -> StoreError {
    let what = format!("there was no time left to write the lease {key}");
    match in_doubt {
        true => StoreError::unknown(StoreErrorKind::Unavailable, what),
        false => StoreError::definite(StoreErrorKind::Unavailable, what),
    }
}

fn no_answer(limit: Duration) -> StoreError {
    StoreError::unknown(
        StoreErrorKind::Unavailable,
        format!("the lease store did not answer within {limit:?}"),
    )
}

/// A call under way. One whose future is dropped reached the store nevertheless, and is counted as abandoned.
struct PendingCall<'a> {
    client: &'a ClientShared,
    operation: StoreOperation,
    begun: Moment,
    outcome: StoreOutcome,
}

impl Drop for PendingCall<'_> {
    fn drop(&mut self) {
        let took = self.client.clock.now().saturating_since(self.begun);
        self.client.metrics.store_call(self.operation, self.outcome, took);
    }
}

fn failed(error: &StoreError) -> StoreOutcome {
    match (error.kind(), error.certainty()) {
        (StoreErrorKind::Throttled, _) => StoreOutcome::Throttled,
        (_, Certainty::Unknown) => StoreOutcome::Unknown,
        (_, Certainty::Definite) => StoreOutcome::Failed,
    }
}

fn done<T>(_: &T) -> StoreOutcome {
    StoreOutcome::Done
}

impl fmt::Debug for StoreClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreClient")
            .field("incarnation", &self.shared.incarnation)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
