//! Wires a worker together, runs it, and stops it in order.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::consumer::{DrainReason, Invitations, Services};
use crate::error::{Causes, Error, ErrorKind};
use crate::lease::{LaneLimits, Lanes};
use crate::lifecycle::ConsumerEnd;
use crate::model::Incarnation;
use crate::status::{Phase, StatusBoard};
use crate::task::TaskPolicy;
use crate::time::{ClockExt as _, Moment};
use crate::worker::builder::Parts;
use crate::worker::departure::hand_over_all;
use crate::worker::grants::Grants;
use crate::worker::handle::{Stop, StopSignal};
use crate::worker::leadership::serve_fleet;
use crate::worker::membership::Membership;
use crate::worker::shutdown::{Remaining, ShutdownReport, ShutdownStep, next_step};
use crate::worker::start::{Ground, prepare};

/// The life of a worker, from its first question to its report.
pub(crate) async fn run(
    parts: Parts,
    board: StatusBoard,
    stop: &StopSignal,
) -> Result<ShutdownReport, Error> {
    let span = tracing::info_span!("worker", worker = %parts.worker, application = %parts.application);
    let outcome = async {
        let ground = tokio::select! {
            biased;
            () = stop.asked(Stop::Drain) => return Ok(ShutdownReport::nothing_held()),
            ground = prepare(&parts) => ground?,
        };
        let running = Running::start(parts, ground, board.clone()).await?;
        board.update(|status| status.phase = Phase::Running);
        let why = running.until_stopped(stop).await;
        board.update(|status| status.phase = Phase::Draining);
        let report = running.shut_down(stop).await;
        match why {
            Why::Asked => Ok(report),
            Why::Failed(error) => Err(error),
        }
    }
    .instrument(span)
    .await;
    board.update(|status| status.phase = Phase::Stopped);
    if let Err(error) = &outcome {
        tracing::error!(error = %Causes(error), "the worker stopped");
    }
    outcome
}

/// Why a running worker stops.
enum Why {
    Asked,
    Failed(Error),
}

struct Running {
    services: Arc<Services>,
    membership: Arc<Membership>,
    grants: Arc<Grants>,
    /// Ends the tasks that make this worker a candidate and a leader.
    leaving: CancellationToken,
    /// Fires when the coordinator has given up its office.
    office_left: CancellationToken,
    superseded: CancellationToken,
}

impl Running {
    async fn start(parts: Parts, ground: Ground, board: StatusBoard) -> Result<Self, Error> {
        let incarnation = Incarnation::from_random_bytes(parts.rng.child("incarnation").bytes());
        let lanes = Lanes::new(
            Arc::clone(&parts.store),
            Arc::clone(&parts.clock),
            parts.scope.clone(),
            incarnation,
            LaneLimits::for_failover(parts.settings.failover_time),
            parts.metrics.clone(),
        );
        let services = Arc::new(Services {
            application: parts.application,
            worker: parts.worker,
            settings: parts.settings,
            clock: parts.clock,
            rng: parts.rng,
            source: parts.source,
            identity: ground.identity,
            store: parts.store,
            lanes,
            scope: parts.scope,
            factory: parts.factory,
            policy: parts.policy,
            metrics: parts.metrics,
            board,
            invitations: Arc::new(Invitations::default()),
            plan_now: Arc::new(Notify::new()),
        });
        let membership = Arc::new(Membership::new(Arc::clone(&services)));
        announce(&services, &membership).await?;
        let leaving = CancellationToken::new();
        let superseded = CancellationToken::new();
        let grants = Grants::new(Arc::clone(&services), Arc::clone(&membership), leaving.clone());
        let running = Self {
            services,
            membership,
            grants,
            leaving,
            office_left: CancellationToken::new(),
            superseded,
        };
        running.spawn_tasks();
        Ok(running)
    }

    fn spawn_tasks(&self) {
        let membership = Arc::clone(&self.membership);
        self.spawn_watch("membership", async move { membership.keep_up().await });
        let grants = Arc::clone(&self.grants);
        self.spawn_watch("discovery", async move { grants.discover().await });
        let (services, leaving) = (Arc::clone(&self.services), self.leaving.clone());
        let office_left = self.office_left.clone().drop_guard();
        self.services
            .scope
            .spawn("coordinator", TaskPolicy::Vital, async move {
                serve_fleet(services, leaving).await;
                drop(office_left);
            });
    }

