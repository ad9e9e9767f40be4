//! The ledger of what was sent and processed, and the verdict on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A position that a worker processed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The worker.
    pub worker: String,
    /// The shard it came from.
    pub shard: String,
    /// The ownership of the shard in which it came.
    pub token: u64,
    /// The truck that sent it.
    pub truck: u32,
    /// Its number among the truck's messages.
    pub number: u32,
}

/// A position that was put into the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The truck that sent it.
    pub truck: u32,
    /// Its number among the truck's messages.
    pub number: u32,
    /// The shard it went to.
    pub shard: String,
}

/// Everything sent and processed, in order.
#[derive(Debug, Default)]
pub struct Ledger {
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    sent: Vec<Sent>,
    seen: Vec<Seen>,
    distinct: BTreeSet<(u32, u32)>,
}

impl Ledger {
    /// A position was put.
    pub fn sent(&self, sent: Sent) {
        self.books().sent.push(sent);
    }

    /// A position was processed.
    pub fn processed(&self, seen: Seen) {
        let mut books = self.books();
        books.distinct.insert((seen.truck, seen.number));
        books.seen.push(seen);
    }

    /// How many positions were put, and how many different ones were processed.
    pub fn counts(&self) -> (usize, usize) {
        let books = self.books();
        (books.sent.len(), books.distinct.len())
    }

    /// Judges everything so far. `parents` names the parents of each child shard.
    pub fn judge(&self, parents: &BTreeMap<String, Vec<String>>) -> Verdict {
        let books = self.books();
        judge(&books.sent, &books.seen, parents)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The fate of the positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How many positions were put.
    pub put: usize,
    /// How many different ones were processed.
    pub processed: usize,
    /// How many were put and never processed.
    pub lost: usize,
    /// How many were processed and never put.
    pub invented: usize,
    /// How often a position was processed again.
    pub redelivered: usize,
    /// Trucks whose positions came out of order within one ownership of a shard.
    pub out_of_order: BTreeSet<u32>,
    /// Child shards of which something was processed before everything of a parent had been.
    pub too_early: BTreeSet<String>,
    /// How many children there are.
    pub children: usize,
}

impl Verdict {
    /// Whether all is as it should be.
    pub fn is_good(&self) -> bool {
        self.put > 0
            && self.lost == 0
            && self.invented == 0
            && self.out_of_order.is_empty()
            && self.too_early.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = |good: bool| if good { "ok  " } else { "FAIL" };
        writeln!(
            f,
            "  {} {} positions put, {} processed, {} lost",
            mark(self.lost == 0 && self.invented == 0),
            self.put,
            self.processed,
            self.lost
        )?;
        writeln!(
            f,
            "  {} order kept for every truck (out of order: {:?})",
            mark(self.out_of_order.is_empty()),
            self.out_of_order
        )?;
        writeln!(
            f,
            "  {} {} child shards began after their parents were finished (too early: {:?})",
            mark(self.too_early.is_empty()),
            self.children,
            self.too_early
        )?;
        write!(
            f,
            "       {} positions were processed again after the kill",
            self.redelivered
        )
    }
}

fn judge(sent: &[Sent], seen: &[Seen], parents: &BTreeMap<String, Vec<String>>) -> Verdict {
    let put: BTreeSet<_> = sent.iter().map(|sent| (sent.truck, sent.number)).collect();
    let mut first_seen = BTreeMap::new();
    let mut last_number = BTreeMap::new();
    let mut out_of_order = BTreeSet::new();
    for (at, seen) in seen.iter().enumerate() {
        first_seen.entry((seen.truck, seen.number)).or_insert(at);
        let last = last_number.insert((&seen.shard, seen.token, seen.truck), seen.number);
        if last.is_some_and(|last| last >= seen.number) {
            out_of_order.insert(seen.truck);
        }
    }
    let is_early = |child: &str, parents: &[String]| {
        let begins = seen.iter().position(|seen| seen.shard == child);
        let of_parents = sent.iter().filter(|sent| parents.contains(&sent.shard));
        let finished = of_parents
            .map(|sent| {
                first_seen
                    .get(&(sent.truck, sent.number))
                    .copied()
                    .unwrap_or(usize::MAX)
            })
            .max();
        begins
            .zip(finished)
            .is_some_and(|(begins, finished)| begins < finished)
    };
    Verdict {
        put: put.len(),
        processed: first_seen.len(),
        lost: put
            .iter()
            .filter(|position| !first_seen.contains_key(position))
            .count(),
        invented: first_seen
            .keys()
            .filter(|position| !put.contains(position))
            .count(),
        redelivered: seen.len() - first_seen.len(),
        out_of_order,
        too_early: parents
            .iter()
            .filter(|(child, parents)| is_early(child, parents))
            .map(|(child, _)| child.clone())
            .collect(),
        children: parents.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(truck: u32, number: u32, shard: &str) -> Sent {
        Sent {
            truck,
            number,
            shard: shard.into(),
        }
    }

    fn seen(truck: u32, number: u32, shard: &str, token: u64) -> Seen {
        Seen {
            worker: "w".into(),
            shard: shard.into(),
            token,
            truck,
            number,
        }
    }

    fn family() -> BTreeMap<String, Vec<String>> {
        BTreeMap::from([("child".to_owned(), vec!["parent".to_owned()])])
    }

    #[test]
    fn a_lost_position_is_found() {
        let verdict = judge(
            &[sent(1, 1, "a"), sent(1, 2, "a")],
            &[seen(1, 1, "a", 1)],
            &BTreeMap::new(),
        );
        assert_eq!((verdict.lost, verdict.is_good()), (1, false));
    }

    #[test]
    fn a_position_out_of_order_is_found_and_a_redelivery_in_a_new_ownership_is_none() {
        let all = [sent(1, 1, "a"), sent(1, 2, "a")];
        let redelivered = [
            seen(1, 1, "a", 1),
            seen(1, 2, "a", 1),
            seen(1, 1, "a", 2),
            seen(1, 2, "a", 2),
        ];
        let verdict = judge(&all, &redelivered, &BTreeMap::new());
        assert_eq!((verdict.redelivered, verdict.is_good()), (2, true));
        let verdict = judge(&all, &[seen(1, 2, "a", 1), seen(1, 1, "a", 1)], &BTreeMap::new());
        assert_eq!((verdict.out_of_order.len(), verdict.is_good()), (1, false));
    }

    #[test]
    fn a_child_that_begins_before_its_parent_is_finished_is_found() {
        let all = [sent(1, 1, "parent"), sent(1, 2, "child")];
        assert!(
            judge(
                &all,
                &[seen(1, 1, "parent", 1), seen(1, 2, "child", 1)],
                &family()
            )
            .is_good()
        );
        let early = judge(
            &all,
            &[seen(1, 2, "child", 1), seen(1, 1, "parent", 1)],
            &family(),
        );
        assert_eq!((early.too_early.len(), early.is_good()), (1, false));
    }

    #[test]
    fn a_run_without_positions_proves_nothing() {
        assert!(!judge(&[], &[], &BTreeMap::new()).is_good());
    }
}
