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
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::lease::change::apply;
    use crate::lease::row::RowFacts;
    use crate::types::{Incarnation, Position, RecordPosition, SequenceNumber, ShardId};

    const RENEW: LeaseChange = LeaseChange::Renew {
        throughput: None,
        facts: RowFacts::NONE,
    };

    fn id(name: &str) -> WorkerId {
        WorkerId::new(name).unwrap()
    }

    fn owned_by(name: &str) -> Lease {
        Lease {
            owner: Some(id(name)),
            ..Lease::unowned(ShardId::new("shard").unwrap(), Position::TrimHorizon)
        }
    }

    fn after(row: &Lease, change: &LeaseChange) -> Lease {
        apply(row, change, Incarnation::from_random_bytes([1; 16]))
    }

    fn checkpoint(record: &str) -> LeaseChange {
        let record = RecordPosition::plain(SequenceNumber::new(record).unwrap());
        LeaseChange::Checkpoint {
            position: Position::Record(record),
            throughput: None,
        }
    }

    fn second(n: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(n))
    }

    #[test]
    fn row_that_stores_more_gets_no_checkpoint() {
        let row = after(&owned_by("me"), &checkpoint("70"));
        let mut known = LeaseState::new(row.clone());
        for less in ["60", "70"] {
            assert_eq!(
                known.next(&checkpoint(less), &id("me"), second(1)),
                NextWrite::Stored(row.clone())
            );
        }
        let more = known.next(&checkpoint("80"), &id("me"), second(1));
        assert!(matches!(more, NextWrite::Write { .. }));
        let children = BTreeSet::new();
        let ended = after(&row, &LeaseChange::End { children });
        known.observe(ended.clone());
        assert_eq!(
            known.next(&checkpoint("80"), &id("me"), second(2)),
            NextWrite::Stored(ended)
        );
    }

    #[test]
    fn nothing_is_written_on_row_given_up() {
        let row = owned_by("me");
        let in_handoff = after(&row, &LeaseChange::BeginHandoff { to: id("next") });
        for given_up in [
            after(&row, &LeaseChange::Release),
            after(&in_handoff, &LeaseChange::CompleteHandoff),
        ] {
            let mut known = LeaseState::new(row.clone());
            assert!(known.observe(given_up.clone()));
            for change in [checkpoint("80"), RENEW, LeaseChange::Release] {
                assert_eq!(
                    known.next(&change, &id("me"), second(1)),
                    NextWrite::GivenUp(given_up.clone())
                );
            }
        }
        let mut known = LeaseState::new(in_handoff);
        assert!(matches!(
            known.next(&RENEW, &id("me"), second(1)),
            NextWrite::Write { .. }
        ));
    }

    #[test]
    fn write_counts_from_first_that_may_still_land() {
        let mut known = LeaseState::new(owned_by("me"));
        let since = |known: &mut LeaseState, now| match known.next(&RENEW, &id("me"), second(now)) {
            NextWrite::Write { since, .. } => since,
            other @ (NextWrite::Stored(_) | NextWrite::GivenUp(_)) => panic!("{other:?}"),
        };
        assert_eq!(since(&mut known, 1), second(1));
        assert_eq!(since(&mut known, 2), second(1));
        let renewed = after(known.row(), &RENEW);
        known.observe(renewed.clone());
        assert_eq!(since(&mut known, 3), second(3));
        // A reply that is no news: the write of second 3 expects this very row.
        assert!(known.observe(renewed));
        assert_eq!(since(&mut known, 4), second(3));
    }

    #[test]
    fn throttled_write_is_forgotten_unless_another_is_pending() {
        let mut known = LeaseState::new(owned_by("me"));
        let send = |known: &mut LeaseState, now| match known.next(&RENEW, &id("me"), second(now)) {
            NextWrite::Write { before, since } => (before, since),
            other @ (NextWrite::Stored(_) | NextWrite::GivenUp(_)) => panic!("{other:?}"),
        };
        let (old, _) = send(&mut known, 1);
        known.did_not_happen(&old);
        assert_eq!(send(&mut known, 2).1, second(2));
        assert_eq!(send(&mut known, 3).1, second(2));
        known.did_not_happen(&old);
        assert_eq!(send(&mut known, 4).1, second(2), "one of them may land yet");
        let renewed = after(&old, &RENEW);
        known.observe(renewed);
        assert_eq!(send(&mut known, 5).1, second(5));
        known.did_not_happen(&old);
        assert_eq!(
            send(&mut known, 6).1,
            second(5),
            "what failed was of an older row"
        );
    }

    #[test]
    fn a_reply_that_was_overtaken_is_left_aside() {
        let old = owned_by("me");
        let new = after(&old, &RENEW);
        let mut known = LeaseState::new(new.clone());
        assert!(!known.observe(old));
        assert_eq!(known.row(), &new);
    }
}
