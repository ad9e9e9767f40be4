//! The view of one worker on the lease table from its own scans: who lives, what is expired, what failed, what was vetoed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::coordinator::assignment::snapshot::{Candidate, Hold, LeaseView, Snapshot};
use crate::coordinator::workers::{Cooldowns, WorkerLiveness};
use crate::lease::expiry_watch::ExpiryWatch;
use crate::lease::row::{Lease, Version, WriteStamp};
use crate::lease::store::Scan;
use crate::lease::worker_row::WorkerRow;
use crate::runtime::clock::Moment;
use crate::runtime::failpoint::failpoint;
use crate::settings::timing::Timing;
use crate::types::{LeaseKey, ShardId, StreamKey, WorkerId};

/// Turns successive scans into [`Snapshot`]s.
#[derive(Debug, Clone)]
pub struct TableView {
    me: Candidate,
    failover: Duration,
    now: Moment,
    rows: BTreeMap<LeaseKey, Lease>,
    /// Since when each row has named its owner, as far as this observer has seen.
    named: BTreeMap<LeaseKey, (WorkerId, Moment)>,
    watch: ExpiryWatch<LeaseKey, (WorkerId, u64)>,
    liveness: WorkerLiveness,
    cooldowns: Cooldowns,
    vetoes: BTreeMap<LeaseKey, Moment>,
    written: BTreeMap<LeaseKey, OwnWrite>,
}

/// A change that this worker made, of which a scan may not know yet.
#[derive(Debug, Clone)]
struct OwnWrite {
    before: Version,
    after: Lease,
}

impl TableView {
    /// An observer that has not looked yet: the candidate `me`, with its failover time, which means to scan once per `cadence`.
    pub fn new(me: Candidate, failover: Duration, cadence: Duration) -> Self {
        Self {
            me,
            failover,
            now: Moment::ZERO,
            rows: BTreeMap::new(),
            named: BTreeMap::new(),
            watch: ExpiryWatch::new(cadence),
            liveness: WorkerLiveness::new(failover, cadence),
            cooldowns: Cooldowns::default(),
            vetoes: BTreeMap::new(),
            written: BTreeMap::new(),
        }
    }

    /// Changes how often the observer means to scan.
    pub fn set_cadence(&mut self, cadence: Duration) {
        self.watch.set_cadence(cadence);
        self.liveness.set_cadence(cadence);
    }

    /// Observes a successful scan. `now` is a moment after its end, so that nothing written before a row was read counts as later.
    pub fn look(&mut self, now: Moment, scan: Scan) {
        self.now = now;
        self.liveness.look(now, &scan.workers);
        let scanned = scan.leases.into_iter().map(|lease| (lease.key.clone(), lease));
        let mut rows: BTreeMap<LeaseKey, Lease> = scanned.collect();
        self.bring_up_to_date(&mut rows);
        self.learn(&rows);
        self.rows = rows;
        let before = std::mem::take(&mut self.named);
        for lease in self.rows.values() {
            let Some(owner) = &lease.owner else { continue };
            let known = before.get(&lease.key).filter(|(named, _)| named == owner);
            let since = known.map_or(now, |(_, since)| *since);
            self.named.insert(lease.key.clone(), (owner.clone(), since));
        }

        let live = self.rows.values().filter(|lease| !lease.is_ended());
        let marks = live.filter_map(|lease| {
            // A handoff that begins is no sign of life, so the mark is the worker that processes the shard.
            let owner = lease.actual_owner()?;
            Some((lease.key.clone(), (owner.clone(), lease.counter)))
        });
        self.watch.look(now, marks);

        let expired = self
            .rows
            .values()
            .filter(|lease| self.hold(lease) == Hold::Expired);
        let failed: Vec<(LeaseKey, WorkerId, Duration)> = expired
            .filter_map(|lease| {
                let owner = lease.actual_owner()?.clone();
                Some((lease.key.clone(), owner, self.failover_of(lease)))
            })
            .collect();
        for (lease, owner, failover) in failed {
            let until = now + Timing::of(failover).cooldown;
            self.cooldowns.note(&lease, &owner, until);
            self.liveness.doubt(&owner);
        }
        self.cooldowns.prune(now);
        self.vetoes.retain(|_, until| now < *until);
    }

