//! A scope with two runtimes: tasks that coordinate run on a thread of their own, which user code cannot hold up.

use std::future::Future;
use std::panic::resume_unwind;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::threads::{OwnThread, TaskPlace, TaskThreads};
use super::{TaskPolicy, TaskScope};

impl TaskScope {
    /// Lets tasks that coordinate run on the runtime of this thread from now on, and the others on the current runtime.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub(crate) fn coordinate_on(&self, thread: &OwnThread) {
        let Some(runtime) = &thread.runtime else {
            return;
        };
        let places = TaskThreads {
            coordination: runtime.handle().clone(),
            processing: Handle::current(),
        };
        self.state.modify_quietly(|state| state.places = Some(places));
    }

    /// Starts a task in this place. In a scope with one runtime that is the current one, as for [`spawn`](TaskScope::spawn).
    pub(crate) fn spawn_at(
        &self,
        place: TaskPlace,
        name: impl Into<String>,
        policy: TaskPolicy,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        self.spawn_on(self.runtime_of(place), name.into(), policy, future);
    }

    /// Runs the future in this place, and returns its output. In a scope with one runtime, and in the place where it is called, that costs no task.
    ///
    /// A caller whose scope was closed meanwhile waits for ever: it is about to be dropped.
    ///
    /// # Panics
    ///
    /// When the future does.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future drops the other.
    pub(crate) async fn run_at<T: Send + 'static>(
        &self,
        place: TaskPlace,
        name: impl Into<String>,
        future: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let here = Handle::try_current().ok().map(|runtime| runtime.id());
        let Some(there) = self.runtime_of(place).filter(|there| Some(there.id()) != here) else {
            return future.await;
        };
        let (mut reply, answer) = oneshot::channel();
        let task = async move {
            let output = tokio::select! {
                biased;
                () = reply.closed() => return,
                output = future => output,
            };
            // A caller that is gone wants no output.
            drop(reply.send(output));
        };
        self.spawn_on(Some(there), name.into(), TaskPolicy::Job, task);
        match answer.await {
            Ok(output) => output,
            Err(_) if self.is_over() => std::future::pending().await,
            // Its message was logged when it happened.
            Err(_) => resume_unwind(Box::new("a part of the task panicked")),
        }
    }

    /// Returns `true` if tasks are dropped whether or not they have come to their end.
    fn is_over(&self) -> bool {
        self.state
            .read(|state| state.killed || state.closed_but_for.is_some())
    }

    /// Returns `true` if the scope has a runtime for coordination besides that of user code.
    pub(crate) fn has_two_places(&self) -> bool {
        self.state.read(|state| state.places.is_some())
    }

    fn runtime_of(&self, place: TaskPlace) -> Option<Handle> {
        self.state.read(|state| {
            let places = state.places.as_ref()?;
            Some(match place {
                TaskPlace::Coordination => places.coordination.clone(),
                TaskPlace::Processing => places.processing.clone(),
            })
        })
    }

    /// Drops every task, because a runtime is gone and took its tasks along. The first reason is kept.
    pub(crate) fn abandon(&self, why: &str) {
        if !self.is_over() {
            self.state
                .modify_quietly(|state| state.abandoned.get_or_insert_with(|| why.to_owned()).len());
            self.close_but_for("");
        }
    }

    /// Why every task was dropped, if a runtime is gone.
    pub(crate) fn abandoned(&self) -> Option<String> {
        self.state.read(|state| state.abandoned.clone())
    }
}
