//! `pause`, `resume`, `limit`, `move`, `release`, `skip`, and `exclude`, `drain`, `include`: orders in the rows, and the answers to them.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use kcl_core::clock::{Clock as _, Moment, Rng};
use kcl_core::lease_store::{Lease, LeaseOrder, OrderAuthor, Scan, WorkerOrder, WorkerRow};
use kcl_core::types::{Incarnation, Rate, RecordPosition, Timestamp, WorkerId};
use kcl_operations::{Given, Operator, OrderError, ResetPlan, Thresholds};
use serde::Serialize;

use crate::arguments::{
    CommonOptions, LimitOptions, MoveOptions, OrderOptions, ResumeOptions, ShardOrderOptions, SkipOptions,
    WorkerOrderOptions,
};
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::look::table_of;
use crate::output::{Printer, Style, column, print};
use crate::views::{dash, text_or_dash};

/// An order, and its fate by the time at which the command ended.
#[derive(Debug, Serialize)]
pub(crate) struct OrderResult {
    subject: String,
    order: String,
    revision: u64,
    owner: Option<String>,
    answer: Answer,
    refusal: Option<String>,
}

/// The fate of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answer {
    /// The owner obeys it.
    Obeyed,
    /// The owner cannot obey, and says why.
    Refused,
    /// The owner has not answered in time; the order stands.
    Unanswered,
    /// No worker has the lease; the next owner obeys.
    Unowned,
    /// It was not written: this was a dry run.
    Planned,
}

impl Answer {
    fn word(self) -> &'static str {
        match self {
            Self::Obeyed => "obeyed",
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
            Self::Unowned => "unowned",
            Self::Planned => "planned",
        }
    }
}

/// Where an operator sits: the operator, and how long answers are awaited.
pub(crate) struct Desk<'a> {
    connection: &'a Connection,
    operator: Operator,
    options: &'a OrderOptions,
}

impl<'a> Desk<'a> {
    pub(crate) async fn open(
        connection: &'a Connection,
        common: &CommonOptions,
        options: &'a OrderOptions,
    ) -> Result<Self, Failure> {
        let store = connection.store(table_of(common.table.as_deref(), &options.application));
        store.attach(&options.application).await?;
        let run = Incarnation::from_random_bytes(Rng::from_entropy().bytes());
        let clock = connection.clock.clone();
        let operator = Operator::new(Arc::new(store), clock, run, author(options)?);
        Ok(Self {
            connection,
            operator,
            options,
        })
    }

    pub(crate) fn connection(&self) -> &'a Connection {
        self.connection
    }

    pub(crate) async fn scan(&self) -> Result<Scan, Failure> {
        Ok(self.operator.scan().await?)
    }

    /// Makes the resets, and waits until the owners begin there.
    pub(crate) async fn execute(&self, plan: &ResetPlan) -> Result<(), Failure> {
        let given = self.operator.execute(plan, self.options.wait).await?;
        let until = self.connection.clock.now() + self.options.wait;
        for given in given {
            match self.answer(&given, until).await? {
                (Answer::Refused, refusal) => {
                    let message = format!(
                        "the owner of {} cannot obey: {}",
                        given.lease,
                        refusal.unwrap_or_default()
                    );
                    return Err(Failure::new(Exit::Found, message));
                }
                (Answer::Unanswered, _) => {
                    let message = format!(
                        "the reset of {} stands, and its owner has not answered yet",
                        given.lease
                    );
                    return Err(Failure::new(Exit::Found, message));
                }
                (Answer::Obeyed | Answer::Unowned | Answer::Planned, _) => {}
            }
        }
        Ok(())
    }

    /// The answer to an order, as far as one comes until then.
    async fn answer(&self, given: &Given, until: Moment) -> Result<(Answer, Option<String>), Failure> {
        let within = until.saturating_since(self.connection.clock.now());
        match self.operator.answered(given, within).await {
            Ok(()) => Ok((Answer::Obeyed, None)),
            Err(OrderError::Refused { reason, .. }) => Ok((Answer::Refused, Some(reason))),
            Err(OrderError::Unanswered { owner: None, .. }) => Ok((Answer::Unowned, None)),
            Err(OrderError::Unanswered { .. }) => Ok((Answer::Unanswered, None)),
            Err(error) => Err(error.into()),
        }
    }
}

impl From<OrderError> for Failure {
    fn from(error: OrderError) -> Self {
        let exit = match error {
            OrderError::Store(error) => return error.into(),
            OrderError::NoLease(_) | OrderError::NoWorker(_) | OrderError::OwnedByJava(..) => Exit::NotFound,
            OrderError::Contended(_) => Exit::NoAnswer,
            OrderError::Changed(_) | OrderError::Refused { .. } | OrderError::Unanswered { .. } | _ => {
                Exit::Found
            }
        };
        Self::new(exit, error.to_string())
    }
}

