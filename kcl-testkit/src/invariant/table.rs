//! The invariants of accepted changes of the lease table: I3, I4, I5 and the table's part of I6.

use std::collections::{BTreeMap, BTreeSet};

use kcl_core::clock::Moment;
use kcl_core::invariant::{Invariant, Violation};
use kcl_core::lease_store::{Lease, LeaseChange, apply};
use kcl_core::processor::FencingToken;
use kcl_core::types::{Incarnation, LeaseKey, Position};

use super::observation::{Observation, Process, Written};

/// The table as the accepted changes made it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    histories: BTreeMap<LeaseKey, RowHistory>,
}

#[derive(Debug, Clone, Default)]
struct RowHistory {
    row: Option<Lease>,
    /// The largest checkpoint ever stored; it outlives the row.
    checkpoint: Option<Position>,
    /// The processes that have renewed the lease since it was last assigned.
    holder: Option<Holder>,
    /// Those whose place another process with the same worker id has taken.
    former: BTreeSet<Incarnation>,
    /// The process that began each ownership, by the token.
    grants: BTreeMap<u64, Process>,
}

#[derive(Debug, Clone)]
struct Holder {
    process: Process,
    incarnation: Incarnation,
    /// When its last change was made, and no batch may start, by its own clock.
    deadline: Moment,
}

impl Table {
    pub(crate) fn row(&self, key: &LeaseKey) -> Option<&Lease> {
        self.histories.get(key)?.row.as_ref()
    }

    /// The last checkpoint that was ever stored, of a row that may be gone.
    pub(crate) fn checkpoint(&self, key: &LeaseKey) -> Option<&Position> {
        self.histories.get(key)?.checkpoint.as_ref()
    }

    pub(crate) fn has_ended(&self, key: &LeaseKey) -> bool {
        self.checkpoint(key).is_some_and(Position::is_shard_end)
    }

    /// A party that knows of no rules took the row away. Its content is forgotten.
    pub(crate) fn remove(&mut self, key: &LeaseKey) {
        if let Some(history) = self.histories.get_mut(key) {
            let grants = std::mem::take(&mut history.grants);
            *history = RowHistory {
                grants,
                ..RowHistory::default()
            };
        }
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &Lease> {
        self.histories.values().filter_map(|history| history.row.as_ref())
    }

    pub(crate) fn written(&mut self, written: &Written) -> Result<(), Violation> {
        let history = self.histories.entry(written.key.clone()).or_default();
        history.check_base(written)?;
        history.check_owner(written)?;
        history.check_checkpoint(written)?;
        history.follow(written)
    }

    /// A token belongs to the process whose first renewal stored it, or which renewed a lease that it held already and
    /// began with it again.
    pub(crate) fn check_token(
        &self,
        process: &Process,
        key: &LeaseKey,
        token: FencingToken,
    ) -> Result<(), Violation> {
        let history = self.histories.get(key);
        let granted = history
            .and_then(|history| history.grants.range(..=token.as_u64()).next_back())
            .map(|(_, process)| process);
        Invariant::TokenRises.check(granted == Some(process), || {
            format!("{process} has the token {token} for {key}, which was given to {granted:?}")
        })
    }

    /// The belief of a worker must follow from the changes that the store accepted, and from its own clock.
    pub(crate) fn check_deadline(&self, start: &Observation) -> Result<(), Violation> {
        let (Observation::BatchStarted {
            process,
            shard,
            now,
            valid_until,
            ..
        }
        | Observation::CallStarted {
            process,
            shard,
            now,
            valid_until,
            ..
        }) = start
        else {
            return Ok(());
        };
        Invariant::NoStartAfterDeadline.check(now < valid_until, || {
            format!("{process} starts a batch of {shard} at {now:?}, and its deadline was {valid_until:?}")
        })?;
        let holder = self
            .histories
            .get(shard)
            .and_then(|history| history.holder.as_ref());
        match holder {
            Some(holder) if holder.process == *process => {
                Invariant::NoStartAfterDeadline.check(*valid_until <= holder.deadline, || {
                    format!(
                        "{process} believes to hold {shard} until {valid_until:?}, but its last change allows {:?}",
                        holder.deadline
                    )
                })
            }
            _ => Ok(()),
        }
    }
}

impl RowHistory {
    fn check_base(&self, written: &Written) -> Result<(), Violation> {
        let Some(row) = &self.row else {
            // A row that was there before the observer came is taken as it is.
            return Ok(());
        };
        let verb = written.change.verb();
        Invariant::SingleWriter.check(written.expect.holds(Some(row)), || {
            format!(
                "the {verb} of {} by {} was accepted expecting {:?}, but the last accepted version is {:?}",
                written.key,
                written.process,
                written.expect,
                row.version()
            )
        })?;
        let wanted = apply(row, &written.change, written.incarnation);
        Invariant::SingleWriter.check(wanted == written.after, || {
            format!(
                "the {verb} of {} by {} should have made {wanted:?}, and made {:?}",
                written.key, written.process, written.after
            )
        })
    }

