//! The one place where tasks are spawned.
//!
//! All tasks of a worker live in one [`TaskScope`]. It knows their names, turns a panic into a value,
//! can wait until the last one is gone, and lets a test freeze the worker or make it vanish.

mod places;
mod threads;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tracing::{Instrument as _, Span};

use crate::runtime::panic_message::panic_message;
use crate::runtime::watched::Watched;

use threads::TaskThreads;
pub(crate) use threads::{OwnThread, TaskPlace};

/// The meaning of a task's end for its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskPolicy {
    /// The task runs as long as the worker. A panic in it ends the worker, whose leases then pass to others.
    Vital,
    /// The task does one job, and whoever asked for it sees how it ended. A panic in it is reported, and the job is started again: a fetcher
    /// is replaced, a write is tried once more, a lease whose renewer or consumer broke is taken up again.
    Job,
}

/// A group of tasks that live and die together. Clones share the group.
///
/// ```
/// use kcl_core::internals::{TaskPolicy, TaskScope};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let scope = TaskScope::new();
/// scope.spawn("greeter", TaskPolicy::Job, async { println!("hello") });
/// scope.wait_until_empty().await;
/// assert!(scope.running().is_empty());
/// # }
/// ```
#[derive(Clone, Default)]
pub struct TaskScope {
    /// Another task may wait for the ends of tasks and for failures, and for nothing else in it.
    state: Arc<Watched<ScopeState>>,
}

#[derive(Default)]
struct ScopeState {
    frozen: bool,
    killed: bool,
    /// The only tasks that may still run, by their name.
    closed_but_for: Option<String>,
    /// Where tasks run, if that is not the runtime that spawns them.
    places: Option<TaskThreads>,
    /// Why no task may run any more, if a runtime is gone.
    abandoned: Option<String>,
    polls: u64,
    at_poll: Option<(u64, AtPoll)>,
    asleep: Vec<Waker>,
    next_id: u64,
    running: BTreeMap<u64, (String, Option<AbortHandle>)>,
    failures: Vec<TaskFailure>,
    /// The listener for every panic.
    listener: Option<PanicListener>,
    /// The tasks that are to panic.
    cursed: Vec<String>,
}

/// The action of a test right before a poll.
type AtPoll = Box<dyn FnOnce() + Send>;

/// Receives the name of a task that panicked.
type PanicListener = Arc<dyn Fn(&str) + Send + Sync>;

/// A vital task panicked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the task {task:?} panicked: {message}")]
pub struct TaskFailure {
    /// The name the task was spawned with.
    pub task: String,
    /// The message of the panic.
    pub message: String,
}

impl TaskScope {
    /// A scope without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task on the current tokio runtime, inside the current tracing span.
    ///
    /// In a scope that was [killed](Self::kill), or whose worker had to drop its last tasks, nothing starts and the future is
    /// dropped.
    pub fn spawn(
        &self,
        name: impl Into<String>,
        policy: TaskPolicy,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        self.spawn_on(None, name.into(), policy, future);
    }

    /// Starts a task on this runtime, or on the current one, unless the scope admits none of this name.
    fn spawn_on(
        &self,
        runtime: Option<Handle>,
        name: String,
        policy: TaskPolicy,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let Some(id) = self.state.modify_quietly(|state| state.admit(&name)) else {
            return;
        };
        let task = GuardedTask {
            future: Box::pin(future.in_current_span()),
            entry: ScopeEntry {
                state: Arc::clone(&self.state),
                id,
                name,
                policy,
                span: Span::current(),
            },
        };
        #[expect(clippy::disallowed_methods, reason = "the scope is the one place that spawns")]
        let task = match runtime {
            Some(runtime) => runtime.spawn(task),
            None => tokio::spawn(task),
        };
        let abort = task.abort_handle();
        // The scope may have been killed or closed meanwhile by somebody who could not see the handle.
        let is_admitted = self.state.modify_quietly(|state| state.note_handle(id, &abort));
        if !is_admitted {
            abort.abort();
        }
    }

    /// The names of the tasks that have not ended, in the order of their start.
    pub fn running(&self) -> Vec<String> {
        self.state
            .read(|state| state.running.values().map(|(name, _)| name.clone()).collect())
    }

