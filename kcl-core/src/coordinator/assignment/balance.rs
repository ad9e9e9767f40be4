//! Finds the moves that balance needs.
//!
//! One at a time, from the most to the least loaded worker, as long as one of them is off the share that each should have. A move
//! must leave the receiver less loaded than the giver was, so that the larger of the two loads falls with every move: nothing goes back
//! and forth, and it ends. A worker that has nothing to give that would make things better is left out of the reckoning, so that the rest
//! share what can be shared: one shard that is hotter than all the others makes nobody chase an average that cannot be had.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::coordinator::assignment::assignment_plan::Reason;
use crate::coordinator::assignment::load::{LeaseWeight, MovableLeases, Rank, WorkerLoad};
use crate::coordinator::assignment::planner::Planner;
use crate::runtime::failpoint::failpoint;
use crate::settings::Strategy;

impl Planner<'_> {
    /// Moves live leases from the most to the least loaded workers, as far as the cap allows. Returns `true` if it moved any.
    pub(crate) fn balance(&mut self, max_moves: usize) -> bool {
        let steps = BalanceSearch::new(self).steps();
        let cap = max_moves.max((steps.len() + self.under_way).div_ceil(3));
        // What is under way counts against the cap: planning again while handoffs run begins no further ones.
        let allowance = cap.saturating_sub(self.under_way).min(steps.len());
        for &BalanceStep { lease, from, to } in &steps[..allowance] {
            let weight = self.weights[lease];
            let item = self.item(lease);
            self.stocks[from].remove(&item);
            self.remove(from, weight);
            self.outgoing[from] += weight.load;
            self.hand_off(lease, to, Reason::Balance);
        }
        allowance > 0
    }
}

#[derive(Debug, Clone, Copy)]
struct BalanceStep {
    lease: usize,
    from: usize,
    to: usize,
}

/// How far off is too far, and how fast to correct it; in percent.
#[derive(Debug, Clone, Copy)]
struct BalanceRules {
    band: u64,
    damping: u64,
}

impl BalanceRules {
    fn of(strategy: Strategy) -> Self {
        match strategy {
            Strategy::LeaseCount => Self {
                band: 0,
                damping: 100,
            },
            Strategy::Throughput {
                band_percent,
                damping_percent,
            } => Self {
                band: u64::from(band_percent.min(100)),
                damping: u64::from(damping_percent.clamp(1, 100)),
            },
        }
    }

    /// How far from its share a worker may be before anything is moved.
    fn band(self, share: u64) -> u64 {
        percent(share, self.band)
    }

    /// How far from its share a worker may stay once something is moved: half as far, so that noise does not begin it again.
    fn target(self, share: u64) -> u64 {
        percent(share, self.band) / 2
    }

    /// How much better a move must make things: enough that noise does not undo it.
    fn margin(self, share: u64) -> u64 {
        percent(share, self.band) / 4
    }

    /// The load at which a worker that is off by `excess` stops giving for now.
    fn floor(self, share: u64, excess: u64) -> u64 {
        let rest = percent(excess.min(share), 100 - self.damping);
        // What is left at the edge of the band would stay there, for noise to carry it out again and again.
        if rest <= self.band(share) * 2 {
            0
        } else {
            share + rest
        }
    }
}

fn percent(of: u64, percent: u64) -> u64 {
    u64::try_from(u128::from(of) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}

/// The workers among whom load is shared, and what they have together.
#[derive(Debug, Clone)]
struct WorkerPool {
    is_in: Vec<bool>,
    workers: u64,
    load: u64,
}

impl WorkerPool {
    fn new(is_in: &[bool], loads: &[WorkerLoad]) -> Self {
        let members = || loads.iter().zip(is_in).filter(|(_, is_in)| **is_in);
        Self {
            is_in: is_in.to_vec(),
            workers: members().count() as u64,
            load: members().map(|(load, _)| load.load).sum(),
        }
    }

    fn share(&self) -> u64 {
        self.load / self.workers.max(1)
    }

    fn leave_out(&mut self, worker: usize, load: u64) {
        if std::mem::replace(&mut self.is_in[worker], false) {
            self.workers -= 1;
            self.load -= load;
        }
    }

    fn note_move(&mut self, load: u64, from: usize, to: usize) {
        if self.is_in[from] {
            self.load -= load;
        }
        if self.is_in[to] {
            self.load += load;
        }
    }
}

/// The search for the moves, on a state that is changed as if they were made.
struct BalanceSearch<'a> {
    planner: &'a Planner<'a>,
    rules: BalanceRules,
    pool: WorkerPool,
    loads: Vec<WorkerLoad>,
    /// Workers that may get something and have room for it, the least loaded first.
    readers: BTreeSet<(Rank, usize)>,
    may_receive: Vec<bool>,
    /// Workers that may have something to give, the most loaded last.
    donors: BTreeSet<(u64, usize, Reverse<usize>)>,
    /// The rest of the stocks that were drawn from.
    stocks: BTreeMap<usize, MovableLeases>,
    /// Where each worker that gives stops for now.
    floors: BTreeMap<usize, u64>,
    /// Whether a worker has stopped for now: then nobody else gives on its behalf.
    is_damped: bool,
    steps: Vec<BalanceStep>,
}

impl<'a> BalanceSearch<'a> {
    fn new(planner: &'a Planner<'a>) -> Self {
        // What goes well where it is must not be handed to a worker that may be dead, so the share is that of the others.
        let receives = planner.workers.iter().zip(&planner.receives);
        let is_proven: Vec<bool> = receives
            .map(|(worker, receives)| worker.proven && *receives)
            .collect();
        Self {
            rules: BalanceRules::of(planner.strategy),
            pool: WorkerPool::new(&is_proven, &planner.loads),
            planner,
            loads: Vec::new(),
            readers: BTreeSet::new(),
            may_receive: Vec::new(),
            donors: BTreeSet::new(),
            stocks: BTreeMap::new(),
            floors: BTreeMap::new(),
            is_damped: false,
            steps: Vec::new(),
        }
    }

