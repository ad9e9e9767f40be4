//! The planned state, which starts as the observed one, and the placing of what nobody holds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::coordinator::assignment::assignment_plan::{AssignmentPlan, Move, Obstacle, Reason};
use crate::coordinator::assignment::load::{Item, LeaseWeight, MovableLeases, Rank, WorkerLoad, weigh};
use crate::coordinator::assignment::snapshot::{Candidate, Hold, LeaseView, Snapshot};
use crate::lease::change::{Expect, LeaseChange};
use crate::settings::Strategy;
use crate::types::WorkerId;

/// Workers and leases are indices in their tie-breaking order.
pub(crate) struct Planner<'a> {
    pub(crate) strategy: Strategy,
    pub(crate) leases: Vec<&'a LeaseView>,
    pub(crate) weights: Vec<LeaseWeight>,
    pub(crate) workers: Vec<&'a Candidate>,
    pub(crate) receives: Vec<bool>,
    /// How many workers receive, up to 2.
    has_receivers: usize,
    pub(crate) loads: Vec<WorkerLoad>,
    /// Leases that nobody holds.
    available: Vec<usize>,
    /// Leases held by workers that leave.
    departing: Vec<usize>,
    /// Leases that balancing may move, by the worker that has them.
    pub(crate) stocks: Vec<MovableLeases>,
    /// Whether something is on its way to the worker.
    pub(crate) expecting: Vec<bool>,
    /// Workers with room for a readable lease, the least loaded first.
    pub(crate) readers: BTreeSet<(Rank, usize)>,
    /// Workers with room for a lease that waits for a parent, the one with the fewest of them first.
    waiters: BTreeSet<(usize, Rank, usize)>,
    /// How many leases are being handed over.
    pub(crate) under_way: usize,
    /// The load that each worker is handing over.
    pub(crate) outgoing: Vec<u64>,
    /// Held leases that an operator wants to be with another worker, and that worker.
    misplaced: Vec<(usize, usize)>,
    /// For each lease the worker that an operator wants it to be with, if that gets leases.
    pins: Vec<Option<usize>>,
    moves: Vec<Move>,
}

impl<'a> Planner<'a> {
    /// The planner for a fleet that `leaver`, if any, is about to leave.
    pub(crate) fn new(snapshot: &'a Snapshot, leaver: Option<&WorkerId>) -> Self {
        let mut leases: Vec<&LeaseView> = snapshot.leases.iter().filter(|lease| !lease.ended).collect();
        leases.sort_by(|a, b| a.key.cmp(&b.key));
        let mut workers: Vec<&Candidate> = snapshot.workers.iter().collect();
        workers.sort_by(|a, b| (!a.proven, &a.id).cmp(&(!b.proven, &b.id)));
        let receives: Vec<bool> = workers
            .iter()
            .map(|worker| !worker.leaving && Some(&worker.id) != leaver)
            .collect();
        let mut planner = Self {
            strategy: snapshot.strategy,
            weights: weigh(&leases, snapshot.strategy),
            loads: vec![WorkerLoad::default(); workers.len()],
            stocks: vec![MovableLeases::default(); workers.len()],
            outgoing: vec![0; workers.len()],
            expecting: vec![false; workers.len()],
            has_receivers: receives.iter().filter(|receives| **receives).take(2).count(),
            receives,
            leases,
            workers,
            available: Vec::new(),
            departing: Vec::new(),
            readers: BTreeSet::new(),
            waiters: BTreeSet::new(),
            under_way: 0,
            misplaced: Vec::new(),
            pins: Vec::new(),
            moves: Vec::new(),
        };
        planner.take_stock();
        planner
    }

    /// Sorts the leases by what may be done with them, and sums up who has how much.
    fn take_stock(&mut self) {
        let index: BTreeMap<&WorkerId, usize> =
            self.workers.iter().enumerate().map(|(i, w)| (&w.id, i)).collect();
        let pin = |lease: &LeaseView| {
            let worker = *index.get(lease.pinned.as_ref()?)?;
            (self.receives[worker] && self.workers[worker].max_leases != Some(0)).then_some(worker)
        };
        self.pins = self.leases.iter().map(|lease| pin(lease)).collect();
        for (i, lease) in self.leases.iter().enumerate() {
            let is_left_to_owner = self.is_left_to_owner(lease, &index);
            if lease.hold != Hold::Held && !is_left_to_owner {
                self.available.push(i);
                continue;
            }
            let weight = self.weights[i];
            let in_handoff = lease.version.checkpoint_owner.as_ref();
            if let Some(from) = in_handoff {
                self.under_way += 1;
                if let Some(&from) = index.get(from) {
                    self.outgoing[from] += weight.load;
                }
            }
            // The owner named in the row is the next one during a handoff: the lease is counted where it goes.
            let holder = lease.version.owner.as_ref().and_then(|owner| index.get(owner));
            // A worker that is no candidate keeps what it renews: it may be leaving and hand over itself, or be a stranger.
            let Some(&holder) = holder else { continue };
            self.loads[holder] += weight;
            if in_handoff.is_some() || lease.arriving {
                self.expecting[holder] = true;
                continue;
            }
            if is_left_to_owner {
                continue;
            }
            if !self.receives[holder] {
                self.departing.push(i);
            } else if let Some(pinned) = self.pins[i] {
                if pinned != holder && !lease.left_alone {
                    self.misplaced.push((i, pinned));
                }
            } else if lease.readable && !lease.left_alone {
                let item = self.item(i);
                self.stocks[holder].put(item, !lease.barred.is_empty());
            }
        }
        for worker in 0..self.workers.len() {
            self.enqueue(worker);
        }
    }

