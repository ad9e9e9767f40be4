use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::error::{Error, ErrorKind};
use crate::flow::{Brakes, Flow};
use crate::monitor::Monitor;
use crate::status::{Patience, Phase, StatusBoard, WorkerStatus};
use crate::task::{TaskPolicy, TaskScope, caught};
use crate::worker::builder::Worker;
use crate::worker::run::run;
use crate::worker::shutdown::ShutdownReport;

/// A running worker: watch it, stop it, wait for its end.
///
/// Dropping the handle does not stop the worker.
pub struct WorkerHandle {
    board: StatusBoard,
    stop: Arc<StopSignal>,
    brakes: Arc<Brakes>,
    ended: oneshot::Receiver<Result<ShutdownReport, Error>>,
}

/// Reads what a worker is doing, for an endpoint of a server or a task of its own. Clones read the same worker.
///
/// It neither stops the worker nor keeps it running, and goes on showing the last status after the worker has stopped.
#[derive(Debug, Clone)]
pub struct StatusReader {
    board: StatusBoard,
}

impl StatusReader {
    /// What the worker is doing now.
    pub fn status(&self) -> WorkerStatus {
        self.board.read()
    }

    /// As [`WorkerHandle::wait_for`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn wait_for(&self, mut predicate: impl FnMut(&WorkerStatus) -> bool) -> WorkerStatus {
        let mut receiver = self.board.subscribe();
        // The sender lives as long as this reader, so the channel cannot close here.
        let found = receiver
            .wait_for(|status| predicate(status))
            .await
            .map(|status| status.clone());
        found.unwrap_or_else(|_| self.status())
    }
}

/// The name of the task that outlives all others of its worker.
pub(crate) const TASK: &str = "worker";

/// Stops a worker. Clones stop the same one.
#[derive(Debug, Clone)]
pub struct Stopper {
    stop: Arc<StopSignal>,
}

impl Stopper {
    /// Asks the worker to let its callbacks return, checkpoint, and give its leases up.
    pub fn drain(&self) {
        self.stop.ask(Stop::Drain);
    }

    /// Asks the worker to drop what runs and give its leases up at once.
    pub fn stop_now(&self) {
        self.stop.ask(Stop::Now);
    }
}

/// How urgently a worker is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// Not at all.
    Never,
    /// After its callbacks have returned.
    Drain,
    /// At once.
    Now,
}

/// Tells a worker to stop. A wish to stop at once outranks one to drain.
#[derive(Debug)]
pub(crate) struct StopSignal(Monitor<Stop>);

impl StopSignal {
    pub(crate) fn new() -> Self {
        Self(Monitor::new(Stop::Never))
    }

    fn ask(&self, stop: Stop) {
        self.0.change(|wish| *wish = (*wish).max(stop));
    }

    /// Returns once the worker is to stop this urgently, or more so.
    pub(crate) async fn asked(&self, at_least: Stop) {
        self.0.wait_for(|wish| (*wish >= at_least).then_some(())).await;
    }
}

/// The life of the task that leads all others of its worker. However it ends, somebody is told, and nothing goes on without it: a lease
/// that is renewed by a worker which nobody can stop is the worst of both worlds.
struct Life {
    scope: TaskScope,
    board: StatusBoard,
    report: Option<oneshot::Sender<Result<ShutdownReport, Error>>>,
}

impl Life {
    fn end(&mut self, outcome: Result<ShutdownReport, Error>) {
        if let Some(report) = self.report.take() {
            // Nobody may be waiting for the report any more.
            let _ = report.send(outcome);
        }
    }

    /// Drops every other task: the leases expire, and others take them over.
    fn break_off(&mut self, why: &str) {
        self.scope.close_but_for(TASK);
        self.board.update(|status| status.phase = Phase::Stopped);
        let message = format!("the worker broke, and its leases expire: {why}");
        self.end(Err(Error::new(ErrorKind::Internal, message)));
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if self.report.is_some() && !self.scope.is_killed() {
            self.break_off("its first task was dropped");
        }
    }
}

impl Worker {
    /// Starts the worker on the current tokio runtime.
    ///
    /// The handle is there at once; whether the worker could start shows in [`WorkerHandle::stopped`] and its status.
    pub fn start(self) -> WorkerHandle {
        let (report, ended) = oneshot::channel();
        let clock = Arc::clone(&self.parts.clock);
        let patience = Patience::of(&self.parts.settings);
        let board = StatusBoard::new(self.parts.worker.clone(), clock, patience);
        let stop = Arc::new(StopSignal::new());
        let handle = WorkerHandle {
            board: board.clone(),
            stop: Arc::clone(&stop),
            brakes: Arc::clone(&self.parts.brakes),
            ended,
        };
        let (scope, metrics) = (self.parts.scope.clone(), self.parts.metrics.clone());
        let counted = metrics.clone();
        scope.on_panic(move |task| counted.task_panicked(task));
        let mut life = Life {
            scope: scope.clone(),
            board: board.clone(),
            report: Some(report),
        };
        scope.spawn(TASK, TaskPolicy::Job, async move {
            match Box::pin(caught(run(self.parts, board, &stop))).await {
                Ok(outcome) => life.end(outcome),
                Err(message) => {
                    metrics.task_panicked(TASK);
                    tracing::error!(message, "the worker panicked");
                    life.break_off(&message);
                }
            }
        });
        handle
    }

