//! Operators who give orders while everything goes wrong: at any moment, twice, and two at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use kcl_core::clock::Rng;
use kcl_core::lease_store::{Lease, LeaseOrder, ResetPosition, WorkerOrder};
use kcl_core::types::{Rate, RecordPosition, WorkerId};
use kcl_operations::{Operator, OrderError, ResetPlan};

use crate::clock::SIMULATION_START;
use crate::faults::FaultRates;
use crate::fleet::Fleet;

/// How long an operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// An order of an operator in a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperatorAct {
    /// Pauses a shard.
    Pause,
    /// Resumes a shard.
    Resume,
    /// Limits a shard to so many records a second.
    Limit(u32),
    /// Moves a lease to some worker, and keeps it there.
    Move,
    /// Ends that.
    Release,
    /// Gives a worker nothing more.
    Exclude,
    /// Takes a worker's leases away.
    Drain,
    /// Treats a worker as any other.
    Include,
    /// Reads a shard from its oldest record again.
    ResetToOldest,
    /// Reads a shard from some time on.
    ResetToTime,
    /// Reads a shard from behind some record on.
    ResetToRecord,
    /// Undoes the last reset of a shard.
    Undo,
}

impl OperatorAct {
    /// Returns its name, for counting.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Pause => "pause of a shard",
            Self::Resume => "resume of a shard",
            Self::Limit(_) => "limit of a shard",
            Self::Move => "move of a lease",
            Self::Release => "release of a lease",
            Self::Exclude => "exclude of a worker",
            Self::Drain => "drain of a worker",
            Self::Include => "include of a worker",
            Self::ResetToOldest => "reset to the oldest record",
            Self::ResetToTime => "reset to a time",
            Self::ResetToRecord => "reset to a record",
            Self::Undo => "undo of a reset",
        }
    }

    pub(super) fn draw(rng: &mut Rng) -> Self {
        match rng.below(16) {
            0 | 1 => Self::Pause,
            2 | 3 => Self::Resume,
            4 => Self::Limit(5 + u32::try_from(rng.below(50)).unwrap()),
            5 => Self::Move,
            6 => Self::Release,
            7 => Self::Exclude,
            8 => Self::Drain,
            9 => Self::Include,
            10 | 11 => Self::ResetToOldest,
            12 => Self::ResetToTime,
            13 | 14 => Self::ResetToRecord,
            _ => Self::Undo,
        }
    }
}

/// The operators of one fleet.
#[derive(Debug, Default)]
pub(super) struct Operators {
    at_work: Arc<AtomicUsize>,
    outcomes: Arc<OrderOutcomes>,
}

/// How the orders of a scenario ended.
#[derive(Debug, Default)]
pub(super) struct OrderOutcomes {
    pub(super) obeyed: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) failed: AtomicU64,
}

impl Operators {
    pub(super) fn outcomes(&self) -> &OrderOutcomes {
        &self.outcomes
    }

