//! `pause`, `resume`, `limit`, `move`, `release`, `skip`, and `exclude`, `drain`, `include`: orders in the rows, and the answers to them.

use std::num::NonZeroU32;
use std::time::Duration;

use kcl_core::clock::{Clock as _, Moment, Rng};
use kcl_core::lease_store::{
    Certainty, Expect, Lease, LeaseChange, LeaseOrder, LeaseOrders, LeaseStore as _, OrderAuthor, Outcome,
    StoreError, WorkerChange, WorkerOrder, WorkerOrders, WorkerOutcome,
};
use kcl_core::types::{Incarnation, LeaseKey, Rate, RecordPosition, WorkerId};
use kcl_lease_dynamo::DynamoLeaseStore;
use serde::Serialize;

use crate::arguments::{
    CommonOptions, LimitOptions, MoveOptions, OrderOptions, ShardOrderOptions, SkipOptions,
    WorkerOrderOptions,
};
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::look::table_of;
use crate::output::{Printer, Style, column, print};
use crate::views::{dash, text_or_dash};

/// How often an order is written again after another operator's came in between.
const ATTEMPTS: u32 = 8;

/// How often the rows are looked at while answers are awaited.
const LOOK_EVERY: Duration = Duration::from_millis(500);

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

/// Gives orders to one application.
struct Operator<'a> {
    connection: &'a Connection,
    store: DynamoLeaseStore,
    author: OrderAuthor,
    run: Incarnation,
    options: &'a OrderOptions,
}

impl<'a> Operator<'a> {
    async fn open(
        connection: &'a Connection,
        common: &CommonOptions,
        options: &'a OrderOptions,
    ) -> Result<Self, Failure> {
        let store = connection.store(table_of(common.table.as_deref(), &options.application));
        store.attach(&options.application).await?;
        let mut random = Rng::from_entropy();
        Ok(Self {
            connection,
            store,
            author: author(options)?,
            run: Incarnation::from_random_bytes(random.bytes()),
            options,
        })
    }

    /// Writes one order. Another operator's order in between is seen, and this one is written after it.
    async fn give(&self, key: &LeaseKey, order: &LeaseOrder) -> Result<Lease, Failure> {
        for _ in 0..ATTEMPTS {
            let row = self.store.read(key).await?;
            let row = row.ok_or_else(|| Failure::new(Exit::NotFound, format!("the lease {key} is gone")))?;
            let seen = row.orders_revision();
            let orders = row.orders.as_deref().cloned().unwrap_or_default();
            let orders = orders.with(order.clone(), &self.author, self.connection.now());
            let change = LeaseChange::Order {
                orders: Box::new(orders.clone()),
            };
            match self
                .store
                .change(key, &Expect::Orders(seen), &change, self.run)
                .await
            {
                Ok(Outcome::Applied(row)) => return Ok(*row),
                Ok(Outcome::Refused { .. }) => {}
                Err(error) => {
                    if let Some(row) = self.is_written_even_so(key, &orders, &error).await? {
                        return Ok(row);
                    }
                    return Err(error.into());
                }
            }
        }
        Err(Failure::new(
            Exit::NoAnswer,
            format!("other operators order {key} at the same time: look with `kcl why`, and try again"),
        ))
    }

    /// The row, if a write whose answer is not known was made.
    async fn is_written_even_so(
        &self,
        key: &LeaseKey,
        orders: &LeaseOrders,
        error: &StoreError,
    ) -> Result<Option<Lease>, Failure> {
        if error.certainty() == Certainty::Definite {
            return Ok(None);
        }
        let row = self.store.read(key).await?;
        Ok(row.filter(|row| row.orders.as_deref() == Some(orders)))
    }

    /// Waits until the owner has answered this revision, or the time is up.
    async fn answer(&self, mut row: Lease, revision: u64, until: Moment) -> Result<(Answer, Lease), Failure> {
        loop {
            let answered = row.answer.as_ref().filter(|answer| answer.revision >= revision);
            match answered {
                Some(answer) if answer.revision == revision && answer.refused.is_some() => {
                    return Ok((Answer::Refused, row));
                }
                Some(_) => return Ok((Answer::Obeyed, row)),
                None if row.actual_owner().is_none() => return Ok((Answer::Unowned, row)),
                None if self.connection.clock.now() >= until => return Ok((Answer::Unanswered, row)),
                None => {}
            }
            let next = self.connection.clock.now() + LOOK_EVERY;
            self.connection.clock.sleep_until(next).await;
            let Some(now) = self.store.read(&row.key).await? else {
                return Ok((Answer::Unowned, row));
            };
            row = now;
        }
    }
}

/// The author: named, or the user of this host.
fn author(options: &OrderOptions) -> Result<OrderAuthor, Failure> {
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
    options: &ShardOrderOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    shard_orders(connection, common, options, &LeaseOrder::Resume, printer).await
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
    let order = LeaseOrder::Pin(options.to.clone());
    shard_orders(connection, common, &options.shards, &order, printer).await
}