    /// Returns once no task is left.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn wait_until_empty(&self) {
        self.state
            .wait_for(|state| state.running.is_empty().then_some(()))
            .await;
    }

    /// Returns once no task but those with this name is left.
    pub(crate) async fn wait_until_only(&self, name: &str) {
        let is_last = |state: &ScopeState| state.running.values().all(|(task, _)| task == name);
        self.state.wait_for(|state| is_last(state).then_some(())).await;
    }

    /// Drops every task but those with this name, and starts no others any more.
    pub(crate) fn close_but_for(&self, name: &str) {
        let handles: Vec<AbortHandle> = self.state.modify_quietly(|state| {
            state.closed_but_for = Some(name.to_owned());
            let others = state.running.values().filter(|(task, _)| task != name);
            others.filter_map(|(_, abort)| abort.clone()).collect()
        });
        handles.iter().for_each(AbortHandle::abort);
    }

    /// Returns once a vital task has panicked.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn failed(&self) -> TaskFailure {
        self.state.wait_for(|state| state.failures.first().cloned()).await
    }

    /// Stops polling every task while time goes on: what a machine that hangs looks like. For tests.
    pub fn freeze(&self) {
        self.state.modify_quietly(|state| state.frozen = true);
    }

    /// Polls the tasks of a frozen scope again.
    pub fn thaw(&self) {
        let asleep = self.state.modify_quietly(|state| {
            state.frozen = false;
            std::mem::take(&mut state.asleep)
        });
        asleep.into_iter().for_each(Waker::wake);
    }

    /// Makes every task vanish, as `kill -9` would: nothing of them is polled again. For tests, and for stopping at once.
    pub fn kill(&self) {
        let handles: Vec<AbortHandle> = self.state.modify_quietly(|state| {
            state.killed = true;
            let running = state.running.values();
            running.filter_map(|(_, abort)| abort.clone()).collect()
        });
        handles.iter().for_each(AbortHandle::abort);
    }

    /// Makes the next poll of a task with this name panic instead, as a bug in it would. A name without the lease at its end stands for
    /// the tasks of all leases, of which one panics. For tests.
    pub fn panic_in(&self, task: impl Into<String>) {
        let task = task.into();
        self.state.modify_quietly(|state| state.cursed.push(task));
    }

    /// Reports the name of every task that panics.
    pub(crate) fn on_panic(&self, listener: impl Fn(&str) + Send + Sync + 'static) {
        let listener: PanicListener = Arc::new(listener);
        self.state.modify_quietly(|state| state.listener = Some(listener));
    }

    /// How often tasks of the scope were polled so far.
    pub fn polls(&self) -> u64 {
        self.state.read(|state| state.polls)
    }

    /// Calls `then` right before a task is polled once `polls` more polls have happened. For tests that do something to a
    /// worker at every single point of its life; a second call replaces the first.
    pub fn after_polls(&self, polls: u64, then: impl FnOnce() + Send + 'static) {
        self.state
            .modify_quietly(|state| state.at_poll = Some((state.polls + polls, Box::new(then))));
    }

    /// Whether [`kill`](Self::kill) was called.
    pub fn is_killed(&self) -> bool {
        self.state.read(|state| state.killed)
    }
}

impl fmt::Debug for TaskScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskScope")
            .field("running", &self.running())
            .finish_non_exhaustive()
    }
}

impl ScopeState {
    /// Whether a task of this name may run.
    fn admits(&self, name: &str) -> bool {
        let is_closed = self.closed_but_for.as_ref().is_some_and(|only| only != name);
        !self.killed && !is_closed
    }

    /// Gives a task of this name its place, if it may run.
    fn admit(&mut self, name: &str) -> Option<u64> {
        if !self.admits(name) {
            return None;
        }
        self.next_id += 1;
        self.running.insert(self.next_id, (name.to_owned(), None));
        Some(self.next_id)
    }

    /// Notes how the task is aborted, unless it has ended. Returns `true` if it may go on.
    fn note_handle(&mut self, id: u64, abort: &AbortHandle) -> bool {
        let Some((name, slot)) = self.running.get_mut(&id) else {
            return true;
        };
        *slot = Some(abort.clone());
        let name = name.clone();
        self.admits(&name)
    }

    /// Counts a poll of the task of this name, unless there is none now. Returns what is to be done right before it, and whether the
    /// task is to panic instead.
    fn turn(&mut self, name: &str, cx: &Context<'_>) -> Option<(Option<AtPoll>, bool)> {
        if self.killed {
            return None;
        }
        if self.frozen {
            self.asleep.push(cx.waker().clone());
            return None;
        }
        self.polls += 1;
        let now = self.polls;
        let then = self.at_poll.take_if(|(due, _)| *due < now);
        let is_cursed = then.is_none() && self.lifts_curse(name);
        Some((then.map(|(_, then)| then), is_cursed))
    }

