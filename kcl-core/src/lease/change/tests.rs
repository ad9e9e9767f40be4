//! The effect of every change and the verdict of a strong read on it, for any row.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use crate::lease::change::{Expect, LeaseChange, apply};
use crate::lease::finished_ahead::FinishedAhead;
use crate::lease::orders::{LeaseOrders, ResetPosition};
use crate::lease::resolve::{Resolution, resolve};
use crate::lease::row::{Lease, OwnerNotes, PendingCheckpoint, RowFacts, WriteStamp};
use crate::lease::store::{Certainty, StoreErrorKind, check_counter};
use crate::types::{
    HashKeyRange, Incarnation, Position, RecordPosition, SequenceNumber, ShardId, Timestamp, WorkerId,
};

fn worker(n: u8) -> WorkerId {
    WorkerId::new(format!("worker-{n}")).unwrap()
}

fn shard(n: u8) -> ShardId {
    ShardId::new(format!("shardId-{n:012}")).unwrap()
}

fn incarnation(n: u8) -> Incarnation {
    Incarnation::from_random_bytes([n; 16])
}

fn at(sequence: u128) -> Position {
    Position::Record(RecordPosition::plain(SequenceNumber::from(sequence)))
}

fn renew() -> LeaseChange {
    LeaseChange::Renew {
        notes: OwnerNotes::NONE,
        facts: RowFacts::NONE,
    }
}

/// Owned by worker 1.
fn owned() -> Lease {
    Lease {
        owner: Some(worker(1)),
        counter: 7,
        ..Lease::unowned(shard(1), at(3))
    }
}

/// Handed over by worker 1 to worker 2.
fn in_handoff() -> Lease {
    apply(
        &owned(),
        &LeaseChange::BeginHandoff { to: worker(2) },
        incarnation(8),
    )
}

fn version(row: &Lease) -> Expect {
    Expect::Version(row.version())
}

#[test]
fn numbers_at_their_limit_neither_wrap_nor_panic() {
    let last = Lease {
        counter: u64::MAX,
        owner_switches: u64::MAX,
        ..owned()
    };
    let taken = apply(&last, &LeaseChange::Assign { to: worker(2) }, incarnation(1));
    assert_eq!((taken.counter, taken.owner_switches), (u64::MAX, u64::MAX));
    let again = resolve(
        Some(&last),
        Some(&last),
        &version(&last),
        &renew(),
        incarnation(1),
    );
    assert_ne!(
        again,
        Resolution::OwnEarlierWrite,
        "no row is a step ahead of the last"
    );
}

#[test]
fn counting_ends_at_the_largest_counter() {
    let counted = |counter| Lease { counter, ..owned() };
    let check = |row: &Lease, change: &LeaseChange| check_counter(&row.key, &expecting(row, change), change);
    let (last, before) = (
        counted(Lease::LARGEST_COUNTER),
        counted(Lease::LARGEST_COUNTER - 1),
    );
    let counting = [
        renew(),
        LeaseChange::Assign { to: worker(2) },
        LeaseChange::Release,
        LeaseChange::Checkpoint {
            position: at(9),
            finished_ahead: None,
            notes: OwnerNotes::NONE,
        },
        LeaseChange::End {
            children: BTreeSet::new(),
        },
    ];
    for change in &counting {
        let error = check(&last, change).unwrap_err();
        assert_eq!(
            (error.kind(), error.certainty()),
            (StoreErrorKind::Data, Certainty::Definite)
        );
        assert!(check(&before, change).is_ok(), "{change:?}");
    }
    for change in [LeaseChange::BeginHandoff { to: worker(2) }, LeaseChange::Delete] {
        assert!(check(&last, &change).is_ok(), "{change:?} counts nothing");
    }
    let create = |row: Lease| LeaseChange::Create(Box::new(row));
    assert!(check(&last, &create(last.clone())).is_ok());
    assert!(check(&last, &create(counted(Lease::LARGEST_COUNTER + 1))).is_err());
}