    /// Observes a change that this worker made, from the version it expected to the row it left.
    pub fn wrote(&mut self, before: Version, after: Lease) {
        self.rows.insert(after.key.clone(), after.clone());
        self.written.insert(after.key.clone(), OwnWrite { before, after });
    }

    /// Forgets everything, as after a time in which somebody else watched.
    pub fn forget(&mut self) {
        self.rows.clear();
        self.named.clear();
        self.cooldowns = Cooldowns::default();
        self.vetoes.clear();
        self.written.clear();
        self.watch.forget();
        self.liveness.forget();
    }

    /// The snapshot for the planner.
    pub fn snapshot(&self, max_moves: usize) -> Snapshot {
        let ended: BTreeMap<(Option<&StreamKey>, &ShardId), bool> = self
            .rows
            .values()
            .map(|lease| ((lease.stream.as_ref(), &lease.shard), lease.is_ended()))
            .collect();
        // A parent without a lease is finished: its lease was cleaned up, or its records are gone.
        let is_finished =
            |lease: &Lease, parent| *ended.get(&(lease.stream.as_ref(), parent)).unwrap_or(&true);
        let leases = self.rows.values().map(|lease| LeaseView {
            key: lease.key.clone(),
            version: lease.version(),
            hold: self.hold(lease),
            ended: lease.is_ended(),
            throughput: lease.throughput,
            readable: lease.parents.iter().all(|parent| is_finished(lease, parent)),
            named_since: self.named.get(&lease.key).map(|(_, since)| *since),
            arriving: self.written.contains_key(&lease.key) || !self.is_taken_up(lease),
            left_alone: self.vetoes.contains_key(&lease.key),
            pinned: lease.orders.as_ref().and_then(|orders| orders.pinned.clone()),
            barred: self.cooldowns.barred(&lease.key, self.now),
        });
        Snapshot {
            leases: leases.collect(),
            workers: self.candidates(),
            max_moves,
            ..Snapshot::default()
        }
    }

    /// The workers that may get leases.
    pub fn candidates(&self) -> Vec<Candidate> {
        self.liveness.candidates(&self.me)
    }

    /// The rows of workers that died long ago.
    pub fn expired_workers(&self) -> Vec<WorkerRow> {
        let mut dead = self.liveness.expired_workers();
        dead.retain(|row| row.id != self.me.id);
        dead
    }

    /// The lease as it was last seen or written.
    pub fn row(&self, key: &LeaseKey) -> Option<&Lease> {
        self.rows.get(key)
    }

    /// How long the lease has stood still under its owner.
    pub fn age(&self, key: &LeaseKey) -> Duration {
        self.watch.still_for(key).unwrap_or_default()
    }

    /// Whether the lease has been expired for this long, and nobody has given it away.
    pub fn is_overdue(&self, key: &LeaseKey, grace: Duration) -> bool {
        let owned = self.rows.get(key).filter(|lease| lease.actual_owner().is_some());
        owned.is_some_and(|lease| self.watch.is_still_for(key, self.failover_of(lease) + grace))
    }

    /// When, at the earliest, a lease can be called expired that is not yet.
    pub fn next_expiry(&self) -> Option<Moment> {
        self.watch.next_expiry(|key| {
            let lease = self.rows.get(key);
            lease.map_or(self.failover, |lease| self.failover_of(lease))
        })
    }

    /// The failover time by which the lease is judged: the longest of the observer's own, of what its owner's row says, and of what
    /// the owner stored in the lease itself. The last is known to every observer for as long as the owner renews it, also when the
    /// owner's row is gone, as that of a worker that leaves, or is that of a newer process with other settings.
    fn failover_of(&self, lease: &Lease) -> Duration {
        let Some(owner) = lease.actual_owner() else {
            return self.failover;
        };
        let known = self.liveness.failover_of(owner);
        // A Java worker that took the lease leaves what the owner before it stored.
        let stored = lease.failover.filter(|_| !lease.is_written_by_foreigner());
        match failpoint!(FailoverTimeForgotten) {
            true => known,
            false => known.max(stored.unwrap_or_default().min(Lease::LONGEST_FAILOVER)),
        }
    }

