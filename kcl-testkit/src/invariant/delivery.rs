//! The invariants of the records of one shard: I2, I7, I8, I16, and the counts.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use kcl_core::clock::Moment;
use kcl_core::invariant::{Invariant, Violation};
use kcl_core::lease_store::{FinishedAhead, ResetPosition};
use kcl_core::processor::FencingToken;
use kcl_core::types::{LeaseKey, Position, RecordPosition, Timestamp};

use super::observation::{Observation, Process};
use super::ownership::Ownership;

/// The known facts about the records of one shard, and of those who were given them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shard {
    pub(crate) parents: Vec<LeaseKey>,
    /// Whether the stream does not list the shard any more.
    pub(crate) forgotten: bool,
    /// Every record that was put and that retention has left.
    kept: BTreeSet<RecordPosition>,
    /// When the records arrived, where that is known.
    arrivals: BTreeMap<RecordPosition, Timestamp>,
    unfinished: BTreeSet<RecordPosition>,
    /// The unfinished records that retention took.
    lost: BTreeSet<RecordPosition>,
    /// The processes that learned of a gap, until their next batch.
    told: BTreeSet<Process>,
    delivered: BTreeSet<RecordPosition>,
    /// The finished records that a row has ever called finished ahead of its checkpoint: an ownership may leave them out.
    stored_ahead: BTreeSet<RecordPosition>,
    ownerships: BTreeMap<FencingToken, Ownership>,
    /// The records that a handler was called for, by their lanes: those that are unfinished, and perhaps others.
    lanes: BTreeMap<Option<String>, BTreeSet<RecordPosition>>,
    /// The last reset: the tokens up to this one are fenced, and later ownerships read from there.
    reset: Option<(FencingToken, Bound<RecordPosition>)>,
    /// The largest token under which a batch has started, when the first one did, and where.
    newest: Option<(FencingToken, Moment, Process)>,
}

impl Shard {
    pub(crate) fn put(&mut self, position: &RecordPosition, arrival: Option<Timestamp>) {
        if let Some(arrival) = arrival {
            self.arrivals.insert(position.clone(), arrival);
        }
        self.kept.insert(position.clone());
        self.unfinished.insert(position.clone());
    }

    /// An operator makes reading begin elsewhere: the records from there on are to come again, and none before. Returns how many finished
    /// records are to come again, and how many unfinished ones are not.
    pub(crate) fn reset(&mut self, to: &ResetPosition, fenced: FencingToken) -> (u64, u64) {
        let is_wanted = |record: &&RecordPosition| match to {
            ResetPosition::TrimHorizon => true,
            ResetPosition::ShardEnd => false,
            ResetPosition::After(done) => done < *record,
            ResetPosition::AtTimestamp(time) => {
                self.arrivals.get(*record).is_none_or(|arrival| time <= arrival)
            }
        };
        let wanted: BTreeSet<_> = self.kept.iter().filter(is_wanted).cloned().collect();
        let again = wanted.difference(&self.unfinished).count() as u64;
        let left_out = self.unfinished.difference(&wanted).count() as u64;
        self.unfinished = wanted;
        let from = match (to, self.unfinished.first(), self.kept.last()) {
            (ResetPosition::After(done), ..) => Bound::Excluded(done.clone()),
            (_, Some(first), _) => Bound::Included(first.clone()),
            (_, None, Some(last)) => Bound::Excluded(last.clone()),
            (_, None, None) => Bound::Unbounded,
        };
        self.stored_ahead.clear();
        self.lanes.clear();
        self.reset = Some((fenced, from));
        (again, left_out)
    }

    /// Whether the ownership with this token began before the last reset: it counts no more, and learns of that with its next write.
    pub(crate) fn is_fenced(&self, token: FencingToken) -> bool {
        self.reset.as_ref().is_some_and(|(fenced, _)| token <= *fenced)
    }

    /// Checks that an ownership after a reset reads nothing before its place.
    fn check_reset(
        &self,
        shard: &LeaseKey,
        token: FencingToken,
        first: &RecordPosition,
    ) -> Result<(), Violation> {
        let is_before = match &self.reset {
            Some((fenced, Bound::Included(from))) if *fenced < token => first < from,
            Some((fenced, Bound::Excluded(done))) if *fenced < token => first <= done,
            _ => false,
        };
        Invariant::OrdersObeyed.check(!is_before, || {
            format!(
                "{first} of {shard} is delivered, which is before the place of its last reset: {:?}",
                self.reset
            )
        })
    }

