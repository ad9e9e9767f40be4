//! Random changes from three handles, compared with the specification one by one.

use std::collections::BTreeMap;
use std::time::Duration;

use kcl_core::clock::Rng;
use kcl_core::lease_store::{
    Lease, LeaseChange, LeaseOrder, LeaseOrders, OrderAuthor, Outcome, OwnerNotes, ResetPosition, RowFacts,
    apply,
};
use kcl_core::types::{HashKeyRange, LeaseKey, Timestamp};

use super::LeaseStoreFixture;
use super::support::{
    DISCARD, assign, at, checkpoint, end, expecting, finished_ahead, hand_off, incarnation, lease, owned,
    prepare, read, renew, scan_until, shards,
};

/// Whatever three handles do to a few leases, answers and rows are those of the specification applied in the same order.
pub async fn random_changes_from_three_handles_equal_a_sequential_fold_of_the_specification(
    fixture: &dyn LeaseStoreFixture,
) {
    let scale = fixture.scale();
    println!("seed {}", scale.seed);
    let mut rng = Rng::from_seed(scale.seed).child("lease model");
    let handles = [
        fixture.handle().await,
        fixture.handle().await,
        fixture.handle().await,
    ];
    let mut rows: BTreeMap<LeaseKey, Lease> = BTreeMap::new();
    // What some writer read once: expectations are taken from here too, and are mostly stale.
    let mut remembered: Vec<Lease> = [1, 2, 3, 4].repeat(4).into_iter().map(lease).collect();
    let mut applied = 0;
    for step in 0..scale.random_changes {
        let slot = usize::try_from(rng.below(16)).unwrap();
        let seen = remembered[slot].clone();
        let current = rows.get(&seen.key).cloned();
        let basis = if rng.one_in(4) {
            seen
        } else {
            current.clone().unwrap_or(seen)
        };
        let change = draw(&mut rng, &basis);
        let expect = expecting(&basis, &change);
        if !change.fits(&expect) {
            continue;
        }
        let writer = incarnation(u8::try_from(rng.below(3)).unwrap());
        let handle = pick(&mut rng, &handles);
        let outcome = handle.change(&basis.key, &expect, &change, writer).await.unwrap();
        let told = format!("step {step}: {change:?} expecting {expect:?} on {current:?}");
        if !expect.holds(current.as_ref()) {
            assert!(matches!(outcome, Outcome::Refused { .. }), "{told}: {outcome:?}");
            continue;
        }
        applied += 1;
        let after = apply(current.as_ref().unwrap_or(&basis), &change, writer);
        assert_eq!(outcome, Outcome::Applied(Box::new(after.clone())), "{told}");
        if matches!(change, LeaseChange::Delete) {
            rows.remove(&basis.key);
        } else {
            rows.insert(basis.key.clone(), after.clone());
        }
        if rng.one_in(4) {
            remembered[slot] = after;
        }
    }
    println!("{applied} of {} changes were applied", scale.random_changes);
    assert!(
        applied > scale.random_changes / 4,
        "the changes were mostly refused: {applied} applied"
    );
    for n in 1..=4 {
        let key = lease(n).key;
        assert_eq!(
            read(pick(&mut rng, &handles), &key).await.as_ref(),
            rows.get(&key)
        );
    }
    scan_until(&handles[0], scale.lag, |scan| {
        let seen: BTreeMap<&LeaseKey, &Lease> = scan.leases.iter().map(|lease| (&lease.key, lease)).collect();
        seen == rows.iter().collect()
    })
    .await;
}

fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    let bound = u64::try_from(from.len()).unwrap();
    &from[usize::try_from(rng.below(bound)).unwrap()]
}

fn number(rng: &mut Rng, below: u64) -> u32 {
    u32::try_from(rng.below(below)).unwrap()
}

fn draw(rng: &mut Rng, basis: &Lease) -> LeaseChange {
    match rng.below(16) {
        0 | 1 => {
            let fresh = if rng.one_in(2) {
                owned(1, number(rng, 3))
            } else {
                lease(1)
            };
            LeaseChange::Create(Box::new(Lease {
                key: basis.key.clone(),
                shard: basis.shard.clone(),
                ..fresh
            }))
        }
        2 | 3 => renew(),
        4 | 5 => LeaseChange::Renew {
            // Quarters survive every decimal notation.
            notes: OwnerNotes {
                throughput: Some(f64::from(number(rng, 4000)) / 4.0),
                ..OwnerNotes::NONE
            },
            facts: RowFacts {
                identity: None,
                failover: rng
                    .one_in(2)
                    .then(|| Duration::from_millis(u64::from(number(rng, 9000)))),
                latest_at: rng
                    .one_in(2)
                    .then(|| Timestamp::from_millis(i64::from(number(rng, 9000)))),
            },
        },
        6 | 7 => assign(number(rng, 3)),
        8 | 9 => hand_off(number(rng, 3)),
        10 => LeaseChange::CompleteHandoff,
        11 => LeaseChange::CancelHandoff,
        12 => LeaseChange::Release,
        13 | 14 => match rng.below(4) {
            0 => end([90 + number(rng, 3), 95]),
            1 => LeaseChange::Describe {
                children: rng.one_in(2).then(|| shards([80, 81 + number(rng, 3)])),
                hash_range: rng
                    .one_in(2)
                    .then(|| HashKeyRange::new(rng.below(10).into(), u128::MAX).unwrap()),
            },
            2 => LeaseChange::Checkpoint {
                position: at(rng.bits().into()),
                finished_ahead: finished_ahead(9, 9 + u128::from(rng.below(40))),
                notes: OwnerNotes {
                    throughput: Some(f64::from(number(rng, 4000)) / 4.0),
                    ..OwnerNotes::NONE
                },
            },
            _ => checkpoint(rng.bits().into()),
        },
        _ => match rng.below(4) {
            0 | 1 => LeaseChange::Delete,
            2 => checkpoint(rng.bits().into()),
            _ => match rng.below(5) {
                0 => DISCARD,
                3 => LeaseChange::Order {
                    orders: Box::new(orders(rng, basis)),
                },
                4 => LeaseChange::Reset {
                    to: ResetPosition::AtTimestamp(Timestamp::from_millis(rng.below(9000).cast_signed())),
                    orders: Box::new(orders(rng, basis)),
                },
                1 => prepare(rng.bits().into(), None),
                _ => prepare(rng.bits().into(), Some(b"state")),
            },
        },
    }
}

/// The next orders of the row.
fn orders(rng: &mut Rng, basis: &Lease) -> LeaseOrders {
    let author = OrderAuthor::new("ana").unwrap();
    let order = match rng.below(3) {
        0 => LeaseOrder::Pause,
        1 => LeaseOrder::Resume,
        _ => LeaseOrder::Pin(super::support::worker(number(rng, 3))),
    };
    let before = basis.orders.as_deref().cloned().unwrap_or_default();
    before.with(order, &author, Timestamp::from_millis(7))
}
