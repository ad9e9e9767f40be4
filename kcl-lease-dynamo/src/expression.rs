//! Changes to DynamoDB expressions: pure, and without a branch on the stored row beyond what the expectation shows.
//!
//! Every placeholder is made from the attribute's own name: `#name` stands for it, `:name` for its new value,
//! `:if_name` for the value that the condition compares.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_dynamodb::types::AttributeValue;
use kcl_core::lease_store::{
    Expect, FinishedAhead, LeaseChange, LeaseOrders, LockChange, LockExpect, OwnerNotes, PendingCheckpoint,
    ResetPosition, RowFacts, Version, WorkerChange, WorkerRow, counts_as_switch,
};
use kcl_core::types::{ApplicationName, HashKeyRange, Incarnation, Position, ShardId, WorkerId};

use crate::attributes;
use crate::codec::{
    Item, creation_item, encode_lock, finished_ahead_value, lease_orders_value, n, report_value, s,
    state_value, string_set, throughput_text, worker_attributes, worker_orders_value,
};

/// One conditional write of one row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Write {
    pub(crate) key: String,
    pub(crate) action: Operation,
    pub(crate) condition: String,
    pub(crate) names: BTreeMap<String, String>,
    pub(crate) values: Item,
}

/// The update of the row if the condition holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operation {
    /// The row becomes this, whatever else it held.
    Put(Item),
    /// The named attributes change, all others stay. The text is an update expression; empty where nothing changes.
    Update(String),
    Delete,
}

/// The pairing of change and expectation makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a change of kind {change} cannot be made under the expectation {expect}")]
pub(crate) struct MismatchedExpectation {
    change: &'static str,
    expect: String,
}

/// The write that makes the change on a lease row, if the expectation holds.
pub(crate) fn lease_write(
    key: &str,
    expect: &Expect,
    change: &LeaseChange,
    incarnation: Incarnation,
) -> Result<Write, MismatchedExpectation> {
    let mismatch = || MismatchedExpectation {
        change: change.verb(),
        expect: format!("{expect:?}"),
    };
    if !change.fits(expect) {
        return Err(mismatch());
    }
    let mut draft = WriteBuilder::default();
    match (change, expect) {
        (LeaseChange::Create(lease), Expect::Absent) => {
            if lease.key.as_str() != key {
                return Err(mismatch());
            }
            draft.require_absent(attributes::KEY);
            Ok(draft.put(key, creation_item(lease)))
        }
        (LeaseChange::Delete, Expect::Version(version)) => {
            draft.require_version(version);
            Ok(draft.delete(key))
        }
        (LeaseChange::Describe { children, hash_range }, Expect::Present) => {
            // These two make a lease; a row of another kind, or a broken one, is never touched.
            draft.require_present(attributes::COUNTER);
            draft.require_present(attributes::CHECKPOINT);
            describe(&mut draft, children.as_ref(), *hash_range);
            Ok(draft.update(key))
        }
        (
            LeaseChange::BeginHandoff { to },
            Expect::Owners {
                owner: Some(owner), ..
            },
        ) => {
            draft.require(attributes::OWNER, s(owner));
            draft.require_absent(attributes::CHECKPOINT_OWNER);
            draft.set(attributes::OWNER, s(to));
            draft.set(attributes::CHECKPOINT_OWNER, s(owner));
            draft.set(attributes::HANDOFF_INCARNATION, s(incarnation));
            Ok(draft.update(key))
        }
        (LeaseChange::Order { orders }, Expect::Orders(seen)) => {
            draft.require_present(attributes::COUNTER);
            draft.require_present(attributes::CHECKPOINT);
            draft.require_orders(*seen);
            lease_orders(&mut draft, orders);
            Ok(draft.update(key))
        }
        (LeaseChange::Reset { orders, .. }, Expect::VersionAndOrders(version, seen)) => {
            draft.require_version(version);
            draft.require_orders(*seen);
            versioned_update(&mut draft, version, change, incarnation);
            lease_orders(&mut draft, orders);
            Ok(draft.update(key))
        }
        (change, Expect::Version(version)) => {
            draft.require_version(version);
            versioned_update(&mut draft, version, change, incarnation);
            Ok(draft.update(key))
        }
        _ => Err(mismatch()),
    }
}

