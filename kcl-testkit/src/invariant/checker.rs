//! The checker: all invariants about single observations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kcl_core::invariant::{Invariant, Violation};
use kcl_core::lease_store::{LeaderLock, Lease, LeaseChange};
use kcl_core::processor::FencingToken;
use kcl_core::types::{LeaseKey, Position, RecordPosition, WorkerId};

use super::delivery::Shard;
use super::lineage::{Family, check_cover};
use super::lock::Lock;
use super::observation::{Observation, Process, Written};
use super::table::Table;

/// The counts of a [`Checker`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Records put that the application wants.
    pub put: u64,
    /// Records finished, each counted once; those that were set aside are among them.
    pub finished: u64,
    /// Records set aside, each counted in every ownership that did it.
    pub set_aside: u64,
    /// Records handed to a processor, each counted every time.
    pub delivered: u64,
    /// Records handed to a processor that had been handed to one before.
    pub redelivered: u64,
    /// Records that retention took away before they were finished.
    pub trimmed_unfinished: u64,
    /// Ownerships that began.
    pub ownerships: u64,
    /// The longest time in which a former owner still worked on a batch while the next had started its own.
    pub longest_overlap: Duration,
    /// How often an observation was checked.
    pub observations: u64,
    /// How often the leader lock went to another process than the one that had it.
    pub leader_changes: u64,
}

/// Checks I1 to I9, I11, I16 and who holds the leader lock (I14), one observation at a time.
///
/// ```
/// use kcl_testkit::invariant::{Checker, Invariant, Observation};
/// use kcl_core::types::{LeaseKey, RecordPosition, SequenceNumber};
///
/// let mut checker = Checker::default();
/// let shard = LeaseKey::new("shardId-000000000000")?;
/// let position = RecordPosition::plain(SequenceNumber::from(1));
/// checker.observe(&Observation::Put { shard: shard.clone(), position, arrival: None }).unwrap();
/// // Nobody has processed the record, which is all right for now, but not in the end.
/// assert_eq!(checker.at_rest().unwrap_err().invariant, Invariant::NoRecordLost);
/// checker.observe(&Observation::Trimmed { shard, oldest: None }).unwrap();
/// assert_eq!(checker.at_rest(), Ok(()));
/// # Ok::<(), kcl_core::types::InvalidName>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Checker {
    table: Table,
    lock: Lock,
    shards: BTreeMap<LeaseKey, Shard>,
    paused: BTreeSet<Process>,
    workers: BTreeMap<Process, WorkerId>,
    tally: Tally,
}

