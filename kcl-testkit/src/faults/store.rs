use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kcl_core::clock::{BoxFuture, Clock, ClockExt as _};
use kcl_core::internals::{TaskPolicy, TaskScope};
use kcl_core::lease_store::{
    Capabilities, Expect, LeaderLock, Lease, LeaseChange, LeaseStore, LockChange, LockExpect, LockOutcome,
    Outcome, Preparation, Scan, StoreError, StoreErrorKind, WorkerChange, WorkerOutcome,
};
use kcl_core::types::{Incarnation, LeaseKey, WorkerId};
use tokio::sync::oneshot;

use super::plan::Verdict;
use super::{Happened, Link, StoreCall, StoreEvent, StoreFaults};

/// The deadline of a call when nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(5);

type Recorder = Arc<dyn Fn(&StoreEvent) + Send + Sync>;

/// One client's connection to a lease store, with faults.
///
/// The wrapper adds to the contract of the store it wraps what a network takes away: calls fail, are late, or are done without an answer.
/// Every call ends within its deadline, 5 seconds unless [`with_timeout`](Self::with_timeout) says otherwise.
pub struct FaultyLeaseStore {
    inner: Arc<dyn LeaseStore>,
    clock: Arc<dyn Clock>,
    faults: StoreFaults,
    server: Option<TaskScope>,
    timeout: Duration,
    recorder: Option<Recorder>,
}

impl FaultyLeaseStore {
    /// A connection on which nothing goes wrong yet.
    pub fn new(inner: Arc<dyn LeaseStore>, clock: Arc<dyn Clock>) -> Self {
        Self {
            inner,
            clock,
            faults: StoreFaults::new(),
            server: None,
            timeout: TIMEOUT,
            recorder: None,
        }
    }

    /// The same with a plan made elsewhere, for instance one shared by all clients.
    #[must_use]
    pub fn with_faults(mut self, faults: StoreFaults) -> Self {
        self.faults = faults;
        self
    }

    /// The same with calls done in tasks of this scope, as a server does them: a caller that is dropped, frozen or killed does not undo or stop
    /// what it has sent. Without it a dropped call is dropped wherever it stands.
    #[must_use]
    pub fn on_server(mut self, server: TaskScope) -> Self {
        self.server = Some(server);
        self
    }

    /// The same with this deadline for each call, after which its outcome is unknown.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same with a listener that observes every call, at the moment it is done and before its caller knows.
    /// It must be quick and must not call the store.
    #[must_use]
    pub fn with_recorder(mut self, recorder: impl Fn(&StoreEvent) + Send + Sync + 'static) -> Self {
        self.recorder = Some(Arc::new(recorder));
        self
    }

    /// The faults on this connection.
    pub fn faults(&self) -> StoreFaults {
        self.faults.clone()
    }

    async fn call<T: Send + 'static>(
        &self,
        call: StoreCall,
        judge: fn(&T) -> Happened,
        run: impl FnOnce(Arc<dyn LeaseStore>) -> BoxFuture<'static, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let verdict = self.faults.begin(call.operation(), self.clock.now());
        assert!(!verdict.panics, "{:?} was made to panic", call.operation());
        let reply_lost = verdict.lose_reply || verdict.link == Link::RepliesLost;
        let record = self.record(call, reply_lost);
        if let Some(error) = self.keep_back(verdict).await {
            record(Happened::Nothing);
            return Err(error);
        }
        let (clock, work) = (Arc::clone(&self.clock), run(Arc::clone(&self.inner)));
        let work = async move {
            if !verdict.delay_request.is_zero() {
                clock.sleep(verdict.delay_request).await;
            }
            let result = work.await;
            record(match &result {
                Ok(answer) => judge(answer),
                Err(error) => Happened::Failed {
                    kind: error.kind(),
                    certainty: error.certainty(),
                },
            });
            if !verdict.delay_reply.is_zero() {
                clock.sleep(verdict.delay_reply).await;
            }
            result
        };
        let reply = async {
            let result = self.serve(work).await;
            if verdict.link == Link::RepliesLost {
                std::future::pending::<()>().await;
            }
            result
        };
        let answer = self.clock.timeout(self.timeout, reply).await;
        match answer {
            Ok(_) if verdict.lose_reply => Err(unknown("the connection broke before the answer")),
            Ok(result) => result,
            Err(elapsed) => Err(unknown("the storage did not answer").with_source(elapsed)),
        }
    }

    /// The error of a call that does not reach the storage.
    async fn keep_back(&self, verdict: Verdict) -> Option<StoreError> {
        match (verdict.link, verdict.fail) {
            (Link::RequestsLost, _) => {
                self.clock.sleep(self.timeout).await;
                Some(unknown("the storage did not answer"))
            }
            (Link::Refusing, _) => {
                let kind = StoreErrorKind::Unavailable;
                Some(StoreError::definite(kind, "the storage refuses connections"))
            }
            (Link::Up | Link::RepliesLost, Some(kind)) => {
                Some(StoreError::definite(kind, "an injected fault"))
            }
            (Link::Up | Link::RepliesLost, None) => None,
        }
    }

    /// Does the work where it belongs: in a task of the server, or here.
    async fn serve<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let Some(server) = &self.server else {
            return work.await;
        };
        let (reply, answer) = oneshot::channel();
        server.spawn("lease store call", TaskPolicy::Job, async move {
            // The caller may be gone: the call is done nevertheless.
            let _ = reply.send(work.await);
        });
        answer
            .await
            .unwrap_or_else(|_| Err(unknown("the server died before the answer")))
    }

    fn record(&self, call: StoreCall, reply_lost: bool) -> impl FnOnce(Happened) + Send + use<> {
        let (clock, recorder) = (Arc::clone(&self.clock), self.recorder.clone());
        move |happened| {
            if let Some(recorder) = recorder {
                let at = clock.now();
                recorder(&StoreEvent {
                    at,
                    call,
                    happened,
                    reply_lost,
                });
            }
        }
    }
}