    /// Gives the order, in the background: by one operator or by two at once, whose connections may be bad.
    pub(super) fn give(&self, fleet: &Fleet, act: OperatorAct, rng: &mut Rng) {
        let drawn = rng.bits();
        let operators: &[&str] = match rng.one_in(3) {
            true => &["ana", "ben"],
            false => &["ana"],
        };
        for name in operators {
            let (operator, faults) = fleet.operator(name);
            let rates = match rng.one_in(2) {
                true => FaultRates {
                    lose_reply_one_in: 4,
                    delay_up_to: Duration::from_secs(2),
                    ..FaultRates::default()
                },
                false => FaultRates {
                    delay_up_to: Duration::from_millis(3),
                    ..FaultRates::default()
                },
            };
            faults.at_random(Rng::from_seed(rng.bits()), rates);
            // Both mean the same shard.
            let (choice, fleet_) = (Rng::from_seed(drawn), fleet.clone());
            let (at_work, outcomes) = (Arc::clone(&self.at_work), Arc::clone(&self.outcomes));
            at_work.fetch_add(1, Ordering::SeqCst);
            fleet.in_background(async move {
                let count = match perform(&fleet_, &operator, act, choice).await {
                    Ok(()) => &outcomes.obeyed,
                    Err(OrderError::Refused { .. }) => &outcomes.refused,
                    Err(_) => &outcomes.failed,
                };
                count.fetch_add(1, Ordering::Relaxed);
                at_work.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }

    /// Waits until no operator is at work, and takes every order back.
    pub(super) async fn end(&self, fleet: &Fleet) {
        let at_work = Arc::clone(&self.at_work);
        fleet
            .wait_until("the operators are done", PATIENCE * 20, move |_| {
                at_work.load(Ordering::SeqCst) == 0
            })
            .await;
        let (operator, _) = fleet.operator("ana");
        let scan = operator.scan().await.unwrap();
        for row in &scan.leases {
            for order in to_take_back(row) {
                match operator.order(&row.key, order).await {
                    // It was cleaned up meanwhile.
                    Ok(_) | Err(OrderError::NoLease(_)) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
        for worker in scan.workers.iter().filter(|worker| worker.orders.is_some()) {
            match operator.order_worker(&worker.id, WorkerOrder::Include).await {
                Ok(_) | Err(OrderError::NoWorker(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

fn to_take_back(row: &Lease) -> Vec<LeaseOrder> {
    let Some(orders) = &row.orders else {
        return Vec::new();
    };
    let mut back: Vec<LeaseOrder> = orders.hold.map(LeaseOrder::EndHold).into_iter().collect();
    back.extend(orders.paused.then_some(LeaseOrder::Resume));
    back.extend(orders.limit.map(|_| LeaseOrder::Limit(None)));
    back.extend(orders.pinned.as_ref().map(|_| LeaseOrder::Unpin));
    back
}

async fn perform(
    fleet: &Fleet,
    operator: &Operator,
    act: OperatorAct,
    mut rng: Rng,
) -> Result<(), OrderError> {
    let scan = operator.scan().await?;
    let pick = |rng: &mut Rng, of: usize| usize::try_from(rng.below(of.max(1) as u64)).unwrap();
    let place = pick(&mut rng, scan.leases.len());
    let Some(row) = scan.leases.get(place) else {
        return Ok(());
    };
    let place = pick(&mut rng, scan.workers.len());
    let worker: Option<WorkerId> = scan.workers.get(place).map(|worker| worker.id.clone());
    let order = match act {
        OperatorAct::Pause => LeaseOrder::Pause,
        OperatorAct::Resume => LeaseOrder::Resume,
        OperatorAct::Limit(records) => LeaseOrder::Limit(Some(Rate {
            records: records.try_into().ok(),
            kib: None,
        })),
        OperatorAct::Release => LeaseOrder::Unpin,
        OperatorAct::Move => match worker {
            Some(worker) => LeaseOrder::Pin(worker),
            None => return Ok(()),
        },
        OperatorAct::Exclude => return order_worker(operator, worker, WorkerOrder::Exclude).await,
        OperatorAct::Drain => return order_worker(operator, worker, WorkerOrder::Drain).await,
        OperatorAct::Include => return order_worker(operator, worker, WorkerOrder::Include).await,
        OperatorAct::ResetToOldest => {
            return reset(operator, &scan.leases, row, ResetPosition::TrimHorizon).await;
        }
        OperatorAct::ResetToTime => {
            let age = fleet
                .now()
                .since_origin()
                .mul_f64(rng.below(1000) as f64 / 1000.0);
            let to = ResetPosition::AtTimestamp(SIMULATION_START.plus(age));
            return reset(operator, &scan.leases, row, to).await;
        }
        OperatorAct::ResetToRecord => {
            let records = fleet.stream().records(&row.shard);
            let place = pick(&mut rng, records.len());
            let Some(record) = records.get(place) else {
                return Ok(());
            };
            let position = record.position();
            let to = ResetPosition::After(RecordPosition {
                sequence: position.sequence.clone(),
                sub_sequence: rng.below(3),
            });
            return reset(operator, &scan.leases, row, to).await;
        }
        OperatorAct::Undo => {
            let plan = ResetPlan::undo(&scan.leases, &BTreeSet::from([row.key.clone()]));
            return execute(operator, &plan).await;
        }
    };
    let given = operator.order(&row.key, order).await?;
    match row.owner {
        Some(_) => operator.answered(&given, PATIENCE).await,
        None => Ok(()),
    }
}

async fn order_worker(
    operator: &Operator,
    worker: Option<WorkerId>,
    order: WorkerOrder,
) -> Result<(), OrderError> {
    match worker {
        Some(worker) => operator.order_worker(&worker, order).await.map(drop),
        None => Ok(()),
    }
}

async fn reset(
    operator: &Operator,
    rows: &[Lease],
    row: &Lease,
    to: ResetPosition,
) -> Result<(), OrderError> {
    let wanted = [(row.key.clone(), to)].into();
    execute(operator, &ResetPlan::new(rows, &wanted)).await
}

async fn execute(operator: &Operator, plan: &ResetPlan) -> Result<(), OrderError> {
    let given = operator.execute(plan, PATIENCE).await?;
    for given in given.iter().filter(|given| given.owned) {
        operator.answered(given, PATIENCE).await?;
    }
    Ok(())
}