/// The condition of a writer that has read this row.
fn expecting(row: &Lease, change: &LeaseChange) -> Expect {
    match change {
        LeaseChange::Create(_) => Expect::Absent,
        LeaseChange::Describe { .. } => Expect::Present,
        LeaseChange::Order { .. } => Expect::Orders(row.orders_revision()),
        LeaseChange::Reset { .. } => Expect::VersionAndOrders(row.version(), row.orders_revision()),
        LeaseChange::BeginHandoff { .. } => Expect::Owners {
            owner: row.owner.clone(),
            checkpoint_owner: row.checkpoint_owner.clone(),
        },
        LeaseChange::Renew { .. }
        | LeaseChange::Assign { .. }
        | LeaseChange::CompleteHandoff
        | LeaseChange::CancelHandoff
        | LeaseChange::Release
        | LeaseChange::Checkpoint { .. }
        | LeaseChange::Prepare { .. }
        | LeaseChange::End { .. }
        | LeaseChange::Delete => version(row),
    }
}

/// One record is finished ahead of a checkpoint at this one.
fn ahead(base: u128) -> Option<FinishedAhead> {
    let [first, second] = [1, 2].map(|by| RecordPosition::plain(SequenceNumber::from(base + by)));
    FinishedAhead::of(&at(base), true, [(&first, false), (&second, true)])
}

prop_compose! {
    fn any_row()(
        owner in prop::option::of(0_u8..3),
        handing in prop::option::of(0_u8..3),
        (counter, owner_switches) in (0_u64..9, 0_u64..5),
        checkpoint in prop_oneof![Just(Position::TrimHorizon), (0_u128..9).prop_map(at), Just(Position::ShardEnd)],
        pending in prop::option::of(0_u128..9),
        stamp in prop::option::of(0_u8..3),
        ahead_of in prop::option::of(0_u128..9),
    ) -> Lease {
        let handing = handing.filter(|handing| owner.is_some() && owner != Some(*handing));
        Lease {
            owner: owner.map(worker),
            checkpoint_owner: handing.map(worker),
            handoff_stamp: handing.map(|_| incarnation(8)),
            counter,
            owner_switches,
            checkpoint,
            finished_ahead: ahead_of.and_then(ahead),
            pending: pending.map(|n| PendingCheckpoint { position: at(n), state: None }),
            stamp: stamp.map(|n| WriteStamp { incarnation: incarnation(n), counter }),
            ..Lease::unowned(shard(1), Position::TrimHorizon)
        }
    }
}

/// The first orders of a row.
fn any_orders() -> impl Strategy<Value = Box<LeaseOrders>> {
    any::<bool>().prop_map(|paused| {
        Box::new(LeaseOrders {
            revision: 1,
            paused,
            ..LeaseOrders::default()
        })
    })
}

fn reset_to() -> impl Strategy<Value = ResetPosition> {
    prop_oneof![
        Just(ResetPosition::TrimHorizon),
        Just(ResetPosition::ShardEnd),
        (0_i64..9).prop_map(|millis| ResetPosition::AtTimestamp(Timestamp::from_millis(millis))),
        (0_u128..9, 0_u64..3).prop_map(|(n, sub_sequence)| ResetPosition::After(RecordPosition {
            sequence: SequenceNumber::from(n),
            sub_sequence,
        })),
    ]
}

/// Every change but creating, which needs no row. A checkpoint at the end of a shard is not one: that is [`LeaseChange::End`].
fn any_change() -> impl Strategy<Value = LeaseChange> {
    let children = || prop::collection::btree_set((2_u8..5).prop_map(shard), 1..3);
    prop_oneof![
        prop::option::of(1_u32..9).prop_map(|throughput| LeaseChange::Renew {
            notes: OwnerNotes {
                throughput: throughput.map(f64::from),
                ..OwnerNotes::NONE
            },
            facts: RowFacts {
                failover: throughput.map(|n| Duration::from_secs(n.into())),
                ..RowFacts::NONE
            },
        }),
        (0_u8..3).prop_map(|n| LeaseChange::Assign { to: worker(n) }),
        (0_u8..3).prop_map(|n| LeaseChange::BeginHandoff { to: worker(n) }),
        Just(LeaseChange::CompleteHandoff),
        Just(LeaseChange::CancelHandoff),
        Just(LeaseChange::Release),
        (0_u128..9, prop::option::of(1_u32..9), any::<bool>()).prop_map(|(n, throughput, is_ahead)| {
            LeaseChange::Checkpoint {
                position: at(n),
                finished_ahead: ahead(n).filter(|_| is_ahead),
                notes: OwnerNotes {
                    throughput: throughput.map(f64::from),
                    ..OwnerNotes::NONE
                },
            }
        }),
        prop::option::of(0_u128..9).prop_map(|n| LeaseChange::Prepare {
            pending: n.map(|n| PendingCheckpoint {
                position: at(n),
                state: (n > 4).then(|| "state".into())
            }),
        }),
        children().prop_map(|children| LeaseChange::End { children }),
        children().prop_map(|children| LeaseChange::Describe {
            children: Some(children),
            hash_range: Some(HashKeyRange::WHOLE),
        }),
        any_orders().prop_map(|orders| LeaseChange::Order { orders }),
        (reset_to(), any_orders()).prop_map(|(to, orders)| LeaseChange::Reset { to, orders }),
        Just(LeaseChange::Delete),
    ]
}