    /// Whether the lease expired, and there is nobody to give it to but the worker that let it. That one is named in the row,
    /// and a worker needs no more than to be named. But a handoff that died half-way is cleared even then.
    fn is_left_to_owner(&self, lease: &LeaseView, index: &BTreeMap<&WorkerId, usize>) -> bool {
        if lease.hold != Hold::Expired || self.has_receivers > 1 || lease.version.checkpoint_owner.is_some() {
            return false;
        }
        let owner = lease.version.owner.as_ref().and_then(|owner| index.get(owner));
        owner.is_some_and(|&owner| self.receives[owner])
    }

    /// The lease as it lies in a stock.
    pub(crate) fn item(&self, lease: usize) -> Item {
        (
            self.weights[lease].load,
            self.leases[lease].named_since,
            Reverse(lease),
        )
    }

    /// Forgets about everything that this worker does not own.
    pub(crate) fn keep_to_leases_of(&mut self, me: &WorkerId) {
        self.available.clear();
        self.departing
            .retain(|&lease| self.leases[lease].version.owner.as_ref() == Some(me));
    }

    /// Gives every available lease to the least loaded worker that may take it.
    pub(crate) fn place(&mut self) {
        let mut order = std::mem::take(&mut self.available);
        // Readable shards are work that waits, so they go first; the hardest to place before the easy ones, and the heavy before
        // the light ones, which then even out what the heavy ones left uneven.
        order.sort_by_cached_key(|&i| {
            let lease = self.leases[i];
            (
                !lease.readable,
                Reverse(lease.refusals()),
                Reverse(self.weights[i].load),
                i,
            )
        });
        for i in order {
            let Some(to) = self.receiver(i) else {
                self.available.push(i);
                continue;
            };
            let lease = self.leases[i];
            self.add(to, self.weights[i]);
            let to = &self.workers[to].id;
            self.moves.push(Move {
                key: lease.key.clone(),
                expect: Expect::Version(lease.version.clone()),
                change: LeaseChange::Assign { to: to.clone() },
                from: lease.actual_owner().cloned(),
                to: to.clone(),
                reason: match lease.hold {
                    Hold::Unowned => Reason::Unowned,
                    Hold::Expired | Hold::Held => Reason::Expired,
                },
            });
        }
    }

    /// Begins the handoff of what leaving workers hold, as far as others can take it.
    pub(crate) fn vacate(&mut self) {
        let mut order = std::mem::take(&mut self.departing);
        order.sort_by_cached_key(|&i| (!self.leases[i].readable, Reverse(self.weights[i].load), i));
        for i in order {
            match self.receiver(i) {
                Some(to) => self.hand_off(i, to, Reason::Leaving),
                None => self.departing.push(i),
            }
        }
    }

    /// Begins the handoff of what operators want to be with other workers. Returns `true` if it moved any, which may make room for others.
    pub(crate) fn obey_pins(&mut self) -> bool {
        let before = self.moves.len();
        for (lease, to) in std::mem::take(&mut self.misplaced) {
            // A live lease is not handed to a worker that may be dead.
            if !self.workers[to].proven || !self.may_take(lease, to) {
                continue;
            }
            let owner = self.leases[lease].version.owner.as_ref();
            if let Some(from) = self.workers.iter().position(|worker| Some(&worker.id) == owner) {
                self.remove(from, self.weights[lease]);
                self.outgoing[from] += self.weights[lease].load;
            }
            self.hand_off(lease, to, Reason::Ordered);
        }
        self.moves.len() > before
    }

    pub(crate) fn hand_off(&mut self, lease: usize, to: usize, reason: Reason) {
        self.add(to, self.weights[lease]);
        self.under_way += 1;
        let lease = self.leases[lease];
        let to = &self.workers[to].id;
        self.moves.push(Move {
            key: lease.key.clone(),
            expect: Expect::Owners {
                owner: lease.version.owner.clone(),
                checkpoint_owner: None,
            },
            change: LeaseChange::BeginHandoff { to: to.clone() },
            from: lease.version.owner.clone(),
            to: to.clone(),
            reason,
        });
    }

