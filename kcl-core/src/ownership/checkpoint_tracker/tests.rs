use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::types::{Record, SequenceNumber};

fn records(range: std::ops::Range<u128>) -> Arc<FetchedBatch> {
    let list: Vec<_> = range.map(|n| Record::new(SequenceNumber::from(n), "")).collect();
    Arc::new(list.into())
}

fn number(position: &RecordPosition) -> u128 {
    position.sequence.as_str().parse().unwrap()
}

proptest! {
    /// Whatever the order, the stored position is exactly the longest finished prefix, and it never falls.
    #[test]
    fn the_position_is_the_longest_finished_prefix(
        sizes in prop::collection::vec(0_usize..6, 1..8),
        steps in prop::collection::vec((0_usize..8, 0_usize..6, 0_u8..5), 0..60),
    ) {
        let mut tracker = CheckpointTracker::default();
        let (mut next, mut batches) = (1_u128, Vec::new());
        for size in sizes {
            let range = next..next + size as u128;
            next = range.end;
            batches.push((tracker.deliver(records(range.clone())), range));
        }
        let (mut finished, mut released) = (BTreeSet::new(), BTreeSet::new());
        let (mut last, mut offered) = (0, 1);
        for (batch, index, kind) in steps {
            let Some((id, range)) = batches.get(batch) else { continue };
            let of_index = range.start + index as u128;
            match kind {
                4 => {
                    tracker.offer(*id, index.min(range.clone().count()));
                    offered = offered.max(of_index.min(range.end));
                }
                // Only what was offered is released.
                3 if offered < range.end => {}
                3 => { tracker.release(*id); released.insert(*id); }
                // What is not kept can be finished by its position only.
                0 | 1 if released.contains(id) => {
                    tracker.finish_batch(*id);
                    tracker.finish(*id, index);
                }
                0 => { tracker.finish_batch(*id); finished.extend(range.clone()); }
                1 => { tracker.finish(*id, index); if range.contains(&of_index) { finished.insert(of_index); } }
                _ => {
                    let number = u64::try_from(of_index - 1).ok();
                    tracker.finish_numbered(&RecordPosition::plain(SequenceNumber::from(of_index)), number);
                    finished.extend(1..=of_index.min(next - 1));
                }
            }
            let unfinished = (1..offered).filter(|n| !finished.contains(n)).count();
            prop_assert_eq!(tracker.unfinished(), unfinished as u64);
            let prefix = (1..next).take_while(|n| finished.contains(n)).last().unwrap_or(0);
            prop_assert_eq!(tracker.finished().map_or(0, number), prefix);
            prop_assert!(prefix >= last);
            last = prefix;
            prop_assert_eq!(tracker.is_all_finished(), prefix + 1 == next);
        }
    }
}

proptest! {
    /// No order of finishing changes where the prefix ends, and nothing is kept but for an unfinished record.
    #[test]
    fn finished_batches_are_let_go_in_any_order(
        sizes in prop::collection::vec(0_u64..6, 1..12),
        order in prop::collection::vec(any::<u32>(), 60),
    ) {
        let mut tracker = CheckpointTracker::default();
        let (mut next, mut kept) = (1_u64, Vec::new());
        let mut places = Vec::new();
        for size in sizes {
            let batch = records(u128::from(next)..u128::from(next + size));
            let id = tracker.deliver(Arc::clone(&batch));
            places.extend((0..size).map(|index| (id, index as usize, next + index)));
            kept.push((batch, next..next + size));
            next += size;
        }
        let mut order: Vec<_> = order.into_iter().zip(places).collect();
        order.sort_by_key(|(weight, (_, _, at))| (*weight, *at));
        let mut unfinished: BTreeSet<u64> = (1..next).collect();
        for (_, (id, index, at)) in order {
            tracker.finish(id, index);
            unfinished.remove(&at);
            let prefix = unfinished.first().map_or(next, |first| *first) - 1;
            prop_assert_eq!(tracker.finished().map_or(0, number), u128::from(prefix));
            for (batch, range) in &kept {
                let is_open = unfinished.range(range.clone()).next().is_some();
                prop_assert_eq!(Arc::strong_count(batch) > 1, is_open);
            }
            prop_assert!(tracker.open.len() <= 2 * unfinished.len());
        }
        prop_assert!(tracker.is_all_finished());
    }
}

#[test]
fn million_records_ahead_of_one_cost_one_entry() {
    let mut tracker = CheckpointTracker::default();
    let parked = tracker.deliver(records(1..2));
    // The same records again and again: a batch is finished by its number, wherever its records stand.
    let batch = records(2..1002);
    for _ in 0..1000 {
        let id = tracker.deliver(Arc::clone(&batch));
        (0..1000).rev().for_each(|index| tracker.finish(id, index));
    }
    assert_eq!((tracker.open.len(), Arc::strong_count(&batch)), (2, 1));
    assert_eq!((tracker.finished(), tracker.is_all_finished()), (None, false));
    tracker.finish(parked, 0);
    assert!(tracker.is_all_finished());
    assert_eq!(tracker.finished().map(number), Some(1001));
}

