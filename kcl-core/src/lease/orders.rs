//! The orders of operators, in the rows that they are for: what a worker is to do with a shard, or the leader with a worker.
//!
//! An order says how things are to be, and not what to do next: given twice it changes nothing, and the next owner of a lease obeys it as
//! the last one did. Each has a revision, one more than the one before, on which its write is conditioned: of two operators at once the
//! second finds out. The owner acknowledges the revision that it obeys, or refuses it with the reason.

use crate::types::{Position, Rate, RecordPosition, Timestamp, WorkerId};

/// The orders in the row of a lease: what holds now, and what was ordered last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaseOrders {
    /// One more with each order; 0 only where none was ever given.
    pub revision: u64,
    /// No batch starts, under this owner or the next.
    pub paused: bool,
    /// The revision of the reset that holds the shard until its ancestors are reset, too: as if it was paused, and no resume ends it.
    pub hold: Option<u64>,
    /// The most that is read of the shard, by this owner or the next.
    pub limit: Option<Rate>,
    /// The worker that is to own the lease for as long as it lives and gets leases at all.
    pub pinned: Option<WorkerId>,
    /// The record that the owner is to leave out if the shard is held at it.
    pub skip: Option<RecordPosition>,
    /// The last orders, the newest last: at most [`MOST_KEPT`](Self::MOST_KEPT).
    pub history: Vec<GivenOrder>,
}

/// One order, as the audit trail keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenOrder {
    /// Its revision.
    pub revision: u64,
    /// When it was given, by the clock of the operator's host.
    pub at: Timestamp,
    /// Its author, at most 64 characters.
    pub author: String,
    /// Why, in the author's words, at most 200 characters.
    pub reason: Option<String>,
    /// The order as a short text, such as `pause` or `reset to TRIM_HORIZON`.
    pub order: String,
    /// The place from which the shard was read before it, if it moved the checkpoint: an undo goes there.
    pub before: Option<ResetPosition>,
}

/// The answer of a lease's owner to the newest order that it has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderAnswer {
    /// The revision that it answers. Orders before it are answered, too.
    pub revision: u64,
    /// Why the owner cannot obey; `None` if it obeys.
    pub refused: Option<String>,
}

/// An order for one lease.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseOrder {
    /// Starts no further batch until it is resumed. The lease is kept.
    Pause,
    /// Ends a pause. A shard that is held after a failure is tried again at once.
    Resume,
    /// Reads no faster than this; `None` ends the limit.
    Limit(Option<Rate>),
    /// Moves the lease to this worker, and keeps it there for as long as the worker lives.
    Pin(WorkerId),
    /// The leader may move the lease again as it sees fit.
    Unpin,
    /// Ends the hold of the reset with this revision, if it is the newest: its ancestors are reset, or that was abandoned.
    EndHold(u64),
    /// Leaves out this record, at which the shard is held, as the last resort of an error policy would: to the dead-letter sink, if there
    /// is one.
    Skip(RecordPosition),
}

/// The author of an order, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderAuthor {
    name: String,
    reason: Option<String>,
}

/// An author or reason that a row does not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} needs 1 to {most} characters without control characters")]
pub struct InvalidAuthor {
    what: &'static str,
    most: usize,
}

impl OrderAuthor {
    /// The most characters of a name.
    pub const LONGEST_NAME: usize = 64;
    /// The most characters of a reason.
    pub const LONGEST_REASON: usize = 200;

    /// An author by this name, such as the login of the operator.
    ///
    /// # Errors
    ///
    /// If the name is empty, longer than 64 characters, or has control characters.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidAuthor> {
        let name = checked("the author of an order", name.into(), Self::LONGEST_NAME)?;
        Ok(Self { name, reason: None })
    }

    /// The author with a reason for the order.
    ///
    /// # Errors
    ///
    /// If the reason is empty, longer than 200 characters, or has control characters.
    pub fn because(mut self, reason: impl Into<String>) -> Result<Self, InvalidAuthor> {
        self.reason = Some(checked(
            "the reason of an order",
            reason.into(),
            Self::LONGEST_REASON,
        )?);
        Ok(self)
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn gives(
        &self,
        revision: u64,
        at: Timestamp,
        order: String,
        before: Option<ResetPosition>,
    ) -> GivenOrder {
        GivenOrder {
            revision,
            at,
            author: self.name.clone(),
            reason: self.reason.clone(),
            order,
            before,
        }
    }
}

fn checked(what: &'static str, text: String, most: usize) -> Result<String, InvalidAuthor> {
    let length = text.chars().count();
    match length == 0 || length > most || text.chars().any(char::is_control) {
        true => Err(InvalidAuthor { what, most }),
        false => Ok(text),
    }
}