    /// Runs the worker until `shutdown` is ready, then drains it.
    ///
    /// # Errors
    ///
    /// Why the worker could not start, or had to stop; see [`ErrorKind`] for what to do.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the worker running without anybody to stop it. Use [`start`](Self::start) to keep a handle.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<ShutdownReport, Error> {
        let handle = self.start();
        let stop = Arc::clone(&handle.stop);
        let mut stopped = std::pin::pin!(handle.stopped());
        tokio::select! {
            biased;
            outcome = &mut stopped => return outcome,
            () = shutdown => stop.ask(Stop::Drain),
        }
        stopped.await
    }

    /// Runs the worker until the process receives SIGTERM or SIGINT, then drains it. A second signal stops it at once.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run); also when the signals cannot be listened to.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    #[cfg(feature = "signal")]
    pub async fn run_until_signal(self) -> Result<ShutdownReport, Error> {
        let signals = crate::worker::signal::Signals::listen()?;
        self.start().stopped_by(signals).await
    }
}

impl WorkerHandle {
    /// Waits until the process receives SIGTERM or SIGINT, then drains the worker; a second signal stops it at once. Returns once the worker
    /// has stopped, for whatever reason.
    ///
    /// This is [`Worker::run_until_signal`] for a worker that is started first, to take a [`status_reader`](Self::status_reader), a
    /// [`flow`](Self::flow) or a [`stopper`](Self::stopper) from its handle.
    ///
    /// ```no_run
    /// # async fn example(worker: kcl_core::worker::Worker) -> Result<(), kcl_core::error::Error> {
    /// let handle = worker.start();
    /// let health = handle.status_reader(); // for an endpoint
    /// handle.run_until_signal().await?;
    /// # drop(health);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`stopped`](Self::stopped); also when the signals cannot be listened to: the worker is drained then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the worker.
    #[cfg(feature = "signal")]
    pub async fn run_until_signal(self) -> Result<ShutdownReport, Error> {
        match crate::worker::signal::Signals::listen() {
            Ok(signals) => self.stopped_by(signals).await,
            Err(error) => {
                self.drain();
                self.stopped().await.and(Err(error))
            }
        }
    }

    #[cfg(feature = "signal")]
    async fn stopped_by(self, mut signals: crate::worker::signal::Signals) -> Result<ShutdownReport, Error> {
        let stop = Arc::clone(&self.stop);
        let mut stopped = std::pin::pin!(self.stopped());
        for wish in [Stop::Drain, Stop::Now] {
            tokio::select! {
                biased;
                outcome = &mut stopped => return outcome,
                name = signals.next() => {
                    tracing::info!(signal = name, at_once = wish == Stop::Now, "stopping");
                    stop.ask(wish);
                }
            }
        }
        stopped.await
    }
}

impl WorkerHandle {
    /// What the worker is doing now.
    pub fn status(&self) -> WorkerStatus {
        self.board.read()
    }

    /// Returns the first status for which the predicate holds, the present one included. It is asked again when something happens, or
    /// becomes a [concern](crate::status::Concern); that an age has grown is no event.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn wait_for(&self, predicate: impl FnMut(&WorkerStatus) -> bool) -> WorkerStatus {
        self.status_reader().wait_for(predicate).await
    }

    /// Reads the status from elsewhere, while the handle waits for the worker's end.
    pub fn status_reader(&self) -> StatusReader {
        StatusReader {
            board: self.board.clone(),
        }
    }

    /// Asks the worker to let its callbacks return, checkpoint, and give its leases up.
    pub fn drain(&self) {
        self.stop.ask(Stop::Drain);
    }

    /// Asks the worker to drop what runs and give its leases up at once.
    pub fn stop_now(&self) {
        self.stop.ask(Stop::Now);
    }

    /// Stops the worker from elsewhere, while somebody waits for its end with the handle.
    pub fn stopper(&self) -> Stopper {
        Stopper {
            stop: Arc::clone(&self.stop),
        }
    }

    /// Pauses and limits what the worker reads.
    pub fn flow(&self) -> Flow {
        Flow::new(Arc::clone(&self.brakes))
    }

    /// Returns once the worker has stopped.
    ///
    /// # Errors
    ///
    /// Why the worker could not start, or had to stop although nobody asked; see [`ErrorKind`] for what to do.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the worker.
    pub async fn stopped(self) -> Result<ShutdownReport, Error> {
        self.ended.await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Internal,
                "the worker vanished: its task scope was killed, or its runtime has ended",
            ))
        })
    }
}

impl fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerHandle")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
