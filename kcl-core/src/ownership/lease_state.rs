//! The owner's knowledge of its row, and the consequence for its next write.

use crate::lease::change::LeaseChange;
use crate::lease::row::Lease;
use crate::runtime::clock::Moment;
use crate::types::WorkerId;

/// The newest row that any reply has shown to an owner, and which writes of its own may land on it.
#[derive(Debug)]
pub(crate) struct LeaseState {
    row: Lease,
    in_flight: Option<InFlightWrites>,
}

/// Writes on the known row of which it is not known that they failed.
#[derive(Debug)]
struct InFlightWrites {
    /// When the first of them was sent: what shows as applied later may be that one.
    since: Moment,
    /// How many there are. One whose answer nobody waits for stays among them until the row is another.
    writes: u32,
}

/// How an owner's change is to be made.
#[derive(Debug, PartialEq)]
pub(crate) enum NextWrite {
    /// On this row. Its result counts from `since`, when the first write was sent that may be seen in its place.
    Write { before: Lease, since: Moment },
    /// Not at all: the row stores as much already.
    Stored(Lease),
    /// Not any more: the owner gave the lease up, as this row shows. To write on it would be to change what is somebody else's.
    GivenUp(Lease),
}

impl LeaseState {
    pub(crate) fn new(row: Lease) -> Self {
        Self { row, in_flight: None }
    }

    pub(crate) fn row(&self) -> &Lease {
        &self.row
    }

    /// Decides how `me`, the owner, makes a change at `now`.
    ///
    /// Several tasks write for one owner, and between the moment in which one decides what to store and this one another may have stored
    /// more, or given the lease up.
    pub(crate) fn next(&mut self, change: &LeaseChange, me: &WorkerId, now: Moment) -> NextWrite {
        if change.stores_no_more_than(&self.row) {
            return NextWrite::Stored(self.row.clone());
        }
        if self.row.actual_owner() != Some(me) {
            return NextWrite::GivenUp(self.row.clone());
        }
        let others = InFlightWrites {
            since: now,
            writes: 0,
        };
        let in_flight = self.in_flight.get_or_insert(others);
        in_flight.writes += 1;
        NextWrite::Write {
            before: self.row.clone(),
            since: in_flight.since,
        }
    }

    /// Notes that a write on the row `before` certainly did not happen, and never will.
    pub(crate) fn did_not_happen(&mut self, before: &Lease) {
        if before.version() != self.row.version() {
            return;
        }
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.writes -= 1;
        }
        self.in_flight.take_if(|in_flight| in_flight.writes == 0);
    }

    /// Notes what a reply showed. Returns `true` if it is older than what is known, and so left aside.
    ///
    /// A reply may be polled long after the queue had it, as when the user's code holds the future of a checkpoint and waits
    /// for something else. By then the row has gone on, and going on from the old one would look like a lost lease.
    pub(crate) fn observe(&mut self, row: Lease) -> bool {
        let age = |row: &Lease| (row.counter, row.is_in_handoff());
        let (known, shown) = (age(&self.row), age(&row));
        if shown > known {
            // Nothing that expected an older row can land any more. What expects the row that is known already still can.
            self.in_flight = None;
        }
        if shown >= known {
            self.row = row;
        }
        shown >= known
    }
}

#[cfg(test)]
mod tests;
