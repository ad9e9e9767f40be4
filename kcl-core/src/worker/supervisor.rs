//! Wires a worker together, runs it, and stops it in order.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::coordinator::leadership::serve_fleet;
use crate::error::{Causes, Error, ErrorKind};
use crate::lease::scanner::TableScanner;
use crate::lifecycle::ConsumerEnd;
use crate::limits::byte_budget::ByteBudget;
use crate::ownership::WorkerContext;
use crate::ownership::assignment_hints::AssignmentHints;
use crate::ownership::control::DrainReason;
use crate::runtime::clock::{ClockExt as _, Moment};
use crate::runtime::task_scope::TaskPlace;
use crate::runtime::task_scope::{TaskPolicy, caught};
use crate::settings::Settings;
use crate::status::Phase;
use crate::worker::builder::{StreamSelection, WorkerParts};
use crate::worker::handover::hand_over_all;
use crate::worker::health_watch::watch_health;
use crate::worker::heartbeat::Heartbeat;
use crate::worker::lease_taker::LeaseTaker;
use crate::worker::shutdown::{Remaining, ShutdownReport, ShutdownStep, next_step};
use crate::worker::startup::{Prepared, announce, prepare};
use crate::worker::status_reader::StatusReader;
use crate::worker::stop::{Stop, StopSignal, TASK};
use crate::worker::stream_watcher::follow_streams;

/// The life of a worker, from its first question to its report.
pub(crate) async fn run(
    parts: WorkerParts,
    status: StatusReader,
    stop: &StopSignal,
) -> Result<ShutdownReport, Error> {
    let outcome = async {
        let ground = tokio::select! {
            biased;
            () = stop.asked(Stop::Drain) => return Ok(ShutdownReport::nothing_held()),
            ground = prepare(&parts) => ground?,
        };
        let deadline = ground.deadline;
        let running = RunningWorker::new(parts, ground, status.clone());
        tokio::select! {
            biased;
            () = stop.asked(Stop::Drain) => {
                running.retract(running.worker.timing.hasty_leave).await;
                return Ok(ShutdownReport::nothing_held());
            }
            announced = announce(&running.worker, &running.membership, deadline) => announced?,
        }
        running.spawn_tasks();
        let fatal = Arc::clone(&running.worker.fatal);
        status.worker.update_phase(Phase::Running);
        let why = running.until_stopped(stop).await;
        status.worker.update_phase(Phase::Draining);
        let report = running.shut_down(stop, matches!(why, StopCause::Asked)).await;
        match why {
            // An error policy may have stopped the worker while it was stopping.
            StopCause::Asked => fatal.take().map_or(Ok(report), Err),
            StopCause::Failed(error) => Err(error),
        }
    }
    .await;
    status.worker.update_phase(Phase::Stopped);
    if let Err(error) = &outcome {
        tracing::error!(error = %Causes(error), "the worker stopped");
    }
    outcome
}

/// Why a running worker stops.
enum StopCause {
    Asked,
    Failed(Error),
}

struct RunningWorker {
    worker: Arc<WorkerContext>,
    membership: Arc<Heartbeat>,
    taker: Arc<LeaseTaker>,
    /// Ends the tasks that make this worker a candidate and a leader.
    leaving: CancellationToken,
    /// Fires when the coordinator has left the election.
    election_left: CancellationToken,
    /// Ends what watches to the last.
    ending: CancellationToken,
    subject: StreamSelection,
}

impl RunningWorker {
    fn new(parts: WorkerParts, ground: Prepared, status: StatusReader) -> Self {
        let budget = parts.settings.memory.budget.as_u64();
        let budget = ByteBudget::new(budget, parts.metrics.bytes_held());
        let scanner = Arc::new(TableScanner::new(
            parts.store_client.clone(),
            Arc::clone(&parts.clock),
        ));
        let worker = Arc::new(WorkerContext {
            application: parts.application,
            worker: parts.worker,
            timing: parts.timing,
            settings: parts.settings,
            clock: parts.clock,
            rng: parts.rng,
            streams: ground.streams,
            scanner,
            store_client: parts.store_client,
            scope: parts.scope,
            factory: parts.factory,
            policy: parts.policy,
            dead_letters: parts.dead_letters,
            fatal: Arc::default(),
            metrics: parts.metrics,
            status: status.worker,
            assignment_hints: Arc::new(AssignmentHints::default()),
            budget,
            flow_control: parts.flow_control,
            plan_now: Arc::new(Notify::new()),
            stall_probe: parts.stall_probe,
        });
        let membership = Arc::new(Heartbeat::new(Arc::clone(&worker)));
        let leaving = CancellationToken::new();
        let taker = LeaseTaker::new(
            Arc::clone(&worker),
            Arc::clone(&membership),
            leaving.clone(),
            status.held,
        );
        Self {
            worker,
            membership,
            taker,
            leaving,
            election_left: CancellationToken::new(),
            ending: parts.ending,
            subject: parts.subject,
        }
    }

