//! Obeys the orders of operators that stand in the row of a held lease.

use crate::limits::flow_control::FlowKey;
use crate::ownership::Ownership;
use crate::runtime::failpoint::failpoint;
use crate::types::RecordPosition;

impl Ownership {
    /// Carries out the orders of the row that are new. The renewer answers them with its next write, which is due at once.
    pub(crate) fn obey_orders(&self) {
        let key = FlowKey::Orders(self.key.clone());
        let flow = &self.worker.flow_control;
        // One step: of two tasks that see orders, neither carries out older ones after newer ones.
        let new = self.with(|state| {
            let facts = &state.facts;
            let failing: Vec<_> = [&facts.failing, &facts.unreadable]
                .into_iter()
                .flatten()
                .cloned()
                .collect();
            let changes = state.obeyed.observe(state.known.row(), &failing)?;
            if let Some(limit) = changes.limit {
                flow.limit(key.clone(), limit);
            }
            flow.set_paused(key.clone(), changes.is_paused && !failpoint!(PauseNotObeyed));
            Some(changes)
        });
        let Some(changes) = new else {
            return;
        };
        if changes.tries_again {
            flow.try_again(key);
        }
        tracing::info!(
            parent: &self.span,
            revision = changes.revision,
            order = changes.last.as_ref().map(|given| given.order.as_str()),
            author = changes.last.as_ref().map(|given| given.author.as_str()),
            "obeying orders"
        );
        self.worker.status.changed();
        self.dirty.notify_one();
    }

    /// The processor begins at the checkpoint, or at a place of its own: a reset is answered by that.
    pub(crate) fn begins_at_checkpoint(&self, at_checkpoint: bool) {
        if self.with(|state| state.obeyed.begins(at_checkpoint)) {
            self.dirty.notify_one();
        }
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

    /// Whether an order pauses the shard.
    pub(crate) fn is_paused_by_order(&self) -> bool {
        self.read(|state| state.obeyed.is_paused) && !failpoint!(PauseNotObeyed)
    }
}