    /// Whether the owner named in the row has renewed it. Until then it may not know of the lease, and once the row names a
    /// further worker it never would: nobody would be left to hand the lease over.
    ///
    /// The stamp shows who wrote the counter last. Where there is none, or no row of the owner to compare it with, Java wrote.
    fn is_taken_up(&self, lease: &Lease) -> bool {
        let owner = lease.owner.as_ref();
        let incarnation = owner.and_then(|owner| self.liveness.incarnation_of(owner));
        match (lease.stamp, incarnation) {
            // Created with an owner, as the worker that ends a shard creates its children.
            _ if lease.counter == 0 => false,
            (Some(stamp), Some(owner)) if stamp.counter == lease.counter => stamp.incarnation == owner,
            _ => true,
        }
    }

    fn hold(&self, lease: &Lease) -> Hold {
        let Some(owner) = lease.actual_owner() else {
            return Hold::Unowned;
        };
        let patience = match () {
            () if failpoint!(NothingExpires) => Duration::MAX,
            () if failpoint!(ExpiryTooEarly) => Timing::of(self.failover_of(lease)).slowest_scan,
            () if failpoint!(ExpiryByWallClock) && self.liveness.has_old_time(owner) => Duration::ZERO,
            () => self.failover_of(lease),
        };
        match self.watch.is_still_for(&lease.key, patience) || self.was_given_to_the_dead(lease) {
            true => Hold::Expired,
            false => Hold::Held,
        }
    }

    /// Whether the row names a worker that is dead and never took the lease up, so that nobody believes in it: to wait for such a lease to
    /// stand still, too, would be to miss the worker twice. Should it not be dead after all, its first renewal will be refused.
    ///
    /// That it never took the lease up must be known, and not only look so: a scan may show an older row of a worker than of its lease,
    /// and a process may still hold what it had when another took its id.
    fn was_given_to_the_dead(&self, lease: &Lease) -> bool {
        let Some(named) = lease.owner.as_ref().filter(|_| !lease.is_in_handoff()) else {
            return false;
        };
        let is_by_another = |stamp: WriteStamp| {
            stamp.counter == lease.counter && self.liveness.is_of_another(stamp.incarnation, named)
        };
        let is_untouched = lease.counter == 0 || lease.stamp.is_some_and(is_by_another);
        is_untouched && self.liveness.has_died(named)
    }

    /// Replaces rows that are older than what this worker wrote: a scan may lag behind.
    fn bring_up_to_date(&mut self, rows: &mut BTreeMap<LeaseKey, Lease>) {
        self.written.retain(|key, written| {
            let Some(row) = rows.get_mut(key) else {
                return false;
            };
            if row.version() == written.before {
                *row = written.after.clone();
            }
            // Until its new owner renews it, or its old one answers to the handoff, there is nothing more to do about it.
            row.version() == written.after.version()
        });
    }

    /// Learns from what became of the rows since the last look.
    fn learn(&mut self, rows: &BTreeMap<LeaseKey, Lease>) {
        for (key, row) in rows {
            let Some(before) = self.rows.get(key).filter(|_| !row.is_ended()) else {
                continue;
            };
            let Some(owner) = before.actual_owner() else {
                continue;
            };
            let wrote_itself_back =
                before.is_in_handoff() && !row.is_in_handoff() && row.owner.as_ref() == Some(owner);
            if wrote_itself_back {
                self.vetoes.insert(
                    key.clone(),
                    self.now + Timing::of(self.failover).declined_cooldown,
                );
            }
            // A worker that leaves has no row any more; one that stays and gives a lease up makes no progress on it.
            if row.actual_owner().is_none() && self.liveness.is_alive(owner) {
                let until = self.now + Timing::of(self.failover_of(before)).cooldown;
                self.cooldowns.note(key, owner, until);
            }
        }
    }
}

#[cfg(test)]
mod tests;