/// The author: named, or the user of this host.
pub(crate) fn author(options: &OrderOptions) -> Result<OrderAuthor, Failure> {
    let user = ["USER", "LOGNAME", "USERNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok());
    let name = options.author.clone().or(user).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Failure::usage("an order has an author: name one with --author"))?;
    let author = OrderAuthor::new(name).map_err(|error| Failure::usage(error.to_string()))?;
    match &options.reason {
        None => Ok(author),
        Some(reason) => author
            .because(reason)
            .map_err(|error| Failure::usage(error.to_string())),
    }
}

/// `kcl pause`.
pub(crate) async fn pause(
    connection: &Connection,
    common: &CommonOptions,
    options: &ShardOrderOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    shard_orders(connection, common, options, &LeaseOrder::Pause, printer).await
}

/// `kcl resume`.
pub(crate) async fn resume(
    connection: &Connection,
    common: &CommonOptions,
    options: &ResumeOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    let desk = Desk::open(connection, common, &options.shards.order).await?;
    let scan = desk.scan().await?;
    let leases = chosen(&options.shards, &scan)?;
    show(&resumed(&desk, &leases, options.end_hold).await?, printer)
}

/// Ends the pauses of these leases, and with `end_hold` also the holds of resets.
pub(crate) async fn resumed(
    desk: &Desk<'_>,
    leases: &[&Lease],
    end_hold: bool,
) -> Result<Vec<OrderResult>, Failure> {
    let mut results = give_all(desk, leases, &LeaseOrder::Resume).await?;
    for (result, lease) in results.iter_mut().zip(leases) {
        let Some(hold) = lease.orders.as_ref().and_then(|orders| orders.hold) else {
            continue;
        };
        if end_hold {
            if result.answer == Answer::Planned {
                continue;
            }
            desk.operator.order(&lease.key, LeaseOrder::EndHold(hold)).await?;
        } else {
            result.answer = Answer::Refused;
            let reason = "it is held until its ancestors are reset: run that reset again, or give the reset up with --end-hold";
            result.refusal = Some(reason.to_owned());
        }
    }
    Ok(results)
}

/// `kcl release`.
pub(crate) async fn release(
    connection: &Connection,
    common: &CommonOptions,
    options: &ShardOrderOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    shard_orders(connection, common, options, &LeaseOrder::Unpin, printer).await
}

/// `kcl limit`.
pub(crate) async fn limit(
    connection: &Connection,
    common: &CommonOptions,
    options: &LimitOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    let rate = Rate {
        records: options.records.and_then(NonZeroU32::new),
        kib: options.kib.and_then(NonZeroU32::new),
    };
    if !options.off && rate == Rate::default() {
        return Err(Failure::usage(
            "say how much with --records or --kib, or --off to end a limit",
        ));
    }
    let order = LeaseOrder::Limit(Some(rate).filter(|_| !options.off));
    shard_orders(connection, common, &options.shards, &order, printer).await
}

/// `kcl move`.
pub(crate) async fn move_to(
    connection: &Connection,
    common: &CommonOptions,
    options: &MoveOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    let desk = Desk::open(connection, common, &options.shards.order).await?;
    let scan = desk.scan().await?;
    let leases = chosen(&options.shards, &scan)?;
    show(&moved(&desk, &scan, &leases, &options.to).await?, printer)
}

/// Orders that these leases belong to a worker that gets leases, and waits until it has them.
pub(crate) async fn moved(
    desk: &Desk<'_>,
    scan: &Scan,
    leases: &[&Lease],
    to: &WorkerId,
) -> Result<Vec<OrderResult>, Failure> {
    let now = desk.connection.now();
    let gets_leases = |worker: &&WorkerRow| gets_leases(worker, now);
    if !scan
        .workers
        .iter()
        .filter(gets_leases)
        .any(|worker| worker.id == *to)
    {
        let message = format!(
            "{} is no worker that gets leases: it has no row or an old one, or is excluded, drained or one of the Java KCL. Look with `kcl workers`",
            to
        );
        return Err(Failure::new(Exit::NotFound, message));
    }
    let clock = &desk.connection.clock;
    let until = clock.now() + desk.options.wait;
    let mut results = give_all(desk, leases, &LeaseOrder::Pin(to.clone())).await?;
    // The owner of today answers for the order; it is obeyed once the lease is there.
    for (result, lease) in results.iter_mut().zip(leases) {
        let within = until.saturating_since(clock.now());
        let waits = matches!(result.answer, Answer::Obeyed | Answer::Unowned);
        if waits && !desk.operator.moved(&lease.key, to, within).await? {
            result.answer = Answer::Unanswered;
        }
    }
    Ok(results)
}

