//! Decides which records to offer after a failure: those before the failing record are finished and not offered again, and the failing
//! record is left alone by halving.
//!
//! Everything is named by position, never by an index: after a panic the same records come again in other batches, and attempts go on where
//! they were.

use std::time::Duration;

use crate::processor::FailureKind;
use crate::runtime::clock::Moment;
use crate::types::RecordPosition;

/// The records among which a failure is, in the order of the shard.
///
/// ```text
///  finished │ front ........ pinned │ ............ last │ not offered yet
///           └──── offered next ─────┘                   │
///           └──────────── a call failed on these ───────┘
/// ```
#[derive(Debug, Clone, Default)]
pub(crate) struct Isolation {
    suspect: Option<Suspect>,
}

#[derive(Debug, Clone)]
struct Suspect {
    /// The first record that is not finished: a failure is at this one, or behind it.
    front: RecordPosition,
    /// The last record of the next offer; `None` where it is open: half of what is left, once the suspect was halved.
    pinned: Option<RecordPosition>,
    /// The last record of the call that failed.
    last: RecordPosition,
    /// The failures of calls that began with `front`, since the suspect was last halved.
    tally: FailureTally,
    /// When the first call failed that had these records, halved or not.
    first: Moment,
    /// The next offer is a part of what failed.
    is_bisected: bool,
}

/// A failure, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempts {
    /// How often it has failed in this way: at least 1.
    pub(crate) count: u32,
    /// How long ago it failed first in this way.
    pub(crate) since_first: Duration,
    /// How often it has failed in any way.
    pub(crate) total: u32,
    /// When a call failed first that had these records, in any way.
    pub(crate) first: Moment,
}

/// The failures of one thing, each kind by itself: a sink that is down for an hour uses up no retries of a record that then panics once.
#[derive(Debug, Clone, Default)]
pub(crate) struct FailureTally(Vec<(FailureKind, u32, Moment)>);

impl FailureTally {
    /// Counts one more failure of this kind.
    pub(crate) fn failed(&mut self, kind: FailureKind, now: Moment) -> Attempts {
        let at = self.0.iter().position(|(of, ..)| *of == kind);
        let at = at.unwrap_or_else(|| {
            self.0.push((kind, 0, now));
            self.0.len() - 1
        });
        let mut attempts = Attempts {
            count: 1,
            since_first: Duration::ZERO,
            total: 1,
            first: now,
        };
        if let Some((_, count, since)) = self.0.get_mut(at) {
            *count = count.saturating_add(1);
            attempts.count = *count;
            attempts.since_first = now.saturating_since(*since);
        }
        attempts.total = self.total();
        attempts.first = self.0.iter().map(|(.., since)| *since).min().unwrap_or(now);
        attempts
    }

    /// How often it has failed.
    pub(crate) fn total(&self) -> u32 {
        self.0
            .iter()
            .fold(0, |total, (_, count, _)| total.saturating_add(*count))
    }
}