impl LeaseOrders {
    /// The most orders that a row remembers. The newest that moved the checkpoint is among them, however old it is.
    pub const MOST_KEPT: usize = 8;

    /// The orders with one more. An order that holds already counts as well: its author is answered.
    ///
    /// ```
    /// # use kcl_core as kinesis_client;
    /// use kinesis_client::lease_store::{LeaseOrder, LeaseOrders, OrderAuthor};
    /// use kinesis_client::types::Timestamp;
    ///
    /// let author = OrderAuthor::new("ana")?.because("the database is down")?;
    /// let orders = LeaseOrders::default().with(LeaseOrder::Pause, &author, Timestamp::from_millis(0));
    /// assert_eq!((orders.revision, orders.paused), (1, true));
    /// assert_eq!(orders.history[0].order, "pause");
    /// # Ok::<(), kcl_core::lease_store::InvalidAuthor>(())
    /// ```
    #[must_use]
    pub fn with(&self, order: LeaseOrder, author: &OrderAuthor, at: Timestamp) -> Self {
        let mut orders = self.clone();
        let text = order.to_string();
        match order {
            LeaseOrder::Pause => orders.paused = true,
            LeaseOrder::Resume => orders.paused = false,
            LeaseOrder::Limit(limit) => orders.limit = limit.filter(|rate| *rate != Rate::default()),
            LeaseOrder::Pin(worker) => orders.pinned = Some(worker),
            LeaseOrder::Unpin => orders.pinned = None,
            LeaseOrder::EndHold(of) => orders.hold = orders.hold.filter(|hold| *hold != of),
            LeaseOrder::Skip(record) => orders.skip = Some(record),
        }
        orders.note(text, author, at, None);
        orders
    }

    /// The orders after one that reads the shard from another place; see [`LeaseChange::Reset`](crate::lease_store::LeaseChange::Reset).
    /// With `holds`, nothing starts until [`LeaseOrder::EndHold`].
    #[must_use]
    pub fn with_reset(
        &self,
        to: &ResetPosition,
        before: ResetPosition,
        holds: bool,
        author: &OrderAuthor,
        at: Timestamp,
    ) -> Self {
        let mut orders = self.clone();
        orders.skip = None;
        orders.note(format!("reset to {to}"), author, at, Some(before));
        // The hold of another reset goes on until that is done.
        if holds {
            orders.hold = Some(orders.revision);
        }
        orders
    }

    /// Whether no batch may start.
    pub fn is_paused(&self) -> bool {
        self.paused || self.hold.is_some()
    }

    /// The orders with which the lease of a child begins: it is read as its parent was.
    pub(crate) fn of_child(&self) -> Option<Self> {
        let limit = self.limit?;
        let last = self
            .history
            .iter()
            .rev()
            .find(|given| given.order.starts_with("limit"));
        Some(Self {
            revision: 1,
            limit: Some(limit),
            history: last
                .map(|given| GivenOrder {
                    revision: 1,
                    ..given.clone()
                })
                .into_iter()
                .collect(),
            ..Self::default()
        })
    }

    fn note(&mut self, order: String, author: &OrderAuthor, at: Timestamp, before: Option<ResetPosition>) {
        self.revision = self.revision.saturating_add(1);
        self.history.push(author.gives(self.revision, at, order, before));
        while self.history.len() > Self::MOST_KEPT {
            // An undo needs the newest order that moved the checkpoint.
            let newest_reset = self.history.iter().rposition(|given| given.before.is_some());
            self.history.remove(usize::from(newest_reset == Some(0)));
        }
    }
}

impl std::fmt::Display for LeaseOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pause => f.write_str("pause"),
            Self::Resume => f.write_str("resume"),
            Self::Limit(None) => f.write_str("limit off"),
            Self::Limit(Some(rate)) => {
                f.write_str("limit to")?;
                if let Some(records) = rate.records {
                    write!(f, " {records} records/s")?;
                }
                if let Some(kib) = rate.kib {
                    write!(f, " {kib} KiB/s")?;
                }
                Ok(())
            }
            Self::Pin(worker) => write!(f, "move to {worker}"),
            Self::Unpin => f.write_str("release"),
            Self::EndHold(_) => f.write_str("go on after the reset of its ancestors"),
            Self::Skip(record) => write!(f, "skip {record}"),
        }
    }
}

/// Where a reset makes the reading of a shard begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResetPosition {
    /// At the oldest record that is kept.
    TrimHorizon,
    /// At the first record that arrived at this time of the service, or later.
    AtTimestamp(Timestamp),
    /// Behind this record, which counts as processed; a record inside an aggregate is named by its index in it.
    After(RecordPosition),
    /// Nowhere: the shard counts as processed to its end. The lease has no owner then.
    ShardEnd,
}