/// The changes that move the counter; the version says all that they depend on.
fn versioned_update(
    draft: &mut WriteBuilder,
    seen: &Version,
    change: &LeaseChange,
    incarnation: Incarnation,
) {
    let counter = seen.counter.saturating_add(1);
    draft.set(attributes::COUNTER, n(counter));
    draft.set(attributes::STAMP_INCARNATION, s(incarnation));
    draft.set(attributes::STAMP_COUNTER, n(counter));
    let mut in_handoff = seen.checkpoint_owner.is_some();
    match change {
        LeaseChange::Renew { notes: said, facts } => {
            notes(draft, said);
            renew(draft, facts);
        }
        LeaseChange::Assign { to } => {
            draft.set(attributes::OWNER, s(to));
            if counts_as_switch(seen, to) {
                draft.add(attributes::OWNER_SWITCHES, n(1));
            }
            draft.remove(attributes::OWNER_FAILOVER_MILLIS);
            in_handoff = false;
        }
        LeaseChange::CompleteHandoff => {
            draft.remove(attributes::OWNER_FAILOVER_MILLIS);
            in_handoff = false;
        }
        LeaseChange::CancelHandoff => {
            draft.set_or_remove(attributes::OWNER, seen.checkpoint_owner.as_ref().map(s));
            in_handoff = false;
        }
        LeaseChange::Release => {
            if !in_handoff {
                draft.remove(attributes::OWNER);
            }
            draft.remove(attributes::OWNER_FAILOVER_MILLIS);
            in_handoff = false;
        }
        LeaseChange::Checkpoint {
            position,
            finished_ahead,
            notes: said,
        } => {
            checkpoint(
                draft,
                position.checkpoint_text(),
                position.sub_sequence(),
                finished_ahead.as_ref(),
            );
            notes(draft, said);
        }
        LeaseChange::Prepare { pending } => prepare(draft, pending.as_ref()),
        LeaseChange::End { children } => {
            checkpoint(draft, Position::ShardEnd.checkpoint_text(), 0, None);
            draft.set_or_remove(attributes::CHILDREN, string_set(children));
            draft.remove(attributes::OWNER);
            draft.remove(attributes::OWNER_FAILOVER_MILLIS);
            in_handoff = false;
        }
        LeaseChange::Reset { to, .. } => {
            reset(draft, to);
            if *to == ResetPosition::ShardEnd {
                draft.remove(attributes::OWNER);
            } else if in_handoff {
                draft.set_or_remove(attributes::OWNER, seen.checkpoint_owner.as_ref().map(s));
            }
            draft.remove(attributes::OWNER_FAILOVER_MILLIS);
            in_handoff = false;
        }
        LeaseChange::Create(_)
        | LeaseChange::BeginHandoff { .. }
        | LeaseChange::Describe { .. }
        | LeaseChange::Order { .. }
        | LeaseChange::Delete => {}
    }
    if !in_handoff {
        if seen.checkpoint_owner.is_some() {
            draft.remove(attributes::CHECKPOINT_OWNER);
        }
        // Also sweeps up the mark of a handoff that a Java worker ended.
        draft.remove(attributes::HANDOFF_INCARNATION);
    }
}

fn renew(draft: &mut WriteBuilder, facts: &RowFacts) {
    if let Some(failover) = facts.failover {
        draft.set(attributes::OWNER_FAILOVER_MILLIS, n(failover.as_millis()));
    }
    if let Some(time) = facts.latest_at {
        draft.set(attributes::LATEST_AT, n(time.as_millis()));
    }
    if let Some(identity) = &facts.identity {
        draft.set(attributes::STREAM_ARN, s(&identity.arn));
        draft.set(attributes::STREAM_NAME, s(&identity.name));
        draft.set(attributes::STREAM_CREATED, n(identity.created.as_millis()));
    }
}

fn notes(draft: &mut WriteBuilder, notes: &OwnerNotes) {
    if let Some(kib_per_second) = notes.throughput {
        draft.set(attributes::THROUGHPUT, n(throughput_text(kib_per_second)));
    }
    if let Some(report) = &notes.report {
        draft.set(attributes::REPORT, report_value(report));
    }
    if let Some(answer) = &notes.answer {
        draft.set(attributes::ORDERS_ANSWERED, n(answer.revision));
        draft.set_or_remove(attributes::ORDERS_REFUSED, answer.refused.as_ref().map(s));
    }
}

