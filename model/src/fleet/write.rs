//! Conditional writes, from sending to what the sender makes of the answer.

use std::collections::BTreeSet;

use kcl_core::internals::{ConsumerEvent, Refusal, Resolution, judge_refusal, resolve, transition};
use kcl_core::lease_store::{Expect, LeaseChange, Outcome, OwnerNotes, RowFacts};
use kcl_core::status::ConsumerState;
use kcl_testkit::invariant::{Observation, Written};

use super::model::{Fate, Fleet, until};
use super::state::{At, Call, Change, Life, Own, Request, Row, Seen, State, Write};
use crate::broken::Broken;
use crate::fixtures::{FAILOVER, at};
use crate::store;

impl Fleet {
    /// The condition of a write, and the change itself.
    fn spell(&self, state: &State, worker: usize, write: &Write) -> (Expect, LeaseChange) {
        let change = match write.change {
            Change::TakeUp | Change::Renew => LeaseChange::Renew {
                notes: OwnerNotes::NONE,
                facts: RowFacts::NONE,
            },
            Change::GiveBack | Change::Release => LeaseChange::Release,
            Change::Checkpoint(done) => LeaseChange::Checkpoint {
                position: self.fixtures.checkpoint(done),
                finished_ahead: None,
                notes: OwnerNotes::NONE,
            },
            Change::Create => {
                let mut lease = self.fixtures.lease(write.shard);
                lease.owner = Some(self.fixtures.workers[worker].clone());
                LeaseChange::Create(Box::new(lease))
            }
            Change::End => LeaseChange::End {
                children: self.children_of(write.shard),
            },
            Change::Complete => LeaseChange::CompleteHandoff,
            Change::Cancel => LeaseChange::CancelHandoff,
        };
        let is_blind =
            self.is_broken(Broken::UnconditionalCheckpoint) && matches!(write.change, Change::Checkpoint(_));
        let before = if is_blind {
            state.row(write.shard)
        } else {
            write.before.as_ref()
        };
        let expect = before.map_or(Expect::Absent, |before| Expect::Version(before.version()));
        (expect, change)
    }

    pub(super) fn children_of(&self, shard: usize) -> BTreeSet<kcl_core::types::ShardId> {
        let children = self.fixtures.shards[shard].children.iter();
        children
            .map(|child| self.fixtures.shards[*child].shard.clone())
            .collect()
    }

    /// Sends a write for a slot of a worker.
    pub(super) fn send(&self, state: &mut State, worker: usize, slot: usize, write: Write, fate: Fate) {
        let sent = state.now;
        let run = state.workers[worker].run;
        if let Change::End | Change::Release | Change::Complete = write.change
            && let Some(own) = &mut state.workers[worker].slots[slot].own
        {
            own.giving_up = true;
        }
        let at = match fate {
            Fate::Prompt => {
                let (applied, row) = self.land(state, worker, run, &write);
                return self.answered(state, worker, slot, &write, sent, applied, row);
            }
            Fate::LostReply => {
                state.left.lost -= 1;
                self.land(state, worker, run, &write);
                At::Unknown
            }
            Fate::Hangs => {
                state.left.late -= 1;
                state.network.push(Request {
                    worker,
                    run,
                    slot,
                    write: write.clone(),
                });
                At::Network
            }
        };
        state.workers[worker].slots[slot].call = Some(Call { write, sent, at });
    }

    /// A write reaches the store: whether it was made, and the row as the answer shows it.
    fn land(&self, state: &mut State, worker: usize, run: u8, write: &Write) -> (bool, Option<Row>) {
        let (expect, change) = self.spell(state, worker, write);
        let incarnation = self.fixtures.incarnation(worker, run);
        let key = &self.fixtures.shards[write.shard].key;
        let row = state.row(write.shard).map(|row| &*row.0);
        match store::change(row, key, &expect, &change, incarnation) {
            Outcome::Refused { current } => {
                state.saw(Seen::Fenced);
                (false, current.map(|row| Row::new(*row)))
            }
            Outcome::Applied(after) => {
                if !matches!(write.change, Change::Create) {
                    state.ghost.written[write.shard] = state.now;
                }
                if write.change == Change::TakeUp {
                    let before = state.ghost.granted[write.shard];
                    state.ghost.granted[write.shard] = Some((after.counter, worker, run));
                    if before.is_some_and(|(_, former, _)| {
                        former != worker
                            && (state.workers[former].life != Life::Up || state.workers[former].cut_off)
                    }) {
                        state.saw(Seen::Failover);
                    }
                }
                let row = Row::new((*after).clone());
                state.rows[write.shard] = Some(row.clone());
                state.observe(&Observation::Written(Box::new(Written {
                    process: self.fixtures.process(worker, run),
                    worker: self.fixtures.workers[worker].clone(),
                    failover: FAILOVER,
                    key: key.clone(),
                    expect,
                    change,
                    incarnation,
                    after: *after,
                    now: at(state.now),
                })));
                (true, Some(row))
            }
        }
    }

