//! Decides which orders of a row are new to its owner, and how it answers them.

use crate::lease::orders::{GivenOrder, OrderAnswer};
use crate::lease::row::Lease;
use crate::types::{Rate, RecordPosition};

/// The newest orders that an ownership carries out.
#[derive(Debug, Default)]
pub(crate) struct ObeyedOrders {
    revision: u64,
    refused: Option<String>,
    /// Whether they pause the shard.
    pub(crate) is_paused: bool,
    limit: Option<Rate>,
    /// Whether the newest is a reset, and the processor has not said yet where it begins.
    awaits_start: bool,
    /// The record to leave out, if that order is obeyed.
    pub(crate) skip: Option<RecordPosition>,
    /// The record of the newest skip, if that was refused.
    refused_skip: Option<RecordPosition>,
}

/// The difference that new orders make.
#[derive(Debug)]
pub(crate) struct OrderChanges {
    pub(crate) revision: u64,
    pub(crate) is_paused: bool,
    /// The limit, if it is another.
    pub(crate) limit: Option<Option<Rate>>,
    /// Whether a shard that is held after a failure is tried again.
    pub(crate) tries_again: bool,
    /// The newest order.
    pub(crate) last: Option<GivenOrder>,
}

impl ObeyedOrders {
    /// Observes the orders of the row, while the shard is held at one of the `failing` records, where it is. Returns what is to be changed.
    pub(crate) fn observe(&mut self, row: &Lease, failing: &[RecordPosition]) -> Option<OrderChanges> {
        let orders = row
            .orders
            .as_ref()
            .filter(|orders| orders.revision > self.revision)?;
        self.revision = orders.revision;
        let last = orders.history.last();
        // The skip of an earlier order was judged when it came.
        let is_new = |skip: &&RecordPosition| last.is_some_and(|last| last.order == format!("skip {skip}"));
        let judged = orders.skip.as_ref().filter(is_new);
        // An order that was refused, by the owner before as well, is not obeyed later: its author was answered.
        let answer = row
            .answer
            .as_ref()
            .filter(|answer| answer.revision == orders.revision);
        let before = answer.and_then(|answer| answer.refused.clone());
        self.refused = judged.and_then(|skip| before.or_else(|| refusal(skip, row, failing)));
        if judged.is_some() {
            self.refused_skip = orders.skip.clone().filter(|_| self.refused.is_some());
        }
        self.skip = orders
            .skip
            .clone()
            .filter(|skip| self.refused_skip.as_ref() != Some(skip));
        self.is_paused = orders.is_paused();
        self.awaits_start = !self.is_paused && last.is_some_and(|last| last.before.is_some());
        let limit = (orders.limit != self.limit).then_some(orders.limit);
        self.limit = orders.limit;
        Some(OrderChanges {
            revision: self.revision,
            is_paused: self.is_paused,
            limit,
            tries_again: self.skip.is_some() && judged.is_some()
                || last.is_some_and(|last| last.order == "resume"),
            last: last.cloned(),
        })
    }

    /// The processor begins at the checkpoint, or at a place of its own. Returns `true` if a reset can be answered now.
    pub(crate) fn begins(&mut self, at_checkpoint: bool) -> bool {
        let was_awaited = std::mem::replace(&mut self.awaits_start, false);
        if was_awaited && !at_checkpoint {
            self.refused = Some("the processor begins at a place of its own".to_owned());
        }
        was_awaited
    }

    /// The answer that the row lacks.
    pub(crate) fn answer_to(&self, row: &Lease) -> Option<OrderAnswer> {
        let is_due = row.is_unanswered() && self.revision >= row.orders_revision() && !self.awaits_start;
        is_due.then(|| OrderAnswer {
            revision: self.revision,
            refused: self.refused.clone(),
        })
    }
}

/// Why the record cannot be left out.
fn refusal(skip: &RecordPosition, row: &Lease, failing: &[RecordPosition]) -> Option<String> {
    if row.checkpoint.covers(skip) {
        return Some("the record is finished already".to_owned());
    }
    match failing.first() {
        Some(first) if !failing.contains(skip) => Some(format!("the shard is held at {first}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::orders::{LeaseOrder, LeaseOrders, OrderAuthor};
    use crate::types::{Position, SequenceNumber, ShardId, Timestamp};

    fn record(sequence: u128) -> RecordPosition {
        RecordPosition::plain(SequenceNumber::from(sequence))
    }

    fn ordered(row: &Lease, order: LeaseOrder) -> Lease {
        let author = OrderAuthor::new("ana").unwrap();
        let before: LeaseOrders = row.orders.as_deref().cloned().unwrap_or_default();
        Lease {
            orders: Some(Box::new(before.with(order, &author, Timestamp::from_millis(0)))),
            ..row.clone()
        }
    }

    fn row(done: u128) -> Lease {
        let shard = ShardId::new("shardId-000000000000").unwrap();
        Lease::unowned(shard, Position::Record(record(done)))
    }

    #[test]
    fn later_order_is_not_refused_for_earlier_skip() {
        let skipped = ordered(&row(5), LeaseOrder::Skip(record(4)));
        let mut obeyed = ObeyedOrders::default();
        obeyed.observe(&skipped, &[]).unwrap();
        assert!(obeyed.answer_to(&skipped).unwrap().refused.is_some());
        let paused = ordered(&skipped, LeaseOrder::Pause);
        for mut owner in [obeyed, ObeyedOrders::default()] {
            assert!(owner.observe(&paused, &[]).unwrap().is_paused);
            assert_eq!(owner.answer_to(&paused).unwrap().refused, None);
        }
    }

    #[test]
    fn refused_skip_is_not_obeyed_later() {
        let skipped = ordered(&row(5), LeaseOrder::Skip(record(9)));
        let mut first = ObeyedOrders::default();
        first.observe(&skipped, &[record(7)]).unwrap();
        let answer = first.answer_to(&skipped).unwrap();
        assert!(answer.refused.is_some() && first.skip.is_none());
        // Neither by the next owner, which is held nowhere yet, nor with the next order.
        let answered = Lease {
            answer: Some(answer),
            ..skipped.clone()
        };
        let mut next = ObeyedOrders::default();
        next.observe(&answered, &[]).unwrap();
        assert_eq!(next.skip, None);
        let paused = ordered(&answered, LeaseOrder::Pause);
        first.observe(&paused, &[]).unwrap();
        assert_eq!(first.skip, None);
        // Ordered again it is judged again.
        let again = ordered(&paused, LeaseOrder::Skip(record(9)));
        first.observe(&again, &[record(9)]).unwrap();
        assert_eq!(first.skip, Some(record(9)));
    }

    #[test]
    fn only_resume_and_skip_try_again() {
        let mut obeyed = ObeyedOrders::default();
        let mut row = row(5);
        for (order, tries_again) in [
            (LeaseOrder::Pause, false),
            (LeaseOrder::Unpin, false),
            (LeaseOrder::Resume, true),
            (LeaseOrder::Skip(record(9)), true),
            (LeaseOrder::Limit(None), false),
        ] {
            row = ordered(&row, order);
            let changes = obeyed.observe(&row, &[record(9)]).unwrap();
            assert_eq!(
                (changes.tries_again, changes.limit),
                (tries_again, None),
                "{changes:?}"
            );
        }
    }
}