    /// How many records went away unfinished.
    pub(crate) fn trim(&mut self, oldest: Option<&RecordPosition>) -> u64 {
        let split = |records: &mut BTreeSet<RecordPosition>| match oldest {
            Some(oldest) => records.split_off(oldest),
            None => BTreeSet::new(),
        };
        self.kept = split(&mut self.kept);
        let left = split(&mut self.unfinished);
        let mut lost = std::mem::replace(&mut self.unfinished, left);
        let count = lost.len() as u64;
        self.lost.append(&mut lost);
        count
    }

    /// The process learns that records may be missing before its next batch.
    pub(crate) fn gap_told(&mut self, process: &Process) {
        self.told.insert(Process::clone(process));
    }

    pub(crate) fn unfinished(&self) -> Option<&RecordPosition> {
        self.unfinished.first()
    }

    /// The process that has started a batch under the largest token.
    pub(crate) fn newest(&self) -> Option<&Process> {
        self.newest.as_ref().map(|(_, _, process)| process)
    }

    pub(crate) fn last_put(&self) -> Option<&RecordPosition> {
        self.kept.last()
    }

    /// Whether this is a new ownership, and not a new processor in an old one.
    pub(crate) fn start(
        &mut self,
        process: &Process,
        token: FencingToken,
        checkpoint: Option<Position>,
    ) -> Result<bool, Violation> {
        if let Some(known) = self.ownerships.get_mut(&token) {
            known.may_go_back = true;
            let theirs = &known.process;
            Invariant::TokenRises.check(known.process == *process, || {
                format!("{process} has the token {token}, which {theirs} has already")
            })?;
            return Ok(false);
        }
        let next_is_unknown = !matches!(checkpoint, Some(Position::Record(_)));
        let next = match checkpoint {
            Some(Position::Record(done)) => Bound::Excluded(done),
            _ => self
                .reset
                .as_ref()
                .map_or(Bound::Unbounded, |(_, from)| from.clone()),
        };
        let ownership = Ownership {
            process: Process::clone(process),
            is_fresh: next_is_unknown,
            next,
            batch: Vec::new(),
            delivered: BTreeSet::new(),
            may_go_back: true,
            failures: BTreeMap::new(),
            isolated: None,
            parked: BTreeSet::new(),
            called: BTreeMap::new(),
            aside: BTreeSet::new(),
        };
        self.ownerships.insert(token, ownership);
        Ok(true)
    }

    /// How many records were delivered, how many of them again, and how long two workers have overlapped.
    pub(crate) fn batch(
        &mut self,
        started: &Observation,
        excused: bool,
    ) -> Result<(u64, u64, Duration), Violation> {
        let Observation::BatchStarted {
            process,
            shard,
            token,
            records,
            at,
            ..
        } = started
        else {
            return Ok((0, 0, Duration::ZERO));
        };
        let overlap = self.check_overlap(process, shard, *token, *at, excused)?;
        if let Some(first) = records.first() {
            self.check_reset(shard, *token, first)?;
        }
        let is_fenced = self.is_fenced(*token);
        let known = self.ownerships.get_mut(token);
        let Some(own) = known.filter(|own| own.process == *process) else {
            return Invariant::TokenRises.broken(format!(
                "{process} starts a batch of {shard} under the token {token}, which is not its own"
            ));
        };
        let is_told = self.told.remove(process);
        if !is_fenced {
            own.check_order(shard, records, &self.kept, &self.stored_ahead)?;
            own.check_gap(shard, records, &self.lost, is_told)?;
        }
        if let Some(first) = records.first() {
            own.next = Bound::Included(first.clone());
            own.may_go_back = false;
            own.is_fresh = false;
            own.isolated = None;
            own.batch.clone_from(records);
            own.delivered.extend(records.iter().cloned());
        }
        let mut again = 0;
        for record in records {
            again += u64::from(!self.delivered.insert(record.clone()));
        }
        Ok((records.len() as u64, again, overlap))
    }

    fn check_overlap(
        &mut self,
        process: &Process,
        shard: &LeaseKey,
        token: FencingToken,
        at: Moment,
        excused: bool,
    ) -> Result<Duration, Violation> {
        match &self.newest {
            Some((newest, since, _)) if token < *newest => {
                Invariant::NoOverlap.check(excused, || {
                    format!("{process} starts a batch of {shard} under the token {token}, but a batch started under {newest} before")
                })?;
                Ok(at.saturating_since(*since))
            }
            Some((newest, ..)) if token == *newest => Ok(Duration::ZERO),
            _ => {
                self.newest = Some((token, at, Process::clone(process)));
                Ok(Duration::ZERO)
            }
        }
    }