#[test]
fn released_neighbours_of_finished_batch_share_entry() {
    let mut tracker = CheckpointTracker::default();
    let ids: Vec<_> = (0..4_u128)
        .map(|n| tracker.deliver(records(n * 10..n * 10 + 10)))
        .collect();
    tracker.offer(ids[3], 10);
    tracker.release(ids[0]);
    tracker.finish_batch(ids[1]);
    tracker.finish_batch(ids[2]);
    tracker.release(ids[3]);
    assert_eq!((tracker.open.len(), tracker.unfinished()), (2, 20));
    tracker.finish_through(&RecordPosition::plain(SequenceNumber::from(9)));
    assert_eq!(tracker.finished().map(number), Some(29));
    tracker.finish_through(&RecordPosition::plain(SequenceNumber::from(34)));
    assert_eq!(tracker.finished().map(number), Some(34));
}

#[test]
fn released_batches_keep_no_records_and_one_entry() {
    let mut tracker = CheckpointTracker::default();
    for start in 0..1000 {
        let batch = records(start * 10..start * 10 + 10);
        let id = tracker.deliver(Arc::clone(&batch));
        tracker.release(id);
        assert_eq!(Arc::strong_count(&batch), 1);
    }
    assert_eq!(tracker.open.len(), 1);
    tracker.finish_through(&RecordPosition::plain(SequenceNumber::from(4242)));
    assert_eq!(tracker.finished().map(number), Some(4242));
    tracker.finish_through(&RecordPosition::plain(SequenceNumber::from(9999)));
    assert!(tracker.is_all_finished());
}

#[test]
fn records_of_a_forgotten_delivery_are_counted_again() {
    let mut tracker = CheckpointTracker::default();
    let former = tracker.deliver(records(1..4));
    tracker.offer(former, 3);
    assert_eq!(tracker.unfinished(), 3);
    tracker.forget();
    assert_eq!((tracker.unfinished(), tracker.last_delivered()), (0, None));
    let id = tracker.deliver(records(1..4));
    tracker.offer(id, 3);
    tracker.release(id);
    tracker.finish_batch(former);
    // A batch of the former delivery finishes nothing of this one.
    let second = RecordPosition::plain(SequenceNumber::from(2));
    tracker.finish_numbered(&second, Some(former.first_number() + 1));
    assert_eq!((tracker.finished(), tracker.unfinished()), (None, 3));
    tracker.finish_numbered(&second, Some(id.first_number() + 1));
    assert_eq!((tracker.finished(), tracker.unfinished()), (Some(&second), 1));
}

#[test]
fn batch_finished_out_of_order_is_released_too() {
    let mut tracker = CheckpointTracker::default();
    let kept = records(1..6);
    let id = tracker.deliver(Arc::clone(&kept));
    tracker.finish(id, 2);
    tracker.release(id);
    assert_eq!(Arc::strong_count(&kept), 1);
    let at = |n: u128| RecordPosition::plain(SequenceNumber::from(n));
    tracker.finish_numbered(&at(2), Some(1));
    assert_eq!(tracker.finished(), Some(&at(3)), "the third was finished before");
    tracker.finish_numbered(&at(5), Some(4));
    assert!(tracker.is_all_finished());
}

#[test]
fn a_batch_finished_in_part_is_released_too() {
    let mut tracker = CheckpointTracker::default();
    let batch = records(1..10);
    let id = tracker.deliver(Arc::clone(&batch));
    tracker.offer(id, 9);
    tracker.finish_through(&RecordPosition::plain(SequenceNumber::from(4)));
    tracker.release(id);
    assert_eq!(Arc::strong_count(&batch), 1);
    assert_eq!(
        (tracker.finished().map(number), tracker.unfinished()),
        (Some(4), 5)
    );
}

#[test]
fn an_empty_batch_changes_nothing() {
    let mut tracker = CheckpointTracker::default();
    let id = tracker.deliver(records(1..1));
    tracker.finish_batch(id);
    assert_eq!(tracker.finished(), None);
    assert!(tracker.is_all_finished());
}

/// The records behind the prefix, as far as they are known: finished or not.
fn behind_prefix(tracker: &CheckpointTracker) -> Vec<(u128, bool)> {
    let records = tracker.behind_prefix();
    records
        .map(|(position, finished)| (number(position), finished))
        .collect()
}

#[test]
fn records_behind_prefix_are_known_one_by_one() {
    let mut tracker = CheckpointTracker::default();
    let first = tracker.deliver(records(1..5));
    let second = tracker.deliver(records(5..8));
    let third = tracker.deliver(records(8..10));
    tracker.finish(first, 0);
    tracker.finish(first, 2);
    tracker.finish_batch(second);
    let known = [(1, true), (2, false), (3, true), (4, false), (7, true)];
    assert_eq!(
        behind_prefix(&tracker),
        [&known[..], &[(8, false), (9, false)]].concat()
    );
    tracker.offer(third, 2);
    tracker.release(third);
    assert_eq!(behind_prefix(&tracker), known, "the third is not kept");
    tracker.release(first);
    assert_eq!(
        behind_prefix(&tracker),
        [(1, true)],
        "the unfinished ones are not known"
    );
}
