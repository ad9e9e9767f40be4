//! The lanes in which a worker's writes run: one at a time per lease, each finished even if nobody waits for it any more.
//!
//! A lane resolves what is unknown before it answers: a write whose reply was lost is judged by a strong read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};

use crate::lease::change::{Expect, LeaseChange, apply};
use crate::lease::resolve::{Resolution, resolve};
use crate::lease::row::Lease;
use crate::lease::store::{Certainty, LeaseStore, Outcome, StoreError, StoreErrorKind};
use crate::lease::writer::LeaseWriter;
use crate::metrics::{ChangeOutcome, Metrics};
use crate::runtime::clock::{Clock, ClockExt as _, Moment};
use crate::runtime::failpoint::failpoint;
use crate::runtime::task_scope::TaskPlace;
use crate::runtime::task_scope::{TaskPolicy, TaskScope};
use crate::types::{Incarnation, LeaseKey};

/// All lanes of one worker.
#[derive(Clone)]
pub(crate) struct StoreClient {
    shared: Arc<ClientShared>,
}

struct ClientShared {
    store: Arc<dyn LeaseStore>,
    clock: Arc<dyn Clock>,
    scope: TaskScope,
    incarnation: Incarnation,
    limits: WriteLimits,
    metrics: Metrics,
    turns: Mutex<BTreeMap<LeaseKey, Arc<Semaphore>>>,
}

/// How long a queue tries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WriteLimits {
    /// The deadline of one request.
    pub(crate) attempt: Duration,
    /// How long to go on finding out what became of a write.
    pub(crate) resolve: Duration,
    /// The pause between two tries.
    pub(crate) pause: Duration,
}

impl WriteLimits {
    /// Limits that fit a failover time: a request may hang for a sixth of that time, so that a second try is still in time.
    pub(crate) fn for_failover(failover: Duration) -> Self {
        Self {
            attempt: failover / 6,
            resolve: failover,
            pause: failover / 60,
        }
    }
}

impl StoreClient {
    pub(crate) fn new(
        store: Arc<dyn LeaseStore>,
        clock: Arc<dyn Clock>,
        scope: TaskScope,
        incarnation: Incarnation,
        limits: WriteLimits,
        metrics: Metrics,
    ) -> Self {
        let turns = Mutex::new(BTreeMap::new());
        Self {
            shared: Arc::new(ClientShared {
                store,
                clock,
                scope,
                incarnation,
                limits,
                metrics,
                turns,
            }),
        }
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.shared.incarnation
    }

    /// Returns once every write has ended that was under way, or waited for its turn, when this was called. One whose task did not run yet
    /// is not among them.
    pub(crate) async fn passed(&self) {
        let turns: Vec<_> = {
            let turns = self.shared.turns.lock().unwrap_or_else(PoisonError::into_inner);
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
        let name = format!("lane {}", write.key);
        let task = async move {
            let outcome = shared.in_turn(&write).await;
            // Nobody may be waiting any more; the write is done even so.
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

    /// Reads a row strongly, within the deadline of one request.
    pub(crate) async fn read(&self, key: &LeaseKey) -> Result<Option<Lease>, StoreError> {
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        let name = format!("lane {key}");
        let read = async move { shared.read(&key).await };
        let scope = &self.shared.scope;
        scope.run_at(TaskPlace::Coordination, name, read).await
    }
}

#[async_trait]
impl LeaseWriter for StoreClient {
    async fn change(
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

    async fn create(&self, lease: Lease, deadline: Moment) -> Result<Outcome, StoreError> {
        let write = QueuedWrite {
            key: lease.key.clone(),
            before: None,
            expect: Expect::Absent,
            change: LeaseChange::Create(Box::new(lease)),
            deadline: Some(deadline),
        };
        self.write(write).await
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
    async fn in_turn(&self, write: &QueuedWrite) -> Result<Outcome, StoreError> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
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
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
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
                return Err(unknown.unwrap_or_else(|| no_answer(&write.key)));
            }
            self.clock.sleep(self.limits.pause).await;
        }
    }

    async fn attempt(&self, write: &QueuedWrite) -> Result<Outcome, StoreError> {
        let call = self
            .store
            .change(&write.key, &write.expect, &write.change, self.incarnation);
        self.clock
            .timeout(self.limits.attempt, call)
            .await
            .unwrap_or_else(|_| Err(no_answer(&write.key)))
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
                // The reading failed definitely, but the write in question stays unknown.
                Err(error) if self.clock.now() >= give_up || error.kind() == StoreErrorKind::Data => {
                    return Err(still_unknown(key, error));
                }
                Err(_) => self.clock.sleep(self.limits.pause).await,
            }
        }
    }

