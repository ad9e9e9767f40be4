//! Gives orders to a running fleet through its lease table, and waits until they are obeyed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kcl_core::clock::{Clock, ClockExt as _};
use kcl_core::lease_store::{
    Certainty, Expect, GivenOrder, Lease, LeaseChange, LeaseOrder, LeaseOrders, LeaseStore, OrderAuthor,
    Outcome, ResetPosition, Scan, StoreError, WorkerChange, WorkerOrder, WorkerOutcome,
};
use kcl_core::types::{Incarnation, LeaseKey, Timestamp, WorkerId};

use crate::reset::{ResetPlan, ResetStep};

/// How often a write is tried again that another write of the row went before. An owner writes a row at most a few times a second.
const TRIES: u32 = 20;
/// The pause before the first of these tries, and its longest.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often a row is read while an answer is awaited.
const LOOK: Duration = Duration::from_millis(250);

/// Gives orders to a fleet through its lease table. No worker is restarted for them, and none is asked directly.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use kcl_core::clock::Clock;
/// use kcl_core::lease_store::{LeaseOrder, LeaseStore, OrderAuthor};
/// use kcl_core::types::{Incarnation, LeaseKey};
/// use kcl_operations::{Operator, OrderError};
///
/// async fn pause(store: Arc<dyn LeaseStore>, clock: Arc<dyn Clock>, shard: &LeaseKey) -> Result<(), OrderError> {
///     let author = OrderAuthor::new("ana").expect("a name");
///     let operator = Operator::new(store, clock, Incarnation::from_random_bytes([7; 16]), author);
///     let given = operator.order(shard, LeaseOrder::Pause).await?;
///     operator.answered(&given, Duration::from_secs(30)).await
/// }
/// ```
#[derive(Debug)]
pub struct Operator {
    store: Arc<dyn LeaseStore>,
    clock: Arc<dyn Clock>,
    incarnation: Incarnation,
    author: OrderAuthor,
}

/// An order that stands in the row of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Given {
    /// The lease.
    pub lease: LeaseKey,
    /// The revision of the order.
    pub revision: u64,
    /// Whether the row named an owner, who answers, when the order was stored.
    pub owned: bool,
}

/// Why an order was not given, or is not obeyed.
#[derive(Debug)]
#[non_exhaustive]
pub enum OrderError {
    /// There is no lease with this key. Do: look for it with `kcl status`.
    NoLease(LeaseKey),
    /// There is no worker with this id, or it is one of the Java KCL. Do: look for it with `kcl workers`.
    NoWorker(WorkerId),
    /// A worker of the Java KCL has the lease, and obeys no orders. Do: stop the Java workers first.
    OwnedByJava(LeaseKey, WorkerId),
    /// The shard ended, or was opened again, since the reset was planned. Do: plan it again.
    Changed(LeaseKey),
    /// Others write the row faster than it could be followed. Do: try again.
    Contended(String),
    /// The lease table did not answer, or refused. Do: see its message.
    Store(StoreError),
    /// The owner cannot obey, for this reason. The order stands.
    Refused {
        /// The lease.
        lease: LeaseKey,
        /// The reason.
        reason: String,
    },
    /// No owner has answered yet. The order stands, and the next owner obeys it.
    Unanswered {
        /// The lease.
        lease: LeaseKey,
        /// The worker that is named as the owner, if there is one.
        owner: Option<WorkerId>,
        /// How long the answer was awaited.
        waited: Duration,
    },
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLease(key) => write!(f, "there is no lease {key}: look for it with `kcl status`"),
            Self::NoWorker(id) => {
                write!(
                    f,
                    "there is no worker {id} that obeys orders: look for it with `kcl workers`"
                )
            }
            Self::OwnedByJava(key, owner) => write!(
                f,
                "the lease {key} is owned by {owner}, a worker of the Java KCL, which obeys no orders: stop the Java workers first"
            ),
            Self::Changed(key) => write!(
                f,
                "the shard of {key} has ended, or was opened again, since the reset was planned: plan it again"
            ),
            Self::Contended(row) => write!(
                f,
                "the row {row} changes faster than it can be followed: try again"
            ),
            Self::Store(_) => f.write_str(
                "the lease table did not do as it was asked; look with `kcl status` whether the order stands",
            ),
            Self::Refused { lease, reason } => write!(f, "the owner of {lease} cannot obey: {reason}"),
            Self::Unanswered { lease, owner, waited } => {
                write!(f, "no answer for {lease} after {} s: ", waited.as_secs())?;
                match owner {
                    Some(owner) => write!(f, "look whether {owner} lives; the next owner obeys the order"),
                    None => f.write_str("no worker owns it; the next owner obeys the order"),
                }
            }
        }
    }
}

