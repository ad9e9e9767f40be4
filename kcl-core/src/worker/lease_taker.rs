//! Takes the leases that name this worker. Being named is not ownership: that begins with the worker's own first renewal.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::consumer::delivery::{ThreadObserver, ToProcessor};
use crate::consumer::shard_consumer::consume;
use crate::error::Causes;
use crate::invariant::Invariant;
use crate::lease::change::{Expect, LeaseChange};
use crate::lease::row::{Lease, OwnerNotes, RowFacts};
use crate::lease::scan_deadline::ScanDeadline;
use crate::lease::store::{Outcome, Scan, StoreError};
use crate::lease::worker_row::WorkerRow;
use crate::lifecycle::ConsumerEnd;
use crate::limits::flow_control::{FlowKey, FlowScope};
use crate::ownership::control::DrainReason;
use crate::ownership::held_leases::HeldLeases;
use crate::ownership::renewer::keep;
use crate::ownership::{Ownership, WorkerContext};
use crate::runtime::backoff::Backoff;
use crate::runtime::clock::{ClockExt as _, Moment};
use crate::runtime::failpoint::failpoint;
use crate::runtime::lock::Locked;
use crate::runtime::log_once::LogOnce;
use crate::runtime::task_scope::TaskPlace;
use crate::runtime::task_scope::TaskPolicy;
use crate::streams::registry::OpenStream;
use crate::types::LeaseKey;
use crate::worker::discovery::{Discovery, RestingRows};
use crate::worker::heartbeat::{Heartbeat, HeartbeatStanding};

/// How often the next owner of a lease looks whether it was handed over.
const HANDOFF_POLL: Duration = Duration::from_millis(100);
const LOOKING_FAILS: &str = "cannot look for leases";
const INDEX_FAILS: &str = "the owner index cannot be asked: until it answers, leases are looked for by scans of the whole table, which cost more. \
                           An index has a capacity of its own: if it is throttled, raise that, or make the table on-demand";
/// How many leases are taken up at once: a worker that takes over a thousand shards must not flood the table.
const AT_ONCE: usize = 32;

/// The leases of this worker, and those it is about to take up.
pub(crate) struct LeaseTaker {
    worker: Arc<WorkerContext>,
    membership: Arc<Heartbeat>,
    leaving: CancellationToken,
    permits: Arc<Semaphore>,
    held: Arc<HeldLeases<Arc<Ownership>>>,
    rests: Locked<RestingRows>,
}

/// How the taking up of a lease ended, if the store answered.
enum TakeOutcome {
    /// The lease is taken up, given back, or not this worker's any more.
    Done,
    /// The row names this worker, and there is nothing to do.
    NothingToDo,
}