impl Checker {
    /// Observes the next thing that happened.
    ///
    /// # Errors
    ///
    /// The invariant that it breaks. The verdicts of the checker afterwards mean nothing.
    pub fn observe(&mut self, observation: &Observation) -> Result<(), Violation> {
        self.tally.observations += 1;
        match observation {
            Observation::ShardOpened { shard, parents } => {
                self.shard(shard).parents.clone_from(parents);
                Ok(())
            }
            Observation::ShardForgotten { shard } => {
                self.shard(shard).forgotten = true;
                Ok(())
            }
            Observation::Put {
                shard,
                position,
                arrival,
            } => {
                self.tally.put += 1;
                self.shard(shard).put(position, *arrival);
                Ok(())
            }
            Observation::Trimmed { shard, oldest } => {
                self.tally.trimmed_unfinished += self.shard(shard).trim(oldest.as_ref());
                Ok(())
            }
            Observation::GapTold { process, shard } => {
                self.shard(shard).gap_told(process);
                Ok(())
            }
            Observation::Written(written) => self.written(written),
            Observation::Removed { key } => {
                self.table.remove(key);
                Ok(())
            }
            Observation::LockWritten {
                process,
                expect,
                change,
                at,
            } => {
                let changes_hands = self.lock.written(process, expect, change, *at)?;
                self.tally.leader_changes += u64::from(changes_hands);
                Ok(())
            }
            Observation::Started {
                process,
                shard,
                token,
            } => {
                self.table.check_token(process, shard, *token)?;
                let row = self.table.row(shard);
                let checkpoint = row.map(|row| row.checkpoint.clone());
                self.tally.ownerships += u64::from(self.shard(shard).start(process, *token, checkpoint)?);
                Ok(())
            }
            Observation::BatchStarted { process, shard, .. } => {
                let excused = self.may_overlap(process, shard);
                self.table.check_deadline(observation)?;
                self.check_start(observation, excused)?;
                let (delivered, redelivered, overlap) = self.shard(shard).batch(observation, excused)?;
                self.tally.delivered += delivered;
                self.tally.redelivered += redelivered;
                self.tally.longest_overlap = self.tally.longest_overlap.max(overlap);
                Ok(())
            }
            Observation::BatchFinished { process, shard, at } => {
                let (finished, overlap) = self.shard(shard).finish(process, *at);
                self.tally.finished += finished;
                self.tally.longest_overlap = self.tally.longest_overlap.max(overlap);
                Ok(())
            }
            Observation::BatchReturned { process, shard, at } => {
                let overlap = self.shard(shard).end_batch(process, *at).1;
                self.tally.longest_overlap = self.tally.longest_overlap.max(overlap);
                Ok(())
            }
            Observation::BatchFailed {
                process,
                shard,
                from,
                finishes,
            } => {
                self.tally.finished += self.shard(shard).fail(process, from.as_ref(), *finishes);
                Ok(())
            }
            Observation::CallStarted { process, shard, .. } => {
                let excused = self.may_overlap(process, shard);
                self.table.check_deadline(observation)?;
                self.check_start(observation, excused)?;
                let (is_again, overlap) = self.shard(shard).call(observation, excused)?;
                self.tally.delivered += 1;
                self.tally.redelivered += u64::from(is_again);
                self.tally.longest_overlap = self.tally.longest_overlap.max(overlap);
                Ok(())
            }
            Observation::CallEnded { shard, .. } => {
                let (finished, overlap) = self.shard(shard).end_call(observation);
                self.tally.finished += u64::from(finished);
                self.tally.longest_overlap = self.tally.longest_overlap.max(overlap);
                Ok(())
            }
            Observation::Checkpointed {
                process,
                shard,
                token,
                through,
            } => {
                self.tally.finished += self.shard(shard).finish_through(process, *token, through);
                Ok(())
            }
            Observation::PendingCommitted {
                process,
                shard,
                token,
                through,
            } => {
                let pending = self.table.row(shard).and_then(|row| row.pending.as_ref());
                let is_pending = pending.is_some_and(|pending| pending.position.record() == Some(through));
                Invariant::CheckpointNotAhead.check(is_pending, || {
                    format!("{process} commits {through} of {shard}, which is not pending: {pending:?}")
                })?;
                self.tally.finished += self.shard(shard).commit_pending(process, *token, through);
                Ok(())
            }
            Observation::SetAside { shard, .. } => {
                self.tally.finished += self.shard(shard).set_aside(observation)?;
                self.tally.set_aside += 1;
                Ok(())
            }
            Observation::Paused { process } => {
                self.paused.insert(Arc::clone(process));
                Ok(())
            }
        }
    }

    /// Notes an ownership that began at this checkpoint, of which no write was seen.
    pub(super) fn begin(
        &mut self,
        process: &Process,
        shard: &LeaseKey,
        token: FencingToken,
        checkpoint: Position,
    ) -> Result<(), Violation> {
        let is_new = self.shard(shard).start(process, token, Some(checkpoint))?;
        self.tally.ownerships += u64::from(is_new);
        Ok(())
    }

    /// Checks what must hold once nothing is left to do: I1, and what I10 says of the leases then.
    ///
    /// # Errors
    ///
    /// The first record that was lost, or the hash keys that are not covered once.
    pub fn at_rest(&self) -> Result<(), Violation> {
        for (key, shard) in &self.shards {
            let lost = shard.unfinished();
            Invariant::NoRecordLost.check(lost.is_none(), || {
                format!("the record {} of {key} was never processed", text(lost))
            })?;
        }
        // A fleet that never began to read a stream has no leases.
        match self.rows().next() {
            Some(_) => check_cover(self.rows()),
            None => Ok(()),
        }
    }

    /// The shards that should have a lease by now and have none, for [`Lineage`](super::Lineage): they are there, nobody has read them, and their
    /// parents are finished.
    pub fn lacking(&self) -> impl Iterator<Item = &LeaseKey> {
        let family = self.family();
        self.shards.keys().filter(move |shard| family.lacks(shard))
    }

    /// The first record of each shard that is not finished yet.
    pub fn unfinished(&self) -> impl Iterator<Item = (&LeaseKey, &RecordPosition)> {
        self.shards
            .iter()
            .filter_map(|(key, shard)| Some((key, shard.unfinished()?)))
    }

    /// The shard into which this record was put.
    pub fn home_of(&self, position: &RecordPosition) -> Option<&LeaseKey> {
        let mut shards = self.shards.iter();
        shards.find_map(|(key, shard)| shard.has(position).then_some(key))
    }