    async fn read(&self, key: &LeaseKey) -> Result<Option<Lease>, StoreError> {
        self.clock
            .timeout(self.limits.attempt, self.store.read(key))
            .await
            .unwrap_or_else(|_| Err(no_answer(key)))
    }
}

/// The last failure is known; the fate of the write before is not.
fn still_unknown(key: &LeaseKey, error: StoreError) -> StoreError {
    let what = format!("cannot find out what became of a write to {key}");
    StoreError::unknown(error.kind(), what).with_source(error)
}

/// The base of the write may be true no more.
fn too_late(key: &LeaseKey, in_doubt: bool) -> StoreError {
    let what = format!("there was no time left to write the lease {key}");
    match in_doubt {
        true => StoreError::unknown(StoreErrorKind::Unavailable, what),
        false => StoreError::definite(StoreErrorKind::Unavailable, what),
    }
}

fn no_answer(key: &LeaseKey) -> StoreError {
    StoreError::unknown(
        StoreErrorKind::Unavailable,
        format!("no answer in time about the lease {key}"),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::lease::store::{Capabilities, Preparation, Scan};
    use crate::lease::worker_row::{
        LeaderLock, LockChange, LockExpect, LockOutcome, WorkerChange, WorkerOutcome,
    };
    use crate::runtime::clock::TokioClock;
    use crate::types::{Position, ShardId, WorkerId};

    const SECOND: Duration = Duration::from_secs(1);

    /// A store that loses every change, and takes a second to say that no row is there.
    #[derive(Debug, Default)]
    struct Lossy {
        changes: AtomicU32,
    }

    #[async_trait]
    impl LeaseStore for Lossy {
        fn capabilities(&self) -> Capabilities {
            Capabilities {
                owner_index: false,
                refusal_shows_row: false,
            }
        }

        async fn prepare(&self, _: &Preparation) -> Result<(), StoreError> {
            unreachable!("a lane prepares nothing")
        }

        async fn scan(&self) -> Result<Scan, StoreError> {
            unreachable!("a lane does not scan")
        }

        async fn read(&self, _: &LeaseKey) -> Result<Option<Lease>, StoreError> {
            TokioClock::new().sleep(SECOND).await;
            Ok(None)
        }

        async fn owned_by(&self, _: &WorkerId) -> Result<Option<Vec<LeaseKey>>, StoreError> {
            unreachable!("a lane does not look for leases")
        }

        async fn change(
            &self,
            _: &LeaseKey,
            _: &Expect,
            _: &LeaseChange,
            _: Incarnation,
        ) -> Result<Outcome, StoreError> {
            self.changes.fetch_add(1, Ordering::SeqCst);
            Err(StoreError::unknown(StoreErrorKind::Unavailable, "lost"))
        }

        async fn change_worker(&self, _: &WorkerChange) -> Result<WorkerOutcome, StoreError> {
            unreachable!("a lane is of leases")
        }

        async fn read_lock(&self) -> Result<Option<LeaderLock>, StoreError> {
            unreachable!("a lane is of leases")
        }

        async fn change_lock(&self, _: &LockExpect, _: &LockChange) -> Result<LockOutcome, StoreError> {
            unreachable!("a lane is of leases")
        }
    }

    /// Creates a lease that should be there after so long, and reports with which certainty it is not, and how often that was tried.
    async fn create_within(time: Duration) -> (Certainty, u32) {
        let (store, clock) = (Arc::new(Lossy::default()), Arc::new(TokioClock::new()));
        let lanes = StoreClient::new(
            Arc::clone(&store) as Arc<dyn LeaseStore>,
            Arc::clone(&clock) as Arc<dyn Clock>,
            TaskScope::new(),
            Incarnation::from_random_bytes([1; 16]),
            WriteLimits::for_failover(60 * SECOND),
            Metrics::register(None, "lane"),
        );
        let lease = Lease::unowned(ShardId::new("child").unwrap(), Position::TrimHorizon);
        let created = lanes.create(lease, clock.now() + time).await;
        (
            created.unwrap_err().certainty(),
            store.changes.load(Ordering::SeqCst),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_create_is_not_sent_again_after_its_deadline() {
        assert_eq!(create_within(Duration::ZERO).await, (Certainty::Definite, 0));
        assert_eq!(create_within(SECOND).await, (Certainty::Unknown, 1));
        assert_eq!(create_within(3 * SECOND).await, (Certainty::Unknown, 2));
    }
}
