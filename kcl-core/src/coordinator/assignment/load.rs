//! How heavy a lease is, and how loaded a worker.
//!
//! All in whole numbers: sums of them do not depend on an order, and none is infinite or no number at all.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ops::{AddAssign, SubAssign};

use crate::coordinator::assignment::snapshot::LeaseView;
use crate::runtime::clock::Moment;
use crate::settings::Strategy;

/// The most that a worker may have measured, in KiB/s: far above what a shard can carry, far below what would overflow a sum.
const FASTEST: f64 = 1e6;

/// How finely load is counted: what a byte per second weighs, and a lease where only their number counts.
const UNIT: u64 = 1000;

/// The part of the average throughput that every lease weighs on top of its own.
const UPKEEP: u64 = 4;

/// The load that one lease adds to its worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LeaseWeight {
    /// The quantity that is balanced. Never 0 for a readable lease, so that idle leases are spread too; 0 for one that waits.
    pub(crate) load: u64,
    /// Bytes per second: what counts for the limit of throughput.
    pub(crate) bytes: u64,
}

/// The weight of each lease.
pub(crate) fn weigh(leases: &[&LeaseView], strategy: Strategy) -> Vec<LeaseWeight> {
    let measured = || {
        leases
            .iter()
            .filter(|lease| lease.readable)
            .filter_map(|lease| bytes_of(lease))
    };
    let average = measured().sum::<u64>() / (measured().count() as u64).max(1);
    let upkeep = (average * UNIT / UPKEEP).max(UNIT);
    let weight = |lease: &&LeaseView| {
        if !lease.readable {
            return LeaseWeight::default();
        }
        // Without a measurement the best guess is that the shard is like the others.
        let bytes = bytes_of(lease).unwrap_or(average);
        let load = match strategy {
            Strategy::LeaseCount => UNIT,
            Strategy::Throughput { .. } => bytes * UNIT + upkeep,
        };
        LeaseWeight { load, bytes }
    };
    leases.iter().map(weight).collect()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is no number that is negative or too large: both were seen to just before"
)]
fn bytes_of(lease: &LeaseView) -> Option<u64> {
    let measured = lease.throughput.filter(|kib| kib.is_finite() && *kib >= 0.0)?;
    Some((measured.min(FASTEST) * 1024.0) as u64)
}

/// The leases and the load of a worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct WorkerLoad {
    pub(crate) load: u64,
    pub(crate) readable: usize,
    pub(crate) waiting: usize,
    pub(crate) bytes: u64,
}

/// The order in which workers get leases: by load, then by count. Not by bytes: by lease count, ties are broken by name alone,
/// whatever was measured.
pub(crate) type Rank = (u64, usize, usize);

impl WorkerLoad {
    pub(crate) fn rank(self) -> Rank {
        (self.load, self.readable, self.waiting)
    }
}

impl AddAssign<LeaseWeight> for WorkerLoad {
    fn add_assign(&mut self, weight: LeaseWeight) {
        self.load += weight.load;
        self.bytes += weight.bytes;
        // Only a lease that waits weighs nothing.
        *(if weight.load > 0 {
            &mut self.readable
        } else {
            &mut self.waiting
        }) += 1;
    }
}

impl SubAssign<LeaseWeight> for WorkerLoad {
    fn sub_assign(&mut self, weight: LeaseWeight) {
        self.load -= weight.load;
        self.bytes -= weight.bytes;
        *(if weight.load > 0 {
            &mut self.readable
        } else {
            &mut self.waiting
        }) -= 1;
    }
}

/// A lease in a stock: its load, since when the row has named its owner, and which it is. Of the same load the last is to go first.
pub(crate) type Item = (u64, Option<Moment>, Reverse<usize>);

/// The leases a worker could give away, the lightest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct MovableLeases {
    /// Those that anybody may take.
    free: BTreeSet<Item>,
    /// Those that are kept from some workers.
    barred: BTreeSet<Item>,
}

impl MovableLeases {
    pub(crate) fn put(&mut self, item: Item, is_barred: bool) {
        let leases = if is_barred {
            &mut self.barred
        } else {
            &mut self.free
        };
        leases.insert(item);
    }

    pub(crate) fn remove(&mut self, item: &Item) {
        self.free.remove(item);
        self.barred.remove(item);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.free.is_empty() && self.barred.is_empty()
    }

    /// The load of the lightest lease.
    pub(crate) fn lightest(&self) -> Option<u64> {
        let lightest = [self.free.first(), self.barred.first()];
        lightest.into_iter().flatten().map(|&(load, _, _)| load).min()
    }

    /// The heaviest lease up to `wanted`, or else the lightest, of those below `below`.
    pub(crate) fn pick(&self, wanted: u64, below: u64, may_take: impl Fn(usize) -> bool) -> Option<usize> {
        pick(&self.free, wanted, below, |_| true).or_else(|| pick(&self.barred, wanted, below, may_take))
    }
}

fn pick(items: &BTreeSet<Item>, wanted: u64, below: u64, is_right: impl Fn(usize) -> bool) -> Option<usize> {
    let is_right = |&&(_, _, Reverse(lease)): &&Item| is_right(lease);
    let end = below.min(wanted.saturating_add(1));
    if let Some(&(_, _, Reverse(lease))) = items.range(..first_of(end)).rev().find(is_right) {
        return Some(lease);
    }
    let &(lightest, _, _) = items.range(first_of(end)..first_of(below)).find(is_right)?;
    let mut as_light = items
        .range(first_of(lightest)..first_of(lightest.saturating_add(1)))
        .rev();
    as_light.find(is_right).map(|&(_, _, Reverse(lease))| lease)
}

/// Where the items of this load begin.
fn first_of(load: u64) -> Item {
    (load, None, Reverse(usize::MAX))
}
