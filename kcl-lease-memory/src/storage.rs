//! The rows, and what one atomic step does to them.

use std::collections::BTreeMap;

use kcl_core::internals::{Failpoint, failpoint};
use kcl_core::lease_store::{
    Expect, LeaderLock, Lease, LeaseChange, LockChange, LockExpect, LockOutcome, Outcome, StoreError,
    StoreErrorKind, WorkerChange, WorkerOutcome, WorkerRow, apply, check_counter,
};
use kcl_core::types::{ApplicationName, Incarnation, LeaseKey, WorkerId};

/// Everything that is stored. Every method is one atomic step: it runs under the store's lock.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    application: Option<ApplicationName>,
    pub(crate) leases: BTreeMap<LeaseKey, Lease>,
    pub(crate) workers: BTreeMap<WorkerId, WorkerRow>,
    pub(crate) lock: Option<LeaderLock>,
}

impl Storage {
    /// The storage belongs to the application that prepares it first.
    pub(crate) fn prepare(&mut self, application: &ApplicationName) -> Result<(), StoreError> {
        let holder = self.application.get_or_insert_with(|| application.clone());
        if holder == application {
            return Ok(());
        }
        Err(StoreError::definite(
            StoreErrorKind::Foreign,
            format!(
                "these leases belong to the application {holder:?}: give {application:?} a store of its own"
            ),
        ))
    }

    /// Rows of every kind: what a scan reads.
    pub(crate) fn rows(&self) -> usize {
        self.leases.len() + self.workers.len() + usize::from(self.lock.is_some())
    }

    pub(crate) fn change(
        &mut self,
        key: &LeaseKey,
        expect: &Expect,
        change: &LeaseChange,
        incarnation: Incarnation,
    ) -> Result<Outcome, StoreError> {
        check(key, expect, change)?;
        check_counter(key, expect, change)?;
        let row = self.leases.get(key);
        if !expect.holds(row) && !is_blind_to(change) {
            let current = row.cloned().map(Box::new);
            return Ok(Outcome::Refused { current });
        }
        let after = match (row, change) {
            (None, LeaseChange::Create(lease)) => (**lease).clone(),
            (None, _) => return Ok(Outcome::Refused { current: None }),
            (Some(row), change) => apply(row, change, incarnation),
        };
        if matches!(change, LeaseChange::Delete) {
            self.leases.remove(key);
        } else {
            self.leases.insert(key.clone(), after.clone());
        }
        Ok(Outcome::Applied(Box::new(after)))
    }

    pub(crate) fn change_worker(&mut self, change: &WorkerChange) -> WorkerOutcome {
        let shows = |id: &WorkerId, incarnation: Option<Incarnation>| {
            incarnation.is_some()
                && self
                    .workers
                    .get(id)
                    .is_some_and(|row| row.incarnation == incarnation)
        };
        let holds = match change {
            WorkerChange::Announce(_) => true,
            WorkerChange::Touch(row) => shows(&row.id, row.incarnation),
            WorkerChange::Reannounce(row) => !self.workers.contains_key(&row.id),
            WorkerChange::Leave { id, incarnation } => shows(id, Some(*incarnation)),
            WorkerChange::Order { id, seen, orders } => {
                let row = self.workers.get(id).filter(|row| row.incarnation.is_some());
                let revision = row.map(|row| row.orders.as_ref().map_or(0, |orders| orders.revision));
                revision == Some(*seen) && seen.checked_add(1) == Some(orders.revision)
            }
            WorkerChange::DeleteExpired(row) => self.workers.get(&row.id) == Some(row),
        };
        if !holds {
            return WorkerOutcome::Refused;
        }
        match change {
            WorkerChange::Announce(row) | WorkerChange::Touch(row) | WorkerChange::Reannounce(row) => {
                let mut row = row.clone();
                // A worker's own writes touch no orders.
                row.orders = self.workers.get(&row.id).and_then(|before| before.orders.clone());
                self.workers.insert(row.id.clone(), row);
            }
            WorkerChange::Order { id, orders, .. } => {
                if let Some(row) = self.workers.get_mut(id) {
                    row.orders = Some(orders.clone());
                }
            }
            WorkerChange::Leave { id, .. } | WorkerChange::DeleteExpired(WorkerRow { id, .. }) => {
                self.workers.remove(id);
            }
        }
        WorkerOutcome::Applied
    }

    pub(crate) fn change_lock(
        &mut self,
        expect: &LockExpect,
        change: &LockChange,
    ) -> Result<LockOutcome, StoreError> {
        let holds = match (expect, &self.lock) {
            (LockExpect::Absent, None) => true,
            (LockExpect::Version { version, owner }, Some(lock)) => {
                *version == lock.version && *owner == lock.owner
            }
            (LockExpect::Absent, Some(_)) | (LockExpect::Version { .. }, None) => false,
        };
        let holds = holds || failpoint::active(Failpoint::LockWithoutCondition);
        match (change, expect) {
            (LockChange::Release, LockExpect::Absent) => {
                Err(invalid("a lock that is absent cannot be released"))
            }
            _ if !holds => Ok(LockOutcome::Refused),
            (LockChange::Hold(lock), _) => {
                self.lock = Some(lock.clone());
                Ok(LockOutcome::Applied)
            }
            (LockChange::Release, LockExpect::Version { .. }) => {
                self.lock = None;
                Ok(LockOutcome::Applied)
            }
        }
    }
}

/// Whether a deliberate bug makes the change without its condition.
fn is_blind_to(change: &LeaseChange) -> bool {
    let assigns = matches!(change, LeaseChange::Assign { .. });
    let checkpoints = matches!(change, LeaseChange::Checkpoint { .. });
    let orders = matches!(change, LeaseChange::Order { .. });
    assigns && failpoint::active(Failpoint::AssignmentWithoutCondition)
        || checkpoints && failpoint::active(Failpoint::CheckpointWithoutCondition)
        || orders && failpoint::active(Failpoint::OrderWithoutCondition)
}

/// Refuses what no caller can mean, before the row is looked at.
fn check(key: &LeaseKey, expect: &Expect, change: &LeaseChange) -> Result<(), StoreError> {
    if !change.fits(expect) {
        let verb = change.verb();
        return Err(invalid(format!(
            "{verb} of {key:?} cannot be made expecting {expect:?}"
        )));
    }
    if let LeaseChange::Create(lease) = change
        && lease.key != *key
    {
        let other = &lease.key;
        return Err(invalid(format!(
            "the lease {other:?} cannot be created under the key {key:?}"
        )));
    }
    Ok(())
}

fn invalid(message: impl Into<String>) -> StoreError {
    StoreError::definite(StoreErrorKind::Invalid, message)
}