/// A row and a change that a writer who read the row may make.
fn row_and_change() -> impl Strategy<Value = (Lease, LeaseChange)> {
    (any_row(), any_change()).prop_filter("a mistake of the caller", |(row, change)| {
        change.fits(&expecting(row, change))
    })
}

proptest! {
    /// The counter moves by one with every change that takes part in the heartbeat, with the writer's stamp; with others neither moves.
    #[test]
    fn counter_moves_by_one_with_stamp_or_stays((row, change) in row_and_change()) {
        let new = apply(&row, &change, incarnation(1));
        if change.moves_counter() {
            let stamp = WriteStamp { incarnation: incarnation(1), counter: row.counter + 1 };
            prop_assert_eq!((new.counter, new.stamp), (row.counter + 1, Some(stamp)));
        } else {
            prop_assert_eq!((new.counter, new.stamp), (row.counter, row.stamp));
        }
    }

    /// Every change that another writer could collide with breaks the version; describing and ordering disturb no writer.
    #[test]
    fn every_change_but_a_description_moves_the_version((row, change) in row_and_change()) {
        let moved = apply(&row, &change, incarnation(1)).version() != row.version();
        let disturbs = !matches!(change, LeaseChange::Describe { .. } | LeaseChange::Order { .. } | LeaseChange::Delete);
        prop_assert_eq!(moved, disturbs);
    }

    /// A worker that hands a lease over is always named beside another that takes it, and a stamp shows who started it.
    #[test]
    fn a_handoff_always_names_two_workers((row, change) in row_and_change()) {
        let new = apply(&row, &change, incarnation(1));
        if new.is_in_handoff() {
            prop_assert!(new.owner.is_some() && new.owner != new.checkpoint_owner, "{new:?}");
        }
        prop_assert_eq!(new.handoff_stamp.is_some(), new.is_in_handoff());
    }

    /// Progress is written by checkpoint, end and reset, and by nothing else.
    #[test]
    fn only_checkpoint_and_end_move_the_position((row, change) in row_and_change()) {
        let new = apply(&row, &change, incarnation(1));
        let expected = if let LeaseChange::Checkpoint { position, finished_ahead, .. } = change {
            (position, None, finished_ahead)
        } else if let LeaseChange::End { .. } = change {
            (Position::ShardEnd, None, None)
        } else if let LeaseChange::Reset { to, .. } = change {
            (to.checkpoint().0, None, None)
        } else if let LeaseChange::Prepare { pending } = change {
            (row.checkpoint, pending, row.finished_ahead)
        } else {
            (row.checkpoint, row.pending, row.finished_ahead)
        };
        prop_assert_eq!((new.checkpoint, new.pending, new.finished_ahead), expected);
    }

    /// The worker that processes the shard changes only where ownership is meant to change.
    #[test]
    fn actual_owner_changes_only_with_the_ownership((row, change) in row_and_change()) {
        let new = apply(&row, &change, incarnation(1));
        let expected = if let LeaseChange::Assign { to } = &change {
            Some(to)
        } else if matches!(change, LeaseChange::CompleteHandoff) || (matches!(change, LeaseChange::Release) && row.is_in_handoff()) {
            row.owner.as_ref()
        } else if matches!(change, LeaseChange::Release | LeaseChange::End { .. } | LeaseChange::Reset { to: ResetPosition::ShardEnd, .. }) {
            None
        } else {
            row.actual_owner()
        };
        prop_assert_eq!(new.actual_owner(), expected);
    }

    /// Each change may be made under exactly one kind of expectation.
    #[test]
    fn every_change_fits_exactly_one_kind_of_expectation(row in any_row(), change in any_change()) {
        let kinds = [
            Expect::Absent,
            version(&row),
            Expect::Owners { owner: row.owner.clone(), checkpoint_owner: row.checkpoint_owner.clone() },
            Expect::Present,
        ];
        let fitting: Vec<&Expect> = kinds.iter().filter(|expect| change.fits(expect)).collect();
        prop_assert!(fitting.len() <= 1, "{change:?} fits {fitting:?}");
        if let Some(fitting) = fitting.first() {
            prop_assert_eq!(*fitting, &expecting(&row, &change));
        }
        let create = LeaseChange::Create(Box::new(row));
        prop_assert!(kinds.iter().filter(|expect| create.fits(expect)).eq([&Expect::Absent]));
    }

    /// A write that landed is found to have landed.
    #[test]
    fn a_change_that_landed_resolves_to_applied((row, change) in row_and_change()) {
        let after = apply(&row, &change, incarnation(1));
        let shown = (!matches!(change, LeaseChange::Delete)).then_some(&after);
        let expect = expecting(&row, &change);
        prop_assert_eq!(resolve(shown, Some(&row), &expect, &change, incarnation(1)), Resolution::Applied);
    }

    /// A handoff that a planner began on top does not hide a write that landed, unless it looks just like the handoff before.
    #[test]
    fn handoff_on_top_does_not_hide_landed_change((row, change) in row_and_change()) {
        let after = apply(&row, &change, incarnation(1));
        prop_assume!(change.moves_counter() && after.owner.is_some() && !after.is_in_handoff());
        let on_top = apply(&after, &LeaseChange::BeginHandoff { to: worker(9) }, incarnation(8));
        let expect = expecting(&row, &change);
        prop_assert_eq!(resolve(Some(&on_top), Some(&row), &expect, &change, incarnation(1)), Resolution::Applied);
    }

    /// A write that has not landed may land yet, and repeating it is safe.
    #[test]
    fn change_that_did_not_land_is_not_yet((row, change) in row_and_change()) {
        let expect = expecting(&row, &change);
        let resolution = resolve(Some(&row), Some(&row), &expect, &change, incarnation(1));
        prop_assert_eq!(resolution, Resolution::NotYet);
    }

    /// The very same change by another run of the process, under the same worker id, is somebody else's.
    #[test]
    fn same_change_by_another_incarnation_is_refused((row, change) in row_and_change()) {
        prop_assume!(change.moves_counter() || matches!(change, LeaseChange::BeginHandoff { .. }));
        let theirs = apply(&row, &change, incarnation(9));
        let expect = expecting(&row, &change);
        prop_assert_eq!(resolve(Some(&theirs), Some(&row), &expect, &change, incarnation(1)), Resolution::Refused);
    }

    /// When an earlier write of ours lands late, a later one under the same version is never taken for landed unless the row is as it would be.
    #[test]
    fn earlier_write_is_not_taken_for_later_one(
        row in any_row(),
        earlier in any_change(),
        later in any_change(),
    ) {
        prop_assume!(earlier.moves_counter() && later.moves_counter());
        prop_assume!(earlier.fits(&version(&row)) && later.fits(&version(&row)));
        let landed = apply(&row, &earlier, incarnation(1));
        let meant = apply(&row, &later, incarnation(1));
        match resolve(Some(&landed), Some(&row), &version(&row), &later, incarnation(1)) {
            Resolution::Applied => {
                prop_assert_eq!(landed.version(), meant.version());
                prop_assert_eq!((landed.checkpoint, landed.pending), (meant.checkpoint, meant.pending));
            }
            Resolution::OwnEarlierWrite => prop_assert_eq!(landed.actual_owner(), row.actual_owner()),
            Resolution::Refused => prop_assert_ne!(landed.actual_owner(), row.actual_owner()),
            Resolution::NotYet => prop_assert!(false, "the version moved"),
        }
    }
}