    /// The worker that should get this lease next.
    fn receiver(&self, lease: usize) -> Option<usize> {
        let may_take = |worker: &usize| self.may_take(lease, *worker);
        let is_live = self.leases[lease].hold == Hold::Held;
        let pinned = self.pins[lease].filter(|worker| self.workers[*worker].proven || !is_live);
        if let Some(pinned) = pinned.filter(may_take) {
            return Some(pinned);
        }
        if self.leases[lease].readable {
            self.readers.iter().map(|&(_, worker)| worker).find(may_take)
        } else {
            self.waiters.iter().map(|&(_, _, worker)| worker).find(may_take)
        }
    }

    /// Whether nothing keeps the worker from the lease.
    ///
    /// A worker that let the lease expire is asked again only when it is alone. Other bars are void when they leave nobody.
    pub(crate) fn may_take(&self, lease: usize, worker: usize) -> bool {
        let lease = self.leases[lease];
        let worker = &self.workers[worker].id;
        let let_it_expire = lease.hold == Hold::Expired && lease.actual_owner() == Some(worker);
        if !let_it_expire && !lease.barred.contains(worker) {
            return true;
        }
        if let_it_expire {
            return self.has_receivers < 2;
        }
        // Hardly ever are as many workers barred as there are, so this seldom looks at them all.
        let receivers = (0..self.workers.len()).filter(|&other| self.receives[other]);
        let others = receivers.filter(|&other| self.workers[other].id != *worker);
        let mut others = others.take(lease.barred.len() + 1);
        others.all(|other| lease.barred.contains(&self.workers[other].id))
    }

    fn add(&mut self, worker: usize, weight: LeaseWeight) {
        self.dequeue(worker);
        self.loads[worker] += weight;
        self.enqueue(worker);
    }

    pub(crate) fn remove(&mut self, worker: usize, weight: LeaseWeight) {
        self.dequeue(worker);
        self.loads[worker] -= weight;
        self.enqueue(worker);
    }

    fn dequeue(&mut self, worker: usize) {
        let load = self.loads[worker];
        self.readers.remove(&(load.rank(), worker));
        self.waiters.remove(&(load.waiting, load.rank(), worker));
    }

    fn enqueue(&mut self, worker: usize) {
        let load = self.loads[worker];
        if self.has_reading_room(load, worker) {
            self.readers.insert((load.rank(), worker));
        }
        if self.receives[worker] && self.is_below_limits(load, load.readable + load.waiting, worker) {
            self.waiters.insert((load.waiting, load.rank(), worker));
        }
    }

    pub(crate) fn has_reading_room(&self, load: WorkerLoad, worker: usize) -> bool {
        self.receives[worker] && self.is_below_limits(load, load.readable, worker)
    }

    fn is_below_limits(&self, load: WorkerLoad, leases: usize, worker: usize) -> bool {
        let limit = self.workers[worker].max_throughput;
        self.wants_leases(leases, worker) && limit.is_none_or(|limit| load.bytes < u64::from(limit) * 1024)
    }

    fn wants_leases(&self, leases: usize, worker: usize) -> bool {
        let limit = self.workers[worker].max_leases;
        limit.is_none_or(|limit| usize::try_from(limit).map_or(true, |limit| leases < limit))
    }

    pub(crate) fn into_plan(self) -> AssignmentPlan {
        let mut left: Vec<usize> = self.available.iter().chain(&self.departing).copied().collect();
        left.sort_unstable();
        // The same for all leases of a kind: the queues do not change any more.
        let obstacles = [true, false].map(|readable| self.obstacle(readable));
        let unplaced = left
            .into_iter()
            .map(|lease| {
                let lease = self.leases[lease];
                (lease.key.clone(), obstacles[usize::from(!lease.readable)])
            })
            .collect();
        AssignmentPlan {
            moves: self.moves,
            unplaced,
        }
    }

    /// The obstacle that keeps all workers from a lease.
    fn obstacle(&self, readable: bool) -> Obstacle {
        let is_full = if readable {
            self.readers.is_empty()
        } else {
            self.waiters.is_empty()
        };
        if self.has_receivers == 0 {
            return Obstacle::NoCandidate;
        }
        if !is_full {
            return Obstacle::Barred;
        }
        let wants_more = |worker: usize| {
            let load = self.loads[worker];
            let leases = if readable {
                load.readable
            } else {
                load.readable + load.waiting
            };
            self.receives[worker] && self.wants_leases(leases, worker)
        };
        if (0..self.workers.len()).any(wants_more) {
            Obstacle::MaxThroughput
        } else {
            Obstacle::MaxLeases
        }
    }
}