impl fmt::Debug for FaultyLeaseStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyLeaseStore")
            .field("inner", &self.inner)
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

fn unknown(message: &str) -> StoreError {
    StoreError::unknown(StoreErrorKind::Unavailable, message)
}

fn answered<T>(_: &T) -> Happened {
    Happened::Answered
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl LeaseStore for FaultyLeaseStore {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn prepare(&self, preparation: &Preparation) -> Result<(), StoreError> {
        let preparation = preparation.clone();
        self.call(StoreCall::Prepare, answered, |inner| {
            Box::pin(async move { inner.prepare(&preparation).await })
        })
        .await
    }

    async fn scan(&self) -> Result<Scan, StoreError> {
        let scan = self.call(StoreCall::Scan, answered, |inner| {
            Box::pin(async move { inner.scan().await })
        });
        Ok(self.faults.seen_scan(scan.await?))
    }

    async fn read(&self, key: &LeaseKey) -> Result<Option<Lease>, StoreError> {
        let key = key.clone();
        self.call(StoreCall::Read(key.clone()), answered, |inner| {
            Box::pin(async move { inner.read(&key).await })
        })
        .await
    }

    async fn owned_by(&self, worker: &WorkerId) -> Result<Option<Vec<LeaseKey>>, StoreError> {
        let asked = worker.clone();
        let owned = self.call(StoreCall::OwnedBy(worker.clone()), answered, |inner| {
            Box::pin(async move { inner.owned_by(&asked).await })
        });
        Ok(self.faults.seen_owned(worker, owned.await?))
    }

    async fn change(
        &self,
        key: &LeaseKey,
        expect: &Expect,
        change: &LeaseChange,
        incarnation: Incarnation,
    ) -> Result<Outcome, StoreError> {
        let (key, expect, change) = (key.clone(), expect.clone(), change.clone());
        let call = StoreCall::Change {
            key: key.clone(),
            expect: expect.clone(),
            change: change.clone(),
            incarnation,
        };
        let judge = |outcome: &Outcome| match outcome {
            Outcome::Applied(row) => Happened::Applied(Some(row.clone())),
            Outcome::Refused { .. } => Happened::Refused,
        };
        self.call(call, judge, |inner| {
            Box::pin(async move { inner.change(&key, &expect, &change, incarnation).await })
        })
        .await
    }

    async fn change_worker(&self, change: &WorkerChange) -> Result<WorkerOutcome, StoreError> {
        let change = change.clone();
        let judge = |outcome: &WorkerOutcome| match outcome {
            WorkerOutcome::Applied => Happened::Applied(None),
            WorkerOutcome::Refused => Happened::Refused,
        };
        self.call(StoreCall::ChangeWorker(change.clone()), judge, |inner| {
            Box::pin(async move { inner.change_worker(&change).await })
        })
        .await
    }

    async fn read_lock(&self) -> Result<Option<LeaderLock>, StoreError> {
        self.call(StoreCall::ReadLock, answered, |inner| {
            Box::pin(async move { inner.read_lock().await })
        })
        .await
    }

    async fn change_lock(&self, expect: &LockExpect, change: &LockChange) -> Result<LockOutcome, StoreError> {
        let (expect, change) = (expect.clone(), change.clone());
        let call = StoreCall::ChangeLock {
            expect: expect.clone(),
            change: change.clone(),
        };
        let judge = |outcome: &LockOutcome| match outcome {
            LockOutcome::Applied => Happened::Applied(None),
            LockOutcome::Refused => Happened::Refused,
        };
        self.call(call, judge, |inner| {
            Box::pin(async move { inner.change_lock(&expect, &change).await })
        })
        .await
    }
}