    /// Every move that balance needs, in the order to make them.
    fn steps(mut self) -> Vec<BalanceStep> {
        if self.is_calm() {
            return self.steps;
        }
        self.loads.clone_from(&self.planner.loads);
        let readers = self.planner.readers.iter();
        self.readers = readers
            .filter(|(_, worker)| self.pool.is_in[*worker])
            .copied()
            .collect();
        self.may_receive.clone_from(&self.pool.is_in);
        self.leave_out_the_full();
        for worker in 0..self.loads.len() {
            self.offer(worker);
        }
        while let Some(&(most, _, Reverse(from))) = self.donors.last() {
            // The streams that a worker is to give may be on its way to it. Taking it from others instead would move them below their share.
            if !self.is_needed(most) || self.planner.expecting[from] {
                break;
            }
            if most <= self.floor(from, most) {
                self.donors.pop_last();
                self.is_damped = true;
            } else if let Some(step) = self.find(from, most) {
                self.make(step);
            } else {
                self.donors.pop_last();
                self.pool.leave_out(from, most);
            }
        }
        self.steps
    }

    /// Whether every worker is within the band of the plain average. Those that may be dead can only have too much.
    fn is_calm(&self) -> bool {
        let share = self.pool.share();
        let band = self.rules.band(share);
        let loads = self.planner.loads.iter().zip(&self.planner.receives);
        let mut workers = loads.zip(&self.pool.is_in);
        workers.all(|((load, receives), is_in)| {
            let is_short = *is_in && load.load + band < share;
            !receives || (load.load <= share + band && !is_short)
        })
    }

    /// Workers with less than their share that want no more do not count as short.
    fn leave_out_the_full(&mut self) {
        let is_full = |&worker: &usize| {
            self.pool.is_in[worker] && !self.planner.has_reading_room(self.loads[worker], worker)
        };
        let mut full: Vec<(u64, usize)> = (0..self.loads.len())
            .filter(is_full)
            .map(|worker| (self.loads[worker].load, worker))
            .collect();
        full.sort_unstable();
        for (load, worker) in full {
            if load >= self.pool.share() {
                break;
            }
            self.pool.leave_out(worker, load);
        }
    }

    /// Whether the most loaded worker, which has `most`, or the least loaded one is too far off.
    fn is_needed(&self, most: u64) -> bool {
        let Some(&((least, ..), _)) = self.readers.first() else {
            return false;
        };
        let share = self.pool.share();
        let tolerance = if self.steps.is_empty() {
            self.rules.band(share)
        } else {
            self.rules.target(share)
        };
        let too_much = most > share + tolerance;
        let too_little = least + tolerance < share && most > share && !self.is_damped;
        too_much || too_little
    }

    fn floor(&mut self, worker: usize, load: u64) -> u64 {
        let share = self.pool.share();
        let excess = self.planner.outgoing[worker] + load.saturating_sub(share);
        let floor = self.floors.entry(worker);
        *floor.or_insert_with(|| self.rules.floor(share, excess))
    }

    /// The best move that takes something from the most loaded worker.
    fn find(&self, from: usize, most: u64) -> Option<BalanceStep> {
        let share = self.pool.share();
        let (target, margin) = (self.rules.target(share), self.rules.margin(share));
        let stock = self.stock(from);
        let lightest = stock.lightest()?;
        for &((load, ..), to) in &self.readers {
            let as_good = u64::from(failpoint!(MovesWithoutEnd));
            let below = most.saturating_sub(load).saturating_sub(margin) + as_good;
            if lightest >= below {
                break;
            }
            // As much as leaves neither of them off.
            let can_give = most.saturating_sub(share.saturating_sub(target));
            let can_take = (share + target).saturating_sub(load);
            let picked = stock.pick(can_give.min(can_take), below, |lease| {
                self.planner.may_take(lease, to)
            });
            if let Some(lease) = picked {
                return Some(BalanceStep { lease, from, to });
            }
        }
        None
    }

    fn make(&mut self, step: BalanceStep) {
        let BalanceStep { lease, from, to } = step;
        let weight = self.planner.weights[lease];
        let planner = self.planner;
        let stock = self.stocks.entry(from);
        let stock = stock.or_insert_with(|| planner.stocks[from].clone());
        stock.remove(&planner.item(lease));
        self.pool.note_move(weight.load, from, to);
        let change = |load: &mut WorkerLoad, gives: bool, weight: LeaseWeight| {
            if gives {
                *load -= weight;
            } else {
                *load += weight;
            }
        };
        for (worker, gives) in [(from, true), (to, false)] {
            let before = self.loads[worker];
            self.readers.remove(&(before.rank(), worker));
            self.donors.remove(&donor(before, worker));
            change(&mut self.loads[worker], gives, weight);
            let after = self.loads[worker];
            if self.may_receive[worker] && self.planner.has_reading_room(after, worker) {
                self.readers.insert((after.rank(), worker));
            }
            self.offer(worker);
        }
        self.steps.push(step);
    }

    fn offer(&mut self, worker: usize) {
        if !self.stock(worker).is_empty() {
            self.donors.insert(donor(self.loads[worker], worker));
        }
    }

    fn stock(&self, worker: usize) -> &MovableLeases {
        self.stocks.get(&worker).unwrap_or(&self.planner.stocks[worker])
    }
}

fn donor(load: WorkerLoad, worker: usize) -> (u64, usize, Reverse<usize>) {
    (load.load, load.readable, Reverse(worker))
}