#[test]
fn owner_switches_count_as_in_java_kcl() {
    let assigned =
        |row: &Lease, to| apply(row, &LeaseChange::Assign { to: worker(to) }, incarnation(1)).owner_switches;
    let unowned = Lease {
        owner: None,
        ..owned()
    };
    assert_eq!(assigned(&unowned, 1), 0, "an owner where there was none");
    assert_eq!(assigned(&owned(), 1), 0, "the same owner");
    assert_eq!(assigned(&owned(), 2), 1, "another owner");
    assert_eq!(assigned(&in_handoff(), 2), 0, "the next owner of a handoff");
    assert_eq!(
        assigned(&in_handoff(), 1),
        1,
        "back to the worker that hands over"
    );
    assert_eq!(assigned(&in_handoff(), 3), 1, "a third");
    let switched = Lease {
        owner_switches: 4,
        ..owned()
    };
    let checkpoint = LeaseChange::Checkpoint {
        position: at(9),
        finished_ahead: None,
        notes: OwnerNotes::NONE,
    };
    assert_eq!(apply(&switched, &checkpoint, incarnation(1)).owner_switches, 0);
    assert_eq!(apply(&switched, &renew(), incarnation(1)).owner_switches, 4);
}

#[test]
fn ended_lease_keeps_parents_and_has_no_owner() {
    let row = Lease {
        parents: BTreeSet::from([shard(0)]),
        ..in_handoff()
    };
    let children = BTreeSet::from([shard(2), shard(3)]);
    let ended = apply(
        &row,
        &LeaseChange::End {
            children: children.clone(),
        },
        incarnation(1),
    );
    assert_eq!((&ended.children, &ended.parents), (&children, &row.parents));
    assert_eq!((ended.owner, ended.checkpoint_owner), (None, None));
}

