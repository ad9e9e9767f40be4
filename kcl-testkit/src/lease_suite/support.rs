//! Helpers of the cases.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kcl_core::clock::{ClockExt as _, TokioClock};
use kcl_core::lease_store::{
    Expect, FinishedAhead, Lease, LeaseChange, LeaseStore, Outcome, OwnerNotes, PendingCheckpoint, RowFacts,
    Scan, Version, apply,
};
use kcl_core::types::{Incarnation, LeaseKey, Position, RecordPosition, SequenceNumber, ShardId, WorkerId};

pub(super) type Handle = Arc<dyn LeaseStore>;

pub(super) fn shard(n: u32) -> ShardId {
    ShardId::new(format!("shardId-{n:012}")).unwrap()
}

pub(super) fn shards(numbers: impl IntoIterator<Item = u32>) -> BTreeSet<ShardId> {
    numbers.into_iter().map(shard).collect()
}

pub(super) fn worker(n: u32) -> WorkerId {
    WorkerId::new(format!("worker-{n}")).unwrap()
}

pub(super) fn incarnation(n: u8) -> Incarnation {
    Incarnation::from_random_bytes([n; 16])
}

pub(super) fn at(sequence: u128) -> Position {
    Position::Record(RecordPosition::plain(SequenceNumber::from(sequence)))
}

/// A lease nobody owns.
pub(super) fn lease(n: u32) -> Lease {
    Lease::unowned(shard(n), Position::TrimHorizon)
}

/// A lease as it is created by a worker that means to own it.
pub(super) fn owned(n: u32, owner: u32) -> Lease {
    Lease {
        owner: Some(worker(owner)),
        ..lease(n)
    }
}

pub(super) fn renew() -> LeaseChange {
    LeaseChange::Renew {
        notes: OwnerNotes::NONE,
        facts: RowFacts::NONE,
    }
}

pub(super) fn assign(to: u32) -> LeaseChange {
    LeaseChange::Assign { to: worker(to) }
}

pub(super) fn hand_off(to: u32) -> LeaseChange {
    LeaseChange::BeginHandoff { to: worker(to) }
}

pub(super) fn checkpoint(sequence: u128) -> LeaseChange {
    LeaseChange::Checkpoint {
        position: at(sequence),
        finished_ahead: None,
        notes: OwnerNotes::NONE,
    }
}

/// A checkpoint with [`finished_ahead`].
pub(super) fn checkpoint_ahead(sequence: u128, end: u128) -> LeaseChange {
    LeaseChange::Checkpoint {
        position: at(sequence),
        finished_ahead: finished_ahead(sequence, end),
        notes: OwnerNotes::NONE,
    }
}

/// Every second record behind a checkpoint, as far as `end`.
pub(super) fn finished_ahead(base: u128, end: u128) -> Option<FinishedAhead> {
    let records = (base + 1..=end).map(|n| RecordPosition::plain(SequenceNumber::from(n)));
    let records: Vec<_> = records.collect();
    let delivered = records
        .iter()
        .enumerate()
        .map(|(index, record)| (record, index % 2 == 1));
    FinishedAhead::of(&at(base), true, delivered)
}

pub(super) fn prepare(sequence: u128, state: Option<&'static [u8]>) -> LeaseChange {
    LeaseChange::Prepare {
        pending: Some(PendingCheckpoint {
            position: at(sequence),
            state: state.map(Into::into),
        }),
    }
}

pub(super) const DISCARD: LeaseChange = LeaseChange::Prepare { pending: None };

pub(super) fn end(children: impl IntoIterator<Item = u32>) -> LeaseChange {
    LeaseChange::End {
        children: shards(children),
    }
}

/// The condition of a change by a writer that has read this row.
pub(super) fn expecting(row: &Lease, change: &LeaseChange) -> Expect {
    match change {
        LeaseChange::Create(_) => Expect::Absent,
        LeaseChange::BeginHandoff { .. } => Expect::Owners {
            owner: row.owner.clone(),
            checkpoint_owner: row.checkpoint_owner.clone(),
        },
        LeaseChange::Describe { .. } => Expect::Present,
        LeaseChange::Order { .. } => Expect::Orders(row.orders_revision()),
        LeaseChange::Reset { .. } => Expect::VersionAndOrders(row.version(), row.orders_revision()),
        LeaseChange::Renew { .. }
        | LeaseChange::Assign { .. }
        | LeaseChange::CompleteHandoff
        | LeaseChange::CancelHandoff
        | LeaseChange::Release
        | LeaseChange::Checkpoint { .. }
        | LeaseChange::Prepare { .. }
        | LeaseChange::End { .. }
        | LeaseChange::Delete => Expect::Version(row.version()),
    }
}