    /// A write that hung reaches the store; whoever waits for the answer gets it.
    pub(super) fn lands(&self, state: &mut State, request: usize) {
        let Request {
            worker,
            run,
            slot,
            write,
        } = state.network.remove(request);
        let (applied, row) = self.land(state, worker, run, &write);
        let sender = &mut state.workers[worker];
        if applied && (sender.run != run || sender.life == Life::Down) {
            state.saw(Seen::LandedLate);
            return;
        }
        let waiting = sender.slots[slot]
            .call
            .as_mut()
            .filter(|call| call.at == At::Network && call.write == write);
        match waiting {
            // It waits in vain, and reads the row when it can.
            Some(_) if sender.cut_off => {}
            Some(call) if sender.life == Life::Frozen => call.at = At::Replied { applied, row },
            Some(call) => {
                let sent = call.sent;
                sender.slots[slot].call = None;
                self.answered(state, worker, slot, &write, sent, applied, row);
            }
            None if applied => state.saw(Seen::LandedLate),
            None => {}
        }
    }

    pub(super) fn receives(&self, state: &mut State, worker: usize, slot: usize) {
        let Some(call) = state.workers[worker].slots[slot].call.take() else {
            return;
        };
        if let At::Replied { applied, row } = call.at {
            self.answered(state, worker, slot, &call.write, call.sent, applied, row);
        }
    }

    /// A caller without an answer reads the row and judges: as a lane does.
    pub(super) fn resolves(&self, state: &mut State, worker: usize, slot: usize) {
        let Some(Call { write, sent, .. }) = state.workers[worker].slots[slot].call.take() else {
            return;
        };
        let (expect, change) = self.spell(state, worker, &write);
        let run = state.workers[worker].run;
        let row = state.row(write.shard).cloned();
        let resolution = resolve(
            row.as_deref(),
            write.before.as_deref(),
            &expect,
            &change,
            self.fixtures.incarnation(worker, run),
        );
        if self.is_broken(Broken::UnknownTakenForDone) {
            let before = write.before.as_deref();
            let as_wished = before.map(|before| {
                kcl_core::lease_store::apply(before, &change, self.fixtures.incarnation(worker, run))
            });
            return self.answered(state, worker, slot, &write, sent, true, as_wished.map(Row::new));
        }
        match resolution {
            Resolution::Applied => {
                state.saw(Seen::LostReplyApplied);
                self.answered(state, worker, slot, &write, sent, true, row);
            }
            // The same again, under the same condition.
            Resolution::NotYet => {
                let (applied, row) = self.land(state, worker, run, &write);
                self.answered(state, worker, slot, &write, sent, applied, row);
            }
            Resolution::OwnEarlierWrite | Resolution::Refused => {
                self.answered(state, worker, slot, &write, sent, false, row);
            }
        }
    }

