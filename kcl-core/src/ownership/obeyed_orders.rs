//! Decides which orders of a row are new to its owner, and how it answers them.

use crate::lease::orders::{LeaseOrders, OrderAnswer};
use crate::lease::row::Lease;
use crate::types::RecordPosition;

/// The newest orders that an ownership has seen, and what it makes of them.
#[derive(Debug, Default)]
pub(crate) struct ObeyedOrders {
    revision: u64,
    refused: Option<String>,
    /// The record to leave out, if that order is obeyed.
    pub(crate) skip: Option<RecordPosition>,
}

impl ObeyedOrders {
    /// Observes the orders of the row. Returns those that are new, to be carried out.
    pub(crate) fn observe(
        &mut self,
        row: &Lease,
        failing: Option<&RecordPosition>,
    ) -> Option<Box<LeaseOrders>> {
        let orders = row
            .orders
            .as_ref()
            .filter(|orders| orders.revision > self.revision)?;
        self.revision = orders.revision;
        self.refused = match &orders.skip {
            // It was obeyed, or refused, by an earlier answer.
            Some(skip) if self.skip.as_ref() != Some(skip) => refusal(skip, row, failing),
            _ => None,
        };
        self.skip = orders.skip.clone().filter(|_| self.refused.is_none());
        Some(orders.clone())
    }

    /// The answer that the row lacks.
    pub(crate) fn answer_to(&self, row: &Lease) -> Option<OrderAnswer> {
        let is_due = row.is_unanswered() && self.revision >= row.orders_revision();
        is_due.then(|| OrderAnswer {
            revision: self.revision,
            refused: self.refused.clone(),
        })
    }
}

/// Why the record cannot be left out.
fn refusal(skip: &RecordPosition, row: &Lease, failing: Option<&RecordPosition>) -> Option<String> {
    if row.checkpoint.covers(skip) {
        return Some("the record is finished already".to_owned());
    }
    failing
        .filter(|failing| *failing != skip)
        .map(|failing| format!("the shard is held at {failing}"))
}