/// Returns `true` if the leader gives leases to this worker, as far as its row shows it.
fn gets_leases(worker: &WorkerRow, now: Timestamp) -> bool {
    let orders = worker.orders.as_deref();
    let age = now.as_millis().saturating_sub(worker.updated.as_millis());
    let age = Duration::from_millis(u64::try_from(age).unwrap_or(0));
    let is_live = age <= Thresholds::default().silence(worker.failover);
    worker.incarnation.is_some() && is_live && !orders.is_some_and(|orders| orders.excluded || orders.drained)
}

/// `kcl skip`: the record at which a shard is held, and no other.
pub(crate) async fn skip(
    connection: &Connection,
    common: &CommonOptions,
    options: &SkipOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    let desk = Desk::open(connection, common, &options.order).await?;
    let scan = desk.scan().await?;
    let named = |lease: &&Lease| lease.key.as_str() == options.shard || lease.shard.as_str() == options.shard;
    let named: Vec<&Lease> = scan.leases.iter().filter(named).collect();
    let lease = match named.as_slice() {
        [lease] => *lease,
        [] => {
            let message = format!("there is no lease {}", options.shard);
            return Err(Failure::new(Exit::NotFound, message));
        }
        several => {
            let keys: Vec<&str> = several.iter().map(|lease| lease.key.as_str()).collect();
            let message = format!("several streams have this shard: name one of {}", keys.join(", "));
            return Err(Failure::usage(message));
        }
    };
    let failing = lease.report.as_ref().and_then(|report| report.failing.clone());
    let record = match (&options.record, failing) {
        (Some(text), _) => record_position(text)?,
        (None, Some(failing)) => failing,
        (None, None) => {
            let message = "its owner reports no failing record: name one with --record, as the log of the owner shows it";
            return Err(Failure::new(Exit::NotFound, message));
        }
    };
    show(
        &give_all(&desk, &[lease], &LeaseOrder::Skip(record)).await?,
        printer,
    )
}

pub(crate) fn record_position(text: &str) -> Result<RecordPosition, Failure> {
    let (sequence, sub) = text.split_once('/').unwrap_or((text, "0"));
    let sequence = sequence.parse().ok();
    let sub_sequence = sub.parse().ok();
    match (sequence, sub_sequence) {
        (Some(sequence), Some(sub_sequence)) => Ok(RecordPosition {
            sequence,
            sub_sequence,
        }),
        _ => Err(Failure::usage(format!(
            "{text} is no record: it is a sequence number, or one with /INDEX behind"
        ))),
    }
}

/// Gives one order to each of the chosen shards.
async fn shard_orders(
    connection: &Connection,
    common: &CommonOptions,
    options: &ShardOrderOptions,
    order: &LeaseOrder,
    printer: Printer,
) -> Result<Exit, Failure> {
    let desk = Desk::open(connection, common, &options.order).await?;
    let scan = desk.scan().await?;
    let leases = chosen(options, &scan)?;
    show(&give_all(&desk, &leases, order).await?, printer)
}

/// The chosen leases that are not ended.
fn chosen<'a>(options: &ShardOrderOptions, scan: &'a Scan) -> Result<Vec<&'a Lease>, Failure> {
    if options.shards.is_none() && !options.all {
        return Err(Failure::usage(
            "say which shards with a regular expression, or --all",
        ));
    }
    let is_chosen = |lease: &&Lease| {
        !lease.is_ended()
            && options
                .shards
                .as_ref()
                .is_none_or(|shards| shards.is_match(lease.key.as_str()))
    };
    let mut leases: Vec<&Lease> = scan.leases.iter().filter(is_chosen).collect();
    leases.sort_by(|one, other| one.key.cmp(&other.key));
    if leases.is_empty() {
        return Err(Failure::new(Exit::NotFound, "no lease that is not ended matches"));
    }
    Ok(leases)
}

pub(crate) async fn give_all(
    desk: &Desk<'_>,
    leases: &[&Lease],
    order: &LeaseOrder,
) -> Result<Vec<OrderResult>, Failure> {
    let until = desk.connection.clock.now() + desk.options.wait;
    let mut given: Vec<(&Lease, Option<Given>)> = Vec::new();
    for lease in leases {
        given.push((
            lease,
            match desk.options.dry_run {
                true => None,
                false => Some(desk.operator.order(&lease.key, order.clone()).await?),
            },
        ));
    }
    let mut results = Vec::new();
    for (lease, given) in given {
        let (answer, refusal) = match &given {
            None => (Answer::Planned, None),
            Some(given) if !given.owned => (Answer::Unowned, None),
            Some(given) => desk.answer(given, until).await?,
        };
        results.push(OrderResult {
            subject: lease.key.to_string(),
            order: order.to_string(),
            revision: given.map_or(0, |given| given.revision),
            owner: lease.actual_owner().map(ToString::to_string),
            answer,
            refusal,
        });
    }
    Ok(results)
}