impl Isolation {
    /// Returns how many of these records to offer in one call, where `available` may be offered at once; at least one, if there is one.
    /// Of records that begin before the suspect, only those before it are offered.
    pub(crate) fn next_offer<'a>(
        &mut self,
        records: impl ExactSizeIterator<Item = &'a RecordPosition> + Clone,
        available: usize,
    ) -> usize {
        let count = records.len().min(available);
        let Some(suspect) = &mut self.suspect else {
            return count;
        };
        let up_to =
            |limit: &RecordPosition| records.clone().take_while(|position| *position <= limit).count();
        let before = records
            .clone()
            .take_while(|position| **position < suspect.front)
            .count();
        if before > 0 {
            return before.min(count);
        }
        let among = up_to(&suspect.last);
        if among == 0 {
            // All of the suspect is behind these records: what failed is finished, or gone from the shard.
            self.suspect = None;
            return count;
        }
        let offered = match &suspect.pinned {
            Some(pinned) => up_to(pinned).max(1),
            None if suspect.is_bisected => among.div_ceil(2),
            None => return count,
        };
        let offered = offered.min(count).max(1);
        suspect.pinned = records.clone().nth(offered - 1).cloned();
        offered
    }

    /// Notes that a call failed on the records from `front` to `last`; `front` is the record that the processor named, or the first of
    /// the call. Returns how often that record has failed.
    pub(crate) fn failed(
        &mut self,
        front: &RecordPosition,
        last: &RecordPosition,
        kind: FailureKind,
        now: Moment,
    ) -> Attempts {
        let suspect = match self.suspect.take() {
            Some(mut suspect) if suspect.front == *front => {
                suspect.pinned = Some(last.detached());
                suspect.last = suspect.last.max(last.detached());
                suspect
            }
            before => Suspect {
                front: front.detached(),
                pinned: Some(last.detached()),
                last: last.detached(),
                tally: FailureTally::default(),
                first: before
                    .filter(|before| before.front <= *front && *front <= before.last)
                    .map_or(now, |before| before.first),
                is_bisected: false,
            },
        };
        let suspect = self.suspect.insert(suspect);
        let attempts = suspect.tally.failed(kind, now);
        Attempts {
            first: suspect.first,
            ..attempts
        }
    }

    /// Offers the first half of what failed next, with attempts counted from 1 again. `last` is the last record of the failed call: behind it
    /// nothing is suspected.
    pub(crate) fn bisect(&mut self, last: &RecordPosition) {
        if let Some(suspect) = &mut self.suspect {
            suspect.last = last.detached();
            suspect.pinned = None;
            suspect.tally = FailureTally::default();
            suspect.is_bisected = true;
        }
    }

    /// Notes that the records up to and including this one are finished, by a call that returned or because a policy set them aside.
    pub(crate) fn finished(&mut self, through: &RecordPosition, next: Option<&RecordPosition>) {
        let Some(suspect) = &mut self.suspect else {
            return;
        };
        if *through < suspect.front {
            return;
        }
        match next.filter(|next| **next <= suspect.last) {
            Some(next) => {
                suspect.front = next.detached();
                suspect.pinned = None;
                suspect.tally = FailureTally::default();
            }
            None => self.suspect = None,
        }
    }

    /// Returns `true` if the records offered last were a part of those that failed.
    pub(crate) fn is_bisecting(&self) -> bool {
        self.suspect.as_ref().is_some_and(|suspect| suspect.is_bisected)
    }

    /// Forgets the failure: all that failed is resolved.
    pub(crate) fn clear(&mut self) {
        self.suspect = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::processor::Severity;
    use crate::types::SequenceNumber;

    fn at(n: usize) -> RecordPosition {
        RecordPosition::plain(SequenceNumber::from(n as u128 + 1))
    }

    fn now() -> Moment {
        Moment::from_origin(Duration::ZERO)
    }

    /// The fate of the records of a shard.
    #[derive(Debug, Default)]
    struct Run {
        finished: Vec<usize>,
        set_aside: Vec<usize>,
        calls: usize,
        /// The calls before the first record was alone.
        until_alone: Option<usize>,
    }

    /// Offers so many records, of which at most `most` may be in a call, to a processor that fails on each of the poison without a name. A
    /// batch that fails is bisected, and a record that fails alone is set aside.
    fn run(count: usize, most: usize, poison: &[usize]) -> Run {
        let (mut isolation, mut run) = (Isolation::default(), Run::default());
        let positions: Vec<_> = (0..count).map(at).collect();
        let mut front = 0;
        while front < count {
            let rest = &positions[front..];
            let offered = isolation.next_offer(rest.iter(), most);
            assert!((1..=rest.len().min(most)).contains(&offered));
            let last = front + offered - 1;
            run.calls += 1;
            assert!(run.calls < 100 * (count + 1), "no end: {run:?}");
            if !poison.iter().any(|n| (front..=last).contains(n)) {
                run.finished.extend(front..=last);
                isolation.finished(&positions[last], positions.get(last + 1));
                front = last + 1;
                continue;
            }
            isolation.failed(&positions[front], &positions[last], FailureKind::Panic, now());
            if offered > 1 {
                isolation.bisect(&positions[last]);
            } else {
                run.until_alone.get_or_insert(run.calls);
                run.set_aside.push(front);
                isolation.clear();
                front += 1;
            }
        }
        run
    }

    proptest! {
        #[test]
        fn poison_is_set_aside_and_nothing_else(
            count in 1_usize..300, most in 1_usize..300, poison in prop::collection::btree_set(0_usize..300, 0..6),
        ) {
            let poison: Vec<_> = poison.into_iter().filter(|n| *n < count).collect();
            let run = run(count, most, &poison);
            prop_assert_eq!(&run.set_aside, &poison);
            let good: Vec<_> = (0..count).filter(|n| !poison.contains(n)).collect();
            prop_assert_eq!(run.finished, good, "each once, in order");
        }

        #[test]
        fn single_poison_is_alone_after_few_calls(count in 1_usize..5000, place in any::<prop::sample::Index>()) {
            let run = run(count, usize::MAX, &[place.index(count)]);
            let bound = 2.0 * f64::from(u32::try_from(count).unwrap()).log2() + 2.0;
            let calls = f64::from(u32::try_from(run.until_alone.unwrap()).unwrap());
            prop_assert!(calls <= bound, "{} calls, {} allowed", calls, bound);
        }
    }

    #[test]
    fn attempts_go_on_for_same_record_only() {
        let mut isolation = Isolation::default();
        let (a, b, last) = (at(0), at(1), at(9));
        assert_eq!(isolation.failed(&a, &last, FailureKind::Panic, now()).count, 1);
        assert_eq!(isolation.failed(&a, &last, FailureKind::Panic, now()).count, 2);
        assert_eq!(isolation.failed(&b, &last, FailureKind::Panic, now()).count, 1);
        isolation.bisect(&last);
        assert_eq!(
            isolation.failed(&b, &at(4), FailureKind::Panic, now()).count,
            1,
            "of the half"
        );
    }

    #[test]
    fn retry_offers_what_failed_and_no_more() {
        let mut isolation = Isolation::default();
        let positions: Vec<_> = (0..20).map(at).collect();
        isolation.failed(&positions[0], &positions[4], FailureKind::Panic, now());
        assert_eq!(isolation.next_offer(positions.iter(), 20), 5);
        // After a panic reading goes on before the suspect: what is before it is offered by itself.
        isolation.failed(&positions[3], &positions[4], FailureKind::Panic, now());
        assert_eq!(isolation.next_offer(positions.iter(), 20), 3);
        assert_eq!(isolation.next_offer(positions[3..].iter(), 20), 2);
        // And where it is gone from the shard, nothing is suspected any more.
        assert_eq!(isolation.next_offer(positions[5..].iter(), 20), 15);
    }

    #[test]
    fn attempts_of_one_kind_leave_others_alone() {
        let mut isolation = Isolation::default();
        let (record, later) = (at(0), Moment::from_origin(Duration::from_secs(60)));
        let transient = FailureKind::Error(Severity::Transient);
        for n in 1..=30 {
            assert_eq!(isolation.failed(&record, &record, transient, now()).count, n);
        }
        let panic = isolation.failed(&record, &record, FailureKind::Panic, later);
        assert_eq!((panic.count, panic.since_first), (1, Duration::ZERO));
        assert_eq!((panic.total, panic.first), (31, now()));
        assert_eq!(isolation.failed(&record, &record, transient, later).count, 31);
    }

    #[test]
    fn first_failure_is_kept_across_halves() {
        let mut isolation = Isolation::default();
        let positions: Vec<_> = (0..8).map(at).collect();
        let later = Moment::from_origin(Duration::from_secs(60));
        isolation.failed(&positions[0], &positions[7], FailureKind::Panic, now());
        isolation.bisect(&positions[7]);
        isolation.finished(&positions[3], Some(&positions[4]));
        let again = isolation.failed(&positions[5], &positions[7], FailureKind::Panic, later);
        assert_eq!((again.count, again.first), (1, now()));
    }
}