    /// Whether the record was delivered before, and how long two workers have overlapped.
    pub(crate) fn call(
        &mut self,
        started: &Observation,
        excused: bool,
    ) -> Result<(bool, Duration), Violation> {
        let Observation::CallStarted {
            process,
            shard,
            token,
            record,
            lane,
            at,
            ..
        } = started
        else {
            return Ok((false, Duration::ZERO));
        };
        let overlap = self.check_overlap(process, shard, *token, *at, excused)?;
        self.check_reset(shard, *token, record)?;
        let is_fenced = self.is_fenced(*token);
        let known = self.ownerships.get_mut(token);
        let Some(own) = known.filter(|own| own.process == *process) else {
            return Invariant::TokenRises.broken(format!(
                "{process} calls the handler of {shard} under the token {token}, which is not its own"
            ));
        };
        own.parked.remove(record);
        own.delivered.insert(record.clone());
        if let Some(lane) = lane
            && !is_fenced
        {
            let last = own.called.insert(lane.clone(), record.clone());
            Invariant::KeyOrder.check(last.as_ref().is_none_or(|last| last <= record), || {
                format!(
                    "{process} calls the handler of {shard} for {record} after {last:?}, which has its key"
                )
            })?;
            let called = self.lanes.entry(lane.clone()).or_default();
            called.insert(record.clone());
            called.retain(|record| self.unfinished.contains(record));
            let before = called.first().filter(|before| *before < record);
            Invariant::KeyOrder.check(before.is_none(), || {
                format!("{process} calls the handler of {shard} for {record}, and {before:?} is unfinished and has its key")
            })?;
        }
        Ok((!self.delivered.insert(record.clone()), overlap))
    }

    /// Whether the record is finished and was not before, and how long two workers have overlapped.
    pub(crate) fn end_call(&mut self, ended: &Observation) -> (bool, Duration) {
        let Observation::CallEnded {
            token,
            record,
            finishes,
            at,
            ..
        } = ended
        else {
            return (false, Duration::ZERO);
        };
        let overlap = match &self.newest {
            Some((newest, since, _)) if token < newest => at.saturating_since(*since),
            _ => Duration::ZERO,
        };
        if *finishes {
            let is_counted = !self.is_fenced(*token);
            return (is_counted && self.unfinished.remove(record), overlap);
        }
        if let Some(own) = self.ownerships.get_mut(token) {
            *own.failures.entry(record.clone()).or_default() += 1;
            own.parked.insert(record.clone());
        }
        (false, overlap)
    }

    /// How many records are finished that were not before, and how long two workers have overlapped.
    pub(crate) fn finish(&mut self, process: &Process, at: Moment) -> (u64, Duration) {
        let is_fenced = self.is_working_fenced(process);
        let (batch, overlap) = self.end_batch(process, at);
        match is_fenced {
            true => (0, overlap),
            false => (done(&mut self.unfinished, &batch), overlap),
        }
    }

    /// How many records are finished that were not before: of those delivered in the ownership, up to this one.
    pub(crate) fn finish_through(
        &mut self,
        process: &Process,
        token: FencingToken,
        through: &RecordPosition,
    ) -> u64 {
        let known = self.ownerships.get(&token).filter(|_| !self.is_fenced(token));
        let Some(own) = known.filter(|own| own.process == *process) else {
            return 0;
        };
        let finished: Vec<_> = own.delivered.range(..=through).cloned().collect();
        done(&mut self.unfinished, &finished)
    }

    /// How many records are finished that were not before: whichever ownership they were delivered in, up to this one. The ownership goes on
    /// behind it.
    pub(crate) fn commit_pending(
        &mut self,
        process: &Process,
        token: FencingToken,
        through: &RecordPosition,
    ) -> u64 {
        if self.is_fenced(token) {
            return 0;
        }
        let known = self.ownerships.get_mut(&token);
        if let Some(own) = known.filter(|own| own.process == *process) {
            own.next = Bound::Excluded(through.clone());
        }
        let finished: Vec<_> = self.unfinished.range(..=through).cloned().collect();
        done(&mut self.unfinished, &finished)
    }

    /// Whether the batch that the process works on is of an ownership that a reset has fenced.
    fn is_working_fenced(&mut self, process: &Process) -> bool {
        let token = working(&mut self.ownerships, process).map(|(token, _)| token);
        token.is_some_and(|token| self.is_fenced(token))
    }

