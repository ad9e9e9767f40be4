//! What an owner knows of its row, and what that means for its next write.

use crate::lease::{Lease, LeaseChange};
use crate::model::WorkerId;
use crate::time::Moment;

/// The newest row that any reply has shown to an owner, and which writes of its own may land on it.
#[derive(Debug)]
pub(super) struct LastKnown {
    row: Lease,
    on_their_way: Option<OnTheirWay>,
}

/// Writes on the known row of which it is not known that they failed.
#[derive(Debug)]
struct OnTheirWay {
    /// When the first of them was sent: what shows as applied later may be that one.
    since: Moment,
    /// How many there are. One whose answer nobody waits for stays among them until the row is another.
    writes: u32,
}

/// How an owner's change is to be made.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// On this row. What it brings counts from `since`, when the first write was sent that may be seen in its place.
    Write { before: Lease, since: Moment },
    /// Not at all: the row stores as much already.
    Stored(Lease),
    /// Not any more: the owner gave the lease up, as this row shows. To write on it would be to change what is somebody else's.
    GivenUp(Lease),
}

impl LastKnown {
    pub(super) fn new(row: Lease) -> Self {
        Self {
            row,
            on_their_way: None,
        }
    }

    pub(super) fn row(&self) -> &Lease {
        &self.row
    }

    /// Decides how `me`, the owner, makes a change at `now`.
    ///
    /// Several tasks write for one owner, and between the moment in which one decides what to store and this one another may have stored
    /// more, or given the lease up.
    pub(super) fn next(&mut self, change: &LeaseChange, me: &WorkerId, now: Moment) -> Next {
        if change.stores_no_more_than(&self.row) {
            return Next::Stored(self.row.clone());
        }
        if self.row.actual_owner() != Some(me) {
            return Next::GivenUp(self.row.clone());
        }
        let others = OnTheirWay {
            since: now,
            writes: 0,
        };
        let on_their_way = self.on_their_way.get_or_insert(others);
        on_their_way.writes += 1;
        Next::Write {
            before: self.row.clone(),
            since: on_their_way.since,
        }
    }

    /// Takes in that a write on the row `before` certainly did not happen, and never will.
    pub(super) fn did_not_happen(&mut self, before: &Lease) {
        if before.version() != self.row.version() {
            return;
        }
        if let Some(on_their_way) = &mut self.on_their_way {
            on_their_way.writes -= 1;
        }
        self.on_their_way.take_if(|on_their_way| on_their_way.writes == 0);
    }

    /// Takes in what a reply showed. Says whether it is older than what is known, and so left aside.
    ///
    /// A reply may be polled long after the lane had it, as when the user's code holds the future of a checkpoint and waits
    /// for something else. By then the row has gone on, and going on from the old one would look like a lost lease.
    pub(super) fn learn(&mut self, row: Lease) -> bool {
        let age = |row: &Lease| (row.counter, row.is_in_handoff());
        let (known, shown) = (age(&self.row), age(&row));
        if shown > known {
            // Nothing that expected an older row can land any more. What expects the row that is known already still can.
            self.on_their_way = None;
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
    use crate::lease::{RowFacts, apply};
    use crate::model::{Incarnation, Position, RecordPosition, SequenceNumber, ShardId};

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
    fn no_checkpoint_is_written_on_a_row_that_stores_more() {
        let row = after(&owned_by("me"), &checkpoint("70"));
        let mut known = LastKnown::new(row.clone());
        for less in ["60", "70"] {
            assert_eq!(
                known.next(&checkpoint(less), &id("me"), second(1)),
                Next::Stored(row.clone())
            );
        }
        let more = known.next(&checkpoint("80"), &id("me"), second(1));
        assert!(matches!(more, Next::Write { .. }));
        let children = BTreeSet::new();
        let ended = after(&row, &LeaseChange::End { children });
        known.learn(ended.clone());
        assert_eq!(
            known.next(&checkpoint("80"), &id("me"), second(2)),
            Next::Stored(ended)
        );
    }

    #[test]
    fn nothing_is_written_on_a_row_that_was_given_up() {
        let row = owned_by("me");
        let in_handoff = after(&row, &LeaseChange::BeginHandoff { to: id("next") });
        for given_up in [
            after(&row, &LeaseChange::Release),
            after(&in_handoff, &LeaseChange::CompleteHandoff),
        ] {
            let mut known = LastKnown::new(row.clone());
            assert!(known.learn(given_up.clone()));
            for change in [checkpoint("80"), RENEW, LeaseChange::Release] {
                assert_eq!(
                    known.next(&change, &id("me"), second(1)),
                    Next::GivenUp(given_up.clone())
                );
            }
        }
        let mut known = LastKnown::new(in_handoff);
        assert!(matches!(
            known.next(&RENEW, &id("me"), second(1)),
            Next::Write { .. }
        ));
    }

    #[test]
    fn what_is_written_counts_from_the_first_write_that_may_still_land() {
        let mut known = LastKnown::new(owned_by("me"));
        let since = |known: &mut LastKnown, now| match known.next(&RENEW, &id("me"), second(now)) {
            Next::Write { since, .. } => since,
            other @ (Next::Stored(_) | Next::GivenUp(_)) => panic!("{other:?}"),
        };
        assert_eq!(since(&mut known, 1), second(1));
        assert_eq!(since(&mut known, 2), second(1));
        let renewed = after(known.row(), &RENEW);
        known.learn(renewed.clone());
        assert_eq!(since(&mut known, 3), second(3));
        // A reply that is no news: the write of second 3 expects this very row.
        assert!(known.learn(renewed));
        assert_eq!(since(&mut known, 4), second(3));
    }

    #[test]
    fn a_throttled_write_is_forgotten_unless_another_is_under_way() {
        let mut known = LastKnown::new(owned_by("me"));
        let send = |known: &mut LastKnown, now| match known.next(&RENEW, &id("me"), second(now)) {
            Next::Write { before, since } => (before, since),
            other @ (Next::Stored(_) | Next::GivenUp(_)) => panic!("{other:?}"),
        };
        let (old, _) = send(&mut known, 1);
        known.did_not_happen(&old);
        assert_eq!(send(&mut known, 2).1, second(2));
        assert_eq!(send(&mut known, 3).1, second(2));
        known.did_not_happen(&old);
        assert_eq!(send(&mut known, 4).1, second(2), "one of them may land yet");
        let renewed = after(&old, &RENEW);
        known.learn(renewed);
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
        let mut known = LastKnown::new(new.clone());
        assert!(!known.learn(old));
        assert_eq!(known.row(), &new);
    }
}