impl std::error::Error for OrderError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::NoLease(_)
            | Self::NoWorker(_)
            | Self::OwnedByJava(..)
            | Self::Changed(_)
            | Self::Contended(_)
            | Self::Refused { .. }
            | Self::Unanswered { .. } => None,
        }
    }
}

impl From<StoreError> for OrderError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Operator {
    /// An operator on this table. The incarnation distinguishes the writes of this run from those of others: draw it at random.
    pub fn new(
        store: Arc<dyn LeaseStore>,
        clock: Arc<dyn Clock>,
        incarnation: Incarnation,
        author: OrderAuthor,
    ) -> Self {
        Self {
            store,
            clock,
            incarnation,
            author,
        }
    }

    /// Gives an order for a lease. It stands from then on, for this owner and the next.
    ///
    /// # Errors
    ///
    /// Any [`OrderError`] but those about answers. After one of the store whose outcome is unknown the order may stand.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave the order given or not.
    pub async fn order(&self, lease: &LeaseKey, order: LeaseOrder) -> Result<Given, OrderError> {
        self.change(lease, None, |row, at| {
            orders_of(row).with(order.clone(), &self.author, at)
        })
        .await
    }

    /// Makes the reading of a shard begin elsewhere, in one conditional write. The owner is fenced at once, and the next ownership starts
    /// there. With `holds` it starts nothing until that hold ends.
    async fn reset(&self, step: &ResetStep, holds: bool, at: Timestamp) -> Result<Given, OrderError> {
        self.change(&step.lease, Some(step), |row, _| {
            orders_of(row).with_reset(&step.to, row.reading_from(), holds, &self.author, at)
        })
        .await
    }

    /// Makes the resets of a plan. Each answer is awaited for this long. Returns what was given, for those who wait until it is obeyed.
    ///
    /// # Errors
    ///
    /// The first [`OrderError`]. Shards that are held for their ancestors stay so then: make the reset again, or end the holds with
    /// [`LeaseOrder::EndHold`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the rest of the steps undone, as an error does.
    pub async fn execute(&self, plan: &ResetPlan, within: Duration) -> Result<Vec<Given>, OrderError> {
        // One time for all: by author and time they are one reset, which an undo takes back as a whole.
        let at = self.clock.wall();
        let mut held = Vec::new();
        for step in &plan.held {
            held.push(self.reset(step, true, at).await?);
        }
        for (step, given) in plan.held.iter().zip(&held) {
            // Without an owner nothing is read. One that comes meanwhile begins with the hold.
            if given.owned && step.to != ResetPosition::ShardEnd {
                self.answered(given, within).await?;
            }
        }
        let mut all = Vec::new();
        for step in &plan.heads {
            all.push(self.reset(step, false, at).await?);
        }
        for (step, given) in plan.held.iter().zip(held) {
            let end = LeaseOrder::EndHold(given.revision);
            all.push(self.order(&step.lease, end).await?);
        }
        Ok(all)
    }

