//! Obeys the orders of operators that stand in the row of a held lease.

use crate::limits::flow_control::FlowKey;
use crate::ownership::Ownership;
use crate::runtime::failpoint::failpoint;
use crate::types::RecordPosition;

impl Ownership {
    /// Carries out the orders of the row that are new. The renewer answers them with its next write, which is due at once.
    pub(crate) fn obey_orders(&self) {
        let new = self.with(|state| {
            let failing = state
                .facts
                .failing
                .clone()
                .or_else(|| state.facts.unreadable.clone());
            state.obeyed.observe(state.known.row(), failing.as_ref())
        });
        let Some(orders) = new else {
            return;
        };
        let key = FlowKey::Orders(self.key.clone());
        let flow = &self.worker.flow_control;
        flow.limit(key.clone(), orders.limit);
        match orders.is_paused() && !failpoint!(PauseNotObeyed) {
            true => flow.pause(key),
            // A shard that is held is tried again.
            false => flow.resume(key),
        }
        let last = orders.history.last();
        tracing::info!(
            parent: &self.span,
            revision = orders.revision,
            order = last.map(|given| given.order.as_str()),
            author = last.map(|given| given.author.as_str()),
            "obeying orders"
        );
        self.worker.status.changed();
        self.dirty.notify_one();
    }

    /// The record that an operator wants left out.
    pub(crate) fn ordered_skip(&self) -> Option<RecordPosition> {
        self.read(|state| state.obeyed.skip.clone())
    }

    /// Returns once no order pauses the shard.
    pub(crate) async fn resumed_by_order(&self) {
        loop {
            let changed = self.worker.flow_control.changed();
            if !self.is_paused_by_order() {
                return;
            }
            changed.await;
        }
    }

    /// Whether the orders in the row pause the shard.
    pub(crate) fn is_paused_by_order(&self) -> bool {
        self.read(|state| {
            state
                .known
                .row()
                .orders
                .as_ref()
                .is_some_and(|orders| orders.is_paused())
        }) && !failpoint!(PauseNotObeyed)
    }
}