    /// Takes the worker's row back, which may or may not have been written yet.
    async fn retract(&self, within: Duration) {
        let clock = &self.worker.clock;
        let until = clock.now() + within;
        while let Err(error) = self.membership.leave().await {
            let next = clock.now() + self.worker.timing.leave_retry;
            if next >= until {
                tracing::warn!(error = %Causes(&error), "the worker's row could not be deleted; it goes stale");
                return;
            }
            clock.sleep_until(next).await;
        }
    }

    fn spawn_tasks(&self) {
        let membership = Arc::clone(&self.membership);
        self.spawn_watch("membership", async move { membership.keep_up().await });
        let taker = Arc::clone(&self.taker);
        self.spawn_watch("discovery", async move { taker.discover().await });
        let followed = follow_streams(
            Arc::clone(&self.worker),
            self.subject.clone(),
            Arc::clone(&self.taker),
            Arc::clone(&self.worker.fatal),
        );
        let leaving = self.leaving.clone();
        self.spawn_vital("streams", async move {
            tokio::select! {
                biased;
                () = leaving.cancelled() => {}
                () = followed => {}
            }
        });
        let health = watch_health(
            Arc::clone(&self.worker),
            Arc::clone(&self.taker),
            self.ending.clone(),
        );
        self.spawn_vital("health", health);
        let (worker, leaving) = (Arc::clone(&self.worker), self.leaving.clone());
        let election_left = self.election_left.clone().drop_guard();
        self.spawn_vital("coordinator", async move {
            Box::pin(serve_fleet(worker, leaving)).await;
            drop(election_left);
        });
    }

    /// Spawns a task that the whole worker needs, where it coordinates.
    fn spawn_vital(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let scope = &self.worker.scope;
        scope.spawn_at(TaskPlace::Coordination, name, TaskPolicy::Vital, task);
    }

    /// Spawns a task that ends by itself only when another process has taken the worker's id.
    fn spawn_watch(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (leaving, fatal) = (self.leaving.clone(), Arc::clone(&self.worker.fatal));
        let worker = self.worker.worker.clone();
        let watch = async move {
            tokio::select! {
                biased;
                () = leaving.cancelled() => {}
                () = task => fatal.raise(Error::new(
                    ErrorKind::Superseded,
                    format!("another process runs under the worker id {worker:?} and is newer; give every worker its own id"),
                )),
            }
        };
        self.spawn_vital(name, watch);
    }

    async fn until_stopped(&self, stop: &StopSignal) -> StopCause {
        let worker = &self.worker.worker;
        tokio::select! {
            biased;
            () = stop.asked(Stop::Drain) => StopCause::Asked,
            failure = self.worker.scope.failed() => {
                StopCause::Failed(Error::new(ErrorKind::Internal, format!("the worker {worker} broke and gave its leases up")).with_source(failure))
            }
            error = self.worker.fatal.raised() => StopCause::Failed(error),
        }
    }

    /// Takes the steps of a shutdown in their order.
    ///
    /// `is_asked` when the worker may still act under its id: it then looks for somebody to take its leases over, and gives
    /// back what it was given meanwhile. After a newer process took the id, the leases that name it are that one's.
    async fn shut_down(self, stop: &StopSignal, is_asked: bool) -> ShutdownReport {
        let clock = &self.worker.clock;
        let begun = clock.now();
        self.leaving.cancel();
        let mut report = ShutdownReport::nothing_held();
        let held = self.taker.held();
        let times = ShutdownDeadlines::new(begun, &self.worker.settings);
        let mut remaining = Remaining {
            is_candidate: true,
            consumers: held.len(),
            time_is_up: false,
            aborted: false,
            tasks: true,
        };
        loop {
            match next_step(remaining) {
                ShutdownStep::Leave => {
                    self.leave(stop, is_asked, times).await;
                    remaining.is_candidate = false;
                }
                ShutdownStep::Drain => {
                    self.drain(stop, is_asked, times).await;
                    remaining.time_is_up = true;
                }
                ShutdownStep::Abort => {
                    report.aborted = self.abort(times).await;
                    remaining.aborted = true;
                }
                ShutdownStep::StopRenewing => {
                    self.end_tasks(times).await;
                    remaining.tasks = false;
                }
                ShutdownStep::Done => break,
            }
            remaining.consumers = self.taker.unfinished();
        }
        let expires = held.iter().map(|own| (own.key.clone(), ConsumerEnd::Expires));
        report.leases = expires.collect();
        report.leases.extend(self.taker.take_ends());
        // What is taken up later is given back before anything is delivered.
        for own in held {
            let has_ended = report.leases.get(&own.key) == Some(&ConsumerEnd::ShardEnded);
            let unfinished = own.unfinished();
            if unfinished > 0 && !has_ended {
                report.unfinished.insert(own.key.clone(), unfinished);
            }
        }
        report.took = clock.now().saturating_since(begun);
        let unfinished: u64 = report.unfinished.values().sum();
        tracing::info!(took = ?report.took, clean = report.is_clean(), unfinished, "worker stopped");
        report
    }

