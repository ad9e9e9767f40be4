//! Says that a runtime stood still, and which callback held its thread.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::consumer::Services;
use crate::lifecycle::{Pulse, Standstill};
use crate::model::LeaseKey;
use crate::task::{Place, TaskScope};
use crate::time::{Clock, Moment};
use crate::worker::grants::Grants;

/// Lives on the runtime of the processors, and ends the worker when that runtime ends before it.
pub(crate) struct Sentinel {
    pub(crate) scope: TaskScope,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) pulse: Arc<Pulse>,
    /// Fires when the worker ends.
    pub(crate) ending: CancellationToken,
}

impl Sentinel {
    /// Shows until the worker ends that the runtime runs what is due.
    pub(crate) async fn watch(self) {
        let answers = async {
            loop {
                self.pulse.answer(|| self.clock.now()).await;
            }
        };
        tokio::select! {
            biased;
            () = self.ending.cancelled() => {}
            () = answers => {}
        }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        if !self.ending.is_cancelled() {
            self.scope
                .abandon("the runtime on which it was started has ended, and its processors with it");
        }
    }
}

/// What was said of standstills. Each callback is named once for as long as its lease is held: code that blocks once does so again.
#[derive(Debug, Default)]
pub(crate) struct Standstills {
    /// The last one of the processors' runtime that was counted.
    counted: Option<Moment>,
    said: BTreeSet<Option<LeaseKey>>,
}

/// Who held a thread in a standstill.
struct Holder {
    lease: LeaseKey,
    call: &'static str,
}

impl Standstills {
    /// Looks at the runtime of the processors.
    pub(crate) fn look(&mut self, services: &Services, grants: &Grants, now: Moment) {
        if !services.scope.has_two_places() {
            return;
        }
        let seen = services.pulse.look(now);
        let lasting = seen.filter(|standstill| standstill.lasts);
        services
            .board
            .update_standstill(lasting.map(|standstill| standstill.since));
        if let Some(standstill) = seen {
            self.note(services, grants, Place::Processing, standstill);
        }
        services.pulse.ask(now);
    }

    /// Looks whether the worker itself woke up much later than it was to.
    pub(crate) fn woke(&mut self, services: &Services, grants: &Grants, due: Moment) {
        let standstill = Standstill {
            since: due,
            until: services.clock.now(),
            lasts: false,
        };
        if services.pulse.is_late(standstill.lasted()) {
            self.note(services, grants, Place::Coordination, standstill);
        }
    }

    fn note(&mut self, services: &Services, grants: &Grants, place: Place, standstill: Standstill) {
        if place == Place::Coordination || self.counted.replace(standstill.since) != Some(standstill.since) {
            services.metrics.stood_still(place == Place::Coordination);
        }
        let holder = holder(grants, &standstill);
        self.said
            .retain(|lease| lease.as_ref().is_none_or(|lease| grants.holds(lease)));
        let lease = holder.as_ref().map(|holder| holder.lease.clone());
        if !self.said.insert(lease) {
            return;
        }
        let stood_still = standstill.lasted();
        match (holder, place) {
            (Some(Holder { lease, call }), Place::Processing) => tracing::warn!(
                %lease, call, ?stood_still,
                "a callback blocks its thread, and no shard is read or processed meanwhile: run blocking code with spawn_blocking or block_in_place"
            ),
            (Some(Holder { lease, call }), Place::Coordination) => tracing::warn!(
                %lease, call, ?stood_still,
                "a callback blocks the thread that renews the leases: run blocking code with spawn_blocking or block_in_place"
            ),
            (None, Place::Processing) => tracing::warn!(
                ?stood_still,
                "code that is no callback of this worker blocks its runtime, and no shard is read or processed meanwhile"
            ),
            (None, Place::Coordination) => tracing::warn!(
                ?stood_still,
                "the worker stood still and renewed no lease meanwhile: the process was stopped, or had no CPU"
            ),
        }
    }
}

/// The callback that held a thread for most of the standstill.
fn holder(grants: &Grants, standstill: &Standstill) -> Option<Holder> {
    let held = grants.held().into_iter();
    let holders = held.filter_map(|own| {
        let (call, time) = own.on_thread.held(standstill)?;
        Some((time, own.key.clone(), call))
    });
    let (_, lease, call) = holders.min_by_key(|(time, lease, _)| (Reverse(*time), lease.clone()))?;
    Some(Holder { lease, call })
}