    /// Waits until an owner of the lease has answered the order, or a later one.
    ///
    /// # Errors
    ///
    /// [`OrderError::Refused`] with the owner's reason, [`OrderError::Unanswered`] after this long, and what reading the row may bring.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn answered(&self, given: &Given, within: Duration) -> Result<(), OrderError> {
        let until = self.clock.now() + within;
        loop {
            let row = self.read(&given.lease).await?;
            if let Some(answer) = row.answer.filter(|answer| answer.revision >= given.revision) {
                // The answer to a later order says nothing of this one.
                return match answer.refused.filter(|_| answer.revision == given.revision) {
                    None => Ok(()),
                    Some(reason) => Err(OrderError::Refused {
                        lease: given.lease.clone(),
                        reason,
                    }),
                };
            }
            if self.clock.now() >= until {
                return Err(OrderError::Unanswered {
                    lease: given.lease.clone(),
                    owner: row.owner,
                    waited: within,
                });
            }
            self.clock.sleep(LOOK).await;
        }
    }

    /// Gives an order for a worker, which the leader obeys with its next scan.
    ///
    /// # Errors
    ///
    /// Any [`OrderError`] but those about leases and answers.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave the order given or not.
    pub async fn order_worker(&self, worker: &WorkerId, order: WorkerOrder) -> Result<u64, OrderError> {
        let mut tries = self.tries();
        // The orders of the tries whose outcome is not known.
        let mut sent: Vec<GivenOrder> = Vec::new();
        loop {
            let scan = self.store.scan().await?;
            let rows = &scan.workers;
            let row = rows
                .iter()
                .find(|row| row.id == *worker && row.incarnation.is_some());
            let before = row
                .ok_or_else(|| OrderError::NoWorker(worker.clone()))?
                .orders
                .as_deref()
                .cloned()
                .unwrap_or_default();
            if let Some(ours) = before.history.iter().find(|given| sent.contains(given)) {
                return Ok(ours.revision);
            }
            let orders = before.with(order, &self.author, self.clock.wall());
            let (seen, revision, last) = (before.revision, orders.revision, orders.history.last().cloned());
            let change = WorkerChange::Order {
                id: worker.clone(),
                seen,
                orders: Box::new(orders),
            };
            match self.store.change_worker(&change).await {
                Ok(WorkerOutcome::Applied) => return Ok(revision),
                Ok(WorkerOutcome::Refused) => {}
                Err(error) if error.certainty() == Certainty::Unknown => {
                    sent.extend(last);
                    tries.unknown = Some(error);
                }
                Err(error) => return Err(error.into()),
            }
            tries.next(&self.clock, worker.as_str()).await?;
        }
    }

    /// Waits until the worker holds no lease, and returns `true`; `false` if it still holds some after this long.
    ///
    /// # Errors
    ///
    /// The store's, if the table cannot be scanned.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn drained(&self, worker: &WorkerId, within: Duration) -> Result<bool, OrderError> {
        let until = self.clock.now() + within;
        loop {
            let scan = self.store.scan().await?;
            // A lease on its way to the worker counts as well.
            let has = |lease: &Lease| {
                let owners = [&lease.owner, &lease.checkpoint_owner];
                owners.into_iter().flatten().any(|owner| owner == worker) && !lease.is_ended()
            };
            if !scan.leases.iter().any(has) {
                return Ok(true);
            }
            if self.clock.now() >= until {
                return Ok(false);
            }
            self.clock.sleep(LOOK * 4).await;
        }
    }

    /// Waits until another worker than now processes the shard: this one. Returns `false` if it does not after this long.
    ///
    /// # Errors
    ///
    /// As [`answered`](Self::answered).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn moved(&self, lease: &LeaseKey, to: &WorkerId, within: Duration) -> Result<bool, OrderError> {
        let until = self.clock.now() + within;
        loop {
            let row = self.read(lease).await?;
            // Named is not owned: that begins with the first renewal, which stores the failover time.
            if row.actual_owner() == Some(to) && row.failover.is_some() {
                return Ok(true);
            }
            if self.clock.now() >= until {
                return Ok(false);
            }
            self.clock.sleep(LOOK).await;
        }
    }

    /// Reads the whole table.
    ///
    /// # Errors
    ///
    /// The store's.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn scan(&self) -> Result<Scan, OrderError> {
        Ok(self.store.scan().await?)
    }

    pub(crate) async fn read(&self, key: &LeaseKey) -> Result<Lease, OrderError> {
        let row = self.store.read(key).await?;
        row.ok_or_else(|| OrderError::NoLease(key.clone()))
    }

    /// Stores the next orders of the row as it is now, and resets it if that is wanted; again on a newer row while others go before it.
    async fn change(
        &self,
        key: &LeaseKey,
        reset: Option<&ResetStep>,
        orders_for: impl Fn(&Lease, Timestamp) -> LeaseOrders,
    ) -> Result<Given, OrderError> {
        let mut tries = self.tries();
        // The orders of the tries whose outcome is not known.
        let mut sent: Vec<GivenOrder> = Vec::new();
        loop {
            let row = self.read(key).await?;
            let mut stored = row.orders.iter().flat_map(|orders| &orders.history);
            if let Some(ours) = stored.find(|given| sent.contains(given)) {
                return Ok(given(&row, ours.revision));
            }
            if let Some(owner) = owner_of_java(&row) {
                return Err(OrderError::OwnedByJava(key.clone(), owner.clone()));
            }
            if reset.is_some_and(|step| row.is_ended() != (step.from == ResetPosition::ShardEnd)) {
                return Err(OrderError::Changed(key.clone()));
            }
            let orders = Box::new(orders_for(&row, self.clock.wall()));
            let (seen, revision, last) = (
                row.orders_revision(),
                orders.revision,
                orders.history.last().cloned(),
            );
            let (expect, change) = match reset.map(|step| step.to.clone()) {
                None => (Expect::Orders(seen), LeaseChange::Order { orders }),
                Some(to) => (
                    Expect::VersionAndOrders(row.version(), seen),
                    LeaseChange::Reset { to, orders },
                ),
            };
            match self.store.change(key, &expect, &change, self.incarnation).await {
                Ok(Outcome::Applied(row)) => return Ok(given(&row, revision)),
                Ok(Outcome::Refused { .. }) => {}
                Err(error) if error.certainty() == Certainty::Unknown => {
                    sent.extend(last);
                    tries.unknown = Some(error);
                }
                Err(error) => return Err(error.into()),
            }
            tries.next(&self.clock, key.as_str()).await?;
        }
    }

    fn tries(&self) -> Tries {
        Tries {
            left: TRIES,
            pause: PAUSE,
            unknown: None,
        }
    }
}