fn lease_orders(draft: &mut WriteBuilder, orders: &LeaseOrders) {
    draft.set(attributes::ORDERS, lease_orders_value(orders));
    draft.set(attributes::ORDERS_REVISION, n(orders.revision));
}

fn reset(draft: &mut WriteBuilder, to: &ResetPosition) {
    let (position, time) = to.checkpoint();
    checkpoint(draft, position.checkpoint_text(), position.sub_sequence(), None);
    draft.set_or_remove(attributes::RESET_AT, time.map(|time| n(time.as_millis())));
}

fn checkpoint(draft: &mut WriteBuilder, text: &str, sub_sequence: u64, ahead: Option<&FinishedAhead>) {
    draft.set(attributes::CHECKPOINT, s(text));
    draft.set(attributes::SUB_SEQUENCE, n(sub_sequence));
    draft.set(attributes::OWNER_SWITCHES, n(0));
    // Without a value the attribute is removed, also one that cannot be read.
    draft.set_or_remove(attributes::FINISHED_AHEAD, ahead.map(finished_ahead_value));
    prepare(draft, None);
}

fn prepare(draft: &mut WriteBuilder, pending: Option<&PendingCheckpoint>) {
    let position = pending.map(|pending| &pending.position);
    let text = position.map(|position| s(position.checkpoint_text()));
    draft.set_or_remove(attributes::PENDING, text);
    let sub_sequence = position.map(|position| n(position.sub_sequence()));
    draft.set_or_remove(attributes::PENDING_SUB_SEQUENCE, sub_sequence);
    draft.set_or_remove(attributes::PENDING_STATE, pending.and_then(state_value));
}

fn describe(
    draft: &mut WriteBuilder,
    children: Option<&BTreeSet<ShardId>>,
    hash_range: Option<HashKeyRange>,
) {
    if let Some(children) = children {
        draft.set_or_remove(attributes::CHILDREN, string_set(children));
    }
    if let Some(range) = hash_range {
        draft.set(attributes::HASH_START, s(range.start()));
        draft.set(attributes::HASH_END, s(range.end()));
    }
}

/// Where the rows of the workers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkerRowPlacement {
    /// Among rows of other kinds, each with its `entityType`.
    Shared,
    /// In a table of their own, where Java's rows have no `entityType` before 3.5.
    Separate,
}

/// The write that makes the change of a worker's row.
///
/// A touch without an incarnation must not come here: a Java worker's row has none either.
pub(crate) fn worker_write(change: &WorkerChange, rows: WorkerRowPlacement) -> Write {
    let mut draft = WriteBuilder::default();
    match change {
        WorkerChange::Announce(row) => {
            // A worker id that is the key of another kind of row would destroy that row.
            if rows == WorkerRowPlacement::Shared {
                draft.require_absent_or(attributes::ENTITY_TYPE, s(attributes::WORKER_ENTITY));
            }
            draft.write_worker(row);
            draft.update(row.id.as_str())
        }
        WorkerChange::Touch(row) => {
            draft.require_incarnation(row.incarnation, rows);
            draft.write_worker(row);
            draft.update(row.id.as_str())
        }
        WorkerChange::Reannounce(row) => {
            draft.require_absent(attributes::KEY);
            draft.write_worker(row);
            draft.update(row.id.as_str())
        }
        WorkerChange::Leave { id, incarnation } => {
            draft.require_incarnation(Some(*incarnation), rows);
            draft.delete(id.as_str())
        }
        WorkerChange::DeleteExpired(row) => {
            draft.require_incarnation(row.incarnation, rows);
            match row.incarnation {
                Some(_) => draft.require(attributes::TOUCHES, n(row.touches)),
                // Nothing moves in a Java worker's row but its time.
                None => draft.require(attributes::UPDATED_SECS, n(row.updated.as_secs())),
            }
            draft.delete(row.id.as_str())
        }
        WorkerChange::Order { id, seen, orders } => {
            if rows == WorkerRowPlacement::Shared {
                draft.require(attributes::ENTITY_TYPE, s(attributes::WORKER_ENTITY));
            }
            // Java's workers obey no orders.
            draft.require_present(attributes::WORKER_INCARNATION);
            draft.require_orders(*seen);
            draft.set(attributes::ORDERS, worker_orders_value(orders));
            draft.set(attributes::ORDERS_REVISION, n(orders.revision));
            draft.update(id.as_str())
        }
    }
}