/// The version with another counter.
pub(super) fn with_counter(row: &Lease, counter: u64) -> Expect {
    Expect::Version(Version {
        counter,
        ..row.version()
    })
}

pub(super) async fn read(store: &Handle, key: &LeaseKey) -> Option<Lease> {
    store.read(key).await.unwrap()
}

/// Creates the lease, and checks that it reads back as it was written.
pub(super) async fn create(store: &Handle, lease: Lease) -> Lease {
    let change = LeaseChange::Create(Box::new(lease.clone()));
    let outcome = store
        .change(&lease.key, &Expect::Absent, &change, incarnation(1))
        .await
        .unwrap();
    assert_eq!(
        outcome,
        Outcome::Applied(Box::new(lease.clone())),
        "the answer to a create"
    );
    assert_eq!(
        read(store, &lease.key).await.as_ref(),
        Some(&lease),
        "the created row"
    );
    lease
}

/// Makes the change on a row as it was last read, and checks answer and row against the specification.
pub(super) async fn change(store: &Handle, row: &Lease, change: LeaseChange) -> Lease {
    let expected = apply(row, &change, incarnation(1));
    let outcome = attempt(store, row, &change).await;
    assert_eq!(
        outcome,
        Outcome::Applied(Box::new(expected.clone())),
        "the answer to {change:?}"
    );
    let left = (!matches!(change, LeaseChange::Delete)).then(|| expected.clone());
    assert_eq!(read(store, &row.key).await, left, "the row after {change:?}");
    expected
}

/// Makes the change on a row as it was last read.
pub(super) async fn attempt(store: &Handle, row: &Lease, change: &LeaseChange) -> Outcome {
    store
        .change(&row.key, &expecting(row, change), change, incarnation(1))
        .await
        .unwrap()
}

/// Checks that the change on a row as it was once read is refused, that the refusal shows the row if the store can, and that nothing was written.
pub(super) async fn refused(store: &Handle, stale: &Lease, change: &LeaseChange) {
    refused_expecting(store, &stale.key, &expecting(stale, change), change).await;
}

/// As [`refused`] under any expectation.
pub(super) async fn refused_expecting(store: &Handle, key: &LeaseKey, expect: &Expect, change: &LeaseChange) {
    let before = read(store, key).await;
    let outcome = store.change(key, expect, change, incarnation(2)).await.unwrap();
    let Outcome::Refused { current } = outcome else {
        panic!("{change:?} expecting {expect:?} was made on {before:?}");
    };
    if store.capabilities().refusal_shows_row {
        assert_eq!(
            current.map(|row| *row),
            before,
            "the row that the refusal of {change:?} shows"
        );
    }
    assert_eq!(
        read(store, key).await,
        before,
        "the row after a refused {change:?}"
    );
}

/// Whether exactly one of two outcomes is a success.
pub(super) fn one_won(outcomes: [&Outcome; 2]) -> bool {
    let won = |outcome: &&&Outcome| matches!(outcome, Outcome::Applied(_));
    outcomes.iter().filter(won).count() == 1
}

/// Scans until the scan is as wanted; a scan may lag behind, by no more than `lag`.
pub(super) async fn scan_until(store: &Handle, lag: Duration, wanted: impl Fn(&Scan) -> bool) -> Scan {
    let clock = TokioClock::new();
    let deadline = kcl_core::clock::Clock::now(&clock) + lag;
    loop {
        let scan = store.scan().await.unwrap();
        if wanted(&scan) {
            return scan;
        }
        let now = kcl_core::clock::Clock::now(&clock);
        assert!(
            now < deadline,
            "no scan within {lag:?} was as wanted; the last: {scan:?}"
        );
        clock.sleep(POLL).await;
    }
}

/// How often a reader that may lag is asked again.
pub(super) const POLL: Duration = Duration::from_millis(20);