impl ResetPosition {
    /// The checkpoint of a row that is read from here, and the time that it means where it is AT_TIMESTAMP.
    pub fn checkpoint(&self) -> (Position, Option<Timestamp>) {
        match self {
            Self::ShardEnd => (Position::ShardEnd, None),
            Self::TrimHorizon => (Position::TrimHorizon, None),
            Self::AtTimestamp(time) => (Position::AtTimestamp, Some(*time)),
            Self::After(record) => (Position::Record(record.clone()), None),
        }
    }
}

impl std::fmt::Display for ResetPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TrimHorizon => f.write_str("TRIM_HORIZON"),
            Self::ShardEnd => f.write_str("SHARD_END"),
            Self::AtTimestamp(time) => write!(f, "AT_TIMESTAMP {}", time.as_millis()),
            Self::After(record) => write!(f, "{record}"),
        }
    }
}

/// The orders in the row of a worker. They are for the leader, and end with the row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkerOrders {
    /// One more with each order; 0 only where none was ever given.
    pub revision: u64,
    /// The worker gets no further lease.
    pub excluded: bool,
    /// The worker gets no further lease, and those that it has are handed to others.
    pub drained: bool,
    /// The last orders, the newest last: at most [`LeaseOrders::MOST_KEPT`].
    pub history: Vec<GivenOrder>,
}

/// An order for one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerOrder {
    /// Gives the worker no further lease; it keeps what it has.
    Exclude,
    /// Gives the worker no further lease, and hands those that it has to others.
    Drain,
    /// Gives the worker leases as any other.
    Include,
}

impl WorkerOrders {
    /// The orders with one more.
    #[must_use]
    pub fn with(&self, order: WorkerOrder, author: &OrderAuthor, at: Timestamp) -> Self {
        let mut orders = self.clone();
        (orders.excluded, orders.drained) = match order {
            WorkerOrder::Exclude => (true, false),
            WorkerOrder::Drain => (true, true),
            WorkerOrder::Include => (false, false),
        };
        let text = match order {
            WorkerOrder::Exclude => "exclude",
            WorkerOrder::Drain => "drain",
            WorkerOrder::Include => "include",
        };
        orders.revision = orders.revision.saturating_add(1);
        let given = author.gives(orders.revision, at, text.to_owned(), None);
        orders.history.push(given);
        let surplus = orders.history.len().saturating_sub(LeaseOrders::MOST_KEPT);
        orders.history.drain(..surplus);
        orders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn author() -> OrderAuthor {
        OrderAuthor::new("ana").unwrap()
    }

    #[test]
    fn history_keeps_last_orders_in_their_order() {
        let mut orders = LeaseOrders::default();
        for n in 0..20 {
            let order = if n % 2 == 0 {
                LeaseOrder::Pause
            } else {
                LeaseOrder::Resume
            };
            orders = orders.with(order, &author(), Timestamp::from_millis(n));
        }
        let revisions: Vec<u64> = orders.history.iter().map(|given| given.revision).collect();
        assert_eq!(revisions, (13..=20).collect::<Vec<_>>());
        assert_eq!((orders.revision, orders.paused), (20, false));
    }

    #[test]
    fn newest_reset_is_kept_for_its_undo() {
        let mut orders = LeaseOrders::default();
        for n in 0..2 {
            let to = ResetPosition::AtTimestamp(Timestamp::from_millis(n));
            orders = orders.with_reset(
                &to,
                ResetPosition::TrimHorizon,
                false,
                &author(),
                Timestamp::from_millis(n),
            );
        }
        for n in 2..30 {
            orders = orders.with(LeaseOrder::Pause, &author(), Timestamp::from_millis(n));
        }
        let revisions: Vec<u64> = orders.history.iter().map(|given| given.revision).collect();
        assert_eq!(revisions, [2, 24, 25, 26, 27, 28, 29, 30]);
        assert!(orders.history[0].before.is_some());
    }

    #[test]
    fn child_is_limited_as_its_parent_was() {
        let rate = Rate {
            records: std::num::NonZeroU32::new(5),
            kib: None,
        };
        let orders = LeaseOrders::default().with(LeaseOrder::Pause, &author(), Timestamp::from_millis(1));
        assert_eq!(orders.of_child(), None);
        let orders = orders.with(
            LeaseOrder::Limit(Some(rate)),
            &author(),
            Timestamp::from_millis(2),
        );
        let child = orders.of_child().unwrap();
        assert_eq!(
            (child.revision, child.paused, child.limit),
            (1, false, Some(rate))
        );
        assert_eq!(child.history[0].order, "limit to 5 records/s");
    }

    #[test]
    fn author_without_name_is_refused() {
        assert!(OrderAuthor::new("").is_err());
        assert!(OrderAuthor::new("a\nb").is_err());
        assert!(author().because("x".repeat(201)).is_err());
    }
}
