//! Decides which worker should hold which lease.
//!
//! Flow: a [`Snapshot`] of leases and candidates → [`plan_assignment`] → an [`AssignmentPlan`], which a task performs.
//!
//! What it promises, checked by `tests/assignment_properties.rs`:
//! - Planning again on the planned state gives an empty plan.
//! - The order of the input does not matter; ties are broken by name.
//! - Every available lease is placed if anybody may take it; limits and bars are honoured.
//! - Balancing makes the fewest moves that bring the workers within one lease of each other, and never more at a time than allowed.
//!
//! It counts leases: live, readable shards only. A plan may be stale when it is performed;
//! the condition on each write, not this module, keeps that safe.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::assignment::settings::Strategy;
use crate::lease::{Expect, LeaseChange, Version};
use crate::model::{LeaseKey, WorkerId};
use crate::time::Moment;

/// Everything a plan is made from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// The leases, in any order.
    pub leases: Vec<LeaseView>,
    /// The workers that may get leases, in any order.
    pub workers: Vec<Candidate>,
    /// How many moves for balance may be under way at a time. A third of the moves that are needed may be in any case,
    /// so that a large fleet is balanced in a few rounds.
    pub max_moves: usize,
    /// What is spread evenly.
    pub strategy: Strategy,
}

/// One lease, as the planner sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseView {
    /// The key of the row.
    pub key: LeaseKey,
    /// The version of the row: what a change is conditioned on.
    pub version: Version,
    /// Whether somebody holds it.
    pub hold: Hold,
    /// Whether the shard is processed to its end: such a lease needs no owner.
    pub ended: bool,
    /// Whether every parent of the shard is finished. Only readable shards are work;
    /// the others are spread evenly among themselves and never moved for balance.
    pub readable: bool,
    /// Since when the row has named its owner, as far as the observer has seen. Balancing moves the newest first: in a rolling
    /// deploy the replacement is then given what the worker before it had, and the rest stays where it is.
    pub named_since: Option<Moment>,
    /// Whether the worker named in the row has not taken the lease up yet. It is not moved again before it has, nor is
    /// anything else taken from that worker for balance: it would be parted from what it had, and not from what is coming.
    pub arriving: bool,
    /// Whether balancing leaves the lease where it is, as after its owner's veto.
    /// The throughput of the shard in KiB/s, where one was measured. Anything that is no sensible number counts as none.
    pub throughput: Option<f64>,
    /// Whether balancing leaves the lease where it is: just assigned and not yet renewed, or kept by its owner's veto.
    /// A lease in a handoff is left alone anyway, and one that expired never is.
    pub left_alone: bool,
    /// Workers that failed on this lease lately and shall not get it back.
    pub barred: BTreeSet<WorkerId>,
}

impl LeaseView {
    /// The worker that processes the shard: during a handoff the one that hands it over.
    fn actual_owner(&self) -> Option<&WorkerId> {
        self.version
            .checkpoint_owner
            .as_ref()
            .or(self.version.owner.as_ref())
    }

    /// How many workers are kept from the lease.
    fn refusals(&self) -> usize {
        self.barred.len() + usize::from(self.hold == Hold::Expired)
    }
}

/// Whether somebody holds a lease, as far as the observer can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The row names nobody.
    Unowned,
    /// The row names a worker that has not renewed it for a whole failover time.
    Expired,
    /// The row names a worker that renews it, or may yet.
    Held,
}

/// A worker that may get leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The worker.
    pub id: WorkerId,
    /// The most readable leases the worker wants; `None` for no limit. Leases that wait for a parent only fill what is left
    /// of it, so that they never keep out the parent they wait for. A worker above its limit gets nothing more and keeps
    /// what it has.
    pub max_leases: Option<u32>,
    /// The most throughput the worker wants, in KiB/s; `None` for no limit. A worker that has reached it gets nothing more and
    /// keeps what it has.
    pub max_throughput: Option<u32>,
    /// Whether the worker is shutting down: it gets nothing, and what it holds is handed to others.
    pub leaving: bool,
    /// Whether the observer has seen the worker live, and not just an old row. Wins ties; and balancing gives live leases to
    /// no other, since what goes well where it is must not be handed to a worker that may be dead.
    pub proven: bool,
}

