use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::error::{Error, ErrorKind};
use crate::limits::flow_control::{FlowControl, FlowHandle};
use crate::runtime::task_scope::{OwnThread, TaskPlace};
use crate::runtime::task_scope::{TaskPolicy, TaskScope, caught};
use crate::status::{Phase, WorkerState, WorkerStatus};
use crate::worker::builder::{Coordination, Worker, WorkerParts};
use crate::worker::shutdown::ShutdownReport;
use crate::worker::stall_watch::RuntimeSentinel;
use crate::worker::status_reader::StatusReader;
use crate::worker::stop::{Stop, StopSignal, TASK};
use crate::worker::supervisor::run;

/// A running worker: watch it, stop it, wait for its end.
///
/// Dropping the handle does not stop the worker.
pub struct WorkerHandle {
    status: StatusReader,
    stop: Arc<StopSignal>,
    flow_control: Arc<FlowControl>,
    ended: oneshot::Receiver<Result<ShutdownReport, Error>>,
}

/// Stops a worker from elsewhere. Clones stop the same one.
#[derive(Debug, Clone)]
pub struct ShutdownHandle {
    stop: Arc<StopSignal>,
}

impl ShutdownHandle {
    /// Asks the worker to let its callbacks return, checkpoint, and give its leases up.
    pub fn shutdown(&self) {
        self.stop.ask(Stop::Drain);
    }

    /// Asks the worker to drop what runs and give its leases up at once.
    pub fn abort(&self) {
        self.stop.ask(Stop::Now);
    }
}

/// Aborts the worker when it is dropped, unless the worker has ended by then.
struct AbortOnDrop(Arc<StopSignal>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.ask(Stop::Now);
    }
}

/// The life of the task that leads all others of its worker. However it ends, its waiters learn, and nothing goes on without it: a lease
/// that is renewed by a worker which nobody can stop is the worst of both worlds.
struct WorkerLife {
    scope: TaskScope,
    status: Arc<WorkerState>,
    report: Option<oneshot::Sender<Result<ShutdownReport, Error>>>,
}

impl WorkerLife {
    fn end(&mut self, outcome: Result<ShutdownReport, Error>) {
        if let Some(report) = self.report.take() {
            // Nobody may be waiting for the report any more.
            let _ = report.send(outcome);
        }
    }

    /// Drops every other task: the leases expire, and others take them over.
    fn break_off(&mut self, why: &str) {
        self.scope.close_but_for(TASK);
        self.status.update_phase(Phase::Stopped);
        let message = format!("the worker broke, and its leases expire: {why}");
        self.end(Err(Error::new(ErrorKind::Internal, message)));
    }
}

impl Drop for WorkerLife {
    fn drop(&mut self) {
        if self.report.is_some() && !self.scope.is_killed() {
            let why = self.scope.abandoned();
            self.break_off(why.as_deref().unwrap_or("its first task was dropped"));
        }
    }
}

impl Worker {
    /// Starts the worker on the current tokio runtime, which its processors run on, and on a thread of its own, on which it
    /// [coordinates](crate::worker::builder::Coordination).
    ///
    /// The handle is there at once; whether the worker could start shows in [`WorkerHandle::join`] and its status. A runtime that
    /// ends takes the worker along: its leases expire.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn start(self) -> WorkerHandle {
        let (report, ended) = oneshot::channel();
        let clock = Arc::clone(&self.parts.clock);
        let status = StatusReader::new(WorkerState::new(self.parts.worker.clone(), clock));
        let stop = Arc::new(StopSignal::new());
        let handle = WorkerHandle {
            status: status.clone(),
            stop: Arc::clone(&stop),
            flow_control: Arc::clone(&self.parts.flow_control),
            ended,
        };
        let (scope, metrics) = (self.parts.scope.clone(), self.parts.metrics.clone());
        let counted = metrics.clone();
        scope.on_panic(move |task| counted.task_panicked(task));
        let mut life = WorkerLife {
            scope: scope.clone(),
            status: Arc::clone(&status.worker),
            report: Some(report),
        };
        // Of the highest level, so that its fields are there whatever level is logged.
        let span = tracing::error_span!("worker", worker = %self.parts.worker, application = %self.parts.application);
        let thread = match own_thread(&self.parts) {
            Ok(thread) => thread,
            Err(error) => {
                life.end(Err(no_thread(error)));
                return handle;
            }
        };
        let ends = self.parts.ending.clone().drop_guard();
        if let Some(thread) = &thread {
            scope.coordinate_on(thread);
            let sentinel = RuntimeSentinel {
                scope: scope.clone(),
                clock: Arc::clone(&self.parts.clock),
                stall_probe: Arc::clone(&self.parts.stall_probe),
                ending: self.parts.ending.clone(),
            };
            let watch = sentinel.watch();
            span.in_scope(|| scope.spawn_at(TaskPlace::Processing, "pulse", TaskPolicy::Vital, watch));
        }
        // Names of threads end at a NUL.
        let name = format!("kcl {}", self.parts.worker).replace('\0', "");
        // However the first task ends, it drops this.
        let (lives, gone) = oneshot::channel::<()>();
        let life_of_worker = async move {
            let (_lives, _ends) = (lives, ends);
            let run = Box::pin(caught(run(self.parts, status, &stop)));
            let outcome = tokio::select! {
                biased;
                outcome = run => outcome,
                never = stop.heed_signals() => match never {},
            };
            match outcome {
                Ok(outcome) => life.end(outcome),
                Err(message) => {
                    metrics.task_panicked(TASK);
                    tracing::error!(panic = message, "the worker panicked");
                    life.break_off(&message);
                }
            }
        };
        span.in_scope(|| scope.spawn_at(TaskPlace::Coordination, TASK, TaskPolicy::Job, life_of_worker));
        if let Some(Err(error)) = thread.map(|thread| thread.run(&name, async { drop(gone.await) })) {
            scope.abandon(&no_thread(error).to_string());
        }
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
    /// Dropping the future aborts the worker: what runs is dropped, and its leases are released at once, in the background. Use
    /// [`start`](Self::start) for a worker that outlives a future.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<ShutdownReport, Error> {
        let handle = self.start();
        let stop = AbortOnDrop(Arc::clone(&handle.stop));
        let mut stopped = std::pin::pin!(handle.join());
        tokio::select! {
            biased;
            outcome = &mut stopped => return outcome,
            () = shutdown => stop.0.ask(Stop::Drain),
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
        let handle = self.start();
        let _stop = AbortOnDrop(Arc::clone(&handle.stop));
        handle.join_after(signals).await
    }
}