fn show(results: &[OrderResult], printer: Printer) -> Result<Exit, Failure> {
    let columns = [
        column("SUBJECT", |row: &OrderResult| row.subject.clone()),
        column("ORDER", |row: &OrderResult| row.order.clone()),
        column("REVISION", |row: &OrderResult| row.revision.to_string()).number(),
        column("OWNER", |row: &OrderResult| text_or_dash(row.owner.as_ref())),
        column("ANSWER", |row: &OrderResult| row.answer.word().to_owned()).styled(|row| match row.answer {
            Answer::Obeyed => Style::Good,
            Answer::Refused => Style::Bad,
            Answer::Unanswered => Style::Warn,
            Answer::Unowned | Answer::Planned => Style::Dim,
        }),
        column("REFUSAL", |row: &OrderResult| {
            row.refusal.clone().unwrap_or_else(dash)
        }),
    ];
    print(&printer.rows("", results, &columns, &results))?;
    let is_open = |row: &OrderResult| matches!(row.answer, Answer::Refused | Answer::Unanswered);
    Ok(Exit::found(results.iter().any(is_open)))
}

/// `kcl exclude`, `kcl drain` and `kcl include`: orders about a worker, which the leader obeys.
pub(crate) async fn worker_order(
    connection: &Connection,
    common: &CommonOptions,
    options: &WorkerOrderOptions,
    order: WorkerOrder,
    printer: Printer,
) -> Result<Exit, Failure> {
    let desk = Desk::open(connection, common, &options.order).await?;
    show(&[worker_ordered(&desk, &options.worker, order).await?], printer)
}

/// Gives an order about a worker; of a drain it waits until the worker has no lease.
pub(crate) async fn worker_ordered(
    desk: &Desk<'_>,
    worker: &WorkerId,
    order: WorkerOrder,
) -> Result<OrderResult, Failure> {
    let wait = desk.options.wait;
    let (revision, answer) = if desk.options.dry_run {
        (0, Answer::Planned)
    } else {
        let revision = desk.operator.order_worker(worker, order).await?;
        let is_done = match order {
            WorkerOrder::Drain => desk.operator.drained(worker, wait).await?,
            // The leader plans by it from now on; there is nothing to be answered.
            WorkerOrder::Exclude | WorkerOrder::Include => true,
        };
        (
            revision,
            if is_done {
                Answer::Obeyed
            } else {
                Answer::Unanswered
            },
        )
    };
    Ok(OrderResult {
        subject: worker.to_string(),
        order: order_word(order).to_owned(),
        revision,
        owner: None,
        answer,
        refusal: None,
    })
}

fn order_word(order: WorkerOrder) -> &'static str {
    match order {
        WorkerOrder::Exclude => "exclude",
        WorkerOrder::Drain => "drain",
        WorkerOrder::Include => "include",
    }
}

/// A row with every field, for the test of the documentation.
#[cfg(test)]
pub(crate) fn sample() -> OrderResult {
    OrderResult {
        subject: String::new(),
        order: String::new(),
        revision: 0,
        owner: None,
        answer: Answer::Planned,
        refusal: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_worker_gets_no_lease() {
        let updated = Timestamp::from_millis(1_800_000_000_000);
        let row = WorkerRow {
            id: "worker-1".parse().unwrap(),
            incarnation: Some(Incarnation::from_random_bytes([1; 16])),
            touches: 1,
            failover: Some(Duration::from_secs(10)),
            max_leases: None,
            max_throughput: None,
            updated,
            started: None,
            version: None,
            orders: None,
        };
        let after = |secs: i64| Timestamp::from_millis(updated.as_millis() + secs * 1000);
        assert!(gets_leases(&row, after(60)));
        assert!(
            !gets_leases(&row, after(61)),
            "nothing moves to a worker that is gone"
        );
        let java = WorkerRow {
            incarnation: None,
            ..row
        };
        assert!(!gets_leases(&java, after(0)));
    }

    #[test]
    fn record_is_named_with_its_index() {
        let plain = record_position("42").unwrap();
        assert_eq!((plain.to_string().as_str(), plain.sub_sequence), ("42", 0));
        assert_eq!(record_position("42/3").unwrap().to_string(), "42/3");
        assert!(record_position("x").is_err() && record_position("4/x").is_err());
    }
}