/// What should be done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AssignmentPlan {
    /// The changes, the most urgent first.
    pub moves: Vec<Move>,
    /// The available leases that nobody can take, and why; in the order of their keys.
    pub unplaced: Vec<(LeaseKey, Obstacle)>,
}

/// One change of one lease.
#[derive(Debug, Clone, PartialEq)]
pub struct Move {
    /// The lease.
    pub key: LeaseKey,
    /// What must hold of the row.
    pub expect: Expect,
    /// [`LeaseChange::Assign`] of an available lease, or [`LeaseChange::BeginHandoff`] of a live one.
    pub change: LeaseChange,
    /// The worker that processed the shard, if any.
    pub from: Option<WorkerId>,
    /// The worker that is to process it.
    pub to: WorkerId,
    /// Why.
    pub reason: Reason,
}

/// Why a lease is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nobody owned it.
    Unowned,
    /// Its owner stopped renewing it.
    Expired,
    /// Its owner has more than its share.
    Balance,
    /// Its owner is shutting down.
    Leaving,
}

impl Reason {
    /// The reason in one word, for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unowned => "unowned",
            Self::Expired => "expired",
            Self::Balance => "balance",
            Self::Leaving => "leaving",
        }
    }
}

/// Why nobody gets a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// There is no worker to give it to.
    NoCandidate,
    /// Every worker is at its limit.
    NoRoom,
    /// The workers that have room failed on it lately, or just now let it expire.
    Barred,
}

/// Plans one round: places every available lease, and moves live ones towards balance.
///
/// ```
/// use kcl_core::assignment::plan::{Candidate, Hold, LeaseView, Snapshot, plan_assignment};
/// use kcl_core::lease::Version;
/// use kcl_core::model::{LeaseKey, WorkerId};
///
/// let worker = WorkerId::new("worker-1")?;
/// let snapshot = Snapshot {
///     leases: vec![LeaseView {
///         key: LeaseKey::new("shardId-000000000000")?,
///         version: Version { counter: 0, owner: None, checkpoint_owner: None },
///         hold: Hold::Unowned,
///         ended: false,
///         readable: true,
///         named_since: None,
///         arriving: false,
///         throughput: None,
///         left_alone: false,
///         barred: Default::default(),
///     }],
///     workers: vec![Candidate { id: worker.clone(), max_leases: None, max_throughput: None, leaving: false, proven: true }],
///     max_moves: 1,
///     ..Snapshot::default()
/// };
/// let plan = plan_assignment(&snapshot);
/// assert_eq!(plan.moves[0].to, worker);
/// # Ok::<(), kcl_core::model::InvalidName>(())
/// ```
#[must_use]
pub fn plan_assignment(snapshot: &Snapshot) -> AssignmentPlan {
    let mut planner = Planner::new(snapshot, None);
    // Each pass does what a fresh plan would do, and the last one found nothing to do: so neither will the next plan.
    loop {
        planner.place();
        planner.vacate();
        if !planner.balance(snapshot.max_moves) {
            return planner.into_plan();
        }
    }
}

/// Plans one round without balancing: available leases only. What a deputy does while the leader is silent.
#[must_use]
pub fn plan_placement(snapshot: &Snapshot) -> AssignmentPlan {
    let mut planner = Planner::new(snapshot, None);
    planner.place();
    planner.into_plan()
}

/// Plans how a worker that shuts down hands its leases to the others. Touches no lease of anybody else.
///
/// What nobody can take is in [`AssignmentPlan::unplaced`]: the worker releases it.
#[must_use]
pub fn plan_departure(me: &WorkerId, snapshot: &Snapshot) -> AssignmentPlan {
    let mut planner = Planner::new(snapshot, Some(me));
    planner.available.clear();
    planner.departing.retain(|&lease| {
        let version = &planner.leases[lease].version;
        version.owner.as_ref() == Some(me)
    });
    planner.vacate();
    planner.into_plan()
}