/// The thread on which the worker is to coordinate, if that is one of its own.
fn own_thread(parts: &WorkerParts) -> io::Result<Option<OwnThread>> {
    let wants_one = match parts.coordination {
        Coordination::OwnThread => parts.clock.follows_real_time(),
        Coordination::SameRuntime => false,
    };
    wants_one.then(OwnThread::new).transpose()
}

fn no_thread(error: io::Error) -> Error {
    let message = "the worker cannot start the thread on which it coordinates: raise the limits of the process, or set Coordination::SameRuntime";
    Error::new(ErrorKind::Internal, message).with_source(error)
}

impl WorkerHandle {
    /// Waits until the process receives SIGTERM or SIGINT, then drains the worker; a second signal stops it at once. Returns once the worker
    /// has stopped, for whatever reason.
    ///
    /// This is [`Worker::run_until_signal`] for a worker that is started first, to take a [`status_reader`](Self::status_reader), a
    /// [`flow`](Self::flow) or a [`shutdown_handle`](Self::shutdown_handle) from its handle.
    ///
    /// ```no_run
    /// # async fn example(worker: kcl_core::Worker) -> Result<(), kcl_core::Error> {
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
    /// As [`join`](Self::join); also when the signals cannot be listened to: the worker is drained then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the worker. A signal still does.
    #[cfg(feature = "signal")]
    pub async fn run_until_signal(self) -> Result<ShutdownReport, Error> {
        match crate::worker::signal::Signals::listen() {
            Ok(signals) => self.join_after(signals).await,
            Err(error) => {
                self.shutdown();
                self.join().await.and(Err(error))
            }
        }
    }

    #[cfg(feature = "signal")]
    async fn join_after(self, signals: crate::worker::signal::Signals) -> Result<ShutdownReport, Error> {
        self.stop.listen(signals);
        self.join().await
    }

    /// Returns the status of the worker now.
    pub fn status(&self) -> WorkerStatus {
        self.status.status()
    }

    /// Returns the first status for which the predicate holds, the present one included. It is asked again when something happens, or
    /// becomes a [concern](crate::status::HealthIssue); that an age has grown is no event.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn wait_for(&self, predicate: impl FnMut(&WorkerStatus) -> bool) -> WorkerStatus {
        self.status.wait_for(predicate).await
    }

    /// Reads the status from elsewhere, while the handle waits for the worker's end.
    pub fn status_reader(&self) -> StatusReader {
        self.status.clone()
    }

    /// Asks the worker to let its callbacks return, checkpoint, and give its leases up.
    pub fn shutdown(&self) {
        self.stop.ask(Stop::Drain);
    }

    /// Asks the worker to drop what runs and give its leases up at once.
    pub fn abort(&self) {
        self.stop.ask(Stop::Now);
    }

    /// Returns a handle that stops the worker from elsewhere, while this one waits for its end.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        ShutdownHandle {
            stop: Arc::clone(&self.stop),
        }
    }

    /// Pauses and limits what the worker reads.
    pub fn flow(&self) -> FlowHandle {
        FlowHandle::new(Arc::clone(&self.flow_control))
    }

    /// Returns once the worker has stopped.
    ///
    /// # Errors
    ///
    /// Why the worker could not start, or stopped without being asked to; see [`ErrorKind`] for what to do.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the worker.
    pub async fn join(self) -> Result<ShutdownReport, Error> {
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