/// The write that makes the change of the leader lock.
pub(crate) fn lock_write(expect: &LockExpect, change: &LockChange) -> Result<Write, MismatchedExpectation> {
    if matches!((expect, change), (LockExpect::Absent, LockChange::Release)) {
        return Err(MismatchedExpectation {
            change: "release",
            expect: format!("{expect:?}"),
        });
    }
    let mut draft = WriteBuilder::default();
    match expect {
        LockExpect::Absent => draft.require_absent(attributes::KEY),
        LockExpect::Version { version, owner } => draft.require_lock(version, owner),
    }
    Ok(match change {
        LockChange::Hold(lock) => draft.put(attributes::LEADER_KEY, encode_lock(lock)),
        LockChange::Release => draft.delete(attributes::LEADER_KEY),
    })
}

/// The write of a row that overwrites nothing.
pub(crate) fn put_if_absent(key: &str, item: Item) -> Write {
    let mut draft = WriteBuilder::default();
    draft.require_absent(attributes::KEY);
    draft.put(key, item)
}

/// The write that marks an application as ours, on the row of the client version that is there. `taken_over` says by which worker
/// and when, in ms since 1970; `observed_java_rows` is what Java workers left.
pub(crate) fn claim_write(
    application: &ApplicationName,
    taken_over: Option<(&WorkerId, i64)>,
    observed_java_rows: &BTreeSet<String>,
) -> Write {
    let mut draft = WriteBuilder::default();
    draft.require_present(attributes::CLIENT_VERSION);
    let name = draft.name(attributes::APPLICATION);
    let value = draft.value(format!(":{}", attributes::APPLICATION), s(application));
    draft
        .conditions
        .push(format!("(attribute_not_exists({name}) OR {name} = {value})"));
    draft.sets.push(format!("{name} = {value}"));
    if let Some((worker, millis)) = taken_over {
        draft.set(attributes::TAKEN_OVER_BY, s(worker));
        draft.set(attributes::TAKEN_OVER_MILLIS, n(millis));
    }
    draft.set_or_remove(attributes::OBSERVED_JAVA_ROWS, string_set(observed_java_rows));
    draft.update(attributes::CLIENT_VERSION_KEY)
}

/// The write that removes a row if one attribute is as it was read.
pub(crate) fn delete_if_unchanged(key: &str, attribute: &str, value: Option<AttributeValue>) -> Write {
    let mut draft = WriteBuilder::default();
    draft.require_present(attributes::KEY);
    draft.require_some(attribute, value);
    draft.delete(key)
}

/// One write of each kind whose condition never holds: they change nothing, and find out whether they would be allowed.
pub(crate) fn permission_probes(key: &str) -> [Write; 3] {
    let never = || {
        let mut draft = WriteBuilder::default();
        draft.require_present(attributes::KEY);
        draft.require_absent(attributes::KEY);
        draft
    };
    let item = Item::from([(attributes::KEY.to_owned(), s(key))]);
    [never().put(key, item), never().update(key), never().delete(key)]
}

/// Collects the parts of a write, each placeholder with its meaning.
#[derive(Debug, Default)]
struct WriteBuilder {
    conditions: Vec<String>,
    sets: Vec<String>,
    adds: Vec<String>,
    removes: Vec<String>,
    names: BTreeMap<String, String>,
    values: Item,
}

impl WriteBuilder {
    fn name(&mut self, attribute: &str) -> String {
        let placeholder = format!("#{attribute}");
        self.names.insert(placeholder.clone(), attribute.to_owned());
        placeholder
    }

    fn value(&mut self, placeholder: String, value: AttributeValue) -> String {
        self.values.insert(placeholder.clone(), value);
        placeholder
    }

    fn require(&mut self, attribute: &str, value: AttributeValue) {
        let (name, value) = (
            self.name(attribute),
            self.value(format!(":if_{attribute}"), value),
        );
        self.conditions.push(format!("{name} = {value}"));
    }

    fn require_present(&mut self, attribute: &str) {
        let name = self.name(attribute);
        self.conditions.push(format!("attribute_exists({name})"));
    }