/// The planned state, which starts as the observed one. Workers and leases are indices in their tie-breaking order.
struct Planner<'a> {
    leases: Vec<&'a LeaseView>,
    workers: Vec<&'a Candidate>,
    receives: Vec<bool>,
    loads: Vec<Load>,
    /// Leases that nobody holds.
    available: Vec<usize>,
    /// Leases held by workers that leave.
    departing: Vec<usize>,
    /// Leases that balancing may move, with the worker that has them.
    movable: BTreeMap<usize, usize>,
    /// Workers that something is on its way to.
    expecting: BTreeSet<usize>,
    /// Workers with room for a readable lease, the least loaded first.
    readers: BTreeSet<(usize, usize, usize)>,
    /// Workers with room for a lease that waits for a parent, the one with the fewest of them first.
    waiters: BTreeSet<(usize, usize, usize)>,
    under_way: usize,
    moves: Vec<Move>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Load {
    readable: usize,
    waiting: usize,
}

impl Load {
    fn count(&mut self, readable: bool) -> &mut usize {
        if readable {
            &mut self.readable
        } else {
            &mut self.waiting
        }
    }
}

impl<'a> Planner<'a> {
    fn new(snapshot: &'a Snapshot, leaver: Option<&WorkerId>) -> Self {
        let mut leases: Vec<&LeaseView> = snapshot.leases.iter().filter(|lease| !lease.ended).collect();
        leases.sort_by(|a, b| a.key.cmp(&b.key));
        let mut workers: Vec<&Candidate> = snapshot.workers.iter().collect();
        workers.sort_by(|a, b| (!a.proven, &a.id).cmp(&(!b.proven, &b.id)));
        let receives: Vec<bool> = workers
            .iter()
            .map(|worker| !worker.leaving && Some(&worker.id) != leaver)
            .collect();
        let mut planner = Self {
            loads: vec![Load::default(); workers.len()],
            receives,
            leases,
            workers,
            available: Vec::new(),
            departing: Vec::new(),
            movable: BTreeMap::new(),
            expecting: BTreeSet::new(),
            readers: BTreeSet::new(),
            waiters: BTreeSet::new(),
            under_way: 0,
            moves: Vec::new(),
        };
        planner.take_stock();
        planner
    }

    /// Sorts the leases by what may be done with them, and counts who has how many.
    fn take_stock(&mut self) {
        let index: BTreeMap<&WorkerId, usize> =
            self.workers.iter().enumerate().map(|(i, w)| (&w.id, i)).collect();
        for (i, lease) in self.leases.iter().enumerate() {
            if lease.hold != Hold::Held {
                self.available.push(i);
                continue;
            }
            // The owner named in the row is the next one during a handoff: the lease is counted where it goes.
            let holder = lease.version.owner.as_ref().and_then(|owner| index.get(owner));
            let in_handoff = lease.version.checkpoint_owner.is_some();
            self.under_way += usize::from(in_handoff);
            // A worker that is no candidate keeps what it renews: it may be leaving and hand over itself, or be a stranger.
            let Some(&holder) = holder else { continue };
            *self.loads[holder].count(lease.readable) += 1;
            if in_handoff || lease.arriving {
                self.expecting.insert(holder);
                continue;
            }
            if !self.receives[holder] {
                self.departing.push(i);
            } else if lease.readable && !lease.left_alone {
                self.movable.insert(i, holder);
            }
        }
        for worker in 0..self.workers.len() {
            self.enqueue(worker);
        }
    }