    fn check_owner(&self, written: &Written) -> Result<(), Violation> {
        let Some(row) = &self.row else { return Ok(()) };
        if !is_owners(&written.change) {
            return Ok(());
        }
        let verb = written.change.verb();
        Invariant::SingleWriter.check(row.actual_owner() == Some(&written.worker), || {
            format!(
                "the {verb} of {} by {} was accepted, but the owner is {:?}",
                written.key,
                written.process,
                row.actual_owner()
            )
        })?;
        Invariant::SingleWriter.check(!self.former.contains(&written.incarnation), || {
            format!(
                "the {verb} of {} by {} was accepted after a newer process of this id",
                written.key, written.process
            )
        })?;
        Invariant::SingleWriter.check(
            !self.begins(written)
                || matches!(written.change, LeaseChange::Renew { .. } | LeaseChange::Release),
            || {
                format!(
                    "{} began its ownership of {} with a {verb}",
                    written.process, written.key
                )
            },
        )
    }

    fn check_checkpoint(&self, written: &Written) -> Result<(), Violation> {
        if let LeaseChange::Reset { .. } = written.change {
            return Ok(());
        }
        let (old, new) = (self.checkpoint.as_ref(), &written.after.checkpoint);
        Invariant::CheckpointRises.check(old.is_none_or(|old| old <= new), || {
            format!(
                "{} moved the checkpoint of {} from {old:?} to {new}",
                written.process, written.key
            )
        })
    }

    fn begins(&self, written: &Written) -> bool {
        self.holder
            .as_ref()
            .is_none_or(|holder| holder.incarnation != written.incarnation)
    }

    /// Whether a process that the row names, and that never took the lease up, gives it back: what was given to it just now, or what a
    /// process before it had under the same id.
    fn declines(&self, written: &Written) -> bool {
        self.begins(written) && written.change == LeaseChange::Release
    }

    fn follow(&mut self, written: &Written) -> Result<(), Violation> {
        let begins = self.begins(written) && !self.declines(written);
        let owners = is_owners(&written.change);
        self.checkpoint = Some(written.after.checkpoint.clone());
        self.row = (written.change != LeaseChange::Delete).then(|| written.after.clone());
        if owners && begins {
            let last = self.grants.last_key_value().map(|(token, _)| *token);
            let token = written.after.counter;
            Invariant::TokenRises.check(last.is_none_or(|last| last < token), || {
                format!(
                    "{} took {} up with the token {token} after {last:?}",
                    written.process, written.key
                )
            })?;
            self.grants.insert(token, written.process.clone());
            self.former
                .extend(self.holder.take().map(|holder| holder.incarnation));
        }
        if owners {
            self.holder = Some(Holder {
                process: written.process.clone(),
                incarnation: written.incarnation,
                deadline: written.now + (written.failover - written.failover / 10),
            });
        }
        let given_away = written.after.actual_owner() != Some(&written.worker) && owners;
        let is_fenced = matches!(
            written.change,
            LeaseChange::Assign { .. } | LeaseChange::Reset { .. } | LeaseChange::Delete
        );
        if given_away || is_fenced {
            self.holder = None;
            self.former.clear();
        }
        Ok(())
    }
}

/// Whether only the owner makes such a change.
fn is_owners(change: &LeaseChange) -> bool {
    match change {
        LeaseChange::Renew { .. }
        | LeaseChange::Checkpoint { .. }
        | LeaseChange::Prepare { .. }
        | LeaseChange::End { .. }
        | LeaseChange::Release
        | LeaseChange::CompleteHandoff
        | LeaseChange::CancelHandoff => true,
        LeaseChange::Create(_)
        | LeaseChange::Assign { .. }
        | LeaseChange::BeginHandoff { .. }
        | LeaseChange::Describe { .. }
        | LeaseChange::Order { .. }
        | LeaseChange::Reset { .. }
        | LeaseChange::Delete => false,
    }
}