impl LeaseTaker {
    pub(crate) fn new(
        worker: Arc<WorkerContext>,
        membership: Arc<Heartbeat>,
        leaving: CancellationToken,
        held: Arc<HeldLeases<Arc<Ownership>>>,
    ) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        Arc::new(Self {
            worker,
            membership,
            leaving,
            permits,
            held,
            rests: Locked::default(),
        })
    }

    /// Looks for leases that name this worker, for as long as it is a candidate. Returns when another process took its id.
    pub(crate) async fn discover(self: &Arc<Self>) {
        let (mut problem, mut index_problem) = (LogOnce::default(), LogOnce::default());
        let mut discovery = Discovery::new(&self.worker.settings, self.worker.rng.child("discovery"));
        let mut limit = ScanDeadline::between(self.worker.timing.patient_scan);
        loop {
            let mut keys = self.worker.assignment_hints.take();
            match self.named(&mut discovery, &mut limit, &mut index_problem).await {
                Ok(found) => {
                    problem.log_end(LOOKING_FAILS);
                    keys.extend(self.rested(found));
                }
                Err(error) => problem.warn(LOOKING_FAILS, Causes(&*error)),
            }
            let new = self.held.filter_unknown(keys);
            if !new.is_empty() {
                // Of two processes with one id the older must not take back what the newer has taken up.
                match self.membership.confirm().await {
                    Ok(HeartbeatStanding::Confirmed) => new.into_iter().for_each(|key| self.take(key)),
                    Ok(HeartbeatStanding::Superseded) => return,
                    // Asked again in the next round.
                    Err(_) => {}
                }
            }
            tokio::select! {
                biased;
                () = self.worker.assignment_hints.arrived() => {}
                () = self.worker.clock.sleep(self.worker.settings.leases.discovery_interval) => {}
            }
        }
    }

    /// As a leaving worker, whose own row is deleted or could not be: gives back what names this worker and was not taken up yet, and what is
    /// being handed to it once it is.
    pub(crate) async fn decline(self: &Arc<Self>) {
        let Some(scan) = self.scan_in_a_hurry().await else {
            return;
        };
        let me = &self.worker.worker;
        let ours = Some(self.worker.store_client.incarnation());
        let is_another = |row: &WorkerRow| row.id == *me && row.incarnation != ours;
        if scan.workers.iter().any(is_another) {
            // A newer process has taken the id, and the leases are meant for that one.
            return;
        }
        let mine = scan
            .leases
            .into_iter()
            .filter(|lease| lease.owner.as_ref() == Some(me));
        let new = self.held.filter_unknown(mine.map(|lease| lease.key).collect());
        new.into_iter().for_each(|key| self.take(key));
    }

    /// Scans, again after a pause while the store refuses, for as long as a worker that leaves can wait for that.
    async fn scan_in_a_hurry(&self) -> Option<Scan> {
        let (clock, timing) = (&self.worker.clock, &self.worker.timing);
        let until = clock.now() + timing.urgent_scan;
        let mut pauses = Backoff::new(timing.urgent_scan_retry, timing.urgent_scan);
        loop {
            let left = until.saturating_since(clock.now());
            let error = match self.worker.store_client.scan(left).await {
                Ok(scan) => return Some(scan),
                Err(error) => error,
            };
            let again = clock.now() + pauses.failed();
            if again >= until {
                tracing::warn!(error = %Causes(&error), "leases given to this worker meanwhile may have to expire");
                return None;
            }
            clock.sleep_until(again).await;
        }
    }

    /// Those of the found leases that are worth a look now.
    fn rested(&self, found: Option<Vec<LeaseKey>>) -> Vec<LeaseKey> {
        let Some(mut found) = found else {
            return Vec::new();
        };
        let now = self.worker.clock.now();
        let mut rests = self.rests();
        rests.keep(&found);
        found.retain(|key| rests.is_over(key, now));
        found
    }

    fn rests(&self) -> MutexGuard<'_, RestingRows> {
        self.rests.lock()
    }

    /// The leases that name this worker, by the index or by a scan; nothing while neither may be asked yet.
    async fn named(
        &self,
        discovery: &mut Discovery,
        limit: &mut ScanDeadline,
        index_problem: &mut LogOnce,
    ) -> Result<Option<Vec<LeaseKey>>, Arc<StoreError>> {
        let (clock, me) = (&self.worker.clock, &self.worker.worker);
        if discovery.may_ask_index(clock.now()) {
            let limit = discovery.index_limit();
            match self.worker.store_client.owned_by(me, limit).await {
                Ok(keys) => {
                    discovery.index_answered();
                    index_problem.log_end("the owner index cannot be asked");
                    if keys.is_some() {
                        return Ok(keys);
                    }
                }
                Err(error) if failpoint!(IndexErrorNotBridged) => return Err(Arc::new(error)),
                Err(error) => {
                    discovery.index_failed(clock.now());
                    index_problem.warn(INDEX_FAILS, Causes(&error));
                }
            }
        }
        if !discovery.may_scan(clock.now()) {
            return Ok(None);
        }
        match self.worker.scanner.fresh(limit).await {
            Ok(scan) => {
                discovery.scanned(clock.now(), scan.pages, scan.workers.len());
                let leases = scan.leases.iter();
                let mine = leases.filter(|lease| lease.owner.as_ref() == Some(me));
                Ok(Some(mine.map(|lease| lease.key.clone()).collect()))
            }
            Err(error) => {
                discovery.scan_failed(clock.now());
                Err(error)
            }
        }
    }

    fn take(self: &Arc<Self>, key: LeaseKey) {
        let taker = Arc::clone(self);
        let Some(expected) = self.held.expect(key) else {
            return;
        };
        let name = format!("grant {}", expected.key());
        let grant = async move {
            let key = expected.key();
            let outcome = taker.try_to_take_up(key).await;
            let (now, mut rests) = (taker.worker.clock.now(), taker.rests());
            match &outcome {
                Ok(TakeOutcome::NothingToDo) => rests.nothing_to_do(key, now),
                Ok(TakeOutcome::Done) => rests.forget(key),
                Err(_) => rests.failed(key, now, &taker.worker.settings),
            }
            drop(rests);
            if let Err(error) = outcome {
                tracing::debug!(lease = %key, error = %Causes(&error), "cannot take the lease up yet");
            }
        };
        let scope = &self.worker.scope;
        scope.spawn_at(TaskPlace::Coordination, name, TaskPolicy::Job, grant);
    }

    async fn try_to_take_up(self: &Arc<Self>, key: &LeaseKey) -> Result<TakeOutcome, StoreError> {
        let me = &self.worker.worker;
        loop {
            let permit = self.permits.acquire().await.ok();
            // Strong: an index or a scan may name a worker that the row names no more.
            let Some(row) = self.worker.store_client.read(key).await? else {
                return Ok(TakeOutcome::Done);
            };
            if row.owner.as_ref() != Some(me) && row.checkpoint_owner.as_ref() != Some(me) {
                return Ok(TakeOutcome::Done);
            }
            if row.actual_owner() == Some(me) || failpoint!(NoHandoffWait) {
                if row.is_ended() && row.owner.is_some() {
                    // Ended leases have no owner with us; one that Java ended keeps its owner and needs no work.
                    return Ok(TakeOutcome::NothingToDo);
                }
                self.renew_first(row).await?;
                return Ok(TakeOutcome::Done);
            }
            drop(permit);
            self.worker.clock.sleep(HANDOFF_POLL).await;
        }
    }

    /// The renewal that begins an ownership. The row it returns says where to start; no user code runs before.
    async fn renew_first(self: &Arc<Self>, row: Lease) -> Result<(), StoreError> {
        if self.leaving.is_cancelled() {
            return self.give_back(&row, "leaving").await;
        }
        let Some(stream) = self.worker.streams.of(&row) else {
            // Whoever assigned it reads the stream, or did: another worker may.
            tracing::warn!(lease = %row.key, "the lease is of a stream that this worker does not read");
            return self.give_back(&row, "stream not read").await;
        };
        let failover = self.worker.timing.failover;
        let change = LeaseChange::Renew {
            notes: OwnerNotes::NONE,
            facts: RowFacts::missing(&row, &stream.identity, failover),
        };
        let sent = self.worker.clock.now();
        let expect = Expect::Version(row.version());
        match self
            .worker
            .store_client
            .change(&row.key, Some(&row), expect, change)
            .await?
        {
            Outcome::Applied(granted) if self.leaving.is_cancelled() => {
                self.give_back(&granted, "leaving").await
            }
            Outcome::Applied(granted) => {
                let rises = Invariant::TokenRises.check(row.counter < granted.counter, || {
                    let (key, from, to) = (&row.key, row.counter, granted.counter);
                    format!("{key} was taken up with the token {to} after {from}")
                });
                self.worker.report(rises);
                self.begin(stream, *granted, sent);
                Ok(())
            }
            Outcome::Refused { .. } => Ok(()),
        }
    }

    /// Releases a lease with which nothing was started.
    async fn give_back(&self, row: &Lease, reason: &str) -> Result<(), StoreError> {
        let expect = Expect::Version(row.version());
        let outcome = self
            .worker
            .store_client
            .change(&row.key, Some(row), expect, LeaseChange::Release)
            .await?;
        if let Outcome::Applied(row) = outcome {
            tracing::info!(lease = %row.key, from = %self.worker.worker, counter = row.counter, reason, "lease given back");
            if self.leaving.is_cancelled() {
                self.held.gave_back(row.key.clone());
            }
        }
        Ok(())
    }

    fn begin(self: &Arc<Self>, stream: Arc<OpenStream>, row: Lease, renewed: Moment) {
        let worker = Arc::clone(&self.worker);
        tracing::info!(lease = %row.key, to = %worker.worker, counter = row.counter, checkpoint = %row.checkpoint, reason = "granted", "lease taken up");
        let key = row.key.clone();
        let own = Ownership::begin(Arc::clone(&worker), &self.held, stream, row, renewed);
        self.held.hold(key.clone(), Arc::clone(&own));
        worker.status.changed();
        if self.leaving.is_cancelled() {
            // Whoever drains what is held may have looked already.
            own.drain(DrainReason::Shutdown);
        }
        self.drain_closed_streams();
        worker.metrics.lease_held();

        let kept = Arc::clone(&own);
        let keeper = async move {
            let keeping = RenewerGuard(kept);
            keep(Arc::clone(&keeping.0)).await;
        };
        let (scope, name) = (&worker.scope, format!("renewer {key}"));
        let spawn_keeper = || scope.spawn_at(TaskPlace::Coordination, name, TaskPolicy::Job, keeper);
        own.span.in_scope(spawn_keeper);

        let taker = Arc::clone(self);
        let watch = ThreadObserver {
            on_thread: Arc::clone(&own.on_thread),
            clock: Arc::clone(&worker.clock),
        };
        let delivery = ToProcessor::new(Arc::clone(&worker.factory), own.context.clone(), watch);
        let span = own.span.clone();
        let consumer = async move {
            // Should the consumer break, the lease expires, and is taken up again if it still names this worker.
            let mut departure = ConsumerGuard {
                taker,
                own: Arc::clone(&own),
                end: ConsumerEnd::Expires,
            };
            departure.end = consume(own, Box::new(delivery)).await;
        };
        let name = format!("consumer {key}");
        span.in_scope(|| scope.spawn_at(TaskPlace::Processing, name, TaskPolicy::Job, consumer));
    }

    fn ended(&self, own: &Ownership, end: ConsumerEnd) {
        own.end_consumer();
        own.context.cancelled().cancel();
        self.worker.metrics.lease_left();
        tracing::info!(parent: &own.span, %end, "consumer ended");
        // They are for as long as the lease is held, and what comes next is another ownership.
        let key = &own.key;
        for flow in [
            FlowKey::Handle(FlowScope::Shard(key.clone())),
            FlowKey::Orders(key.clone()),
        ] {
            self.worker.flow_control.forget(&flow);
        }
        // At last, when everything that shows the lease is as it is to stay: whoever waits for this goes on, and the lease may be taken up again.
        let matters = || self.leaving.is_cancelled();
        self.held.end(&own.key, end, matters);
        self.worker.status.changed();
        self.worker.plan_now.notify_one();
    }

    /// Gives up what belongs to streams that are read no more.
    pub(crate) fn drain_closed_streams(&self) {
        for own in self.held() {
            if !self.worker.streams.reads(&own.row()) {
                own.drain(DrainReason::StreamClosed);
            }
        }
    }

    /// The leases that the worker holds now.
    pub(crate) fn held(&self) -> Vec<Arc<Ownership>> {
        self.held.held()
    }

    /// Returns `true` if the worker holds the lease now.
    pub(crate) fn holds(&self, key: &LeaseKey) -> bool {
        self.held.holds(key)
    }

    /// How many leases the worker holds or is about to take up or give back.
    pub(crate) fn unfinished(&self) -> usize {
        self.held.unfinished()
    }

    /// How what the worker had when it began to leave has ended.
    pub(crate) fn take_ends(&self) -> BTreeMap<LeaseKey, ConsumerEnd> {
        self.held.take_ends()
    }

    /// Returns once the worker holds no lease and takes none up.
    pub(crate) async fn empty(&self) {
        self.held.empty().await;
    }
}

/// The end of a consumer, however it comes about.
struct ConsumerGuard {
    taker: Arc<LeaseTaker>,
    own: Arc<Ownership>,
    end: ConsumerEnd,
}

impl Drop for ConsumerGuard {
    fn drop(&mut self) {
        if !self.taker.worker.scope.is_killed() {
            self.taker.ended(&self.own, self.end);
        }
    }
}

/// The end of a renewer, however it comes about: an ownership that nobody renews must end.
struct RenewerGuard(Arc<Ownership>);

impl Drop for RenewerGuard {
    fn drop(&mut self) {
        self.0.lose();
    }
}