    /// The meaning of an answer for the worker.
    #[expect(
        clippy::too_many_arguments,
        reason = "whose write it was, what it was, and what became of it"
    )]
    fn answered(
        &self,
        state: &mut State,
        worker: usize,
        slot: usize,
        write: &Write,
        sent: u8,
        applied: bool,
        row: Option<Row>,
    ) {
        match (write.change, applied, row) {
            (Change::TakeUp, true, Some(row)) => self.begin_ownership(state, worker, slot, row, sent),
            (Change::GiveBack, true, _) => state.saw(Seen::Released),
            (Change::TakeUp | Change::GiveBack | Change::Create, ..) => {}
            (_, true, Some(row)) => self.applied(state, worker, slot, write.change, row, sent),
            (_, true, None) => {}
            (_, false, row) => self.refused(state, worker, slot, write, row),
        }
    }

    pub(super) fn begin_ownership(&self, state: &mut State, worker: usize, slot: usize, row: Row, sent: u8) {
        let renewed = if self.is_broken(Broken::BeliefStampedAtReply) {
            state.now
        } else {
            sent
        };
        let mut done = self.fixtures.covered(&row.checkpoint);
        if self.is_broken(Broken::StartsPastTheCheckpoint) && done < self.config.records {
            done += 1;
        }
        state.workers[worker].slots[slot].own = Some(Own {
            token: row.counter,
            row,
            renewed,
            refused: false,
            giving_up: false,
            state: ConsumerState::AwaitingParents,
            done,
            started: None,
            asked: None,
        });
    }

    fn applied(&self, state: &mut State, worker: usize, slot: usize, change: Change, row: Row, sent: u8) {
        let now = state.now;
        let renewed = if self.is_broken(Broken::BeliefStampedAtReply) {
            now
        } else {
            sent
        };
        let me = &self.fixtures.workers[worker];
        let Some(own) = &mut state.workers[worker].slots[slot].own else {
            return;
        };
        let was_suspended = at(now) >= until(own.renewed);
        own.renewed = own.renewed.max(renewed);
        own.refused |= row.actual_owner() != Some(me);
        own.row = row.clone();
        match change {
            Change::Cancel => own.asked = None,
            _ if row.is_in_handoff() => own.asked = own.asked.or(Some(now)),
            _ => own.asked = None,
        }
        let resumed = was_suspended && !own.refused;
        match change {
            Change::End | Change::Complete | Change::Release => self.given_up(state, worker, slot, &row),
            Change::Cancel => state.saw(Seen::Declined),
            _ if resumed => state.saw(Seen::Resumed),
            _ => {}
        }
    }

    /// The lease is given up, and the row shows how.
    fn given_up(&self, state: &mut State, worker: usize, slot: usize, row: &Row) {
        let event = if row.is_ended() {
            ConsumerEvent::EndStored
        } else if row.owner.is_some() {
            state.saw(Seen::HandedOver);
            ConsumerEvent::HandedOver
        } else {
            state.saw(Seen::Released);
            ConsumerEvent::Released
        };
        self.follow(state, worker, slot, &[event]);
        state.workers[worker].slots[slot].own = None;
    }

    fn refused(&self, state: &mut State, worker: usize, slot: usize, write: &Write, row: Option<Row>) {
        let (expect, change) = self.spell(state, worker, write);
        let incarnation = self.fixtures.incarnation(worker, state.workers[worker].run);
        let Some(own) = &state.workers[worker].slots[slot].own else {
            return;
        };
        let me = &self.fixtures.workers[worker];
        let mut refusal = match (&row, &write.before) {
            (Some(row), Some(before)) => {
                judge_refusal(row, before, &expect, &change, me, incarnation, own.giving_up)
            }
            _ => Refusal::Lost,
        };
        if self.is_broken(Broken::AdoptsAnyRow) {
            refusal = Refusal::Adopt;
        }
        match (refusal, row) {
            // The change is made again on this row, when its turn comes.
            (Refusal::Adopt, Some(row)) => {
                let now = state.now;
                if let Some(own) = &mut state.workers[worker].slots[slot].own {
                    own.asked = if row.is_in_handoff() {
                        own.asked.or(Some(now))
                    } else {
                        None
                    };
                    own.row = row;
                }
                state.saw(Seen::Adopted);
            }
            (Refusal::GaveUp, Some(row)) => {
                self.given_up(state, worker, slot, &row);
            }
            (Refusal::Lost | Refusal::Adopt | Refusal::GaveUp, _) => self.lose(state, worker, slot),
        }
    }

    fn lose(&self, state: &mut State, worker: usize, slot: usize) {
        self.follow(state, worker, slot, &[ConsumerEvent::LeaseLost]);
        let own = &mut state.workers[worker].slots[slot].own;
        match own {
            // The batch that runs is not torn from the user's code.
            Some(known) if known.started.is_some() => known.refused = true,
            _ => *own = None,
        }
    }

    /// The consumer of a lease goes through its table.
    pub(super) fn follow(&self, state: &mut State, worker: usize, slot: usize, events: &[ConsumerEvent]) {
        let Some(own) = &mut state.workers[worker].slots[slot].own else {
            return;
        };
        for event in events {
            own.state = transition(own.state, *event)
                .unwrap_or_else(|| panic!("a consumer met {event:?}, which {} does not know", own.state));
        }
    }
}