    /// Gives every available lease to the least loaded worker that may take it.
    fn place(&mut self) {
        let mut order = std::mem::take(&mut self.available);
        // Readable shards are work that waits, so they go first; and the hardest to place before the easy ones.
        order.sort_by_key(|&i| (!self.leases[i].readable, Reverse(self.leases[i].refusals()), i));
        for i in order {
            let Some(to) = self.receiver(i) else {
                self.available.push(i);
                continue;
            };
            let lease = self.leases[i];
            self.add(to, lease.readable);
            let to = &self.workers[to].id;
            // Its owner is the only one to give it to: being named in the row is all the invitation it needs.
            // But a handoff that died half-way is cleared even then.
            let is_named =
                lease.version.owner.as_ref() == Some(to) && lease.version.checkpoint_owner.is_none();
            if !is_named {
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
    }

    /// Begins the handoff of what leaving workers hold, as far as others can take it.
    fn vacate(&mut self) {
        let mut order = std::mem::take(&mut self.departing);
        order.sort_by_key(|&i| (!self.leases[i].readable, i));
        for i in order {
            match self.receiver(i) {
                Some(to) => self.hand_off(i, to, Reason::Leaving),
                None => self.departing.push(i),
            }
        }
    }

    /// Moves live leases from the most to the least loaded workers, as far as the cap allows. Says whether it moved any.
    fn balance(&mut self, max_moves: usize) -> bool {
        let steps = self.steps_to_balance();
        let cap = max_moves.max((steps.len() + self.under_way).div_ceil(3));
        // What is under way counts against the cap: planning again while handoffs run begins no further ones.
        let allowance = cap.saturating_sub(self.under_way).min(steps.len());
        for &Step { lease, from, to } in &steps[..allowance] {
            self.movable.remove(&lease);
            self.remove(from, true);
            self.hand_off(lease, to, Reason::Balance);
        }
        allowance > 0
    }

    /// Every move that balance needs, in the order to make them.
    fn steps_to_balance(&self) -> Vec<Step> {
        let mut stocks: Vec<Stock> = vec![Stock::default(); self.workers.len()];
        let mut movable: Vec<(usize, usize)> = self
            .movable
            .iter()
            .map(|(&lease, &holder)| (lease, holder))
            .collect();
        movable.sort_by_key(|&(lease, _)| (Reverse(self.leases[lease].named_since), lease));
        for (lease, holder) in movable {
            if self.leases[lease].barred.is_empty() {
                stocks[holder].free.push_back(lease);
            } else {
                stocks[holder].barred.push(lease);
            }
        }
        let mut loads = self.loads.clone();
        let mut readers = self.readers.clone();
        let mut donors: BTreeSet<(usize, Reverse<usize>)> = (0..loads.len())
            .filter(|&worker| !stocks[worker].is_empty())
            .map(|worker| (loads[worker].readable, Reverse(worker)))
            .collect();
        let mut steps = Vec::new();
        while let Some(&(most, Reverse(from))) = donors.last() {
            if self.expecting.contains(&from) {
                // What it is to give is on its way to it. Taking it from others instead would move them below their share.
                break;
            }
            let found = readers
                .iter()
                .take_while(|(least, _, _)| least + 2 <= most)
                .filter(|(_, _, to)| self.workers[*to].proven)
                .find_map(|&(_, _, to)| {
                    let lease = stocks[from].pick(|lease| self.may_take(lease, to))?;
                    Some((to, lease))
                });
            donors.remove(&(most, Reverse(from)));
            let Some((to, lease)) = found else { continue };
            steps.push(Step { lease, from, to });
            donors.remove(&(loads[to].readable, Reverse(to)));
            for worker in [from, to] {
                readers.remove(&reader(loads[worker], worker));
            }
            loads[from].readable -= 1;
            loads[to].readable += 1;
            for worker in [from, to] {
                if self.has_reading_room(loads[worker], worker) {
                    readers.insert(reader(loads[worker], worker));
                }
                if !stocks[worker].is_empty() {
                    donors.insert((loads[worker].readable, Reverse(worker)));
                }
            }
        }
        steps
    }

    fn hand_off(&mut self, lease: usize, to: usize, reason: Reason) {
        self.add(to, self.leases[lease].readable);
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
        let queue = if self.leases[lease].readable {
            &self.readers
        } else {
            &self.waiters
        };
        queue
            .iter()
            .map(|&(_, _, worker)| worker)
            .find(|&worker| self.may_take(lease, worker))
    }

    /// Whether nothing keeps the worker from the lease.
    ///
    /// A worker that let the lease expire is asked again only when it is alone. Other bars are void when they leave nobody.
    fn may_take(&self, lease: usize, worker: usize) -> bool {
        let lease = self.leases[lease];
        let worker = &self.workers[worker].id;
        let let_it_expire = lease.hold == Hold::Expired && lease.actual_owner() == Some(worker);
        if !let_it_expire && !lease.barred.contains(worker) {
            return true;
        }
        let mut receivers = (0..self.workers.len()).filter(|&other| self.receives[other]);
        if let_it_expire {
            return receivers.nth(1).is_none();
        }
        // Hardly ever are as many workers barred as there are, so this seldom looks at them all.
        let others = receivers.filter(|&other| self.workers[other].id != *worker);
        let mut others = others.take(lease.barred.len() + 1);
        others.all(|other| lease.barred.contains(&self.workers[other].id))
    }

    fn add(&mut self, worker: usize, readable: bool) {
        self.dequeue(worker);
        *self.loads[worker].count(readable) += 1;
        self.enqueue(worker);
    }

    fn remove(&mut self, worker: usize, readable: bool) {
        self.dequeue(worker);
        *self.loads[worker].count(readable) -= 1;
        self.enqueue(worker);
    }

    fn dequeue(&mut self, worker: usize) {
        self.readers.remove(&reader(self.loads[worker], worker));
        self.waiters.remove(&waiter(self.loads[worker], worker));
    }

    fn enqueue(&mut self, worker: usize) {
        let load = self.loads[worker];
        if self.has_reading_room(load, worker) {
            self.readers.insert(reader(load, worker));
        }
        if self.receives[worker] && load.readable + load.waiting < self.limit(worker) {
            self.waiters.insert(waiter(load, worker));
        }
    }

    fn has_reading_room(&self, load: Load, worker: usize) -> bool {
        self.receives[worker] && load.readable < self.limit(worker)
    }

    fn limit(&self, worker: usize) -> usize {
        self.workers[worker]
            .max_leases
            .map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
    }

    fn into_plan(self) -> AssignmentPlan {
        let mut left: Vec<usize> = self.available.iter().chain(&self.departing).copied().collect();
        left.sort_unstable();
        let unplaced = left
            .into_iter()
            .map(|lease| (self.leases[lease].key.clone(), self.obstacle(lease)))
            .collect();
        AssignmentPlan {
            moves: self.moves,
            unplaced,
        }
    }

    fn obstacle(&self, lease: usize) -> Obstacle {
        let queue = if self.leases[lease].readable {
            &self.readers
        } else {
            &self.waiters
        };
        if !self.receives.contains(&true) {
            Obstacle::NoCandidate
        } else if queue.is_empty() {
            Obstacle::NoRoom
        } else {
            Obstacle::Barred
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Step {
    lease: usize,
    from: usize,
    to: usize,
}

/// The leases a worker could give away, those it was given last first.
#[derive(Debug, Clone, Default)]
struct Stock {
    free: VecDeque<usize>,
    barred: Vec<usize>,
}

impl Stock {
    fn is_empty(&self) -> bool {
        self.free.is_empty() && self.barred.is_empty()
    }

    fn pick(&mut self, may_take: impl Fn(usize) -> bool) -> Option<usize> {
        self.free.pop_front().or_else(|| {
            let found = self.barred.iter().position(|&lease| may_take(lease))?;
            Some(self.barred.remove(found))
        })
    }
}

fn reader(load: Load, worker: usize) -> (usize, usize, usize) {
    (load.readable, load.waiting, worker)
}

fn waiter(load: Load, worker: usize) -> (usize, usize, usize) {
    (load.waiting, load.readable, worker)
}