    fn require_absent(&mut self, attribute: &str) {
        let name = self.name(attribute);
        self.conditions.push(format!("attribute_not_exists({name})"));
    }

    /// The row does not exist, or has this value.
    fn require_absent_or(&mut self, attribute: &str, value: AttributeValue) {
        let (key, name) = (self.name(attributes::KEY), self.name(attribute));
        let value = self.value(format!(":if_{attribute}"), value);
        self.conditions
            .push(format!("(attribute_not_exists({key}) OR {name} = {value})"));
    }

    fn require_some(&mut self, attribute: &str, value: Option<AttributeValue>) {
        match value {
            Some(value) => self.require(attribute, value),
            None => self.require_absent(attribute),
        }
    }

    /// Comparing the counter also demands that the row is there and is a lease.
    fn require_version(&mut self, version: &Version) {
        self.require(attributes::COUNTER, n(version.counter));
        self.require_some(attributes::OWNER, version.owner.as_ref().map(s));
        self.require_some(
            attributes::CHECKPOINT_OWNER,
            version.checkpoint_owner.as_ref().map(s),
        );
    }

    fn require_orders(&mut self, revision: u64) {
        let revision = (revision > 0).then(|| n(revision));
        self.require_some(attributes::ORDERS_REVISION, revision);
    }

    fn require_incarnation(&mut self, incarnation: Option<Incarnation>, rows: WorkerRowPlacement) {
        if rows == WorkerRowPlacement::Shared {
            self.require(attributes::ENTITY_TYPE, s(attributes::WORKER_ENTITY));
        }
        self.require_some(attributes::WORKER_INCARNATION, incarnation.map(s));
    }

    fn require_lock(&mut self, version: &str, owner: &WorkerId) {
        self.require(attributes::LOCK_VERSION, s(version));
        self.require(attributes::LOCK_OWNER, s(owner));
    }

    fn set(&mut self, attribute: &str, value: AttributeValue) {
        let (name, value) = (self.name(attribute), self.value(format!(":{attribute}"), value));
        self.sets.push(format!("{name} = {value}"));
    }

    fn add(&mut self, attribute: &str, value: AttributeValue) {
        let (name, value) = (self.name(attribute), self.value(format!(":{attribute}"), value));
        self.adds.push(format!("{name} {value}"));
    }

    fn remove(&mut self, attribute: &str) {
        let name = self.name(attribute);
        self.removes.push(name);
    }

    fn set_or_remove(&mut self, attribute: &str, value: Option<AttributeValue>) {
        match value {
            Some(value) => self.set(attribute, value),
            None => self.remove(attribute),
        }
    }

    /// Sets what the row says and removes what it does not say any more.
    fn write_worker(&mut self, row: &WorkerRow) {
        let mut attributes = worker_attributes(row);
        let optional = [
            attributes::WORKER_INCARNATION,
            attributes::FAILOVER_MILLIS,
            attributes::MAX_LEASES,
            attributes::MAX_THROUGHPUT,
        ];
        for attribute in optional {
            if !attributes.contains_key(attribute) {
                self.remove(attribute);
            }
        }
        while let Some((attribute, value)) = attributes.pop_first() {
            self.set(&attribute, value);
        }
    }

    fn update(self, key: &str) -> Write {
        let clauses = [
            ("SET", &self.sets),
            ("REMOVE", &self.removes),
            ("ADD", &self.adds),
        ];
        let clauses = clauses.iter().filter(|(_, parts)| !parts.is_empty());
        let text = clauses
            .map(|(keyword, parts)| format!("{keyword} {}", parts.join(", ")))
            .collect::<Vec<_>>()
            .join(" ");
        self.write(key, Operation::Update(text))
    }

    fn put(self, key: &str, item: Item) -> Write {
        self.write(key, Operation::Put(item))
    }

    fn delete(self, key: &str) -> Write {
        self.write(key, Operation::Delete)
    }

    fn write(self, key: &str, action: Operation) -> Write {
        Write {
            key: key.to_owned(),
            action,
            condition: self.conditions.join(" AND "),
            names: self.names,
            values: self.values,
        }
    }
}

#[cfg(test)]
mod rewriting;
#[cfg(test)]
mod tests;