#[test]
fn created_row_is_the_one_given() {
    let create = LeaseChange::Create(Box::new(in_handoff()));
    assert_eq!(apply(&owned(), &create, incarnation(1)), in_handoff());
}

/// Java takes a row whose two owners are one worker for broken, and its lease for lost.
#[test]
fn handoff_from_worker_to_itself_does_not_fit() {
    let expect = expecting(&owned(), &renew());
    assert!(renew().fits(&expect));
    let to_itself = LeaseChange::BeginHandoff { to: worker(1) };
    assert!(!to_itself.fits(&expecting(&owned(), &to_itself)));
    let to_another = LeaseChange::BeginHandoff { to: worker(2) };
    assert!(to_another.fits(&expecting(&owned(), &to_another)));
}

/// The row after our late renewal shows worker 1 handing over, as a handoff on top of our cancellation would.
#[test]
fn late_renewal_does_not_look_like_cancelled_handoff() {
    let before = in_handoff();
    let late = apply(&before, &renew(), incarnation(1));
    let cancel = LeaseChange::CancelHandoff;
    let resolution = resolve(
        Some(&late),
        Some(&before),
        &version(&before),
        &cancel,
        incarnation(1),
    );
    assert_eq!(resolution, Resolution::OwnEarlierWrite);
}

#[test]
fn creating_resolves_by_the_row_that_is_there() {
    let create = LeaseChange::Create(Box::new(owned()));
    let judge = |row: Option<&Lease>| resolve(row, None, &Expect::Absent, &create, incarnation(1));
    assert_eq!(judge(None), Resolution::NotYet);
    assert_eq!(judge(Some(&owned())), Resolution::Applied);
    assert_eq!(judge(Some(&in_handoff())), Resolution::Refused);
}

#[test]
fn vanished_row_refuses_every_change_but_its_deletion() {
    let judge = |change: &LeaseChange| {
        let row = if change.fits(&version(&owned())) {
            owned()
        } else {
            in_handoff()
        };
        resolve(None, Some(&row), &version(&row), change, incarnation(1))
    };
    assert_eq!(judge(&LeaseChange::Delete), Resolution::Applied);
    for change in [renew(), LeaseChange::Release, LeaseChange::CompleteHandoff] {
        assert_eq!(judge(&change), Resolution::Refused, "{change:?}");
    }
}

/// A renewal of our own that landed late shows the same counter and stamp, and not what was finished ahead.
#[test]
fn late_renewal_is_no_checkpoint_at_same_place() {
    let before = Lease {
        checkpoint: at(4),
        ..owned()
    };
    let checkpoint = LeaseChange::Checkpoint {
        position: at(4),
        finished_ahead: ahead(4),
        notes: OwnerNotes::NONE,
    };
    let fate = |row: &Lease| {
        resolve(
            Some(row),
            Some(&before),
            &version(&before),
            &checkpoint,
            incarnation(1),
        )
    };
    let renewed = apply(&before, &renew(), incarnation(1));
    assert_eq!(fate(&renewed), Resolution::OwnEarlierWrite);
    assert_eq!(
        fate(&apply(&before, &checkpoint, incarnation(1))),
        Resolution::Applied
    );
}
