//! Says that a runtime stood still, and which callback held its thread.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::ownership::WorkerContext;
use crate::runtime::clock::{Clock, Moment};
use crate::runtime::stall_probe::{RuntimeStall, StallProbe};
use crate::runtime::task_scope::TaskPlace;
use crate::runtime::task_scope::TaskScope;
use crate::types::LeaseKey;
use crate::worker::lease_taker::LeaseTaker;

/// Lives on the runtime of the processors, and ends the worker when that runtime ends before it.
pub(crate) struct RuntimeSentinel {
    pub(crate) scope: TaskScope,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stall_probe: Arc<StallProbe>,
    /// Fires when the worker ends.
    pub(crate) ending: CancellationToken,
}

impl RuntimeSentinel {
    /// Shows until the worker ends that the runtime runs what is due.
    pub(crate) async fn watch(self) {
        let answers = async {
            loop {
                self.stall_probe.answer(|| self.clock.now()).await;
            }
        };
        tokio::select! {
            biased;
            () = self.ending.cancelled() => {}
            () = answers => {}
        }
    }
}

impl Drop for RuntimeSentinel {
    fn drop(&mut self) {
        if !self.ending.is_cancelled() {
            self.scope
                .abandon("the runtime on which it was started has ended, and its processors with it");
        }
    }
}

/// The stalls that were logged. Each callback is named once for as long as its lease is held: code that blocks once does so again.
#[derive(Debug, Default)]
pub(crate) struct StallReports {
    /// The last one of the processors' runtime that was counted.
    counted: Option<Moment>,
    said: BTreeSet<Option<LeaseKey>>,
}

/// The callback that held a thread in a stall.
struct ThreadHolder {
    lease: LeaseKey,
    call: &'static str,
}

impl StallReports {
    /// Looks at the runtime of the processors.
    pub(crate) fn look(&mut self, worker: &WorkerContext, taker: &LeaseTaker, now: Moment) {
        if !worker.scope.has_two_places() {
            return;
        }
        let seen = worker.stall_probe.look(now);
        let lasting = seen.filter(|standstill| standstill.lasts);
        worker
            .status
            .update_standstill(lasting.map(|standstill| standstill.since));
        if let Some(standstill) = seen {
            self.note(worker, taker, TaskPlace::Processing, standstill);
        }
        worker.stall_probe.ask(now);
    }

    /// Looks whether the worker itself woke up much later than it was to.
    pub(crate) fn woke(&mut self, worker: &WorkerContext, taker: &LeaseTaker, due: Moment) {
        let standstill = RuntimeStall {
            since: due,
            until: worker.clock.now(),
            lasts: false,
        };
        if worker.stall_probe.is_late(standstill.lasted()) {
            self.note(worker, taker, TaskPlace::Coordination, standstill);
        }
    }

    fn note(
        &mut self,
        worker: &WorkerContext,
        taker: &LeaseTaker,
        place: TaskPlace,
        standstill: RuntimeStall,
    ) {
        if place == TaskPlace::Coordination
            || self.counted.replace(standstill.since) != Some(standstill.since)
        {
            worker.metrics.stood_still(place == TaskPlace::Coordination);
        }
        let holder = holder(taker, &standstill);
        self.said
            .retain(|lease| lease.as_ref().is_none_or(|lease| taker.holds(lease)));
        let lease = holder.as_ref().map(|holder| holder.lease.clone());
        if !self.said.insert(lease) {
            return;
        }
        let stood_still = standstill.lasted();
        match (holder, place) {
            (Some(ThreadHolder { lease, call }), TaskPlace::Processing) => tracing::warn!(
                %lease, call, ?stood_still,
                "a callback blocks its thread, and no shard is read or processed meanwhile: run blocking code with spawn_blocking or block_in_place"
            ),
            (Some(ThreadHolder { lease, call }), TaskPlace::Coordination) => tracing::warn!(
                %lease, call, ?stood_still,
                "a callback blocks the thread that renews the leases: run blocking code with spawn_blocking or block_in_place"
            ),
            (None, TaskPlace::Processing) => tracing::warn!(
                ?stood_still,
                "code that is no callback of this worker blocks its runtime, and no shard is read or processed meanwhile"
            ),
            (None, TaskPlace::Coordination) => tracing::warn!(
                ?stood_still,
                "the worker stood still and renewed no lease meanwhile: the process was stopped, or had no CPU"
            ),
        }
    }
}

/// The callback that held a thread for most of the stall.
fn holder(taker: &LeaseTaker, standstill: &RuntimeStall) -> Option<ThreadHolder> {
    let held = taker.held().into_iter();
    let holders = held.filter_map(|own| {
        let (call, time) = own.on_thread.held(standstill)?;
        Some((time, own.key.clone(), call))
    });
    let (_, lease, call) = holders.min_by_key(|(time, lease, _)| (Reverse(*time), lease.clone()))?;
    Some(ThreadHolder { lease, call })
}