    /// The last record that was put into a shard and is not trimmed.
    pub fn last_put(&self, shard: &LeaseKey) -> Option<&RecordPosition> {
        self.shards.get(shard)?.last_put()
    }

    /// The lease rows as the accepted changes made them.
    pub fn rows(&self) -> impl Iterator<Item = &Lease> {
        self.table.rows()
    }

    /// The leader lock as the last accepted change left it; nothing when it was given up.
    pub fn lock(&self) -> Option<&LeaderLock> {
        self.lock.row()
    }

    /// The counts so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    fn family(&self) -> Family<'_> {
        Family {
            shards: &self.shards,
            table: &self.table,
        }
    }

    fn shard(&mut self, key: &LeaseKey) -> &mut Shard {
        self.shards.entry(key.clone()).or_default()
    }

    /// Whether an overlap is measured and not forbidden: of a process that was paused, and of two that share a worker id,
    /// where the older learns of the newer only with its next write.
    fn may_overlap(&self, process: &Process, shard: &LeaseKey) -> bool {
        let newest = self.shards.get(shard).and_then(Shard::newest);
        let worker = |process: &Process| self.workers.get(process);
        self.paused.contains(process) || newest.is_some_and(|newest| worker(newest) == worker(process))
    }

    fn written(&mut self, written: &Written) -> Result<(), Violation> {
        if !self.workers.contains_key(&written.process) {
            self.workers
                .insert(Arc::clone(&written.process), written.worker.clone());
        }
        if written.change == LeaseChange::Delete {
            self.family().check_deletion(written)?;
        }
        self.table.written(written)?;
        if let LeaseChange::Reset { to, .. } = &written.change {
            let shard = self.shards.entry(written.key.clone()).or_default();
            let (again, left_out) = shard.reset(to, FencingToken::new(written.after.counter));
            self.tally.finished = self.tally.finished + left_out - again;
        }
        if let LeaseChange::Checkpoint { .. } | LeaseChange::End { .. } = written.change {
            let unfinished = self.shards.get(&written.key).and_then(Shard::unfinished);
            let ahead = unfinished.is_some_and(|first| written.after.checkpoint.covers(first));
            Invariant::CheckpointNotAhead.check(!ahead, || {
                format!(
                    "{} stored {} for {}, but {} is not finished",
                    written.process,
                    written.after.checkpoint,
                    written.key,
                    text(unfinished)
                )
            })?;
        }
        if let Some(ahead) = &written.after.finished_ahead
            && *ahead.base() == written.after.checkpoint
        {
            let shard = self.shards.entry(written.key.clone()).or_default();
            let unfinished = shard.store_ahead(ahead);
            Invariant::CheckpointNotAhead.check(unfinished.is_none(), || {
                format!(
                    "{} stored that {} of {} is finished ahead, and it is not",
                    written.process,
                    text(unfinished),
                    written.key
                )
            })?;
        }
        Ok(())
    }

    /// Checks that a batch may start: its parents are finished, and no order pauses the shard. An ownership that a reset has fenced does not
    /// know yet.
    fn check_start(&self, started: &Observation, excused: bool) -> Result<(), Violation> {
        let (Observation::BatchStarted {
            process,
            shard,
            token,
            ..
        }
        | Observation::CallStarted {
            process,
            shard,
            token,
            ..
        }) = started
        else {
            return Ok(());
        };
        if self
            .shards
            .get(shard)
            .is_some_and(|known| known.is_fenced(*token))
        {
            return Ok(());
        }
        let row = self.table.row(shard);
        let obeys_pause = row.is_some_and(|row| {
            let is_paused = row.orders.as_ref().is_some_and(|orders| orders.is_paused());
            is_paused && !row.is_unanswered()
        });
        Invariant::OrdersObeyed.check(excused || !obeys_pause, || {
            format!("{process} starts a batch of {shard}, and has answered that it is paused")
        })?;
        self.check_parents(shard)
    }

    fn check_parents(&self, child: &LeaseKey) -> Result<(), Violation> {
        let parents = self
            .shards
            .get(child)
            .map_or(&[][..], |shard| shard.parents.as_slice());
        for parent in parents {
            let unfinished = self.shards.get(parent).and_then(Shard::unfinished);
            let open = self.table.row(parent).is_some_and(|row| !row.is_ended());
            Invariant::ParentsFirst.check(unfinished.is_none() && !open, || {
                let unfinished = text(unfinished);
                format!("a batch of {child} starts, but its parent {parent} is not finished: {unfinished}")
            })?;
        }
        Ok(())
    }
}

fn text(position: Option<&RecordPosition>) -> String {
    position.map_or_else(|| "none".to_owned(), ToString::to_string)
}