fn given(row: &Lease, revision: u64) -> Given {
    Given {
        lease: row.key.clone(),
        revision,
        owned: row.owner.is_some(),
    }
}

/// The worker of Java that owns the lease. A row that has an owner from its creation was never renewed.
fn owner_of_java(row: &Lease) -> Option<&WorkerId> {
    let is_javas = row.counter > 0 && row.is_written_by_foreigner();
    row.actual_owner().filter(|_| is_javas)
}

/// The orders that hold. A skip that its owner refused does not.
fn orders_of(row: &Lease) -> LeaseOrders {
    let mut orders = row.orders.as_deref().cloned().unwrap_or_default();
    let answer = row.answer.as_ref();
    if answer.is_some_and(|answer| answer.refused.is_some() && answer.revision == orders.revision) {
        orders.skip = None;
    }
    orders
}

/// The tries that are left.
struct Tries {
    left: u32,
    pause: Duration,
    /// The error of the last try, if its outcome is not known.
    unknown: Option<StoreError>,
}

impl Tries {
    /// Waits before the next try.
    async fn next(&mut self, clock: &Arc<dyn Clock>, row: &str) -> Result<(), OrderError> {
        let unknown = self.unknown.take();
        let Some(left) = self.left.checked_sub(1) else {
            return Err(unknown.map_or_else(|| OrderError::Contended(row.to_owned()), OrderError::Store));
        };
        self.left = left;
        clock.sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kcl_core::lease_store::OrderAnswer;
    use kcl_core::types::{Position, RecordPosition, SequenceNumber, ShardId};

    use super::*;

    #[test]
    fn refused_skip_ends_with_the_next_order() {
        let author = OrderAuthor::new("ana").unwrap();
        let record = RecordPosition::plain(SequenceNumber::from(9));
        let at = Timestamp::from_millis(0);
        let orders = LeaseOrders::default().with(LeaseOrder::Skip(record), &author, at);
        let mut row = Lease::unowned(
            ShardId::new("shardId-000000000000").unwrap(),
            Position::TrimHorizon,
        );
        row.orders = Some(Box::new(orders));
        let answered = |refused: Option<&str>| OrderAnswer {
            revision: 1,
            refused: refused.map(str::to_owned),
        };
        row.answer = Some(answered(None));
        assert!(orders_of(&row).skip.is_some());
        row.answer = Some(answered(Some("the shard is held at 7")));
        assert_eq!(orders_of(&row).skip, None);
    }
}