    /// Stops being a candidate: nothing is assigned to this worker any more, others may lead, and those that live are asked
    /// to take the leases over.
    async fn leave(&self, stop: &StopSignal, is_asked: bool, times: ShutdownDeadlines) {
        let clock = &self.worker.clock;
        // However urgent it is, the row goes first: what is released while it looks alive is given back to this worker. A row
        // that was not touched for the failover time does not look alive.
        tokio::select! {
            biased;
            () = self.in_a_hurry(stop) => {}
            () = clock.sleep_until(times.left) => {}
            () = self.guarded("retract", self.retract(self.worker.timing.failover)) => {}
        }
        tokio::select! {
            biased;
            () = stop.asked(Stop::Now) => {}
            () = clock.sleep_until(times.left) => {}
            () = self.guarded("pass on", self.pass_on(is_asked, times)) => {}
        }
    }

    /// Returns when one request could have been answered since the worker was to stop at once.
    async fn in_a_hurry(&self, stop: &StopSignal) {
        stop.asked(Stop::Now).await;
        let request = self.worker.timing.hasty_leave;
        self.worker.clock.sleep(request).await;
    }

    /// Leaves the election, and asks those that live to take the leases over.
    async fn pass_on(&self, is_asked: bool, times: ShutdownDeadlines) {
        let limit = self.worker.timing.election_leave;
        let election_left = self.election_left.cancelled();
        if self.worker.clock.timeout(limit, election_left).await.is_err() {
            tracing::warn!("the leader lock could not be given up; it expires");
        }
        if is_asked {
            // What this worker itself assigned as the leader may still be on its way.
            self.worker.store_client.passed().await;
            self.taker.decline().await;
            if !self.taker.held().is_empty() {
                let time_left = times.left.saturating_since(self.worker.clock.now());
                hand_over_all(&self.worker, time_left).await;
            }
        }
    }

    async fn drain(&self, stop: &StopSignal, is_asked: bool, times: ShutdownDeadlines) {
        for own in self.taker.held() {
            own.drain(DrainReason::Shutdown);
        }
        let given_up = async {
            self.taker.empty().await;
            if is_asked {
                // The leader may have planned with a scan from before this worker left.
                self.guarded("decline", self.taker.decline()).await;
                self.taker.empty().await;
            }
        };
        tokio::select! {
            biased;
            () = given_up => {}
            () = stop.asked(Stop::Now) => {}
            () = self.worker.clock.sleep_until(times.drained) => {}
        }
    }

    /// Takes a part of the shutdown that calls user components. Whatever breaks in it, the rest is not given up for that.
    async fn guarded(&self, what: &'static str, part: impl Future<Output = ()> + Send) {
        if let Err(message) = caught(part).await {
            tracing::error!(
                what,
                panic = message,
                "a part of the shutdown panicked; the shutdown goes on"
            );
            self.worker.metrics.task_panicked(TASK);
        }
    }

    /// Drops the callbacks that still run, and lets their consumers give the leases up.
    async fn abort(&self, times: ShutdownDeadlines) -> Vec<crate::types::LeaseKey> {
        let late = self.taker.held();
        for own in &late {
            own.abort();
        }
        let clock = &self.worker.clock;
        let until = times.ended.min(clock.now() + times.grace);
        tokio::select! {
            biased;
            () = self.taker.empty() => {}
            () = clock.sleep_until(until) => tracing::warn!("some leases could not be given up; they expire"),
        }
        late.iter().map(|own| own.key.clone()).collect()
    }

    /// Renews nothing any more, whatever still runs, and lets no task outlive the worker.
    async fn end_tasks(&self, times: ShutdownDeadlines) {
        self.ending.cancel();
        for own in self.taker.held() {
            own.end_consumer();
        }
        let (clock, scope) = (&self.worker.clock, &self.worker.scope);
        let time_left = times.ended.saturating_since(clock.now());
        let ended = clock.timeout(time_left.min(times.grace), scope.wait_until_only(TASK));
        if ended.await.is_err() {
            scope.close_but_for(TASK);
            // A task is dropped when it yields. One that blocks its thread does not, and there is no way to stop it.
            if clock.timeout(YIELD, scope.wait_until_only(TASK)).await.is_err() {
                tracing::error!(tasks = ?scope.running(), "some tasks do not end: do they block their thread?");
            }
        }
    }
}

/// How long a task that is dropped may take to yield.
const YIELD: Duration = Duration::from_millis(100);

/// Until when each step of a shutdown may take. All of them together take no longer than the drain timeout.
#[derive(Debug, Clone, Copy)]
struct ShutdownDeadlines {
    /// The worker is no candidate any more, and its leases are promised to others.
    left: Moment,
    /// The callbacks have returned.
    drained: Moment,
    /// Everything has ended.
    ended: Moment,
    /// How long a consumer may take to give its lease up once its callback is dropped.
    grace: Duration,
}

impl ShutdownDeadlines {
    fn new(begun: Moment, settings: &Settings) -> Self {
        let whole = settings.shutdown.drain_timeout;
        let grace = settings.drain_grace();
        Self {
            left: begun + whole / 2,
            drained: begun + (whole - grace),
            ended: begun + whole,
            grace,
        }
    }
}