    /// Spawns a task that ends by itself only when another process has taken the worker's id.
    fn spawn_watch(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (leaving, superseded) = (self.leaving.clone(), self.superseded.clone());
        let watch = async move {
            tokio::select! {
                biased;
                () = leaving.cancelled() => {}
                () = task => superseded.cancel(),
            }
        };
        self.services.scope.spawn(name, TaskPolicy::Vital, watch);
    }

    async fn until_stopped(&self, stop: &StopSignal) -> Why {
        let worker = &self.services.worker;
        tokio::select! {
            biased;
            () = stop.asked(Stop::Drain) => Why::Asked,
            failure = self.services.scope.failed() => {
                Why::Failed(Error::new(ErrorKind::Internal, format!("the worker {worker} broke and gave its leases up")).with_source(failure))
            }
            () = self.superseded.cancelled() => Why::Failed(Error::new(
                ErrorKind::Superseded,
                format!("another process runs under the worker id {worker:?} and is newer; give every worker its own id"),
            )),
        }
    }

    /// Takes the steps of a shutdown in their order.
    async fn shut_down(self, stop: &StopSignal) -> ShutdownReport {
        let clock = &self.services.clock;
        let begun = clock.now();
        let deadline = begun + self.services.settings.drain_timeout;
        let mut report = ShutdownReport::nothing_held();
        self.grants.take_ends();
        let held: Vec<_> = self.grants.held().iter().map(|own| own.key.clone()).collect();
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
                    self.leave(stop).await;
                    remaining.is_candidate = false;
                }
                ShutdownStep::Drain => {
                    self.drain(stop, deadline).await;
                    remaining.time_is_up = true;
                }
                ShutdownStep::Abort => {
                    report.aborted = self.abort().await;
                    remaining.aborted = true;
                }
                ShutdownStep::StopRenewing => {
                    remaining.tasks = false;
                }
                ShutdownStep::Done => break,
            }
            remaining.consumers = self.grants.held().len();
        }
        report.leases = held.into_iter().map(|key| (key, ConsumerEnd::Expires)).collect();
        report.leases.extend(self.grants.take_ends());
        report.took = clock.now().saturating_since(begun);
        tracing::info!(took = ?report.took, clean = report.is_clean(), "worker stopped");
        report
    }

    /// Stops being a candidate: nothing is assigned to this worker any more, others may lead, and those that live are asked
    /// to take the leases over.
    async fn leave(&self, stop: &StopSignal) {
        self.leaving.cancel();
        let limit = self.services.settings.failover_time / 3;
        let office_left = self.office_left.cancelled();
        if self.services.clock.timeout(limit, office_left).await.is_err() {
            tracing::warn!("the leader lock could not be given up; it expires");
        }
        if let Err(error) = self.membership.leave().await {
            tracing::warn!(error = %Causes(&error), "the worker's row could not be deleted; it goes stale");
        }
        if !self.grants.held().is_empty() && stop.is_only(Stop::Drain) {
            tokio::select! {
                biased;
                () = stop.asked(Stop::Now) => {}
                () = hand_over_all(&self.services, self.services.settings.drain_timeout / 4) => {}
            }
        }
    }

    async fn drain(&self, stop: &StopSignal, deadline: Moment) {
        for own in self.grants.held() {
            own.control.drain(DrainReason::Shutdown);
        }
        tokio::select! {
            biased;
            () = self.grants.empty() => {}
            () = stop.asked(Stop::Now) => {}
            () = self.services.clock.sleep_until(deadline) => {}
        }
    }

    /// Drops the callbacks that still run, and lets their consumers give the leases up.
    async fn abort(&self) -> Vec<crate::model::LeaseKey> {
        let late = self.grants.held();
        for own in &late {
            own.control.abort();
        }
        let grace = self.services.settings.failover_time / 3;
        if self
            .services
            .clock
            .timeout(grace, self.grants.empty())
            .await
            .is_err()
        {
            tracing::warn!("some leases could not be given up; they expire");
        }
        late.iter().map(|own| own.key.clone()).collect()
    }
}

/// Writes the worker's row for the first time; the start fails if that cannot be done in time.
async fn announce(services: &Services, membership: &Membership) -> Result<(), Error> {
    let deadline = services.clock.now() + services.settings.start_timeout;
    loop {
        match membership.announce().await {
            Ok(()) => return Ok(()),
            Err(error) if services.clock.now() >= deadline => {
                let message = format!("cannot write the worker's row: {}", Causes(&error));
                return Err(Error::new(ErrorKind::Unavailable, message).with_source(error));
            }
            Err(_) => services.clock.sleep(services.settings.failover_time / 20).await,
        }
    }
}