/// `kcl skip`: the record at which a shard is held, and no other.
pub(crate) async fn skip(
    connection: &Connection,
    common: &CommonOptions,
    options: &SkipOptions,
    printer: Printer,
) -> Result<Exit, Failure> {
    let operator = Operator::open(connection, common, &options.order).await?;
    let scan = operator.store.scan().await?;
    let named = |lease: &&Lease| lease.key.as_str() == options.shard || lease.shard.as_str() == options.shard;
    let Some(lease) = scan.leases.iter().find(named) else {
        return Err(Failure::new(
            Exit::NotFound,
            format!("there is no lease {}", options.shard),
        ));
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
    let keys = vec![lease.key.clone()];
    give_all(&operator, keys, &LeaseOrder::Skip(record), printer).await
}

fn record_position(text: &str) -> Result<RecordPosition, Failure> {
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
    let operator = Operator::open(connection, common, &options.order).await?;
    let scan = operator.store.scan().await?;
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
    let mut keys: Vec<LeaseKey> = scan
        .leases
        .iter()
        .filter(is_chosen)
        .map(|lease| lease.key.clone())
        .collect();
    keys.sort();
    if keys.is_empty() {
        return Err(Failure::new(Exit::NotFound, "no lease that is not ended matches"));
    }
    give_all(&operator, keys, order, printer).await
}

async fn give_all(
    operator: &Operator<'_>,
    keys: Vec<LeaseKey>,
    order: &LeaseOrder,
    printer: Printer,
) -> Result<Exit, Failure> {
    let until = operator.connection.clock.now() + operator.options.wait;
    let mut given = Vec::new();
    for key in keys {
        match operator.options.dry_run {
            true => given.push((key, None)),
            false => {
                let row = operator.give(&key, order).await?;
                given.push((key, Some(row)));
            }
        }
    }
    let mut results = Vec::new();
    for (key, row) in given {
        let (answer, row) = match row {
            None => (Answer::Planned, None),
            Some(row) => {
                let revision = row.orders_revision();
                let (answer, row) = operator.answer(row, revision, until).await?;
                (answer, Some(row))
            }
        };
        results.push(OrderResult {
            subject: key.to_string(),
            order: order.to_string(),
            revision: row.as_ref().map_or(0, Lease::orders_revision),
            owner: row
                .as_ref()
                .and_then(Lease::actual_owner)
                .map(ToString::to_string),
            answer,
            refusal: row.and_then(|row| row.answer).and_then(|answer| answer.refused),
        });
    }
    show(&results, printer)
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
    let operator = Operator::open(connection, common, &options.order).await?;
    let until = connection.clock.now() + options.order.wait;
    let revision = match options.order.dry_run {
        true => {
            operator.worker_orders(&options.worker).await?;
            None
        }
        false => Some(operator.give_worker(&options.worker, order).await?),
    };
    let answer = match (revision, order) {
        (None, _) => Answer::Planned,
        (Some(_), WorkerOrder::Drain) => operator.until_empty(&options.worker, until).await?,
        // The leader plans by it from now on; there is nothing to be answered.
        (Some(_), WorkerOrder::Exclude | WorkerOrder::Include) => Answer::Obeyed,
    };
    let result = OrderResult {
        subject: options.worker.to_string(),
        order: order_word(order).to_owned(),
        revision: revision.unwrap_or(0),
        owner: None,
        answer,
        refusal: None,
    };
    show(&[result], printer)
}

fn order_word(order: WorkerOrder) -> &'static str {
    match order {
        WorkerOrder::Exclude => "exclude",
        WorkerOrder::Drain => "drain",
        WorkerOrder::Include => "include",
    }
}

impl Operator<'_> {
    async fn worker_orders(&self, worker: &WorkerId) -> Result<WorkerOrders, Failure> {
        let scan = self.store.scan().await?;
        let row = scan.workers.into_iter().find(|row| row.id == *worker);
        let row = row.ok_or_else(|| {
            Failure::new(
                Exit::NotFound,
                format!("worker {worker} has no row: see `kcl workers`"),
            )
        })?;
        if row.incarnation.is_none() {
            let message = format!("worker {worker} is one of the Java KCL, which obeys no orders");
            return Err(Failure::new(Exit::NotFound, message));
        }
        Ok(row.orders.map(|orders| *orders).unwrap_or_default())
    }

    /// Writes an order about a worker. Returns its revision.
    async fn give_worker(&self, worker: &WorkerId, order: WorkerOrder) -> Result<u64, Failure> {
        for _ in 0..ATTEMPTS {
            let known = self.worker_orders(worker).await?;
            let orders = known.with(order, &self.author, self.connection.now());
            let revision = orders.revision;
            let change = WorkerChange::Order {
                id: worker.clone(),
                seen: known.revision,
                orders: Box::new(orders),
            };
            match self.store.change_worker(&change).await {
                Ok(WorkerOutcome::Applied) => return Ok(revision),
                Ok(WorkerOutcome::Refused) => {}
                Err(error) if error.certainty() == Certainty::Definite => return Err(error.into()),
                Err(error) => {
                    if self.worker_orders(worker).await?.revision != revision {
                        return Err(error.into());
                    }
                    return Ok(revision);
                }
            }
        }
        let message = format!("other operators order worker {worker} at the same time: try again");
        Err(Failure::new(Exit::NoAnswer, message))
    }

    /// Waits until the worker has no lease that is not ended.
    async fn until_empty(&self, worker: &WorkerId, until: Moment) -> Result<Answer, Failure> {
        loop {
            let scan = self.store.scan().await?;
            let owned = scan
                .leases
                .iter()
                .filter(|lease| !lease.is_ended() && lease.actual_owner() == Some(worker));
            if owned.count() == 0 {
                return Ok(Answer::Obeyed);
            }
            let next = self.connection.clock.now() + LOOK_EVERY;
            if next > until {
                return Ok(Answer::Unanswered);
            }
            self.connection.clock.sleep_until(next).await;
        }
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
    fn record_is_named_with_its_index() {
        let plain = record_position("42").unwrap();
        assert_eq!((plain.to_string().as_str(), plain.sub_sequence), ("42", 0));
        assert_eq!(record_position("42/3").unwrap().to_string(), "42/3");
        assert!(record_position("x").is_err() && record_position("4/x").is_err());
    }
}