    /// The processor has returned from its batch: which that was, and how long two workers have overlapped.
    pub(crate) fn end_batch(&mut self, process: &Process, at: Moment) -> (Vec<RecordPosition>, Duration) {
        let Some((token, own)) = working(&mut self.ownerships, process) else {
            return (Vec::new(), Duration::ZERO);
        };
        let batch = std::mem::take(&mut own.batch);
        if let Some(last) = batch.last() {
            own.next = Bound::Excluded(last.clone());
        }
        let overlap = match &self.newest {
            Some((newest, since, _)) if token < *newest => at.saturating_since(*since),
            _ => Duration::ZERO,
        };
        (batch, overlap)
    }

    /// How many records are finished that were not before: those before the failed one, if that `finishes` them.
    pub(crate) fn fail(&mut self, process: &Process, from: Option<&RecordPosition>, finishes: bool) -> u64 {
        let is_fenced = self.is_working_fenced(process);
        let Some((_, own)) = working(&mut self.ownerships, process) else {
            return 0;
        };
        let batch = std::mem::take(&mut own.batch);
        own.may_go_back = true;
        let named = from.and_then(|from| batch.binary_search(from).ok());
        let good = named.unwrap_or(0);
        if let Some(next) = batch.get(good) {
            own.next = Bound::Included(next.clone());
            *own.failures.entry(next.clone()).or_default() += 1;
            own.isolated = (named.is_some() || batch.len() == 1).then(|| next.clone());
        }
        let finished = batch.get(..good).filter(|_| finishes && !is_fenced);
        done(&mut self.unfinished, finished.unwrap_or_default())
    }

    /// The row calls these records finished ahead of its checkpoint. Returns the first that is not.
    pub(crate) fn store_ahead(&mut self, ahead: &FinishedAhead) -> Option<&RecordPosition> {
        let behind = match ahead.base().record() {
            Some(base) => Bound::Excluded(base.clone()),
            None => Bound::Unbounded,
        };
        let covered = self.kept.range((behind, Bound::Included(ahead.end().clone())));
        let covered = covered.filter(|record| ahead.covers(record));
        let (unfinished, finished): (Vec<_>, Vec<_>) =
            covered.partition(|record| self.unfinished.contains(*record));
        self.stored_ahead.extend(finished.into_iter().cloned());
        unfinished.into_iter().next()
    }

    /// Returns `true` if the record was put into the shard.
    pub(crate) fn has(&self, position: &RecordPosition) -> bool {
        self.kept.contains(position) || self.lost.contains(position)
    }

    /// How many records are finished that were not before, since this one is set aside.
    pub(crate) fn set_aside(&mut self, observation: &Observation) -> Result<u64, Violation> {
        let Observation::SetAside {
            process,
            shard,
            token,
            position,
            unreadable,
            attempts,
        } = observation
        else {
            return Ok(0);
        };
        let of_process = self
            .ownerships
            .iter_mut()
            .rev()
            .find(|(known, own)| own.process == *process && token.is_none_or(|token| token == **known));
        let Some((of, own)) = of_process else {
            return Invariant::TokenRises.broken(format!(
                "{process} sets {position} of {shard} aside under the token {token:?}, which is not its own"
            ));
        };
        let is_fenced = self.reset.as_ref().is_some_and(|(fenced, _)| of <= fenced);
        if let (Some(attempts), false) = (attempts, unreadable) {
            own.check_set_aside(shard, position, *attempts)?;
        }
        let last = match unreadable {
            true => u64::MAX,
            false => position.sub_sequence,
        };
        let last = RecordPosition {
            sequence: position.sequence.clone(),
            sub_sequence: last,
        };
        // Retention may have taken it meanwhile.
        let (kept, lost) = (
            self.kept.range(position..=&last),
            self.lost.range(position..=&last),
        );
        let aside: Vec<_> = kept.chain(lost).cloned().collect();
        let again = aside.iter().find(|record| own.aside.contains(*record));
        Invariant::InOrder.check(again.is_none(), || {
            format!("{process} sets {position} of {shard} aside twice in one ownership")
        })?;
        own.aside.extend(aside.iter().cloned());
        match is_fenced {
            true => Ok(0),
            false => Ok(done(&mut self.unfinished, &aside)),
        }
    }
}

/// The ownership in which this process works on a batch.
fn working<'a>(
    ownerships: &'a mut BTreeMap<FencingToken, Ownership>,
    process: &Process,
) -> Option<(FencingToken, &'a mut Ownership)> {
    ownerships
        .iter_mut()
        .rev()
        .find(|(_, own)| own.process == *process && !own.batch.is_empty())
        .map(|(token, own)| (*token, own))
}

fn done(unfinished: &mut BTreeSet<RecordPosition>, records: &[RecordPosition]) -> u64 {
    records
        .iter()
        .map(|record| u64::from(unfinished.remove(record)))
        .sum()
}