    /// Whether the task of this name is to panic now.
    fn lifts_curse(&mut self, name: &str) -> bool {
        let fits = |cursed: &String| {
            let rest = name.strip_prefix(cursed.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        let found = self.cursed.iter().position(fits);
        found.map(|index| self.cursed.remove(index)).is_some()
    }
}

/// A task's place in the list of its scope; leaves it when dropped.
struct ScopeEntry {
    state: Arc<Watched<ScopeState>>,
    id: u64,
    name: String,
    policy: TaskPolicy,
    /// Where the task was spawned: a panic is logged when its future is left.
    span: Span,
}

impl ScopeEntry {
    fn panicked(&self, payload: &(dyn Any + Send)) {
        let message = panic_message(payload);
        tracing::error!(parent: &self.span, task = %self.name, panic = message, "a task panicked");
        let listener = self.state.read(|state| state.listener.clone());
        if let Some(tell) = listener {
            tell(&self.name);
        }
        if self.policy == TaskPolicy::Vital {
            let failure = TaskFailure {
                task: self.name.clone(),
                message,
            };
            self.state.modify(|state| state.failures.push(failure));
        }
    }
}

impl Drop for ScopeEntry {
    fn drop(&mut self) {
        self.state.modify(|state| state.running.remove(&self.id));
    }
}

/// A task's future that obeys its scope and survives its own panic.
struct GuardedTask {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    entry: ScopeEntry,
}

impl Future for GuardedTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let turn = self
            .entry
            .state
            .modify_quietly(|state| state.turn(&self.entry.name, cx));
        let Some((then, is_cursed)) = turn else {
            return Poll::Pending;
        };
        if let Some(then) = then {
            then();
            // It may have frozen or killed the scope.
            return self.poll(cx);
        }
        let polled = catch_unwind(AssertUnwindSafe(|| {
            if is_cursed {
                resume_unwind(Box::new("made to panic"));
            }
            self.future.as_mut().poll(cx)
        }));
        match polled {
            Ok(poll) => poll,
            Err(payload) => {
                self.entry.panicked(payload.as_ref());
                Poll::Ready(())
            }
        }
    }
}

/// Polls the future to its end, or to its panic and what that says.
pub(crate) async fn caught<F: Future>(future: F) -> Result<F::Output, String> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| poll_caught(future.as_mut(), cx)).await
}

/// Polls the future once. Ready with its output, or with what its panic says.
pub(crate) fn poll_caught<F: Future + ?Sized>(
    future: Pin<&mut F>,
    cx: &mut Context<'_>,
) -> Poll<Result<F::Output, String>> {
    match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(payload) => Poll::Ready(Err(panic_message(payload.as_ref()))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::runtime::clock::{ClockExt as _, TokioClock};

    fn ticking(scope: &TaskScope) -> (Arc<AtomicU32>, TokioClock) {
        let ticks = Arc::new(AtomicU32::new(0));
        let clock = TokioClock::new();
        let counter = Arc::clone(&ticks);
        scope.spawn("ticker", TaskPolicy::Vital, async move {
            loop {
                clock.sleep(Duration::from_secs(1)).await;
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        (ticks, clock)
    }

    #[tokio::test(start_paused = true)]
    async fn action_runs_right_before_the_chosen_poll() {
        let scope = TaskScope::new();
        let (ticks, clock) = ticking(&scope);
        let (seen, counter) = (Arc::new(AtomicU32::new(0)), Arc::clone(&ticks));
        let note = Arc::clone(&seen);
        scope.after_polls(3, move || {
            note.store(counter.load(Ordering::SeqCst), Ordering::SeqCst)
        });
        clock.sleep(Duration::from_secs(60)).await;
        assert!(scope.polls() > 4);
        assert_eq!(
            seen.load(Ordering::SeqCst),
            2,
            "three polls: the first one only waits"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn frozen_scope_does_nothing_until_it_is_thawed() {
        let scope = TaskScope::new();
        let (ticks, clock) = ticking(&scope);
        clock.sleep(Duration::from_millis(2500)).await;
        scope.freeze();
        clock.sleep(Duration::from_secs(60)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 2);
        scope.thaw();
        clock.sleep(Duration::from_millis(1500)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn killed_scope_ends_tasks_and_starts_no_other() {
        let scope = TaskScope::new();
        let (ticks, clock) = ticking(&scope);
        clock.sleep(Duration::from_millis(1500)).await;
        scope.kill();
        scope.wait_until_empty().await;
        scope.spawn("late", TaskPolicy::Job, async { panic!("must not run") });
        clock.sleep(Duration::from_secs(60)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 1);
        assert!(scope.running().is_empty());
    }

    #[tokio::test]
    async fn panic_is_reported_of_vital_tasks_only() {
        let scope = TaskScope::new();
        scope.spawn("job", TaskPolicy::Job, async { panic!("harmless") });
        scope.spawn("vital", TaskPolicy::Vital, async { panic!("broken {}", 7) });
        let failure = scope.failed().await;
        assert_eq!(
            failure,
            TaskFailure {
                task: "vital".into(),
                message: "broken 7".into()
            }
        );
        scope.wait_until_empty().await;
    }

    /// Starts a task when it is dropped.
    struct Heir(TaskScope);

    impl Drop for Heir {
        fn drop(&mut self) {
            self.0.spawn("heir", TaskPolicy::Job, std::future::pending());
        }
    }

    #[tokio::test]
    async fn task_started_by_dropped_task_never_outlives_scope() {
        let scope = TaskScope::new();
        let heir = Heir(scope.clone());
        scope.spawn("root", TaskPolicy::Job, std::future::pending());
        scope.spawn("parent", TaskPolicy::Job, async move {
            let _heir = heir;
            std::future::pending().await
        });
        tokio::task::yield_now().await;
        scope.close_but_for("root");
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(scope.running(), ["root"]);
    }
}
